package stream

// ClientSpace returns where to read the client's next bytes to, or nil when
// nothing may be read from the client now: a leg does not drain, the service
// is frozen, or the client has closed its direction. Valid until the next Step
// or Trim.
func (c *Conn) ClientSpace() []byte {
	if c.inEnd != open || c.frozen {
		return nil
	}
	return c.in.space(c.bufs)
}

// ToLeg returns the bytes to be written to leg l now, none if there are none
// or they must not leave yet. If urgent, there is one and it is to be sent as
// urgent data. Valid until the next Step.
func (c *Conn) ToLeg(l Leg) (b []byte, urgent bool) {
	g := &c.legs[l]
	if g.state != live || g.dropping || g.closed == rst || !c.isConfirmed(g.openAt) {
		return nil, false
	}
	if g.head < len(c.head) {
		return c.head[g.head:], false
	}
	return g.urg.cut(c.in.at(g.wrote), g.wrote)
}

// cut shortens b, which begins at off, so that it ends before the urgent
// byte, or is just that byte.
func (m *mark) cut(b []byte, off uint64) ([]byte, bool) {
	if !m.set || m.off < off || len(b) == 0 {
		return b, false
	}
	if m.off == off {
		return b[:1], true
	}
	return b[:min(uint64(len(b)), m.off-off)], false
}

// pass forgets the mark once the stream was handed on beyond it.
func (m *mark) pass(off uint64) { m.set = m.set && off <= m.off }

// markUrgent notes the urgent byte for each leg. As in TCP itself, a newer
// mark replaces one that was not passed on yet.
func (c *Conn) markUrgent() {
	for l := range c.legs {
		c.legs[l].urg = mark{true, c.in.end}
	}
}

func (c *Conn) legWrote(g *leg, n int) {
	b, _ := c.ToLeg(c.number(g))
	n = min(n, len(b))
	g.stuck = n < len(b)
	if g.head < len(c.head) {
		g.head += n
		return
	}
	g.wrote += uint64(n)
	g.urg.pass(g.wrote)
	c.forgetClient()
}

func (c *Conn) number(g *leg) Leg {
	if g == &c.legs[0] {
		return 0
	}
	return 1
}

// forgetClient drops the client bytes that every leg has taken. A leg whose
// drop is not confirmed may yet be kept, so it counts.
func (c *Conn) forgetClient() {
	to := c.in.end
	for l := range c.legs {
		if g := &c.legs[l]; g.state != absent && !g.refused {
			to = min(to, g.wrote)
		}
	}
	c.in.drop(to)
}

func (c *Conn) clientFIN() {
	if c.inEnd == open {
		c.inEnd = fin
		c.inNeeds = c.publish(Action{})
	}
}

// clientGone ends the client's side for good: the servers still get what the
// client had sent, both the same, and then a RST.
func (c *Conn) clientGone(why Reason) {
	if c.gone || c.over {
		return
	}
	c.end(why)
	c.act(Action{Type: CloseClient, Why: why})
}

// lose resets the client's connection.
func (c *Conn) lose(why Reason) {
	if c.gone || c.over {
		return
	}
	c.end(why)
	c.act(Action{Type: ResetClient, Why: why})
}

func (c *Conn) end(why Reason) {
	c.gone, c.over, c.why = true, true, why
	c.inEnd = max(c.inEnd, rst)
	c.lingerBy = c.now + c.cfg.Limit
	c.restartLag()
}

// settleEnds passes FINs on, each at its offset and not before the record
// that has it is confirmed.
func (c *Conn) settleEnds() {
	if c.inEnd == fin && c.isConfirmed(c.inNeeds) {
		c.shutdownLegs()
	}
	if c.gone || c.outEnd == open || c.released < c.outOff {
		return
	}
	switch {
	case c.outEnd == rst:
		c.lose(ReasonServerRST)
	case !c.outShut && c.isConfirmed(c.outNeeds):
		c.outShut = true
		c.act(Action{Type: ShutdownClient, Off: c.outOff})
	}
}

func (c *Conn) shutdownLegs() {
	for l := range c.legs {
		g := &c.legs[l]
		if g.state == live && !g.shut && !g.dropping && g.head == len(c.head) &&
			g.wrote == c.in.end && c.isConfirmed(g.openAt) {
			g.shut = true
			c.act(Action{Type: ShutdownLeg, Leg: Leg(l), Off: c.in.end})
		}
	}
}

// settleOver closes what has come to its end on both sides.
func (c *Conn) settleOver() {
	if !c.over && c.outShut && c.inEnd == fin && c.allShut() {
		c.over, c.why = true, ReasonDone
		c.lingerBy = c.now + c.cfg.Limit
		c.act(Action{Type: CloseClient, Why: ReasonDone})
	}
	if !c.over {
		return
	}
	for l := range c.legs {
		if c.legs[l].state != absent && c.finished(&c.legs[l]) {
			c.legs[l].cut = c.cutShort(&c.legs[l])
			c.closeLeg(Leg(l), c.gone)
		}
	}
}

func (c *Conn) allShut() bool {
	for l := range c.legs {
		if g := &c.legs[l]; g.state != absent && !g.shut {
			return false
		}
	}
	return true
}

// finished reports whether leg g has nothing more to get or give once the
// client's side is over. After a client's RST, too, a server gets all that
// the client had sent, so that both servers have seen the same.
func (c *Conn) finished(g *leg) bool {
	if c.now >= c.lingerBy || g.closed == rst || g.refused {
		return true
	}
	if g.state == connecting {
		return c.in.end == 0
	}
	return g.acked >= c.in.end && (c.gone || g.closed == fin)
}

// cutShort returns why leg g is closed although its server has not all of the
// client stream, ReasonNone if that is so by the server's own will or is told
// of already.
func (c *Conn) cutShort(g *leg) Reason {
	switch {
	case g.acked >= c.in.end || g.dropping || g.ejected != ReasonNone || g.closed == fin && !c.gone:
		return ReasonNone
	case g.refused:
		return ReasonRefused
	case g.closed != rst:
		return ReasonLag
	case c.why == ReasonServerRST || !c.blames(g, ReasonClosed):
		return ReasonNone
	}
	return ReasonClosed
}

func (c *Conn) closeLeg(l Leg, reset bool) {
	g := &c.legs[l]
	g.state, g.dropping = absent, false
	c.act(Action{Type: CloseLeg, Leg: l, Reset: reset, Why: g.why})
	c.forgetClient()
}

// settleDone ends the connection when no socket is left. A server that has
// missed the client's last bytes, which the other one has, is stale.
func (c *Conn) settleDone() {
	if !c.over || c.legs[0].state != absent || c.legs[1].state != absent {
		return
	}
	for l := range c.legs {
		g, o := &c.legs[l], &c.legs[1-l]
		if g.cut != ReasonNone && o.cut == ReasonNone && o.why == ReasonNone && g.acked < o.acked {
			c.publish(Action{Leg: Leg(l), Eject: true, Why: g.cut})
			c.act(Action{Type: Dropped, Leg: Leg(l), Why: g.cut, Off: g.win.end})
		}
	}
	c.finish()
}

func (c *Conn) finish() {
	c.done = true
	c.in.drop(c.in.end)
	c.discard(0)
	c.discard(1)
	c.cmp.newLine()
	c.Trim()
	c.act(Action{Type: Done, Why: c.why})
}
