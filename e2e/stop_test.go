package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/testsrv"
)

// testServer starts a server of the small protocols.
func testServer(spec testsrv.Spec) func(w *world, host string) (*rig.Server, error) {
	return func(w *world, host string) (*rig.Server, error) {
		return rig.StartTestServer(w.ctx, w.lab, host, spec)
	}
}

// footprint is all that a gateway puts up on its host beside sockets: the
// packet filter, rules, routes, addresses.
func (w *world) footprint() string {
	w.Helper()
	var all strings.Builder
	for _, cmd := range []string{
		"nft -s list ruleset", "ip -4 rule", "ip -6 rule",
		"ip -4 route show table all", "ip -6 route show table all", "ip -brief addr",
	} {
		args := strings.Fields(cmd)
		out, err := w.lab.Host("g1").Run(w.ctx, args[0], args[1:]...)
		w.no(err)
		fmt.Fprintf(&all, "# %s\n%s", cmd, out)
	}
	return all.String()
}

// newEcho is a world with an echo service in both families that drains for so
// long. It returns what was there before the gateway.
func newEcho(t *testing.T, drain string) (w *world, before string) {
	t.Helper()
	w = newWorld(t, lab.Options{})
	w.serve(testServer(testsrv.Spec{Proto: testsrv.Echo, Port: 7}))
	w.no(rig.PrepareGateway(w.lab.Host("g1")))
	before = w.footprint()
	w.start(rig.Config{
		Services: []rig.Service{{Name: "svc", Ports: "7"}, {Name: "svc6", Ports: "7", IPv6: true, Source: "client"}},
		Extra:    "drain: " + drain,
	})
	if w.footprint() == before {
		t.Fatal("the gateway put nothing up: the check does not check")
	}
	return w, before
}

// echoes asks a connection for its echo.
func (w *world) echoes(c *rig.Conn) {
	w.Helper()
	if got, err := c.Ask("hello"); err != nil || got != "hello" {
		w.Fatalf("%q, %v; the gateway: %s", got, err, w.gw.Log())
	}
}

// checkGone wants nothing left of a gateway that was stopped.
func (w *world) checkGone(before string) {
	w.Helper()
	if after := w.footprint(); after != before {
		w.Errorf("left behind; before:\n%s\nafter:\n%s", before, after)
	}
}

// ends waits for the gateway's clean end. One that hangs is asked for its
// stacks.
func (w *world) ends() {
	w.Helper()
	ctx, cancel := context.WithTimeout(w.ctx, patience/2)
	defer cancel()
	if err := w.gw.Wait(ctx); err != nil {
		_ = w.gw.Signal(unix.SIGQUIT)
		_ = w.gw.Wait(w.ctx)
		w.Fatalf("the end of the gateway: %v; its log: %s", err, w.gw.Log())
	}
}

// TestStopDrains has a gateway asked to stop with two clients. One ends in
// time, and gets all of its answers; the other does not and is cut, which is
// said.
func TestStopDrains(t *testing.T) {
	t.Parallel()
	w, before := newEcho(t, "1500ms")
	addr := netip.AddrPortFrom(lab.VIP4, 7).String()
	ends, stays := w.dial(addr), w.dial(addr)
	w.echoes(ends)
	w.echoes(stays)
	w.no(w.gw.Signal(unix.SIGTERM))
	w.until("stopping", func() error { return w.logged("msg=stopping") })
	w.echoes(ends)
	w.echoes(stays)
	w.no(hangUp(ends))

	w.ends()
	for _, parts := range [][]string{
		{"connection cut", "client=" + stays.Local().String()},
		{"msg=stopped", "connections_cut=1"},
	} {
		w.no(w.logged(parts...))
	}
	if w.logged("connection cut", ends.Local().String()) == nil {
		t.Error("a client that had ended is called cut")
	}
	if got, err := stays.ReadLine(); err == nil {
		t.Errorf("the client that was cut reads %q", got)
	}
	w.checkGone(before)
}

// TestStopWaitsForTheLast has a gateway end as soon as its last client has,
// long before the end of its drain.
func TestStopWaitsForTheLast(t *testing.T) {
	t.Parallel()
	w, before := newEcho(t, "1h")
	c := w.dial(netip.AddrPortFrom(lab.VIP4, 7).String())
	w.echoes(c)
	w.no(w.gw.Signal(unix.SIGTERM))
	w.until("stopping", func() error { return w.logged("msg=stopping") })
	w.echoes(c)
	w.no(hangUp(c))
	w.ends()
	w.no(w.logged("msg=stopped", "connections_cut=0"))
	w.checkGone(before)
}

// TestSecondSignalCuts has an operator lose patience.
func TestSecondSignalCuts(t *testing.T) {
	t.Parallel()
	w, before := newEcho(t, "1h")
	w.echoes(w.dial(netip.AddrPortFrom(lab.VIP4, 7).String()))
	w.no(w.gw.Signal(unix.SIGTERM))
	w.until("stopping", func() error { return w.logged("msg=stopping") })
	w.no(w.gw.Signal(unix.SIGTERM))
	w.ends()
	w.no(w.logged("msg=stopped", "connections_cut=1"))
	w.checkGone(before)
}

// TestStartAfterKill has a gateway killed outright, which leaves everything,
// and started again: it serves, and its clean end removes what both put up.
func TestStartAfterKill(t *testing.T) {
	t.Parallel()
	w, before := newEcho(t, "1s")
	w.no(w.gw.KillGroup9())
	if w.footprint() == before {
		t.Error("a killed gateway left nothing: its clients get resets now")
	}
	w.restart("s1 up, s2 up, s1 up, s2 up")
	for _, vip := range []netip.Addr{lab.VIP4, lab.VIP6} {
		if vip.Is6() { // source: client
			w.no(rig.RouteThrough(w.lab, "g1", rig.Clients, "s1", "s2"))
		}
		c := w.dial(netip.AddrPortFrom(vip, 7).String())
		w.echoes(c)
		w.no(hangUp(c))
	}
	w.stop()
	w.checkGone(before)
}
