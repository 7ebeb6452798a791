package lab_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/e2e/lab"
	"sttcp/e2e/lab/labtest"
)

func TestProgramRunsInItsHost(t *testing.T) {
	l := newLab(t, "s1")
	s1 := l.Host("s1")
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	p := labtest.Start(t, s1, lab.Cmd{Path: "sh", Dir: dir, Env: []string{"GREETING=hello", "PATH=" + os.Getenv("PATH")},
		Args: []string{"-c", "echo $GREETING; pwd; ip -o -4 addr show eth0; echo oops >&2; exit 3"}, Name: "talk", Stdout: out})
	var exit *exec.ExitError
	if err := p.Wait(t.Context()); !errors.As(err, &exit) || exit.ExitCode() != 3 {
		t.Errorf("ended with %v, want status 3", err)
	}
	printed := string(must[[]byte](t)(os.ReadFile(out)))
	for _, want := range []string{"hello\n", dir + "\n", "10.9.0.11/24"} {
		if !strings.Contains(printed, want) {
			t.Errorf("printed %q, want %q in it", printed, want)
		}
	}
	if p.Log() != "oops\n" || !strings.HasPrefix(p.LogPath(), l.Dir()) || p.Running() {
		t.Errorf("log %q in %s, running %v", p.Log(), p.LogPath(), p.Running())
	}
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Errorf("signal to one that has ended: %v", err)
	}
	text, err := s1.Run(t.Context(), "sh", "-c", "echo partly; exit 1")
	if text != "partly\n" || err == nil || !strings.Contains(err.Error(), "partly") {
		t.Errorf("Run: %q, %v", text, err)
	}
	if _, err := s1.Start(t.Context(), lab.Cmd{Path: "no-such-program"}); err == nil {
		t.Error("a program that is not there was started")
	}
}

func TestKillAloneAndInGroup(t *testing.T) {
	l := newLab(t, "s1")
	file := filepath.Join(t.TempDir(), "pids")
	p := labtest.Start(t, l.Host("s1"), family(file))
	pids := pidsFrom(t, file) // itself, a child in its group, one that left it
	if p.PID != pids[0] {
		t.Fatalf("PID %d, says %d", p.PID, pids[0])
	}
	check(t, p.Kill9())
	if isAlive(pids[0]) || !isAlive(pids[1]) {
		t.Fatal("Kill9 did not kill exactly the one")
	}
	check(t, p.KillGroup9())
	if isAlive(pids[1]) || !isAlive(pids[2]) {
		t.Fatal("KillGroup9 did not kill exactly the group")
	}
}

func TestContextEndsTheGroup(t *testing.T) {
	l := newLab(t, "s1")
	file := filepath.Join(t.TempDir(), "pids")
	ctx, cancel := context.WithCancel(t.Context())
	p := must[*lab.Process](t)(l.Host("s1").Start(ctx, family(file)))
	pids := pidsFrom(t, file)
	if err := p.Wait(within(t, time.Millisecond)); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for a running process: %v", err)
	}
	cancel()
	if err := p.Wait(within(t, 10*time.Second)); errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	check(t, lab.Until(t.Context(), "the child's end", func() error {
		if isAlive(pids[1]) {
			return errors.New("alive")
		}
		return nil
	}))
}

func TestStopAndCont(t *testing.T) {
	l := newLab(t, "s1")
	file := filepath.Join(t.TempDir(), "pids")
	p := labtest.Start(t, l.Host("s1"), family(file))
	pids := pidsFrom(t, file)
	check(t, p.Stop())
	check(t, waitStates(t, "T", pids[:2]...))
	if !p.Running() {
		t.Error("a stopped process does not run")
	}
	check(t, p.Cont())
	check(t, waitStates(t, "S", pids...))
	frozen := labtest.Inject(t)(l.Host("s1").Freeze())
	check(t, waitStates(t, "T", pids...))
	labtest.Undo(t, frozen)
	check(t, waitStates(t, "S", pids...))
}

// waitStates waits until all processes are in a state of /proc/PID/stat.
func waitStates(t *testing.T, state string, pids ...int) error {
	t.Helper()
	return lab.Until(t.Context(), "state "+state, func() error {
		for _, pid := range pids {
			stat, err := os.ReadFile("/proc/" + itoa(pid) + "/stat")
			if err != nil {
				return err
			}
			_, rest, _ := strings.Cut(string(stat), ") ")
			if !strings.HasPrefix(rest, state) {
				return errors.New(itoa(pid) + ": " + rest[:1])
			}
		}
		return nil
	})
}

// The main thread stays in the first namespace however many functions run in
// hosts, and so do the goroutines that those start.
func TestDo(t *testing.T) {
	l := newLab(t, "s1")
	mine := must[string](t)(os.Readlink("/proc/self/ns/net"))
	seen, release := make(chan string, 200), make(chan struct{})
	for range 100 { // held all at once, so that every idle thread is taken
		go func() {
			err := l.Host("s1").Do(func() error {
				ns, err := os.Readlink("/proc/thread-self/ns/net")
				seen <- ns
				<-release
				return err
			})
			if err != nil {
				seen <- err.Error()
			}
		}()
	}
	first := <-seen
	for range 99 {
		if ns := <-seen; ns != first || ns == mine {
			t.Fatalf("in %s, want %s, not %s", ns, first, mine)
		}
	}
	if now := must[string](t)(os.Readlink("/proc/self/ns/net")); now != mine {
		t.Errorf("the main thread moved to %s", now)
	}
	close(release)
	if err := l.Host("s1").Do(func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("Goexit was no error")
	}
	if err := l.Host("s1").Do(func() error { return os.ErrPermission }); !errors.Is(err, os.ErrPermission) {
		t.Errorf("error %v", err)
	}
}

func TestPanicInDoComesOut(t *testing.T) {
	l := newLab(t, "s1")
	defer func() {
		if r := recover(); r == nil || !strings.Contains(r.(string), "on purpose") {
			t.Errorf("recovered %v", r)
		}
	}()
	_ = l.Host("s1").Do(func() error { panic("on purpose") })
	t.Error("it went on")
}

// Sockets are made in the host and used elsewhere, in both families, by many
// goroutines at a time.
func TestDialAndListen(t *testing.T) {
	l := newLab(t, "client", "s1")
	serve(t, l.Host("s1"), 7, echo)
	both(t, func(t *testing.T, addr func(*lab.Host) netip.Addr) {
		to := netip.AddrPortFrom(addr(l.Host("s1")), 7)
		done := make(chan error, 20)
		for range cap(done) {
			go func() {
				c, err := l.Host("client").Dial("tcp", to.String())
				if err == nil {
					err = roundTrip(c, "hello")
					c.Close()
				}
				done <- err
			}()
		}
		for range cap(done) {
			check(t, <-done)
		}
		from := netip.AddrPortFrom(addr(l.Host("client")), 12345)
		c := must[net.Conn](t)(l.Host("client").DialWith(t.Context(),
			net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from)}, "tcp", to.String()))
		defer c.Close()
		if c.LocalAddr().String() != from.String() {
			t.Errorf("dialed from %v, want %v", c.LocalAddr(), from)
		}
	})
}

func TestDialThatFails(t *testing.T) {
	l := newLab(t, "client", "s1")
	client := l.Host("client")
	if _, err := client.Dial("tcp", "10.9.0.11:7"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("error %v, want refused", err)
	}
	for _, addr := range []string{"localhost:7", "10.9.0.11", ":7"} {
		if _, err := client.Dial("tcp", addr); err == nil {
			t.Errorf("%q was dialed", addr)
		}
	}
	labtest.Inject(t)(l.Host("s1").Isolate())
	if _, err := client.DialContext(within(t, 50*time.Millisecond), "tcp", "10.9.0.11:7"); !timedOut(err) {
		t.Errorf("error %v, want the deadline's", err)
	}
	serve(t, l.Host("s1"), 8, echo)
	if _, err := l.Host("s1").Listen("tcp", ":8"); err == nil {
		t.Error("listened twice")
	}
}

func TestWaitListen(t *testing.T) {
	l := newLab(t, "s1", "s2")
	s1 := l.Host("s1")
	short := func() context.Context { return within(t, 30*time.Millisecond) }
	if err := s1.WaitListen(short(), "10.9.0.11:80"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody listens, but: %v", err)
	}
	waiting := make(chan error, 1)
	go func() { waiting <- s1.WaitListen(context.Background(), "[fd09::11]:80") }()
	serve(t, s1, 80, echo) // on all addresses
	check(t, <-waiting)
	check(t, s1.WaitListen(t.Context(), "10.9.0.11:80"))
	one := must[net.Listener](t)(s1.Listen("tcp", "10.9.0.11:81"))
	defer one.Close()
	check(t, s1.WaitListen(t.Context(), "10.9.0.11:81"))
	for _, addr := range []string{"10.9.0.12:81", "[fd09::11]:81", "10.9.0.11:82"} {
		if err := s1.WaitListen(short(), addr); err == nil {
			t.Errorf("something listens on %s", addr)
		}
	}
	if err := l.Host("s2").WaitListen(short(), "10.9.0.11:80"); err == nil {
		t.Error("s1's listener was found in s2")
	}
	if err := s1.WaitListen(t.Context(), "nowhere"); err == nil {
		t.Error("a bad address was accepted")
	}
}
