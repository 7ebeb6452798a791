package configs

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

func parse(t *testing.T, text string) *Config {
	t.Helper()
	c, err := Parse("f.yaml", []byte(text), Env{})
	if err != nil {
		t.Fatalf("%v\nin\n%s", err, text)
	}
	return c
}

// service gives the only service of base with some lines more.
func service(t *testing.T, lines ...string) Service {
	t.Helper()
	return parse(t, svcWith(lines...)).VirtualIPs[0].Services[0]
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%s:\n got %+v\nwant %+v", what, got, want)
	}
}

var addr = netip.MustParseAddr

// defaultService is section 8 of the architecture, word for word.
var defaultService = Service{
	Name: "web", ListenVIP: true, Ports: []PortRange{{80, 80}},
	Servers: []Server{{Name: "s1", Address: addr("10.9.0.11")}, {Name: "s2", Address: addr("10.9.0.12")}},
	Legs:    2, Stateful: true, Rejoin: RejoinManual, Balance: BalanceRoundRobin, Release: ReleaseBoth,
	Compare: Compare{Mode: CompareExact, Report: true}, OnDivergence: DivergeMute,
	Source: SourceVIP, ProxyProtocol: ProxyNone,
	Lag:    Lag{Suspect: 250 * time.Millisecond, Limit: 2 * time.Second},
	Buffer: 256 << 10, FinDelay: 500 * time.Millisecond, MaxConn: 5000, MaxHalfOpen: 1000,
	Timeout: Timeout{Connect: time.Second, Idle: 2 * time.Hour},
	Health:  Health{Interval: 250 * time.Millisecond, Timeout: 200 * time.Millisecond, Rise: 2, Fall: 2},
}

func TestDefaults(t *testing.T) {
	want := &Config{
		Node: Node{Name: "g1", Role: RoleGateway, RunDir: "/run/sttcp", StateDir: "/var/lib/sttcp", BPFDir: "/sys/fs/bpf/sttcp"},
		VirtualIPs: []VirtualIP{{
			Name:      "front",
			Addresses: []VIPAddress{{Prefix: netip.MustParsePrefix("10.9.0.100/24"), Interface: "eth0"}},
			Services:  []Service{defaultService},
		}},
		Gate: GateRequired, Drain: 30 * time.Second,
		Admin:    Admin{Listen: "admin.sock", Metrics: "127.0.0.1:9780"},
		Log:      Log{Level: "info", Format: LogText},
		Warnings: []string{"service web: " + sharedState},
	}
	equal(t, "the smallest file", parse(t, base), want)
	equal(t, "the defaults written as empty maps", parse(t, svcWith("lag: {}", "health: {}", "timeout: {}", "compare: {}")+
		"admin: {}\nlog: {}\n"), want)
}

func TestDefaultsOfACluster(t *testing.T) {
	want := &Cluster{
		Gossip: netip.MustParseAddrPort("0.0.0.0:7946"), Link: netip.MustParseAddrPort("0.0.0.0:7947"),
		Voters: []string{"g1", "g2", "w1"}, SecretFile: "/k",
		Timing:    Timing{Heartbeat: 200 * time.Millisecond, Lease: time.Second},
		Fence:     Fence{Timeout: 5 * time.Second},
		Isolation: Isolation{WithoutMajority: "neighbours"},
	}
	equal(t, "cluster", parse(t, top(clust)).Cluster, want)
}

func TestEveryKeyIsTaken(t *testing.T) {
	got := service(t, `listen: "fd00::5"`, "legs: 1", "stateful: false", "rejoin: auto", "balance: source",
		"compare: {mode: exact, mask: ['^a', b], report: false}", "on_divergence: reset", "proxy_protocol: v2",
		"lag: {suspect: 1ms, limit: 2ms}", "buffer: 1MiB", "fin_delay: 0s", "maxconn: 1", "maxhalfopen: 0x10",
		"timeout: {connect: 3s, idle: 1h30m}",
		`health: {interval: 1m, timeout: 5s, rise: 3, fall: 4, send: "PING\r\n", expect: '^\+PONG'}`)
	want := defaultService
	want.ListenVIP, want.ListenAddr = false, addr("fd00::5")
	want.Legs, want.Stateful, want.Rejoin, want.Balance = 1, false, RejoinAuto, BalanceSource
	want.Release = ReleasePrimary
	want.Compare = Compare{Mode: CompareExact, Mask: []*regexp.Regexp{regexp.MustCompile("^a"), regexp.MustCompile("b")}}
	want.OnDivergence, want.ProxyProtocol = DivergeReset, ProxyV2
	want.Lag = Lag{Suspect: time.Millisecond, Limit: 2 * time.Millisecond}
	want.Buffer, want.FinDelay, want.MaxConn, want.MaxHalfOpen = 1<<20, 0, 1, 16
	want.Timeout = Timeout{Connect: 3 * time.Second, Idle: 90 * time.Minute}
	want.Health = Health{
		Interval: time.Minute, Timeout: 5 * time.Second, Rise: 3, Fall: 4,
		Send: "PING\r\n", Expect: regexp.MustCompile(`^\+PONG`),
	}
	equal(t, "service", got, want)
}

func TestEveryKeyOfTheClusterIsTaken(t *testing.T) {
	got := parse(t, top(`cluster:
  gossip: "[fd00::1]:1"
  link: 10.9.0.1:2
  join: [g2.example:3, "[fd00::2]:4"]
  voters: [g1, W-1.x_y]
  secret_file: /etc/../k
  timing: {heartbeat: 10ms, lease: 100ms}
  tls: {ca: /ca, cert: /cert, key: /key}
  fence: {command: [/bin/fence, --now], timeout: 9s}
  isolation: {neighbours: [10.9.0.254, "fd00::fe"], without_majority: fence}`)).Cluster
	equal(t, "cluster", got, &Cluster{
		Gossip: netip.MustParseAddrPort("[fd00::1]:1"), Link: netip.MustParseAddrPort("10.9.0.1:2"),
		Join: []string{"g2.example:3", "[fd00::2]:4"}, Voters: []string{"g1", "W-1.x_y"}, SecretFile: "/k",
		Timing:    Timing{Heartbeat: 10 * time.Millisecond, Lease: 100 * time.Millisecond},
		TLS:       TLS{CA: "/ca", Cert: "/cert", Key: "/key"},
		Fence:     Fence{Command: []string{"/bin/fence", "--now"}, Timeout: 9 * time.Second},
		Isolation: Isolation{Neighbours: []netip.Addr{addr("10.9.0.254"), addr("fd00::fe")}, WithoutMajority: "fence"},
	})
}

func TestTimings(t *testing.T) {
	for name, want := range map[string]Timing{
		"fast": {50 * time.Millisecond, 250 * time.Millisecond},
		"lan":  {200 * time.Millisecond, time.Second},
		"wan":  {time.Second, 5 * time.Second},
	} {
		// At once: the presets are shared, and viper writes to what it is given.
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				c, err := Parse("f.yaml", []byte(top(strings.Replace(clust, "}", ", timing: "+name+"}", 1))), Env{})
				if err != nil || c.Cluster.Timing != want {
					t.Errorf("%s: %v, want %v", name, err, want)
				}
			})
		}
		wg.Wait()
	}
}

func TestReleaseDefault(t *testing.T) {
	equal(t, "one leg", service(t, "legs: 1", "stateful: false").Release, ReleasePrimary)
	equal(t, "two legs", service(t, "legs: 2").Release, ReleaseBoth)
	equal(t, "two legs, primary", service(t, "release: primary").Release, ReleasePrimary)
	equal(t, "one leg, primary", service(t, "legs: 1", "stateful: false", "release: primary").Release, ReleasePrimary)
}

func TestNamesKeepTheirCase(t *testing.T) {
	in := strings.NewReplacer("g1", "Gate.One", "front", "FRONT", "web", "Web_1", "s1", "DB-A", "s2", "db-a", "eth0", "Wan0").Replace(base)
	c := parse(t, in)
	v := c.VirtualIPs[0]
	s := v.Services[0]
	got := []string{c.Node.Name, v.Name, v.Addresses[0].Interface, s.Name, s.Servers[0].Name, s.Servers[1].Name}
	equal(t, "names", got, []string{"Gate.One", "FRONT", "Wan0", "Web_1", "DB-A", "db-a"})
}

func TestPorts(t *testing.T) {
	in := sub("[80]", `[1, 65535, "80", 8000-8010, 8011-8011, 0080-0081]`)
	if _, err := Parse("f.yaml", []byte(in), Env{}); err == nil || !strings.Contains(err.Error(), "80-81 overlaps 80") {
		t.Errorf("0080-0081 is 80-81: %v", err)
	}
	c := parse(t, strings.Replace(in, ", 0080-0081", "", 1))
	equal(t, "ports", c.VirtualIPs[0].Services[0].Ports,
		[]PortRange{{1, 1}, {65535, 65535}, {80, 80}, {8000, 8010}, {8011, 8011}})
}

func TestEveryPort(t *testing.T) {
	s := parse(t, sub("[80]", "[1-65535]")).VirtualIPs[0].Services[0]
	equal(t, "ports", s.Ports, []PortRange{{1, 65535}})
	equal(t, "words", []string{s.Ports[0].String(), PortRange{80, 80}.String()}, []string{"1-65535", "80"})
	if !s.Ports[0].Contains(1) || !s.Ports[0].Contains(65535) || (PortRange{80, 90}).Contains(91) {
		t.Error("Contains: want both ends and nothing beyond")
	}
}

// TestSamePortElsewhere has one port on a virtual IP, on another one and on
// two routed addresses.
func TestSamePortElsewhere(t *testing.T) {
	parse(t, base+`      - {name: old1, listen: 10.8.0.1, ports: [80], `+two+`}
      - {name: old2, listen: 10.8.0.2, ports: [80], `+two+`}
  - name: back
    addresses: [{address: 10.9.0.101, interface: eth0}]
    services:
      - {name: web2, ports: [80], `+two+`}
`)
}

func TestOneHostTwoServers(t *testing.T) {
	parse(t, sub("10.9.0.11}, {name: s2, address: 10.9.0.12}", "10.9.0.11, port: 81}, {name: s2, address: 10.9.0.11, port: 82}"))
	// 80 is what clients connect to, so the first is 10.9.0.11:80 and never 81.
	parse(t, sub("10.9.0.12", "10.9.0.11, port: 81"))
}

func TestIPv6(t *testing.T) {
	v6 := strings.NewReplacer("10.9.0.100/24", "fd00::100/64", "10.9.0.11", `"fd00::b"`, "10.9.0.12", `"fd00::c"`).Replace
	for _, in := range []string{base, svcWith("source: client"), svcWith(`listen: "2001:db8::1"`)} {
		v := parse(t, v6(in)).VirtualIPs[0]
		equal(t, "address", v.Addresses[0].Prefix, netip.MustParsePrefix("fd00::100/64"))
		equal(t, "server", v.Services[0].Servers[0].Address, addr("fd00::b"))
	}
}

func TestAddressWithoutPrefix(t *testing.T) {
	for in, want := range map[string]string{
		"10.9.0.100": "10.9.0.100/32", "fd00::100": "fd00::100/128", "10.9.0.100/32": "10.9.0.100/32",
		"10.9.0.100/31": "10.9.0.100/31", "10.9.0.255/16": "10.9.0.255/16",
	} {
		text := strings.NewReplacer("10.9.0.100/24", in).Replace(base)
		c, err := Parse("f.yaml", []byte(text), Env{})
		if c == nil { // the servers stay IPv4
			c = parse(t, strings.NewReplacer("10.9.0.11", "fd00:0::b", "10.9.0.12", "fd00:0::c").Replace(text))
		} else if err != nil {
			t.Error(err)
		}
		equal(t, in, c.VirtualIPs[0].Addresses[0].Prefix, netip.MustParsePrefix(want))
	}
}

// TestBothFamilies mixes the families of servers, which source: vip allows as
// long as the virtual IP has an address of each.
func TestBothFamilies(t *testing.T) {
	in := sub("[{address: 10.9.0.100/24, interface: eth0}]",
		"[{address: 10.9.0.100/24, interface: eth0}, {address: 'fd00::100/64', interface: eth1}]")
	c := parse(t, strings.Replace(in, "10.9.0.12", "'fd00::12'", 1))
	equal(t, "interface", c.VirtualIPs[0].Addresses[1].Interface, "eth1")
	_, err := Parse("f.yaml", []byte(in+"        source: client\n"), Env{})
	if err == nil || strings.Count(err.Error(), "cannot pass on the IPv6 clients of fd00::100") != 2 {
		t.Errorf("source: client with both families: %v", err)
	}
}

func TestProxyProtocolWithClientSource(t *testing.T) {
	equal(t, "version", service(t, "source: client", "proxy_protocol: v1").ProxyProtocol, ProxyV1)
}

func TestAliasesAndMerges(t *testing.T) {
	c := parse(t, svcWith("lag: &l {suspect: 10ms, limit: 20ms}", "timeout: &t {connect: 5s}")+
		"      - {name: b, ports: [81], lag: *l, timeout: {<<: *t, idle: 1h}, "+two+"}\n"+
		"      - {name: c, ports: [82], timeout: {connect: 6s, <<: [*t, {idle: 3h}]}, "+two+"}\n")
	d := parse(t, svcWith("timeout: &t {connect: 5s}", "health: {interval: 1s}")+
		"      - {name: b, ports: [81], timeout: &u {<<: *t, idle: 1h}, "+two+"}\n"+
		"      - {name: c, ports: [82], timeout: {<<: *u}, "+two+"}\n")
	equal(t, "merge of a merge", d.VirtualIPs[0].Services[2].Timeout, Timeout{Connect: 5 * time.Second, Idle: time.Hour})
	s := c.VirtualIPs[0].Services
	equal(t, "alias", s[1].Lag, Lag{Suspect: 10 * time.Millisecond, Limit: 20 * time.Millisecond})
	equal(t, "merge", s[1].Timeout, Timeout{Connect: 5 * time.Second, Idle: time.Hour})
	equal(t, "own key wins", s[2].Timeout, Timeout{Connect: 6 * time.Second, Idle: 3 * time.Hour})
}

func TestWitness(t *testing.T) {
	c := parse(t, "node: {name: w1, role: witness}\n"+clust)
	if c.Node.Role != RoleWitness || len(c.VirtualIPs) != 0 {
		t.Errorf("got %+v", c)
	}
}

func TestAdminAddr(t *testing.T) {
	for listen, want := range map[string]string{
		"admin.sock": "unix /tmp/r/admin.sock", "/x/./y.sock": "unix /x/y.sock", "sub/a:1": "unix /tmp/r/sub/a:1",
		"127.0.0.1:9": "tcp 127.0.0.1:9", "':9'": "tcp :9", "'[::1]:9'": "tcp [::1]:9",
	} {
		c := parse(t, strings.Replace(base, "name: g1", "name: g1, run_dir: /tmp/r", 1)+
			"admin: {token_file: /t, listen: "+listen+"}\n")
		network, address := c.AdminAddr()
		equal(t, listen, network+" "+address, want)
	}
}

func TestIneffective(t *testing.T) {
	equal(t, "nothing set", parse(t, base).Ineffective, []string(nil))
	c := parse(t, `admin: {metrics: "", listen: a.sock}
gate: required
node: {name: w1, bpf_dir: /b, role: witness, run_dir: /r}
virtual_ips:
  - name: front
    preempt: false
    prefer: []
    addresses: [{address: 10.9.0.100/24, interface: eth0}]
    services:
      - {name: a, ports: [80], maxconn: 1, `+two+`}
      - {name: b, ports: [81], maxhalfopen: 1, `+two+`}
`+clust)
	equal(t, "in the file's order", c.Ineffective, []string{
		"admin.metrics", "gate", "node.bpf_dir", "node.role", "virtual_ips[0].preempt", "virtual_ips[0].prefer",
		"virtual_ips[0].services[1].maxhalfopen", "cluster",
	})
	equal(t, "values that have an effect", parse(t, strings.Replace(base, "g1", "g1, role: gateway", 1)+"gate: off\n").Ineffective,
		[]string(nil))
}

// TestLaterNamesKeys keeps the table free of rows that match nothing.
func TestLaterNamesKeys(t *testing.T) {
	known := map[string]bool{}
	for _, k := range schema(rawType, "") {
		known[k.path] = true
	}
	for _, row := range later {
		if !known[row.key] {
			t.Errorf("later has %s, which is no key", row.key)
		}
	}
}

func TestWarnings(t *testing.T) {
	equal(t, "stateless", parse(t, svcWith("stateful: false")).Warnings, []string(nil))
	got := parse(t, base).Warnings
	if len(got) != 1 || !strings.HasPrefix(got[0], "service web: shared state not verified: ") {
		t.Errorf("got %q", got)
	}
}

func TestLoadReadsTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "sttcp.yaml")
	if err := os.WriteFile(path, []byte(base+"drain: x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(path, Env{})
	if err == nil || !strings.HasPrefix(err.Error(), path+":9: drain: ") {
		t.Errorf("got %v", err)
	}
	if err := os.WriteFile(path, []byte("\ufeff"+strings.ReplaceAll(base, "\n", "\r\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path, Env{})
	if err != nil || c.Node.Name != "g1" {
		t.Errorf("a byte order mark and DOS line ends: %v", err)
	}
}

func TestHash(t *testing.T) {
	h := parse(t, base).Hash()
	if !regexp.MustCompile(`^[0-9a-f]{64}$`).MatchString(h) {
		t.Fatalf("hash %q", h)
	}
	same := []string{
		base, "# a comment\n" + base, strings.Replace(base, "g1", "g2, run_dir: /elsewhere", 1), sub("eth0", "ens3"),
		top("log: {level: debug}\nadmin: {metrics: ''}"), svcWith("legs: 2", "compare: {mask: []}"), top("gate: required"),
	}
	for _, in := range same {
		if got := parse(t, in).Hash(); got != h {
			t.Errorf("another hash for\n%s", in)
		}
	}
	differ := []string{
		sub("[80]", "[81]"), sub("10.9.0.12", "10.9.0.13"), sub("web", "Web"), sub("front", "f"), top("gate: off"),
		svcWith("compare: {mask: [a]}"), svcWith("compare: {mask: [b]}"), svcWith("health: {expect: a}"), svcWith("buffer: 4KiB"),
		top(clust), sub("10.9.0.100/24", "10.9.0.101/24"), top("drain: 1s"), svcWith("listen: 10.8.0.1"),
		sub("    services:", "    prefer: [g1]\n    services:"),
	}
	seen := map[string]string{h: base}
	for _, in := range differ {
		got := parse(t, in).Hash()
		if other, dup := seen[got]; dup {
			t.Errorf("one hash for\n%s\nand\n%s", in, other)
		}
		seen[got] = in
	}
}

// TestHashOfACluster has two nodes of one cluster, each with its own addresses.
func TestHashOfACluster(t *testing.T) {
	node := func(n int) string {
		own := fmt.Sprintf(", gossip: '10.9.0.%d:7946', link: '10.9.0.%d:7947', join: ['10.9.0.%d:7946']}", n, n, 3-n)
		return strings.Replace(base, "g1", fmt.Sprint("g", n), 1) + strings.Replace(clust, "}", own, 1)
	}
	c := parse(t, node(1))
	equal(t, "hash", c.Hash(), parse(t, node(2)).Hash())
	if c.Hash() == parse(t, node(1)[:len(node(1))-2]+", timing: wan}\n").Hash() {
		t.Error("the timing must be equal on all nodes")
	}
	equal(t, "Hash changes nothing", c, parse(t, node(1)))
}
