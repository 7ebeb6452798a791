package stream

import (
	"regexp"
	"testing"
	"time"
)

// recycler lends the same buffers again.
type recycler struct{ free [][]byte }

func (r *recycler) Get(n int) []byte {
	for i, b := range r.free {
		if cap(b) >= n {
			last := len(r.free) - 1
			r.free[i], r.free = r.free[last], r.free[:last]
			return b[:n]
		}
	}
	return make([]byte, n)
}

func (r *recycler) Put(b []byte) { r.free = append(r.free, b[:cap(b)]) }

// benchConn is a connection with two legs that are up.
func benchConn(cfg *Config) *Conn {
	cfg.Legs, cfg.Both, cfg.Buffer = 2, true, 256<<10
	cfg.Connect, cfg.Idle, cfg.FinDelay = time.Second, time.Hour, time.Second
	cfg.Suspect, cfg.Limit = time.Second, 2*time.Second
	c := New(cfg, &recycler{}, 2, 0, nil, time.Second)
	c.Step(Event{Type: LegConnected, Leg: 0, Now: time.Second})
	c.Step(Event{Type: LegConnected, Leg: 1, Now: time.Second})
	c.Step(Event{Type: Confirmed, Seq: 2, Now: time.Second})
	return c
}

// exchange is one request of n bytes to both legs and an answer as long.
func exchange(c *Conn, n int) {
	now := time.Second
	space := c.ClientSpace()
	n = min(n, len(space))
	c.Step(Event{Type: ClientRead, N: n, Now: now})
	for l := range Leg(2) {
		b, _ := c.ToLeg(l)
		c.Step(Event{Type: LegWrote, Leg: l, N: len(b), Now: now})
		c.Step(Event{Type: LegAcked, Leg: l, Off: c.legs[l].wrote, Now: now})
	}
	answer(c, n)
	c.Deadline()
	c.Trim()
}

func answer(c *Conn, n int) {
	now := time.Second
	for l := range Leg(2) {
		for left := n; left > 0; {
			m := min(left, len(c.LegSpace(l)))
			c.Step(Event{Type: LegRead, Leg: l, N: m, Now: now})
			left -= m
		}
	}
	for b, _ := c.ToClient(); len(b) > 0; b, _ = c.ToClient() {
		c.Step(Event{Type: ClientWrote, N: len(b), Now: now})
	}
}

var benchConfigs = map[string]Config{
	"exact":  {},
	"masks":  {Masks: []*regexp.Regexp{regexp.MustCompile(`^Date: .*`)}},
	"length": {Compare: Length},
}

// BenchmarkStep is what the core costs: a request and an answer of 1 KiB, in
// ten steps.
func BenchmarkStep(b *testing.B) {
	for name, cfg := range benchConfigs {
		b.Run(name, func(b *testing.B) {
			c := benchConn(&cfg)
			b.ReportAllocs()
			b.SetBytes(1 << 10)
			for b.Loop() {
				exchange(c, 1<<10)
			}
		})
	}
}

// BenchmarkCompare is a download of 64 KiB at a time.
func BenchmarkCompare(b *testing.B) {
	for name, cfg := range benchConfigs {
		b.Run(name, func(b *testing.B) {
			c := benchConn(&cfg)
			b.ReportAllocs()
			b.SetBytes(64 << 10)
			for b.Loop() {
				answer(c, 64<<10)
			}
		})
	}
}

// TestNoAllocations: the data path asks for no memory but the buffers.
func TestNoAllocations(t *testing.T) {
	for name, cfg := range benchConfigs {
		c := benchConn(&cfg)
		work := func() {
			exchange(c, 1<<10)
			answer(c, 64<<10)
		}
		work()
		if n := testing.AllocsPerRun(100, work); n != 0 {
			t.Errorf("%s: %v allocations for a request and its answer", name, n)
		}
	}
}
