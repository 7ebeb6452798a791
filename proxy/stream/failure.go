package stream

import "time"

func (c *Conn) legConnected(l Leg) {
	g := &c.legs[l]
	if g.state != connecting || g.refused {
		return
	}
	g.state = live
	g.openAt = c.publish(Action{Leg: l})
}

func (c *Conn) legRST(g *leg) {
	g.closed = rst
	g.refused = g.refused || g.state == connecting
}

func (c *Conn) legAcked(g *leg, off uint64) {
	if off = min(off, g.wrote); off > g.acked {
		g.acked = off
		g.progress = c.lagNow()
		g.probed = false
	}
}

// moved notes that leg g has produced something.
func (c *Conn) moved(g *leg) {
	g.progress = c.lagNow()
	g.probed = false
	c.idleFrom = c.now
}

func (c *Conn) judged(g *leg, e *Event) {
	if e.Seq != c.probes {
		return // begun before what it is to judge
	}
	g.verdict = down
	if e.Up {
		g.verdict = up
	}
}

// probe asks for the health of both servers: what one does not answer says
// little as long as nobody knows whether the other would.
func (c *Conn) probe() {
	c.probes++
	c.legs[0].verdict, c.legs[1].verdict = unknown, unknown
	c.act(Action{Type: Probe, Seq: c.probes})
}

// settleDial judges legs that were not to be had. As long as the other one is
// connecting nothing is known: both may be refused, which ejects nobody.
func (c *Conn) settleDial() {
	for l := range c.legs {
		g, o := &c.legs[l], &c.legs[1-l]
		if g.state == connecting && c.now >= c.dialBy {
			g.refused = true
		}
		if g.state != connecting || !g.refused || g.dropping || c.gone {
			continue
		}
		switch {
		case o.state == live && !o.dropping:
			c.drop(Leg(l), ReasonRefused)
		case o.state == absent || o.refused:
			c.lose(ReasonNoServer)
		}
	}
}

// drop gives leg l up. It is gone when that is confirmed (settleDrops), and
// until then nothing is released without it.
func (c *Conn) drop(l Leg, why Reason) {
	g := &c.legs[l]
	if g.dropping || g.kept && why.fails() {
		return
	}
	g.dropping, g.why = true, why
	c.closeBy, c.cmp.waitBy = 0, 0
	g.dropAt = c.publish(Action{Leg: l, Eject: why.fails() && !g.muted || why == ReasonLag, Why: why})
}

// fails reports whether a leg dropped for r says that its server has failed.
func (r Reason) fails() bool {
	switch r {
	case ReasonRefused, ReasonClosed, ReasonDead, ReasonLag, ReasonDiverged:
		return true
	}
	return false
}

// keep takes back the drop that record seq was to tell of.
func (c *Conn) keep(seq uint64) {
	for l := range c.legs {
		if g := &c.legs[l]; g.dropping && g.dropAt == seq {
			c.keepLeg(Leg(l))
		}
	}
}

func (c *Conn) keepLeg(l Leg) {
	g := &c.legs[l]
	why := g.why
	g.dropping, g.kept, g.why = false, true, ReasonNone
	c.restartTimers()
	if why == ReasonDiverged {
		c.mute(l)
	}
}

// settleDrops carries out what is confirmed and what the service has decided.
func (c *Conn) settleDrops() {
	for l := range c.legs {
		g := &c.legs[l]
		if g.dropping && c.isConfirmed(g.dropAt) {
			c.dropped(Leg(l))
		}
		if g.muted && g.closed == rst && g.state == live {
			c.drop(Leg(l), ReasonClosed)
		}
	}
	for l := range c.legs {
		if c.legs[l].ejected != ReasonNone && c.legs[l].state != absent {
			c.settleEjected(Leg(l))
		}
	}
}

// dropped closes leg l and promotes the other one if l was the primary.
func (c *Conn) dropped(l Leg) {
	g, o := &c.legs[l], l.other()
	c.act(Action{Type: Dropped, Leg: l, Why: g.why, Off: g.win.end})
	c.closeLeg(l, true)
	switch {
	case c.legs[o].state == absent || c.legs[o].muted:
		c.lose(ReasonNoServer)
	case l == c.prim:
		c.prim = o
		c.act(Action{Type: Promoted, Leg: o, Off: max(c.released, c.verified)})
	}
}

// settleEjected drops a leg whose server the service has given up. If it is
// the last, the client is reset, but not for a server that an operator takes
// out and whose state nobody else has.
func (c *Conn) settleEjected(l Leg) {
	g, o := &c.legs[l], &c.legs[l.other()]
	switch {
	case g.dropping || o.dropping:
		return // the answer to that comes first
	case o.state != absent && !o.refused && !o.muted:
		c.drop(l, g.ejected)
	case g.muted && o.state != absent:
		c.drop(l, g.ejected)
	case g.ejected == ReasonOperator && !c.cfg.Stateful:
		g.ejected = ReasonNone
	default:
		c.lose(g.ejected)
	}
}

// settleCloses judges FINs and RSTs of legs (section 4, failure of a leg).
func (c *Conn) settleCloses() {
	if c.gone || c.waiting() || c.connecting() {
		return
	}
	if !c.bothVoices() {
		if v := &c.legs[c.prim]; c.voice(c.prim) && v.closed > c.outEnd {
			c.passClose(v.closed, v.win.end)
		}
		return
	}
	for l := Leg(0); l < 2; l++ {
		if c.closedEarly(l) {
			c.drop(l, ReasonClosed)
			return
		}
	}
	c.judgeCloses()
}

func (c *Conn) pending(l Leg) bool { return c.legs[l].closed > c.outEnd }

func (c *Conn) closedEarly(l Leg) bool {
	return c.pending(l) && c.outEnd == open && c.cfg.Compare != Off && !c.legs[l].kept &&
		c.legs[l].win.end < c.legs[l.other()].win.end
}

// judgeCloses decides about a close at an offset that the other leg has not
// passed: it is passed on when both have closed, or after fin_delay if the
// server that closed is well and the other leg did not go on.
func (c *Conn) judgeCloses() {
	p0, p1 := c.pending(0), c.pending(1)
	switch {
	case !p0 && !p1:
		c.closeBy = 0
	case p0 && p1:
		c.passClose(min(c.legs[0].closed, c.legs[1].closed), c.legs[c.prim].win.end)
	case p0:
		c.judgeOneClose(0)
	default:
		c.judgeOneClose(1)
	}
}

func (c *Conn) judgeOneClose(l Leg) {
	g, o := &c.legs[l], &c.legs[l.other()]
	if c.outEnd == open && c.cfg.Compare != Off && o.win.end < g.win.end {
		return // the other one owes: lag decides
	}
	switch {
	case c.closeBy == 0:
		c.closeBy, c.closeWait = c.now+c.cfg.FinDelay, false
		c.probe()
	case g.verdict == down && o.verdict == up && !g.kept:
		c.drop(l, ReasonDead)
	case o.verdict == down && g.verdict == up && !o.kept:
		c.drop(l.other(), ReasonDead)
	case c.now < c.closeBy:
	case (g.verdict == unknown || o.verdict == unknown) && !c.closeWait:
		c.closeBy, c.closeWait = c.now+c.cfg.FinDelay, true
	default:
		c.passClose(g.closed, g.win.end)
	}
}

// passClose ends the response at off.
func (c *Conn) passClose(kind ending, off uint64) {
	if c.outEnd == open {
		c.outOff = off
	}
	c.outEnd, c.closeBy = kind, 0
	if kind == fin {
		c.outNeeds = c.publish(Action{})
	}
}

// owes reports whether the other leg's server has acknowledged, or answered,
// what leg l's has not.
func (c *Conn) owes(l Leg) bool {
	g, o := &c.legs[l], &c.legs[l.other()]
	if g.state != live || o.state != live || g.dropping || o.dropping || o.muted {
		return false // gone already, or the last that has a voice
	}
	if o.acked > g.acked {
		return true
	}
	return !c.gone && c.outEnd == open && c.bothVoices() && g.closed == open && o.win.end > g.win.end
}

// settleLag probes, then drops, a leg that owes and does not move. If both
// owe, it is rather us, and we hold.
func (c *Conn) settleLag() {
	both := c.owes(0) && c.owes(1)
	for l := Leg(0); l < 2; l++ {
		g, o := &c.legs[l], &c.legs[l.other()]
		if !c.owes(l) {
			g.owing, g.probed = false, false
			continue
		}
		if !g.owing {
			g.owing, g.progress = true, c.lagNow()
		}
		still := c.lagNow() - g.progress
		switch {
		case g.probed && g.verdict == down && o.verdict == up:
			c.drop(l, ReasonDead)
		case still >= c.cfg.Limit && !both:
			c.drop(l, ReasonLag)
		case still >= c.cfg.Suspect && !g.probed:
			g.probed = true
			c.probe()
		}
	}
}

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

func (c *Conn) settleIdle() {
	if !c.gone && !c.over && c.now-c.idleFrom >= c.cfg.Idle {
		c.lose(ReasonIdle)
	}
}

// advance moves the clock. The lag clock stands still while nobody could
// move: the client's window, or every leg's, is closed.
func (c *Conn) advance(now time.Duration) {
	if now <= c.now {
		return
	}
	if c.paused() {
		c.stood += now - c.now
	}
	c.now = now
}

func (c *Conn) lagNow() time.Duration { return c.now - c.stood }

func (c *Conn) paused() bool {
	if c.stuck && !c.gone && c.mayRelease() > c.released {
		return true
	}
	n := 0
	for l := range c.legs {
		if g := &c.legs[l]; g.state == live && !g.dropping {
			if !g.stuck || g.wrote == c.in.end {
				return false
			}
			n++
		}
	}
	return n > 0
}

// restartTimers is for when we, not the others, stood still.
func (c *Conn) restartTimers() {
	for l := range c.legs {
		c.legs[l].progress, c.legs[l].probed = c.lagNow(), false
	}
	c.dialBy = c.now + c.cfg.Connect
	c.closeBy, c.cmp.waitBy = 0, 0
	if c.over {
		c.lingerBy = c.now + c.cfg.Limit
	}
}

// Deadline returns when Step wants a Tick at the latest; ok is false if never.
func (c *Conn) Deadline() (at time.Duration, ok bool) {
	if c.done {
		return 0, false
	}
	at = c.idleFrom + c.cfg.Idle
	if c.over {
		at = c.lingerBy
	}
	if c.connecting() {
		at = min(at, c.dialBy)
	}
	for _, t := range [...]time.Duration{c.closeBy, c.cmp.waitBy} {
		if t != 0 {
			at = min(at, t)
		}
	}
	if !c.paused() {
		both := c.owes(0) && c.owes(1)
		at = min(at, c.lagDeadline(0, both), c.lagDeadline(1, both))
	}
	return max(at, c.now), true
}

// lagDeadline returns when leg l's owing means something next. A leg that is
// not to be dropped whatever it owes (both owe, or it is the last) is probed
// once and then left alone.
func (c *Conn) lagDeadline(l Leg, both bool) time.Duration {
	g := &c.legs[l]
	switch {
	case !g.owing || g.probed && (both || g.kept):
		return never
	case g.probed:
		return g.progress + c.cfg.Limit + c.stood
	default:
		return g.progress + c.cfg.Suspect + c.stood
	}
}

// NeedsAck reports whether LegAcked of leg l could change anything now: what
// its server has not acknowledged matters for lag and for a last farewell.
func (c *Conn) NeedsAck(l Leg) bool {
	g, o := &c.legs[l], &c.legs[l.other()]
	return g.state == live && g.acked < g.wrote && (c.gone || o.state == live)
}
