package proxy

import (
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"sttcp/configs"
	"sttcp/proxy/pool"
	"sttcp/proxy/stream"
)

// service is one configured service: its listeners, its servers, its
// connections.
type service struct {
	// Constant after addService.
	cfg     *configs.Service
	dest    []netip.Addr // what clients connect to
	vips    []netip.Addr // where legs leave from with `source: vip`
	core    stream.Config
	log     *slog.Logger
	gate    Gate
	workers []*worker
	ports   *ports
	store   Store
	checks  checker
	count   counters
	lines   brake
	stop    chan struct{}    // closed when the service is to end
	disk    chan pool.Output // to be done by write, in order
	ended   sync.WaitGroup

	leaving chan struct{}  // closed with closed, for who may not hold mu
	redials sync.WaitGroup // of dialAgain

	// admit is held from the look for room to the SYNs of a new connection, by
	// whatever acceptor, and while the service is frozen or thawed: so who is
	// not told of a freeze is not let in. Taken before dialing and mu. What it
	// is held over does not block, but for loops and redials, which never take
	// it.
	admit sync.Mutex

	// dialing keeps the SYNs of two connections in one order towards all
	// servers.
	dialing sync.Mutex

	mu     sync.Mutex // guards all that follows
	pool   *pool.Pool
	conns  map[pool.ConnID]*conn
	lastID pool.ConnID
	queue  []pool.Output // to be done by run, in order
	wake   chan struct{} // has one when queue is not empty
	resume *sync.Cond    // accepting may go on
	since  []time.Time   // by server: when its state changed
	closed bool          // no new connections
}

// Store is where it is written down, synced, that a server is stale.
type Store interface {
	Mark(service, server, reason string, at time.Time) error
	Clear(service, server string) error
}

// checker is what a service has of its health checks.
type checker interface {
	// ProbeNow checks server once, beginning after the call, and calls back
	// from another goroutine. It shares a check that others wait for.
	ProbeNow(server int, result func(up bool))
	// Recheck forgets what was counted for server; verdicts carry gen.
	Recheck(server int, gen uint64)
	Run()
	Close()
}

// coreConfig translates what a service says about its connections.
func coreConfig(s *configs.Service) stream.Config {
	return stream.Config{
		Legs:    s.Legs,
		Both:    s.Release == configs.ReleaseBoth,
		Compare: map[configs.CompareMode]stream.Compare{configs.CompareExact: stream.Exact, configs.CompareLength: stream.Length, configs.CompareOff: stream.Off}[s.Compare.Mode],
		Masks:   s.Compare.Mask,
		Report:  s.Compare.Report,
		OnDivergence: map[configs.OnDivergence]stream.OnDivergence{configs.DivergeMute: stream.Mute,
			configs.DivergeEject: stream.Eject, configs.DivergeReset: stream.Reset}[s.OnDivergence],
		Stateful: s.Stateful,
		Buffer:   s.Buffer,
		Connect:  s.Timeout.Connect,
		Idle:     s.Timeout.Idle,
		FinDelay: s.FinDelay,
		Suspect:  s.Lag.Suspect,
		Limit:    s.Lag.Limit,
	}
}

// update changes the pool and has run do what follows from it.
func (s *service) update(change func(p *pool.Pool) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	err := change(s.pool)
	s.queue = append(s.queue, s.pool.Take()...)
	if len(s.queue) > 0 {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
	return err
}

func (s *service) event(ev pool.Event) error {
	return s.update(func(p *pool.Pool) error { return p.Step(ev) })
}

// run does what the pool asks for, in order, until the service ends, and then
// what is still to be done: a server that the last connection found wanting is
// stale after a restart, too.
func (s *service) run() {
	defer close(s.disk)
	for stopping := false; !stopping; {
		select {
		case <-s.stop:
			stopping = true
		case <-s.wake:
		}
		for _, out := range s.take() {
			s.do(out)
		}
	}
}

func (s *service) take() []pool.Output {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.queue
	s.queue = nil
	return out
}

func (s *service) do(out pool.Output) {
	switch out := out.(type) {
	case pool.PersistStale, pool.ClearStale:
		s.disk <- out // there is room, see diskQueue
	case pool.EjectRecorded:
		for _, id := range out.Conns {
			if c := s.find(id); c != nil {
				c.tell(c.recorded)
			}
		}
	case pool.DropLegs:
		s.dropLegs(out.Server, s.dropReason())
	case pool.ResetConnections:
		s.cut(out.Conns)
	case pool.Recheck:
		s.checks.Recheck(out.Server, out.Gen)
	case pool.ProbeNow:
		s.checks.ProbeNow(out.Server, func(bool) {})
	case pool.AllDown:
		s.allDown()
	case pool.StateChanged:
		s.changed(out)
	}
}

// diskQueue returns how many writes may wait: a server is not made ready before
// it is recorded as stale, so there is never more than that, and the clearing
// of the time before.
func diskQueue(servers int) int { return 2 * servers }

// write keeps the store. Nobody else waits for the disk, which may be slow, or
// broken for long: health, the operator's orders and all servers down go on.
func (s *service) write() {
	for out := range s.disk {
		switch out := out.(type) {
		case pool.PersistStale:
			s.persist(out)
		case pool.ClearStale:
			s.clear(out.Server)
		}
	}
}

// dropReason is what connections are told when their server is given up: of a
// stateful service it was lost elsewhere; of another the operator wants it.
func (s *service) dropReason() stream.Reason {
	if s.cfg.Stateful {
		return stream.ReasonEjected
	}
	return stream.ReasonOperator
}

// persist writes down that a server is stale, and tries again until it is
// written: the connections concerned hold back what depends on it.
func (s *service) persist(out pool.PersistStale) {
	name := s.cfg.Servers[out.Server].Name
	for {
		err := s.store.Mark(s.cfg.Name, name, out.Reason, time.Now())
		if err == nil {
			break
		}
		s.log.Error("server could not be recorded as stale; connections wait", "server", name, "error", err)
		select {
		case <-s.stop:
			return
		case <-time.After(time.Second):
		}
	}
	if err := s.event(pool.StaleRecorded{Server: out.Server}); err != nil {
		s.log.Error("ejection could not be completed", "server", name, "error", err)
	}
}

func (s *service) clear(server int) {
	name := s.cfg.Servers[server].Name
	if err := s.store.Clear(s.cfg.Name, name); err != nil {
		s.log.Error("server is ready, but will be stale again after a restart of the gateway", "server", name, "error", err)
	}
}

// find returns an open connection, or nil.
func (s *service) find(id pool.ConnID) *conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns[id]
}

// all returns the open connections.
func (s *service) all() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]*conn, 0, len(s.conns))
	for _, c := range s.conns {
		out = append(out, c)
	}
	return out
}

// dropLegs has every connection drop its leg at server.
func (s *service) dropLegs(server int, why stream.Reason) {
	for _, c := range s.all() {
		if l, ok := c.legAt(server); ok {
			c.tell(func() { c.happen(stream.Event{Type: stream.Ejected, Leg: l, Why: why}) })
		}
	}
}

func (s *service) allDown() {
	s.mu.Lock()
	still := s.pool.AllDown()
	s.mu.Unlock()
	if !still {
		return
	}
	s.log.Error("all servers are down; connections are reset")
	for _, c := range s.all() {
		c.tell(func() { c.happen(stream.Event{Type: stream.AllDown}) })
	}
}

// cut ends connections and waits until they are silent.
func (s *service) cut(ids []pool.ConnID) {
	var conns []*conn
	for _, id := range ids {
		if c := s.find(id); c != nil {
			conns = append(conns, c)
		}
	}
	await(conns, func(c *conn) { c.cut(stream.ReasonOperator) })
}

// await has f called for each of conns by its loop, and waits for that.
func await(conns []*conn, f func(*conn)) {
	var wg sync.WaitGroup
	for _, c := range conns {
		wg.Add(1)
		if !c.call(func() { defer wg.Done(); f(c) }) {
			wg.Done()
		}
	}
	wg.Wait()
}

func (s *service) changed(out pool.StateChanged) {
	s.mu.Lock()
	s.since[out.Server] = time.Now()
	s.mu.Unlock()
	s.log.Warn("server state", "server", s.cfg.Servers[out.Server].Name,
		"from", out.From, "to", out.To, "reason", out.Reason)
}

// legFailed tells the service that c lost a leg to a failure. With nil,
// c.recorded is called when that may show. An error means that the leg has to
// be kept.
func (s *service) legFailed(c *conn, l stream.Leg, why stream.Reason) error {
	server := c.servers[l]
	if why == stream.ReasonDiverged {
		return s.event(pool.Diverged{Conn: c.id, Server: server, Reason: why.String()})
	}
	return s.event(pool.LegFailed{Conn: c.id, Server: server, Reason: why.String()})
}

// legDropped tells the service that c does without a leg for no fault of the
// server's. A stateful service has counted that already.
func (s *service) legDropped(c *conn, l stream.Leg, why stream.Reason) {
	switch why {
	case stream.ReasonEjected, stream.ReasonOperator, stream.ReasonDown, stream.ReasonClosed:
	default:
		return
	}
	if !s.cfg.Stateful {
		s.expect(s.event(pool.LegDropped{Conn: c.id, Server: c.servers[l]}))
	}
}

// over forgets a connection.
func (s *service) over(c *conn) {
	s.expect(s.update(func(p *pool.Pool) error {
		delete(s.conns, c.id)
		s.mayResume()
		return p.Step(pool.ConnClosed{Conn: c.id})
	}))
}

// expect logs an error that can't be, if our bookkeeping is right.
func (s *service) expect(err error) {
	if err != nil {
		s.log.Error("bookkeeping of connections is wrong", "error", err)
	}
}

// probe checks the servers of c's legs and tells c what was found.
func (s *service) probe(c *conn, seq uint64) {
	for l, server := range c.servers {
		if server < 0 {
			continue
		}
		ev := stream.Event{Type: stream.Verdict, Leg: stream.Leg(l), Seq: seq}
		s.checks.ProbeNow(server, func(up bool) {
			ev.Up = up
			c.tell(func() { c.happen(ev) })
		})
	}
}

// health takes a verdict of the checks (rise or fall reached).
func (s *service) health(server int, up bool, gen uint64, err error) {
	if up {
		s.expect(s.event(pool.HealthUp{Server: server, Gen: gen}))
		return
	}
	var lost bool // by this verdict, which may be an old one
	s.expect(s.update(func(p *pool.Pool) error {
		was := p.Servers()[server].Healthy
		err := p.Step(pool.HealthDown{Server: server, Gen: gen, Reason: fmt.Sprintf("health check failed: %v", err)})
		lost = was && !p.Servers()[server].Healthy
		return err
	}))
	if lost && !s.cfg.Stateful {
		s.dropLegs(server, stream.ReasonDown)
	}
}

// freeze stops, or thaws, reading from all clients.
func (s *service) freeze(on bool) {
	s.admit.Lock()
	defer s.admit.Unlock()
	ev, what := pool.Event(pool.Thaw{}), stream.Thaw
	if on {
		ev, what = pool.Freeze{}, stream.Freeze
	}
	s.expect(s.update(func(p *pool.Pool) error {
		err := p.Step(ev)
		s.mayResume()
		return err
	}))
	await(s.all(), func(c *conn) { c.happen(stream.Event{Type: what}) })
	s.log.Warn("service frozen", "frozen", on)
}
