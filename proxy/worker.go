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
	loop  *epoll.Loop
	bufs  *buffers
	conns map[*conn]struct{} // owned by the loop's goroutine
}

func newWorker(start time.Time, log *slog.Logger) (*worker, error) {
	w := &worker{bufs: &buffers{}, conns: make(map[*conn]struct{})}
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
// given back is kept for the next, up to keepBuffers of a size.
type buffers struct {
	free [3][][]byte
}

// keepBuffers is how many unused buffers of each size a loop keeps.
const keepBuffers = 64

// The sizes, in bytes, by class. They are those that a window asks for.
var bufferSizes = [3]int{16 << 10, 64 << 10, 256 << 10}

// Get returns a buffer of at least n bytes.
func (b *buffers) Get(n int) []byte {
	for class, size := range bufferSizes {
		if n > size {
			continue
		}
		free := b.free[class]
		if len(free) == 0 {
			return make([]byte, size)
		}
		buf := free[len(free)-1]
		b.free[class] = free[:len(free)-1]
		return buf
	}
	return make([]byte, n)
}

// Put takes a buffer back.
func (b *buffers) Put(buf []byte) {
	buf = buf[:cap(buf)]
	for class, size := range bufferSizes {
		if len(buf) == size && len(b.free[class]) < keepBuffers {
			b.free[class] = append(b.free[class], buf)
		}
	}
}
