package lab_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"sttcp/e2e/lab"
	"sttcp/e2e/lab/labtest"
)

// namespacesOf lists the names under /run/netns of a lab.
func namespacesOf(t *testing.T, id string) []string {
	t.Helper()
	return must[[]string](t)(filepath.Glob("/run/netns/" + id + "-*"))
}

// leftovers says what is left of a lab: names, mounts, files, processes.
func leftovers(t *testing.T, id, dir string, pids ...int) error {
	t.Helper()
	var errs []error
	if names := namespacesOf(t, id); len(names) > 0 {
		errs = append(errs, fmt.Errorf("names: %v", names))
	}
	mounts := must[[]byte](t)(os.ReadFile("/proc/self/mounts"))
	if strings.Contains(string(mounts), "/"+id+"-") {
		errs = append(errs, errors.New("mounts"))
	}
	for _, path := range []string{dir, "/run/sttcp-lab/" + id} {
		if _, err := os.Stat(path); err == nil {
			errs = append(errs, fmt.Errorf("file %s", path))
		}
	}
	for _, pid := range pids {
		if isAlive(pid) {
			errs = append(errs, fmt.Errorf("process %d", pid))
		}
	}
	return errors.Join(errs...)
}

// isAlive is false for zombies: in a container nobody may reap orphans.
func isAlive(pid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}

// family is a shell that starts a child in its own process group and one in
// another session, prints their ids to the file, and stays.
func family(file string) lab.Cmd {
	return lab.Cmd{Path: "sh", Args: []string{"-c",
		"sleep 1000 & a=$!; setsid sleep 1000 & b=$!; echo $$ $a $b > " + file + ".new; mv " + file + ".new " + file + "; wait"}}
}

// pidsFrom waits for the file of family.
func pidsFrom(t *testing.T, file string) (pids []int) {
	t.Helper()
	check(t, lab.Until(t.Context(), "the family's ids", func() error {
		b, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		pids = nil
		for _, s := range strings.Fields(string(b)) {
			pids = append(pids, must[int](t)(strconv.Atoi(s)))
		}
		return nil
	}))
	return pids
}

func TestCloseRemovesEverything(t *testing.T) {
	labtest.NeedRoot(t)
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	fds := countFDs(t)
	l := must[*lab.Lab](t)(lab.New(lab.Options{Hosts: lab.Standard("client", "s1", "router")}))
	defer l.Close()
	s1 := l.Host("s1")
	file := filepath.Join(t.TempDir(), "pids")
	must[*lab.Process](t)(s1.Start(t.Context(), family(file)))
	pids := pidsFrom(t, file)
	must[*lab.Capture](t)(s1.Capture())
	must[*lab.Capture](t)(l.CaptureNetwork(lab.LAN))
	_, err := s1.Delay(time.Millisecond, time.Millisecond)
	check(t, err)
	frozen := must[*lab.Fault](t)(s1.Freeze())
	check(t, l.Close())
	check(t, leftovers(t, l.ID(), l.Dir(), pids...))
	check(t, l.Close())
	check(t, frozen.Undo())
	check(t, leftovers(t, l.ID(), l.Dir(), pids...))
	if now := countFDs(t); now > fds {
		t.Errorf("%d descriptors, %d before", now, fds)
	}
}

// What is asked of a closed lab is refused. Above all it must not happen to
// the machine itself, which has an lo, too.
func TestClosedLabDoesNothing(t *testing.T) {
	l := newLab(t, "s1", "router")
	s1 := l.Host("s1")
	check(t, l.Close())
	addr := netip.MustParsePrefix("10.9.0.77/24")
	route := lab.Route{Via: lab.LAN4(1)}
	fault := func(_ *lab.Fault, err error) error { return err }
	capture := func(_ *lab.Capture, err error) error { return err }
	for name, err := range map[string]error{
		"Start":     func() error { _, err := s1.Start(t.Context(), lab.Cmd{Path: "true"}); return err }(),
		"Run":       func() error { _, err := s1.Run(t.Context(), "true"); return err }(),
		"AddHost":   func() error { _, err := l.AddHost(lab.Standard("s2")[0]); return err }(),
		"Do":        s1.Do(func() error { return nil }),
		"Dial":      func() error { _, err := s1.Dial("tcp", "127.0.0.1:1"); return err }(),
		"AddAddr":   s1.AddAddr(addr),
		"SetRoute":  s1.SetRoute(route),
		"LinkDown":  fault(s1.LinkDown()),
		"NICDown":   fault(s1.NICDown()),
		"Isolate":   fault(s1.Isolate()),
		"Delay":     fault(s1.Delay(0, 0)),
		"Rate":      fault(s1.Rate(lab.Out, 1e6)),
		"Capture":   capture(s1.Capture()),
		"SetSysctl": s1.SetSysctl("net.ipv4.tcp_sack", "1"),
	} {
		if err == nil || !strings.Contains(err.Error(), "closed") {
			t.Errorf("%s: %v", name, err)
		}
	}
	check(t, leftovers(t, l.ID(), l.Dir()))
}

// Hosts that are added while the lab is being closed are removed, too.
func TestAddHostWhileClosing(t *testing.T) {
	for range 5 {
		l := newLab(t, "client")
		done := make(chan error)
		go func() {
			var err error
			for i := 0; err == nil; i++ {
				_, err = l.AddHost(lab.HostSpec{Name: fmt.Sprintf("h%d", i), Links: []lab.LinkSpec{{Network: lab.LAN}}})
			}
			done <- err
		}()
		check(t, lab.Until(t.Context(), "a host", func() error {
			if len(l.Hosts()) < 3 {
				return errors.New("too few")
			}
			return nil
		}))
		err := l.Close()
		t.Log(<-done)
		check(t, err)
		check(t, leftovers(t, l.ID(), l.Dir()))
	}
}

// Connections that are still open in this process keep their namespaces, but
// nothing passes any more.
func TestNothingPassesAfterClose(t *testing.T) {
	l := newLab(t, "client", "s1")
	serve(t, l.Host("s1"), 7, echo)
	v4 := dial(t, l.Host("client"), netip.AddrPortFrom(l.Host("s1").Addr4(), 7))
	v6 := dial(t, l.Host("client"), netip.AddrPortFrom(l.Host("s1").Addr6(), 7))
	check(t, errors.Join(roundTrip(v4, "before"), roundTrip(v6, "before")))
	check(t, l.Close())
	silent(t, v4)
	silent(t, v6)
}

func countFDs(t *testing.T) int {
	t.Helper()
	return len(must[[]os.DirEntry](t)(os.ReadDir("/proc/self/fd")))
}

// init keeps maker on the main thread: with one thread at a time, the first
// function that asks for a thread of its own is offered just that one.
func init() {
	if os.Getenv("LAB_TEST_MAKER") != "" {
		runtime.LockOSThread()
		runtime.GOMAXPROCS(1)
	}
}

// maker is a process of its own that makes a lab with a family in it, prints
// what it made, and then ends in the way that the test asked for.
func maker(mode string) {
	runtime.UnlockOSThread()
	_ = lab.OnThread(func() error { return unix.Unshare(unix.CLONE_NEWNET) }) // see startMaker
	l, err := lab.New(lab.Options{Name: "maker", Hosts: lab.Standard("client", "s1")})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	defer l.Close()
	file := os.Getenv("LAB_TEST_FILE")
	if _, err := l.Host("s1").Start(context.Background(), family(file)); err != nil {
		panic(err)
	}
	_ = lab.Until(context.Background(), "pids", func() error { _, err := os.Stat(file); return err })
	mainThread, _ := os.Readlink("/proc/self/ns/net")
	fmt.Println(l.ID(), l.Dir(), mainThread)
	switch mode {
	case "panic":
		panic("on purpose")
	case "panic in Do":
		_ = l.Host("s1").Do(func() error { panic("on purpose") })
	}
	select {}
}

// startMaker starts maker and returns once the lab is there.
func startMaker(t *testing.T, mode string) (cmd *exec.Cmd, id, dir string, pids []int) {
	t.Helper()
	labtest.NeedRoot(t)
	file := filepath.Join(t.TempDir(), "pids")
	cmd = exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), "LAB_TEST_MAKER="+mode, "LAB_TEST_FILE="+file)
	out, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // has ended
	line := must[string](t)(bufio.NewReader(out).ReadString('\n'))
	var mainThread string
	if _, err := fmt.Sscan(line, &id, &dir, &mainThread); err != nil {
		t.Fatalf("maker said %q", line)
	}
	if mine := must[string](t)(os.Readlink("/proc/self/ns/net")); mine != mainThread {
		t.Errorf("the maker's main thread is in %s, not %s", mainThread, mine)
	}
	return cmd, id, dir, pidsFrom(t, file)
}

func TestMakerPanics(t *testing.T) {
	for _, mode := range []string{"panic", "panic in Do"} {
		t.Run(mode, func(t *testing.T) {
			cmd, id, dir, pids := startMaker(t, mode)
			err := cmd.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 2 {
				t.Errorf("ended with %v, want a panic's status 2", err)
			}
			check(t, leftovers(t, id, dir, pids...))
		})
	}
}

func TestMakerIsToldToEnd(t *testing.T) {
	for _, sig := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP} {
		t.Run(sig.String(), func(t *testing.T) {
			cmd, id, dir, pids := startMaker(t, "wait")
			check(t, cmd.Process.Signal(sig))
			_ = cmd.Wait() // its status is looked at below
			if got := cmd.ProcessState.Sys().(interface{ Signal() unix.Signal }).Signal(); got != sig {
				t.Errorf("died of %v, want %v", got, sig)
			}
			check(t, leftovers(t, id, dir, pids...))
		})
	}
}

// A killed maker's program dies with it; its name, mounts, files and the rest
// of its processes are removed by the next lab, a living maker's are not.
func TestMakerIsKilled(t *testing.T) {
	cmd, id, dir, pids := startMaker(t, "wait")
	_, aliveID, _, alivePIDs := startMaker(t, "wait")
	check(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	check(t, lab.Until(t.Context(), "the program's death", func() error {
		if isAlive(pids[0]) {
			return errors.New("it lives")
		}
		return nil
	}))
	if !isAlive(pids[1]) || !isAlive(pids[2]) || len(namespacesOf(t, id)) == 0 {
		t.Fatal("there is nothing to sweep: the test tests nothing")
	}
	l := newLab(t)
	check(t, leftovers(t, id, dir, pids...))
	if len(namespacesOf(t, aliveID)) != 3 || !isAlive(alivePIDs[0]) {
		t.Error("a living maker's lab was swept")
	}
	if len(namespacesOf(t, l.ID())) == 0 {
		t.Error("the sweeper's own lab was swept")
	}
}

// Labs of one process do not get in each other's way.
func TestTwoLabs(t *testing.T) {
	a, b := newLab(t, "client"), newLab(t, "client")
	if a.ID() == b.ID() || a.Dir() == b.Dir() {
		t.Fatal("they share an id or a directory")
	}
	check(t, a.Close())
	if len(namespacesOf(t, b.ID())) != 2 {
		t.Error("closing one took from the other")
	}
}

// An error in the middle of New leaves nothing.
func TestFailingNewLeavesNothing(t *testing.T) {
	labtest.NeedRoot(t)
	before := must[[]string](t)(filepath.Glob("/run/netns/half-*"))
	_, err := lab.New(lab.Options{Name: "half", Hosts: lab.Standard("client", "nobody")})
	if err == nil {
		t.Fatal("it did not fail")
	}
	after := must[[]string](t)(filepath.Glob("/run/netns/half-*"))
	if len(after) > len(before) {
		t.Errorf("left %v", after)
	}
}

func BenchmarkNewSixHosts(b *testing.B) {
	labtest.NeedRoot(b)
	for b.Loop() {
		l, err := lab.New(lab.Options{Hosts: lab.Standard("client", "g1", "g2", "w1", "s1", "s2")})
		if err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err := l.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
