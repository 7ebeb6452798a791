package stream

import (
	"bytes"
	"regexp"
	"time"
)

const (
	// maxLine is how much of a line masks apply to, in bytes from its start.
	maxLine = 4 << 10
	// lineWait is how long a difference waits for the end of its line.
	lineWait = 50 * time.Millisecond
	// maxSample is how much of an answer a report shows, in bytes.
	maxSample = 64
)

// comparer remembers what masks need: how the line began in which the two
// answers are compared next.
type comparer struct {
	on     bool          // byte by byte
	line   [2][]byte     // by leg, at most maxLine; equal but for masked spans
	waitBy time.Duration // on the lag clock: a difference waits for its line's end until then; 0: none
}

// compare moves verified as far as both answers are there and equal.
func (c *Conn) compare() {
	a, b := &c.legs[0].win, &c.legs[1].win
	end := min(a.end, b.end)
	if !c.comparable() {
		end = c.legs[c.prim].win.end // that is the answer
	}
	if !c.cmp.on {
		c.verified = max(c.verified, end)
		return
	}
	for c.verified < end {
		x, y := a.at(c.verified), b.at(c.verified)
		n := min(len(x), len(y))
		same := commonPrefix(x[:n], y[:n])
		c.equal(x[:same], y[:same])
		if same < n && !c.differ() {
			return
		}
	}
}

// commonPrefix returns how many leading bytes of a and b, equally long, are
// equal.
func commonPrefix(a, b []byte) int {
	if bytes.Equal(a, b) {
		return len(a)
	}
	lo, hi := 0, len(a) // a[:lo] is equal, a[:hi] is not
	for hi-lo > 1 {
		if mid := (lo + hi) / 2; bytes.Equal(a[lo:mid], b[lo:mid]) {
			lo = mid
		} else {
			hi = mid
		}
	}
	return lo
}

// equal takes spans that were found equal, or equal but for masks.
func (c *Conn) equal(a, b []byte) {
	c.verified += uint64(len(a))
	if len(c.cfg.Masks) == 0 || len(a) == 0 {
		return
	}
	c.cmp.waitBy = 0
	tail := max(0, len(a)-maxLine-1) // a newline before that begins a long line
	if i := bytes.LastIndexByte(a[tail:], '\n'); i >= 0 {
		c.cmp.newLine()
		a, b = a[tail+i+1:], b[tail+i+1:]
	}
	c.cmp.extend(a, b)
}

func (m *comparer) newLine() {
	m.line[0], m.line[1] = m.line[0][:0], m.line[1][:0]
}

func (m *comparer) extend(a, b []byte) {
	n := min(len(a), m.room())
	if m.line[0] == nil && n > 0 {
		m.line[0], m.line[1] = make([]byte, 0, maxLine), make([]byte, 0, maxLine)
	}
	m.line[0] = append(m.line[0], a[:n]...)
	m.line[1] = append(m.line[1], b[:n]...)
}

// room returns how many bytes more of the line masks apply to.
func (m *comparer) room() int { return maxLine - len(m.line[0]) }

// trim gives memory back between two lines.
func (m *comparer) trim() {
	if len(m.line[0]) == 0 {
		m.line = [2][]byte{}
	}
}

// differ judges the difference at verified and reports whether comparing goes
// on beyond it: a mask may cover it. It may have to wait for the line's end.
func (c *Conn) differ() (goOn bool) {
	if len(c.cfg.Masks) == 0 || c.cmp.room() == 0 {
		c.diverged(c.verified)
		return false
	}
	a, doneA := c.rest(0)
	b, doneB := c.rest(1)
	switch {
	case doneA && doneB && len(a) != len(b), doneA && len(b) > len(a), doneB && len(a) > len(b):
		c.diverged(c.verified) // one line is longer than the other
		return false
	case !(doneA && doneB) && !c.waitedEnough(len(a), len(b)):
		return false
	}
	return c.masked(a, b)
}

// masked compares the rest of a line, or what there is of it, under the masks.
func (c *Conn) masked(a, b []byte) bool {
	n := min(len(a), len(b))
	done := len(c.cmp.line[0])
	at, same := equalMasked(c.cfg.Masks, join(c.cmp.line[0], a[:n]), join(c.cmp.line[1], b[:n]))
	if !same {
		c.diverged(c.verified + uint64(max(at, done)-done))
		return false
	}
	c.equal(a[:n], b[:n])
	return true
}

func join(a, b []byte) []byte {
	return append(append(make([]byte, 0, len(a)+len(b)), a...), b...)
}

// rest returns leg l's bytes from verified to the end of the line, without
// the newline, or as many as there are, or as masks apply to. In the first
// and the last case no more of the line is to be waited for: done.
func (c *Conn) rest(l Leg) (line []byte, done bool) {
	w, room := &c.legs[l].win, c.cmp.room()
	line = w.at(c.verified)
	if more := w.at(c.verified + uint64(len(line))); len(line) < room && len(more) > 0 {
		line = join(line, more[:min(len(more), room-len(line))])
	}
	line = line[:min(len(line), room)]
	if i := bytes.IndexByte(line, '\n'); i >= 0 {
		return line[:i], true
	}
	return line, len(line) == room
}

// waitedEnough reports whether a difference whose line has not ended is to be
// judged all the same: both have stood still at the same place for lineWait,
// as at a prompt. One that is only behind, in the middle of what a mask may
// cover, owes, and has until it is suspected for that: a lost segment costs
// 200 ms. a and b are how much of the line's rest is there.
func (c *Conn) waitedEnough(a, b int) bool {
	if c.legs[0].closed != open || c.legs[1].closed != open {
		return true
	}
	if a != b {
		c.cmp.waitBy = 0
		return max(c.still(&c.legs[0]), c.still(&c.legs[1])) >= c.cfg.Suspect
	}
	if c.cmp.waitBy == 0 {
		c.cmp.waitBy = c.lagNow() + lineWait
	}
	return c.lagNow() >= c.cmp.waitBy
}

// equalMasked reports whether two equally long lines are equal outside the
// spans that the masks match, which must be the same spans in both; if not,
// at is where they first differ.
func equalMasked(masks []*regexp.Regexp, a, b []byte) (at int, same bool) {
	ca, cb := bytes.Clone(a), bytes.Clone(b)
	for _, m := range masks {
		sa, sb := m.FindAllIndex(a, -1), m.FindAllIndex(b, -1)
		for len(sa) > 0 && len(sb) > 0 {
			x, y := sa[0], sb[0]
			if x[0] == y[0] && x[1] == y[1] {
				clear(ca[x[0]:x[1]])
				clear(cb[x[0]:x[1]])
			}
			if x[0] <= y[0] {
				sa = sa[1:]
			}
			if y[0] <= x[0] {
				sb = sb[1:]
			}
		}
	}
	at = commonPrefix(ca, cb)
	return at, at == len(ca)
}

// diverged says that the answers differ at off and does what the service
// wants done. The backup is the odd one: with two there is no majority.
func (c *Conn) diverged(off uint64) {
	odd := c.prim.other()
	a := Action{Type: Diverged, Leg: odd, Off: off}
	if c.cfg.Report {
		a.Sample[0], a.Sample[1] = c.legs[0].win.sample(off), c.legs[1].win.sample(off)
	}
	c.act(a)
	c.cmp.on, c.cmp.waitBy = false, 0
	switch {
	case c.cfg.OnDivergence == Reset:
		c.lose(ReasonDiverged)
	case c.cfg.OnDivergence == Eject && !c.legs[odd].kept:
		c.drop(odd, ReasonDiverged)
	default:
		c.mute(odd)
	}
}

// sample returns a copy of up to maxSample bytes from off on: the window's
// memory may be another connection's by the time it is read.
func (w *window) sample(off uint64) []byte {
	b := w.at(off)
	if n := maxSample - len(b); n > 0 {
		more := w.at(off + uint64(len(b)))
		return join(b, more[:min(len(more), n)])
	}
	return bytes.Clone(b[:maxSample])
}

// mute takes leg l's voice. Its close, if that was to be passed on, is nobody's
// either.
func (c *Conn) mute(l Leg) {
	g := &c.legs[l]
	g.muted = true
	c.reopen()
	g.muteAt = c.publish(Action{Leg: l, Why: ReasonDiverged})
	c.act(Action{Type: Muted, Leg: l, Off: c.verified, Why: ReasonDiverged})
}
