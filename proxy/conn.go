package proxy

import (
	"log/slog"
	"net/netip"
	"time"

	"sttcp/proxy/epoll"
	"sttcp/proxy/pool"
	"sttcp/proxy/stream"
)

// rounds bounds how often a connection moves bytes before others get a turn.
const rounds = 8

// ackPoll is how often the servers' acknowledgements are asked for while they
// matter. It is a part of lag.suspect, not of any byte's way.
const ackPoll = 25 * time.Millisecond

// conn is one client connection: its sockets, and the core that decides. All
// of it is owned by its loop's goroutine.
type conn struct {
	// Constant after start.
	svc     *service
	loop    *epoll.Loop
	worker  *worker
	client  netip.AddrPort
	dest    netip.AddrPort
	id      pool.ConnID
	servers [2]int // by leg: index of the server in the service
	head    uint64 // length of the PROXY header, which comes before the client's bytes

	core  *stream.Conn
	k0    sock
	leg   [2]sock
	timer epoll.Timer

	published uint64   // last record asked for
	confirmed uint64   // last record confirmed
	refused   uint64   // record whose leg has to be kept
	waits     int      // answers of the service that come before any confirmation
	early     []func() // what came before start
	started   bool
	running   bool // in pump
	again     bool // something happened meanwhile
	queued    bool // another turn was asked for
	closed    bool
}

// ready is called when epoll had something to say about s.
func (c *conn) ready(s *sock) {
	if s.dialing && (s.writable || s.ended) {
		c.dialed(s)
	}
	c.pump()
}

func (c *conn) dialed(s *sock) {
	s.dialing = false
	l := c.legOf(s)
	if err := s.dialed(); err != nil {
		c.log().Debug("leg refused", "server", c.serverName(l), "error", err)
		c.step(stream.Event{Type: stream.LegRefused, Leg: l})
		return
	}
	c.step(stream.Event{Type: stream.LegConnected, Leg: l})
}

func (c *conn) legOf(s *sock) stream.Leg {
	if s == &c.leg[0] {
		return 0
	}
	return 1
}

func (c *conn) serverName(l stream.Leg) string { return c.svc.cfg.Servers[c.servers[l]].Name }

// pump moves bytes as long as something moves, at most for a few rounds.
func (c *conn) pump() {
	if c.running {
		c.again = true
		return
	}
	c.running = true
	for i := 0; i < rounds && !c.closed; i++ {
		c.again = false
		if !c.round() && !c.again {
			break
		}
		if i == rounds-1 {
			c.worker.requeue(c)
		}
	}
	c.running = false
	if !c.closed {
		c.core.Trim()
		c.rearm()
	}
}

// round gives every socket one chance and reports whether anything moved.
// Answers first: they make room.
func (c *conn) round() bool {
	moved := c.writeClient()
	for l := range stream.Leg(2) {
		moved = c.readLeg(l) || moved
	}
	moved = c.writeClient() || moved
	moved = c.readClient() || moved
	for l := range stream.Leg(2) {
		moved = c.writeLeg(l) || moved
	}
	return moved
}

func (c *conn) readClient() bool {
	if !c.k0.readable {
		return false
	}
	if c.k0.atMark() && c.core.ClientSpace() != nil {
		c.step(stream.Event{Type: stream.ClientUrgent})
	}
	b := c.core.ClientSpace() // not from before a step
	if b == nil {
		return c.clientLeft(c.k0.peekEnd())
	}
	n, what := c.k0.read(b)
	if what == readBytes {
		c.step(stream.Event{Type: stream.ClientRead, N: n})
		c.svc.count.bytesIn.Add(uint64(n))
		return true
	}
	return c.clientLeft(what)
}

// clientLeft tells the core how the client ended its side, if it did. A client
// whose bytes may not be read (its service is frozen) may go all the same.
func (c *conn) clientLeft(what readResult) bool {
	switch what {
	case readFIN:
		c.step(stream.Event{Type: stream.ClientFIN})
	case readRST:
		c.step(stream.Event{Type: stream.ClientRST})
	}
	return what != readNothing
}

func (c *conn) readLeg(l stream.Leg) bool {
	s := &c.leg[l]
	if !s.readable || s.dialing {
		return false
	}
	if s.atMark() && c.core.LegSpace(l) != nil {
		c.step(stream.Event{Type: stream.LegUrgent, Leg: l})
	}
	b := c.core.LegSpace(l)
	if b == nil {
		return c.legLeft(l, s.lost())
	}
	n, what := s.read(b)
	if what == readBytes {
		c.step(stream.Event{Type: stream.LegRead, Leg: l, N: n})
		return true
	}
	return c.legLeft(l, what)
}

// legLeft tells the core how leg l's server ended its side, if it did; and
// first what that has acknowledged: whether it had everything decides what its
// end means.
func (c *conn) legLeft(l stream.Leg, what readResult) bool {
	end := stream.LegFIN
	switch what {
	case readNothing:
		return false
	case readRST:
		end = stream.LegRST
	}
	c.learnAck(l)
	c.step(stream.Event{Type: end, Leg: l})
	return true
}

func (c *conn) writeClient() bool {
	b, urgent := c.core.ToClient()
	if len(b) == 0 || !c.k0.writable {
		return false
	}
	n := c.k0.write(b, urgent)
	c.step(stream.Event{Type: stream.ClientWrote, N: n})
	c.svc.count.bytesOut.Add(uint64(n))
	return n > 0
}

func (c *conn) writeLeg(l stream.Leg) bool {
	b, urgent := c.core.ToLeg(l)
	if len(b) == 0 || !c.leg[l].writable {
		return false
	}
	n := c.leg[l].write(b, urgent)
	c.step(stream.Event{Type: stream.LegWrote, Leg: l, N: n})
	return n > 0
}

// step gives the core an event and does what it asks for.
func (c *conn) step(e stream.Event) {
	e.Now = c.loop.Now()
	c.core.Step(e)
	acts := c.core.Actions()
	for i := range acts {
		c.perform(&acts[i])
	}
	c.again = true
	c.confirm()
}

// confirm tells the core that its records are where they have to be. Alone,
// and without the gate, that is nowhere; but while the service writes down
// that a server is stale, what may depend on it has to wait.
func (c *conn) confirm() {
	switch seq := c.refused; {
	case c.closed:
	case seq != 0:
		c.refused = 0
		c.step(stream.Event{Type: stream.Refused, Seq: seq})
	case c.waits == 0 && c.confirmed != c.published:
		c.confirmed = c.published
		c.step(stream.Event{Type: stream.Confirmed, Seq: c.confirmed})
	}
}

// call has f called by the loop once c has started, even if it is over by then,
// and reports whether it will be. The service knows a connection before its
// loop does.
func (c *conn) call(f func()) bool {
	return c.loop.Post(func() {
		if c.started {
			f()
			return
		}
		c.early = append(c.early, f)
	})
}

// tell has f called by the loop, if the connection is not over by then.
func (c *conn) tell(f func()) {
	c.call(func() {
		if !c.closed {
			f()
		}
	})
}

// happen gives the core an event that came from elsewhere, and moves on.
func (c *conn) happen(e stream.Event) {
	if c.closed {
		return
	}
	c.step(e)
	c.pump()
}

// start gives c to its loop. failed are legs that could not even be tried.
func (c *conn) start(failed [2]error) {
	c.timer.F = c.tick
	c.worker.conns[c] = struct{}{}
	c.started = true
	if err := c.watch(failed); err != nil {
		c.svc.count.refused.Add(1)
		c.svc.warn(c.log(), "connection refused", "error", err)
		c.cut(stream.ReasonNoServer)
	}
	for _, f := range c.early {
		f()
	}
	c.early = nil
	c.pump()
}

// watch has the loop tell of the sockets. An error is a failure of this
// machine (no descriptor, no port, no memory), and no server's.
func (c *conn) watch(failed [2]error) error {
	if err := ours(failed); err != nil {
		return err
	}
	if err := c.loop.Add(c.k0.fd, &c.k0); err != nil {
		return err
	}
	c.step(stream.Event{Type: stream.Gap}) // the time it took us to come here does not count
	for l := range stream.Leg(2) {
		switch err := failed[l]; {
		case err != nil:
			c.svc.warn(c.log(), "leg could not be tried", "server", c.serverName(l), "error", err)
			c.step(stream.Event{Type: stream.LegRefused, Leg: l})
		case c.leg[l].fd >= 0:
			if err := c.loop.Add(c.leg[l].fd, &c.leg[l]); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *conn) log() *slog.Logger { return c.svc.log.With("client", c.client) }

// tick is what the timer calls.
func (c *conn) tick() {
	for l := range stream.Leg(2) {
		c.learnAck(l)
	}
	c.happen(stream.Event{Type: stream.Tick})
}

// learnAck tells the core how much of the client stream leg l's server has.
func (c *conn) learnAck(l stream.Leg) {
	s := &c.leg[l]
	if s.fd < 0 || !c.core.NeedsAck(l) {
		return
	}
	if off := c.svc.gate.Acked(s.fd, s.sent); off > c.head {
		c.step(stream.Event{Type: stream.LegAcked, Leg: l, Off: off - c.head})
	}
}

// rearm sets the timer for the core's next deadline, and for asking what the
// servers have acknowledged where that matters. A timer that is set to an
// earlier time stays, or a client that says something every moment would put
// the asking off for ever.
func (c *conn) rearm() {
	at, ok := c.core.Deadline()
	if c.core.NeedsAck(0) || c.core.NeedsAck(1) {
		at, ok = min(at, c.loop.Now()+ackPoll), true
	}
	if !ok {
		c.loop.Stop(&c.timer)
		return
	}
	c.loop.SetBy(&c.timer, at)
}

// perform carries out one action of the core.
func (c *conn) perform(a *stream.Action) {
	switch a.Type {
	case stream.Publish:
		c.publish(a)
	case stream.Probe:
		c.svc.probe(c, a.Seq)
	case stream.SetLive:
		c.svc.gate.SetLive(c.id, a.Live)
	case stream.ShutdownClient:
		c.svc.gate.AllowClose(c.k0.fd)
		c.k0.shutdown()
	case stream.ResetClient:
		c.resetClient()
	case stream.CloseClient:
		c.close(&c.k0, false)
	case stream.ShutdownLeg:
		c.svc.gate.AllowClose(c.leg[a.Leg].fd)
		c.leg[a.Leg].shutdown()
	case stream.CloseLeg:
		c.close(&c.leg[a.Leg], a.Reset)
	case stream.Done:
		c.done(a.Why)
	default:
		c.report(a)
	}
}

// publish asks for what record a needs. The service has to know of a leg that
// is lost; if it gives the server up for that, its answer comes later.
func (c *conn) publish(a *stream.Action) {
	c.published = a.Seq
	if !a.Eject {
		c.svc.legDropped(c, a.Leg, a.Why)
		return
	}
	if err := c.svc.legFailed(c, a.Leg, a.Why); err != nil {
		c.svc.warn(c.log(), "leg is kept although it failed", "server", c.serverName(a.Leg), "reason", a.Why, "error", err)
		c.refused = a.Seq
		return
	}
	c.waits++
}

// recorded is the service's answer: the server's loss is written down.
func (c *conn) recorded() {
	c.waits = max(0, c.waits-1)
	c.confirm()
	c.pump()
}

// report logs what the core has decided.
func (c *conn) report(a *stream.Action) {
	log := c.log().With("server", c.serverName(a.Leg), "offset", a.Off)
	switch a.Type {
	case stream.Dropped:
		c.svc.count.dropped(a.Why)
		c.svc.warn(log, "leg dropped", "reason", a.Why)
	case stream.Promoted:
		c.svc.count.promoted.Add(1)
		c.svc.warn(log, "backup promoted")
	case stream.Muted:
		c.svc.count.muted.Add(1)
		c.svc.warn(log, "leg muted", "reason", a.Why)
	case stream.Diverged:
		c.svc.count.diverged.Add(1)
		c.svc.warn(log, "answers differ", c.samples(a)...)
	}
}

// samples are both answers from where they differ, if they may be shown.
func (c *conn) samples(a *stream.Action) []any {
	var args []any
	for l := range stream.Leg(2) {
		if s := a.Sample[l]; s != nil {
			args = append(args, slog.String(c.serverName(l), string(s)))
		}
	}
	return args
}

func (c *conn) done(why stream.Reason) {
	c.closed = true
	c.loop.Stop(&c.timer)
	c.close(&c.k0, false)
	c.close(&c.leg[0], true)
	c.close(&c.leg[1], true)
	delete(c.worker.conns, c)
	c.svc.count.ended(why)
	c.svc.over(c)
}

// close closes s, if it is open; with reset by a RST. It is meant to be seen.
func (c *conn) close(s *sock, reset bool) {
	if s.fd < 0 {
		return
	}
	c.svc.gate.AllowClose(s.fd)
	s.close(reset)
}

// resetClient resets the client, which first gets what was released to it.
func (c *conn) resetClient() {
	if c.k0.fd < 0 || c.k0.broken || !unsent(c.k0.fd) {
		c.close(&c.k0, true)
		return
	}
	c.svc.gate.AllowClose(c.k0.fd)
	c.worker.resetAfter(c.k0.release(), c.loop.Now()+c.svc.core.Limit)
}

// cut ends the connection at once, if it is not over.
func (c *conn) cut(why stream.Reason) {
	if c.closed {
		return
	}
	c.close(&c.k0, true)
	c.done(why)
}
