package proxy

import (
	"time"

	"sttcp/proxy/epoll"
)

// A RST overtakes what the kernel has not sent yet: close with SO_LINGER 0
// throws the send queue away. What was released to a client that is to be
// reset is true, though, and with the server alone it would have had it. So a
// reset waits until the client has acknowledged everything, for lag.limit at
// the most: a client that does not read gets what fits its window.

// lingerPoll is how often a lingering socket is looked at. No event tells of
// an empty send queue.
const lingerPoll = 5 * time.Millisecond

// lingerer is the socket of a client that is to be reset, its connection over.
// It is owned by its loop's goroutine.
type lingerer struct {
	w     *worker
	fd    int
	by    time.Duration
	timer epoll.Timer
}

// resetAfter resets fd, whose events are of no interest any more, once its
// send queue is empty, or at time by.
func (w *worker) resetAfter(fd int, by time.Duration) {
	x := &lingerer{w: w, fd: fd, by: by}
	x.timer.F = x.look
	w.lingering[x] = struct{}{}
	x.look()
}

func (x *lingerer) look() {
	if now := x.w.loop.Now(); now < x.by && unsent(x.fd) {
		x.w.loop.Set(&x.timer, now+lingerPoll)
		return
	}
	x.end()
}

// end resets at once.
func (x *lingerer) end() {
	x.w.loop.Stop(&x.timer)
	delete(x.w.lingering, x)
	abort(x.fd)
}

// unsent reports whether fd's send queue holds what its peer has not
// acknowledged.
func unsent(fd int) bool {
	n, err := sendQueue(fd)
	return err == nil && n > 0
}
