package doctor

import (
	"errors"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sttcp/configs"
)

// The interfaces that are looked at are those of the virtual IPs and those by
// which servers are reached, each once, and never lo.
func TestLinks(t *testing.T) {
	in(t, func() error {
		if err := ip("addr add 10.8.0.1/24 dev peer"); err != nil {
			return err
		}
		cfg := example(t)
		expectLinks(t, cfg, "eth0")
		service(cfg).Servers[0].Address = netip.MustParseAddr("10.8.0.11")
		expectLinks(t, cfg, "eth0", "peer")
		service(cfg).Servers[1].Address = netip.MustParseAddr("127.0.0.5") // on this host
		expectLinks(t, cfg, "eth0", "peer")
		service(cfg).Servers[0].Address = netip.MustParseAddr("192.0.2.1") // no route
		expectLinks(t, cfg, "eth0")
		expectLinks(t, nil, "peer", "eth0")
		if err := ip("link set peer down"); err != nil {
			return err
		}
		expectLinks(t, nil, "eth0")
		return nil
	})
}

func expectLinks(t *testing.T, cfg *configs.Config, want ...string) {
	t.Helper()
	if got := newHost(cfg, "/proc/sys").links; !slices.Equal(got, want) {
		t.Errorf("links %v, want %v", got, want)
	}
}

func TestFamilies(t *testing.T) {
	cfg := example(t)
	h := &host{cfg: cfg}
	expect := func(name string, usesVIP4 bool, want ...int) {
		t.Helper()
		if got := h.families(); !slices.Equal(got, want) {
			t.Errorf("%s: families %v, want %v", name, got, want)
		}
		if got := h.usesVIP4(); got != usesVIP4 {
			t.Errorf("%s: usesVIP4 %v", name, got)
		}
	}
	expect("both", true, unix.AF_INET, unix.AF_INET6)
	cfg.VirtualIPs[0].Addresses = cfg.VirtualIPs[0].Addresses[:1]
	expect("an IPv6 server", true, unix.AF_INET, unix.AF_INET6)
	service(cfg).Servers[1].Address = netip.MustParseAddr("::ffff:10.9.0.12")
	expect("an IPv4 server in IPv6 form", true, unix.AF_INET)
	cfg.VirtualIPs[0].Addresses[0].Prefix = netip.MustParsePrefix("fd09::100/64")
	service(cfg).Servers = nil
	expect("IPv6", false, unix.AF_INET6)
	h.cfg = nil
	expect("no configuration", true, unix.AF_INET, unix.AF_INET6)
}

// Checks about IPv4 virtual IPs are left out where there are none.
func TestNoARPForIPv6(t *testing.T) {
	cfg := example(t)
	cfg.VirtualIPs[0].Addresses = cfg.VirtualIPs[0].Addresses[1:]
	h := &host{cfg: cfg, links: []string{"eth0"}, procSys: sysctls(t, map[string]string{"net/ipv4/conf/all/arp_ignore": "1"})}
	if got := append(arpIgnore(h), arpAnnounce(h)...); got != nil {
		t.Errorf("got %v", got)
	}
}

func TestRouterFor(t *testing.T) {
	cfg := example(t)
	h := &host{cfg: cfg}
	if got := h.routerFor(); got != "" {
		t.Errorf("by virtual IP, source: vip: %q", got)
	}
	if h.routes(unix.AF_INET) || h.routes(unix.AF_INET6) {
		t.Error("by virtual IP, source: vip: routes")
	}
	service(cfg).Source = configs.SourceClient
	if got := h.routerFor(); got != "service web with source: client" {
		t.Errorf("source: client: %q", got)
	}
	service(cfg).ListenVIP = false
	if got := h.routerFor(); got != "service web with a routed address" {
		t.Errorf("routed: %q", got)
	}
	if !h.routes(unix.AF_INET) || !h.routes(unix.AF_INET6) {
		t.Error("routed: no routes")
	}
}

func TestServiceAt(t *testing.T) {
	cfg := example(t)
	service(cfg).Ports = append(service(cfg).Ports, configs.PortRange{First: 8000, Last: 8010})
	routed := *service(cfg)
	routed.Name, routed.ListenVIP, routed.ListenAddr = "legacy", false, netip.MustParseAddr("10.7.0.5")
	cfg.VirtualIPs[0].Services = append(cfg.VirtualIPs[0].Services, routed)
	h := &host{cfg: cfg}
	for at, want := range map[string]string{
		"10.9.0.100:80": "web", "10.9.0.100:8000": "web", "10.9.0.100:8010": "web", "[fd09::100]:8005": "web",
		"10.9.0.100:81": "", "10.9.0.100:7999": "", "10.9.0.100:8011": "", "0.0.0.0:80": "", "[::]:80": "", "10.9.0.1:80": "",
		"10.7.0.5:80": "legacy", "10.7.0.5:81": "",
	} {
		got := ""
		if s := h.serviceAt(netip.MustParseAddrPort(at)); s != nil {
			got = s.Name
		}
		if got != want {
			t.Errorf("%s: service %q, want %q", at, got, want)
		}
	}
	h.cfg = nil
	if s := h.serviceAt(netip.MustParseAddrPort("10.9.0.100:80")); s != nil {
		t.Errorf("without a configuration: %v", s)
	}
}

func TestFindingForm(t *testing.T) {
	for want, f := range map[string]finding{
		"ok   5 is fine":       ok("%d is fine", 5),
		"warn 6 is odd: do it": warn("do it", "%d is odd", 6),
		"FAIL 7 is bad: do it": fail("do it", "%d is bad", 7),
	} {
		if got := f.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// A directory that is there is tried itself, one that is not by the nearest one
// above it, and neither is changed.
func TestJudgeDirectory(t *testing.T) {
	dir := t.TempDir()
	file := dir + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for at, want := range map[string]level{
		dir: levelOK, dir + "/a/b/c": levelOK, file: levelFail, file + "/x": levelFail, "/proc/self/x": levelFail,
	} {
		if got := judgeDirectory("node.run_dir", at); got.level != want || !strings.Contains(got.what, "node.run_dir "+at) {
			t.Errorf("%s: %v", at, got)
		}
	}
	if left, err := os.ReadDir(dir); len(left) != 1 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, err := os.Stat(dir + "/a"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a directory was made: %v", err)
	}
}

// Addresses that are paths, or empty, are not listened on.
func TestListenersThatAreNotTCP(t *testing.T) {
	cfg := example(t)
	cfg.Admin.Listen, cfg.Admin.Metrics = "/run/sttcp/a:b/admin.sock", ""
	if got := tcpListeners(&host{cfg: cfg}); got != nil {
		t.Errorf("got %v", got)
	}
	cfg.Admin.Listen = "127.0.0.1:0"
	if got := tcpListeners(&host{cfg: cfg}); len(got) != 1 || got[0].level != levelOK {
		t.Errorf("got %v", got)
	}
	cfg.Admin.Listen = "192.0.2.1:9780" // nobody's
	if got := tcpListeners(&host{cfg: cfg}); len(got) != 1 || got[0].level != levelFail {
		t.Errorf("got %v", got)
	}
}

// What does not apply without a configuration is left out.
func TestWithoutConfiguration(t *testing.T) {
	h := &host{procSys: t.TempDir()}
	for name, c := range map[string]check{
		"interfaces": interfaces, "ipv6Enabled": ipv6Enabled, "serverRoutes": serverRoutes, "forwarding": forwarding,
		"directories": directories, "tcpListeners": tcpListeners, "foreignListeners": foreignListeners,
	} {
		if got := c(h); got != nil {
			t.Errorf("%s: %v", name, got)
		}
	}
	for name, c := range map[string]check{"rpFilter": rpFilter, "arpIgnore": arpIgnore, "fileLimit": fileLimit, "backlog": backlog, "gate": gate} {
		if got := c(h); len(got) != 1 || got[0].level != levelOK {
			t.Errorf("%s: %v", name, got)
		}
	}
}
