package pool

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"sttcp/configs"
)

// note tells the model what was said, and what became of it.
func (w *world) note(ev Event, err error) error {
	switch {
	case errors.Is(err, ErrLastServer):
		w.seen["last server"]++
		return w.noteRefusal(ev)
	case errors.Is(err, ErrNotReady):
		w.seen["not ready"]++
		return nil
	case err != nil:
		return nil
	}
	switch e := ev.(type) {
	case LegFailed:
		w.noteFailure(e.Conn, e.Server, false)
	case Diverged:
		if !w.svc.Stateful && !w.othersServe(e.Server) {
			return errors.New("the last server was ejected")
		}
		w.noteFailure(e.Conn, e.Server, true)
	case LegDropped:
		delete(w.links[e.Conn].legs, e.Server)
	case ConnClosed:
		delete(w.links, e.Conn)
	case HealthUp:
		w.noteHealth(e.Server, e.Gen, true)
	case HealthDown:
		w.noteHealth(e.Server, e.Gen, false)
	default:
		return w.noteOrder(ev)
	}
	return nil
}

func (w *world) noteHealth(s int, gen uint64, up bool) {
	m := &w.machines[s]
	switch {
	case gen != m.gen:
	case up:
		m.healthy, m.failed = true, false
	case m.healthy:
		m.healthy = false
		w.wentDown(m)
	}
}

func (w *world) wentDown(m *machine) {
	m.outage = w.now
	m.waits = !w.svc.Stateful && w.svc.Rejoin == configs.RejoinManual
}

// noteFailure: the connection now waits to go on without its leg. Of a
// stateless service, the server is out until a verdict from afresh.
func (w *world) noteFailure(id ConnID, s int, diverged bool) {
	l, m := w.links[id], &w.machines[s]
	had := l.legs[s]
	l.holding = s
	if w.svc.Stateful {
		return
	}
	delete(l.legs, s)
	news := had && l.opened > m.outage && (w.othersServe(s) || !m.serves())
	if (diverged || news) && m.healthy && !m.failed {
		m.failed = true
		m.gen++
		w.wentDown(m)
	}
}

func (w *world) othersServe(s int) bool {
	for i := range w.machines {
		if i != s && w.machines[i].serves() {
			return true
		}
	}
	return false
}

// noteRefusal: the last server is really the last.
func (w *world) noteRefusal(ev Event) error {
	s := none
	switch e := ev.(type) {
	case LegFailed:
		s = e.Server
		if w.rng.IntN(2) == 0 { // the leg is really gone: the connection is to be reset
			w.links[e.Conn].doomed = true
		}
	case Diverged:
		s = e.Server
	case Drain:
		s = w.index(e.Server)
	case Maint:
		s = w.index(e.Server)
	}
	if w.othersServe(s) {
		return errors.New("refused as the last server, which it is not")
	}
	return nil
}

func (w *world) noteOrder(ev Event) error {
	switch e := ev.(type) {
	case Drain:
		w.machines[w.index(e.Server)].admin = StateDrain
	case Maint:
		w.machines[w.index(e.Server)].admin = StateMaint
	case Ready:
		return w.noteReady(w.index(e.Server), e.ResetConnections)
	case Freeze:
		w.frozen = true
	case Thaw:
		w.frozen = false
	}
	return nil
}

func (w *world) noteReady(s int, reset bool) error {
	m := &w.machines[s]
	m.admin, m.waits = StateUp, false
	if m.stale && (!w.frozen || !m.healthy) {
		return errors.New("a stale server was made ready that is down, or while bytes flow")
	}
	for id, l := range w.links {
		if m.stale && !reset && !l.legs[s] {
			return fmt.Errorf("server %d was made ready, connection %d has no leg there", s, id)
		}
	}
	return nil
}

func (w *world) index(name string) int {
	return slices.IndexFunc(w.svc.Servers, func(s configs.Server) bool { return s.Name == name })
}

// finish takes the outputs of the step and checks everything.
func (w *world) finish(err error) error {
	if err != nil {
		return err
	}
	wasAllDown := w.allDown
	for out := w.p.Take(); len(out) > 0; out = w.p.Take() {
		for _, o := range out {
			w.seen[fmt.Sprintf("%T", o)[len("pool."):]]++
			if err := w.do(o); err != nil {
				return fmt.Errorf("%#v: %w", o, err)
			}
		}
	}
	w.join()
	if w.allDown = w.everyoneDown(); w.allDown != w.p.AllDown() || w.saidAllDown != (w.allDown && !wasAllDown) {
		return fmt.Errorf("all down: %v, was %v, pool %v, said %v", w.allDown, wasAllDown, w.p.AllDown(), w.saidAllDown)
	}
	for _, check := range []func() error{w.checkStates, w.checkSafety, w.checkAnswers, w.checkDisk, w.checkCounts} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

// do carries an output out, or queues it for the disk.
func (w *world) do(o Output) error {
	switch o := o.(type) {
	case PersistStale:
		w.machines[o.Server].stale = true
		w.writes = append(w.writes, o)
	case ClearStale:
		w.machines[o.Server].stale = false
		w.writes = append(w.writes, o)
	case EjectRecorded:
		return w.release(o)
	case DropLegs:
		return w.dropLegs(o.Server)
	case ResetConnections:
		for _, id := range o.Conns {
			w.links[id].doomed = true
		}
	case Recheck:
		if o.Gen != w.machines[o.Server].gen {
			return fmt.Errorf("the model has generation %d", w.machines[o.Server].gen)
		}
	case AllDown:
		w.saidAllDown = true
	case StateChanged:
		return w.shown(o)
	}
	return nil
}

func (w *world) shown(o StateChanged) error {
	m := &w.machines[o.Server]
	if o.From != m.shown || o.To == o.From {
		return fmt.Errorf("it was %s", m.shown)
	}
	m.shown = o.To
	w.seen[o.To.String()]++
	return nil
}

// release: from here on a connection does without the server.
func (w *world) release(o EjectRecorded) error {
	if w.svc.Stateful && !w.disk[o.Server] {
		return errors.New("the disk does not have it")
	}
	for _, id := range o.Conns {
		l := w.links[id]
		if l == nil || l.holding != o.Server {
			return fmt.Errorf("connection %d does not wait for it: %+v", id, l)
		}
		l.holding = none
		delete(l.legs, o.Server)
	}
	return nil
}

// dropLegs: all legs there go, but the last one of a stateless connection; and
// some stateless ones never report.
func (w *world) dropLegs(s int) error {
	if w.svc.Stateful && !w.disk[s] {
		return errors.New("the disk does not have it")
	}
	for id, l := range w.links {
		if w.svc.Stateful {
			delete(l.legs, s)
		} else if l.legs[s] && len(l.legs) > 1 && id%3 > 0 {
			delete(l.legs, s)
			if err := w.p.Step(LegDropped{id, s}); err != nil {
				return err
			}
		}
	}
	return nil
}

// join keeps the model's idea of who is joining, and since when.
func (w *world) join() {
	for i := range w.machines {
		m := &w.machines[i]
		if now := m.serves(); now != m.served {
			m.served, m.joining, m.joined = now, now, w.now
		}
		m.joining = m.joining && w.lacking(i) > 0
	}
}

// lacking counts the connections that server i, joining, waits for.
func (w *world) lacking(i int) int {
	n := 0
	for _, l := range w.links {
		if l.opened < w.machines[i].joined && len(l.legs) < w.svc.Legs && !l.legs[i] {
			n++
		}
	}
	return n
}

func (w *world) everyoneDown() bool {
	for _, m := range w.machines {
		if m.healthy && !m.stale {
			return false
		}
	}
	return true
}

func (m *machine) state() State {
	switch {
	case m.stale:
		return StateStale
	case m.admin != StateUp:
		return m.admin
	case !m.serves():
		return StateDown
	case m.joining:
		return StateJoining
	}
	return StateUp
}

// checkStates: what is shown is what the model says, and was reported. The
// last server in sync is never given up.
func (w *world) checkStates() error {
	stale := 0
	for i, s := range w.p.Servers() {
		m := &w.machines[i]
		if s.State != m.state() || s.State != m.shown || s.Healthy != m.healthy {
			return fmt.Errorf("server %d is %+v, the model says %s, reported was %s", i, s, m.state(), m.shown)
		}
		if m.stale {
			stale++
		} else if w.svc.Stateful && m.admin != StateUp {
			return fmt.Errorf("server %d was taken out, but is not stale", i)
		}
	}
	if stale == len(w.machines) {
		return errors.New("all servers are stale")
	}
	return nil
}

// checkSafety: whoever goes on without a server of a stateful service has it
// on disk that the server is stale.
func (w *world) checkSafety() error {
	for id, l := range w.links {
		for i := range w.machines {
			if !w.svc.Stateful || l.doomed || l.legs[i] || l.holding == i {
				continue
			}
			if !w.disk[i] || !w.machines[i].stale {
				return fmt.Errorf("connection %d goes on without server %d, which is in sync", id, i)
			}
		}
	}
	return nil
}

// checkAnswers: whoever waits for an answer will get it.
func (w *world) checkAnswers() error {
	for id, l := range w.links {
		if l.holding != none && !slices.ContainsFunc(w.writes, func(o Output) bool {
			p, ok := o.(PersistStale)
			return ok && p.Server == l.holding
		}) {
			return fmt.Errorf("connection %d waits for server %d in vain", id, l.holding)
		}
	}
	return nil
}

// checkDisk: when all is written the disk says what is so.
func (w *world) checkDisk() error {
	disk := maps.Clone(w.disk)
	for _, o := range w.writes {
		switch o := o.(type) {
		case PersistStale:
			disk[o.Server] = true
		case ClearStale:
			delete(disk, o.Server)
		}
	}
	for i, m := range w.machines {
		if disk[i] != m.stale {
			return fmt.Errorf("disk will say %v of server %d, stale is %v", disk[i], i, m.stale)
		}
	}
	return nil
}

// checkCounts: counts that are kept are what counting gives.
func (w *world) checkCounts() error {
	open, full := w.p.Connections()
	want := 0
	for _, c := range w.p.conns {
		if c.count() == w.svc.Legs {
			want++
		}
	}
	if open != len(w.links) || full != want {
		return fmt.Errorf("%d connections, %d full; want %d, %d", open, full, len(w.links), want)
	}
	for i, s := range w.p.Servers() {
		legs, primaries := 0, 0
		for _, c := range w.p.conns {
			if c.has(i) {
				legs++
			}
			if c.legs[0] == i {
				primaries++
			}
		}
		if s.Legs != legs || s.Primaries != primaries || (s.State == StateJoining) != (s.Lacking > 0) {
			return fmt.Errorf("%+v: want %d legs, %d as primary", s, legs, primaries)
		}
		if m := &w.machines[i]; m.joining && s.Lacking != w.lacking(i) {
			return fmt.Errorf("%+v: want %d lacking", s, w.lacking(i))
		}
	}
	return nil
}
