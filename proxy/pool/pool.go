package pool

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"sttcp/configs"
)

// What Step refuses. The errors wrap one of these.
var (
	// ErrLastServer: no other server is up and in sync, and the last one is
	// never ejected.
	ErrLastServer = errors.New("no other server is up and in sync")
	// ErrNotReady: the server cannot be made ready now; the text says what to do.
	ErrNotReady = errors.New("refused")
	// ErrUnknownServer: the service has no server of that name or number.
	ErrUnknownServer = errors.New("no such server")
	// ErrUnknownConn: no such connection is open, or it has no leg there.
	ErrUnknownConn = errors.New("no such connection or leg")
)

// Pool is the state of one service's servers.
type Pool struct {
	// Constant after New.
	service  string
	legs     int
	stateful bool
	manual   bool // rejoin: manual, of a stateless service
	balance  configs.Balance

	// Changed by Step and Pick alone.
	servers []server
	conns   map[ConnID]*conn
	full    int    // connections with all their legs
	epoch   uint64 // raised when a server joins or goes down
	turn    uint64 // connections opened so far, for round robin
	frozen  bool
	allDown bool
	out     []Output
}

// New returns the pool of a valid service. All servers are up but those that
// are named in stale, as recorded on disk; names that the service does not
// have are ignored, as are all of them when it is stateless. Every server may
// be stale: then no connection can be had until the operator makes one ready.
func New(svc configs.Service, stale []string) *Pool {
	p := &Pool{
		service:  svc.Name,
		legs:     svc.Legs,
		stateful: svc.Stateful,
		manual:   !svc.Stateful && svc.Rejoin == configs.RejoinManual,
		balance:  svc.Balance,
		servers:  make([]server, len(svc.Servers)),
		conns:    make(map[ConnID]*conn),
	}
	for i := range p.servers {
		s := &p.servers[i]
		s.name, s.healthy = svc.Servers[i].Name, true
		s.stale = svc.Stateful && slices.Contains(stale, s.name)
		s.shown, s.served = s.state(), s.serves()
	}
	p.allDown = p.everyoneDown()
	return p
}

// Step takes one event. An error means that the event was refused and changed
// nothing; it wraps one of this package's errors and is a sentence for the
// operator where the event is the operator's.
func (p *Pool) Step(ev Event) error {
	why, err := ev.apply(p)
	p.settle(why)
	return err
}

// Take returns what is to be done since the last Take, in order.
func (p *Pool) Take() []Output {
	out := p.out
	p.out = nil
	return out
}

// Status is one server as it is shown.
type Status struct {
	Name      string
	State     State
	Healthy   bool // the checks' verdict, whatever the state
	Recording bool // stale, but not yet on disk
	Legs      int  // connections with a leg there
	Primaries int  // of these, connections that have it as primary
	Lacking   int  // joining: connections still waited for
}

// Servers returns the state of all servers.
func (p *Pool) Servers() []Status {
	out := make([]Status, len(p.servers))
	for i := range p.servers {
		s := &p.servers[i]
		out[i] = Status{s.name, s.state(), s.healthy, s.recording, s.legs, s.primaries, s.lacking}
	}
	return out
}

// Connections returns how many connections are open and how many of them have
// all the legs that the service asks for.
func (p *Pool) Connections() (open, full int) { return len(p.conns), p.full }

// Frozen reports whether the service is frozen. While it is, the owner had
// better not open connections: one without a leg at a stale server stands in
// the way of Ready.
func (p *Pool) Frozen() bool { return p.frozen }

// AllDown reports whether the checks have every server down that may hold a
// leg.
func (p *Pool) AllDown() bool { return p.allDown }

func (p *Pool) emit(o Output) { p.out = append(p.out, o) }

// server returns server i, or nil.
func (p *Pool) server(i int) *server {
	if i < 0 || i >= len(p.servers) {
		return nil
	}
	return &p.servers[i]
}

// named finds the server of that name, for an operator who asked to do so.
func (p *Pool) named(do, name string) (int, *server, error) {
	var known []string
	for i := range p.servers {
		if p.servers[i].name == name {
			return i, &p.servers[i], nil
		}
		known = append(known, p.servers[i].name)
	}
	return none, nil, fmt.Errorf("%s %q: %w in service %s, which has %s",
		do, name, ErrUnknownServer, p.service, strings.Join(known, ", "))
}

// settle derives everything that follows from a step: servers that return
// join, states that changed are reported, and whether all are down.
func (p *Pool) settle(why string) {
	for i := range p.servers {
		s := &p.servers[i]
		if now := s.serves(); now != s.served {
			s.served = now
			p.setJoining(i, now)
		}
		if s.lacking == 0 {
			s.joining = false
		}
		if now := s.state(); now != s.shown {
			p.emit(StateChanged{i, s.shown, now, why})
			s.shown = now
		}
	}
	was := p.allDown
	if p.allDown = p.everyoneDown(); p.allDown && !was {
		p.emit(AllDown{})
	}
}

// setJoining starts (or ends) the wait for the connections that are short of
// legs and were opened before now.
func (p *Pool) setJoining(i int, on bool) {
	s := &p.servers[i]
	p.epoch++
	s.joining, s.joinedAt, s.lacking = on, p.epoch, 0
	for _, c := range p.conns {
		if p.lacks(c, i) {
			s.lacking++
		}
	}
}

// lacks reports whether server i, joining, waits for c to end.
func (p *Pool) lacks(c *conn, i int) bool {
	s := &p.servers[i]
	return s.joining && c.epoch < s.joinedAt && c.count() < p.legs && !c.has(i)
}

// everyoneDown looks at the checks' verdicts alone. A server in drain or maint
// may hold somebody's last leg; a stale one holds none.
func (p *Pool) everyoneDown() bool {
	return !slices.ContainsFunc(p.servers, func(s server) bool { return s.healthy && !s.stale })
}

// othersServe reports whether the service can do without server i.
func (p *Pool) othersServe(i int) bool {
	for k := range p.servers {
		if k != i && p.servers[k].serves() {
			return true
		}
	}
	return false
}

// change alters c and keeps every count that depends on it.
func (p *Pool) change(c *conn, alter func()) {
	p.tally(c, -1)
	alter()
	p.tally(c, +1)
}

// tally adds (d = 1) or takes away (d = -1) what c contributes to the counts.
func (p *Pool) tally(c *conn, d int) {
	if c.count() == p.legs {
		p.full += d
	}
	if c.legs[0] != none {
		p.servers[c.legs[0]].primaries += d
	}
	for i := range p.servers {
		if c.has(i) {
			p.servers[i].legs += d
		}
		if p.lacks(c, i) {
			p.servers[i].lacking += d
		}
	}
}

// sortedConns returns the ids of the connections that match, ascending.
func (p *Pool) sortedConns(match func(*conn) bool) []ConnID {
	var ids []ConnID
	for id, c := range maps.All(p.conns) {
		if match(c) {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}
