package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
)

// progress is how far a client is, in units of its own, each of which was
// checked. Its methods may be called from any goroutine.
type progress struct {
	mu   sync.Mutex
	n    int64
	last time.Time // of the latest progress
	gaps []gap

	enough chan struct{} // closed when a client without an end of its own may end
	once   sync.Once
}

// gap is a time without progress.
type gap struct{ from, to time.Time }

// minGap is the shortest gap that is kept: below it is everyday business.
const minGap = 5 * time.Millisecond

func newProgress() *progress {
	return &progress{last: time.Now(), enough: make(chan struct{})}
}

// add notes n more units.
func (p *progress) add(n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if now.Sub(p.last) >= minGap {
		p.gaps = append(p.gaps, gap{p.last, now})
	}
	p.n += n
	p.last = now
}

func (p *progress) value() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n
}

// stall is the longest time without progress that ended after a moment.
func (p *progress) stall(since time.Time) (longest time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, g := range p.gaps {
		if g.to.After(since) {
			longest = max(longest, g.to.Sub(g.from))
		}
	}
	return longest
}

// mayEnd lets the client end.
func (p *progress) mayEnd() { p.once.Do(func() { close(p.enough) }) }

// ending counts the steps that are left of an open-ended client: it is
// negative until mayEnd was called, and then goes down from last to 0.
type ending struct {
	p    *progress
	left int
}

func (p *progress) ending(last int) *ending { return &ending{p: p, left: last} }

// over is asked once per step.
func (e *ending) over() bool {
	select {
	case <-e.p.enough:
		e.left--
		return e.left < 0
	default:
		return false
	}
}

// talk is a client's conversation on one connection.
type talk struct {
	*progress
	conn *rig.Conn
	err  error // once done is closed
	done chan struct{}
}

// begin starts a conversation. It closes the connection at its end, and wants
// nothing to come then but the end.
func begin(c *rig.Conn, f func(*rig.Conn, *progress) error) *talk {
	t := &talk{progress: newProgress(), conn: c, done: make(chan struct{})}
	go func() {
		defer close(t.done)
		if t.err = f(c, t.progress); t.err == nil {
			t.err = hangUp(c)
		}
	}()
	return t
}

// hangUp sends a FIN and wants one.
func hangUp(c *rig.Conn) error {
	if err := c.CloseWrite(); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	n, err := io.Copy(io.Discard, c.Reader())
	switch {
	case err != nil:
		return fmt.Errorf("wait for the end: %w", err)
	case n > 0:
		return fmt.Errorf("%w: %d bytes", errMore, n)
	}
	return c.Close()
}

// errOver is for a conversation that has ended before it should.
var errOver = errors.New("it has ended already")

// reach waits until so many units are done. It fails when the conversation
// ends before.
func (t *talk) reach(ctx context.Context, n int64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	return lab.Until(ctx, fmt.Sprintf("progress to %d", n), func() error {
		going, have := t.going(), t.value()
		switch {
		case have >= n:
			return nil
		case !going:
			cancel()
			return errors.Join(errOver, t.err)
		}
		return fmt.Errorf("it is at %d", have)
	})
}

// going tells whether the conversation has not ended.
func (t *talk) going() bool {
	select {
	case <-t.done:
		return false
	default:
		return true
	}
}

// end waits for the end and returns what was wrong.
func (t *talk) end(ctx context.Context) error {
	t.mayEnd()
	select {
	case <-t.done:
		return t.err
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of the client: at %d: %w", t.value(), ctx.Err())
	}
}
