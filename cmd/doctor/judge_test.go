package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sttcp/configs"
	"sttcp/proxy/intercept"
)

// sysctls makes a /proc/sys with some keys.
func sysctls(t *testing.T, values map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for key, value := range values {
		path := filepath.Join(root, key)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(value+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

// How `all` and the interface's own value combine, and which key is to change.
func TestSysctlChecks(t *testing.T) {
	type keys = map[string]string
	for _, c := range []struct {
		check check
		keys  keys
		want  []string // each a part of one line; in order
	}{
		{rpFilter, keys{}, []string{"ok   rp_filter"}},
		{rpFilter, keys{"net/ipv4/conf/all/rp_filter": "2", "net/ipv4/conf/eth0/rp_filter": "1"}, []string{"ok   rp_filter"}},
		{rpFilter, keys{"net/ipv4/conf/all/rp_filter": "0", "net/ipv4/conf/eth0/rp_filter": "1"},
			[]string{"warn rp_filter of eth0 is strict (net/ipv4/conf/eth0/rp_filter)"}},
		{rpFilter, keys{"net/ipv4/conf/all/rp_filter": "1", "net/ipv4/conf/eth0/rp_filter": "2"},
			[]string{"warn rp_filter of eth1.5 is strict (net/ipv4/conf/all/rp_filter)"}},
		{srcValidMark, keys{"net/ipv4/conf/lo/src_valid_mark": "1"}, []string{"ok   src_valid_mark is off"}},
		{srcValidMark, keys{"net/ipv4/conf/all/src_valid_mark": "1"}, []string{"sysctl -w net/ipv4/conf/all/src_valid_mark=0"}},
		{srcValidMark, keys{"net/ipv4/conf/all/src_valid_mark": "1", "net/ipv4/conf/eth1.5/src_valid_mark": "1"},
			[]string{"FAIL", "sysctl -w net/ipv4/conf/eth1.5/src_valid_mark=0"}},
		{markSysctls, keys{}, []string{"ok   tcp_fwmark_accept", "ok   fwmark_reflect"}},
		{markSysctls, keys{"net/ipv6/fwmark_reflect": "1"}, []string{"ok   tcp", "FAIL fwmark_reflect is 1"}},
		{arpIgnore, keys{"net/ipv4/conf/all/arp_ignore": "0", "net/ipv4/conf/eth0/arp_ignore": "2"},
			[]string{"FAIL arp_ignore of eth0 is 2: nobody would answer ARP for the virtual IPs: sysctl -w net/ipv4/conf/eth0/arp_ignore=0"}},
		{arpIgnore, keys{}, []string{"ok   arp_ignore"}},
		{arpAnnounce, keys{"net/ipv4/conf/all/arp_announce": "2"}, []string{"ok   arp_announce"}},
		{arpAnnounce, keys{"net/ipv4/conf/eth0/arp_announce": "2"}, []string{"warn arp_announce of eth1.5 is 0"}},
		{backlog, keys{"net/core/somaxconn": "4096"}, []string{"ok   somaxconn"}},
		{backlog, keys{"net/core/somaxconn": "128"}, []string{"sysctl -w net/core/somaxconn=4096"}},
		{backlog, keys{"net/core/somaxconn": "rubbish"}, []string{"ok   somaxconn"}},
		{nonlocalBind, keys{}, []string{"ok   ip_nonlocal_bind"}},
		{forwarding, keys{}, nil}, // without a configuration nobody routes through us
	} {
		h := &host{procSys: sysctls(t, c.keys), links: []string{"eth0", "eth1.5"}}
		var lines []string
		for _, f := range c.check(h) {
			lines = append(lines, f.String())
		}
		if len(lines) != len(c.want) {
			t.Errorf("%v: got %q, want %q", c.keys, lines, c.want)
			continue
		}
		for i := range lines {
			if !strings.Contains(lines[i], c.want[i]) {
				t.Errorf("%v: got %q, want %q in it", c.keys, lines[i], c.want[i])
			}
		}
	}
}

func TestForwardingIsOn(t *testing.T) {
	cfg := example(t)
	service(cfg).Source = configs.SourceClient
	h := &host{cfg: cfg, procSys: sysctls(t, map[string]string{"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"})}
	if got := fmt.Sprint(forwarding(h)); !strings.Contains(got, "ok   forwarding is on") {
		t.Error(got)
	}
	// What no server of such a service uses need not be forwarded.
	service(cfg).Servers = service(cfg).Servers[:1]
	h.procSys = sysctls(t, map[string]string{"net/ipv4/ip_forward": "1"})
	if got := fmt.Sprint(forwarding(h)); !strings.Contains(got, "ok   forwarding is on") {
		t.Errorf("IPv4 servers only: %s", got)
	}
}

// The backlog need not be longer than the most connections that a service takes.
func TestBacklogOfSmallServices(t *testing.T) {
	h := &host{cfg: example(t), procSys: sysctls(t, map[string]string{"net/core/somaxconn": "100"})}
	if got := backlog(h)[0].level; got != levelOK {
		t.Errorf("maxconn 100, somaxconn 100: %v", got)
	}
	service(h.cfg).MaxConn = 1 << 20
	h.procSys = sysctls(t, map[string]string{"net/core/somaxconn": "4096"})
	if got := backlog(h)[0].level; got != levelOK {
		t.Errorf("maxconn 1 Mi, somaxconn 4096: %v", got)
	}
	service(h.cfg).MaxConn = 101
	h.procSys = sysctls(t, map[string]string{"net/core/somaxconn": "100"})
	if got := backlog(h)[0].level; got != levelWarn {
		t.Errorf("maxconn 101, somaxconn 100: %v", got)
	}
}

func TestJudgeKernel(t *testing.T) {
	for release, want := range map[string]level{
		"6.18.44-fc-v657": levelOK, "5.18.0": levelOK, "5.18-rc1": levelOK, "10.0": levelOK,
		"5.17.9": levelFail, "4.19.0-26-amd64": levelFail, "strange": levelWarn, "": levelWarn,
	} {
		if got := judgeKernel(release); got.level != want {
			t.Errorf("%q: %v", release, got)
		}
	}
}

func TestJudgeCapabilities(t *testing.T) {
	for effective, want := range map[uint32]string{
		^uint32(0):                 "ok   CAP_NET_ADMIN and CAP_NET_RAW",
		1 << unix.CAP_NET_ADMIN:    "FAIL CAP_NET_RAW missing",
		1 << unix.CAP_NET_RAW:      "FAIL CAP_NET_ADMIN missing",
		1 << unix.CAP_SYS_RESOURCE: "FAIL CAP_NET_ADMIN and CAP_NET_RAW missing",
	} {
		if got := judgeCapabilities(effective).String(); !strings.HasPrefix(got, want) {
			t.Errorf("%#x: %s", effective, got)
		}
	}
}

func TestJudgeFeatures(t *testing.T) {
	got := judgeFeatures([]intercept.Feature{{Name: "tproxy", Config: "CONFIG_NFT_TPROXY"}})
	if len(got) != 1 || got[0].level != levelFail || !strings.Contains(got[0].String(), "tproxy is missing: modprobe") {
		t.Error(got)
	}
}

func TestJudgeFiles(t *testing.T) {
	h := &host{cfg: example(t)}
	const need = 300 + spareFiles // 100 connections, each with two legs
	if got := h.judgeFiles(need); got.level != levelOK {
		t.Error(got)
	}
	if got := h.judgeFiles(need - 1); got.level != levelFail || !strings.Contains(got.fix, "LimitNOFILE=556") {
		t.Error(got)
	}
	service(h.cfg).Legs = 1
	if got := h.judgeFiles(need - 100); got.level != levelOK {
		t.Error(got)
	}
}

func TestMarked(t *testing.T) {
	mask := func(m uint32) *uint32 { return &m }
	for _, c := range []struct {
		rule netlink.Rule
		want bool
	}{
		{netlink.Rule{}, false},
		{netlink.Rule{Mark: 1}, true}, // all bits are compared
		{netlink.Rule{Mark: 0x2000, Mask: mask(0x2000)}, true},
		{netlink.Rule{Mark: 0x0, Mask: mask(0xff00)}, true},
		{netlink.Rule{Mark: 0x4000, Mask: mask(0x4000)}, false},
	} {
		if got := marked(c.rule); got != c.want {
			t.Errorf("%+v: %v", c.rule, got)
		}
	}
}
