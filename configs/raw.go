package configs

import "reflect"

// The raw structs are the file as it is written. Their tags are the only
// place where a key's name, default and limits stand:
//
//	mapstructure  the key
//	default       the value of a key that is not given, as one would write it
//	need          the key must be given, and what for
//	oneof         the words that are allowed
//	min, max      the limits of a number, duration or size, inclusive
//
// A list without default is empty, a struct consists of its own defaults.
type rawConfig struct {
	Node       rawNode     `mapstructure:"node"`
	Cluster    *rawCluster `mapstructure:"cluster"`
	VirtualIPs []rawVIP    `mapstructure:"virtual_ips"`
	Gate       GateMode    `mapstructure:"gate" default:"required" oneof:"required off"`
	Admin      rawAdmin    `mapstructure:"admin"`
	Drain      duration    `mapstructure:"drain" default:"30s" min:"0s"`
	Log        rawLog      `mapstructure:"log"`
}

var rawType = reflect.TypeFor[rawConfig]()

// Paths are absolute: a daemon's working directory is nobody's choice.
type rawNode struct {
	Name     name    `mapstructure:"name" need:"a name for this node, such as name: g1"`
	Role     Role    `mapstructure:"role" default:"gateway" oneof:"gateway witness"`
	RunDir   absPath `mapstructure:"run_dir" default:"/run/sttcp"`
	StateDir absPath `mapstructure:"state_dir" default:"/var/lib/sttcp"`
	BPFDir   absPath `mapstructure:"bpf_dir" default:"/sys/fs/bpf/sttcp"`
}

// The addresses of a cluster default to every address of the host, so that
// one file can serve all nodes.
type rawCluster struct {
	Gossip     addrPort     `mapstructure:"gossip" default:"0.0.0.0:7946"`
	Link       addrPort     `mapstructure:"link" default:"0.0.0.0:7947"`
	Join       []peer       `mapstructure:"join"`
	Voters     []name       `mapstructure:"voters" need:"the names of the nodes that vote, such as [g1, g2, w1]"`
	SecretFile absPath      `mapstructure:"secret_file" need:"the path of a file with the secret that all nodes share"`
	Timing     rawTiming    `mapstructure:"timing" default:"lan"`
	TLS        rawTLS       `mapstructure:"tls"`
	Fence      rawFence     `mapstructure:"fence"`
	Isolation  rawIsolation `mapstructure:"isolation"`
}

// rawTiming is given by one of the names of timings or as a map; the map has
// no defaults, since half of one preset and half of another is no timing.
type rawTiming struct {
	Heartbeat duration `mapstructure:"heartbeat" min:"1ms" need:"how often to renew, such as 200ms"`
	Lease     duration `mapstructure:"lease" min:"1ms" need:"how long a lease lasts, such as 1s"`
}

// timings are the names that may stand for a timing.
var timings = map[string]map[string]any{
	"fast": {"heartbeat": "50ms", "lease": "250ms"},
	"lan":  {"heartbeat": "200ms", "lease": "1s"},
	"wan":  {"heartbeat": "1s", "lease": "5s"},
}

// rawTLS is all empty, or all given.
type rawTLS struct {
	CA   absPath `mapstructure:"ca" default:""`
	Cert absPath `mapstructure:"cert" default:""`
	Key  absPath `mapstructure:"key" default:""`
}

// rawFence does nothing without a command.
type rawFence struct {
	Command []string `mapstructure:"command"`
	Timeout duration `mapstructure:"timeout" default:"5s" min:"1ms"`
}

// rawIsolation matters where no majority is left: with two voters, always
// when one of them dies.
type rawIsolation struct {
	Neighbours      []address `mapstructure:"neighbours"`
	WithoutMajority string    `mapstructure:"without_majority" default:"neighbours" oneof:"neighbours fence"`
}

// rawVIP has names as values, never as keys: viper would change their case.
type rawVIP struct {
	Name      name         `mapstructure:"name" need:"a name for the virtual IP, such as name: front"`
	Addresses []rawAddress `mapstructure:"addresses" need:"at least one, such as - {address: 10.9.0.100/24, interface: eth0}"`
	Prefer    []name       `mapstructure:"prefer"`
	Preempt   bool         `mapstructure:"preempt" default:"false"`
	Services  []rawService `mapstructure:"services" need:"at least one service with name, ports and servers"`
}

// rawAddress needs its interface: guessing it from the routes would pick
// another one after a change of the network, without a word.
type rawAddress struct {
	Address   vipPrefix `mapstructure:"address" need:"the virtual address, such as 10.9.0.100/24"`
	Interface ifName    `mapstructure:"interface" need:"the network interface that it lies on, such as eth0"`
}

// rawService is where the contract is long. Every limit that needs only one
// key is a tag, every rule about several is in rules_service.go.
type rawService struct {
	Name          name          `mapstructure:"name" need:"a name for the service, such as name: web"`
	Listen        listen        `mapstructure:"listen" default:"vip"`
	Ports         []portRange   `mapstructure:"ports" need:"at least one port, such as [80, 8000-8010]"`
	Servers       []rawServer   `mapstructure:"servers" need:"at least one, such as - {name: s1, address: 10.9.0.11}"`
	Legs          int           `mapstructure:"legs" default:"2" min:"1" max:"2"`
	Stateful      bool          `mapstructure:"stateful" default:"true"`
	Rejoin        Rejoin        `mapstructure:"rejoin" default:"manual" oneof:"manual auto"`
	Balance       Balance       `mapstructure:"balance" default:"roundrobin" oneof:"roundrobin leastconn source"`
	Release       Release       `mapstructure:"release" default:"both" oneof:"both primary"` // with legs: 1 primary, see complete
	Compare       rawCompare    `mapstructure:"compare"`
	OnDivergence  OnDivergence  `mapstructure:"on_divergence" default:"mute" oneof:"mute eject reset"`
	Source        Source        `mapstructure:"source" default:"vip" oneof:"vip client"`
	ProxyProtocol ProxyProtocol `mapstructure:"proxy_protocol" default:"none" oneof:"none v1 v2"`
	Lag           rawLag        `mapstructure:"lag"`
	Buffer        size          `mapstructure:"buffer" default:"256KiB" min:"4KiB" max:"16MiB"`
	FinDelay      duration      `mapstructure:"fin_delay" default:"500ms" min:"0s"`
	MaxConn       int           `mapstructure:"maxconn" default:"5000" min:"1"`
	MaxHalfOpen   int           `mapstructure:"maxhalfopen" default:"1000" min:"1"`
	Timeout       rawTimeout    `mapstructure:"timeout"`
	Health        rawHealth     `mapstructure:"health"`
}

// rawServer has no default for its port: without one it is the client's.
type rawServer struct {
	Name    name    `mapstructure:"name" need:"a name for the server, such as name: s1"`
	Address address `mapstructure:"address" need:"the server's IP address"`
	Port    int     `mapstructure:"port" min:"1" max:"65535"`
}

// rawCompare has no mask by default: what may differ is the operator's word,
// never ours.
type rawCompare struct {
	Mode   CompareMode `mapstructure:"mode" default:"exact" oneof:"exact length off"`
	Mask   []mask      `mapstructure:"mask"`
	Report bool        `mapstructure:"report" default:"true"`
}

// rawLag counts from the last progress of a leg that owes.
type rawLag struct {
	Suspect duration `mapstructure:"suspect" default:"250ms" min:"1ms"`
	Limit   duration `mapstructure:"limit" default:"2s" min:"1ms"`
}

// rawTimeout has no "never": a connection that nobody uses any more, and whose
// client is gone without a word, would be kept for good.
type rawTimeout struct {
	Connect duration `mapstructure:"connect" default:"1s" min:"1ms"`
	Idle    duration `mapstructure:"idle" default:"2h" min:"1ms"`
}

// rawHealth may have a timeout longer than its interval: checks of one server
// do not overlap, the next one just comes later.
type rawHealth struct {
	Interval duration `mapstructure:"interval" default:"250ms" min:"1ms"`
	Timeout  duration `mapstructure:"timeout" default:"200ms" min:"1ms"`
	Rise     int      `mapstructure:"rise" default:"2" min:"1"`
	Fall     int      `mapstructure:"fall" default:"2" min:"1"`
	Send     string   `mapstructure:"send" default:""`
	Expect   expect   `mapstructure:"expect" default:""`
}

// rawAdmin serves metrics on loopback unless told otherwise.
type rawAdmin struct {
	Listen    adminListen `mapstructure:"listen" default:"admin.sock"`
	TokenFile absPath     `mapstructure:"token_file" default:""`
	Metrics   hostPort    `mapstructure:"metrics" default:"127.0.0.1:9780"`
}

// rawLog has the levels of log/slog.
type rawLog struct {
	Level  string    `mapstructure:"level" default:"info" oneof:"debug info warn error"`
	Format LogFormat `mapstructure:"format" default:"text" oneof:"text json"`
}
