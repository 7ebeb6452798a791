package stream

import "time"

func (c *Conn) legConnected(l Leg) {
	g := &c.legs[l]
	if g.state != connecting || g.refused {
		return
	}
	g.state = live
	if !g.dropping { // or else there is nothing to tell, unless it is kept
		g.openAt = c.publish(Action{Leg: l})
	}
}

func (c *Conn) legRST(g *leg) {
	g.closed = rst
	g.refused = g.refused || g.state == connecting
}

func (c *Conn) legAcked(g *leg, off uint64) {
	if off = min(off, g.wrote); off > g.acked {
		g.acked = off
		c.progressed(g)
		c.lingerBy = c.now + c.cfg.Limit
	}
}

// moved notes that leg g has produced something.
func (c *Conn) moved(g *leg) {
	c.progressed(g)
	c.idleFrom = c.now
}

// progressed starts leg g's time again; and the other one's too if both stood
// still, since that was rather us, and who comes back first is chance.
func (c *Conn) progressed(g *leg) {
	if c.still(&c.legs[0]) >= c.cfg.Suspect && c.still(&c.legs[1]) >= c.cfg.Suspect {
		c.restartLag()
	}
	g.progress, g.probed = c.lagNow(), false
}

// still returns how long leg g has owed without any progress.
func (c *Conn) still(g *leg) time.Duration {
	if !g.owing {
		return 0
	}
	return c.lagNow() - g.progress
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
	if c.now >= c.dialBy {
		c.legs[0].refused = c.legs[0].refused || c.legs[0].state == connecting
		c.legs[1].refused = c.legs[1].refused || c.legs[1].state == connecting
	}
	for l := range c.legs {
		g, o := &c.legs[l], &c.legs[1-l]
		if g.state != connecting || !g.refused || g.dropping {
			continue
		}
		switch {
		case g.kept || o.state == absent || o.refused:
			c.lose(ReasonNoServer)
		case o.state == live && !o.dropping && !c.gone:
			c.drop(Leg(l), ReasonRefused)
		}
	}
}

// drop gives leg l up. It is gone when that is confirmed (settleDrops), and
// until then nothing is released without it. An end of the response that was
// not passed on yet is judged again by those who stay.
func (c *Conn) drop(l Leg, why Reason) {
	g := &c.legs[l]
	eject := c.blames(g, why)
	if g.dropping || g.kept && eject {
		return
	}
	g.dropping, g.why = true, why
	c.reopen()
	c.cmp.waitBy = 0
	g.dropAt = c.publish(Action{Leg: l, Eject: eject, Why: why})
}

// blames reports whether leg g, given up for why, has left bytes out at a
// server that was to have them. What a muted leg's server closes is no
// failure; but one whose state counts then misses what the client says next.
func (c *Conn) blames(g *leg, why Reason) bool {
	switch {
	case g.ejected != ReasonNone:
		return false // known
	case g.muted && why == ReasonClosed:
		return c.cfg.Stateful && !g.shut && !g.kept
	}
	return why.fails()
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

// keepLeg takes back a drop. The record had the leg dropped already, so
// nothing goes on before it is right again.
func (c *Conn) keepLeg(l Leg) {
	g := &c.legs[l]
	why := g.why
	g.dropping, g.kept, g.why = false, true, ReasonNone
	switch {
	case why == ReasonDiverged:
		c.mute(l)
		g.openAt = g.muteAt
	case g.state == live:
		g.openAt = c.publish(Action{Leg: l})
	}
}

// settleDrops carries out what is confirmed and what the service has decided.
func (c *Conn) settleDrops() {
	for l := range c.legs {
		g := &c.legs[l]
		if g.dropping && c.isConfirmed(g.dropAt) {
			c.dropped(Leg(l))
		}
	}
	for l := range c.legs {
		if c.legs[l].ejected != ReasonNone && c.legs[l].state != absent {
			c.settleEjected(Leg(l))
		}
	}
}

// dropped closes leg l and promotes the other one if l was the primary. There
// is another one, or the client is gone: no leg is dropped otherwise.
func (c *Conn) dropped(l Leg) {
	g := &c.legs[l]
	c.act(Action{Type: Dropped, Leg: l, Why: g.why, Off: g.win.end})
	c.closeLeg(l, true)
	if o := l.other(); l == c.prim && c.legs[o].state != absent {
		c.prim = o
		off := max(c.released, c.verified)
		c.act(Action{Type: Promoted, Leg: o, Off: off})
		if c.legs[o].win.base > off {
			c.lose(ReasonDiverged) // compare: off, and the answer from there on is forgotten
		}
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
	case g.ejected == ReasonOperator && !c.cfg.Stateful:
		g.ejected = ReasonNone
	default:
		c.lose(g.ejected)
	}
}

// settleCloses judges FINs and RSTs of legs (section 4, failure of a leg).
func (c *Conn) settleCloses() {
	p, q := &c.legs[c.prim], c.prim.other()
	if o := &c.legs[q]; o.muted && o.closed == rst && o.state == live && !c.over {
		c.drop(q, ReasonClosed)
	}
	switch {
	case c.over || c.waiting() || c.connecting():
	case !c.bothVoices():
		if c.voice(c.prim) && p.closed > c.outEnd {
			c.passClose(p.closed, p.win.end)
		}
	case c.closedEarly(0):
		c.drop(0, ReasonClosed)
	case c.closedEarly(1):
		c.drop(1, ReasonClosed)
	default:
		c.judgeCloses()
	}
}

// comparable reports whether an offset means the same in both answers.
func (c *Conn) comparable() bool { return c.cfg.Compare != Off }

func (c *Conn) pending(l Leg) bool { return c.legs[l].closed > c.outEnd }

func (c *Conn) closedEarly(l Leg) bool {
	return c.pending(l) && c.outEnd == open && c.comparable() && !c.legs[l].kept &&
		c.legs[l].win.end < c.legs[l.other()].win.end
}

// judgeCloses decides about a close at an offset that the other leg has not
// passed: it is passed on when both have closed, or after fin_delay if the
// server that closed is well and the other leg did not go on.
func (c *Conn) judgeCloses() {
	p0, p1 := c.pending(0), c.pending(1)
	switch {
	case p0 && p1:
		c.passClose(min(c.legs[0].closed, c.legs[1].closed), c.commonEnd())
		if !c.over {
			c.judgeCloses() // one FIN, one RST: the RST is still to be judged
		}
	case p0:
		c.judgeOneClose(0)
	case p1:
		c.judgeOneClose(1)
	}
}

func (c *Conn) judgeOneClose(l Leg) {
	g, o := &c.legs[l], &c.legs[l.other()]
	if c.outEnd == open && c.comparable() && o.win.end < g.win.end {
		return // the other one owes: lag decides
	}
	grace := c.cfg.FinDelay / 10
	if c.closeBy == 0 {
		c.closeBy, c.closing = c.lagNow()+grace, expected
	}
	if !c.comparable() {
		c.closeBy = max(c.closeBy, o.progress+c.cfg.FinDelay) // it goes on
	}
	asked := c.closing != expected
	switch {
	case asked && g.verdict == down && o.verdict == up && !g.kept:
		c.drop(l, ReasonDead)
	case asked && o.verdict == down && g.verdict == up && !o.kept:
		c.drop(l.other(), ReasonDead)
	case c.lagNow() < c.closeBy:
	case !asked:
		c.closeBy, c.closing = c.lagNow()+c.cfg.FinDelay-grace, suspected
		c.probe()
	case c.closing == suspected && (g.verdict == unknown || o.verdict == unknown):
		c.closeBy, c.closing = c.lagNow()+c.cfg.FinDelay, prolonged
	default:
		c.passClose(g.closed, c.commonEnd())
	}
}

// closing is how far the wait for the other leg's close has come. Servers that
// close together do so within moments; only after a tenth of fin_delay their
// health is asked for, or every connection's end would have it asked.
type closing uint8

const (
	expected closing = iota
	suspected
	prolonged // no verdict in time: fin_delay once more
)

// commonEnd returns where the response ends if it ends with what both legs
// have. If their offsets mean nothing to each other, the primary's counts.
func (c *Conn) commonEnd() uint64 {
	if !c.comparable() {
		return c.legs[c.prim].win.end
	}
	return min(c.legs[0].win.end, c.legs[1].win.end)
}

// passClose ends the response at off. If the client is beyond that already,
// having been answered by a leg that is gone, there is no true end for it.
func (c *Conn) passClose(kind ending, off uint64) {
	if c.outEnd == open {
		if off < c.released && c.comparable() {
			c.lose(ReasonClosed)
			return
		}
		c.outOff = max(off, c.released, c.verified)
	}
	c.outEnd, c.closeBy = kind, 0
	if kind == fin {
		c.outNeeds = c.publish(Action{})
	}
}

// reopen takes back an end of the response that the client was not told of.
func (c *Conn) reopen() {
	c.closeBy = 0
	if !c.outShut {
		c.outEnd = open
	}
}

// owes reports whether the other leg's server has acknowledged, or answered,
// what leg l's has not, and nothing of ours keeps leg l's from it.
func (c *Conn) owes(l Leg) bool {
	g, o := &c.legs[l], &c.legs[l.other()]
	switch {
	case g.state != live || o.state != live || g.closed == rst:
		return false // gone already, or the last
	case o.muted:
		return false // the last that has a voice
	case c.waiting():
		return false // nothing is written to it without the record
	case g.win.len() >= g.win.limit:
		return false // it may be waiting for us to read its answer
	case o.acked > g.acked:
		return true
	}
	return !c.gone && c.outEnd == open && c.bothVoices() && g.closed == open && c.owesAnswer(g, o)
}

// owesAnswer reports whether leg o has answered what leg g has not. If their
// answers are not to be compared, how much they say means nothing: then it is
// whether they have said anything since the client last did.
func (c *Conn) owesAnswer(g, o *leg) bool {
	if !c.comparable() {
		return o.saidAt > c.askedAt && g.saidAt <= c.askedAt
	}
	return o.win.end > g.win.end
}

// settleLag probes, then drops, a leg that owes and does not move.
func (c *Conn) settleLag() {
	for l := range c.legs {
		g, owes := &c.legs[l], c.owes(Leg(l))
		if owes && !g.owing {
			g.progress = c.lagNow()
		}
		g.owing, g.probed = owes, owes && g.probed
	}
	for l := Leg(0); l < 2 && !c.waiting(); l++ {
		if g := &c.legs[l]; g.owing && !g.kept {
			c.judgeLag(l)
		}
	}
}

// judgeLag judges leg l, which owes. If the other one owes too and does not
// move either, it is rather us, and we hold.
func (c *Conn) judgeLag(l Leg) {
	g, o := &c.legs[l], &c.legs[l.other()]
	still, hold := c.still(g), c.still(o) >= c.cfg.Suspect
	switch {
	case g.probed && g.verdict == down && o.verdict == up:
		c.drop(l, ReasonDead)
	case still >= c.cfg.Limit && !hold:
		c.drop(l, ReasonLag)
	case still >= c.cfg.Suspect && !g.probed:
		g.probed = true
		c.probe()
	}
}

func (c *Conn) settleIdle() {
	if !c.over && !c.frozen && c.now-c.idleFrom >= c.cfg.Idle {
		c.lose(ReasonIdle)
	}
}
