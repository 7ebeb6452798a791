package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sttcp/configs"
	"sttcp/proxy"
	"sttcp/takeover/vip"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errBroken = errors.New("broken for the test")

// world is what the fake parts write down: what was done, in which order.
type world struct {
	mu    sync.Mutex
	done  []string
	fails string // the step that fails

	onStop func(context.Context) // in Stop, to look around
}

func (w *world) do(step string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.done = append(w.done, step)
	if step == w.fails {
		return errBroken
	}
	return nil
}

func (w *world) parts() parts {
	return parts{
		ensure: func(a []vip.Addr) ([]vip.Addr, error) {
			return a[:1], w.do("ensure " + fmt.Sprint(a))
		},
		remove: func(a []vip.Addr) ([]vip.Addr, error) {
			return a, w.do("remove " + fmt.Sprint(a))
		},
		proxy: func(*configs.Config, *slog.Logger) (dataPath, error) {
			return &fakeProxy{w: w}, w.do("new proxy")
		},
	}
}

type fakeProxy struct{ w *world }

func (p *fakeProxy) Intercept() error { return p.w.do("intercept") }

func (p *fakeProxy) Start() { _ = p.w.do("start proxy") }

func (p *fakeProxy) Stop(ctx context.Context) int {
	if p.w.onStop != nil {
		p.w.onStop(ctx)
	}
	_ = p.w.do("stop proxy")
	return 3
}

func (p *fakeProxy) Close() error { return p.w.do("close proxy") }

func (p *fakeProxy) Services() []proxy.ServiceStatus {
	return []proxy.ServiceStatus{
		{Name: "web", Connections: 5, TwoLegs: 3, GatewayProtected: 1, Accepted: 7},
		{Name: "ssh", Connections: 2, GatewayProtected: 2, Frozen: true},
		{Name: "idle"},
	}
}

func (p *fakeProxy) Servers() []proxy.ServerStatus {
	return []proxy.ServerStatus{{Service: "web", Name: "s1", Address: "10.9.0.11", State: "up", Since: time.Unix(1, 0), Healthy: true, Legs: 5, Primaries: 4}}
}

func (p *fakeProxy) Connections(most int) ([]proxy.ConnStatus, int) {
	return []proxy.ConnStatus{{Service: "web", ID: 1, Client: "c", Address: "a", Primary: "s1", In: 2, Out: 3,
		ClientFIN: true, ServerFIN: true, Blocked: true, Frozen: true,
		Legs: []proxy.LegStatus{{Server: "s1", State: "live", Acked: 4, Sent: 5, Read: 6, Blocked: true, Closed: true, Owes: true}}}}, most
}

func (p *fakeProxy) DrainServer(name string) error {
	return fmt.Errorf("server %q: %w", name, proxy.ErrUnknown)
}
func (p *fakeProxy) MaintServer(name string) error {
	return fmt.Errorf("server %q: %w", name, proxy.ErrAmbiguous)
}
func (p *fakeProxy) ReadyServer(name string, reset bool) error {
	return p.w.do(fmt.Sprintf("ready %s %t", name, reset))
}
func (p *fakeProxy) Freeze(name string, on bool) error {
	return p.w.do(fmt.Sprintf("freeze %s %t", name, on))
}

// testConfig is a node with two addresses, in directories of the test.
func testConfig(t *testing.T) *configs.Config {
	dir := t.TempDir()
	server := configs.Server{Name: "s1", Address: netip.MustParseAddr("10.9.0.11")}
	return &configs.Config{
		Node: configs.Node{
			Name: "g1", Role: configs.RoleGateway,
			RunDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, "state"),
		},
		VirtualIPs: []configs.VirtualIP{{
			Name: "front",
			Addresses: []configs.VIPAddress{
				{Prefix: netip.MustParsePrefix("10.9.0.100/24"), Interface: "eth0"},
				{Prefix: netip.MustParsePrefix("fd00::100/64"), Interface: "eth0"},
			},
			Services: []configs.Service{
				{Name: "web", Legs: 2, MaxConn: 10, Servers: []configs.Server{server, server}},
				{Name: "ssh", Legs: 1, MaxConn: 1, Servers: []configs.Server{server}},
				{Name: "idle", Legs: 2},
			},
		}},
		Admin:    configs.Admin{Listen: "admin.sock"},
		Drain:    time.Minute,
		Warnings: []string{"service web: shared state not verified"}, Ineffective: []string{"gate"},
	}
}

// logs is a log that tests read.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logs) options() Options {
	return Options{Version: "v1", Log: slog.New(slog.NewTextHandler(l, nil))}
}

// expect compares what was done with a text of one step per line.
func (w *world) expect(t *testing.T, want string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if lines := strings.Split(strings.TrimSpace(want), "\n"); !slices.Equal(w.done, lines) {
		t.Errorf("done:\n%s\nwant:\n%s", strings.Join(w.done, "\n"), want)
	}
}

// nothingLeft looks for what a node must not leave: its socket and its lock.
func nothingLeft(t *testing.T, cfg *configs.Config) {
	t.Helper()
	if _, err := os.Lstat(filepath.Join(cfg.Node.RunDir, cfg.Admin.Listen)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the admin socket is left: %v", err)
	}
	if err := os.MkdirAll(cfg.Node.RunDir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := lock(cfg.Node.RunDir)
	if err != nil {
		t.Errorf("the lock is left: %v", err)
		return
	}
	if err := l.unlock(); err != nil {
		t.Error(err)
	}
}
