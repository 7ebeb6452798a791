// Package epoll is the event loop of the data path: one goroutine, one epoll
// instance, many sockets. A connection's sockets all belong to one loop, so
// that nothing in a connection needs a lock, and an idle connection costs
// neither a goroutine nor a stack.
//
// All methods but Post and Close are for the loop's own goroutine.
package epoll

import (
	"container/heap"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Events are what epoll says of a socket (epoll_ctl(2)).
type Events uint32

// Readable reports that a read may give something: bytes, an end, an error.
func (e Events) Readable() bool {
	return e&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
}

// Writable reports that a write may be taken, or will say what is wrong.
func (e Events) Writable() bool { return e&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 }

// Ended reports that the peer's direction, or all of it, has ended.
func (e Events) Ended() bool { return e&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 }

// Failed reports that the connection is gone: reset, timed out, refused.
func (e Events) Failed() bool { return e&unix.EPOLLERR != 0 }

// Urgent reports that there is urgent data.
func (e Events) Urgent() bool { return e&unix.EPOLLPRI != 0 }

// Handler is told what happened to its socket.
type Handler interface{ Ready(Events) }

// GapLimit is how long the loop may not have run before it says that it stood
// still (stopped, starved, suspended) instead of calling others late.
const GapLimit = 300 * time.Millisecond

// beat is how often the loop wakes up at the latest.
const beat = 100 * time.Millisecond

// Loop is an event loop. Make one with New.
type Loop struct {
	// Constant after New.
	epfd, wakefd int
	start        time.Time
	onGap        func(time.Duration)

	// Owned by Run's goroutine.
	sockets []socket // by descriptor
	timers  timerHeap
	now     time.Duration
	events  [256]unix.EpollEvent

	closing atomic.Bool
	done    chan struct{}

	// Guarded by mu.
	mu     sync.Mutex
	posted []func()
	spare  []func()
	ended  bool // nothing posted now is ever called, and wakefd may be anybody's
}

type socket struct {
	h   Handler
	gen int32 // tells a late event of a closed descriptor from its successor's
}

// New returns a loop that is not running yet. Times are counted from start.
// onGap is called, before anything else, when the loop has not run for so
// long that no time-out may be believed.
func New(start time.Time, onGap func(time.Duration)) (*Loop, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("create epoll instance: %w", err)
	}
	wakefd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(epfd)
		return nil, fmt.Errorf("create eventfd: %w", err)
	}
	l := &Loop{epfd: epfd, wakefd: wakefd, start: start, onGap: onGap, done: make(chan struct{})}
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wakefd), Pad: -1}
	if err := unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, wakefd, &ev); err != nil {
		l.release()
		return nil, fmt.Errorf("watch eventfd: %w", err)
	}
	return l, nil
}

func (l *Loop) release() {
	_ = unix.Close(l.epfd)
	_ = unix.Close(l.wakefd)
}

// Now returns the time since start, taken once per turn of the loop.
func (l *Loop) Now() time.Duration { return l.now }

// Since returns the time since start, as it is. For any goroutine.
func (l *Loop) Since() time.Duration { return time.Since(l.start) }

// Add watches fd, edge-triggered, for everything. fd must be non-blocking.
func (l *Loop) Add(fd int, h Handler) error {
	for fd >= len(l.sockets) {
		l.sockets = append(l.sockets, make([]socket, max(64, len(l.sockets)))...)
	}
	s := &l.sockets[fd]
	s.h, s.gen = h, (s.gen+1)&0x7fffffff
	ev := unix.EpollEvent{Fd: int32(fd), Pad: s.gen,
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLPRI | unix.EPOLLET}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		s.h = nil
		return fmt.Errorf("watch descriptor %d: %w", fd, err)
	}
	return nil
}

// Forget stops watching fd. To be called before it is closed, which is what
// takes it out of the kernel's set.
func (l *Loop) Forget(fd int) {
	if fd < len(l.sockets) {
		l.sockets[fd].h = nil
	}
}

// Post has f called by the loop's goroutine, in the order of Posts, and reports
// whether it will be: not after the loop has ended. For any goroutine.
func (l *Loop) Post(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return false
	}
	l.posted = append(l.posted, f)
	if len(l.posted) == 1 {
		l.wake()
	}
	return true
}

// wake has Run look up. mu is held, lest wakefd be closed meanwhile and its
// number be another file's, which would get the eight bytes.
func (l *Loop) wake() {
	one := [8]byte{1}
	_, _ = unix.Write(l.wakefd, one[:]) // fails only when a wake-up is pending already
}

// Close ends Run, which must have been called, and waits for that. What was
// posted before is still called. The sockets are their owners' to close. For
// any goroutine but the loop's.
func (l *Loop) Close() {
	l.closing.Store(true)
	l.mu.Lock()
	if !l.ended {
		l.wake()
	}
	l.mu.Unlock()
	<-l.done
}

// Run runs the loop until Close.
func (l *Loop) Run() error {
	defer close(l.done)
	defer l.end()
	l.now = time.Since(l.start)
	for !l.closing.Load() {
		n, err := unix.EpollWait(l.epfd, l.events[:], l.timeout())
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for events: %w", err)
		}
		l.turn(max(n, 0))
	}
	return nil
}

// end calls what was posted, once more, and refuses what comes later.
func (l *Loop) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.runPosted()
	l.release()
}

// turn handles n events, then what was posted, then the timers that are due:
// news before time-outs.
func (l *Loop) turn(n int) {
	was := l.now
	l.now = time.Since(l.start)
	if gap := l.now - was; gap > GapLimit {
		l.onGap(gap)
	}
	for _, ev := range l.events[:n] {
		l.dispatch(ev)
	}
	l.runPosted()
	l.runTimers()
}

func (l *Loop) dispatch(ev unix.EpollEvent) {
	if ev.Pad == -1 {
		var b [8]byte
		_, _ = unix.Read(l.wakefd, b[:])
		return
	}
	if s := l.sockets[ev.Fd]; s.h != nil && s.gen == ev.Pad {
		s.h.Ready(Events(ev.Events))
	}
}

func (l *Loop) runPosted() {
	l.mu.Lock()
	run := l.posted
	l.posted = l.spare[:0]
	l.mu.Unlock()
	for i, f := range run {
		f()
		run[i] = nil
	}
	l.mu.Lock()
	l.spare = run[:0]
	l.mu.Unlock()
}

// Timer calls F once when its time has come. The zero Timer is not set.
type Timer struct {
	F  func()
	at time.Duration
	i  int // place in the heap + 1; 0: not set
}

// Set has t go off at time at, or at once if that is past.
func (l *Loop) Set(t *Timer, at time.Duration) {
	if t.i != 0 && t.at == at {
		return
	}
	t.at = at
	if t.i != 0 {
		heap.Fix(&l.timers, t.i-1)
	} else {
		heap.Push(&l.timers, t)
	}
}

// SetBy has t go off at time at, or before: if it is set to an earlier time
// that is kept. What moves its deadline with every byte needs no more.
func (l *Loop) SetBy(t *Timer, at time.Duration) {
	if t.i == 0 || at < t.at {
		l.Set(t, at)
	}
}

// Stop has t not go off.
func (l *Loop) Stop(t *Timer) {
	if t.i != 0 {
		heap.Remove(&l.timers, t.i-1)
	}
}

// runTimers calls what is due now, each at most once: a timer that sets itself
// to the past gets its turn after the sockets.
func (l *Loop) runTimers() {
	for n := len(l.timers); n > 0 && len(l.timers) > 0 && l.timers[0].at <= l.now; n-- {
		heap.Pop(&l.timers).(*Timer).F()
	}
}

// timeout returns how long to wait for events, in milliseconds, rounded up so
// that a timer is due when its wait ends.
func (l *Loop) timeout() int {
	l.mu.Lock()
	waiting := len(l.posted) > 0
	l.mu.Unlock()
	if waiting {
		return 0
	}
	wait := beat
	if len(l.timers) > 0 {
		wait = min(wait, max(0, l.timers[0].at-time.Since(l.start)))
	}
	return int((wait + time.Millisecond - 1) / time.Millisecond)
}

type timerHeap []*Timer

func (h timerHeap) Len() int           { return len(h) }
func (h timerHeap) Less(i, j int) bool { return h[i].at < h[j].at }
func (h timerHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].i, h[j].i = i+1, j+1
}

func (h *timerHeap) Push(x any) {
	t := x.(*Timer)
	*h = append(*h, t)
	t.i = len(*h)
}

func (h *timerHeap) Pop() any {
	old := *h
	t := old[len(old)-1]
	old[len(old)-1] = nil
	*h = old[:len(old)-1]
	t.i = 0
	return t
}
