package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"syscall"
	"testing"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

// TestAbsentServer has a server die while no client is there. Whoever comes
// next is served by the other one, whatever role the dead one would have had.
func TestAbsentServer(t *testing.T) {
	for _, line := range []string{
		"any  kill  s1  ipv4  source-vip     vip  stateful ",
		"any  kill  s2  ipv6  source-client  vip  stateless",
		"any  link  s1  ipv6  source-vip     vip  stateless",
		"any  link  s2  ipv4  source-client  vip  stateful ",
	} {
		s := setting(strings.Fields(line))
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			absent(t, s)
		})
	}
}

func absent(t *testing.T, s setting) {
	w := newWorld(t, lab.Options{})
	ld := &keepAlive{sees: s.seen}
	w.serve(ld.serve)
	w.routes(s)
	w.start(rig.Config{Services: []rig.Service{s.service(w, ld)}})
	dead := s[2]
	s.strike(w, dead)
	for range 4 { // each server would be the primary of some
		start := time.Now()
		talk := begin(w.dial(netip.AddrPortFrom(s.address(w), ld.port()).String()), ld.talk)
		w.no(talk.reach(w.ctx, 1))
		t.Logf("first answer after %v", time.Since(start).Round(time.Millisecond))
		w.end(talk)
		w.no(ld.check(w, w.servers[other(dead)]))
	}
	state := map[bool]string{true: "stale", false: "down"}[s.has("stateful")]
	w.waitStates(twoStates(dead, state))
	w.checkLeft()
	w.checkNoErrors()
	w.stop()
}

// twoStates says that one server is in a state, and the other one up.
func twoStates(server, state string) string {
	is := map[string]string{server: state, other(server): "up"}
	return fmt.Sprintf("s1 %s, s2 %s", is["s1"], is["s2"])
}

// TestNoServer has all servers dead: a client gets a reset, and soon. Once a
// server is there again clients are served; a stateful service has lost
// neither, since the last one is never given up.
func TestNoServer(t *testing.T) {
	for _, mode := range []string{"stateful", "stateless"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, lab.Options{})
			serve := testServer(testsrv.Spec{Proto: testsrv.Echo, Port: 7})
			w.serve(serve)
			w.start(rig.Config{Services: []rig.Service{{
				Name: "svc", Ports: "7", Extra: map[string]string{
					"stateful": "stateful: true", "stateless": "stateful: false\nrejoin: auto"}[mode],
			}}})
			for _, s := range w.servers {
				w.no(s.KillGroup9())
			}
			addr := netip.AddrPortFrom(lab.VIP4, 7).String()
			w.wantReset(addr)
			w.waitStates("s1 down, s2 down")
			w.wantReset(addr)
			w.serve(serve)
			w.waitStates("s1 up, s2 up")
			c := w.dial(addr)
			w.echoes(c)
			if n := w.service("svc").TwoLegs; n != 1 {
				t.Errorf("%d connections have two legs, want 1", n)
			}
			w.no(hangUp(c))
			w.checkLeft()
		})
	}
}

// wantReset wants a new connection to be reset, while connecting or after.
func (w *world) wantReset(addr string) {
	w.Helper()
	c, err := rig.Dial(w.ctx, w.lab, client, addr)
	if err == nil {
		w.no(c.SetDeadline(time.Now().Add(patience)))
		_, err = c.Ask("hello")
		c.Close()
	}
	if !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.EPIPE) {
		w.Fatalf("a connection without a server ends with %v, want a reset", err)
	}
}

// TestBothServersDie kills both servers of a client, one after the other. The
// client is told that it is over, and what it got until then is right.
func TestBothServersDie(t *testing.T) {
	for _, mode := range []string{"stateful", "stateless"} {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, lab.Options{})
			w.serve(testServer(testsrv.Spec{Proto: testsrv.Paced, Port: 7}))
			w.start(rig.Config{Services: []rig.Service{{
				Name: "svc", Ports: "7", Extra: fmt.Sprintf("stateful: %v", mode == "stateful"),
			}}})
			c := w.dial(netip.AddrPortFrom(lab.VIP4, 7).String())
			want := content.Content{Seed: 5, Size: 1 << 30}
			d, err := c.Paced(want, 3*time.Minute)
			w.no(err)
			w.no(d.WaitBytes(w.ctx, 1<<20))
			w.no(w.servers["s1"].KillGroup9())
			w.until("the loss of a leg", func() error { return w.lost(1) })
			w.no(d.WaitBytes(w.ctx, d.Bytes()+1<<19))
			w.no(w.servers["s2"].KillGroup9())
			if r, err := d.Wait(w.ctx); err == nil || r.FirstDiff >= 0 || r.Bytes < 3<<19 {
				t.Errorf("the client ended with %v after %d bytes, the first wrong one at %d", err, r.Bytes, r.FirstDiff)
			}
			c.Close()
			w.checkLeft()
		})
	}
}
