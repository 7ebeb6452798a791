package node

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"sttcp/cmd/admin"
	"sttcp/configs"
)

// The addresses of testConfig: both, and what fake ensure says it has added.
const (
	both  = "[10.9.0.100 of eth0 fd00::100 of eth0]"
	first = "[10.9.0.100 of eth0]"
)

// start runs a node with fake parts; wait gives what run returned.
func start(t *testing.T, cfg *configs.Config, w *world, l *logs) (sig chan os.Signal, wait func() error) {
	t.Helper()
	sig = make(chan os.Signal, 4)
	ready, ended := make(chan struct{}), make(chan error, 1)
	o := l.options()
	o.Ready = func() { close(ready) }
	go func() { ended <- run(context.Background(), cfg, o, w.parts(), sig) }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("the node did not start: %v", err)
	}
	return sig, func() error { return <-ended }
}

// runs runs a node that is expected to fail; one that does not is ended, so
// that the test goes on.
func runs(cfg *configs.Config, w *world, l *logs) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	o := l.options()
	o.Ready = cancel
	return run(ctx, cfg, o, w.parts(), nil)
}

func TestCleanStop(t *testing.T) {
	cfg, w, l := testConfig(t), &world{}, &logs{}
	socket := filepath.Join(cfg.Node.RunDir, "admin.sock")
	c := admin.Dial(socket, "")
	defer c.Close()
	w.onStop = func(ctx context.Context) {
		if _, err := c.Status(context.Background()); err != nil {
			t.Errorf("nobody can watch the drain: %v", err)
		}
		if d, ok := ctx.Deadline(); !ok || time.Until(d) > cfg.Drain || ctx.Err() != nil {
			t.Errorf("the drain may last until %v (%t), %v", d, ok, ctx.Err())
		}
	}
	sig, wait := start(t, cfg, w, l)
	if _, err := c.Servers(context.Background()); err != nil {
		t.Errorf("ready, but: %v", err)
	}
	sig <- syscall.SIGHUP
	sig <- syscall.SIGTERM
	if err := wait(); err != nil {
		t.Error(err)
	}
	w.expect(t, "new proxy\nintercept\nensure "+both+"\nstart proxy\nstop proxy\nremove "+both+"\nclose proxy")
	nothingLeft(t, cfg)
	for _, want := range []string{
		`msg="service web: shared state not verified"`, `msg="key has no effect in this version" key=gate`,
		"msg=ready", "SIGHUP ignored", "msg=stopping signal=terminated", "msg=stopped connections_cut=3",
	} {
		if !strings.Contains(l.String(), want) {
			t.Errorf("the log has no %s:\n%s", want, l)
		}
	}
}

func TestSecondSignalCuts(t *testing.T) {
	cfg, w, l := testConfig(t), &world{}, &logs{}
	sig, wait := start(t, cfg, w, l)
	w.onStop = func(ctx context.Context) {
		sig <- syscall.SIGHUP // does not count
		sig <- syscall.SIGINT
		select {
		case <-ctx.Done():
		case <-time.After(20 * time.Second):
		}
		if !errors.Is(ctx.Err(), context.Canceled) {
			t.Errorf("the drain ended by %v", ctx.Err())
		}
	}
	sig <- syscall.SIGTERM
	if err := wait(); err != nil {
		t.Error(err)
	}
}

func TestNoDrain(t *testing.T) {
	cfg, w, l := testConfig(t), &world{}, &logs{}
	cfg.Drain = 0
	w.onStop = func(ctx context.Context) { <-ctx.Done() }
	sig, wait := start(t, cfg, w, l)
	sig <- syscall.SIGTERM
	if err := wait(); err != nil {
		t.Error(err)
	}
}

func TestEndOfContextStops(t *testing.T) {
	cfg, w, l := testConfig(t), &world{}, &logs{}
	ctx, cancel := context.WithCancel(context.Background())
	o := l.options()
	o.Ready = cancel
	if err := run(ctx, cfg, o, w.parts(), nil); err != nil {
		t.Error(err)
	}
	w.expect(t, "new proxy\nintercept\nensure "+both+"\nstart proxy\nstop proxy\nremove "+both+"\nclose proxy")
}

// Whatever step fails, those before it are undone, the last one first.
func TestFailedStartIsUndone(t *testing.T) {
	for fails, want := range map[string]string{
		"new proxy":      "new proxy",
		"intercept":      "new proxy\nintercept\nclose proxy",
		"ensure " + both: "new proxy\nintercept\nensure " + both + "\nremove " + first + "\nclose proxy",
	} {
		cfg, l := testConfig(t), &logs{}
		w := &world{fails: fails, onStop: func(ctx context.Context) {
			if ctx.Err() == nil {
				t.Error("a start that failed drains")
			}
		}}
		if err := runs(cfg, w, l); !errors.Is(err, errBroken) {
			t.Errorf("%s: %v", fails, err)
		}
		w.expect(t, want)
		nothingLeft(t, cfg)
	}
}

func TestAdminThatFailsIsUndone(t *testing.T) {
	for name, change := range map[string]func(*configs.Config){
		"is there and is not a socket": func(c *configs.Config) { c.Admin.Listen = "lock" },
		"read admin token":             func(c *configs.Config) { c.Admin = configs.Admin{Listen: "127.0.0.1:9", TokenFile: "/none"} },
	} {
		cfg, w, l := testConfig(t), &world{}, &logs{}
		change(cfg)
		err := runs(cfg, w, l)
		if err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want %s", err, name)
		}
		w.expect(t, "new proxy\nintercept\nensure "+both+"\nremove "+first+"\nclose proxy")
	}
}

// An error of the clean-up does not keep the rest from being cleaned up.
func TestCleanUpGoesOnAfterErrors(t *testing.T) {
	cfg, w, l := testConfig(t), &world{}, &logs{}
	sig, wait := start(t, cfg, w, l)
	w.fails = "remove " + both
	sig <- syscall.SIGTERM
	if err := wait(); !errors.Is(err, errBroken) || !strings.HasPrefix(err.Error(), "remove virtual IPs: ") {
		t.Errorf("run: %v", err)
	}
	w.expect(t, "new proxy\nintercept\nensure "+both+"\nstart proxy\nstop proxy\nremove "+both+"\nclose proxy")
	nothingLeft(t, cfg)
}

func TestWitnessComesLater(t *testing.T) {
	cfg, w, l := testConfig(t), &world{}, &logs{}
	cfg.Node.Role = configs.RoleWitness
	err := runs(cfg, w, l)
	if err == nil || !strings.Contains(err.Error(), "role witness comes with a later version") {
		t.Errorf("run: %v", err)
	}
	if len(w.done) > 0 {
		t.Errorf("done: %v", w.done)
	}
}

func TestTwoNodesInOneRunDir(t *testing.T) {
	cfg, w, l := testConfig(t), &world{}, &logs{}
	sig, wait := start(t, cfg, w, l)
	other := &world{}
	if err := runs(cfg, other, l); !errors.Is(err, ErrLocked) {
		t.Errorf("second node: %v", err)
	}
	if len(other.done) > 0 {
		t.Errorf("the second node did %v", other.done)
	}
	sig <- syscall.SIGTERM
	if err := wait(); err != nil {
		t.Error(err)
	}
}

func TestDirectoriesAreTheOwnersOnly(t *testing.T) {
	cfg, w, l := testConfig(t), &world{}, &logs{}
	sig, wait := start(t, cfg, w, l)
	for _, dir := range []string{cfg.Node.RunDir, cfg.Node.StateDir} {
		if info, err := os.Stat(dir); err != nil || info.Mode() != os.ModeDir|0o700 {
			t.Errorf("%s: %v, %v", dir, info, err)
		}
	}
	sig <- syscall.SIGTERM
	if err := wait(); err != nil {
		t.Error(err)
	}
}

// systemd is told by a datagram (sd_notify(3)).
func TestSystemdIsTold(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NOTIFY_SOCKET", path)
	sig, wait := start(t, testConfig(t), &world{}, &logs{})
	sig <- syscall.SIGTERM
	if err := wait(); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"READY=1", "STOPPING=1"} {
		var buf [64]byte
		n, err := conn.Read(buf[:])
		if err != nil || string(buf[:n]) != want {
			t.Errorf("systemd got %q, %v, want %s", buf[:n], err, want)
		}
	}
}

func TestTooFewFilesAreWarnedOf(t *testing.T) {
	cfg, w, l := testConfig(t), &world{}, &logs{}
	cfg.VirtualIPs[0].Services[0].MaxConn = 1 << 40
	sig, wait := start(t, cfg, w, l)
	sig <- syscall.SIGTERM
	if err := wait(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(l.String(), "open files do not suffice") || !strings.Contains(l.String(), "short=") {
		t.Errorf("no warning in:\n%s", l)
	}
}
