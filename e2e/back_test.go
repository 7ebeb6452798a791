package e2e

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"sttcp/e2e/lab"
	"sttcp/e2e/lab/labtest"
	"sttcp/e2e/rig"
)

// TestServerComesBack has a server vanish and return while its former client
// goes on. What the server still has to say on its lost leg is nobody's: least
// of all the client's, whose own address it may be sent to.
func TestServerComesBack(t *testing.T) {
	for _, line := range []string{
		"download  link  primary  ipv4  source-vip     vip     stateful   offload  cubic",
		"download  link  primary  ipv4  source-client  vip     stateful   offload  cubic",
		"download  link  primary  ipv4  source-client  routed  stateful   offload  cubic",
		"download  link  primary  ipv6  source-client  routed  stateless  offload  cubic",
	} {
		s := setting(strings.Fields(line))
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			comeBack(t, s)
		})
	}
}

func comeBack(t *testing.T, s setting) {
	w := newWorld(t, s.options())
	ld := s.load()
	w.serve(ld.serve)
	w.routes(s)
	svc := s.service(w, ld)
	if s.has("stateless") {
		svc.Extra += "\nrejoin: auto"
	}
	w.start(rig.Config{Services: []rig.Service{svc}})
	wire := labtest.Capture(t, w.lab.Host(client).Capture)

	to := netip.AddrPortFrom(s.address(w), ld.port())
	talk := begin(w.dial(to.String()), ld.talk)
	// The listener's first server leaves: the one whose address it may be.
	w.no(talk.reach(w.ctx, ld.strike(0)))
	gone := w.lab.Host("s1")
	cut := labtest.Inject(t)(gone.LinkDown())
	w.until("the loss of a leg", func() error { return w.lost(1) })
	labtest.Undo(t, cut)
	w.until("the end of the lost leg at its server", func() error { return idle(w, gone, ld.port()) })
	if !talk.going() {
		t.Log("the client was done before")
	}
	if err := talk.end(w.ctx); err != nil {
		t.Fatalf("the client: %v; the gateway: %s", err, w.gw.Log())
	}
	w.checkWire(wire, talk.conn.Local(), to, false)
	w.checkStrangers(wire, to)
	w.waitStates(map[bool]string{true: "s1 stale, s2 up", false: "s1 up, s2 up"}[s.has("stateful")])
	w.checkLeft()
	w.checkNoErrors()
}

// checkStrangers tells what came to the client from elsewhere than the service.
// It is no harm: the client's kernel resets what it does not know, and so ends
// the lost leg at its server.
func (w *world) checkStrangers(wire *lab.Capture, to netip.AddrPort) {
	w.Helper()
	list, err := wire.Select(func(s lab.Segment) bool {
		return s.Dst.Addr() == w.addrOf(client, to.Addr().Is6()) && s.Src != to
	})
	if w.no(err); len(list) > 0 {
		w.Logf("%d segments to the client are of another connection, the first: %v", len(list), list[0])
	}
}

// idle returns nil when a host has no connection to a port of its own but
// those of health checks, which come and go.
func idle(w *world, h *lab.Host, port uint16) error {
	out, err := h.Run(w.ctx, "ss", "-Htn", "state", "established", "sport", fmt.Sprintf("= :%d", port))
	if err != nil {
		return err
	}
	if strings.TrimSpace(out) != "" {
		return fmt.Errorf("it has %s", out)
	}
	return nil
}
