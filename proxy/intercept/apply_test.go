package intercept

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// network is all that Apply could change, as the usual tools show it.
func (h *host) network(t *testing.T) string {
	t.Helper()
	var out strings.Builder
	for _, args := range [][]string{
		{"nft", "list", "ruleset"},
		{"ip", "-4", "rule"}, {"ip", "-6", "rule"},
		{"ip", "-4", "route", "show", "table", "all"}, {"ip", "-6", "route", "show", "table", "all"},
	} {
		fmt.Fprintf(&out, "# %v\n%s", args, h.output(t, args[0], args[1:]...))
	}
	return regexp.MustCompile(`packets \d+ bytes \d+`).ReplaceAllString(out.String(), "packets N bytes N")
}

func (h *host) nft(t *testing.T, script string) {
	t.Helper()
	for line := range strings.Lines(script) {
		h.output(t, "nft", strings.TrimSpace(line))
	}
}

func (l *lab) exists(t *testing.T) (hash string, ok bool) {
	t.Helper()
	l.gateway.do(t, func() (err error) {
		hash, ok, err = Exists()
		return err
	})
	return hash, ok
}

func (l *lab) remove(t *testing.T, i *Interceptor) {
	t.Helper()
	l.gateway.do(t, i.Remove)
}

func (l *lab) grace(t *testing.T, i *Interceptor, on bool) {
	t.Helper()
	l.gateway.do(t, func() error { return i.SetGrace(on) })
}

func TestApplyTwiceChangesNothing(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	spec := l.spec(webPorts, v4.vip, v6.vip)
	if _, ok := l.exists(t); ok {
		t.Error("a table exists before the first Apply")
	}
	if !l.apply(t, &Interceptor{}, spec) {
		t.Error("the first Apply changed nothing")
	}
	hash, ok := l.exists(t)
	if !ok || hash == "" {
		t.Errorf("Exists: %q, %v", hash, ok)
	}
	before := l.gateway.network(t)
	if l.apply(t, &Interceptor{}, spec) { // as a restarted process would
		t.Error("the second Apply changed something")
	}
	if after := l.gateway.network(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	spec.Grace = true
	if !l.apply(t, &Interceptor{}, spec) {
		t.Error("Apply with another Spec changed nothing")
	}
	if other, _ := l.exists(t); other == hash {
		t.Error("two Specs have the same hash")
	}
}

// What somebody else has done to the table is repaired.
func TestApplyRepairsDamage(t *testing.T) {
	for name, damage := range map[string]string{
		"a flushed chain":    "flush chain inet sttcp prerouting",
		"a flushed table":    "flush table inet sttcp",
		"a rule more":        "insert rule inet sttcp prerouting accept",
		"a chain more":       "add chain inet sttcp other",
		"another base chain": "add chain inet sttcp other { type filter hook prerouting priority 0; }",
		"another table":      "delete table inet sttcp\nadd table inet sttcp\nadd chain inet sttcp prerouting { type filter hook prerouting priority 7; }",
		"no table":           "delete table inet sttcp",
	} {
		t.Run(name, func(t *testing.T) {
			l := newLab(t)
			l.listen(t)
			spec := l.spec(webPorts, v4.vip, v6.vip)
			l.apply(t, &Interceptor{}, spec)
			before := l.gateway.network(t)
			l.gateway.nft(t, damage)
			if !l.apply(t, &Interceptor{}, spec) {
				t.Error("Apply did not see the damage")
			}
			if after := l.gateway.network(t); after != before {
				t.Errorf("before:\n%s\nafter:\n%s", before, after)
			}
		})
	}
}

func TestApplyRepairsRouting(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	spec := l.spec(webPorts, v4.vip, v6.vip)
	l.apply(t, &Interceptor{}, spec)
	before := l.gateway.network(t)
	for _, v := range []string{"-4", "-6"} {
		l.gateway.output(t, "ip", v, "rule", "del", "pref", strconv.Itoa(RulePriority))
		l.gateway.output(t, "ip", v, "route", "flush", "table", strconv.Itoa(DefaultTable))
	}
	l.apply(t, &Interceptor{}, spec)
	if after := l.gateway.network(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// A changed Spec, mark and table included, leaves nothing of the old one, and
// Remove leaves nothing at all. What is not ours stays, however alike.
func TestNothingOfOursStaysAndNothingElseGoes(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	l.gateway.nft(t, "add table inet other\nadd chain inet other c { type filter hook prerouting priority -150; }\n"+
		"add rule inet other c counter\nadd table ip sttcp\nadd chain ip sttcp prerouting")
	mark := fmt.Sprintf("%#x/%#x", DefaultMark, DefaultMark)
	for _, v := range []string{"-4", "-6"} {
		l.gateway.output(t, "ip", v, "rule", "add", "pref", "99", "fwmark", mark, "lookup", strconv.Itoa(DefaultTable))
		l.gateway.output(t, "ip", v, "route", "add", "blackhole", map[string]string{"-4": "192.0.2.0/24", "-6": "2001:db8::/32"}[v],
			"table", strconv.Itoa(DefaultTable))
	}
	before := l.gateway.network(t)
	var i Interceptor
	spec := l.spec(webPorts, v4.vip, v6.vip)
	l.apply(t, &i, spec)
	spec.Mark, spec.MarkMask, spec.Table = 0x10, 0xf0, 100
	l.apply(t, &i, spec)
	changed := l.gateway.network(t)
	for _, old := range []string{fmt.Sprintf("%#08x", DefaultMark), fmt.Sprintf("%d:\tfrom all fwmark %s", RulePriority, mark)} {
		if strings.Contains(changed, old) {
			t.Errorf("%q is still there:\n%s", old, changed)
		}
	}
	greeting(t, l.client.mustDial(t, at(v4.vip, 80)))
	spec = l.spec(webPorts, v4.vip) // IPv6 is not used any more
	spec.Services[0].Servers = nil
	l.apply(t, &i, spec)
	if out := l.gateway.output(t, "ip", "-6", "rule"); strings.Contains(out, "proto 173") {
		t.Errorf("IPv6 rules without an IPv6 service:\n%s", out)
	}
	l.remove(t, &i)
	l.remove(t, &i)
	if after := l.gateway.network(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// A connection lives on through every change of the rules, and new ones come
// in at any moment: nobody is reset.
func TestConnectionsLiveThroughChanges(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	var i Interceptor
	spec := l.spec(webPorts, v4.vip, v6.vip)
	l.apply(t, &i, spec)
	old := map[string]net.Conn{}
	for name, e := range versions {
		old[name] = afterGreeting(t, l.client.mustDial(t, at(e.vip, 80)))
	}
	for n := range 60 {
		spec.Grace = n%2 == 0
		spec.Services[0].Name = fmt.Sprintf("web%d", n%3)
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			l.apply(t, &i, spec)
		}()
		for applied := false; !applied; {
			select {
			case <-stop:
				applied = true
			default:
			}
			for name, e := range versions {
				echo(t, old[name])
				abort(t, afterGreeting(t, l.client.mustDial(t, at(e.vip, 80))))
			}
		}
	}
	if n := l.gateway.tcpCounter(t, "OutRsts"); n != 0 {
		t.Errorf("the gateway sent %d RSTs", n)
	}
}

func TestSetGrace(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	var i Interceptor
	l.apply(t, &i, l.spec(webPorts, v4.vip))
	l.grace(t, &i, true)
	l.silence(t, at(v4.client, 5000), at(v4.vip, 80), l.client, "web: grace")
	l.grace(t, &i, false)
	fd := l.client.unknownSegment(t, at(v4.client, 5001), at(v4.vip, 80))
	eventually(t, "a reset", func() bool { return errors.Is(socketError(fd), unix.ECONNRESET) })
}

// A process that is killed while it applies leaves something; the next one
// makes it right, and Remove finds all of it.
func TestKilledWhileApplying(t *testing.T) {
	if ns := os.Getenv("STTCP_TEST_APPLY_FOREVER"); ns != "" {
		applyForever()
	}
	l := newLab(t)
	l.listen(t)
	empty := l.gateway.network(t)
	for n := range 12 {
		l.killApplying(t, n)
		spec := l.spec(webPorts, v4.vip, v6.vip)
		l.apply(t, &Interceptor{}, spec)
		repaired := l.gateway.network(t)
		abort(t, afterGreeting(t, l.client.mustDial(t, at(v6.vip, 80))))
		l.remove(t, &Interceptor{})
		l.apply(t, &Interceptor{}, spec)
		if fresh := l.gateway.network(t); fresh != repaired {
			t.Fatalf("repaired:\n%s\nfresh:\n%s", repaired, fresh)
		}
		l.killApplying(t, n)
		l.remove(t, &Interceptor{})
		if left := l.gateway.network(t); left != empty {
			t.Fatalf("left after Remove:\n%s\nwant:\n%s", left, empty)
		}
	}
}

// killApplying runs this test again as a process of its own that applies one
// Spec after the other, and kills it after it has done so n times.
func (l *lab) killApplying(t *testing.T, n int) {
	t.Helper()
	l.gateway.do(t, func() error {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWhileApplying$")
		cmd.Env = append(os.Environ(), "STTCP_TEST_APPLY_FOREVER=1")
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		b := make([]byte, 1)
		for range n + 1 {
			if _, err := out.Read(b); err != nil {
				return fmt.Errorf("read from the applying process: %w", err)
			}
		}
		if err := cmd.Process.Kill(); err != nil {
			return err
		}
		_ = cmd.Wait() // says that it was killed
		return nil
	})
}

// applyForever alternates between unlike Specs and writes a dot after each.
func applyForever() {
	l := &lab{listener4: 1, listener6: 1}
	var i Interceptor
	for n := 0; ; n++ {
		spec := l.spec(webPorts[:1+n%3], v4.vip, v6.vip)
		spec.Mark, spec.MarkMask, spec.Table = 1<<(n%5), 1<<(n%5), 100+n%7
		if _, err := i.Apply(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Stdout.Write([]byte("."))
	}
}

// Other users' bits of the mark survive, and only our bit is set.
func TestOtherBitsOfTheMarkSurvive(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	l.gateway.nft(t, "add table inet other\n"+
		"add chain inet other before { type filter hook prerouting priority -160; }\nadd rule inet other before meta mark set 0x81\n"+
		"add chain inet other after { type filter hook prerouting priority -140; }\nadd rule inet other after tcp dport 80 meta mark != 0x2081 counter")
	l.apply(t, &Interceptor{}, l.spec(webPorts, v4.vip, v6.vip))
	for _, e := range versions {
		echo(t, afterGreeting(t, l.client.mustDial(t, at(e.vip, 80))))
	}
	if out := l.gateway.output(t, "nft", "list", "chain", "inet", "other", "after"); !strings.Contains(out, "packets 0 ") {
		t.Errorf("packets with another mark:\n%s", out)
	}
}

// Services and legs are not in the connection tracker; others are.
func TestServicesAreNotTracked(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	l.gateway.nft(t, "add table inet other\nadd chain inet other c { type filter hook input priority 0; }\nadd rule inet other c ct state established counter")
	l.apply(t, &Interceptor{}, l.spec(webPorts, v4.vip, v6.vip))
	tracked := func() int {
		n := 0
		l.gateway.do(t, func() error {
			b, err := os.ReadFile("/proc/sys/net/netfilter/nf_conntrack_count")
			if errors.Is(err, os.ErrNotExist) {
				t.Skip("the kernel has no connection tracker")
			}
			n, _ = strconv.Atoi(strings.TrimSpace(string(b)))
			return err
		})
		return n
	}
	base := tracked()
	for _, e := range versions {
		l.server.serveOn(t, at(e.server, 80))
		echo(t, afterGreeting(t, l.client.mustDial(t, at(e.vip, 80))))
		echo(t, afterGreeting(t, l.leg(t, at(e.client, 6000), at(e.server, 80))))
	}
	if n := tracked(); n != base {
		t.Errorf("%d connections of services and legs are tracked", n-base)
	}
	echo(t, afterGreeting(t, l.gateway.mustDial(t, at(v4.server, 80)))) // a health check is
	if n := tracked(); n != base+1 {
		t.Errorf("%d other connections are tracked, want 1", n-base)
	}
}

// The table as an operator sees it.
func TestListing(t *testing.T) {
	l := newLab(t)
	l.listener4, l.listener6 = 4001, 6001
	l.apply(t, &Interceptor{}, l.spec([]PortRange{{80, 80}, {8000, 8010}}, v4.vip, v6.server))
	got := l.gateway.output(t, "nft", "list", "table", "inet", "sttcp")
	got = regexp.MustCompile(`comment "[0-9a-f]{32}"`).ReplaceAllString(got, `comment "HASH"`)
	want, err := os.ReadFile("testdata/listing.txt")
	if os.Getenv("STTCP_REWRITE") != "" {
		err = os.WriteFile("testdata/listing.txt", []byte(got), 0o644)
		want = []byte(got)
	}
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("got:\n%s\nwant (rewrite with STTCP_REWRITE=1):\n%s", got, want)
	}
}

func TestBadSpecs(t *testing.T) {
	good := (&lab{listener4: 1}).spec(webPorts, v4.vip)
	for name, c := range map[string]struct {
		change func(*Spec)
		want   string
	}{
		"mark outside mask": {func(s *Spec) { s.Mark, s.MarkMask = 3, 1 }, "mark 0x3"},
		"no mark in mask":   {func(s *Spec) { s.MarkMask = 1 }, "mark 0x0"},
		"kernel's table":    {func(s *Spec) { s.Table = 254 }, "table 254"},
		"negative table":    {func(s *Spec) { s.Table = -1 }, "table -1"},
		"no address":        {func(s *Spec) { s.Services[0].Dest = nil }, `"web": it has no address`},
		"zero address":      {func(s *Spec) { s.Services[0].Dest = []netip.Addr{{}} }, "cannot be intercepted"},
		"any address":       {func(s *Spec) { s.Services[0].Dest = []netip.Addr{netip.IPv4Unspecified()} }, "0.0.0.0 cannot"},
		"loopback":          {func(s *Spec) { s.Services[0].Dest = []netip.Addr{loopback4} }, "127.0.0.1 cannot"},
		"no listener":       {func(s *Spec) { s.Services[0].Dest = []netip.Addr{v6.vip} }, "no listener of its family"},
		"no port":           {func(s *Spec) { s.Services[0].Ports = nil }, "no port"},
		"port 0":            {func(s *Spec) { s.Services[0].Ports = []PortRange{{0, 5}} }, "0-5"},
		"reversed range":    {func(s *Spec) { s.Services[0].Ports = []PortRange{{9, 5}} }, "9-5"},
		"bad server":        {func(s *Spec) { s.Services[0].Servers = []Server{{netip.Addr{}, webPorts}} }, "server address"},
		"server's ports":    {func(s *Spec) { s.Services[0].Servers = []Server{{v4.server, nil}} }, "10.71.2.2: it has no port"},
		"overlap": {func(s *Spec) {
			other := s.Services[0]
			other.Name, other.Ports = "api", []PortRange{{8010, 8020}}
			s.Services = append(slices.Clone(s.Services), other)
		}, `"api": it shares an address and port with service "web"`},
	} {
		spec := good
		spec.Services = slices.Clone(good.Services)
		c.change(&spec)
		if _, err := (&Interceptor{}).Apply(spec); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q in it", name, err, c.want)
		}
	}
}

// IPv4 addresses in IPv6 clothes are IPv4 addresses.
func TestMappedAddresses(t *testing.T) {
	l := &lab{listener4: 1}
	plain := l.spec(webPorts, v4.vip)
	mapped := l.spec(webPorts, netip.AddrFrom16(v4.vip.As16()))
	if a, b := build(plain.withDefaults()).hash, build(mapped.withDefaults()).hash; a != b {
		t.Errorf("hashes %s and %s differ", a, b)
	}
}

func TestMissingFeatures(t *testing.T) {
	needRoot(t)
	h := newHost(t)
	h.do(t, func() error {
		missing, err := Missing()
		if len(missing) > 0 {
			t.Errorf("missing: %v", missing)
		}
		none := Feature{"nosuch", "CONFIG_NOSUCH", exprs{&expr.Match{Name: "nosuch", Info: &xt.Unknown{}}}, nftables.ChainHookPrerouting}
		if none.try() == nil {
			t.Error("an expression that no kernel has is not missing")
		}
		err2 := lacking(unix.ENOENT, []Feature{none})
		if !errors.Is(err2, ErrMissing) || !strings.Contains(err2.Error(), "nosuch (CONFIG_NOSUCH)") {
			t.Errorf("error: %v", err2)
		}
		return err
	})
	if out := h.output(t, "nft", "list", "ruleset"); out != "" {
		t.Errorf("left after trying:\n%s", out)
	}
}

// Without the right to change the network the error says so.
func TestWithoutCapability(t *testing.T) {
	needRoot(t)
	h := newHost(t)
	run(t, func() error {
		if err := errors.Join(netns.Set(h.ns), dropCapabilities()); err != nil {
			return err
		}
		if _, err := Missing(); err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("Missing: %v, want CAP_NET_ADMIN in it", err)
		}
		if _, _, err := Listen(unix.AF_INET, 1); err == nil || !strings.Contains(err.Error(), "CAP_NET_ADMIN") {
			t.Errorf("Listen: %v, want CAP_NET_ADMIN in it", err)
		}
		return nil
	})
}

// dropCapabilities takes all of the calling thread's.
func dropCapabilities() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	return unix.Capset(&header, &none[0])
}

func TestListenIsPlainTCP(t *testing.T) {
	needRoot(t)
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		fd, port, err := Listen(family, 7)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if p, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PROTOCOL); p != unix.IPPROTO_TCP || err != nil {
			t.Errorf("protocol %d, %v", p, err)
		}
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); flags&unix.O_NONBLOCK == 0 || err != nil {
			t.Errorf("flags %#x, %v: not non-blocking", flags, err)
		}
		if port == 0 {
			t.Error("no port")
		}
		d := net.Dialer{Timeout: time.Second}
		if c, err := d.Dial("tcp", net.JoinHostPort(map[int]string{unix.AF_INET: "127.0.0.1", unix.AF_INET6: "::1"}[family], strconv.Itoa(int(port)))); err != nil {
			t.Error(err)
		} else {
			c.Close()
		}
	}
}
