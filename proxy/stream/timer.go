package stream

import "time"

// never is a time that does not come.
const never = time.Duration(1<<63 - 1)

// advance moves the clock. The lag clock, which tells how long others did not
// move, stands still while they could not.
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

// paused reports whether the client's window is closed, or every leg's.
func (c *Conn) paused() bool {
	if c.stuck && !c.gone && c.mayRelease() > c.released {
		return true
	}
	any := false
	for l := range c.legs {
		if c.legs[l].state != live || c.legs[l].dropping {
			continue
		}
		if !c.closedWindow(&c.legs[l]) {
			return false
		}
		any = true
	}
	return any
}

// closedWindow reports whether leg g's server takes no more of the client
// stream, and not because we do not read its answer.
func (c *Conn) closedWindow(g *leg) bool {
	return g.stuck && g.wrote < c.in.end && g.closed != rst && g.win.len() < g.win.limit
}

// restartTimers is for when we, not the others, stood still.
func (c *Conn) restartTimers() {
	c.restartLag()
	c.dialBy = c.now + c.cfg.Connect
	c.lingerBy = c.now + c.cfg.Limit
	c.idleFrom = c.now
	c.closeBy, c.cmp.waitBy = 0, 0
}

func (c *Conn) restartLag() {
	for l := range c.legs {
		c.legs[l].progress, c.legs[l].probed = c.lagNow(), false
	}
}

// Deadline returns when Step wants a Tick at the latest; ok is false if never.
// After that Tick it is another one, so that waiting for it never spins.
func (c *Conn) Deadline() (at time.Duration, ok bool) {
	if c.done {
		return 0, false
	}
	at = never
	switch {
	case c.over:
		at = c.lingerBy
	case !c.frozen:
		at = c.idleFrom + c.cfg.Idle
	}
	if c.connecting() {
		at = min(at, c.dialBy)
	}
	if lag := c.lagDeadline(); lag != never && !c.paused() {
		at = min(at, lag+c.stood)
	}
	return max(at, c.now), at != never
}

// lagDeadline is Deadline for what counts on the lag clock. Each timer counts
// only while the rule that waits for it is in force.
func (c *Conn) lagDeadline() time.Duration {
	at := min(c.owedBy(&c.legs[0]), c.owedBy(&c.legs[1]))
	if c.closeBy != 0 && !c.over && !c.waiting() && !c.connecting() && c.bothVoices() {
		at = min(at, c.closeBy)
	}
	if c.cmp.waitBy != 0 && c.comparing() {
		at = min(at, c.cmp.waitBy)
	}
	return at
}

// owedBy returns when leg g's owing means more than it does now: never, when
// it has been held against it already.
func (c *Conn) owedBy(g *leg) time.Duration {
	if g.state != live || !g.owing || g.kept || c.waiting() {
		return never
	}
	switch still := c.still(g); {
	case still < c.cfg.Suspect:
		return g.progress + c.cfg.Suspect
	case still < c.cfg.Limit:
		return g.progress + c.cfg.Limit
	}
	return never
}

// NeedsAck reports whether LegAcked of leg l could change anything now: what
// its server has not acknowledged matters for lag and for a last farewell.
func (c *Conn) NeedsAck(l Leg) bool {
	g, o := &c.legs[l], &c.legs[l.other()]
	return g.state == live && g.acked < g.wrote && (c.over || o.state == live)
}
