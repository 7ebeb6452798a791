package cli

import (
	"bytes"
	"context"
	"errors"
	"os"
	"runtime/debug"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestVersionFromBuild(t *testing.T) {
	setting := func(kv ...string) *debug.BuildInfo {
		info := &debug.BuildInfo{}
		for i := 0; i < len(kv); i += 2 {
			info.Settings = append(info.Settings, debug.BuildSetting{Key: kv[i], Value: kv[i+1]})
		}
		return info
	}
	for want, info := range map[string]*debug.BuildInfo{
		"devel":                      setting(),
		"devel-0123456789ab":         setting("vcs.revision", "0123456789abcdef", "vcs.modified", "false"),
		"devel-0123456789ab+changes": setting("vcs.revision", "0123456789abcdef", "vcs.modified", "true"),
		"devel-0123":                 setting("vcs.revision", "0123"),
	} {
		if got := fromBuild(info); got != want {
			t.Errorf("version %q, want %q", got, want)
		}
	}
	version = "v7"
	defer func() { version = "" }()
	if got := Version(); got != "v7" {
		t.Errorf("the linker's version is not used: %q", got)
	}
}

func TestSize(t *testing.T) {
	for n, want := range map[uint64]string{
		0: "0B", 1023: "1023B", 1024: "1.0KiB", 1536: "1.5KiB", 1<<20 - 1: "1.0MiB", 1 << 20: "1.0MiB",
		1000 << 20: "1000.0MiB", 3 << 30: "3.0GiB", 1<<64 - 1: "16.0EiB",
	} {
		if got := size(n); got != want {
			t.Errorf("size(%d) = %s, want %s", n, got, want)
		}
	}
}

func TestReadyFile(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := readyFile(int(r.Fd())); err == nil {
		t.Error("a descriptor for reading was accepted")
	}
	fd, err := unix.Dup(int(w.Fd()))
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := readyFile(fd)
	if err != nil {
		t.Fatal(err)
	}
	tellReady(f)
	var got bytes.Buffer
	if _, err := got.ReadFrom(r); err != nil || got.String() != "ready\n" {
		t.Errorf("the reader got %q, %v", got.String(), err)
	}
}

func TestNilArgsAreNone(t *testing.T) {
	var out, errs bytes.Buffer
	if code := Run(context.Background(), nil, &out, &errs); code != 2 || !strings.Contains(errs.String(), "say what to do") {
		t.Errorf("exit status %d, %s", code, &errs)
	}
}

// What is printed about a failure is one line, and the exit status tells the
// caller's mistakes from others.
func TestStatusIsOneLine(t *testing.T) {
	for _, tc := range []struct {
		err  error
		code int
		want string
	}{
		{nil, 0, ""},
		{errSaid, 1, ""},
		{errors.Join(errors.New("a\nb"), errors.New("c")), 1, "sttcp: a; b; c\n"},
		{errors.Join(errors.New("a"), usageError{"b"}), 2, "sttcp: a; b\n"},
	} {
		var errs bytes.Buffer
		a := &app{err: &errs}
		if code := a.status(tc.err); code != tc.code || errs.String() != tc.want {
			t.Errorf("%v: exit status %d, %q", tc.err, code, errs.String())
		}
	}
}
