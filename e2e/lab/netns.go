package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"sync"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// netnsDir is where `ip netns` looks for namespaces.
const netnsDir = "/run/netns"

// namespace is a named network namespace with an open descriptor of it.
type namespace struct {
	// Constant after createNamespace.
	name  string
	inode uint64 // as in /proc/PID/ns/net

	mu sync.RWMutex
	fd netns.NsHandle // guarded by mu; closed once removed
}

// createNamespace makes the namespace and runs setup in it.
func createNamespace(name string, setup func() error) (*namespace, error) {
	n := &namespace{name: name, fd: netns.None()}
	err := onThread(func() (err error) {
		if n.fd, err = netns.NewNamed(name); err != nil {
			return err
		}
		if n.inode, err = inodeOf(filepath.Join(netnsDir, name)); err != nil {
			return err
		}
		return setup()
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("create namespace %s: %w", name, err), n.remove())
	}
	return n, nil
}

// do runs f on a thread that is in the namespace.
func (n *namespace) do(f func() error) error {
	return onThread(func() error {
		if err := n.enter(); err != nil {
			return fmt.Errorf("enter namespace %s: %w", n.name, err)
		}
		return f()
	})
}

// enter moves the current thread into the namespace.
func (n *namespace) enter() error {
	n.mu.RLock()
	defer n.mu.RUnlock()
	if !n.fd.IsOpen() {
		return errEnded
	}
	return netns.Set(n.fd)
}

// remove forgets the name and closes the descriptor. The kernel ends the
// namespace when nothing is in it any more.
func (n *namespace) remove() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.fd.IsOpen() {
		_ = n.fd.Close() // it is only a reference
	}
	return removeNamed(n.name)
}

// removeNamed undoes what netns.NewNamed leaves under /run/netns, also when
// it got only half way.
func removeNamed(name string) error {
	path := filepath.Join(netnsDir, name)
	err := unix.Unmount(path, unix.MNT_DETACH)
	if err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove namespace: %w", err)
	}
	return nil
}

// shareNetnsDir makes /run/netns a shared mount as `ip netns add` does. If
// that command did it later, over our mounts, they could not be removed any
// more; and because the same would happen to mounts of other programs, it is
// done only while the directory is empty.
func shareNetnsDir() error {
	if err := os.MkdirAll(netnsDir, 0o755); err != nil {
		return fmt.Errorf("make %s: %w", netnsDir, err)
	}
	share := func() error { return unix.Mount("", netnsDir, "none", unix.MS_SHARED|unix.MS_REC, "") }
	err := share()
	if err != unix.EINVAL { // EINVAL: it is not a mount point
		return wrap(err, "share %s", netnsDir)
	}
	if entries, err := os.ReadDir(netnsDir); err != nil || len(entries) > 0 {
		return wrap(err, "list %s", netnsDir)
	}
	if err := unix.Mount(netnsDir, netnsDir, "none", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("mount %s: %w", netnsDir, err)
	}
	return wrap(share(), "share %s", netnsDir)
}

// inodeOf is what a namespace is known by in /proc.
func inodeOf(path string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return 0, fmt.Errorf("stat %s: %w", path, err)
	}
	return st.Ino, nil
}

// errGoexit is what onThread returns when f ended its goroutine: t.FailNow
// does so, and would otherwise leave the caller waiting for ever.
var errGoexit = errors.New("the function ended its goroutine (a test's FailNow belongs into the test's own goroutine)")

// outcome is how a function ended on a thread.
type outcome struct {
	err      error
	panicked any
	stack    []byte
}

// onThread runs f on an operating system thread of its own, which is thrown
// away afterwards, since it may have changed its namespace. A panic in f
// comes out in the caller, where deferred calls can clean up.
func onThread(f func() error) error {
	done := make(chan outcome, 1)
	spawn(f, done)
	o := <-done
	if o.panicked != nil {
		panic(fmt.Sprintf("%v\n\non the thread of a lab host:\n%s", o.panicked, o.stack))
	}
	return o.err
}

// spawn runs f on a thread of its own, which is not the main one.
func spawn(f func() error, done chan<- outcome) {
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		if unix.Gettid() != unix.Getpid() {
			contain(f, done)
			return
		}
		// The main thread can't be thrown away, and its namespace is what
		// /proc/self/ns/net shows. While we hold it, f gets another one.
		inner := make(chan outcome, 1)
		spawn(f, inner)
		done <- <-inner
		runtime.UnlockOSThread()
	}()
}

// contain runs f and reports how it ended, be it by a panic or by Goexit.
func contain(f func() error, done chan<- outcome) {
	o := outcome{err: errGoexit}
	defer func() {
		if o.panicked = recover(); o.panicked != nil {
			o.stack = debug.Stack()
		}
		done <- o
	}()
	o.err = f()
}

// errEnded is returned for what is asked of a host that is gone.
var errEnded = errors.New("the lab is closed or the host removed")

// thread is a long-lived thread in a namespace. The parent death signal of a
// process is sent when the *thread* that started it ends, so processes are
// started from one that lives as long as the host.
type thread struct {
	calls chan func()
	quit  chan struct{}
	once  sync.Once
}

// newThread starts a thread in the namespace. If it can't be entered there is no
// thread, and run would wait for ever: don't use what comes with an error.
func newThread(n *namespace) (*thread, error) {
	t := &thread{calls: make(chan func()), quit: make(chan struct{})}
	ready := make(chan error, 1)
	go func() {
		err := n.do(func() error {
			ready <- nil
			t.serve()
			return nil
		})
		if err != nil {
			ready <- err
		}
	}()
	return t, <-ready
}

// serve runs functions one after the other. What is being run when end is called
// is run to its end.
func (t *thread) serve() {
	for {
		select {
		case f := <-t.calls:
			f()
		case <-t.quit:
			return
		}
	}
}

// run runs f on the thread; f must not block for long.
func (t *thread) run(f func() error) error {
	done := make(chan error, 1)
	select {
	case t.calls <- func() { done <- f() }:
		return <-done
	case <-t.quit:
		return errEnded
	}
}

// end ends the thread and with it every process that it started.
func (t *thread) end() { t.once.Do(func() { close(t.quit) }) }
