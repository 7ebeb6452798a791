package node

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/cmd/admin"
	"sttcp/configs"
)

func TestLockNamesItsHolder(t *testing.T) {
	dir := t.TempDir()
	l, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = lock(dir)
	if want := fmt.Sprintf("held by process %d;", os.Getpid()); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), want) {
		t.Errorf("second lock: %v, want %s", err, want)
	}
	if err := l.unlock(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "lock")); err != nil || len(text) > 0 {
		t.Errorf("the file says %q, %v", text, err)
	}
	l, err = lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.unlock(); err != nil {
		t.Error(err)
	}
}

// The file of a dead process, whose pid may be another's by now, is no lock.
func TestLockOfTheDead(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "lock"), []byte("1234567890\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := lock(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.unlock() //nolint:errcheck // the test is over
	if text, _ := os.ReadFile(filepath.Join(dir, "lock")); string(text) != fmt.Sprintln(os.Getpid()) {
		t.Errorf("the file says %q", text)
	}
	if _, err := lock(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}

func TestHolderThatHasNotWrittenYet(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if got := holder(f); got != "a process that is just starting" {
		t.Error(got)
	}
}

func TestRaiseFiles(t *testing.T) {
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &old) //nolint:errcheck // it was so before
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 200, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	got, err := raiseFiles()
	if err != nil || got != old.Max {
		t.Errorf("raised to %d, %v; the hard limit is %d", got, err, old.Max)
	}
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil || now.Cur != old.Max {
		t.Errorf("the limit is %d, %v", now.Cur, err)
	}
}

func TestFilesNeeded(t *testing.T) {
	if got := filesNeeded(testConfig(t)); got != 3*11+64 {
		t.Errorf("%d files for 11 connections", got)
	}
}

func TestBackendStatus(t *testing.T) {
	cfg := testConfig(t)
	at := time.Unix(99, 0)
	b := &backend{cfg, "v1", at, &fakeProxy{&world{}}}
	st := b.Status()
	if st.Node != "g1" || st.Role != "gateway" || st.Version != "v1" || st.Started != at || st.PID != os.Getpid() {
		t.Errorf("node: %+v", st)
	}
	vips := []admin.VirtualIP{{Name: "front", Holder: "g1", Epoch: 1, InSync: []string{"g1"}}}
	if !reflect.DeepEqual(st.VirtualIPs, vips) {
		t.Errorf("virtual IPs: %+v", st.VirtualIPs)
	}
	if len(st.Services) != 3 || st.Services[0].Accepted != 7 || st.Services[0].TwoLegs != 3 {
		t.Errorf("services: %+v", st.Services)
	}
	if len(st.Servers) != 1 || st.Servers[0].Primaries != 4 {
		t.Errorf("servers: %+v", st.Servers)
	}
	want := []string{
		"service web: shared state not verified",
		"service web: 2 of 5 connections have one leg: they would not survive its server",
		"service web: 4 of 5 connections would not survive this gateway",
		"service ssh: frozen: nothing is read from its clients until `sttcp service thaw ssh`",
	}
	if !slices.Equal(st.Notes, want) {
		t.Errorf("notes:\n%s", strings.Join(st.Notes, "\n"))
	}
	if len(cfg.Warnings) != 1 {
		t.Error("the configuration was changed")
	}
}

func TestBackendErrors(t *testing.T) {
	w := &world{fails: "freeze web true"}
	b := &backend{testConfig(t), "v1", time.Now(), &fakeProxy{w}}
	if err := b.DrainServer("s9"); !errors.Is(err, admin.ErrUnknown) || err.Error() != `server "s9": not configured` {
		t.Errorf("unknown server: %v", err)
	}
	if err := b.MaintServer("s1"); err == nil || errors.Is(err, admin.ErrUnknown) {
		t.Errorf("ambiguous server: %v", err)
	}
	if err := b.Freeze("web", true); !errors.Is(err, errBroken) || errors.Is(err, admin.ErrUnknown) {
		t.Errorf("refused: %v", err)
	}
	if err := errors.Join(b.Freeze("web", false), b.ReadyServer("s1", true)); err != nil {
		t.Error(err)
	}
	w.expect(t, "freeze web true\nfreeze web false\nready s1 true")
}

func TestLogger(t *testing.T) {
	for _, tc := range []struct {
		cfg  configs.Log
		want string
	}{
		{configs.Log{Level: "info", Format: configs.LogText}, "level=INFO msg=i\nlevel=ERROR msg=e\n"},
		{configs.Log{Level: "debug", Format: configs.LogText}, "level=DEBUG msg=d\nlevel=INFO msg=i\nlevel=ERROR msg=e\n"},
		{configs.Log{Level: "error", Format: configs.LogJSON}, `"level":"ERROR","msg":"e"}` + "\n"},
	} {
		var buf bytes.Buffer
		log := NewLogger(tc.cfg, &buf)
		log.Debug("d")
		log.Info("i")
		log.Error("e")
		if got := withoutTime(buf.String()); got != tc.want {
			t.Errorf("%+v logs\n%swant\n%s", tc.cfg, got, tc.want)
		}
	}
	if !NewLogger(configs.Log{}, os.Stderr).Enabled(t.Context(), slog.LevelInfo) {
		t.Error("no level means more than info")
	}
}

// withoutTime cuts the first word, or key, of every line.
func withoutTime(s string) string {
	var b strings.Builder
	for line := range strings.Lines(s) {
		_, rest, _ := strings.Cut(line, " ")
		if strings.HasPrefix(line, "{") {
			_, rest, _ = strings.Cut(line, `",`)
		}
		b.WriteString(rest)
	}
	return b.String()
}
