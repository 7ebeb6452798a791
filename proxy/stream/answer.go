package stream

// LegSpace returns where to read leg l's next bytes to, or nil when nothing
// may be read from it now: it is ahead by the whole buffer, or the client does
// not drain, or it has ended. Valid until the next Step
// or Trim.
func (c *Conn) LegSpace(l Leg) []byte {
	g := &c.legs[l]
	if g.state != live || g.dropping || g.closed != open {
		return nil
	}
	return g.win.space(c.bufs)
}

// ToClient returns the bytes to be written to the client now, none if there
// are none or they must not leave yet. If urgent, there is one and it is to be
// sent as urgent data. Valid until the next Step.
func (c *Conn) ToClient() (b []byte, urgent bool) {
	to := c.mayRelease()
	if c.gone || c.over || to <= c.released {
		return nil, false
	}
	g := &c.legs[c.source]
	b = g.win.at(c.released)
	b = b[:min(uint64(len(b)), to-c.released)]
	return g.readU.cut(b, c.released)
}

func (c *Conn) clientWrote(n int) {
	b, _ := c.ToClient()
	n = min(n, len(b))
	c.stuck = n < len(b)
	c.released += uint64(n)
	c.legs[c.source].readU.pass(c.released)
	if n > 0 {
		c.idleFrom = c.now
	}
}

// mayRelease returns the response offset up to which bytes may leave to the
// client.
func (c *Conn) mayRelease() uint64 {
	to := c.voiced()
	if c.outEnd != open {
		to = min(to, c.outOff)
	}
	return to
}

// voiced is mayRelease without regard to the end of the response. While a
// decision about a leg is not confirmed nothing leaves but what both answers
// agreed on before.
func (c *Conn) voiced() uint64 {
	agreed := max(c.released, c.verified)
	if c.waiting() {
		return agreed
	}
	p := &c.legs[c.prim]
	switch {
	case c.bothVoices() || c.connecting():
		if !c.voice(c.prim) || c.cfg.Both && c.comparable() {
			return agreed
		}
		return p.win.end
	case c.voice(c.prim) && c.source == c.prim:
		return p.win.end
	default:
		return agreed // the source's last bytes, before the next leg's
	}
}

// waiting reports whether a decision about a leg is not confirmed yet.
func (c *Conn) waiting() bool {
	for l := range c.legs {
		g := &c.legs[l]
		if g.dropping || g.state == live && !c.isConfirmed(max(g.openAt, g.muteAt)) {
			return true
		}
	}
	return false
}

// connecting reports whether a leg may yet come to have a voice.
func (c *Conn) connecting() bool {
	for l := range c.legs {
		if g := &c.legs[l]; g.state == connecting && !g.refused {
			return true
		}
	}
	return false
}

// settleEqual compares what came.
func (c *Conn) settleEqual() {
	if c.comparing() {
		c.compare()
	}
}

// comparing reports whether verified may move. While a record is not confirmed
// it does not: what both answer meanwhile must not leave either.
func (c *Conn) comparing() bool {
	return c.bothVoices() && !c.waiting() && !c.gone && !c.outShut
}

// settleAnswers forgets what is needed no more.
func (c *Conn) settleAnswers() {
	if c.gone || c.outShut {
		c.discard(0)
		c.discard(1)
		return
	}
	c.settleSource()
	for l := range c.legs {
		c.forgetAnswer(Leg(l))
	}
}

func (c *Conn) discard(l Leg) {
	w := &c.legs[l].win
	w.drop(w.end)
}

// settleSource goes over to the promoted leg at the very next byte: when all
// that was agreed on with the old one has left.
func (c *Conn) settleSource() {
	if c.source == c.prim || c.released < c.verified {
		return
	}
	c.discard(c.source)
	c.source = c.prim
	c.verified = c.released
}

// forgetAnswer drops the part of an answer that was released and compared.
func (c *Conn) forgetAnswer(l Leg) {
	g := &c.legs[l]
	switch {
	case g.muted:
		c.discard(l)
	case l == c.source && (c.bothVoices() || c.waiting() || c.connecting()):
		g.win.drop(min(c.released, c.verified))
	case l == c.source:
		g.win.drop(c.released)
	case g.state == absent:
		c.discard(l)
	case !c.comparable() && g.win.len() >= g.win.limit:
		c.discard(l) // it says more, and must not be held up for that (see dropped)
	default:
		g.win.drop(c.verified)
	}
}
