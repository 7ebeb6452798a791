package lab_test

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/e2e/lab"
	"sttcp/e2e/lab/labtest"
)

// Each way to silence a host is one connection's silence, and after Undo the
// same connection goes on.
func TestSilenceAndUndo(t *testing.T) {
	l := newLab(t, "client", "s1")
	s1 := l.Host("s1")
	serve(t, s1, 7, echo)
	faults := map[string]func() (*lab.Fault, error){
		"link down": s1.LinkDown, "interface down": s1.NICDown, "isolate": s1.Isolate, "freeze": s1.Freeze,
		"all lost": func() (*lab.Fault, error) { return s1.Loss(lab.In, 100) },
	}
	for name, inject := range faults {
		t.Run(name, func(t *testing.T) {
			both(t, func(t *testing.T, addr func(*lab.Host) netip.Addr) {
				c := dial(t, l.Host("client"), netip.AddrPortFrom(addr(s1), 7))
				check(t, roundTrip(c, "before"))
				f := labtest.Inject(t)(inject())
				silent(t, c)
				labtest.Undo(t, f)
				labtest.Undo(t, f)
				answers(t, c)
				check(t, roundTrip(c, "after"))
			})
		})
	}
}

// With the interface down the host's routes are gone; they come back. With
// the cable unplugged the host knows that it has no carrier.
func TestInterfaceDownKeepsWhatItHad(t *testing.T) {
	l := newLab(t, "s1")
	s1 := l.Host("s1")
	state := func() string {
		return must[string](t)(s1.Run(t.Context(), "sh", "-c", "ip addr show eth0 | grep inet; ip route; ip -6 route | grep fd09 || true"))
	}
	before := state()
	f := labtest.Inject(t)(s1.NICDown())
	if during := state(); strings.Contains(during, "default") {
		t.Errorf("it still has routes:\n%s", during)
	}
	labtest.Undo(t, f)
	if after := state(); sorted(after) != sorted(before) {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	labtest.Inject(t)(s1.LinkDown())
	if flags := must[string](t)(s1.Run(t.Context(), "ip", "link", "show", "eth0")); !strings.Contains(flags, "NO-CARRIER") {
		t.Errorf("no carrier was lost: %s", flags)
	}
}

func sorted(text string) string {
	lines := strings.Split(text, "\n")
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// A machine that loses power says nothing, and when its cable is plugged in
// again it does not know its connections.
func TestPowerOff(t *testing.T) {
	l := newLab(t, "client", "s1")
	s1 := l.Host("s1")
	serve(t, s1, 7, echo)
	p := labtest.Start(t, s1, lab.Cmd{Path: "sleep", Args: []string{"1000"}})
	c := dial(t, l.Host("client"), netip.AddrPortFrom(s1.Addr4(), 7))
	check(t, roundTrip(c, "before"))
	atClient := labtest.Capture(t, l.Host("client").Capture)
	f := labtest.Inject(t)(s1.PowerOff())
	<-p.Done()
	silent(t, c)
	toClient := lab.Tuple{Src: netip.AddrPortFrom(s1.Addr4(), 7)}
	if said := must[[]lab.Segment](t)(atClient.Segments(toClient)); len(said) > 0 {
		t.Errorf("its last words: %v", said)
	}
	labtest.Undo(t, f)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("error %v, want reset", err)
	}
	if rst := must[[]lab.Segment](t)(atClient.RSTsTo(l.Host("client").Addr4())); len(rst) == 0 {
		t.Error("the reset was not captured")
	}
}

// Each Match stops what it says and nothing else: the connection that does
// not match is the control.
func TestDropMatches(t *testing.T) {
	l := newLab(t, "client", "s1", "s2")
	s1, client := l.Host("s1"), l.Host("client")
	for _, h := range []string{"s1", "s2"} {
		serve(t, l.Host(h), 7, echo)
		serve(t, l.Host(h), 8, echo)
	}
	both(t, func(t *testing.T, addr func(*lab.Host) netip.Addr) {
		to := func(host string, port uint16) netip.AddrPort { return netip.AddrPortFrom(addr(l.Host(host)), port) }
		for _, tc := range []struct {
			name  string
			match lab.Match
			dead  netip.AddrPort
			alive netip.AddrPort
		}{
			{"destination port", lab.Match{Dir: lab.In, DPort: 7}, to("s1", 7), to("s1", 8)},
			{"source port", lab.Match{Dir: lab.Out, SPort: 8, Proto: lab.TCP}, to("s1", 8), to("s1", 7)},
			{"source", lab.Match{Dir: lab.Out, Src: addr(s1), SPort: 7}, to("s1", 7), to("s1", 8)},
			{"destination", lab.Match{Dir: lab.Out, Dst: addr(client), SPort: 7}, to("s1", 7), to("s2", 7)},
			{"SYN", lab.Match{Dir: lab.In, Flags: lab.SYN, Without: lab.ACK, DPort: 8}, to("s1", 8), to("s1", 7)},
			{"SYN-ACK", lab.Match{Dir: lab.Out, Flags: lab.SYN | lab.ACK, SPort: 7}, to("s1", 7), to("s1", 8)},
		} {
			t.Run(tc.name, func(t *testing.T) {
				f := labtest.Inject(t)(s1.Drop(tc.match))
				defer labtest.Undo(t, f)
				check(t, roundTrip(dial(t, client, tc.alive), "control"))
				if _, err := client.DialContext(within(t, 100*time.Millisecond), "tcp", tc.dead.String()); !timedOut(err) {
					t.Errorf("%v: dialed, error %v", f, err)
				}
				if n := must[uint64](t)(f.Dropped()); n == 0 {
					t.Errorf("%v: none dropped", f)
				}
				labtest.Undo(t, f)
				check(t, roundTrip(dial(t, client, tc.dead), "undone"))
			})
		}
	})
}

// Drops on the client's side of things that are no TCP: address resolution.
func TestDropAddressResolution(t *testing.T) {
	l := newLab(t, "client", "s1")
	serve(t, l.Host("s1"), 7, echo)
	for _, tc := range []struct {
		match lab.Match
		to    netip.Addr
	}{
		{lab.Match{Dir: lab.Out, Proto: lab.ARP, Src: lab.LAN4(11)}, lab.LAN4(11)},
		{lab.Match{Dir: lab.Out, Proto: lab.ICMPv6}, lab.LAN6(11)},
	} {
		f := labtest.Inject(t)(l.Host("s1").Drop(tc.match))
		addr := netip.AddrPortFrom(tc.to, 7)
		if _, err := l.Host("client").DialContext(within(t, 100*time.Millisecond), "tcp", addr.String()); err == nil {
			t.Errorf("%v: dialed", f)
		}
		if n := must[uint64](t)(f.Dropped()); n == 0 {
			t.Errorf("%v: none dropped", f)
		}
		labtest.Undo(t, f)
		check(t, roundTrip(dial(t, l.Host("client"), addr), "undone"))
	}
}

// The first SYNs are dropped, the next one passes.
func TestDropTheFirst(t *testing.T) {
	l := newLab(t, "client", "s1")
	serve(t, l.Host("s1"), 7, echo)
	at := labtest.Capture(t, l.Host("client").Capture)
	f := labtest.Inject(t)(l.Host("s1").Drop(lab.Match{Dir: lab.In, Flags: lab.SYN, First: 1}))
	c := dial(t, l.Host("client"), netip.AddrPortFrom(l.Host("s1").Addr4(), 7))
	check(t, roundTrip(c, "hello"))
	if n := must[uint64](t)(f.Dropped()); n != 1 {
		t.Errorf("%d dropped, want 1", n)
	}
	syns := must[[]lab.Segment](t)(at.Select(func(s lab.Segment) bool { return s.Flags == lab.SYN }))
	if len(syns) != 2 || syns[0].Seq != syns[1].Seq {
		t.Errorf("SYNs: %v", syns)
	}
}

func TestFaultsThatAreRefused(t *testing.T) {
	l := newLab(t, "s1")
	s1 := l.Host("s1")
	for name, inject := range map[string]func() (*lab.Fault, error){
		"no direction":     func() (*lab.Fault, error) { return s1.Drop(lab.Match{}) },
		"percent":          func() (*lab.Fault, error) { return s1.Loss(lab.In, 101) },
		"two families":     func() (*lab.Fault, error) { return s1.Drop(lab.Match{Dir: lab.In, Src: lab.VIP4, Dst: lab.VIP6}) },
		"ports of ICMP":    func() (*lab.Fault, error) { return s1.Drop(lab.Match{Dir: lab.In, Proto: lab.ICMP, DPort: 1}) },
		"rate direction":   func() (*lab.Fault, error) { return s1.Rate("up", 1e6) },
		"rate":             func() (*lab.Fault, error) { return s1.Rate(lab.In, 10) },
		"delay":            func() (*lab.Fault, error) { return s1.Delay(-1, 0) },
		"negative first":   func() (*lab.Fault, error) { return s1.Drop(lab.Match{Dir: lab.In, First: -1}) },
		"not nft's syntax": func() (*lab.Fault, error) { return s1.Drop(lab.Match{Dir: lab.In, Proto: "x y"}) },
	} {
		if f, err := inject(); err == nil {
			t.Errorf("%s: accepted: %v", name, f)
		}
	}
	f := labtest.Inject(t)(s1.LinkDown())
	if _, err := f.Dropped(); err == nil {
		t.Error("a link that is down counts drops")
	}
}
