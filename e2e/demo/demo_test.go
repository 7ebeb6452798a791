package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m.Run)) }

// output is an Out that can be looked at while it is written.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// wait waits until the output has a text.
func (o *output) wait(t *testing.T, text string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	err := lab.Until(ctx, fmt.Sprintf("%q on the screen", text), func() error {
		if !strings.Contains(o.String(), text) {
			return errors.New("it is not there")
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, o)
	}
}

// options are for a demo in a test.
func options(t *testing.T) (Options, *output) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") == "true":
		t.Fatal("the demo needs root")
	default:
		t.Skip("the demo needs root")
	}
	binary, err := rig.Binary(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	out := &output{}
	t.Cleanup(func() { nothingLeft(t) })
	return Options{Out: out, Binary: binary}, out
}

// nothingLeft wants no namespace of a demo of this process.
func nothingLeft(t *testing.T) {
	t.Helper()
	left, err := filepath.Glob(fmt.Sprintf("/run/netns/demo-%d-*", os.Getpid()))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// brief is a script of two seconds per act.
func brief(acts ...act) script {
	return script{size: 8 << 20, rate: 4 << 20, strikeAt: 3 << 20, acts: acts}
}

func wantAll(t *testing.T, out fmt.Stringer, patterns ...string) {
	t.Helper()
	for _, p := range patterns {
		if !regexp.MustCompile(p).MatchString(out.String()) {
			t.Errorf("no %q in the output", p)
		}
	}
	if t.Failed() {
		t.Logf("the output:\n%s", out)
	}
}

// TestDemo plays both acts as users see them, only shorter.
func TestDemo(t *testing.T) {
	opt, out := options(t)
	s := brief(standard.acts...)
	if os.Getenv("STTCP_FULL") != "" {
		s = standard
	}
	if err := play(context.Background(), opt, s); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	wantAll(t, out, `10\.9\.0\.100:80`, `Act 1: .*process`, `kill -9 of nginx on s[12]`, `Act 2: .*link`, `link of s[12] down`,
		`the client gets on; it waited for (less than )?\d+ ms`, `\[#+\.+\] \d+\.\d MiB`, `never noticed`,
		`(?s)got      SHA-256 ([0-9a-f]{64}).*expected SHA-256 ([0-9a-f]{64})`)
	if n := strings.Count(out.String(), "  ok    "); n != 8 || strings.Contains(out.String(), "FAIL") {
		t.Errorf("%d of 8 checks are ok:\n%s", n, out)
	}
}

func TestDemoWithoutNginx(t *testing.T) {
	opt, out := options(t)
	s := brief(killed)
	s.noNginx = true
	if err := play(context.Background(), opt, s); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	wantAll(t, out, `no nginx on this machine`, `kill -9 of http on s[12]`, `never noticed`)
}

// TestDemoFails spoils a stage in several ways; the demo must say so.
func TestDemoFails(t *testing.T) {
	both := act{title: "both die", strike: func(st *stage, _ string) (string, error) {
		return "kill -9 of both", errors.Join(st.servers["s1"].KillGroup9(), st.servers["s2"].KillGroup9())
	}}
	nobody := act{title: "nobody dies", strike: func(*stage, string) (string, error) { return "nothing", nil }}
	for _, tt := range []struct {
		name  string
		act   act
		built func(*stage)
		wants []string
	}{
		{"wrong bytes", killed, func(st *stage) { st.want.Seed++ }, []string{`FAIL  the client got`, `byte 0 of \d+ is wrong`}},
		{"both servers die", both, nil, []string{`FAIL  the client got`, `read after \d+ bytes`, `FAIL  one TCP connection`}},
		{"nobody dies", nobody, nil, []string{`ok    the client got`, `FAIL  the gateway`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			opt, out := options(t)
			s := brief(tt.act)
			s.built = tt.built
			err := play(context.Background(), opt, s)
			if err == nil || !strings.Contains(err.Error(), "the demo failed") {
				t.Errorf("play: %v", err)
			}
			wantAll(t, out, append(tt.wants, `The gateway's log ends with`, `msg=ready`)...)
		})
	}
}

// TestDemoBroken is for what does not even get as far as a check.
func TestDemoBroken(t *testing.T) {
	opt, out := options(t)
	bad := act{title: "a fault that can't be made", strike: func(*stage, string) (string, error) {
		return "", errors.New("no such fault")
	}}
	err := play(context.Background(), opt, brief(bad))
	if err == nil || !strings.Contains(err.Error(), "no such fault") {
		t.Errorf("play: %v", err)
	}
	wantAll(t, out, `The gateway's log ends with`)
	opt.Binary = "/nonexistent/sttcp"
	if err := play(context.Background(), opt, brief(killed)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("play without a gateway: %v", err)
	}
}

// TestDemoInterrupted ends it in mid-stream, as Ctrl-C does.
func TestDemoInterrupted(t *testing.T) {
	opt, out := options(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- play(ctx, opt, brief(killed)) }()
	out.wait(t, "the client downloads")
	cancel()
	if err := <-done; err == nil || !strings.Contains(err.Error(), "interrupted") {
		t.Errorf("play: %v", err)
	}
	if strings.Contains(out.String(), "log ends with") {
		t.Errorf("the user sees a log:\n%s", out)
	}
}

// TestDemoKeep does what the guide says.
func TestDemoKeep(t *testing.T) {
	opt, out := options(t)
	opt.Keep = true
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- play(ctx, opt, brief(killed)) }()
	out.wait(t, "Ctrl-C removes everything")
	for _, p := range []string{`servers --watch --socket (\S+)`, `tail -f (\S+)`, `cat (\S+)`} {
		m := regexp.MustCompile(p).FindStringSubmatch(out.String())
		if m == nil {
			t.Errorf("no %q in the guide", p)
		} else if _, err := os.Stat(m[1]); err != nil {
			t.Error(err)
		}
	}
	names := regexp.MustCompile(`ip netns exec (\S+)`).FindAllStringSubmatch(out.String(), -1)
	for _, m := range names {
		if _, err := os.Stat("/run/netns/" + m[1]); err != nil {
			t.Error(err)
		}
	}
	if len(names) != 5 {
		t.Errorf("%d commands in namespaces", len(names))
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("play: %v", err)
	}
	wantAll(t, out, `kill -9 -- -\d+`, `removing everything`)
}

func TestArguments(t *testing.T) {
	for _, tt := range []struct {
		args []string
		keep bool
		want string // of the error or the output
	}{
		{nil, false, ""},
		{[]string{"--keep"}, true, ""},
		{[]string{"-keep"}, true, ""},
		{[]string{"--keep", "it"}, true, `unexpected argument "it"`},
		{[]string{"--kep"}, false, "not defined: -kep (see sttcp demo --help)"},
	} {
		out := &output{}
		opt := Options{Args: tt.args, Out: out}
		err := opt.parse()
		if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) || opt.Keep != tt.keep {
			t.Errorf("%q: keep %v, %v", tt.args, opt.Keep, err)
		}
	}
	out := &output{}
	if err := Run(context.Background(), Options{Args: []string{"--help"}, Out: out}); err != nil {
		t.Error(err)
	}
	wantAll(t, out, `Usage: sttcp demo \[--keep\]`, `--keep +at the end`)
}

func TestRoot(t *testing.T) {
	if err := needRoot(1000); err == nil || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "root") {
		t.Errorf("without root: %v", err)
	}
	if err := needRoot(0); err != nil {
		t.Errorf("with root: %v", err)
	}
}

// TestScreen looks at a terminal's line, which must be gone before another.
func TestScreen(t *testing.T) {
	out := &output{}
	scr := &screen{out: out, tty: true}
	now := clock{time.Now()}
	scr.progress(now, 5, 10, 0)
	scr.progress(now, 10, 10, 250*time.Millisecond)
	scr.say("done")
	scr.say("more")
	half := strings.Repeat("#", barWidth/2) + strings.Repeat(".", barWidth/2)
	wantAll(t, out, `^\r +0\.\d\d s  \[`+regexp.QuoteMeta(half)+`\] 0\.0 MiB\x1b\[K\r`,
		`\[#+\] 0\.0 MiB  waiting for 250 ms\x1b\[K\r\x1b\[Kdone\nmore\n$`)
}

func TestPlainScreen(t *testing.T) {
	out := &output{}
	scr := newScreen(out)
	for range 10 { // at most one of them is shown within a second
		scr.progress(clock{time.Now()}, 0, 0, 0)
	}
	if strings.ContainsAny(out.String(), "\r\x1b") || strings.Count(out.String(), "\n") > 2 {
		t.Errorf("plain output: %q", out)
	}
	if scr.bad("text") != "text" {
		t.Error("coloured")
	}
	if newScreen(io.Discard).tty {
		t.Error("io.Discard is a terminal")
	}
}
