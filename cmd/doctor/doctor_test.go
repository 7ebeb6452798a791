package doctor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"sttcp/configs"
	"sttcp/proxy/intercept"
)

// example is a configuration with all that the checks look at.
func example(t *testing.T) *configs.Config {
	t.Helper()
	server := func(name, addr string) configs.Server {
		return configs.Server{Name: name, Address: netip.MustParseAddr(addr)}
	}
	return &configs.Config{
		Node:  configs.Node{Name: "g1", RunDir: filepath.Join(t.TempDir(), "run", "sttcp"), StateDir: t.TempDir()},
		Admin: configs.Admin{Listen: "admin.sock"},
		VirtualIPs: []configs.VirtualIP{{
			Name: "front",
			Addresses: []configs.VIPAddress{
				{Prefix: netip.MustParsePrefix("10.9.0.100/24"), Interface: "eth0"},
				{Prefix: netip.MustParsePrefix("fd09::100/64"), Interface: "eth0"},
			},
			Services: []configs.Service{{
				Name: "web", ListenVIP: true, Ports: []configs.PortRange{{First: 80, Last: 80}}, Legs: 2, MaxConn: 100,
				Servers: []configs.Server{server("s1", "10.9.0.11"), server("s2", "fd09::12")}, Source: configs.SourceVIP,
			}},
		}},
	}
}

func service(c *configs.Config) *configs.Service { return &c.VirtualIPs[0].Services[0] }

// in runs the test in a network namespace with eth0 up and connected, on a
// thread that is thrown away afterwards.
func in(t *testing.T, f func() error) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root to make a network namespace")
		}
		t.Skip("needs root to make a network namespace")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.New()
		if err == nil {
			defer ns.Close()
			pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer"}
			err = netlink.LinkAdd(pair)
		}
		if err == nil {
			err = ip("link set lo up", "link set peer up", "link set eth0 up",
				"addr add 10.9.0.1/24 dev eth0", "addr add fd09::1/64 dev eth0 nodad")
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func ip(commands ...string) error {
	for _, c := range commands {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, out)
		}
	}
	return nil
}

func write(key, value string) error {
	return os.WriteFile("/proc/sys/"+key, []byte(value), 0o644)
}

func report(cfg *configs.Config) (string, bool) {
	var out bytes.Buffer
	good := Run(context.Background(), cfg, &out)
	return out.String(), good
}

// expect wants a line with the level and the words.
func expect(t *testing.T, out, level string, words ...string) {
	t.Helper()
	for line := range strings.Lines(out) {
		rest, found := strings.CutPrefix(line, level)
		for _, w := range words {
			found = found && strings.Contains(rest, w)
		}
		if found {
			return
		}
	}
	t.Errorf("no %s line with all of %q in\n%s", level, words, out)
}

var lineForm = regexp.MustCompile(`^(ok   .+|(warn|FAIL) .+: .+)$`)

// A host that has everything is fine, with and without a configuration, and
// every line has its form. Nothing is left behind.
func TestGoodHost(t *testing.T) {
	in(t, func() error {
		for _, key := range []string{"all", "eth0"} {
			if err := write("net/ipv4/conf/"+key+"/arp_announce", "2"); err != nil {
				return err
			}
		}
		cfg := example(t)
		for _, c := range []*configs.Config{cfg, nil} {
			out, good := report(c)
			if !good || strings.Contains(out, "FAIL") {
				t.Errorf("not good:\n%s", out)
			}
			for line := range strings.Lines(out) {
				if !lineForm.MatchString(strings.TrimSuffix(line, "\n")) {
					t.Errorf("line %q has not the form", line)
				}
			}
		}
		out, _ := report(cfg)
		if strings.Contains(out, "warn") {
			t.Errorf("warnings:\n%s", out)
		}
		if left, err := os.ReadDir(cfg.Node.StateDir); err != nil || len(left) > 0 {
			t.Errorf("left in the state directory: %v, %v", left, err)
		}
		if _, err := os.Stat(cfg.Node.RunDir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the run directory was made: %v", err)
		}
		rules, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
		if len(rules) > 0 {
			t.Errorf("left in nftables:\n%s", rules)
		}
		return err
	})
}

// badHosts is what may be wrong with a real host, and the line that says so.
var badHosts = map[string]struct {
	harm func(*configs.Config) error
	want []string // level, words...
}{
	"rp_filter": {func(*configs.Config) error { return write("net/ipv4/conf/all/rp_filter", "1") },
		[]string{"warn", "rp_filter of eth0 is strict", "sysctl -w net/ipv4/conf/eth0/rp_filter=2"}},
	"src_valid_mark": {func(*configs.Config) error { return write("net/ipv4/conf/eth0/src_valid_mark", "1") },
		[]string{"FAIL", "src_valid_mark", "sysctl -w net/ipv4/conf/eth0/src_valid_mark=0"}},
	"arp_ignore": {func(*configs.Config) error { return write("net/ipv4/conf/all/arp_ignore", "1") },
		[]string{"FAIL", "arp_ignore", "sysctl -w net/ipv4/conf/all/arp_ignore=0"}},
	"arp_announce": {func(*configs.Config) error { return nil },
		[]string{"warn", "arp_announce of eth0 is 0", "all/arp_announce=2"}},
	"mark sysctls": {func(*configs.Config) error { return write("net/ipv4/tcp_fwmark_accept", "1") },
		[]string{"FAIL", "tcp_fwmark_accept", "sysctl -w net/ipv4/tcp_fwmark_accept=0"}},
	"interface down": {func(*configs.Config) error { return ip("link set eth0 down") },
		[]string{"FAIL", "interface eth0 is down", "ip link set eth0 up"}},
	"no carrier": {func(*configs.Config) error { return ip("link set peer down") },
		[]string{"warn", "interface eth0 has no carrier"}},
	"no interface": {func(c *configs.Config) error { c.VirtualIPs[0].Addresses[0].Interface = "eth7"; return nil },
		[]string{"FAIL", "eth7", "virtual_ips[].addresses[].interface"}},
	"IPv6 off": {func(*configs.Config) error { return write("net/ipv6/conf/eth0/disable_ipv6", "1") },
		[]string{"FAIL", "IPv6 is off on eth0", "sysctl -w net/ipv6/conf/eth0/disable_ipv6=0"}},
	"no route": {func(c *configs.Config) error {
		service(c).Servers[0].Address = netip.MustParseAddr("192.0.2.1")
		return nil
	}, []string{"FAIL", "server s1 of service web: no route to 192.0.2.1", "ip route add 192.0.2.1"}},
	"unreachable": {func(*configs.Config) error { return ip("route add unreachable 10.9.0.11") },
		[]string{"FAIL", "no route to 10.9.0.11"}},
	"foreign mark": {func(*configs.Config) error { return ip("rule add fwmark 0x2000/0xf000 lookup 7") },
		[]string{"warn", "fwmark 0x2000"}},
	"firewall": {func(*configs.Config) error {
		return exec.Command("nft", "add table ip fw; add chain ip fw in { type filter hook input priority 0; policy drop; }").Run()
	}, []string{"warn", "table fw, chain in", "ct state untracked"}},
	"routed service": {func(c *configs.Config) error {
		service(c).ListenVIP, service(c).ListenAddr = false, netip.MustParseAddr("10.9.0.11")
		return nil
	}, []string{"warn", "IPv4 forwarding is off", "service web with a routed address", "sysctl -w net/ipv4/ip_forward=1"}},
	"source: client": {func(c *configs.Config) error { service(c).Source = configs.SourceClient; return nil },
		[]string{"warn", "IPv6 forwarding is off", "source: client", "sysctl -w net/ipv6/conf/all/forwarding=1"}},
	"fwmark_reflect": {func(*configs.Config) error { return write("net/ipv6/fwmark_reflect", "1") },
		[]string{"FAIL", "fwmark_reflect", "sysctl -w net/ipv6/fwmark_reflect=0"}},
	"foreign mark of IPv6": {func(*configs.Config) error { return ip("-6 rule add fwmark 0x2001 lookup 7") },
		[]string{"warn", "fwmark 0x2001"}},
	"IPv6 firewall": {func(*configs.Config) error {
		return exec.Command("nft", "add table inet fw; add chain inet fw in { type filter hook input priority 5; policy drop; }").Run()
	}, []string{"warn", "table fw, chain in"}},
	"somaxconn": {func(*configs.Config) error { return write("net/core/somaxconn", "16") },
		[]string{"warn", "somaxconn is 16", "sysctl -w net/core/somaxconn=100"}},
	"directory": {func(c *configs.Config) error { c.Node.StateDir = "/proc/version/sttcp"; return nil },
		[]string{"FAIL", "node.state_dir /proc/version/sttcp cannot be written to"}},
	"file limit": {func(c *configs.Config) error { service(c).MaxConn = 1 << 30; return nil },
		[]string{"FAIL", "file limit", fmt.Sprintf("LimitNOFILE=%d", 3<<30+spareFiles)}},
}

// Each of them is found, and said with what to do about it.
func TestBadHosts(t *testing.T) {
	for name, c := range badHosts {
		t.Run(name, func(t *testing.T) {
			in(t, func() error {
				cfg := example(t)
				if err := c.harm(cfg); err != nil {
					return err
				}
				out, good := report(cfg)
				expect(t, out, c.want[0], c.want[1:]...)
				if good != !strings.Contains(out, "FAIL ") {
					t.Errorf("result %v of\n%s", good, out)
				}
				return nil
			})
		})
	}
}

// Firewalls that accept, or drop elsewhere, are not complained about.
func TestHarmlessFirewalls(t *testing.T) {
	in(t, func() error {
		script := "add table inet fw; add chain inet fw in { type filter hook input priority 0; policy accept; }; " +
			"add chain inet fw through { type filter hook forward priority 0; policy drop; }; add chain inet fw in2; " +
			"add table arp fw; add chain arp fw in { type filter hook input priority 0; policy drop; }"
		if out, err := exec.Command("nft", script).CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		if got := inputPolicy(nil); len(got) != 1 || got[0].level != levelOK {
			t.Errorf("got %v", got)
		}
		return nil
	})
}

// Beside a gateway that works the host is still good, and its rules stay.
func TestBesideAWorkingGateway(t *testing.T) {
	in(t, func() error {
		cfg := example(t)
		var i intercept.Interceptor
		any80 := []intercept.PortRange{{First: 80, Last: 80}}
		spec := intercept.Spec{Services: []intercept.Service{{
			Name: "web", Ports: any80, Listener4: 1, Listener6: 1,
			Dest:    []netip.Addr{cfg.VirtualIPs[0].Addresses[0].Prefix.Addr(), cfg.VirtualIPs[0].Addresses[1].Prefix.Addr()},
			Servers: []intercept.Server{{Addr: service(cfg).Servers[0].Address, Ports: any80}},
		}}}
		if _, err := i.Apply(spec); err != nil {
			return err
		}
		out, good := report(cfg)
		if !good {
			t.Errorf("not good:\n%s", out)
		}
		expect(t, out, "ok", "no other rule uses mark 0x2000")
		changed, err := i.Apply(spec)
		if changed {
			t.Error("the gateway's rules were changed")
		}
		return err
	})
}

// Only on a host that is a bridge do the settings of bridges matter.
func TestBridge(t *testing.T) {
	in(t, func() error {
		h := &host{procSys: sysctls(t, map[string]string{"net/bridge/bridge-nf-call-iptables": "1"})}
		if got := bridgeNetfilter(h); len(got) != 1 || got[0].level != levelOK {
			t.Errorf("without a bridge: %v", got)
		}
		if err := ip("link add br7 type bridge"); err != nil {
			return err
		}
		got := bridgeNetfilter(h)
		if len(got) != 1 || !strings.Contains(got[0].String(), "bridge br7 meet the rules of this host: sysctl -w net/bridge/bridge-nf-call-iptables=0") {
			t.Errorf("with a bridge: %v", got)
		}
		h.procSys = sysctls(t, nil)
		if got := bridgeNetfilter(h); len(got) != 1 || got[0].level != levelOK {
			t.Errorf("without br_netfilter: %v", got)
		}
		return nil
	})
}

// Beside a firewall that drops, the rule that the report suggests lets a
// client's SYN in; this only checks that nft understands it.
func TestSuggestedFirewallRuleIsValid(t *testing.T) {
	in(t, func() error {
		script := "add table inet fw; add chain inet fw in { type filter hook input priority 0; policy drop; }; " +
			fmt.Sprintf("add rule inet fw in meta mark & %#x != 0 accept", intercept.DefaultMark)
		out, err := exec.Command("nft", script).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
}

func TestListeners(t *testing.T) {
	in(t, func() error {
		cfg := example(t)
		busy, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer busy.Close()
		cfg.Admin.Metrics = busy.Addr().String()
		out, _ := report(cfg)
		expect(t, out, "FAIL", "admin.metrics "+cfg.Admin.Metrics, "ss -ltnp")

		running, err := net.Listen("unix", filepath.Join(cfg.Node.StateDir, "a"))
		if err != nil {
			return err
		}
		defer running.Close()
		cfg.Admin.Listen = running.Addr().String()
		out, _ = report(cfg)
		expect(t, out, "ok", "admin.metrics "+cfg.Admin.Metrics, "a gateway is running")

		if err := ip("addr add 10.9.0.100/32 dev lo"); err != nil {
			return err
		}
		for _, at := range []string{"10.9.0.100:80", "10.9.0.100:81", "10.9.0.1:80"} { // only the first is the service's
			l, err := net.Listen("tcp", at)
			if err != nil {
				return err
			}
			defer l.Close()
		}
		out, _ = report(cfg)
		expect(t, out, "warn", "10.9.0.100:80", "service web", "ss -ltnp")
		if strings.Count(out, "another program listens on") != 1 {
			t.Errorf("a listener on another address or port is complained about:\n%s", out)
		}
		return nil
	})
}

// Without rights the report says so, and does not end early.
func TestWithoutCapabilities(t *testing.T) {
	in(t, func() error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var none [2]unix.CapUserData
		if err := unix.Capset(&header, &none[0]); err != nil {
			return err
		}
		out, good := report(example(t))
		if good {
			t.Error("the host is said to be good")
		}
		expect(t, out, "FAIL", "CAP_NET_ADMIN and CAP_NET_RAW missing", "AmbientCapabilities")
		expect(t, out, "FAIL", "nftables", "run as root")
		expect(t, out, "FAIL", "transparent listener")
		expect(t, out, "warn", "TCP_REPAIR")
		expect(t, out, "ok", "gate: not in this version")
		return nil
	})
}

// A witness intercepts nothing and needs no rights for it.
func TestWitness(t *testing.T) {
	cfg := example(t)
	cfg.Node.Role = configs.RoleWitness
	cfg.VirtualIPs[0].Addresses[0].Interface = "eth7" // of another node
	out, good := report(cfg)
	if !good || strings.Contains(out, "eth7") || strings.Contains(out, "nftables") {
		t.Errorf("good %v:\n%s", good, out)
	}
	expect(t, out, "ok", "node.state_dir")
}

func TestRunEndsWithContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	var out bytes.Buffer
	if Run(ctx, nil, &out) || out.Len() > 0 {
		t.Errorf("result good, or output %q", out.String())
	}
}
