package proxy

import (
	"log/slog"
	"sync"
	"time"

	"sttcp/proxy/epoll"
	"sttcp/proxy/stream"
)

// worker is one event loop and the connections that live on it.
type worker struct {
	loop *epoll.Loop
	bufs *buffers

	// Owned by the loop's goroutine.
	conns     map[*conn]struct{}
	lingering map[*lingerer]struct{}
}

func newWorker(start time.Time, log *slog.Logger) (*worker, error) {
	w := &worker{bufs: &buffers{free: make(map[int][][]byte)}, conns: make(map[*conn]struct{}), lingering: make(map[*lingerer]struct{})}
	loop, err := epoll.New(start, func(gap time.Duration) {
		log.Warn("this process did not run for a while; no server is blamed for that time", "gap", gap)
		w.each(func(c *conn) { c.happen(stream.Event{Type: stream.Gap}) })
	})
	w.loop = loop
	return w, err
}

// each calls f for every connection. f may end connections.
func (w *worker) each(f func(*conn)) {
	for c := range w.conns {
		f(c)
	}
}

// requeue gives c another turn after the others had theirs.
func (w *worker) requeue(c *conn) {
	if c.queued {
		return
	}
	c.queued = true
	w.loop.Post(func() {
		c.queued = false
		if !c.closed {
			c.pump()
		}
	})
}

// do has f called by every loop that still runs, and waits until that is done.
func do(workers []*worker, f func(*worker)) {
	var wg sync.WaitGroup
	for _, w := range workers {
		wg.Add(1)
		if !w.loop.Post(func() { defer wg.Done(); f(w) }) {
			wg.Done()
		}
	}
	wg.Wait()
}

// buffers lends the windows of one loop's connections their memory. What is
// given back is kept for the next who asks for as much, up to keepBuffers. A
// window asks for 16 KiB, then four times as much each time, up to what its
// service is configured to: there are few sizes.
type buffers struct {
	free map[int][][]byte // by size
	kept int              // bytes in free
}

// keepBuffers is how much unused memory a loop keeps, in bytes. A connection
// that is served borrows at most three buffers and returns them when it is
// empty, so this is for the next one, not for all.
const keepBuffers = 4 << 20

// Get returns a buffer of n bytes. What is in it is anybody's.
func (b *buffers) Get(n int) []byte {
	free := b.free[n]
	if len(free) == 0 {
		return make([]byte, n)
	}
	buf := free[len(free)-1]
	free[len(free)-1] = nil
	b.free[n] = free[:len(free)-1]
	b.kept -= n
	return buf
}

// Put takes a buffer of Get's back.
func (b *buffers) Put(buf []byte) {
	buf = buf[:cap(buf)]
	if b.kept+len(buf) > keepBuffers {
		return
	}
	b.free[len(buf)] = append(b.free[len(buf)], buf)
	b.kept += len(buf)
}
