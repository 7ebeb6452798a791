package pool

import "fmt"

func (e Drain) apply(p *Pool) (string, error) { return p.takeOut("drain", e.Server, adminDrain) }

func (e Maint) apply(p *Pool) (string, error) { return p.takeOut("maint", e.Server, adminMaint) }

// takeOut does what the operator asked for. The last server of a stateless
// service may go, if the operator wants to.
func (p *Pool) takeOut(do, name string, to admin) (string, error) {
	i, s, err := p.named(do, name)
	if err != nil {
		return "", err
	}
	why := do + " by the operator"
	if p.stateful && !s.stale {
		if !p.othersServe(i) {
			return "", p.lastServer(do, i)
		}
		p.eject(i, why)
	}
	if !p.stateful && to == adminMaint && s.admin != adminMaint {
		p.emit(DropLegs{i, why})
	}
	s.admin = to
	return why, nil
}

func (e Ready) apply(p *Pool) (string, error) {
	i, s, err := p.named("make ready", e.Server)
	if err != nil {
		return "", err
	}
	if s.stale {
		if err := p.refuseReady(i, e.ResetConnections); err != nil {
			return "", fmt.Errorf("make server %s of service %s ready: %w", s.name, p.service, err)
		}
	}
	if e.ResetConnections && (s.stale || !s.serves() || s.joining) {
		p.resetLacking(i)
	}
	if s.stale {
		s.stale = false
		p.emit(ClearStale{i})
	}
	s.admin, s.waits = adminNone, false
	return "ready by the operator", nil
}

// refuseReady says what stands in the way of making a stale server ready.
func (p *Pool) refuseReady(i int, reset bool) error {
	s := &p.servers[i]
	lacking := len(p.conns) - s.legs
	switch {
	case s.recording:
		return fmt.Errorf("%w: that it is stale is still being written to disk; try again", ErrNotReady)
	case !s.healthy:
		return fmt.Errorf("%w: its health check fails; start it first", ErrNotReady)
	case !p.frozen:
		return fmt.Errorf("%w: the service is not frozen; freeze it, copy the data, then try again", ErrNotReady)
	case lacking > 0 && !reset:
		return fmt.Errorf("%w: %d connections have no leg there; wait for them to end, or reset them "+
			"(--reset-connections)", ErrNotReady, lacking)
	}
	return nil
}

// resetLacking has the connections reset that are short of legs and have none
// at server i. Of a stateful service these are all that have none there.
func (p *Pool) resetLacking(i int) {
	ids := p.sortedConns(func(c *conn) bool { return c.count() < p.legs && !c.has(i) })
	if len(ids) > 0 {
		p.emit(ResetConnections{i, ids})
	}
}

func (Freeze) apply(p *Pool) (string, error) {
	p.frozen = true
	return "", nil
}

func (Thaw) apply(p *Pool) (string, error) {
	p.frozen = false
	return "", nil
}
