package testsrv_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"
	"time"

	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

// bytesOf is a content as text.
func bytesOf(t *testing.T, what content.Content) string {
	t.Helper()
	b, err := io.ReadAll(what.Reader())
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestScript(t *testing.T) {
	c10 := bytesOf(t, content.Content{Seed: 4, Size: 10})
	sum := fmt.Sprintf("%x\n", sha256.Sum256([]byte("abcde")))
	for _, tt := range []struct{ ask, want string }{
		{"say hello\n", "hello\n"},
		{"@s1 say yes\n@s2 say no\nsay all\n", "yes\nall\n"},
		{"put hel\nsay lo\n", "hello\n"},
		{"send 10 0s 4\n", c10},
		{"edit flip 0\nsend 10 0s 4\nsend 10 0s 4\n", string(c10[0]^1) + c10[1:] + c10},
		{"edit add 3\nsend 10 0s 4\n", c10[:3] + "+" + c10[3:]},
		{"edit drop 9\nsend 10 0s 4\nsay x\n", c10[:9] + "x\n"},
		{"@s2 edit drop 9\nsend 10 0s 4\n", c10},
		{"text 2 0s 7\n", testsrv.Text(2, 7, "s1")},
		{"recv 5\nabcdesay x\n", sum + "x\n"},
		{"rate 1000000\nrecv 5\nabcdesend 10 0s 4\n", sum + c10},
		{"wait 1ms\nsay x\n", "x\n"},
	} {
		t.Run(tt.ask, func(t *testing.T) {
			c := dial(t, serve(t, testsrv.Spec{Proto: testsrv.Script, Name: "s1"}))
			c.ask(t, tt.ask, tt.want)
			c.wantEnd(t)
		})
	}
}

func TestScriptRefuses(t *testing.T) {
	for _, ask := range []string{"", "dance", "say", "say a b", "send 1 1s", "recv x", "edit turn 3",
		"edit flip x", "end well", "cut fin -1", "wait long", "rate x", "idle x"} {
		c := dial(t, serve(t, testsrv.Spec{Proto: testsrv.Script, Name: "s1"}))
		c.ask(t, ask+"\n", "error ")
	}
}

// TestScriptEnds wants the bytes before an end, and that end.
func TestScriptEnds(t *testing.T) {
	want := bytesOf(t, content.Content{Seed: 1, Size: 100_000})
	for ask, end := range map[string]error{
		"cut fin 100000\nsend 200000 10ms 1\nsay x\n":           io.EOF,
		"cut rst 100000\nsend 200000 10ms 1\nsay x\n":           syscall.ECONNRESET,
		"send 100000 0s 1\nidle 30ms\n":                         io.EOF,
		"send 100000 0s 1\nend fin\n":                           io.EOF,
		"send 100000 0s 1\n@s2 end fin\n@s1 end rst\nnothing\n": syscall.ECONNRESET,
	} {
		t.Run(ask, func(t *testing.T) {
			c := dial(t, serve(t, testsrv.Spec{Proto: testsrv.Script, Name: "s1"}))
			c.ask(t, ask, want)
			if _, err := c.ReadByte(); !errors.Is(err, end) && !(end == io.EOF && errors.Is(err, syscall.ECONNRESET)) {
				t.Errorf("it ends with %v, want %v", err, end)
			}
		})
	}
}

// TestScriptFallsSilent wants nothing more after the cut, while the connection
// stays.
func TestScriptFallsSilent(t *testing.T) {
	for _, ask := range []string{"say x\nend hang\nsay y\n", "say x\nsilent\nsay y\n"} {
		c := dial(t, serve(t, testsrv.Spec{Proto: testsrv.Script}))
		c.ask(t, ask, "x\n")
		if err := c.SetReadDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
			t.Fatal(err)
		}
		if b, err := c.ReadByte(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%q: got %q, %v", ask, b, err)
		}
	}
}

func TestTextDiffersInItsNumbersOnly(t *testing.T) {
	a, b := testsrv.Text(50, 3, "s1"), testsrv.Text(50, 3, "s2")
	if a == b || len(a) != len(b) {
		t.Fatalf("texts of %d and %d bytes", len(a), len(b))
	}
	blank := func(s string) string {
		parts := strings.Split(s, "id=")
		for i := range parts[1:] {
			parts[i+1] = parts[i+1][8:]
		}
		return strings.Join(parts, "id=")
	}
	if blank(a) != blank(b) {
		t.Error("they differ outside of their numbers")
	}
}
