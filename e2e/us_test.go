package e2e

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/testsrv"
	"sttcp/proxy/stale"
)

// TestUs has the gateway's own process and machine fail it. No server is given
// up for that. Each client's numbered lines come back to it and reach both
// servers, none left out and none twice.
func TestUs(t *testing.T) {
	const stateless = "stateful: false\nrelease: primary"
	behave(t, []behaviour{
		{name: "starved", proto: testsrv.Echo, act: starved(5*time.Millisecond, 100*time.Millisecond)},
		{name: "starved-stateless", proto: testsrv.Echo, extra: stateless, full: true, act: starved(5*time.Millisecond, 100*time.Millisecond)},
		{name: "starved-long-periods", proto: testsrv.Echo, extra: stateless, act: starved(10*time.Millisecond, time.Second)},
		{name: "stopped", proto: testsrv.Echo, act: halted},
		{name: "stopped-stateless", proto: testsrv.Echo, extra: stateless, act: halted},
		{name: "stopped-kill-primary", proto: testsrv.Echo, left: "victim", act: haltedAnd("kill", "primary")},
		{name: "stopped-cut-backup", proto: testsrv.Echo, left: "victim", full: true, act: haltedAnd("cut", "backup")},
		{name: "bursts-and-loss", proto: testsrv.Echo, act: bursts},
		{name: "no-descriptors", proto: testsrv.Echo, errors: true, act: noDescriptors},
		{name: "no-descriptors-stateless", proto: testsrv.Echo, extra: stateless, errors: true, act: noDescriptors},
		{name: "disk-full", proto: testsrv.Paced, left: "victim", config: smallDisk, act: diskFull},
		{name: "disk-full-and-no-room", proto: testsrv.Paced, left: "victim", config: smallDisk, errors: true, act: diskFullNoRoom},
	})
}

// numbered is a client that sends numbered lines to an echo service and wants
// them back.
type numbered struct {
	*talk
	text []byte
}

// numberedFor starts so many clients, whose streams last that long at least,
// and waits for their first answers. Each begins with its number.
func (s *scene) numberedFor(clients int, long time.Duration) (list []*numbered) {
	s.Helper()
	const steps, grains = 100, 20
	for i := range clients {
		n := &numbered{text: append(fmt.Appendf(nil, "client %d\n", i), lines(0, steps*grains)...)}
		n.talk = begin(s.open(), func(c *rig.Conn, p *progress) error {
			sent := make(chan error, 1)
			go func() { sent <- sendPaced(c, n.text, long, steps) }()
			return errors.Join(wantBack(c, p, n.text), <-sent)
		})
		list = append(list, n)
	}
	for _, n := range list {
		s.no(n.reach(s.ctx, 1))
	}
	return list
}

// sendPaced sends text in so many steps.
func sendPaced(c *rig.Conn, text []byte, long time.Duration, steps int) error {
	tick := time.NewTicker(long / time.Duration(steps))
	defer tick.Stop()
	for piece := len(text)/steps + 1; len(text) > 0; <-tick.C {
		n := min(piece, len(text))
		if _, err := c.Write(text[:n]); err != nil {
			return fmt.Errorf("send, with %d bytes left: %w", len(text), err)
		}
		text = text[n:]
	}
	return nil
}

// wantBack reads text.
func wantBack(c *rig.Conn, p *progress, text []byte) error {
	buf := make([]byte, 4096)
	for at := 0; at < len(text); {
		n, err := c.Reader().Read(buf[:min(len(buf), len(text)-at)])
		if ok := common(buf[:n], text[at:]); ok < n {
			c.Close() // ends the sender
			return fmt.Errorf("byte %d that came back is wrong: %s", at+ok, short(string(buf[ok:n])))
		}
		at += n
		p.add(int64(n))
		if err != nil {
			c.Close()
			return fmt.Errorf("after %d of %d bytes: %w", at, len(text), err)
		}
	}
	return nil
}

// wholeAtAll waits for the clients, and wants the streams at both servers: the
// victim has the start of each.
func (s *scene) wholeAtAll(list []*numbered) {
	s.Helper()
	want := map[string]int{}
	for _, n := range list {
		s.end(n.talk)
		want[string(n.text)]++
	}
	for host := range s.records {
		if host == s.victim {
			s.checkStarts(host, want)
			continue
		}
		s.until("every stream at "+host, func() error {
			if got := s.tally(host); !sameTally(got, want) {
				return fmt.Errorf("it has %d streams that are not all alike", len(got))
			}
			return nil
		})
	}
}

func sameTally(a, b map[string]int) bool {
	for k, n := range a {
		if b[k] != n {
			return false
		}
	}
	return len(a) == len(b)
}

// checkStarts wants each stream that a host has got to be the start of one
// that was sent.
func (s *scene) checkStarts(host string, sent map[string]int) {
	s.Helper()
	for got := range s.tally(host) {
		ok := false
		for want := range sent {
			ok = ok || strings.HasPrefix(want, got)
		}
		if !ok {
			s.Errorf("%s has got what nobody has sent: %s", host, short(got))
		}
	}
}

// starved gives the gateway a fraction of a processor for a while.
func starved(run, period time.Duration) func(s *scene) {
	return func(s *scene) {
		list := s.numberedFor(4, 4*time.Second)
		begun := time.Now()
		waited := s.famine(run, period)
		s.wholeAtAll(list)
		var stall time.Duration
		for _, n := range list {
			stall = max(stall, n.stall(begun))
		}
		s.Logf("%v in %v for the gateway: it waited for %v of 4s; the longest stall of a client %v", run, period,
			waited.Round(time.Millisecond), stall.Round(time.Millisecond))
		if waited < 200*time.Millisecond {
			s.Error("the gateway was not starved: this tests nothing")
		}
	}
}

// famine starves the gateway for 4 s and returns how long it had to wait in
// all, of its threads the sum.
func (s *scene) famine(run, period time.Duration) (waited time.Duration) {
	s.Helper()
	q, err := rig.Throttle(s.gw.PID, run, period)
	if errors.Is(err, rig.ErrNoCgroup) {
		s.Logf("%v: stopped and continued instead", err)
		undo := s.burst(period-run, run)
		time.Sleep(4 * time.Second)
		s.no(undo())
		return 4 * time.Second * (period - run) / period
	}
	s.no(err)
	defer func() { s.no(q.Undo()) }()
	time.Sleep(4 * time.Second)
	waited, err = q.Waited()
	s.no(err)
	return waited
}

// burst stops and continues the gateway until undo.
func (s *scene) burst(stop, run time.Duration) (undo func() error) {
	quit, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-quit:
				done <- nil
				return
			case <-time.After(run):
			}
			err := s.gw.Stop()
			time.Sleep(stop)
			if err = errors.Join(err, s.gw.Cont()); err != nil {
				done <- err
				return
			}
		}
	}()
	return func() error {
		close(quit)
		return <-done
	}
}

// bursts stops the gateway again and again, longer than any limit, while the
// network loses some of its packets.
func bursts(s *scene) {
	list := s.numberedFor(4, 4*time.Second)
	loss, err := s.lab.Host("g1").Loss(lab.In, 1)
	s.no(err)
	undo := s.burst(400*time.Millisecond, 100*time.Millisecond)
	time.Sleep(4 * time.Second)
	s.no(undo())
	s.no(loss.Undo())
	s.wholeAtAll(list)
}

// halt is how long the gateway is stopped: longer than every limit that it has
// for others.
const halt = 3 * time.Second

func halted(s *scene) {
	list := s.numberedFor(4, 2500*time.Millisecond)
	s.no(s.gw.Stop())
	time.Sleep(halt)
	s.no(s.gw.Cont())
	s.wholeAtAll(list)
	s.no(s.logged("this process did not run for a while"))
}

// haltedAnd has a server fail while the gateway does not look.
func haltedAnd(how, role string) func(s *scene) {
	return func(s *scene) {
		list := s.numberedFor(1, 2500*time.Millisecond)
		s.victim = s.roleOf(role)
		s.no(s.gw.Stop())
		if how == "kill" {
			s.no(s.servers[s.victim].KillGroup9())
		} else {
			s.down(s.victim)
		}
		time.Sleep(halt)
		s.no(s.gw.Cont())
		s.wholeAtAll(list)
	}
}

// noDescriptors lowers the gateway's limit of open files under what it has,
// while clients talk and others come. Those who talk feel nothing; those who
// come are refused, or wait, and the log says so; when there is room again
// they are served.
func noDescriptors(s *scene) {
	list := s.numberedFor(4, 4*time.Second)
	limit := func(n uint64) (was unix.Rlimit) {
		s.Helper()
		s.no(unix.Prlimit(s.gw.PID, unix.RLIMIT_NOFILE, nil, &was))
		s.no(unix.Prlimit(s.gw.PID, unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: n, Max: was.Max}, nil))
		return was
	}
	was := limit(uint64(s.openFiles() + 10)) // some are left, but not to spare
	if err := s.tries(); !isReset(err) {
		s.Errorf("with few descriptors left: %v, want a reset", err)
	}
	s.until("a log line", func() error { return s.logged("connection refused") })
	if n := s.service("svc").Refused; n == 0 {
		s.Error("nobody was counted as refused")
	}

	limit(5) // fewer than are open
	waiting := s.open()
	s.no(waiting.Send("hello"))
	s.until("a log line", func() error { return s.logged("clients wait", "too many open files") })
	time.Sleep(time.Second) // health checks can't be made meanwhile
	limit(was.Cur)
	if got, err := waiting.ReadLine(); err != nil || got != "hello" {
		s.Errorf("a client that has waited: %q, %v; the gateway: %s", got, err, s.gw.Log())
	}
	if n := s.service("svc").AcceptErrors; n == 0 {
		s.Error("no error was counted")
	}
	last := s.open()
	s.echoes(last)
	s.finish(waiting)
	s.finish(last)
	s.wholeWith(list, "hello\n", 2)
}

// tries connects, asks for an echo and returns what was wrong.
func (s *scene) tries() error {
	c, err := rig.Dial(s.ctx, s.lab, client, s.to.String())
	if err != nil {
		return err
	}
	defer c.Close()
	s.no(c.SetDeadline(time.Now().Add(patience)))
	_, err = c.Ask("hello")
	return err
}

// wholeWith is wholeAtAll when other clients have sent something, too.
func (s *scene) wholeWith(list []*numbered, text string, times int) {
	s.Helper()
	for range times {
		list = append(list, &numbered{talk: ended(), text: []byte(text)})
	}
	s.wholeAtAll(list)
}

// ended is a talk that was had already.
func ended() *talk {
	t := &talk{progress: newProgress(), done: make(chan struct{})}
	close(t.done)
	return t
}

// smallDisk gives the state directory a file system of its own.
func smallDisk(s *scene, c *rig.Config) {
	s.Helper()
	c.StateDir = s.TempDir()
	s.no(unix.Mount("sttcp-test", c.StateDir, "tmpfs", 0, "size=1m"))
	s.Cleanup(func() { s.no(unix.Unmount(c.StateDir, unix.MNT_DETACH)) })
}

// fillDisk leaves no byte in the state directory's file system. It returns how
// to make room.
func (s *scene) fillDisk() (room func()) {
	s.Helper()
	path := filepath.Join(s.gw.Config.StateDir, "filler")
	f, err := os.Create(path)
	s.no(err)
	defer f.Close()
	if _, err := io.Copy(f, zeros{}); !errors.Is(err, unix.ENOSPC) {
		s.Fatalf("fill the disk: %v", err)
	}
	return func() { s.no(os.Remove(path)) }
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// diskFull has no room left on the disk when a server dies. Its space was
// reserved: nobody waits, and a gateway that starts again knows.
func diskFull(s *scene) {
	c := s.open()
	d, asked := s.pull(c, 8<<20, 2500*time.Millisecond)
	s.no(d.WaitBytes(s.ctx, 1<<20))
	s.fillDisk()
	s.kill("primary")
	s.whole(d)
	s.finish(c)
	s.hostGot(other(s.victim), asked, "fin")
	s.no(s.gw.KillGroup9())
	s.restart(strings.Replace("s1 up, s2 up", s.victim+" up", s.victim+" stale", 1))
}

// diskFullNoRoom has a disk that refuses even to overwrite (as copy-on-write
// does): here the reserved space is taken away. Clients hold, and get no byte
// that one server alone has produced, until there is room.
func diskFullNoRoom(s *scene) {
	c := s.open()
	d, asked := s.pull(c, 8<<20, 2500*time.Millisecond)
	s.no(d.WaitBytes(s.ctx, 1<<20))
	s.punch(filepath.Join(s.gw.Config.StateDir, stale.FileName))
	room := s.fillDisk()
	s.kill("primary")
	complaints := func(n int) error {
		if have := strings.Count(s.gw.Log(), "could not be recorded as stale; connections wait"); have < n {
			return fmt.Errorf("it has complained %d times", have)
		}
		return nil
	}
	s.until("a complaint", func() error { return complaints(2) })
	before := d.Bytes() // a second after the first one
	s.until("more complaints", func() error { return complaints(4) })
	if after := d.Bytes(); after != before || before >= 8<<20 {
		s.Errorf("without the record the client got %d bytes, then %d", before, after)
	}
	room()
	s.whole(d)
	s.finish(c)
	s.hostGot(other(s.victim), asked, "fin")
}

// punch takes a file's space away and leaves its length.
func (s *scene) punch(path string) {
	s.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	s.no(err)
	defer f.Close()
	st, err := f.Stat()
	s.no(err)
	s.no(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, st.Size()))
}
