package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/cmd/admin"
)

// pages takes one page per Write and calls turn after each.
type pages struct {
	all  []string
	turn func(n int)
}

func (p *pages) Write(b []byte) (int, error) {
	p.all = append(p.all, string(b))
	p.turn(len(p.all))
	return len(b), nil
}

func madeUpNode(t *testing.T, path string) *admin.Server {
	t.Helper()
	s, err := admin.Serve(madeUp{}, admin.Options{Network: "unix", Address: path, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closeNode(t, s) })
	return s
}

func closeNode(t *testing.T, s *admin.Server) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		t.Error(err)
	}
}

// watch runs a command with --watch and does turn[n] after page n, from 1; the
// last turn ends it.
func watch(t *testing.T, sock string, turns []func(), args ...string) (shown []string, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	out := &pages{turn: func(n int) {
		if n <= len(turns) {
			turns[n-1]()
			return
		}
		cancel()
	}}
	var errs bytes.Buffer
	a := &app{out: out, err: &errs, redraw: time.Millisecond}
	code = a.run(ctx, append(args, "--watch", "--socket", sock))
	return out.all, errs.String(), code
}

func nothing() {}

func TestWatchShowsPagesUntilInterrupted(t *testing.T) {
	sock := t.TempDir() + "/a.sock"
	madeUpNode(t, sock)
	shown, stderr, code := watch(t, sock, []func(){nothing, nothing}, "servers")
	if code != 0 || stderr != "" || len(shown) != 3 {
		t.Fatalf("exit status %d, %d pages, stderr %q", code, len(shown), stderr)
	}
	if !strings.HasPrefix(shown[0], "SERVICE ") || shown[1] != "\n"+shown[0] {
		t.Errorf("pages %q", shown)
	}
}

func TestWatchEndsWithSignal(t *testing.T) {
	sock := t.TempDir() + "/a.sock"
	madeUpNode(t, sock)
	interrupt := func() {
		if err := unix.Kill(os.Getpid(), unix.SIGINT); err != nil {
			t.Error(err)
		}
	}
	forever := make([]func(), 10000)
	for i := range forever {
		forever[i] = nothing
	}
	forever[1] = interrupt
	shown, _, code := watch(t, sock, forever, "status")
	if code != 0 || len(shown) == len(forever) {
		t.Errorf("exit status %d after %d pages", code, len(shown))
	}
}

// A node that restarts is waited for.
func TestWatchOutlivesTheNode(t *testing.T) {
	sock := t.TempDir() + "/a.sock"
	s := madeUpNode(t, sock)
	shown, stderr, code := watch(t, sock, []func(){
		func() { closeNode(t, s) },
		func() { madeUpNode(t, sock) },
	}, "status", "--json")
	if code != 0 || stderr != "" || len(shown) != 3 {
		t.Fatalf("exit status %d, pages %q, stderr %q", code, shown, stderr)
	}
	for i, want := range []string{`"node":"g1"`, `"error":"ask `, `"node":"g1"`} {
		if strings.Count(shown[i], "\n") != 1 || !json.Valid([]byte(shown[i])) || !strings.Contains(shown[i], want) {
			t.Errorf("page %d is %q, want one line of JSON with %s", i, shown[i], want)
		}
	}
}

// terminal opens a pair of terminals (pty(7)): what is written to the second
// is read from the first.
func terminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	open := func(name string) *os.File {
		f, err := os.OpenFile(name, os.O_RDWR|unix.O_NOCTTY, 0)
		if err != nil {
			t.Skipf("no terminals here: %v", err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	master = open("/dev/ptmx")
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	return master, open(fmt.Sprintf("/dev/pts/%d", n))
}

func TestDrawOnTerminalStartsAtTheTop(t *testing.T) {
	master, slave := terminal(t)
	if !isTerminal(slave) {
		t.Fatal("a terminal is not taken for one")
	}
	if err := draw(slave, []byte("page"), false, true); err != nil {
		t.Fatal(err)
	}
	var buf [64]byte
	n, err := master.Read(buf[:])
	if err != nil || string(buf[:n]) != "\x1b[H\x1b[2Jpage" {
		t.Errorf("the terminal got %q, %v", buf[:n], err)
	}
	file, err := os.Create(t.TempDir() + "/file")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if isTerminal(file) || isTerminal(io.Discard) {
		t.Error("a file is taken for a terminal")
	}
}
