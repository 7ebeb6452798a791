package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// leave puts a dead maker's lock file with the given content into place.
func leave(t *testing.T, content string) (id, path string) {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("the state directory needs root")
	}
	id = fmt.Sprintf("dead-%d-%d", os.Getpid(), serial.Add(1))
	path = filepath.Join(stateDir, id)
	if err := errors.Join(os.MkdirAll(stateDir, 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(path) }) // usually swept
	return id, path
}

// The sweeper removes a directory only if its name is that of the dead lab:
// a damaged file must not cost anybody's files.
func TestSweepTouchesOnlyItsOwn(t *testing.T) {
	mine, other := t.TempDir(), t.TempDir()
	id, path := leave(t, "")
	own := filepath.Join(mine, id+".123")
	if err := os.Mkdir(own, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{other, "/", "", own} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := sweepOne(id); err != nil {
			t.Errorf("content %q: %v", content, err)
		}
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("content %q: the lock file is still there: %v", content, err)
		}
		if _, err := os.Stat(other); err != nil {
			t.Fatalf("content %q: %v", content, err)
		}
	}
	if _, err := os.Stat(own); !os.IsNotExist(err) {
		t.Errorf("its own directory is still there: %v", err)
	}
	if err := sweepOne(id); err != nil {
		t.Errorf("swept twice: %v", err)
	}
}

// A namespace of which only the file was made, without its mount, is removed,
// and one with a longer id is not.
func TestSweepHalfMadeNamespaces(t *testing.T) {
	id, _ := leave(t, "")
	half, longer := filepath.Join(netnsDir, id+"-s1"), filepath.Join(netnsDir, id+"0-s1")
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{half, longer} {
		if err := os.WriteFile(path, nil, 0o444); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(path) // the first is gone
	}
	if err := sweepOne(id); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); !os.IsNotExist(err) {
		t.Errorf("half made: %v", err)
	}
	if _, err := os.Stat(longer); err != nil {
		t.Errorf("of another: %v", err)
	}
}

// A lab whose lock is held is left alone.
func TestSweepLeavesTheLiving(t *testing.T) {
	id, path := leave(t, "")
	lock, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := flock(lock, unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := sweepOne(id); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}

func TestReleaseAfterHalfAReservation(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := (&reservation{dir: dir}).release(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func TestUntil(t *testing.T) {
	calls := 0
	err := Until(context.Background(), "three calls", func() error {
		if calls++; calls < 3 {
			return errors.New("too few")
		}
		return nil
	})
	if err != nil || calls != 3 {
		t.Errorf("%d calls, %v", calls, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	last := errors.New("no luck")
	err = Until(ctx, "luck", func() error { return last })
	if !errors.Is(err, last) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "wait for luck") {
		t.Errorf("error %v", err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Until(cancelled, "nothing", func() error { return nil }); err != nil {
		t.Errorf("true at once, but: %v", err)
	}
	if err := Until(cancelled, "luck", func() error { return last }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(path, []byte("one\ntwo\nthree\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := tail(path, 6); got != "three\n" {
		t.Errorf("%q", got)
	}
	if got := tail(path, 100); got != "one\ntwo\nthree\n" {
		t.Errorf("%q", got)
	}
	if got := tail(path+"x", 100); !strings.Contains(got, "no such file") {
		t.Errorf("%q", got)
	}
}

// Names and hardware addresses differ for all interfaces of the standard
// plan, and fit into the kernel's 15 characters with the relay's prefix.
func TestInterfaceNamesAndAddresses(t *testing.T) {
	var seen []string
	specs := append(Standard(), HostSpec{Name: "nineletts", Links: []LinkSpec{{Network: "x"}, {Network: "y"}}},
		HostSpec{Name: "ninelette", Links: []LinkSpec{{Network: "x"}}})
	for _, spec := range specs {
		for i, ls := range spec.Links {
			mac, name := macFor(ls, spec.Name, i), wireName(spec.Name, i)
			port, near := (&Link{wire: name}).relayDevs()
			for _, s := range []string{mac.String(), name, port, near} {
				if slices.Contains(seen, s) {
					t.Errorf("%s %d: %s is not unique", spec.Name, i, s)
				}
				seen = append(seen, s)
			}
			if len(port) > 15 || mac[0]&3 != 2 { // local, not multicast
				t.Errorf("%s %d: %s, %v", spec.Name, i, port, mac)
			}
		}
	}
	if mac := macFor(lanLink(11), "s1", 0); mac.String() != "02:00:0a:09:00:0b" {
		t.Errorf("s1 is %v", mac)
	}
}

// The thread of a host runs one function after the other, also for many
// callers, and refuses when it has ended.
func TestThread(t *testing.T) {
	l := rootLab(t, Options{Hosts: Standard("s1")})
	th, err := newThread(l.Host("s1").ns)
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan int, 50)
	for range cap(results) {
		go func() {
			_ = th.run(func() error { results <- unix.Gettid(); return nil })
		}()
	}
	first := <-results
	for range cap(results) - 1 {
		if tid := <-results; tid != first {
			t.Fatalf("threads %d and %d", first, tid)
		}
	}
	want := errors.New("its own")
	if err := th.run(func() error { return want }); err != want {
		t.Errorf("error %v", err)
	}
	th.end()
	th.end()
	if err := th.run(func() error { return nil }); !errors.Is(err, errEnded) {
		t.Errorf("after the end: %v", err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := newThread(l.Host("s1").ns); !errors.Is(err, errEnded) {
		t.Errorf("in a removed namespace: %v", err)
	}
}
