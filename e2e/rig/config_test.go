package rig_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sttcp/configs"
	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
)

// load writes the file and loads it in the gateway's host, as the gateway does.
func load(t *testing.T, l *lab.Lab, c rig.Config) (cfg *configs.Config, text string) {
	t.Helper()
	text = must(c.YAML(l))(t)
	path := filepath.Join(t.TempDir(), "sttcp.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	err := l.Host(c.Host).Do(func() (err error) {
		cfg, err = configs.Load(path, configs.Host())
		return err
	})
	if err != nil {
		t.Fatalf("load: %v\n%s", err, text)
	}
	return cfg, text
}

func TestConfig(t *testing.T) {
	_, l := newLab(t, "g1", "s1", "s2", "s3")
	cfg, text := load(t, l, rig.Config{Host: "g1", RunDir: "/tmp/r", StateDir: "/tmp/s", Services: []rig.Service{
		{Name: "web", Ports: "80, 8000-8010", Extra: `
release: both
compare: {mode: exact, mask: ['(?m)^Date: [^\r\n]*']}`},
		{Ports: "80", IPv6: true, Servers: []string{"s1", "s3:8080"}, Source: "client"},
		{Ports: "81", Listen: netip.MustParseAddr("10.9.0.77"),
			Servers: []string{"s1", "s2", "s3"}, Extra: "stateful: false\nlegs: 2"},
	}, Extra: "drain: 3s\ngate: off"})
	if cfg.Node.Name != "g1" || cfg.Node.RunDir != "/tmp/r" || cfg.Node.StateDir != "/tmp/s" ||
		cfg.Drain.Seconds() != 3 || cfg.Gate != configs.GateOff || len(cfg.VirtualIPs) != 2 {
		t.Fatalf("loaded %+v of\n%s", cfg, text)
	}
	v4, v6 := cfg.VirtualIPs[0], cfg.VirtualIPs[1]
	if v4.Addresses[0].Prefix.Addr() != lab.VIP4 || v6.Addresses[0].Prefix.Addr() != lab.VIP6 ||
		len(v4.Services) != 2 || len(v6.Services) != 1 {
		t.Fatalf("virtual IPs %+v", cfg.VirtualIPs)
	}
	web, six, routed := v4.Services[0], v6.Services[0], v4.Services[1]
	if web.Name != "web" || !web.ListenVIP || len(web.Ports) != 2 || len(web.Compare.Mask) != 1 ||
		web.Servers[1].Address != l.Host("s2").Addr4() || web.Servers[1].Port != 0 {
		t.Errorf("service %+v", web)
	}
	if six.Name != "svc2" || six.Source != configs.SourceClient || six.Servers[1].Name != "s3" ||
		six.Servers[1].Address != l.Host("s3").Addr6() || six.Servers[1].Port != 8080 {
		t.Errorf("service %+v", six)
	}
	if routed.ListenVIP || routed.ListenAddr != netip.MustParseAddr("10.9.0.77") || routed.Stateful ||
		len(routed.Servers) != 3 || routed.Legs != 2 {
		t.Errorf("service %+v", routed)
	}
}

func TestConfigOneFamily(t *testing.T) {
	_, l := newLab(t, "g1", "s1", "s2")
	_, text := load(t, l, rig.Config{Host: "g1", RunDir: "/r", StateDir: "/s", Services: []rig.Service{{Ports: "80"}}})
	if strings.Contains(text, "front6") {
		t.Errorf("an IPv6 virtual IP without a service:\n%s", text)
	}
}

func TestConfigErrors(t *testing.T) {
	_, l := newLab(t, "g1", "s1", "s2")
	for _, c := range []rig.Config{
		{Host: "g9"},
		{Host: "g1", Services: []rig.Service{{Ports: "80", Servers: []string{"s1", "s9"}}}},
	} {
		if text, err := c.YAML(l); err == nil {
			t.Errorf("written:\n%s", text)
		}
	}
}
