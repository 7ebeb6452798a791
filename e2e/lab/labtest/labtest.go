// Package labtest ties a lab to a test: whatever fails ends the test, and
// what was made is removed with it.
package labtest

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sttcp/e2e/lab"
)

// NeedRoot skips the test without root, and fails it when the environment has
// CI=true, where nothing may be skipped.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("network namespaces need root, and CI=true")
	}
	t.Skip("network namespaces need root")
}

// New makes a lab for the test and closes it at its end. The logs of a failed
// test's programs are shown.
func New(t testing.TB, opt lab.Options) *lab.Lab {
	t.Helper()
	NeedRoot(t)
	l, err := lab.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, l)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// showLogs prints the last 4 KiB of each program's log.
func showLogs(t testing.TB, l *lab.Lab) {
	logs, _ := filepath.Glob(filepath.Join(l.Dir(), "*.log")) // the pattern is correct
	for _, path := range logs {
		b, err := os.ReadFile(path)
		if err != nil || len(b) == 0 {
			continue
		}
		text := string(b[max(0, len(b)-4096):])
		t.Logf("%s:\n%s", filepath.Base(path), strings.TrimSpace(text))
	}
}

// Start starts a program; it ends with the lab, at the latest.
func Start(t testing.TB, h *lab.Host, c lab.Cmd) *lab.Process {
	t.Helper()
	p, err := h.Start(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Capture starts a capture with one of the methods that return one, such as
// l.Host("client").Capture. When the test fails it is written to a file of
// the system's temporary directory, which the test names.
func Capture(t testing.TB, open func() (*lab.Capture, error)) *lab.Capture {
	t.Helper()
	c, err := open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			return
		}
		f, err := os.CreateTemp("", "capture.*.pcap")
		if err != nil {
			t.Error(err)
			return
		}
		_ = f.Close() // empty
		t.Logf("capture of %v: %s (%v)", c, f.Name(), c.WritePcap(f.Name()))
	})
	return c
}

// Inject takes what a method that breaks something returns; an error ends the
// test: labtest.Inject(t)(l.Host("s1").LinkDown()).
func Inject(t testing.TB) func(*lab.Fault, error) *lab.Fault {
	return func(f *lab.Fault, err error) *lab.Fault {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
}

// Undo repairs a fault.
func Undo(t testing.TB, f *lab.Fault) {
	t.Helper()
	if err := f.Undo(); err != nil {
		t.Fatal(err)
	}
}
