package proxy

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestBrake(t *testing.T) {
	var b brake
	now := time.Unix(1, 0)
	for i := range 100 {
		if ok, held := b.pass(now); ok != (i < linesPerSecond) || held != 0 {
			t.Fatalf("line %d: shown %v, %d held", i, ok, held)
		}
	}
	now = now.Add(time.Second)
	if ok, held := b.pass(now); !ok || held != 100-linesPerSecond {
		t.Errorf("a second later: shown %v, %d held", ok, held)
	}
	if ok, held := b.pass(now); !ok || held != 0 {
		t.Errorf("the next line: shown %v, %d held", ok, held)
	}
}

func TestWarningsAreFew(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(slog.NewTextHandler(&out, nil))
	s := &service{}
	for range 1000 {
		s.warn(log, "leg dropped")
	}
	if n := strings.Count(out.String(), "level=WARN"); n < linesPerSecond || n >= 1000 {
		t.Errorf("of 1000 lines %d are shown", n)
	}
	s.lines.from = time.Time{} // a second later
	s.warn(log, "leg dropped")
	if !strings.Contains(out.String(), "not_shown=") {
		t.Error("nothing tells of the lines that were not shown")
	}
}
