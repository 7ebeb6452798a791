package stream

import (
	"slices"
	"testing"
	"time"
)

// TestCourse follows a connection through the states that a Course tells.
func TestCourse(t *testing.T) {
	cfg := &Config{Legs: 2, Both: true, Report: true, Buffer: 1 << 10, Suspect: time.Second, Limit: time.Second, Idle: time.Hour, Connect: time.Hour}
	c := New(cfg, &lender{}, 2, 1, nil, 0)
	step := func(e Event) {
		c.Step(e)
		for _, a := range slices.Clone(c.Actions()) {
			if a.Type == Publish {
				c.Step(Event{Type: Confirmed, Seq: a.Seq})
			}
		}
	}
	read := func(l Leg, s string) {
		copy(c.LegSpace(l), s)
		step(Event{Type: LegRead, Leg: l, N: len(s)})
	}
	if v := c.Course(); v.Legs[0].State != "connecting" || v.Primary != 1 {
		t.Errorf("at first: %+v", v)
	}
	step(Event{Type: LegConnected, Leg: 0})
	step(Event{Type: LegConnected, Leg: 1})
	step(Event{Type: ClientRead, N: copy(c.ClientSpace(), "abc")})
	step(Event{Type: LegWrote, Leg: 0, N: 3})
	step(Event{Type: LegAcked, Leg: 0, Off: 2})
	read(0, "xy")
	v := c.Course()
	want := LegCourse{State: "live", Acked: 2, Sent: 3, Read: 2}
	if v.In != 3 || v.Legs[0] != want || !v.Legs[1].Owes || v.ClientFIN || v.Out != 0 {
		t.Errorf("half way: %+v", v)
	}
	read(1, "xz") // differs
	step(Event{Type: ClientWrote, N: 0})
	step(Event{Type: ClientFIN})
	step(Event{Type: LegFIN, Leg: 0})
	v = c.Course()
	if v.Legs[0].State != "muted" || !v.Legs[0].Closed || !v.ClientFIN || !v.Blocked || v.ServerFIN {
		t.Errorf("diverged: %+v", v)
	}
}
