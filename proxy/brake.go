package proxy

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// brake bounds how many lines that come once per connection are logged as
// warnings: with a server's death thousands say the same within a second, and
// the counters say how many. Those beyond are for level debug. The zero brake
// is ready; safe for concurrent use.
type brake struct {
	mu   sync.Mutex
	from time.Time // when the present second began
	n    int       // lines in it
	held int       // lines not shown since the last that was
}

// linesPerSecond is how many such lines a service may log.
const linesPerSecond = 20

// pass reports whether a line may be shown at now, and how many before it were
// not.
func (b *brake) pass(now time.Time) (ok bool, held int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if now.Sub(b.from) >= time.Second {
		b.from, b.n = now, 0
	}
	if b.n == linesPerSecond {
		b.held++
		return false, 0
	}
	b.n++
	held, b.held = b.held, 0
	return true, held
}

// warn logs what happened to one connection.
func (s *service) warn(log *slog.Logger, msg string, args ...any) {
	level := slog.LevelWarn
	ok, held := s.lines.pass(time.Now())
	if !ok {
		level = slog.LevelDebug
	}
	if held > 0 {
		args = append(args, "not_shown", held)
	}
	log.Log(context.Background(), level, msg, args...)
}
