package stream

import "fmt"

// broken returns the invariants that do not hold in c between two steps. They
// are those that can be seen in one state; model_test.go has those that need
// the history.
func broken(c *Conn, bufs *lender) (errs []error) {
	no := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if bufs.out > 3*c.cfg.Buffer {
		no("memory: %d bytes borrowed, at most %d may be", bufs.out, 3*c.cfg.Buffer)
	}
	if m := cap(c.cmp.line[0]) + cap(c.cmp.line[1]); m > 2*maxLine {
		no("memory: %d bytes of lines for masks", m)
	}
	if c.done && bufs.out != 0 {
		no("memory: %d bytes not given back", bufs.out)
	}
	for _, w := range []*window{&c.in, &c.legs[0].win, &c.legs[1].win} {
		if w.base > w.end || w.len() > len(w.buf) || len(w.buf) > w.limit && w.buf != nil {
			no("window: [%d,%d) in %d bytes, limit %d", w.base, w.end, len(w.buf), w.limit)
		}
	}
	if c.legs[0].dropping && c.legs[1].dropping {
		no("both legs are being dropped")
	}
	if c.legs[c.prim].muted || c.legs[0].muted && c.legs[1].muted {
		no("the primary has no voice")
	}
	for l := range c.legs {
		if g := &c.legs[l]; g.acked > g.wrote || g.wrote > c.in.end || g.state != absent && !g.refused && g.wrote < c.in.base {
			no("leg %d: acked %d wrote %d, client stream [%d,%d)", l, g.acked, g.wrote, c.in.base, c.in.end)
		}
	}
	if c.outShut && (c.released != c.outOff || c.outEnd == open) {
		no("FIN to the client at %d, released %d", c.outOff, c.released)
	}
	if at, ok := c.Deadline(); ok && at < c.now {
		no("deadline %v is past, now %v", at, c.now)
	}
	return errs
}
