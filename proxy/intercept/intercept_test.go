package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

var webPorts = []PortRange{{80, 80}, {8000, 8010}, {65000, 65535}}

// A connection to an address and port of a service is accepted by the
// listener, with the client's own idea of both ends; others are not touched.
func TestClientReachesListener(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	var i Interceptor
	l.apply(t, &i, l.spec(webPorts, v4.vip, v6.vip, v4.server, v6.server))
	for name, e := range versions {
		for kind, dest := range map[string]netip.Addr{"VIP": e.vip, "routed": e.server} {
			for _, port := range []uint16{80, 8000, 8005, 8010, 65000, 65535} {
				t.Run(fmt.Sprintf("%s %s %d", name, kind, port), func(t *testing.T) {
					c := l.client.mustDial(t, at(dest, port))
					local, remote := greeting(t, c)
					if local != at(dest, port).String() || remote != c.LocalAddr().String() {
						t.Errorf("accepted socket is %s - %s, want %s - %s", local, remote, at(dest, port), c.LocalAddr())
					}
					echo(t, c)
				})
			}
			for _, port := range []uint16{79, 81, 7999, 8011, 64999} {
				if _, err := l.client.dial(t, netip.AddrPort{}, at(dest, port)); !errors.Is(err, unix.ECONNREFUSED) {
					t.Errorf("%s %s port %d: %v, want connection refused", name, kind, port, err)
				}
			}
		}
	}
}

// A port that is not the service's, of an address that is routed through us,
// still reaches its owner.
func TestOtherPortsOfARoutedAddressPass(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	var i Interceptor
	l.apply(t, &i, l.spec([]PortRange{{80, 80}}, v4.server, v6.server))
	for name, e := range versions {
		l.server.serveOn(t, at(e.server, 81))
		if local, _ := greeting(t, l.client.mustDial(t, at(e.server, 81))); local != at(e.server, 81).String() {
			t.Errorf("%s: greeted by %s", name, local)
		}
	}
}

// Nobody reaches a listener by its own address and port.
func TestListenerIsNotReachable(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	var i Interceptor
	l.apply(t, &i, l.spec(webPorts[:1], v4.vip, v6.vip))
	l.gateway.sysctl(t, "net.ipv4.conf.all.route_localnet", "1")
	for name, e := range versions {
		p := l.listener4
		self := loopback4
		if e.vip.Is6() {
			p, self = l.listener6, netip.IPv6Loopback()
		}
		for _, a := range []netip.Addr{e.gateway, e.vip} {
			if _, err := l.client.dial(t, netip.AddrPort{}, at(a, p)); !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("%s: connect to %s from outside: %v, want connection refused", name, at(a, p), err)
			}
		}
		before := l.drops(t)["web: listener"]
		fd := l.gateway.startConnect(t, at(self, p))
		eventually(t, "the drop of a local connection attempt", func() bool { return l.drops(t)["web: listener"] > before })
		if connected(fd) {
			t.Errorf("%s: a local program was connected to the listener", name)
		}
	}
}

// Without a listener a SYN and everything else is dropped: the clients must
// not see a reset from a host whose gateway is being restarted.
func TestNoListenerMeansSilence(t *testing.T) {
	l := newLab(t)
	stop := l.listen(t)
	var i Interceptor
	l.apply(t, &i, l.spec(webPorts, v4.vip, v6.vip, v4.server, v6.server))
	stop()
	for _, e := range versions {
		for _, dest := range []netip.Addr{e.vip, e.server} {
			before := l.drops(t)["web: no listener"]
			fd := l.client.startConnect(t, at(dest, 80))
			eventually(t, "the drop of a SYN", func() bool { return l.drops(t)["web: no listener"] > before })
			if err := socketError(fd); err != nil {
				t.Errorf("connect to %s: %v, want no answer", dest, err)
			}
			l.silence(t, at(e.client, 5000), at(dest, 80), l.client, "web: no listener")
		}
	}
	l.noResets(t)
}

// In the grace a segment of an unknown connection is dropped, from the client
// and from a server; new connections, and programs of the gateway itself that
// talk to a server, are served.
func TestGraceDropsUnknownSegments(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	var i Interceptor
	spec := l.spec(webPorts, v4.vip, v6.vip)
	spec.Grace = true
	l.apply(t, &i, spec)
	for _, e := range versions {
		l.server.serveOn(t, at(e.server, 80))
		l.silence(t, at(e.client, 5000), at(e.vip, 80), l.client, "web: grace")
		l.silence(t, at(e.server, 80), at(e.vip, 5000), l.server, "grace: unknown leg")
		l.silence(t, at(e.server, 80), at(e.client, 5000), l.server, "grace: unknown leg")
		echo(t, afterGreeting(t, l.client.mustDial(t, at(e.vip, 80))))
		echo(t, afterGreeting(t, l.gateway.mustDial(t, at(e.server, 80))))
	}
	l.noResets(t)
}

// After the grace the kernel answers for what is truly unknown.
func TestNormalModeResetsUnknownSegments(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	var i Interceptor
	l.apply(t, &i, l.spec(webPorts, v4.vip, v6.vip, v4.server, v6.server))
	for _, e := range versions {
		for _, dest := range []netip.Addr{e.vip, e.server} {
			fd := l.client.unknownSegment(t, at(e.client, 5000), at(dest, 80))
			eventually(t, "a reset from "+dest.String(), func() bool { return errors.Is(socketError(fd), unix.ECONNRESET) })
		}
	}
}

// A client that uses a port again while our side is in TIME_WAIT is served by
// its first SYN. (With the search for sockets before tproxy it is not.)
func TestSYNForTimeWaitReachesListener(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	var i Interceptor
	l.apply(t, &i, l.spec(webPorts, v4.vip, v6.vip))
	for name, e := range versions {
		from := at(e.client, 5100)
		first, err := l.client.dial(t, from, at(e.vip, 80))
		if err != nil {
			t.Fatal(err)
		}
		letGatewayClose(t, afterGreeting(t, first))
		eventually(t, "TIME_WAIT on the gateway", func() bool {
			return strings.Contains(l.gateway.output(t, "ss", "-tanH", "state", "time-wait"), "5100")
		})
		second, err := l.client.dial(t, from, at(e.vip, 80))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		echo(t, afterGreeting(t, second))
		if n := l.client.tcpCounter(t, "OutRsts"); n != 0 {
			t.Errorf("%s: the client got %d answers for the old connection", name, n)
		}
	}
}

// A leg with source: client has the client's address; the server's answer is
// addressed to the client and must come to us. With source: vip it has the
// virtual IP's.
func TestLegsGetTheirAnswers(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	var i Interceptor
	for _, grace := range []bool{false, true} {
		spec := l.spec(webPorts, v4.vip, v6.vip)
		spec.Grace = grace
		l.apply(t, &i, spec)
		for name, e := range versions {
			if !grace {
				l.server.serveOn(t, at(e.server, 80))
			}
			for _, from := range []netip.Addr{e.client, e.vip} {
				leg := l.leg(t, at(from, 6000), at(e.server, 80))
				if _, remote := greeting(t, leg); remote != at(from, 6000).String() {
					t.Errorf("%s: the server saw %s, want %s", name, remote, at(from, 6000))
				}
				echo(t, leg)
				abort(t, leg)
			}
		}
	}
}

// A client that talks to a server past us (no service on that address) is not
// disturbed by the rules for legs.
func TestDirectConnectionsToServersPass(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	var i Interceptor
	l.apply(t, &i, l.spec(webPorts, v4.vip, v6.vip))
	for _, e := range versions {
		l.server.serveOn(t, at(e.server, 80))
		c := l.client.mustDial(t, at(e.server, 80))
		if _, remote := greeting(t, c); remote != c.LocalAddr().String() {
			t.Errorf("the server saw %s, want %s", remote, c.LocalAddr())
		}
		echo(t, c)
	}
}

// Where clients know a server by its own address, what it sends on a leg that
// is gone has the very addresses and ports of the gateway's answers to the
// client. The kernel resets the server; the client never sees it. The
// gateway's own programs talk to the server all the same.
func TestLegThatIsGoneNeverReachesTheClient(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	var i Interceptor
	l.apply(t, &i, l.spec(webPorts, v4.server, v6.server))
	for _, e := range versions {
		fd := l.server.unknownSegment(t, at(e.server, 80), at(e.client, 5000))
		eventually(t, "a reset for the server", func() bool { return errors.Is(socketError(fd), unix.ECONNRESET) })
		if n := l.client.tcpCounter(t, "OutRsts"); n != 0 {
			t.Errorf("the client saw, and reset, %d segments of a leg that is gone", n)
		}
		l.server.serveOn(t, at(e.server, 8000))
		echo(t, afterGreeting(t, l.gateway.mustDial(t, at(e.server, 8000)))) // a health check is
	}
}

// A router's "fragmentation needed" for a packet that left with the client's
// address is for us.
func TestPathMTUReachesLeg(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	var i Interceptor
	l.apply(t, &i, l.spec(webPorts, v4.vip, v6.vip))
	for name, e := range versions {
		l.server.serveOn(t, at(e.server, 80))
		leg := l.leg(t, at(e.client, 6000), at(e.server, 80))
		greeting(t, leg)
		l.server.sendPacketTooBig(t, leg, 1300)
		eventually(t, name+": the path MTU of the leg", func() bool { return pathMTU(t, leg) == 1300 })
	}
}

// On a host whose firewall drops by default, services and legs work if it
// accepts our mark, as `sttcp doctor` advises.
func TestFirewallThatAcceptsTheMark(t *testing.T) {
	l := newLab(t)
	l.listen(t)
	l.gateway.nft(t, "add table inet fw\nadd chain inet fw in { type filter hook input priority 0; policy drop; }\n"+
		"add rule inet fw in meta l4proto ipv6-icmp accept\nadd rule inet fw in ct state established accept\n"+
		"add rule inet fw in meta mark and 0x2000 != 0 accept")
	l.apply(t, &Interceptor{}, l.spec(webPorts, v4.vip, v6.vip))
	for _, e := range versions {
		l.server.serveOn(t, at(e.server, 80))
		echo(t, afterGreeting(t, l.client.mustDial(t, at(e.vip, 80))))
		echo(t, afterGreeting(t, l.leg(t, at(e.client, 6000), at(e.server, 80))))
		echo(t, afterGreeting(t, l.leg(t, at(e.vip, 6000), at(e.server, 80))))
	}
}
