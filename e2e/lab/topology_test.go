package lab_test

import (
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sttcp/e2e/lab"
	"sttcp/e2e/lab/labtest"
)

func TestAddressPlan(t *testing.T) {
	want := map[string][]string{
		"client": {"10.9.0.10", "fd09::10"}, "rc": {"10.8.0.10", "fd08::10"},
		"router": {"10.9.0.254", "fd09::254", "10.8.0.254", "fd08::254"},
		"g1":     {"10.9.0.1", "fd09::1"}, "g2": {"10.9.0.2", "fd09::2"}, "w1": {"10.9.0.3", "fd09::3"},
		"s1": {"10.9.0.11", "fd09::11"}, "s2": {"10.9.0.12", "fd09::12"}, "s3": {"10.9.0.13", "fd09::13"},
	}
	specs := lab.Standard()
	if len(specs) != len(want) {
		t.Fatalf("%d hosts, want %d", len(specs), len(want))
	}
	for _, spec := range specs {
		var got []string
		for _, k := range spec.Links {
			for _, a := range k.Addrs {
				got = append(got, a.Addr().String())
			}
		}
		if !slices.Equal(got, want[spec.Name]) {
			t.Errorf("%s: %v, want %v", spec.Name, got, want[spec.Name])
		}
	}
	if lab.VIP4.String() != "10.9.0.100" || lab.VIP6.String() != "fd09::100" {
		t.Errorf("VIPs %v, %v", lab.VIP4, lab.VIP6)
	}
}

// Every host reaches a server on the LAN and one outside, in both families,
// and is seen there with its own address.
func TestStandardReachability(t *testing.T) {
	l := newLab(t)
	for _, server := range []string{"s1", "rc"} {
		serve(t, l.Host(server), 80, sayPeer)
	}
	both(t, func(t *testing.T, addr func(*lab.Host) netip.Addr) {
		for _, h := range l.Hosts() {
			for _, server := range []string{"s1", "rc"} {
				c := dial(t, h, netip.AddrPortFrom(addr(l.Host(server)), 80))
				seen := must[[]byte](t)(io.ReadAll(c))
				if !slices.Contains(addrsOf(h), string(seen)) && h.Name() != server {
					t.Errorf("%s is seen as %s by %s, has %v", h.Name(), seen, server, addrsOf(h))
				}
			}
		}
	})
}

func addrsOf(h *lab.Host) []string {
	var list []string
	for _, k := range h.Links() {
		list = append(list, k.Addr4().String(), k.Addr6().String())
	}
	return list
}

// A host on the inside is reached only through the gateway, which is the
// router of a network that the standard plan does not have; the way back is
// turned to it by a host route, as `source: client` needs.
func TestGatewayAsRouter(t *testing.T) {
	l := newLab(t, "client", "s1")
	prefix := netip.MustParsePrefix
	g := must[*lab.Host](t)(l.AddHost(lab.HostSpec{Name: "g1", Forward: true, Links: []lab.LinkSpec{
		{Network: lab.LAN, Addrs: []netip.Prefix{prefix("10.9.0.1/24"), prefix("fd09::1/64")}},
		{Network: "back", Addrs: []netip.Prefix{prefix("10.7.0.1/24"), prefix("fd07::1/64")}}}}))
	legacy := must[*lab.Host](t)(l.AddHost(lab.HostSpec{Name: "legacy",
		Links:  []lab.LinkSpec{{Network: "back", Addrs: []netip.Prefix{prefix("10.7.0.11/24"), prefix("fd07::11/64")}}},
		Routes: []lab.Route{{Via: netip.MustParseAddr("10.7.0.1")}, {Via: netip.MustParseAddr("fd07::1")}}}))
	serve(t, legacy, 80, sayPeer)
	serve(t, l.Host("s1"), 80, sayPeer)
	client := l.Host("client")
	for _, r := range []lab.Route{
		{Dst: prefix("10.7.0.0/24"), Via: g.Addr4()}, {Dst: prefix("fd07::/64"), Via: g.Addr6()}} {
		check(t, client.SetRoute(r))
	}
	back := lab.Route{Dst: prefix("10.9.0.10/32"), Via: g.Addr4()}
	check(t, l.Host("s1").SetRoute(back))
	through := labtest.Capture(t, g.Capture)
	for _, to := range []string{"10.7.0.11:80", "[fd07::11]:80", "10.9.0.11:80"} {
		c := dial(t, client, netip.MustParseAddrPort(to))
		if seen := must[[]byte](t)(io.ReadAll(c)); !strings.HasSuffix(string(seen), "10") {
			t.Errorf("%s sees %s", to, seen)
		}
	}
	synAck := must[[]lab.Segment](t)(through.Segments(lab.Tuple{
		Src: netip.MustParseAddrPort("10.9.0.11:80"), Dst: netip.MustParseAddrPort("10.9.0.10:0")}))
	if len(synAck) == 0 || synAck[0].Flags != lab.SYN|lab.ACK {
		t.Errorf("the answer of s1 did not pass the gateway: %v", synAck)
	}
	check(t, l.Host("s1").DeleteRoute(back))
}

func TestHostSpecsThatAreRefused(t *testing.T) {
	l := newLab(t, "client")
	link := []lab.LinkSpec{{Network: lab.LAN}}
	for _, tc := range []struct {
		spec lab.HostSpec
		want string
	}{
		{lab.HostSpec{Name: "client", Links: link}, "one already"},
		{lab.HostSpec{Name: "net", Links: link}, "does not match"},
		{lab.HostSpec{Name: "Client", Links: link}, "does not match"},
		{lab.HostSpec{Name: "s1"}, "no link"},
		{lab.Standard("nobody")[0], "no link"},
		{lab.HostSpec{Name: "s1", Links: []lab.LinkSpec{{Network: "a name that is too long"}}}, "add bridge"},
		{lab.HostSpec{Name: "s1", Links: link, Routes: []lab.Route{{Via: lab.LAN4(1)}}}, "set route"},
	} {
		if _, err := l.AddHost(tc.spec); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: error %v, want %q", tc.spec, err, tc.want)
		}
	}
	if n := len(l.Hosts()); n != 1 {
		t.Errorf("%d hosts, want 1", n)
	}
	if left := namespacesOf(t, l.ID()); len(left) != 2 {
		t.Errorf("namespaces %v: want client's and the switch's", left)
	}
}

// A virtual address moves from one host to another and takes the traffic with
// it once it is announced.
func TestAddressesComeAndGo(t *testing.T) {
	l := newLab(t, "client", "g1", "g2")
	for _, g := range []string{"g1", "g2"} {
		serve(t, l.Host(g), 80, func(c net.Conn) { io.WriteString(c, g) })
	}
	for _, vip := range []netip.Addr{lab.VIP4, lab.VIP6} {
		p := netip.PrefixFrom(vip, vip.BitLen())
		for _, g := range []string{"g1", "g2"} {
			h := l.Host(g)
			check(t, h.AddAddr(p))
			_ = must[string](t)(l.Host("client").Run(t.Context(), "ip", "neigh", "flush", "all"))
			c := dial(t, l.Host("client"), netip.AddrPortFrom(vip, 80))
			if who := must[[]byte](t)(io.ReadAll(c)); string(who) != g {
				t.Errorf("%v is %s, want %s", vip, who, g)
			}
			check(t, h.DeleteAddr(p))
		}
	}
}

func TestSysctlsAreTheHostsOwn(t *testing.T) {
	l := newLab(t, "client", "s1")
	const key = "net.ipv4.tcp_fin_timeout"
	before := must[string](t)(l.Host("client").Sysctl(key))
	check(t, l.Host("s1").SetSysctl(key, "7"))
	if got := must[string](t)(l.Host("s1").Sysctl(key)); got != "7" {
		t.Errorf("s1 has %s", got)
	}
	if got := must[string](t)(l.Host("client").Sysctl(key)); got != before {
		t.Errorf("client has %s, had %s", got, before)
	}
	for _, key := range []string{"vm.swappiness", "kernel.../net.x", "net.ipv4.tcp_allowed_congestion_control"} {
		if err := l.Host("s1").SetSysctl(key, "0"); err == nil {
			t.Errorf("%s could be set", key)
		}
	}
}

func TestCongestionControl(t *testing.T) {
	for _, cc := range []string{"cubic", "reno"} {
		l := labtest.New(t, lab.Options{Hosts: lab.Standard("client", "s1"), CongestionControl: cc})
		serve(t, l.Host("s1"), 80, echo)
		c := dial(t, l.Host("client"), netip.AddrPortFrom(l.Host("s1").Addr4(), 80))
		raw, err := c.(*net.TCPConn).SyscallConn()
		check(t, err)
		var got string
		check(t, raw.Control(func(fd uintptr) {
			got, err = unix.GetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION)
		}))
		check(t, err)
		if strings.TrimRight(got, "\x00") != cc {
			t.Errorf("connection has %q, want %q", got, cc)
		}
	}
	_, err := lab.New(lab.Options{CongestionControl: "nosuch"})
	if err == nil {
		t.Error("an unknown congestion control was accepted")
	}
}

func TestBadLabName(t *testing.T) {
	if _, err := lab.New(lab.Options{Name: "../x"}); err == nil {
		t.Error("accepted")
	}
}
