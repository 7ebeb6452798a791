package admin

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestSocketAndDirectoryAreTheOwnersOnly(t *testing.T) {
	old := unix.Umask(0) // the mode must not depend on it
	defer unix.Umask(old)
	dir := filepath.Join(t.TempDir(), "run", "sttcp")
	path := filepath.Join(dir, "admin.sock")
	serve(t, newFake(), Options{Network: "unix", Address: path})
	for file, want := range map[string]fs.FileMode{path: fs.ModeSocket | 0o600, dir: fs.ModeDir | 0o700} {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %v, want %v", file, info.Mode(), want)
		}
	}
}

// deadSocket leaves the socket file of a process that is gone.
func deadSocket(t *testing.T) string {
	path := filepath.Join(t.TempDir(), "admin.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := ln.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestStaleSocketIsReplaced(t *testing.T) {
	path := deadSocket(t)
	if _, err := dial(t, path, "").Status(context.Background()); !errors.Is(err, unix.ECONNREFUSED) {
		t.Fatalf("the socket is not a dead one: %v", err)
	}
	serve(t, newFake(), Options{Network: "unix", Address: path})
	if _, err := dial(t, path, "").Status(context.Background()); err != nil {
		t.Error(err)
	}
}

func TestLivingSocketIsLeftAlone(t *testing.T) {
	path := serveUnix(t, newFake())
	_, err := Serve(newFake(), Options{Network: "unix", Address: path, Log: quiet})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), path) {
		t.Errorf("second server: %v", err)
	}
	if _, err := dial(t, path, "").Status(context.Background()); err != nil {
		t.Errorf("the first one no longer answers: %v", err)
	}
}

// A process that lives but does not accept must not be taken for a dead one.
func TestBusySocketIsLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "admin.sock")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	first, err := net.Dial("unix", path) // fills the queue
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	if _, err := Serve(newFake(), Options{Network: "unix", Address: path, Log: quiet}); err == nil {
		t.Error("a busy socket was replaced")
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the socket file is gone: %v", err)
	}
}

func TestOtherFilesAreLeftAlone(t *testing.T) {
	dir := t.TempDir()
	file, link := filepath.Join(dir, "file"), filepath.Join(dir, "link")
	err := errors.Join(os.WriteFile(file, []byte("data"), 0o600), os.Symlink(deadSocket(t), link))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link, dir} {
		_, err := Serve(newFake(), Options{Network: "unix", Address: path, Log: quiet})
		if err == nil || !strings.Contains(err.Error(), path+" is there and is not a socket") {
			t.Errorf("%s: %v", path, err)
		}
		if _, err := os.Lstat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestTCPNeedsToken(t *testing.T) {
	_, err := Serve(newFake(), Options{Network: "tcp", Address: "127.0.0.1:0", Log: quiet})
	if err == nil || !strings.Contains(err.Error(), "admin.token_file") {
		t.Fatalf("served without a token: %v", err)
	}
	s := serve(t, newFake(), Options{Network: "tcp", Address: "127.0.0.1:0", Token: "secret"})
	for token, want := range map[string]int{"secret": 0, "": 401, "secre": 401, "secrets": 401, "SECRET": 401} {
		c := dial(t, s.Addr().String(), token)
		_, errStatus := c.Status(context.Background())
		errOrder := c.Service(context.Background(), ServiceOrder{Name: "web", Op: OpThaw})
		for _, err := range []error{errStatus, errOrder} {
			if got := codeOf(err); got != want {
				t.Errorf("token %q: %v, want status %d", token, err, want)
			}
		}
	}
}

// codeOf is the HTTP status of a refusal; 0 for no error, -1 for another one.
func codeOf(err error) int {
	var e *Error
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.Status
	}
	return -1
}

func TestReadToken(t *testing.T) {
	file := filepath.Join(t.TempDir(), "token")
	for text, want := range map[string]string{
		"abc\n": "abc", "  abc  ": "abc", "": "is empty", " \n": "is empty", "a b": "more than one word", "a\nb\n": "more than one word",
	} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := ReadToken(file)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) || (err == nil) != (want == "abc") {
			t.Errorf("%q gives %q, want %q", text, got, want)
		}
	}
	if _, err := ReadToken(file + ".none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
}
