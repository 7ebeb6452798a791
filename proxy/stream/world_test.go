package stream

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// This file is the "dumb" model: a client, two servers, their sockets, the
// pool and a clock, each so simple that it is plainly right. random_test.go
// lets them act in random order and checks what the core makes of it.

// fault is what is wrong with a server.
type fault int

const (
	healthy    fault = iota
	refuses          // no connection: RST to the SYN
	unanswered       // no connection: silence
	dead             // machine gone: no ACK, no answer, no health
	crashRST         // process killed: RST where it stands, no health
	crashFIN         // process killed: FIN where it stands, no health
	hangs            // application stuck, its kernel and the health check well
	differs          // answers otherwise from some offset on
	faults
)

// plan is what a run is to be like, drawn before it starts.
type plan struct {
	cfg      Config
	head     string
	chaos    bool // anything goes: operators, late answers, jumps of the clock
	clientN  uint64
	clientBy ending // how the client ends
	banner   uint64 // answer before any client byte
	ratio    uint64 // answer bytes for each client byte
	answerN  uint64
	early    bool // servers close at the answer's end, not after the client's FIN
	faulty   [2]fault
	after    int // steps before the faults
	room     [2]int
}

// world is the model.
type world struct {
	plan
	d     dice
	c     *Conn
	bufs  *lender
	now   time.Duration
	log   *strings.Builder // nil: not kept
	err   error
	steps int
	calm  bool // no new trouble

	cl  clientSide
	srv [2]serverSide

	// What the core has asked for.
	asked, confirmed uint64 // records
	ejects           []uint64
	ejected          [2]bool // the pool knows the server as lost
	holdUntil        uint64  // record that must be confirmed before more is released
	holdAt           uint64  // meanwhile: what may be released
	probes, judged   uint64
	live             [2]bool
	frozen           bool
	meddled          bool // the pool refused an ejection, or ejected by itself
	ending           Reason
	isDone           bool
	promoted         []promotion
	record           Record // as last published
	clientFIN        uint64 // the record that has it
	serverFIN        uint64
}

type promotion struct {
	from uint64
	leg  Leg
}

type clientSide struct {
	sent  uint64 // read by the core
	ended ending
	got   uint64
	fin   bool // was sent a FIN
	reset bool
	shut  bool // its socket is closed
}

type serverSide struct {
	connected, closed bool // the leg, as the I/O layer sees it
	refused           bool
	openAt            uint64
	head              int
	wrote             uint64 // by the core
	acked             uint64
	told              uint64 // what the core knows of acked
	ate               uint64 // by the application
	said              uint64 // read by the core
	finIn             bool   // has the client's FIN
	ended             ending // told to the core
	broken            bool   // its fault has begun
	stop              uint64 // answer bytes that exist, once broken
	muted             uint64 // record
	dropAt            uint64
}

// answers returns how many bytes of its answer server s has produced.
func (w *world) answers(s *serverSide) uint64 {
	if s.broken {
		return s.stop
	}
	return min(w.answerN, w.banner+s.ate*w.ratio)
}

// lineLen and the mask's place in a line, for answers that need masks.
const lineLen, maskFrom, maskTo = 32, 2, 8

var maskDate = regexp.MustCompile(`^T:[0-9]*`)

// answerAt is byte off of server l's answer.
func (w *world) answerAt(l Leg, off uint64) byte {
	b := patternAt(off + off/251)
	if len(w.cfg.Masks) > 0 {
		switch i := off % lineLen; {
		case i == lineLen-1:
			return '\n'
		case i < maskFrom:
			return "T:"[i]
		case i < maskTo:
			return '0' + byte(l)
		}
	}
	if w.faulty[l] == differs && off >= w.diffFrom() {
		return b ^ 1
	}
	return b
}

func (w *world) diffFrom() uint64 { return w.answerN / 2 }

func (w *world) isMasked(off uint64) bool {
	i := off % lineLen
	return len(w.cfg.Masks) > 0 && i >= maskFrom && i < maskTo
}

func clientAt(off uint64) byte { return byte(off) ^ byte(off>>8)*31 }

func (w *world) fail(format string, args ...any) {
	if w.err == nil {
		w.err = fmt.Errorf(format, args...)
	}
}

// step gives the core one event, carries out its actions, and looks at it.
func (w *world) step(e Event) {
	if w.isDone || w.err != nil {
		return
	}
	e.Now = w.now
	w.steps++
	w.c.Step(e)
	if w.log != nil {
		fmt.Fprintf(w.log, "%v %s leg %d n %d off %d seq %d\n", w.now, eventNames[e.Type], e.Leg, e.N, e.Off, e.Seq)
	}
	for _, a := range w.c.Actions() {
		if w.log != nil {
			fmt.Fprintf(w.log, "    %s\n", show(&a))
		}
		w.take(&a, &e)
	}
	if len(w.c.Actions()) > 0 && w.c.Record().Seq != w.record.Seq {
		w.recorded(w.c.Record())
	}
	w.look()
}

// recorded notes what has to be confirmed before a FIN may be passed on.
func (w *world) recorded(r Record) {
	if r.ClientFIN && !w.record.ClientFIN {
		w.clientFIN = r.Seq
	}
	if r.ServerFIN && (!w.record.ServerFIN || r.ServerEnd != w.record.ServerEnd) {
		w.serverFIN = r.Seq
	}
	w.record = r
}

var eventNames = [...]string{"tick", "client-read", "client-urgent", "client-fin", "client-rst", "client-wrote",
	"connected", "refused", "read", "urgent", "fin", "rst", "wrote", "acked", "confirmed", "refused-eject",
	"verdict", "ejected", "all-down", "freeze", "thaw", "gap"}

// look checks what can be seen after any step.
func (w *world) look() {
	if errs := broken(w.c, w.bufs); len(errs) > 0 {
		w.fail("%v", errs)
	}
	for l := range w.srv {
		if s := &w.srv[l]; w.live[l] != !s.closed && !w.isDone {
			w.fail("leg %d: closed %v, live %v (I1)", l, s.closed, w.live[l])
		}
	}
	switch {
	case w.isDone:
		w.lookBack()
	case w.confirmed == w.asked && !w.cl.shut:
		w.lookAtRecord()
	}
}

// lookAtRecord checks that the record as everybody has it is true.
func (w *world) lookAtRecord() {
	r := w.record
	for l := range w.srv {
		s := &w.srv[l]
		if r.Live[l] != (s.connected && !s.closed) || r.Muted[l] != (s.muted != 0) {
			w.fail("leg %d: connected %v closed %v muted %v, and the record says %+v", l, s.connected, s.closed, s.muted != 0, r)
		}
		if s.finIn && !(r.ClientFIN && r.ClientEnd == w.cl.sent) {
			w.fail("server %d has the client's FIN, and the record says %+v", l, r)
		}
	}
	if w.cl.fin && !(r.ServerFIN && r.ServerEnd == w.cl.got) {
		w.fail("the client has a FIN, and the record says %+v", r)
	}
	if last := w.promoted[len(w.promoted)-1].leg; r.Live[last] && r.Primary != last {
		w.fail("leg %d is the primary, and the record says %+v", last, r)
	}
}

// lookBack checks what must be true when all is over.
func (w *world) lookBack() {
	for l := range w.srv {
		s, o := &w.srv[l], &w.srv[1-l]
		own := s.ended != open || w.ending == ReasonServerRST
		if s.acked < w.cl.sent && o.acked == w.cl.sent && o.connected && !w.ejected[l] && !w.ejected[1-l] && !own {
			w.fail("leg %d has %d of %d client bytes, the other all, and its server is not stale", l, s.acked, w.cl.sent)
		}
	}
	if w.ending == ReasonDone && w.cl.ended == fin && !w.cl.fin {
		w.fail("done without a FIN to the client")
	}
	if w.chaos {
		return
	}
	if !w.cl.reset && w.cl.ended != rst && (w.ending != ReasonDone || w.cl.got != w.answerN) {
		w.fail("one fault, and the client has %d of %d bytes, %v", w.cl.got, w.answerN, w.ending)
	}
	if w.cl.reset {
		w.fail("one fault, and the client was reset: %v", w.ending)
	}
}

// take carries out an action.
func (w *world) take(a *Action, e *Event) {
	if w.isDone {
		w.fail("%s after done", show(a))
	}
	switch a.Type {
	case Publish:
		w.takePublish(a, e)
	case Probe:
		w.probes = a.Seq
	case SetLive:
		w.live = a.Live
	case ShutdownClient, ResetClient, CloseClient:
		w.takeClient(a)
	case ShutdownLeg:
		w.takeShutdown(a)
	case CloseLeg:
		w.takeClose(a)
	case Promoted:
		w.takePromoted(a)
	case Dropped:
		w.takeDropped(a)
	case Diverged:
		w.takeDiverged(a)
	case Muted:
		w.srv[a.Leg].muted = w.asked
	case Done:
		w.isDone, w.ending = true, a.Why
	}
}

func (w *world) takePublish(a *Action, e *Event) {
	if a.Seq != w.asked+1 {
		w.fail("record %d follows %d", a.Seq, w.asked)
	}
	w.asked = a.Seq
	if a.Why != ReasonNone || e.Type == LegConnected || e.Type == Refused {
		if w.confirmed >= w.holdUntil {
			w.holdAt = max(w.cl.got, w.agreed())
		}
		w.holdUntil = a.Seq
	}
	s := &w.srv[a.Leg]
	switch {
	case a.Eject:
		w.ejects = append(w.ejects, a.Seq)
		w.ejected[a.Leg] = true
		w.blamed(a)
	case a.Why == ReasonNone && (e.Type == LegConnected || e.Type == Refused):
		s.openAt = a.Seq
	}
	if a.Why != ReasonNone {
		s.dropAt = a.Seq
	}
}

// blamed checks that the server that is to be ejected has failed.
func (w *world) blamed(a *Action) {
	if !w.chaos && w.faulty[a.Leg] == healthy {
		w.fail("server %d is ejected for %v, and has no fault", a.Leg, a.Why)
	}
}

func (w *world) takeClient(a *Action) {
	switch a.Type {
	case ShutdownClient:
		w.cl.fin = true
		if !w.record.ServerFIN || w.confirmed < w.serverFIN {
			w.fail("FIN to the client before its record %d", w.serverFIN)
		}
		if a.Off != w.cl.got {
			w.fail("FIN to the client at %d, and it has %d", a.Off, w.cl.got)
		}
		if !w.endsAt(0, a.Off) && !w.endsAt(1, a.Off) {
			w.fail("FIN to the client at %d, where no server has ended", a.Off)
		}
	case ResetClient:
		w.cl.reset = true
		for l := range w.srv {
			if a.Why == ReasonIdle && w.faulty[l] == healthy && !w.srv[l].closed && !w.meddled {
				w.fail("idle, although server %d is well", l)
			}
		}
		fallthrough
	default:
		if w.cl.shut {
			w.fail("client closed twice")
		}
		w.cl.shut = true
	}
}

// endsAt reports whether server l closed at off, or there is no telling.
func (w *world) endsAt(l Leg, off uint64) bool {
	s := &w.srv[l]
	return s.ended != open && (s.said == off || w.cfg.Compare == Off)
}

func (w *world) takeShutdown(a *Action) {
	s := &w.srv[a.Leg]
	if w.cl.ended != fin || s.wrote != w.cl.sent || a.Off != w.cl.sent || s.finIn || s.head < len(w.head) {
		w.fail("FIN to server %d at %d: it has %d of %d, client ended %d", a.Leg, a.Off, s.wrote, w.cl.sent, w.cl.ended)
	}
	if s.finIn = true; !w.record.ClientFIN || w.confirmed < w.clientFIN {
		w.fail("FIN to server %d before its record %d", a.Leg, w.clientFIN)
	}
}

func (w *world) takeClose(a *Action) {
	s := &w.srv[a.Leg]
	if s.closed {
		w.fail("leg %d closed twice", a.Leg)
	}
	if s.closed = true; !w.cl.shut && w.confirmed < s.dropAt {
		w.fail("leg %d closed before its record %d", a.Leg, s.dropAt)
	}
}

func (w *world) takePromoted(a *Action) {
	if a.Off < w.cl.got || w.srv[a.Leg].closed || w.srv[a.Leg].muted != 0 {
		w.fail("leg %d promoted from %d, client has %d", a.Leg, a.Off, w.cl.got)
	}
	w.promoted = append(w.promoted, promotion{a.Off, a.Leg})
}

func (w *world) takeDropped(a *Action) {
	s := &w.srv[a.Leg]
	if s.dropAt == 0 || w.confirmed < s.dropAt && !w.cl.shut {
		w.fail("leg %d dropped for %v, record %d is not confirmed", a.Leg, a.Why, s.dropAt)
	}
	if !w.chaos && w.faulty[a.Leg] == healthy {
		w.fail("leg %d dropped for %v, and has no fault", a.Leg, a.Why)
	}
}

func (w *world) takeDiverged(a *Action) {
	if w.faulty[0] != differs && w.faulty[1] != differs {
		w.fail("divergence at %d where there is none", a.Off)
	}
	if a.Off != w.diffFrom() && len(w.cfg.Masks) == 0 {
		w.fail("divergence at %d, it is at %d", a.Off, w.diffFrom())
	}
}

// voice reports whether the client may count on leg l's answer.
func (w *world) voice(l Leg) bool {
	s := &w.srv[l]
	return !s.closed && (s.muted == 0 || w.confirmed < s.muted)
}

// agreed returns up to where both answers were there when both counted last.
func (w *world) agreed() uint64 {
	if !w.voice(0) || !w.voice(1) {
		return w.holdAt
	}
	return w.common()
}

// common returns up to where both have answered; with compare off that is the
// primary's business alone.
func (w *world) common() uint64 {
	if w.cfg.Compare == Off {
		return w.srv[w.promoted[len(w.promoted)-1].leg].said
	}
	return min(w.srv[0].said, w.srv[1].said)
}

// owner is the leg whose answer byte off is.
func (w *world) owner(off uint64) Leg {
	var leg Leg
	for _, p := range w.promoted {
		if off >= p.from {
			leg = p.leg
		}
	}
	return leg
}

// written checks and counts bytes that went to the client.
func (w *world) written(b []byte) {
	to := w.cl.got + uint64(len(b))
	both := w.voice(0) && w.voice(1)
	if both && (w.cfg.Both || w.confirmed < w.holdUntil) && to > w.common() && len(b) > 0 {
		w.fail("client was given [%d,%d), answers %d and %d", w.cl.got, to, w.srv[0].said, w.srv[1].said)
	}
	if w.confirmed < w.holdUntil && to > w.holdAt && len(b) > 0 {
		w.fail("client was given [%d,%d) before record %d, %d was agreed", w.cl.got, to, w.holdUntil, w.holdAt)
	}
	for i, x := range b {
		off := w.cl.got + uint64(i)
		leg := w.owner(off)
		if x != w.answerAt(leg, off) {
			w.fail("client byte %d is %q, not leg %d's %q", off, x, leg, w.answerAt(leg, off))
		}
		if both && w.cfg.Both && w.cfg.Compare == Exact && x != w.answerAt(leg.other(), off) && !w.isMasked(off) {
			w.fail("client byte %d differs between the legs", off)
		}
	}
	w.cl.got = to
}
