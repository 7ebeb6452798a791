package pool

import "fmt"

func (e HealthUp) apply(p *Pool) (string, error) {
	s, err := p.verdictOn(e.Server, e.Gen)
	if s == nil {
		return "", err
	}
	s.healthy, s.failed = true, false
	return "health check passed", nil
}

func (e HealthDown) apply(p *Pool) (string, error) {
	s, err := p.verdictOn(e.Server, e.Gen)
	if s == nil {
		return "", err
	}
	if s.healthy {
		s.healthy = false
		p.wentDown(s)
	}
	return e.Reason, nil
}

// verdictOn returns the server that a verdict is about, nil if the verdict is
// from before the last Recheck:
//
//  1. a check of s1 succeeds, HealthUp is queued;
//  2. a connection loses its leg at s1, s1 is down;
//  3. the queued HealthUp arrives, and would bring s1 up again.
func (p *Pool) verdictOn(i int, gen uint64) (*server, error) {
	s := p.server(i)
	if s == nil {
		return nil, fmt.Errorf("take verdict on server %d: %w", i, ErrUnknownServer)
	}
	if gen != s.gen {
		return nil, nil
	}
	return s, nil
}

// wentDown marks the time before which legs there are no news any more.
func (p *Pool) wentDown(s *server) {
	p.epoch++
	s.outage = p.epoch
	s.waits = p.manual
}

func (e LegFailed) apply(p *Pool) (string, error) {
	c, err := p.leg("report failure", e.Conn, e.Server)
	if err != nil {
		return "", err
	}
	if p.stateful {
		return e.Reason, p.ejectFor(c, e.Conn, e.Server, e.Reason)
	}
	had := c.has(e.Server)
	p.legLost(c, e.Conn, e.Server)
	if had {
		p.suspect(c, e.Server)
	}
	return e.Reason, nil
}

// suspect keeps new connections from server i, a leg of c having failed there.
// A leg from before the server's last outage tells only of that outage: its
// connection was idle and has now found out. And the last server stays: to
// try it is better than to refuse; the checks decide.
func (p *Pool) suspect(c *conn, i int) {
	s := &p.servers[i]
	switch {
	case c.epoch < s.outage:
	case s.serves() && !p.othersServe(i):
		p.emit(ProbeNow{i})
	default:
		p.fail(i)
	}
}

// fail marks a server of a stateless service down, until the checks decide
// afresh. A second failure within does not start the count again.
func (p *Pool) fail(i int) {
	s := &p.servers[i]
	if s.failed || !s.healthy {
		return
	}
	s.failed = true
	s.gen++
	p.wentDown(s)
	p.emit(Recheck{i, s.gen})
}

func (e Diverged) apply(p *Pool) (string, error) {
	c, err := p.leg("report divergence", e.Conn, e.Server)
	if err != nil {
		return "", err
	}
	if p.stateful {
		return e.Reason, p.ejectFor(c, e.Conn, e.Server, e.Reason)
	}
	if !p.othersServe(e.Server) {
		return "", p.lastServer("eject", e.Server)
	}
	p.legLost(c, e.Conn, e.Server)
	p.fail(e.Server)
	p.emit(DropLegs{e.Server, e.Reason})
	return e.Reason, nil
}

func (e LegDropped) apply(p *Pool) (string, error) {
	c, err := p.leg("drop leg", e.Conn, e.Server)
	if err != nil {
		return "", err
	}
	if p.stateful {
		return "leg dropped", p.ejectFor(c, e.Conn, e.Server, "leg dropped")
	}
	p.change(c, func() { c.drop(e.Server) })
	return "leg dropped", nil
}

// leg finds an open connection and an existing server.
func (p *Pool) leg(do string, id ConnID, i int) (*conn, error) {
	if p.server(i) == nil {
		return nil, fmt.Errorf("%s: server %d: %w", do, i, ErrUnknownServer)
	}
	c := p.conns[id]
	if c == nil {
		return nil, fmt.Errorf("%s: connection %d: %w", do, id, ErrUnknownConn)
	}
	return c, nil
}

// legLost takes c's leg at server i away, and lets c go on without.
func (p *Pool) legLost(c *conn, id ConnID, i int) {
	p.change(c, func() { c.drop(i) })
	p.emit(EjectRecorded{i, []ConnID{id}})
}

// ejectFor ejects server i of a stateful service on behalf of c, and answers c
// when that is on disk.
func (p *Pool) ejectFor(c *conn, id ConnID, i int, why string) error {
	s := &p.servers[i]
	switch {
	case s.recording:
		c.waiting = i
	case s.stale:
		p.emit(EjectRecorded{i, []ConnID{id}})
	case !c.has(i):
		// It was to be reset by Ready, and must not be let go.
		return fmt.Errorf("eject server %s: connection %d: %w", s.name, id, ErrUnknownConn)
	case !p.othersServe(i):
		p.emit(ProbeNow{i})
		return p.lastServer("eject", i)
	default:
		p.eject(i, why)
		c.waiting = i
	}
	return nil
}

// eject makes server i stale. All legs there stop counting at once, though the
// connections drop them only when the disk has it: a connection that is about
// to drop its leg must not make Ready believe that it has one.
func (p *Pool) eject(i int, why string) {
	s := &p.servers[i]
	s.stale, s.recording = true, true
	for _, c := range p.conns {
		p.change(c, func() { c.drop(i) })
	}
	p.emit(PersistStale{i, why})
}

func (e StaleRecorded) apply(p *Pool) (string, error) {
	s := p.server(e.Server)
	if s == nil || !s.recording {
		return "", fmt.Errorf("complete ejection of server %d: %w", e.Server, ErrUnknownServer)
	}
	s.recording = false
	if ids := p.sortedConns(func(c *conn) bool { return c.waiting == e.Server }); len(ids) > 0 {
		for _, id := range ids {
			p.conns[id].waiting = none
		}
		p.emit(EjectRecorded{e.Server, ids})
	}
	p.emit(DropLegs{e.Server, "recorded as stale"})
	return "recorded as stale", nil
}

func (e ConnClosed) apply(p *Pool) (string, error) {
	c := p.conns[e.Conn]
	if c == nil {
		return "", fmt.Errorf("close connection %d: %w", e.Conn, ErrUnknownConn)
	}
	p.tally(c, -1)
	delete(p.conns, e.Conn)
	return "no connection lacks a leg", nil
}

// lastServer says why server i stays.
func (p *Pool) lastServer(do string, i int) error {
	return fmt.Errorf("%s server %s of service %s: %w; the last one is kept",
		do, p.servers[i].name, p.service, ErrLastServer)
}
