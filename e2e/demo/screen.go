package demo

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/e2e/rig"
)

// screen is where the demo is shown: a terminal, with one line that is
// refreshed, or plain lines.
type screen struct {
	out   io.Writer
	tty   bool
	color bool
	drawn bool      // the refreshed line is on the screen
	next  time.Time // when progress is shown again
}

func newScreen(out io.Writer) *screen {
	f, ok := out.(*os.File)
	if !ok {
		return &screen{out: out}
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return &screen{out: out, tty: err == nil, color: err == nil && os.Getenv("NO_COLOR") == ""}
}

// say prints a line, above the refreshed one. What can't be printed is not
// worth an error: who reads it has gone.
func (s *screen) say(format string, args ...any) {
	s.clear()
	fmt.Fprintf(s.out, format+"\n", args...)
}

// clear takes the refreshed line away.
func (s *screen) clear() {
	if s.drawn {
		fmt.Fprint(s.out, "\r\x1b[K")
		s.drawn = false
	}
}

func (s *screen) style(code, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s *screen) strong(text string) string { return s.style("1", text) }
func (s *screen) good(text string) string   { return s.style("1;32", text) }
func (s *screen) bad(text string) string    { return s.style("1;31", text) }

const (
	// refresh is how often a terminal's line is.
	refresh = 50 * time.Millisecond
	// plainEvery is how often progress is shown in plain lines.
	plainEvery = time.Second
	barWidth   = 30
	// silence is what is shown as such.
	silence = 100 * time.Millisecond
)

// follow shows a download's progress until a condition is true or it ends.
func (s *screen) follow(ctx context.Context, now clock, d *rig.Download, size int64, until func() bool) error {
	tick := time.NewTicker(refresh)
	defer tick.Stop()
	for !until() {
		s.progress(now, d.Bytes(), size, d.Quiet())
		select {
		case <-d.Done():
			s.clear()
			return nil
		case <-ctx.Done():
			return fmt.Errorf("download: at %d of %d bytes: %w", d.Bytes(), size, ctx.Err())
		case <-tick.C:
		}
	}
	s.clear()
	return nil
}

// progress shows how far the client is, now and then.
func (s *screen) progress(now clock, bytes, size int64, quiet time.Duration) {
	if !s.tty && time.Now().Before(s.next) {
		return
	}
	s.next = time.Now().Add(plainEvery)
	full := int(barWidth * bytes / max(size, 1))
	line := fmt.Sprintf("  %v  [%s%s] %s", now, strings.Repeat("#", full), strings.Repeat(".", barWidth-full), mib(bytes))
	if quiet >= silence {
		line += fmt.Sprintf("  waiting for %d ms", quiet.Milliseconds())
	}
	if !s.tty {
		s.say("%s", line)
		return
	}
	fmt.Fprintf(s.out, "\r%s\x1b[K", line)
	s.drawn = true
}

// verdict prints checks and returns how many failed.
func (s *screen) verdict(checks []check) (failed int) {
	for _, c := range checks {
		mark := s.good("ok  ")
		if !c.ok {
			mark = s.bad("FAIL")
			failed++
		}
		s.say("  %s  %s", mark, c.text)
		for _, d := range c.details {
			s.say("        %s", strings.ReplaceAll(d, "\n", "\n        "))
		}
	}
	return failed
}

// tailLines is how much of a log is shown.
const tailLines = 20

// log prints the end of the gateway's log.
func (s *screen) log(g *rig.Gateway) {
	lines := strings.Split(strings.TrimSpace(g.Log()), "\n")
	lines = lines[max(0, len(lines)-tailLines):]
	s.say("\n  The gateway's log ends with:\n    %s\n", strings.Join(lines, "\n    "))
}
