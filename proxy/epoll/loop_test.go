package epoll

import (
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// handler calls f with what it is told.
type handler func(Events)

func (h handler) Ready(e Events) { h(e) }

// run starts a loop that the test's end closes.
func run(t *testing.T, onGap func(time.Duration)) *Loop {
	t.Helper()
	l, err := New(time.Now(), onGap)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if err := l.Run(); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	t.Cleanup(l.Close)
	return l
}

// call runs f in the loop and waits for it.
func call(t *testing.T, l *Loop, f func()) {
	t.Helper()
	done := make(chan struct{})
	l.Post(func() { f(); close(done) })
	wait(t, done, "the loop to run a posted function")
}

func wait(t *testing.T, ch <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-ch:
	case <-time.After(10 * time.Second):
		t.Fatalf("waited 10 s for %s", what)
	}
}

// pair returns two connected non-blocking sockets.
func pair(t *testing.T) (a, b int) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(fds[0]), unix.Close(fds[1]) })
	return fds[0], fds[1]
}

func TestEventsOfASocket(t *testing.T) {
	l := run(t, nil)
	a, b := pair(t)
	readable, ended := make(chan struct{}), make(chan struct{})
	var wrote bool
	call(t, l, func() {
		err := l.Add(a, handler(func(e Events) {
			wrote = wrote || e.Writable()
			if e.Ended() {
				close(ended)
			} else if e.Readable() {
				close(readable)
			}
		}))
		if err != nil {
			t.Error(err)
		}
	})
	if _, err := unix.Write(b, []byte("x")); err != nil {
		t.Fatal(err)
	}
	wait(t, readable, "the socket to be readable")
	if err := unix.Shutdown(b, unix.SHUT_WR); err != nil {
		t.Fatal(err)
	}
	wait(t, ended, "the peer's end")
	call(t, l, func() {
		if !wrote {
			t.Error("an empty socket was never writable")
		}
	})
}

// A descriptor's number is used again at once. What the kernel still had to
// say of the old one must not reach the new one's handler.
func TestLateEventOfAClosedDescriptor(t *testing.T) {
	l := run(t, nil)
	a, b := pair(t)
	call(t, l, func() {
		if err := l.Add(a, handler(func(Events) {})); err != nil {
			t.Error(err)
		}
	})
	call(t, l, func() {
		late := unix.EpollEvent{Fd: int32(a), Pad: l.sockets[a].gen, Events: unix.EPOLLIN}
		l.Forget(a)
		_ = unix.EpollCtl(l.epfd, unix.EPOLL_CTL_DEL, a, nil)
		told := 0
		if err := l.Add(a, handler(func(Events) { told++ })); err != nil {
			t.Error(err)
		}
		l.dispatch(late)
		if told != 0 {
			t.Error("the new owner was told of the old one's event")
		}
		late.Pad = l.sockets[a].gen
		l.dispatch(late)
		if told != 1 {
			t.Errorf("the owner was told %d times of its own event", told)
		}
		l.Forget(a)
		l.dispatch(late)
		if told != 1 {
			t.Error("a forgotten socket's handler was called")
		}
	})
	_ = b
}

func TestAddRefusesWhatIsNoSocket(t *testing.T) {
	l := run(t, nil)
	call(t, l, func() {
		if err := l.Add(5000, handler(func(Events) {})); err == nil {
			t.Error("a descriptor that is not open was added")
		}
	})
}

func TestPostKeepsOrderFromManyGoroutines(t *testing.T) {
	l := run(t, nil)
	const writers, each = 4, 500
	var seen [writers]int
	done := make(chan struct{})
	var left atomic.Int32
	left.Store(writers)
	for w := range writers {
		go func() {
			for i := range each {
				l.Post(func() {
					if seen[w] != i {
						t.Errorf("writer %d: post %d came as number %d", w, i, seen[w])
					}
					seen[w]++
				})
			}
			l.Post(func() {
				if left.Add(-1) == 0 {
					close(done)
				}
			})
		}()
	}
	wait(t, done, "all posts")
}

func TestTimers(t *testing.T) {
	l := run(t, nil)
	var order []int
	done := make(chan struct{})
	timers := make([]Timer, 4)
	call(t, l, func() {
		at := l.Since()
		for i := range timers {
			timers[i].F = func() { order = append(order, i) }
		}
		l.Set(&timers[2], at+30*time.Millisecond)
		l.Set(&timers[0], at+10*time.Millisecond)
		l.Set(&timers[1], at+time.Hour)
		l.Set(&timers[1], at+20*time.Millisecond) // earlier than before
		l.Set(&timers[3], at+5*time.Millisecond)
		l.Stop(&timers[3])
		l.Stop(&timers[3]) // twice is nothing
		timers[2].F = func() { order = append(order, 2); close(done) }
	})
	wait(t, done, "the timers")
	if len(order) != 3 || order[0] != 0 || order[1] != 1 || order[2] != 2 {
		t.Errorf("timers went off in the order %v", order)
	}
}

// A timer that sets itself to the past must not keep the loop from its sockets.
func TestTimerInThePastLetsOthersRun(t *testing.T) {
	l := run(t, nil)
	var tm Timer
	n := 0
	call(t, l, func() {
		tm.F = func() { n++; l.Set(&tm, 0) }
		l.Set(&tm, 0)
	})
	for range 10 {
		call(t, l, func() {})
	}
	call(t, l, func() {
		if n == 0 {
			t.Error("the timer never went off")
		}
		l.Stop(&tm)
	})
}

func TestGapIsSaidBeforeAnythingElse(t *testing.T) {
	var told []string
	l, err := New(time.Now().Add(-time.Hour), func(d time.Duration) {
		if d < time.Minute {
			t.Errorf("a gap of an hour was called %v", d)
		}
		told = append(told, "gap")
	})
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	tm := Timer{F: func() { told = append(told, "timer") }}
	l.now = time.Since(l.start) - 2*time.Minute // as if stopped for two minutes
	l.Set(&tm, l.now+time.Second)
	l.posted = append(l.posted, func() { told = append(told, "posted") })
	l.turn(0)
	if len(told) != 3 || told[0] != "gap" || told[2] != "timer" {
		t.Errorf("told in the order %v", told)
	}
	told = nil
	l.turn(0)
	if len(told) != 0 {
		t.Errorf("a turn without a gap told %v", told)
	}
}

// Who waits for a posted function must not wait for ever for a loop that ends.
func TestPostAroundClose(t *testing.T) {
	l, err := New(time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	blocked, goOn := make(chan struct{}), make(chan struct{})
	var called atomic.Int32
	l.Post(func() {
		close(blocked)
		<-goOn
		if l.Post(func() { called.Add(1) }) { // Close is under way, Run not over
			called.Add(10)
		}
	})
	go func() { _ = l.Run() }()
	<-blocked
	closed := make(chan struct{})
	go func() { l.Close(); close(closed) }()
	for !l.closing.Load() {
		time.Sleep(time.Millisecond)
	}
	close(goOn)
	wait(t, closed, "the loop to close")
	if n := called.Load(); n != 11 {
		t.Errorf("a function posted to a loop about to end: %d, not accepted and called", n)
	}
	if l.Post(func() { t.Error("called after the end") }) {
		t.Error("a loop that has ended promised to call")
	}
	l.Close() // twice is nothing
}

// The wake-up descriptor's number is somebody else's once the loop has ended.
func TestNothingIsWrittenAfterTheEnd(t *testing.T) {
	l, err := New(time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = l.Run() }()
	wakefd := l.wakefd
	l.Close()
	peer, mine := pair(t) // one of them has the number, most likely
	switch wakefd {
	case mine:
	case peer:
		peer = mine
	default:
		if err := unix.Dup3(mine, wakefd, unix.O_CLOEXEC); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = unix.Close(wakefd) }()
	}
	l.Post(func() {})
	l.Close()
	if n, err := unix.Read(peer, make([]byte, 8)); err != unix.EAGAIN {
		t.Errorf("the next owner of the descriptor was written to: %d bytes, %v", n, err)
	}
}

func TestFailedSocket(t *testing.T) {
	for e, want := range map[Events]bool{unix.EPOLLERR | unix.EPOLLHUP: true, unix.EPOLLHUP | unix.EPOLLRDHUP: false} {
		if e.Failed() != want || !e.Ended() || !e.Readable() {
			t.Errorf("events %#x: failed %v, ended %v, readable %v", e, e.Failed(), e.Ended(), e.Readable())
		}
	}
}

func TestSetByNeverPutsOff(t *testing.T) {
	l := run(t, nil)
	fired := make(chan struct{}, 2)
	kept := Timer{F: func() { fired <- struct{}{} }}
	earlier := Timer{F: func() { fired <- struct{}{} }}
	call(t, l, func() {
		l.SetBy(&kept, l.Now()+20*time.Millisecond)
		l.SetBy(&kept, l.Now()+time.Hour)
		l.SetBy(&earlier, l.Now()+time.Hour)
		l.SetBy(&earlier, l.Now()+20*time.Millisecond)
	})
	for range 2 {
		select {
		case <-fired:
		case <-time.After(10 * time.Second):
			t.Fatal("a timer was put off")
		}
	}
}
