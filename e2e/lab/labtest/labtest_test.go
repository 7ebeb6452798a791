package labtest

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"sttcp/e2e/lab"
)

// fake is a test that may fail without the real one failing.
type fake struct {
	testing.TB // what is not below must not be called
	failed     bool
	skipped    bool
	said       []string
	cleanups   []func()
}

func (f *fake) Helper()                    {}
func (f *fake) Failed() bool               { return f.failed }
func (f *fake) Cleanup(fn func())          { f.cleanups = append(f.cleanups, fn) }
func (f *fake) Log(args ...any)            { f.said = append(f.said, fmt.Sprint(args...)) }
func (f *fake) Logf(s string, args ...any) { f.said = append(f.said, fmt.Sprintf(s, args...)) }
func (f *fake) Error(args ...any)          { f.failed = true; f.Log(args...) }
func (f *fake) Fatal(args ...any)          { f.Error(args...); runtime.Goexit() }
func (f *fake) Skip(args ...any)           { f.skipped = true; f.Log(args...); runtime.Goexit() }

// play runs a test to its end, its cleanups last.
func play(body func(f *fake)) *fake {
	f := &fake{}
	run := func(fn func()) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			fn()
		}()
		<-done
	}
	run(func() { body(f) })
	for i := len(f.cleanups) - 1; i >= 0; i-- {
		run(f.cleanups[i])
	}
	return f
}

func (f *fake) text() string { return strings.Join(f.said, "\n") }

func TestFailedTestShowsLogsAndCapture(t *testing.T) {
	NeedRoot(t)
	t.Setenv("TMPDIR", t.TempDir())
	for _, fail := range []bool{true, false} {
		var l *lab.Lab
		f := play(func(f *fake) {
			l = New(f, lab.Options{Hosts: lab.Standard("s1")})
			Capture(f, l.Host("s1").Capture)
			p := Start(f, l.Host("s1"), lab.Cmd{Path: "sh", Args: []string{"-c", "echo the last words; echo too >&2"}})
			<-p.Done()
			if fail {
				f.Fatal("on purpose")
			}
		})
		if f.failed != fail || strings.Contains(f.text(), "the last words") != fail {
			t.Errorf("failed %v, said %q", fail, f.text())
		}
		files, err := filepath.Glob(filepath.Join(os.Getenv("TMPDIR"), "capture.*.pcap"))
		if err != nil || (len(files) == 1) != fail {
			t.Errorf("failed %v: files %v, error %v", fail, files, err)
		}
		for _, path := range files {
			if !strings.Contains(f.text(), path) || os.Remove(path) != nil {
				t.Errorf("%s is not named in %q, or can't be removed", path, f.text())
			}
		}
		if _, err := os.Stat(l.Dir()); !os.IsNotExist(err) {
			t.Errorf("the lab was not closed: %v", err)
		}
	}
}

func TestErrorsEndTheTest(t *testing.T) {
	NeedRoot(t)
	l := New(t, lab.Options{Hosts: lab.Standard("s1")})
	for name, body := range map[string]func(f *fake){
		"New":     func(f *fake) { New(f, lab.Options{Hosts: lab.Standard("nobody")}) },
		"Start":   func(f *fake) { Start(f, l.Host("s1"), lab.Cmd{Path: "no-such-program"}) },
		"Capture": func(f *fake) { Capture(f, func() (*lab.Capture, error) { return nil, errors.New("no") }) },
		"Inject":  func(f *fake) { Inject(f)(l.Host("s1").Drop(lab.Match{})) },
		"Undo": func(f *fake) {
			out := netip.PrefixFrom(lab.VIP4, 32)
			fault := Inject(f)(l.Host("s1").Rate(lab.Out, 1e6))
			if err := l.Host("s1").AddAddr(out); err != nil { // the host is alive
				t.Error(err)
			}
			if _, err := l.Host("s1").Run(t.Context(), "tc", "qdisc", "del", "dev", "eth0", "root"); err != nil {
				t.Error(err)
			}
			Undo(f, fault) // it is gone already
		},
	} {
		reached := false
		f := play(func(f *fake) {
			body(f)
			reached = true
		})
		if !f.failed || reached || len(f.said) == 0 {
			t.Errorf("%s: failed %v, went on %v, said %q", name, f.failed, reached, f.text())
		}
	}
}

// Without root a test is skipped with the reason, but never in CI.
func TestNeedRoot(t *testing.T) {
	root := os.Geteuid() == 0
	for _, ci := range []string{"true", ""} {
		t.Setenv("CI", ci)
		f := play(func(f *fake) { NeedRoot(f) })
		if f.failed != (!root && ci == "true") || f.skipped != (!root && ci == "") {
			t.Errorf("root %v, CI=%q: failed %v, skipped %v", root, ci, f.failed, f.skipped)
		}
	}
}
