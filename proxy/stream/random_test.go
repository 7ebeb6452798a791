package stream

import (
	"fmt"
	"math/rand/v2"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// dice decides. n returns a number in [0,k).
type dice interface{ n(k int) int }

type seeded struct{ *rand.Rand }

func (s seeded) n(k int) int { return s.IntN(k) }

// encoded takes the decisions from a fuzzer's bytes, and zero after the last.
type encoded struct{ b []byte }

func (e *encoded) n(k int) int {
	if len(e.b) == 0 {
		return 0
	}
	x := int(e.b[0]) % k
	e.b = e.b[1:]
	return x
}

func (w *world) oneIn(k int) bool { return w.d.n(k) == 0 }

// draw plans a run.
func draw(d dice) plan {
	one := func(k int) bool { return d.n(k) == 0 }
	p := plan{chaos: one(2), clientN: uint64(d.n(600)), clientBy: ending(1 + d.n(4)/3), banner: uint64(d.n(64)),
		ratio: uint64(d.n(4)), early: one(4), after: d.n(300), room: [2]int{1 + d.n(64), 1 + d.n(64)}}
	p.answerN = p.banner + p.clientN*p.ratio
	if one(3) {
		p.head = "PROXY"
	}
	p.cfg = Config{Legs: 2, Both: !one(3), Stateful: !one(3), Report: one(2), Buffer: 16 << d.n(6),
		Compare: Compare(max(0, d.n(5)-2)), OnDivergence: OnDivergence(d.n(3)), Connect: time.Second, Idle: time.Hour,
		FinDelay: 500 * time.Millisecond, Suspect: 250 * time.Millisecond, Limit: 2 * time.Second}
	if p.cfg.Compare == Exact && one(3) {
		p.cfg.Masks = []*regexp.Regexp{maskDate}
	}
	drawFaults(d, &p)
	return p
}

// drawFaults makes one server faulty, or none; in chaos also both.
func drawFaults(d dice, p *plan) {
	l := d.n(2)
	p.faulty[l] = fault(d.n(int(faults)))
	if p.chaos {
		p.faulty[1-l] = fault(d.n(int(faults)))
		return
	}
	if p.faulty[l] == differs && (p.cfg.Compare != Exact || p.cfg.OnDivergence == Reset || l == 0) {
		p.faulty[l] = healthy // with two there is no majority: the primary is right
	}
	if p.cfg.Compare == Off {
		p.faulty[l] = healthy
	}
}

func newWorld(d dice, log *strings.Builder) *world {
	w := &world{plan: draw(d), d: d, bufs: &lender{}, now: time.Second, log: log, promoted: []promotion{{0, 0}}}
	w.live = [2]bool{true, true}
	w.c = New(&w.cfg, w.bufs, 2, 0, []byte(w.head), w.now)
	if log != nil {
		fmt.Fprintf(log, "%+v\n", w.plan)
	}
	return w
}

// run plays a schedule to its end.
func (w *world) run(turns int) {
	w.step(Event{Type: Tick})
	for i := 0; i < turns && !w.isDone && w.err == nil; i++ {
		w.turn(w.d.n(24), i)
		if w.oneIn(8) {
			w.again()
		}
	}
	w.settleDown()
}

// turn lets one of the parties do something.
func (w *world) turn(which, i int) {
	l := Leg(which & 1)
	switch which / 2 {
	case 0:
		w.clientActs()
	case 1, 2:
		w.writeClient(w.d.n(3) > 0)
	case 3:
		w.writeLeg(l, w.d.n(3) > 0)
	case 4:
		w.serverTakes(l)
	case 5, 6:
		w.readLeg(l)
	case 7:
		w.connect(l)
	case 8:
		w.answerRecord()
	case 9:
		w.answerProbe()
	case 10:
		w.passTime()
	default:
		if i >= w.after {
			w.breakServer(l)
		}
		switch {
		case w.chaos && w.oneIn(8):
			w.prank(l)
		case w.probes > 0 && w.oneIn(4): // from before the last probe
			w.step(Event{Type: Verdict, Leg: l, Up: w.oneIn(2), Seq: w.probes - 1})
		}
	}
}

// clientActs: it sends, and ends when all is sent, or breaks off before.
func (w *world) clientActs() {
	if w.cl.ended == rst || w.cl.shut || w.cl.ended == fin && !(w.chaos && w.clientBy == rst && w.oneIn(8)) {
		return
	}
	if w.clientBy == rst && w.oneIn(64) && w.srv[0].connected {
		w.cl.ended = rst
		w.step(Event{Type: ClientRST})
		return
	}
	to := w.c.ClientSpace()
	if w.frozen && to != nil {
		w.fail("a frozen client may send")
	}
	left := w.clientN - w.cl.sent
	switch {
	case to == nil:
	case left > 0:
		n := 1 + w.d.n(int(min(uint64(len(to)), left)))
		for i := range n {
			to[i] = clientAt(w.cl.sent + uint64(i))
		}
		w.cl.sent += uint64(n)
		w.step(Event{Type: ClientRead, N: n})
	case w.clientBy == fin || w.calm:
		w.cl.ended = fin
		w.step(Event{Type: ClientFIN})
	}
}

func (w *world) writeClient(willing bool) bool {
	b, _ := w.c.ToClient()
	if len(b) == 0 || w.cl.shut {
		if len(b) > 0 {
			w.fail("bytes for a client that is gone")
		}
		return false
	}
	n := 0
	if willing {
		n = 1 + w.d.n(len(b))
	}
	w.written(b[:n])
	w.step(Event{Type: ClientWrote, N: n})
	return n > 0
}

func (w *world) writeLeg(l Leg, willing bool) bool {
	s := &w.srv[l]
	b, _ := w.c.ToLeg(l)
	if len(b) == 0 {
		return false
	}
	if s.closed || !s.connected || w.confirmed < s.openAt {
		w.fail("bytes for leg %d before its record, or after its end", l)
	}
	n := min(len(b), w.room[l]-int(s.wrote-s.acked))
	if n = max(0, n); willing && n > 0 {
		n = 1 + w.d.n(n)
	}
	for i, x := range b[:n] {
		switch {
		case s.head < len(w.head):
			if x != w.head[s.head] {
				w.fail("leg %d: header byte %d is %q", l, s.head, x)
			}
			s.head++
		default:
			if x != clientAt(s.wrote) {
				w.fail("leg %d: client byte %d (%d) is wrong", l, s.wrote, i)
			}
			s.wrote++
		}
	}
	w.step(Event{Type: LegWrote, Leg: l, N: n})
	return n > 0
}

// serverTakes: its TCP acknowledges, its application reads, unless it can't.
// An application whose answer is not taken stops reading.
func (w *world) serverTakes(l Leg) bool {
	s := &w.srv[l]
	f := w.faulty[l]
	if !s.connected || s.closed || s.ended == rst || s.broken && f != hangs && f != differs {
		return false
	}
	if n := s.acked - s.ate; n > 0 && !s.broken && w.answers(s)-s.said < uint64(w.room[l])*4+1 {
		s.ate += 1 + uint64(w.d.n(int(n)))
	}
	n := min(s.wrote-s.acked, uint64(w.room[l])-min(uint64(w.room[l]), s.acked-s.ate))
	if n == 0 {
		return false
	}
	s.acked += 1 + uint64(w.d.n(int(n)))
	if w.oneIn(2) {
		w.learnAck(l)
	}
	return true
}

// learnAck is what the I/O layer does at each tick, and before it says that a
// leg is reset.
func (w *world) learnAck(l Leg) {
	if s := &w.srv[l]; s.told < s.acked && w.c.NeedsAck(l) {
		s.told = s.acked
		w.step(Event{Type: LegAcked, Leg: l, Off: s.acked})
	}
}

// tick moves the clock.
func (w *world) tick(to time.Duration) {
	w.learnAck(0)
	w.learnAck(1)
	w.now = to
	w.step(Event{Type: Tick})
}

func (w *world) readLeg(l Leg) bool {
	s := &w.srv[l]
	if !s.connected || s.closed || s.ended == rst {
		return false
	}
	n := int(w.answers(s) - s.said)
	if n == 0 {
		return w.closeByServer(l)
	}
	to := w.c.LegSpace(l)
	if s.ended != open && to != nil {
		w.fail("leg %d is to be read after its end", l)
	}
	if to == nil {
		return false
	}
	n = 1 + w.d.n(min(n, len(to)))
	for i := range n {
		to[i] = w.answerAt(l, s.said+uint64(i))
	}
	s.said += uint64(n)
	w.step(Event{Type: LegRead, Leg: l, N: n})
	return true
}

// closeByServer: a server closes when all is said and heard, or when it dies.
func (w *world) closeByServer(l Leg) bool {
	s := &w.srv[l]
	f := w.faulty[l]
	switch {
	case s.broken && f == crashRST:
		s.ended = rst
		w.learnAck(l)
		w.step(Event{Type: LegRST, Leg: l})
		return true
	case s.ended != open || w.c.LegSpace(l) == nil:
		return false
	case s.broken && f != crashFIN && f != differs:
		return false
	case !s.broken && (s.said < w.answerN || !w.early && !(s.finIn && s.ate == w.cl.sent)):
		return false
	}
	s.ended = fin
	w.learnAck(l)
	w.step(Event{Type: LegFIN, Leg: l})
	return true
}

func (w *world) connect(l Leg) bool {
	s := &w.srv[l]
	if s.connected || s.refused || s.closed || w.faulty[l] == unanswered {
		return false
	}
	if w.faulty[l] == refuses {
		s.refused = true
		w.step(Event{Type: LegRefused, Leg: l})
		return true
	}
	s.connected = true
	w.step(Event{Type: LegConnected, Leg: l})
	return true
}

// answerRecord confirms one record or all, or, in chaos, refuses an ejection.
func (w *world) answerRecord() bool {
	if w.confirmed == w.asked {
		return false
	}
	seq := w.confirmed + 1
	if len(w.ejects) > 0 && w.ejects[0] == seq {
		w.ejects = w.ejects[1:]
		if w.chaos && !w.calm && w.oneIn(4) {
			w.confirmed, w.meddled = seq, true
			w.unblame(seq)
			w.step(Event{Type: Refused, Seq: seq})
			return true
		}
	} else if len(w.ejects) == 0 && w.oneIn(2) {
		seq = w.asked
	}
	w.confirmed = seq
	w.step(Event{Type: Confirmed, Seq: seq})
	return true
}

// unblame: an ejection was refused.
func (w *world) unblame(seq uint64) {
	for l := range w.srv {
		if w.srv[l].dropAt == seq {
			w.srv[l].dropAt, w.ejected[l] = 0, true // the pool keeps it as the last: the other one is stale
		}
	}
}

// answerProbe says the truth about both servers.
func (w *world) answerProbe() bool {
	if w.judged == w.probes {
		return false
	}
	w.judged = w.probes
	for l := range w.srv {
		s, f := &w.srv[l], w.faulty[l]
		up := f != unanswered && f != refuses && (!s.broken || f == hangs || f == differs)
		w.step(Event{Type: Verdict, Leg: Leg(l), Up: up, Seq: w.judged})
	}
	return true
}

// passTime: in a fair run little at a time, and no probe takes long.
func (w *world) passTime() {
	d := time.Duration(w.d.n(1000)) * time.Microsecond
	if w.chaos {
		d <<= w.d.n(14)
	} else {
		w.answerProbe()
	}
	w.tick(w.now + d)
}

func (w *world) breakServer(l Leg) {
	s := &w.srv[l]
	if f := w.faulty[l]; s.broken || f == healthy || f == differs || w.oneIn(2) && !w.calm {
		return
	}
	s.stop = w.answers(s)
	if f := w.faulty[l]; f == crashRST || f == crashFIN {
		s.stop = s.said + uint64(w.d.n(int(s.stop-s.said)+1)) // the rest was not sent
	}
	s.broken = true
}

// prank is what does not happen in a fair run.
func (w *world) prank(l Leg) {
	switch w.d.n(12) {
	case 0:
		w.frozen = true
		w.step(Event{Type: Freeze})
	case 1, 2:
		w.frozen = false
		w.step(Event{Type: Thaw})
	case 3:
		w.step(Event{Type: Gap})
	case 4:
		why := [...]Reason{ReasonEjected, ReasonDown, ReasonOperator}[w.d.n(3)]
		w.ejected[l], w.meddled = true, true
		w.step(Event{Type: Ejected, Leg: l, Why: why})
	case 5:
		if w.oneIn(8) {
			w.step(Event{Type: AllDown})
		}
	case 6:
		w.step(Event{Type: Verdict, Leg: l, Up: w.oneIn(2), Seq: w.probes - min(w.probes, uint64(w.d.n(2)))})
	case 7:
		w.step(Event{Type: Confirmed, Seq: uint64(w.d.n(int(w.confirmed) + 1))})
	case 8:
		w.step(Event{Type: LegAcked, Leg: l, Off: uint64(w.d.n(int(w.srv[l].acked) + 1))})
	case 9:
		w.step(Event{Type: Refused, Seq: uint64(w.d.n(int(w.confirmed) + 1))})
	case 10:
		if w.oneIn(2) {
			w.step(Event{Type: ClientUrgent})
		} else if w.srv[l].connected {
			w.step(Event{Type: LegUrgent, Leg: l})
		}
	case 11:
		w.c.Trim()
	}
}

// again: a step with nothing new changes nothing.
func (w *world) again() {
	if w.isDone {
		return
	}
	before := w.offers()
	w.step(Event{Type: Tick})
	if acts := w.c.Actions(); len(acts) > 0 && w.err == nil {
		w.fail("a second look brought %s", show(&acts[0]))
	}
	if after := w.offers(); after != before && w.err == nil {
		w.fail("a second look changed the offers %v to %v", before, after)
	}
}

// offers are the lengths of what may be read and written.
func (w *world) offers() (n [6]int) {
	b, _ := w.c.ToClient()
	n[0], n[1] = len(b), min(1, len(w.c.ClientSpace()))
	for l := range Leg(2) {
		b, _ := w.c.ToLeg(l)
		n[2+l], n[4+l] = len(b), min(1, len(w.c.LegSpace(l)))
	}
	return n
}

// settleDown: no more trouble; the connection has to come to its end.
func (w *world) settleDown() {
	w.calm, w.frozen = true, false
	w.step(Event{Type: Thaw})
	for l := range w.srv {
		w.breakServer(Leg(l))
	}
	spins := 0
	for i := 0; !w.isDone && w.err == nil; i++ {
		if w.moves() {
			spins = 0
			continue
		}
		at, ok := w.c.Deadline()
		if !ok || i > 100000 {
			w.fail("nothing moves, nothing is due, and it is not over")
		}
		if spins++; at > w.now {
			spins = 0
		}
		if spins > 3 {
			w.fail("the deadline does not move: %v", at)
		}
		w.tick(at)
	}
}

// moves lets everyone act once and reports whether anyone could.
func (w *world) moves() (any bool) {
	any = w.answerRecord()
	any = w.answerProbe() || any
	any = w.writeClient(true) || any
	sent, ended := w.cl.sent, w.cl.ended
	w.clientActs()
	any = any || sent != w.cl.sent || ended != w.cl.ended
	for l := range Leg(2) {
		any = w.connect(l) || any
		any = w.readLeg(l) || any
		ate := w.srv[l].ate
		any = w.serverTakes(l) || any || ate != w.srv[l].ate
		any = w.writeLeg(l, true) || any
	}
	return any
}

// play runs one seed and says how many steps it took.
func play(seed uint64, log *strings.Builder) (*world, error) {
	w := newWorld(seeded{rand.New(rand.NewPCG(seed, 0))}, log)
	w.run(100 + w.d.n(600))
	return w, w.err
}

// TestRandom plays random schedules against the model. STTCP_SEED sets the
// first seed, STTCP_FULL=1 plays 50 times as much.
func TestRandom(t *testing.T) {
	seed, want := uint64(time.Now().UnixNano()), 1_200_000
	if s := os.Getenv("STTCP_SEED"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatalf("read STTCP_SEED: %v", err)
		}
		seed = n
	}
	if os.Getenv("STTCP_FULL") == "1" {
		want *= 50
	}
	start, steps, runs := time.Now(), 0, 0
	ends := map[Reason]int{}
	for ; steps < want; runs++ {
		w, err := play(seed+uint64(runs), nil)
		if err != nil {
			t.Fatalf("STTCP_SEED=%d: %v\n%s", seed+uint64(runs), err, trace(seed+uint64(runs)))
		}
		steps += w.steps
		ends[w.ending]++
	}
	t.Logf("first seed %d: %d runs, %d steps, %.0f steps/s, ends %v", seed, runs, steps,
		float64(steps)/time.Since(start).Seconds(), ends)
}

// trace replays a seed and returns the last that happened.
func trace(seed uint64) string {
	var log strings.Builder
	_, _ = play(seed, &log)
	s := log.String()
	if i := strings.IndexByte(s, '\n'); len(s) > 3000 {
		s = s[:i] + "\n...\n" + s[len(s)-3000:]
	}
	return s
}

// FuzzSchedule lets a fuzzer choose the schedule.
func FuzzSchedule(f *testing.F) {
	f.Add([]byte("\x01\x40\x02\x03 some schedule"))
	f.Fuzz(func(t *testing.T, b []byte) {
		w := newWorld(&encoded{b}, nil)
		w.run(min(len(b), 2000))
		if w.err != nil {
			t.Fatal(w.err)
		}
	})
}
