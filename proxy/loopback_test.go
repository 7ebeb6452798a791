package proxy

import (
	"bytes"
	"crypto/sha256"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/configs"
	"sttcp/proxy/stream"
)

// The tests of this file run the data path in this process over 127.0.0.1:
// clients connect to the service's listener, as if they had been intercepted.
// What interception itself does
// is tested in package intercept, and both together in e2e.

// rig is a service with its servers.
type rig struct {
	t       testing.TB
	p       *Proxy
	s       *service
	servers [2]net.Listener
}

func needRoot(t testing.TB) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") == "true":
		t.Fatal("this test needs root (IP_TRANSPARENT), also in CI")
	default:
		t.Skip("needs root: IP_TRANSPARENT")
	}
}

// newRig starts a service whose servers run serve for each connection; which
// says which server it is.
func newRig(t testing.TB, change func(*configs.Service), serve func(which int, c *net.TCPConn)) *rig {
	t.Helper()
	needRoot(t)
	r := &rig{t: t}
	svc := configs.Service{
		Name: "svc", ListenVIP: true, Ports: []configs.PortRange{{First: 1, Last: 65535}},
		Legs: 2, Stateful: true, Release: configs.ReleaseBoth, Compare: configs.Compare{Mode: configs.CompareExact, Report: true},
		OnDivergence: configs.DivergeMute, Source: configs.SourceVIP, ProxyProtocol: configs.ProxyNone,
		Lag:    configs.Lag{Suspect: 100 * time.Millisecond, Limit: 500 * time.Millisecond},
		Buffer: 256 << 10, FinDelay: 100 * time.Millisecond, MaxConn: 100,
		Timeout: configs.Timeout{Connect: time.Second, Idle: time.Hour},
		Health:  configs.Health{Interval: 50 * time.Millisecond, Timeout: 200 * time.Millisecond, Rise: 2, Fall: 2},
	}
	for i := range r.servers {
		ln := listen(t)
		r.servers[i] = ln
		svc.Servers = append(svc.Servers, configs.Server{Name: []string{"s1", "s2"}[i],
			Address: netip.MustParseAddr("127.0.0.1"), Port: uint16(ln.Addr().(*net.TCPAddr).Port)})
		go acceptAll(ln, func(c *net.TCPConn) { serve(i, c) })
	}
	if change != nil {
		change(&svc)
	}
	r.start(svc)
	return r
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	lc := net.ListenConfig{}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

func acceptAll(ln net.Listener, serve func(*net.TCPConn)) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go serve(c.(*net.TCPConn))
	}
}

func (r *rig) start(svc configs.Service) {
	cfg := &configs.Config{Node: configs.Node{StateDir: r.t.TempDir()}, VirtualIPs: []configs.VirtualIP{{
		Addresses: []configs.VIPAddress{{Prefix: netip.MustParsePrefix("127.0.0.100/32"), Interface: "lo"}},
		Services:  []configs.Service{svc}}}}
	log := slog.New(slog.NewTextHandler(testWriter{r.t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
	p, err := New(cfg, log)
	if err != nil {
		r.t.Fatal(err)
	}
	r.p, r.s = p, p.services[0]
	p.serve()
	r.t.Cleanup(func() {
		_, _ = r.servers[0].Close(), r.servers[1].Close()
		do(p.workers, (*conn).cut)
		p.release()
	})
}

// dial connects a client.
func (r *rig) dial() *net.TCPConn {
	r.t.Helper()
	sa, err := unix.Getsockname(int(r.p.acceptors[0].file.Fd()))
	if err != nil {
		r.t.Fatal(err)
	}
	c, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(addrPort(sa)))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c
}

// primary returns which server leads the connections that were opened, once
// there is one.
func (r *rig) primary() int {
	r.t.Helper()
	which := -1
	eventually(r.t, "a connection with a primary", func() bool {
		for i, s := range r.s.servers() {
			if s.Primaries > 0 {
				which = i
			}
		}
		return which >= 0
	})
	return which
}

func eventually(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited 10 s for %s", what)
		}
	}
}

// testWriter logs to the test, as long as that runs.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	if w.t.Context().Err() == nil {
		w.t.Logf("%s", bytes.TrimRight(b, "\n"))
	}
	return len(b), nil
}

// echo answers with what it gets, and closes when the client has.
func echo(_ int, c *net.TCPConn) {
	_, _ = io.Copy(c, c)
	_ = c.Close()
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rnd := rand.NewChaCha8([32]byte{1})
	_, _ = rnd.Read(b)
	return b
}

func TestEchoWholeAndClosedBothWays(t *testing.T) {
	for _, legs := range []int{1, 2} {
		r := newRig(t, func(s *configs.Service) {
			s.Legs = legs
			if legs == 1 {
				s.Release, s.Stateful, s.Servers = configs.ReleasePrimary, false, s.Servers[:1]
			}
		}, echo)
		c := r.dial()
		sent := randomBytes(8 << 20)
		go func() {
			_, _ = c.Write(sent)
			_ = c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil {
			t.Fatalf("%d legs: read: %v", legs, err)
		}
		if sha256.Sum256(got) != sha256.Sum256(sent) {
			t.Fatalf("%d legs: sent %d bytes, got %d that differ", legs, len(sent), len(got))
		}
		eventually(t, "the connection to be forgotten", func() bool { return r.s.status().Connections == 0 })
		if n := r.s.count.ends[stream.ReasonDone].Load(); n != 1 {
			t.Errorf("%d legs: %d connections ended as done", legs, n)
		}
	}
}

func TestPrimaryResetsInMidStream(t *testing.T) {
	body := randomBytes(16 << 20)
	var r *rig
	half := make(chan struct{})
	r = newRig(t, nil, func(which int, c *net.TCPConn) {
		defer func() { _ = c.Close() }()
		_, _ = c.Read(make([]byte, 1))
		_, _ = c.Write(body[:len(body)/2])
		if which == r.primary() {
			close(half)
			_ = c.SetLinger(0)
			return
		}
		<-half
		_, _ = c.Write(body[len(body)/2:])
	})
	c := r.dial()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, body) {
		t.Fatalf("got %d of %d bytes, equal so far: %v, error %v", len(got), len(body), bytes.HasPrefix(body, got), err)
	}
	if n := r.s.count.promoted.Load(); n != 1 {
		t.Errorf("%d promotions", n)
	}
	states := r.s.servers()[0].State + " " + r.s.servers()[1].State
	if states != "stale up" && states != "up stale" {
		t.Errorf("the servers are %s", states)
	}
}
