package stream

import (
	"flag"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
)

// TestScripts plays testdata/*.txt, one file or more for each rule of the
// design. A block is
//
//	play
//	COMMAND...
//	----
//	what the core did about each
//
// `go test -run Scripts -rewrite` writes the answers anew: read the diff. The
// commands are:
//
//	new KEY=VALUE...         a connection; keys as in Config, n, head, confirm=manual
//	connect L, refused L     the handshake with server L
//	client DATA, leg L DATA  bytes come in; "text", *N (a pattern) or *N:x
//	fin|rst|urgent client|L
//	write client|L [N]       N of the offered bytes, or all, are written
//	drain [client|L]...      all that is offered is written, and acknowledged
//	ack L N                  server L has acknowledged N bytes in all
//	confirm|refuse [SEQ]     records (else confirmed by themselves; auto on|off)
//	verdict L up|down [old]  of the last probe, or of the one before
//	eject L REASON, alldown, freeze, thaw, gap
//	tick +T, timer           time passes; timer: up to the deadline
//	state, deadline, trim    print
func TestScripts(t *testing.T) {
	datadriven.Walk(t, "testdata/scripts", func(t *testing.T, path string) {
		var l lab
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			if d.Cmd != "play" {
				d.Fatalf(t, "unknown directive %q", d.Cmd)
			}
			return l.play(d.Input)
		})
		l.check()
		if len(l.bad) > 0 {
			t.Errorf("broken invariants:\n%s", strings.Join(l.bad, "\n"))
		}
	})
}

// lab is a connection in the hands of a script.
type lab struct {
	c    *Conn
	bufs *lender
	now  time.Duration
	cfg  Config

	manual  bool // records are confirmed by the script only
	out     strings.Builder
	offered string
	bad     []string
}

// lender lends memory and knows what is out.
type lender struct{ out, most int }

func (l *lender) Get(n int) []byte {
	l.out += n
	l.most = max(l.most, l.out)
	return make([]byte, n)
}

func (l *lender) Put(b []byte) { l.out -= cap(b) }

// play runs a block of commands and returns what came of them.
func (l *lab) play(input string) string {
	l.out.Reset()
	for line := range strings.Lines(input) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		fmt.Fprintf(&l.out, "> %s\n", line)
		if err := l.do(line); err != nil {
			fmt.Fprintf(&l.out, "  error: %v\n", err)
		}
		l.showOffers()
		l.check()
	}
	return l.out.String()
}

// commands are what a script can say; what follows the name are its words.
var commands map[string]func(l *lab, w []string) error

func init() {
	commands = map[string]func(l *lab, w []string) error{
		"new": (*lab).start, "state": (*lab).state, "deadline": (*lab).deadline,
		"client": (*lab).client, "leg": (*lab).leg, "fin": (*lab).fin, "rst": (*lab).rst,
		"urgent": (*lab).urgent, "write": (*lab).write, "drain": (*lab).drain, "ack": (*lab).ack,
		"tick": (*lab).tick, "timer": (*lab).timer, "verdict": (*lab).verdict, "eject": (*lab).eject,
		"confirm": (*lab).confirm, "refuse": (*lab).refuse, "trim": (*lab).trim, "auto": (*lab).auto,
		"connect": legEvent(LegConnected), "refused": legEvent(LegRefused),
		"alldown": plain(AllDown), "freeze": plain(Freeze), "thaw": plain(Thaw), "gap": plain(Gap),
	}
}

func (l *lab) do(line string) error {
	name, rest, _ := strings.Cut(line, " ")
	f := commands[name]
	if f == nil {
		return fmt.Errorf("unknown command %q", name)
	}
	if l.c == nil && name != "new" {
		return fmt.Errorf("no connection")
	}
	return f(l, words(rest))
}

// words splits at spaces outside of quotes.
func words(s string) []string {
	var out []string
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		if q, err := strconv.QuotedPrefix(s); err == nil {
			out, s = append(out, q), s[len(q):]
			continue
		}
		w, rest, _ := strings.Cut(s, " ")
		out, s = append(out, w), rest
	}
	return out
}

func plain(t EventType) func(*lab, []string) error {
	return func(l *lab, _ []string) error { l.step(Event{Type: t}); return nil }
}

func legEvent(t EventType) func(*lab, []string) error {
	return func(l *lab, w []string) error {
		leg, err := legOf(w, 0)
		l.step(Event{Type: t, Leg: leg})
		return err
	}
}

func legOf(w []string, i int) (Leg, error) {
	if i >= len(w) || w[i] != "0" && w[i] != "1" {
		return 0, fmt.Errorf("which leg?")
	}
	return Leg(w[i][0] - '0'), nil
}

// start is `new KEY=VALUE...`; the keys are those of Config in small letters,
// and confirm=manual.
func (l *lab) start(w []string) error {
	l.check()
	*l = lab{bufs: &lender{}, out: l.out, bad: l.bad, now: time.Second, cfg: Config{Legs: 2, Both: true, Stateful: true,
		Report: true, Buffer: 64 << 10, Connect: time.Second, Idle: 2 * time.Hour, FinDelay: 500 * time.Millisecond,
		Suspect: 250 * time.Millisecond, Limit: 2 * time.Second}}
	n, head := 0, ""
	for _, kv := range w {
		k, v, _ := strings.Cut(kv, "=")
		switch k {
		case "n":
			n, _ = strconv.Atoi(v)
		case "head":
			head = v
		case "confirm":
			l.manual = v == "manual"
		default:
			if err := l.configure(k, v); err != nil {
				return err
			}
		}
	}
	if n == 0 {
		n = l.cfg.Legs
	}
	l.c = New(&l.cfg, l.bufs, n, 0, []byte(head), l.now)
	return nil
}

func (l *lab) configure(k, v string) (err error) {
	c := &l.cfg
	switch k {
	case "legs":
		c.Legs, err = strconv.Atoi(v)
	case "buffer":
		c.Buffer, err = strconv.Atoi(v)
	case "release":
		c.Both = v == "both"
	case "compare":
		c.Compare = map[string]Compare{"exact": Exact, "length": Length, "off": Off}[v]
	case "mask":
		c.Masks = append(c.Masks, regexp.MustCompile(v))
	case "report":
		c.Report = v == "true"
	case "stateful":
		c.Stateful = v == "true"
	case "ondivergence":
		c.OnDivergence = map[string]OnDivergence{"mute": Mute, "eject": Eject, "reset": Reset}[v]
	default:
		err = l.configureTime(k, v)
	}
	return err
}

func (l *lab) configureTime(k, v string) error {
	to := map[string]*time.Duration{"connect": &l.cfg.Connect, "idle": &l.cfg.Idle, "fin": &l.cfg.FinDelay,
		"suspect": &l.cfg.Suspect, "limit": &l.cfg.Limit}[k]
	if to == nil {
		return fmt.Errorf("unknown key %q", k)
	}
	d, err := time.ParseDuration(v)
	*to = d
	return err
}

// data is what a word stands for: a quoted string, or `*N`, N bytes of a
// pattern that starts at the stream's offset, or `*N:a`, N times the letter.
func data(w string, off uint64) ([]byte, error) {
	if n, letter, ok := strings.Cut(strings.TrimPrefix(w, "*"), ":"); w[0] == '*' {
		count, err := strconv.Atoi(n)
		b := make([]byte, count)
		for i := range b {
			if b[i] = patternAt(off + uint64(i)); ok {
				b[i] = letter[0]
			}
		}
		return b, err
	}
	s, err := strconv.Unquote(w)
	return []byte(s), err
}

func patternAt(off uint64) byte { return 'a' + byte(off%26) }

// client is `client DATA`: the client sends. What is not read is said so.
func (l *lab) client(w []string) error {
	return l.receive(w, 0, &l.c.in, l.c.ClientSpace, Event{Type: ClientRead})
}

// leg is `leg L DATA`: a server answers.
func (l *lab) leg(w []string) error {
	leg, err := legOf(w, 0)
	if err != nil {
		return err
	}
	space := func() []byte { return l.c.LegSpace(leg) }
	return l.receive(w, 1, &l.c.legs[leg].win, space, Event{Type: LegRead, Leg: leg})
}

func (l *lab) receive(w []string, i int, win *window, space func() []byte, e Event) error {
	if len(w) <= i {
		return fmt.Errorf("what?")
	}
	b, err := data(w[i], win.end)
	for len(b) > 0 && err == nil {
		to := space()
		if to == nil {
			fmt.Fprintf(&l.out, "  not read: %d bytes\n", len(b))
			break
		}
		n := copy(to, b)
		b, e.N = b[n:], n
		l.step(e)
	}
	return err
}

func whom(w []string, client, leg EventType) (Event, error) {
	if len(w) > 0 && w[0] == "client" {
		return Event{Type: client}, nil
	}
	l, err := legOf(w, 0)
	return Event{Type: leg, Leg: l}, err
}

func (l *lab) stepWhom(w []string, client, leg EventType) error {
	e, err := whom(w, client, leg)
	if err == nil {
		l.step(e)
	}
	return err
}

// fin, rst and urgent are `fin client` or `fin L`.
func (l *lab) fin(w []string) error    { return l.stepWhom(w, ClientFIN, LegFIN) }
func (l *lab) rst(w []string) error    { return l.stepWhom(w, ClientRST, LegRST) }
func (l *lab) urgent(w []string) error { return l.stepWhom(w, ClientUrgent, LegUrgent) }

// write is `write client|L [N]`: N of the offered bytes, or all, are written.
func (l *lab) write(w []string) error {
	e, err := whom(w, ClientWrote, LegWrote)
	if err != nil {
		return err
	}
	e.N = len(l.offer(&e))
	if len(w) > 1 {
		e.N, err = strconv.Atoi(w[1])
	}
	l.step(e)
	return err
}

func (l *lab) offer(e *Event) []byte {
	if e.Type == ClientWrote {
		b, _ := l.c.ToClient()
		return b
	}
	b, _ := l.c.ToLeg(e.Leg)
	return b
}

// drain is `drain [client|L]...`: all that is offered is written, and what
// went to a server is acknowledged. Without words: to everyone.
func (l *lab) drain(w []string) error {
	if len(w) == 0 {
		w = []string{"client", "0", "1"}
	}
	for moved := true; moved; {
		moved = false
		for i := range w {
			e, err := whom(w[i:], ClientWrote, LegWrote)
			if err != nil {
				return err
			}
			if e.N = len(l.offer(&e)); e.N > 0 {
				moved = true
				l.step(e)
			}
			if e.Type == LegWrote && l.c.legs[e.Leg].acked < l.c.legs[e.Leg].wrote {
				l.step(Event{Type: LegAcked, Leg: e.Leg, Off: l.c.legs[e.Leg].wrote})
			}
		}
	}
	return nil
}

// ack is `ack L N`: the server has acknowledged N bytes in all.
func (l *lab) ack(w []string) error {
	leg, err := legOf(w, 0)
	if err != nil || len(w) < 2 {
		return fmt.Errorf("ack L N")
	}
	n, err := strconv.ParseUint(w[1], 10, 64)
	l.step(Event{Type: LegAcked, Leg: leg, Off: n})
	return err
}

// tick is `tick +DURATION`.
func (l *lab) tick(w []string) error {
	if len(w) == 0 {
		return fmt.Errorf("how long?")
	}
	d, err := time.ParseDuration(w[0])
	l.now += d
	l.step(Event{Type: Tick})
	return err
}

// timer waits for the core's deadline.
func (l *lab) timer([]string) error {
	at, ok := l.c.Deadline()
	if !ok {
		return fmt.Errorf("no deadline")
	}
	fmt.Fprintf(&l.out, "  +%v\n", at-l.now)
	l.now = at
	l.step(Event{Type: Tick})
	return nil
}

// deadline prints when the core wants its next tick.
func (l *lab) deadline([]string) error {
	at, ok := l.c.Deadline()
	if !ok {
		l.out.WriteString("  none\n")
		return nil
	}
	fmt.Fprintf(&l.out, "  +%v\n", at-l.now)
	return nil
}

// verdict is `verdict L up|down [old]`: old answers the probe before the last.
func (l *lab) verdict(w []string) error {
	leg, err := legOf(w, 0)
	if err != nil || len(w) < 2 {
		return fmt.Errorf("verdict L up|down [old]")
	}
	e := Event{Type: Verdict, Leg: leg, Up: w[1] == "up", Seq: l.c.probes}
	if len(w) > 2 {
		e.Seq--
	}
	l.step(e)
	return nil
}

// eject is `eject L REASON`.
func (l *lab) eject(w []string) error {
	leg, err := legOf(w, 0)
	if err != nil || len(w) < 2 {
		return fmt.Errorf("eject L REASON")
	}
	for i, name := range reasons {
		if name == w[1] {
			l.step(Event{Type: Ejected, Leg: leg, Why: Reason(i)})
			return nil
		}
	}
	return fmt.Errorf("unknown reason %q", w[1])
}

func (l *lab) seq(w []string) (uint64, error) {
	if len(w) == 0 {
		return l.c.seq, nil
	}
	return strconv.ParseUint(w[0], 10, 64)
}

// confirm is `confirm [SEQ]`; without, all records.
func (l *lab) confirm(w []string) error {
	n, err := l.seq(w)
	l.step(Event{Type: Confirmed, Seq: n})
	return err
}

// refuse is `refuse [SEQ]`.
func (l *lab) refuse(w []string) error {
	n, err := l.seq(w)
	l.step(Event{Type: Refused, Seq: n})
	return err
}

// auto is `auto on|off`: whether records are confirmed by themselves.
func (l *lab) auto(w []string) error {
	l.manual = len(w) > 0 && w[0] == "off"
	return nil
}

func (l *lab) trim([]string) error {
	l.c.Trim()
	fmt.Fprintf(&l.out, "  borrowed %d\n", l.bufs.out)
	return nil
}

// step gives the core an event, prints what it asks for, and confirms.
func (l *lab) step(e Event) {
	e.Now = l.now
	l.c.Step(e)
	ask := false
	for _, a := range l.c.Actions() {
		fmt.Fprintf(&l.out, "  %s\n", show(&a))
		ask = ask || a.Type == Publish
	}
	if ask && !l.manual {
		l.step(Event{Type: Confirmed, Seq: l.c.seq})
	}
}

var actionNames = [...]string{"publish", "probe", "live", "shutdown client", "reset client", "close client",
	"shutdown leg", "close leg", "promoted", "dropped", "diverged", "muted", "done"}

func show(a *Action) string {
	s := actionNames[a.Type]
	switch a.Type {
	case Publish:
		if s += fmt.Sprintf(" %d", a.Seq); a.Eject {
			s += fmt.Sprintf(" eject leg %d: %v", a.Leg, a.Why)
		} else if a.Why != ReasonNone {
			s += fmt.Sprintf(" leg %d: %v", a.Leg, a.Why)
		}
	case Probe:
		s += fmt.Sprintf(" %d", a.Seq)
	case SetLive:
		s += fmt.Sprintf(" %v %v", a.Live[0], a.Live[1])
	case ShutdownClient:
		s += fmt.Sprintf(" at %d", a.Off)
	case ResetClient, CloseClient, Done:
		s += fmt.Sprintf(": %v", a.Why)
	case ShutdownLeg:
		s += fmt.Sprintf(" %d at %d", a.Leg, a.Off)
	case CloseLeg:
		if s += fmt.Sprintf(" %d", a.Leg); a.Reset {
			s += " with RST"
		}
	case Promoted:
		s += fmt.Sprintf(" leg %d from %d", a.Leg, a.Off)
	case Dropped, Muted:
		s += fmt.Sprintf(" leg %d: %v", a.Leg, a.Why)
	case Diverged:
		s += fmt.Sprintf(" leg %d at %d: %q / %q", a.Leg, a.Off, a.Sample[0], a.Sample[1])
	}
	return s
}

// showOffers prints what may be written now, if that has changed.
func (l *lab) showOffers() {
	if l.c == nil {
		return
	}
	var s strings.Builder
	b, urg := l.c.ToClient()
	showBytes(&s, "client", b, urg)
	for leg := range Leg(2) {
		b, urg := l.c.ToLeg(leg)
		showBytes(&s, fmt.Sprintf("leg %d", leg), b, urg)
	}
	if s.String() != l.offered {
		if l.offered = s.String(); l.offered == "" {
			s.WriteString("  nothing to write\n")
		}
		l.out.WriteString(s.String())
	}
}

func showBytes(s *strings.Builder, to string, b []byte, urgent bool) {
	if len(b) == 0 {
		return
	}
	if urgent {
		to += " urgent"
	}
	if len(b) > 40 {
		fmt.Fprintf(s, "  to %s: %d bytes from %q\n", to, len(b), b[:8])
		return
	}
	fmt.Fprintf(s, "  to %s: %q\n", to, b)
}

// state prints the offsets and the record.
func (l *lab) state([]string) error {
	c, r := l.c, l.c.Record()
	fmt.Fprintf(&l.out, "  client read %d | released %d equal %d | answers %d %d | sent %d %d\n", c.in.end,
		c.released, c.verified, c.legs[0].win.end, c.legs[1].win.end, c.legs[0].wrote, c.legs[1].wrote)
	fmt.Fprintf(&l.out, "  record %d: primary %d live %v muted %v", r.Seq, r.Primary, r.Live, r.Muted)
	if r.ClientFIN {
		fmt.Fprintf(&l.out, " client FIN %d", r.ClientEnd)
	}
	if r.ServerFIN {
		fmt.Fprintf(&l.out, " server FIN %d", r.ServerEnd)
	}
	l.out.WriteString("\n")
	return nil
}

// check notes what must hold after any command.
func (l *lab) check() {
	if l.c == nil {
		return
	}
	for _, err := range broken(l.c, l.bufs) {
		l.bad = append(l.bad, fmt.Sprintf("%v, after:\n%s", err, l.out.String()))
	}
}

// TestScriptLanguage sees to it that a script cannot say nonsense unnoticed.
func TestScriptLanguage(t *testing.T) {
	for _, line := range []string{"nonsense", "connect", "connect 2", "leg 0", "tick", "tick fast", "ack 0",
		"verdict 0", "eject 0 nothing", "new colour=red", `client "`, "write", "fin server"} {
		var l lab
		l.play("new")
		if got := l.play(line); !strings.Contains(got, "error: ") {
			t.Errorf("%q was taken: %s", line, got)
		}
	}
	if got := new(lab).play("tick +1s"); !strings.Contains(got, "no connection") {
		t.Errorf("a script without a connection: %s", got)
	}
	if flag.Lookup("rewrite") == nil {
		t.Error("no flag to rewrite the scripts")
	}
}
