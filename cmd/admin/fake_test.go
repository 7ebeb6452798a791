package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var started = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// errNotReady stands for what the pool of servers refuses.
var errNotReady = errors.New("make server s1 of service web ready: the service is not frozen")

// fake is a node with one service and two servers.
type fake struct {
	mu     sync.Mutex
	state  map[string]string
	frozen bool
	calls  []string
}

func newFake() *fake {
	return &fake{state: map[string]string{"s1": "up", "s2": "up"}}
}

func (f *fake) Status() Status {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Status{
		Node: "g1", Role: "gateway", Version: "v1.2.3", PID: 42, Started: started,
		VirtualIPs: []VirtualIP{{Name: "front", Holder: "g1", Epoch: 1, InSync: []string{"g1"}}},
		Services: []ServiceStatus{{
			Name: "web", Connections: 3, TwoLegs: 2, Frozen: f.frozen, Accepted: 9, Refused: 1,
			BytesIn: 10, BytesOut: 20, Promoted: 4, Muted: 5, Diverged: 6,
			Dropped: map[string]uint64{"reset": 1}, Ended: map[string]uint64{"closed": 6},
		}},
		Servers: f.list(),
		Notes:   []string{"service web: shared state not verified"},
	}
}

func (f *fake) Servers() []ServerStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list()
}

func (f *fake) list() []ServerStatus {
	var out []ServerStatus
	for i, name := range []string{"s1", "s2"} {
		out = append(out, ServerStatus{
			Service: "web", Name: name, Address: fmt.Sprintf("10.9.0.1%d", i+1), State: f.state[name],
			Since: started, Healthy: true, Legs: 3, Primaries: 1 + i,
		})
	}
	return out
}

func (f *fake) Connections(most int) Connections {
	return Connections{More: most, Connections: []ConnStatus{{
		Service: "web", ID: 7, Client: "10.8.0.10:5000", Address: "10.9.0.100:80", Primary: "s1", In: 1, Out: 2,
		ClientFIN: true, Legs: []LegStatus{{Server: "s1", State: "live", Acked: 1, Sent: 1, Read: 2, Owes: true}},
	}}}
}

func (f *fake) DrainServer(name string) error { return f.set(name, "drain") }

func (f *fake) MaintServer(name string) error { return f.set(name, "maint") }

func (f *fake) ReadyServer(name string, reset bool) error {
	if !reset && name == "s1" {
		return errNotReady
	}
	return f.set(name, "up")
}

func (f *fake) set(name, state string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.state[name] == "" {
		return fmt.Errorf("server %q: %w", name, ErrUnknown)
	}
	f.calls = append(f.calls, name+" "+state)
	f.state[name] = state
	return nil
}

func (f *fake) Freeze(name string, on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if name != "web" {
		return fmt.Errorf("service %q: %w", name, ErrUnknown)
	}
	f.frozen = on
	return nil
}

var quiet = slog.New(slog.NewTextHandler(io.Discard, nil))

// serveUnix serves b on a Unix socket until the test ends.
func serveUnix(t *testing.T, b Backend) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "admin.sock")
	serve(t, b, Options{Network: "unix", Address: path})
	return path
}

func serve(t *testing.T, b Backend, o Options) *Server {
	t.Helper()
	o.Log = quiet
	s, err := Serve(b, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return s
}

func dial(t *testing.T, addr, token string) *Client {
	c := Dial(addr, token)
	t.Cleanup(c.Close)
	return c
}
