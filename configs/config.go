// Package configs loads and validates the YAML configuration of an ST-TCP
// gateway (docs/ARCHITECTURE.md, section 8).
//
// A Config is built once by Load, is complete (every default filled in) and
// is never changed afterwards, so it may be read from any goroutine.
package configs

import (
	"net/netip"
	"regexp"
	"time"
)

// Config is the whole configuration of one node.
type Config struct {
	Node       Node
	Cluster    *Cluster // nil: a node alone, which is a whole gateway
	VirtualIPs []VirtualIP
	Gate       GateMode
	Admin      Admin
	Drain      time.Duration // how long a clean stop waits for connections to end; >= 0
	Log        Log

	// Ineffective lists, in the order of the file, the keys that were set but
	// whose feature this version does not have yet.
	Ineffective []string

	// Warnings are sentences for the operator about what is allowed but does
	// not give all that it may seem to; `check` and `run` print them.
	Warnings []string
}

// Role is what a node does in its cluster.
type Role string

// The roles of a node.
const (
	RoleGateway Role = "gateway"
	RoleWitness Role = "witness" // votes and nothing else
)

// Node is this machine.
type Node struct {
	Name     string // unique in the cluster
	Role     Role
	RunDir   string // records, admin socket, lock: does not survive a reboot
	StateDir string // what must survive power loss: stale servers
	BPFDir   string // pins of the gate
}

// Cluster is the other nodes and how to agree with them.
type Cluster struct {
	Gossip     netip.AddrPort
	Link       netip.AddrPort
	Join       []string
	Voters     []string
	SecretFile string
	Timing     Timing
	TLS        TLS
	Fence      Fence
	Isolation  Isolation
}

// Timing is how fast a failure of a node is noticed. Heartbeat < Lease.
type Timing struct {
	Heartbeat time.Duration
	Lease     time.Duration
}

// TLS names the files of the link's certificates; all empty means that they
// are derived from the secret.
type TLS struct{ CA, Cert, Key string }

// Fence is an optional power switch.
type Fence struct {
	Command []string
	Timeout time.Duration
}

// Isolation says how a node finds out that it is cut off.
type Isolation struct {
	Neighbours      []netip.Addr
	WithoutMajority string // "neighbours" or "fence"
}

// VirtualIP is a set of addresses on interfaces that move together.
type VirtualIP struct {
	Name      string
	Addresses []VIPAddress
	Prefer    []string
	Preempt   bool
	Services  []Service
}

// VIPAddress is one address of a virtual IP. On the host it is always a
// single address (/32 or /128), whatever prefix length the file gives.
type VIPAddress struct {
	Prefix    netip.Prefix
	Interface string
}

// Release says when a response byte may leave to the client.
type Release string

// The release policies.
const (
	ReleaseBoth    Release = "both"    // when both legs have produced it, equal
	ReleasePrimary Release = "primary" // as the primary produces it
)

// CompareMode says how the answers of two legs are compared.
type CompareMode string

// The compare modes.
const (
	CompareExact  CompareMode = "exact"
	CompareLength CompareMode = "length"
	CompareOff    CompareMode = "off"
)

// OnDivergence says what happens at the first difference of two answers.
type OnDivergence string

// What may happen on divergence.
const (
	DivergeMute  OnDivergence = "mute"  // the backup leg has no voice any more
	DivergeEject OnDivergence = "eject" // the backup's server is ejected
	DivergeReset OnDivergence = "reset" // the connection is reset
)

// Rejoin says how a server that was down comes back.
type Rejoin string

// The ways to rejoin.
const (
	RejoinManual Rejoin = "manual"
	RejoinAuto   Rejoin = "auto" // only with Stateful false
)

// Balance says how primary and backup are chosen per connection.
type Balance string

// The balance algorithms, as in HAProxy.
const (
	BalanceRoundRobin Balance = "roundrobin"
	BalanceLeastConn  Balance = "leastconn"
	BalanceSource     Balance = "source" // hash of the client's address
)

// Source says whose address a server sees.
type Source string

// The sources of a leg.
const (
	SourceVIP    Source = "vip"
	SourceClient Source = "client" // the client's own address and port
)

// ProxyProtocol is the version of the PROXY header sent to servers.
type ProxyProtocol string

// The PROXY protocol versions.
const (
	ProxyNone ProxyProtocol = "none"
	ProxyV1   ProxyProtocol = "v1"
	ProxyV2   ProxyProtocol = "v2"
)

// GateMode says whether the kernel gate is used.
type GateMode string

// The gate modes.
const (
	GateRequired GateMode = "required"
	GateOff      GateMode = "off" // no protection from gateway death
)

// Service is one set of ports of a virtual IP (or of a routed address) and
// the servers behind it.
type Service struct {
	Name          string
	ListenVIP     bool        // every address of the virtual IP
	ListenAddr    netip.Addr  // valid if !ListenVIP: a routed address
	Ports         []PortRange // at least one; ranges do not overlap
	Servers       []Server    // at least one
	Legs          int         // 1 or 2
	Stateful      bool        // needs len(Servers) == Legs
	Rejoin        Rejoin
	Balance       Balance
	Release       Release
	Compare       Compare
	OnDivergence  OnDivergence
	Source        Source
	ProxyProtocol ProxyProtocol
	Lag           Lag
	Buffer        int // bytes per direction and leg
	FinDelay      time.Duration
	MaxConn       int
	MaxHalfOpen   int
	Timeout       Timeout
	Health        Health
}

// PortRange is an inclusive range of TCP ports, 1 <= First <= Last <= 65535.
type PortRange struct{ First, Last uint16 }

// Contains reports whether port p lies in the range.
func (r PortRange) Contains(p uint16) bool { return r.First <= p && p <= r.Last }

// Server is one unmodified server.
type Server struct {
	Name    string
	Address netip.Addr
	Port    uint16 // 0: the port that the client connected to
}

// Compare says how two answers are compared. Log64 of a divergence shows at
// most 64 bytes of both answers unless it is switched off.
type Compare struct {
	Mode   CompareMode
	Mask   []*regexp.Regexp // blanked on both sides of a line before comparing
	Report bool             // log up to 64 bytes of both answers at a divergence
}

// Lag is how long a leg may owe without progress.
type Lag struct {
	Suspect time.Duration // then its server's health is probed at once
	Limit   time.Duration // then the leg is dropped
}

// Timeout are the time-outs of a connection.
type Timeout struct {
	Connect time.Duration // of a leg
	Idle    time.Duration // without a byte in either direction
}

// Health is how a server is checked. With Send and Expect empty a completed
// TCP handshake is enough.
type Health struct {
	Interval, Timeout time.Duration
	Rise, Fall        int
	Send              string
	Expect            *regexp.Regexp // nil: nothing is read
}

// Admin is where the operator's commands and the metrics are served.
type Admin struct {
	Listen    string // a path (under RunDir if relative) or host:port
	TokenFile string // required for host:port
	Metrics   string // host:port, or empty
}

// LogFormat is the format of the log.
type LogFormat string

// The log formats.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)

// Log says what is logged and how. Level is debug, info, warn or error.
type Log struct {
	Level  string
	Format LogFormat
}
