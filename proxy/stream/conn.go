package stream

import (
	"regexp"
	"time"
)

// Config is what a service says about its connections. It is shared by all of
// them and never changed.
type Config struct {
	Legs         int              // 1 or 2
	Both         bool             // release: both; else primary
	Compare      Compare          // how answers are compared
	Masks        []*regexp.Regexp // blanked in each line before it is compared; Exact only
	Report       bool             // divergences carry a sample of both answers
	OnDivergence OnDivergence
	Stateful     bool // a server that loses a leg to a failure is stale for all
	Buffer       int  // bytes held per direction and leg
	Connect      time.Duration
	Idle         time.Duration
	FinDelay     time.Duration
	Suspect      time.Duration // lag.suspect
	Limit        time.Duration // lag.limit
}

// Compare is how answers are compared.
type Compare uint8

// The compare modes: Exact, byte by byte; Length, only how many bytes; Off.
const (
	Exact Compare = iota
	Length
	Off
)

// OnDivergence is what is done at the first difference.
type OnDivergence uint8

// What may be done: the backup loses its voice, its server, or the connection
// is reset.
const (
	Mute OnDivergence = iota
	Eject
	Reset
)

// ending is how far a direction of a connection has ended. The order matters:
// a RST says all that a FIN does.
type ending uint8

const (
	open ending = iota
	fin
	rst
)

type legState uint8

const (
	absent     legState = iota // never wanted, or over
	connecting                 // SYN sent
	live
)

// leg is one server's side.
type leg struct {
	state   legState
	muted   bool
	refused bool // connecting failed, not judged yet

	kept bool   // its server must not be ejected: it is the last
	cut  Reason // why it was closed before its server had all of the client stream

	// Dropping: decided but not confirmed. Still a live leg for I1.
	dropping bool
	why      Reason
	ejected  Reason // the service has no use for the server any more

	// Records that must be confirmed before the leg is written to, is gone,
	// has no voice.
	openAt, dropAt, muteAt uint64

	// The client stream towards this server.
	wrote uint64 // handed to the leg's socket
	acked uint64 // acknowledged by the server's TCP
	head  int    // bytes of the PROXY header sent
	stuck bool   // its socket took less than offered
	shut  bool   // FIN passed on
	urg   mark

	// The response stream from this server.
	win    window
	closed ending
	readU  mark // urgent byte in the answer

	// Judging it.
	verdict  verdict
	owing    bool
	progress time.Duration // on the lag clock: when it last moved, or began to owe
	probed   bool
	saidAt   uint64 // step of its last answer, 0: none
}

type verdict uint8

const (
	unknown verdict = iota
	up
	down
)

// mark is the place of an urgent byte that was not passed on yet.
type mark struct {
	set bool
	off uint64
}

// Conn is one client connection.
type Conn struct {
	// Constant after New.
	cfg  *Config
	bufs Buffers
	head []byte // PROXY header, sent to each server first

	now   time.Duration
	steps uint64 // taken so far
	legs  [2]leg
	prim  Leg // whose answer counts when they differ

	// The client stream.
	in      window
	inEnd   ending // how the client ended it, at offset in.end
	frozen  bool
	inNeeds uint64 // record that has the client's FIN
	askedAt uint64 // step of its last byte, 0: none

	// The response stream.
	released uint64 // R: handed to the client's socket
	verified uint64 // V: equal in both
	source   Leg    // whose window the bytes below verified come from
	outEnd   ending // how the response ended, at offset outOff
	outOff   uint64
	outNeeds uint64
	outShut  bool // FIN passed to the client
	stuck    bool // the client's socket took less than offered
	gone     bool // the client is not there any more, or was reset
	over     bool // the client's socket is closed
	why      Reason

	cmp comparer

	// Records.
	seq, confirmed uint64
	probes         uint64 // number of the last Probe
	liveSet        [2]bool

	// Timers on the connection's clock.
	dialBy   time.Duration
	lingerBy time.Duration // the servers are given up; counts once over
	idleFrom time.Duration

	// Timers on the lag clock (see advance), zero when not running. So does
	// comparer.waitBy.
	closeBy time.Duration // fin_delay, or a part of it, runs out
	closing closing
	stood   time.Duration // how long the lag clock was stopped in all

	done bool

	acts []Action
}

// New returns a connection whose client is there and whose first n legs, 1 or
// 2, have been sent their SYN; primary is the index of the leg that counts when the
// answers differ. head is sent to each server before the client's first byte.
func New(cfg *Config, bufs Buffers, n int, primary Leg, head []byte, now time.Duration) *Conn {
	c := &Conn{cfg: cfg, bufs: bufs, head: head, prim: primary, source: primary, now: now, idleFrom: now}
	c.in.limit = cfg.Buffer
	for i := range n {
		c.legs[i].state = connecting
		c.legs[i].win.limit = cfg.Buffer
	}
	c.dialBy = now + cfg.Connect
	c.cmp.on = cfg.Compare == Exact
	return c
}

// Step takes one event. The actions of the step before must have been taken.
func (c *Conn) Step(e Event) {
	c.acts = c.acts[:0]
	if c.done {
		return
	}
	c.steps++
	c.advance(e.Now)
	c.handle(&e)
	c.settle()
}

// Actions are what the last Step asks for, in order.
func (c *Conn) Actions() []Action { return c.acts }

func (c *Conn) handle(e *Event) {
	switch e.Type {
	case ClientRead, ClientUrgent, ClientFIN, ClientRST, ClientWrote, Freeze, Thaw:
		c.handleClient(e)
	case Confirmed, Refused, AllDown, Gap:
		c.handleConn(e)
	case Tick:
	default:
		c.handleLeg(e, e.Leg)
	}
}

func (c *Conn) handleClient(e *Event) {
	switch e.Type {
	case ClientRead:
		c.in.fill(e.N)
		c.idleFrom = c.now
		c.askedAt = c.steps
	case ClientUrgent:
		c.markUrgent()
	case ClientFIN:
		c.clientFIN()
	case ClientRST:
		c.clientGone(ReasonClientRST)
	case ClientWrote:
		c.clientWrote(e.N)
	case Freeze, Thaw:
		c.frozen = e.Type == Freeze
		c.idleFrom = c.now
	}
}

func (c *Conn) handleConn(e *Event) {
	switch e.Type {
	case Confirmed:
		c.confirmed = max(c.confirmed, min(e.Seq, c.seq))
	case Refused:
		c.keep(e.Seq)
		c.confirmed = max(c.confirmed, min(e.Seq, c.seq))
	case AllDown:
		c.lose(ReasonDown)
	case Gap:
		c.restartTimers()
	}
}

func (c *Conn) handleLeg(e *Event, l Leg) {
	g := &c.legs[l]
	if g.state == absent {
		return
	}
	switch e.Type {
	case LegConnected:
		c.legConnected(l)
	case LegRefused:
		g.refused = g.refused || g.state == connecting
	case LegRead:
		g.win.fill(e.N)
		g.saidAt = c.steps
		c.moved(g)
	case LegUrgent:
		g.readU = mark{true, g.win.end}
	case LegFIN:
		g.closed = max(g.closed, fin)
	case LegRST:
		c.legRST(g)
	case LegWrote:
		c.legWrote(g, e.N)
	case LegAcked:
		c.legAcked(g, e.Off)
	case Verdict:
		c.judged(g, e)
	case Ejected:
		g.ejected = e.Why
	}
}

// settle carries every rule to its end after an event. Each looks at the
// state, not at the event, and none makes work for one before it: another
// Step with nothing new would change nothing.
func (c *Conn) settle() {
	c.settleDrops()
	c.settleDial()
	c.settleEqual()
	c.settleCloses()
	c.settleLag()
	c.settleIdle()
	c.settleEnds()
	c.settleAnswers()
	c.settleOver()
	c.settleLive()
	c.settleDone()
}

func (c *Conn) act(a Action) { c.acts = append(c.acts, a) }

// publish asks for a new record and returns its number.
func (c *Conn) publish(a Action) uint64 {
	c.seq++
	a.Type, a.Seq = Publish, c.seq
	c.act(a)
	return c.seq
}

func (c *Conn) isConfirmed(seq uint64) bool { return c.confirmed >= seq }

// voice reports whether leg l's answer counts.
func (c *Conn) voice(l Leg) bool {
	g := &c.legs[l]
	return g.state == live && !g.muted && !g.dropping
}

func (c *Conn) bothVoices() bool { return c.voice(0) && c.voice(1) }

// settleLive tells the gate which legs' acknowledgements count (I1): every
// leg that is not gone, also one whose drop is not confirmed, and one that is
// still connecting. What the client is told to be safe before that one has
// caught up would be lost with the other one, although the record by then
// counts two legs.
func (c *Conn) settleLive() {
	var set [2]bool
	for l := range c.legs {
		set[l] = c.legs[l].state != absent
	}
	if set != c.liveSet {
		c.liveSet = set
		c.act(Action{Type: SetLive, Live: set})
	}
}

// Record is what another process must know of the connection's course to go on
// with it. Offsets of a FIN are those of the stream it ends.
type Record struct {
	Seq       uint64 // of the last Publish
	Primary   Leg
	Live      [2]bool
	Muted     [2]bool
	ClientFIN bool
	ClientEnd uint64 // valid if ClientFIN
	ServerFIN bool
	ServerEnd uint64 // valid if ServerFIN
}

// Record returns the record as it is to be published now: a leg whose drop
// waits to be confirmed is not live in it.
func (c *Conn) Record() Record {
	r := Record{Seq: c.seq, Primary: c.prim}
	for l := range c.legs {
		g := &c.legs[l]
		r.Live[l] = g.state == live && !g.dropping
		r.Muted[l] = g.muted
	}
	if !r.Live[r.Primary] && r.Live[r.Primary.other()] {
		r.Primary = r.Primary.other()
	}
	if r.ClientFIN = c.inEnd == fin; r.ClientFIN {
		r.ClientEnd = c.in.end
	}
	if r.ServerFIN = c.outEnd == fin; r.ServerFIN {
		r.ServerEnd = c.outOff
	}
	return r
}

// Trim gives back the memory of empty windows. To be called when there is
// nothing more to read for now.
func (c *Conn) Trim() {
	c.in.trim(c.bufs)
	c.legs[0].win.trim(c.bufs)
	c.legs[1].win.trim(c.bufs)
	c.cmp.trim()
}
