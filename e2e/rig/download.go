package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"sttcp/e2e/rig/content"
)

// Download is a stream that a client is reading and checking. Its methods may
// be called from any goroutine.
type Download struct {
	// Constant.
	want  content.Content
	begin time.Time
	done  chan struct{}

	// Guarded by mu.
	mu      sync.Mutex
	check   *content.Checker
	last    time.Time // of the latest progress
	gaps    []Gap
	waiters []waiter
	err     error // why reading ended, nil for the end of the stream
	end     time.Time
}

// Gap is a time without progress.
type Gap struct {
	Offset int64 // bytes that the client had
	Start  time.Time
	Length time.Duration
}

// waiter is somebody who waits for a number of bytes.
type waiter struct {
	bytes   int64
	reached chan struct{}
}

const (
	// minGap is the shortest gap that is kept.
	minGap = 5 * time.Millisecond
	// maxGaps bounds what is kept; beyond it the shortest are forgotten.
	maxGaps = 10_000
)

// watch reads r to its end, in a goroutine of its own.
func watch(r io.Reader, want content.Content) *Download {
	now := time.Now()
	d := &Download{want: want, begin: now, last: now, done: make(chan struct{}), check: content.NewChecker(want)}
	go d.read(r)
	return d
}

func (d *Download) read(r io.Reader) {
	defer close(d.done)
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		now := time.Now()
		if n > 0 {
			d.progress(buf[:n], now)
		}
		if err != nil {
			d.finish(err, now)
			return
		}
	}
}

func (d *Download) progress(p []byte, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.note(now)
	d.last = now
	_, _ = d.check.Write(p) // never fails
	waiting := d.waiters[:0]
	for _, w := range d.waiters {
		if d.check.Bytes() >= w.bytes {
			close(w.reached)
			continue
		}
		waiting = append(waiting, w)
	}
	d.waiters = waiting
}

// note keeps the gap that ends now; d.mu is held.
func (d *Download) note(now time.Time) {
	g := Gap{Offset: d.check.Bytes(), Start: d.last, Length: now.Sub(d.last)}
	if g.Length < minGap {
		return
	}
	if len(d.gaps) < maxGaps {
		d.gaps = append(d.gaps, g)
		return
	}
	least := 0
	for i := range d.gaps {
		if d.gaps[i].Length < d.gaps[least].Length {
			least = i
		}
	}
	if d.gaps[least].Length < g.Length {
		d.gaps[least] = g
	}
}

func (d *Download) finish(err error, now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !errors.Is(err, io.EOF) {
		d.err = err
		d.note(now) // the silence before the failure counts, too
	}
	d.end = now
}

// Bytes is how many bytes the client has.
func (d *Download) Bytes() int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.check.Bytes()
}

// Quiet is how long ago the latest progress was, 0 after the end.
func (d *Download) Quiet() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.end.IsZero() {
		return 0
	}
	return time.Since(d.last)
}

// Done is closed when the stream has ended, well or not.
func (d *Download) Done() <-chan struct{} { return d.done }

// WaitBytes waits until the client has at least n bytes. It fails when ctx or
// the stream ends before.
func (d *Download) WaitBytes(ctx context.Context, n int64) error {
	w := waiter{n, make(chan struct{})}
	d.mu.Lock()
	if d.check.Bytes() >= n {
		d.mu.Unlock()
		return nil
	}
	d.waiters = append(d.waiters, w)
	d.mu.Unlock()
	select {
	case <-w.reached:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for byte %d: at %d: %w", n, d.Bytes(), ctx.Err())
	case <-d.done:
		return d.endedBefore(n)
	}
}

// endedBefore is WaitBytes at the end, where both may have come at once.
func (d *Download) endedBefore(n int64) error {
	if d.Bytes() >= n {
		return nil
	}
	return fmt.Errorf("wait for byte %d: the stream ended: %w", n, d.Result().Err)
}

// Result is what came of a download.
type Result struct {
	Bytes int64
	// SHA256 is of what the client got, Want of what it should have got.
	SHA256, Want string
	// FirstDiff is the offset of the first wrong byte, -1 for none.
	FirstDiff int64
	// Took is from the request to the end.
	Took time.Duration
	// Longest is the longest gap.
	Longest Gap
	// Err is nil when the client got exactly what it should.
	Err error
}

// Wait waits for the end of the stream and returns Result's error.
func (d *Download) Wait(ctx context.Context) (Result, error) {
	select {
	case <-d.done:
		r := d.Result()
		return r, r.Err
	case <-ctx.Done():
		return Result{}, fmt.Errorf("wait for the end of the stream: at %d of %d bytes: %w", d.Bytes(), d.want.Size, ctx.Err())
	}
}

// Result is what there is so far, and all once Done is closed.
func (d *Download) Result() Result {
	want := d.want.SHA256() // may take a while
	d.mu.Lock()
	defer d.mu.Unlock()
	r := Result{Bytes: d.check.Bytes(), SHA256: d.check.SHA256(), Want: want,
		FirstDiff: d.check.FirstDiff(), Took: d.end.Sub(d.begin), Longest: longest(d.gaps, time.Time{}), Err: d.check.Err()}
	if d.err != nil {
		r.Err = errors.Join(fmt.Errorf("read after %d bytes: %w", r.Bytes, d.err), r.Err)
	}
	return r
}

// Stall is the longest gap that was not over at the given moment, such as
// that of a fault.
func (d *Download) Stall(since time.Time) Gap {
	d.mu.Lock()
	defer d.mu.Unlock()
	return longest(d.gaps, since)
}

func longest(gaps []Gap, since time.Time) (top Gap) {
	for _, g := range gaps {
		if g.Length > top.Length && g.Start.Add(g.Length).After(since) {
			top = g
		}
	}
	return top
}
