package e2e

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/lab/labtest"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

// machines are ends of a whole host, in a download (the server owes bytes)
// and in an upload.
var machines = []misdeed{
	{name: "link down, download", says: "send 4000000 2s 1", gets: beginning(4000000), strike: (*play).linkDown},
	{name: "link down, upload", says: "rate 20000000\nrecv 40000000", up: 40000000, gets: hashed, strike: (*play).linkDown},
	{name: "frozen, download", says: "send 4000000 2s 1", gets: beginning(4000000), strike: (*play).freeze},
	{name: "frozen, upload", says: "rate 20000000\nrecv 40000000", up: 40000000, gets: hashed, strike: (*play).freeze},
}

func (p *play) linkDown() error { return p.breaks((*lab.Host).LinkDown) }
func (p *play) freeze() error   { return p.breaks((*lab.Host).Freeze) }

func (p *play) breaks(how func(*lab.Host) (*lab.Fault, error)) error {
	f, err := how(p.lab.Host(p.victim))
	if err == nil {
		p.Cleanup(func() { p.no(f.Undo()) })
	}
	return err
}

// TestServerMachines has a server's whole machine vanish or stand still.
func TestServerMachines(t *testing.T) {
	for _, m := range machines {
		m.who, m.at, m.drops = either, 1<<20, []string{"dead", "lag"}
		for _, p := range plays(newRand(t), []misdeed{m}, true) {
			t.Run(p.title(), func(t *testing.T) {
				t.Parallel()
				perform(t, []*play{p})
			})
		}
	}
}

// newScript is a world with one service of Script servers, on these hosts.
func newScript(t *testing.T, keys string, hosts ...string) *world {
	t.Helper()
	w := &world{T: t, ctx: patient(t), servers: map[string]*rig.Server{}}
	all := append([]string{client, "router", "g1"}, hosts...)
	w.lab = labtest.New(t, lab.Options{Name: "e2e", Hosts: lab.Standard(all...)})
	for _, host := range hosts {
		w.serveOn(host, testServer(testsrv.Spec{Proto: testsrv.Script, Port: sharedPort}))
	}
	w.start(rig.Config{Services: []rig.Service{{Name: "svc", Ports: fmt.Sprint(sharedPort), Servers: hosts, Extra: keys}}})
	return w
}

// scriptAddr is the address of newScript's service.
var scriptAddr = netip.AddrPortFrom(lab.VIP4, sharedPort).String()

// stream begins a client that gets a stream, and then the words that it asks
// for, one after the other, until it may end.
func (w *world) stream(seed uint64) *talk {
	w.Helper()
	talk := begin(w.dial(scriptAddr), func(c *rig.Conn, p *progress) error {
		what := content.Content{Seed: seed, Size: 3 << 20}
		if err := c.Send(fmt.Sprintf("send %d 1500ms %d", what.Size, what.Seed)); err != nil {
			return err
		}
		if err := getStream(c, p, what); err != nil {
			return err
		}
		ending, pace := p.ending(10), time.NewTicker(2*time.Millisecond)
		defer pace.Stop()
		for i := 0; !ending.over(); i++ {
			if err := wantAnswer(c, fmt.Sprintf("say w%d", i), fmt.Sprintf("w%d", i)); err != nil {
				return err
			}
			p.add(1)
			<-pace.C
		}
		return nil
	})
	w.no(talk.reach(w.ctx, 1))
	return talk
}

// getStream checks a stream as it comes.
func getStream(c *rig.Conn, p *progress, what content.Content) error {
	check, buf := content.NewChecker(what), make([]byte, grain)
	for check.Bytes() < what.Size {
		n, err := c.Reader().Read(buf[:min(grain, what.Size-check.Bytes())])
		_, _ = check.Write(buf[:n]) // never fails
		p.add(int64(n))
		if err != nil {
			return fmt.Errorf("stream: after %d bytes: %w", check.Bytes(), err)
		}
	}
	return check.Err()
}

// TestAllServersVanish cuts the power of both servers at once. The client is
// reset soon after that is known; and since neither has missed what the other
// one has, both serve again when they are back.
func TestAllServersVanish(t *testing.T) {
	for _, keys := range []string{"stateful: true", "stateful: false\nrejoin: auto"} {
		t.Run(strings.Fields(keys)[1], func(t *testing.T) {
			t.Parallel()
			w := newScript(t, keys, "s1", "s2")
			talk := w.stream(3)
			struck := time.Now()
			off := w.together((*lab.Host).PowerOff)
			<-talk.done
			reset := time.Now()
			if !errors.Is(talk.err, syscall.ECONNRESET) {
				t.Errorf("the client ended with %v, want a reset", talk.err)
			}
			known := w.loggedAt("all servers are down")
			t.Logf("reset %v after the power cut, %v after the gateway knew", reset.Sub(struck), reset.Sub(known))
			if late := reset.Sub(known); late > time.Second {
				t.Errorf("the client was reset %v after the gateway knew", late)
			}
			for _, f := range off {
				labtest.Undo(t, f)
			}
			w.serve(testServer(testsrv.Spec{Proto: testsrv.Script, Port: sharedPort}))
			w.waitStates("s1 up, s2 up")
			again := w.stream(4)
			if n := w.service("svc").TwoLegs; n != 1 {
				t.Errorf("%d connections have two legs, want 1", n)
			}
			w.end(again)
			w.checkLeft()
		})
	}
}

// together breaks both servers' hosts at the same time.
func (w *world) together(how func(*lab.Host) (*lab.Fault, error)) []*lab.Fault {
	w.Helper()
	var wg sync.WaitGroup
	faults, errs := make([]*lab.Fault, 2), make([]error, 2)
	for i, host := range []string{"s1", "s2"} {
		wg.Go(func() { faults[i], errs[i] = how(w.lab.Host(host)) })
	}
	wg.Wait()
	w.no(errors.Join(errs...))
	return faults
}

// loggedAt is when the gateway first logged a line that has the words.
func (w *world) loggedAt(words string) time.Time {
	w.Helper()
	for line := range strings.Lines(w.gw.Log()) {
		if strings.Contains(line, words) {
			text, _, _ := strings.Cut(strings.TrimPrefix(line, "time="), " ")
			at, err := time.Parse(time.RFC3339Nano, text)
			w.no(err)
			return at
		}
	}
	w.Fatalf("the gateway did not log %q: %s", words, w.gw.Log())
	return time.Time{}
}

// TestThirdServer has three servers for two legs. When one dies, its clients go
// on with one leg, new ones get two; back again, it serves once the former
// have left.
func TestThirdServer(t *testing.T) {
	t.Parallel()
	w := newScript(t, "stateful: false\nrejoin: auto", "s1", "s2", "s3")
	old := w.stream(1)
	primary, err := w.gw.Primary(w.ctx, "svc")
	w.no(err)
	w.no(w.servers[primary].KillGroup9())
	w.until("the loss of a leg", func() error { return w.lost(1) })
	second := w.stream(2)
	if s := w.service("svc"); s.Connections != 2 || s.TwoLegs != 1 {
		t.Errorf("%d of %d connections have two legs, want 1 of 2", s.TwoLegs, s.Connections)
	}
	w.serveOn(primary, testServer(testsrv.Spec{Proto: testsrv.Script, Port: sharedPort}))
	w.waitState(primary, "joining")
	third := w.stream(3)
	w.end(old)
	w.waitState(primary, "up")
	w.end(second)
	w.end(third)
	w.checkLeft()
	w.checkNoErrors()
}

// waitState waits until one server is in a state.
func (w *world) waitState(server, state string) {
	w.Helper()
	w.until(server+" "+state, func() error {
		servers, err := w.gw.Admin.Servers(w.ctx)
		for _, s := range servers {
			if s.Name == server && s.State != state {
				return fmt.Errorf("it is %s", s.State)
			}
		}
		return err
	})
}

// TestOrdersUnderLoad takes servers out and brings them back while clients are
// busy, whose bytes stay right. None of them is disconnected.
func TestOrdersUnderLoad(t *testing.T) {
	for _, order := range []string{"drain", "maint"} {
		t.Run(order, func(t *testing.T) {
			t.Parallel()
			w := newScript(t, "stateful: false\nrejoin: auto", "s1", "s2")
			clients := []*talk{w.stream(1), w.stream(2), w.stream(3)}
			w.order("server", order, "s1")
			w.waitState("s1", order)
			legs := map[string]int{"drain": 3, "maint": 0}[order]
			w.until("the legs there", func() error { return w.legsAt("s1", legs) })
			clients = append(clients, w.stream(4))
			w.no(w.legsAt("s1", legs))
			w.order("server", "ready", "s1")
			for _, c := range clients {
				w.end(c)
			}
			w.waitStates("s1 up, s2 up")
			last := w.stream(5)
			w.no(w.legsAt("s1", 1))
			w.end(last)
			w.checkLeft()
			w.checkNoErrors()
		})
	}
}

// legsAt returns nil if so many connections have a leg at the server.
func (w *world) legsAt(server string, want int) error {
	servers, err := w.gw.Admin.Servers(w.ctx)
	for _, s := range servers {
		if s.Name == server && s.Legs != want {
			return fmt.Errorf("%s has %d legs, want %d", server, s.Legs, want)
		}
	}
	return err
}

// TestStatefulOrderUnderLoad drains a server of a stateful service under
// writers: it is stale from then on, and brought back by freeze, copy, ready,
// thaw while other clients are there, who wait and lose nothing.
func TestStatefulOrderUnderLoad(t *testing.T) {
	t.Parallel()
	w := newStore(t)
	a, first := w.write("a")
	b, second := w.write("b")
	w.order("server", "drain", "s1")
	w.waitStates("s1 stale, s2 up")
	w.refused("the last one is kept", "server", "maint", "s2")
	for _, c := range []*talk{a, b} {
		w.no(c.reach(w.ctx, c.value()+20))
		w.end(c)
	}
	w.no(sameData(dump(w, "s2"), merge(first, second).dump()))

	w.order("service", "freeze", "svc")
	third, fourth := &pipeline{name: "c"}, &pipeline{name: "d"}
	c, d := begin(w.dial(redisAddr), third.talk), begin(w.dial(redisAddr), fourth.talk)
	w.copyData("s2", "s1")
	w.order("server", "ready", "s1")
	w.order("service", "thaw", "svc")
	w.no(c.reach(w.ctx, 20))
	w.order("service", "freeze", "svc") // with both busy
	w.order("service", "thaw", "svc")
	w.no(d.reach(w.ctx, d.value()+20))
	w.end(c)
	w.end(d)
	w.waitStates("s1 up, s2 up")
	w.no(w.bothHold(merge(first, second, third, fourth)))
	w.checkLeft()
	w.checkNoErrors()
}

// TestMemoryIsFlat has many clients push all they can at a server that does
// not read, and one that does. What they may push is bounded, and so is what
// the gateway holds for them.
func TestMemoryIsFlat(t *testing.T) {
	t.Parallel()
	w := newScript(t, "lag: {suspect: 250ms, limit: 4s}", "s1", "s2")
	before := w.memory()
	const clients, size = 16, 24 << 20
	var talks []*talk
	for i := range clients {
		talks = append(talks, begin(w.dial(scriptAddr), func(c *rig.Conn, p *progress) error {
			if err := c.Send(fmt.Sprintf("@s1 end hang\nrecv %d", size)); err != nil {
				return err
			}
			return pushAll(c, p, content.Content{Seed: uint64(i), Size: size})
		}))
	}
	most := w.memoryUntil(func() bool { return w.lost(clients) == nil })
	for _, c := range talks {
		w.end(c)
	}
	t.Logf("memory of the gateway: %d MiB before, %d MiB at most", before>>20, most>>20)
	if grown := most - before; grown > 64<<20 {
		t.Errorf("it has grown by %d MiB for %d connections", grown>>20, clients)
	}
	w.waitStates("s1 stale, s2 up")
	w.checkLeft()
}

// pushAll sends a stream as fast as it is taken, and wants its hash.
func pushAll(c *rig.Conn, p *progress, what content.Content) error {
	in, buf := what.Reader(), make([]byte, grain)
	for p.value() < what.Size {
		n, _ := in.Read(buf) // never fails before the end
		if _, err := c.Write(buf[:n]); err != nil {
			return fmt.Errorf("upload: after %d bytes: %w", p.value(), err)
		}
		p.add(int64(n))
	}
	got, err := c.ReadLine()
	if err == nil && got != what.SHA256() {
		err = fmt.Errorf("upload: the server has %q, want %s", got, what.SHA256())
	}
	return err
}

// memory is the gateway's resident memory, in bytes.
func (w *world) memory() int64 {
	w.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/statm", w.gw.PID))
	w.no(err)
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	w.no(err)
	return pages * int64(os.Getpagesize())
}

// memoryUntil is the most that memory tells until it is over.
func (w *world) memoryUntil(over func() bool) (most int64) {
	w.Helper()
	w.until("the end of the measurement", func() error {
		most = max(most, w.memory())
		if !over() {
			return errors.New("not yet")
		}
		return nil
	})
	return most
}
