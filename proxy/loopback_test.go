package proxy

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync/atomic"
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
	ready   chan struct{} // closed when all of the above is there
	servers [2]net.Listener
	lead    atomic.Int32 // what primary returned first, plus one
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
func newRig(t testing.TB, change func(*configs.Service), serve func(r *rig, which int, c *net.TCPConn)) *rig {
	t.Helper()
	needRoot(t)
	r := &rig{t: t, ready: make(chan struct{})}
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
		go acceptAll(ln, func(c *net.TCPConn) { serve(r, i, c) })
	}
	if change != nil {
		change(&svc)
	}
	r.start(svc)
	close(r.ready)
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
	p.Start()
	r.t.Cleanup(func() {
		_, _ = r.servers[0].Close(), r.servers[1].Close()
		if err := p.Close(); err != nil {
			r.t.Error(err)
		}
	})
}

// dial connects a client.
func (r *rig) dial() *net.TCPConn {
	r.t.Helper()
	c, err := r.tryDial()
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *rig) tryDial() (*net.TCPConn, error) {
	c, err := net.DialTCP("tcp4", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(r.p.acceptors[0].port)})
	if err != nil {
		return nil, err
	}
	r.t.Cleanup(func() { _ = c.Close() })
	return c, c.SetDeadline(time.Now().Add(20 * time.Second))
}

// primary returns which server leads the connections that were opened, once
// there is one. It is asked by both servers, and the second must not be told
// of a promotion meanwhile.
func (r *rig) primary() int {
	r.t.Helper()
	<-r.ready
	which := -1
	eventually(r.t, "a connection with a primary", func() bool {
		for i, s := range r.s.servers() {
			if s.Primaries > 0 {
				which = i
			}
		}
		return which >= 0
	})
	r.lead.CompareAndSwap(0, int32(which+1))
	return int(r.lead.Load()) - 1
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
func echo(_ *rig, _ int, c *net.TCPConn) {
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
	half := make(chan struct{})
	r := newRig(t, nil, func(r *rig, which int, c *net.TCPConn) {
		defer func() { _ = c.Close() }()
		if _, err := c.Read(make([]byte, 1)); err != nil {
			return // a health check
		}
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

// read reads exactly n bytes.
func read(t testing.TB, c net.Conn, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if got, err := io.ReadFull(c, b); err != nil {
		t.Fatalf("read %d of %d bytes: %v", got, n, err)
	}
	return b
}

func write(t testing.TB, c net.Conn, s string) {
	t.Helper()
	if _, err := c.Write([]byte(s)); err != nil {
		t.Fatalf("write %q: %v", s, err)
	}
}

// closePort makes connections to server i be refused.
func (r *rig) closePort(i int) { _ = r.servers[i].Close() }

func TestRefusedServer(t *testing.T) {
	for i := range 2 {
		r := newRig(t, nil, echo)
		r.closePort(i)
		c := r.dial()
		write(t, c, "hello")
		if got := read(t, c, 5); string(got) != "hello" {
			t.Errorf("server %d refused: got %q", i, got)
		}
		if st := r.s.servers()[i].State; st != "stale" {
			t.Errorf("server %d refused and is %s", i, st)
		}
	}
}

func TestAllServersRefuse(t *testing.T) {
	r := newRig(t, nil, echo)
	r.closePort(0)
	r.closePort(1)
	c, err := r.tryDial()
	if err == nil {
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client sees %v, not a reset", err)
	}
	for _, s := range r.s.servers() {
		if s.State == "stale" {
			t.Errorf("%s was ejected though nobody has seen a byte", s.Name)
		}
	}
}

func TestProxyHeader(t *testing.T) {
	for version, want := range map[configs.ProxyProtocol]string{
		configs.ProxyV1: "PROXY TCP4 127.0.0.1 ",
		configs.ProxyV2: "\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c",
	} {
		seen := make(chan string, 2)
		r := newRig(t, func(s *configs.Service) { s.ProxyProtocol = version }, func(_ *rig, _ int, c *net.TCPConn) {
			b := make([]byte, 256)
			n, _ := io.ReadAtLeast(c, b, len(want))
			if n > 0 { // no health check
				seen <- string(b[:n])
			}
			echo(nil, 0, c)
		})
		c := r.dial()
		for range 2 { // sent to each server before the client has said a word
			if got := <-seen; len(got) < len(want) || got[:len(want)] != want {
				t.Errorf("%s: the server sees %q", version, got)
			}
		}
		write(t, c, "x")
		read(t, c, 1)
	}
}

func TestDivergenceMutesTheBackup(t *testing.T) {
	r := newRig(t, nil, func(_ *rig, which int, c *net.TCPConn) {
		b := make([]byte, 64)
		for {
			n, err := c.Read(b)
			if err != nil {
				return
			}
			_, _ = c.Write(append([]byte{byte('1' + which)}, b[:n]...))
		}
	})
	c := r.dial()
	lead := r.primary()
	for _, word := range []string{"abc", "def"} {
		write(t, c, word)
		if got := string(read(t, c, 4)); got != string(rune('1'+lead))+word {
			t.Errorf("server %d leads, the client reads %q", lead+1, got)
		}
	}
	st := r.s.status()
	if st.Diverged != 1 || st.Muted != 1 || st.TwoLegs != 1 {
		t.Errorf("diverged %d, muted %d, with two legs %d", st.Diverged, st.Muted, st.TwoLegs)
	}
}

func TestFreezeHoldsTheClientsBytes(t *testing.T) {
	r := newRig(t, nil, echo)
	c := r.dial()
	write(t, c, "a")
	read(t, c, 1)
	if err := r.p.Freeze("svc", true); err != nil {
		t.Fatal(err)
	}
	before := r.s.count.bytesIn.Load()
	write(t, c, "b")
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("a frozen service answers: %v", err)
	}
	if got := r.s.count.bytesIn.Load(); got != before {
		t.Errorf("%d bytes were read from a client of a frozen service", got-before)
	}
	if err := r.p.Freeze("svc", false); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if got := read(t, c, 1); got[0] != 'b' {
		t.Errorf("after the thaw the client reads %q", got)
	}
	if err := r.p.Freeze("other", true); !errors.Is(err, ErrUnknown) {
		t.Errorf("freezing an unknown service: %v", err)
	}
}

// Clients of a frozen service come and go: who has said all, or is gone, is
// not waited for.
func TestClientsLeaveAFrozenService(t *testing.T) {
	for name, leave := range map[string]func(*net.TCPConn){
		"FIN": func(c *net.TCPConn) { _ = c.Close() },
		"RST": func(c *net.TCPConn) { _, _ = c.SetLinger(0), c.Close() },
	} {
		r := newRig(t, nil, echo)
		c := r.dial()
		write(t, c, "a")
		read(t, c, 1)
		if err := r.p.Freeze("svc", true); err != nil {
			t.Fatal(err)
		}
		leave(c)
		eventually(t, "the client that left by "+name+" to be forgotten", func() bool { return r.s.status().Connections == 0 })
	}
}

func TestMaxConnLeavesClientsInTheBacklog(t *testing.T) {
	r := newRig(t, func(s *configs.Service) { s.MaxConn = 1 }, echo)
	first, second := r.dial(), r.dial()
	write(t, first, "1")
	read(t, first, 1)
	write(t, second, "2")
	_ = second.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := second.Read(make([]byte, 1)); !os.IsTimeout(err) {
		t.Errorf("the second of maxconn 1 is served: %v", err)
	}
	_ = first.Close()
	_ = second.SetReadDeadline(time.Now().Add(10 * time.Second))
	if got := read(t, second, 1); got[0] != '2' {
		t.Errorf("the second client reads %q", got)
	}
}

func TestUrgentByteStaysInPlaceAndUrgent(t *testing.T) {
	type seen struct {
		all string
		at  int // offset of the mark, -1: none seen
	}
	got := make(chan seen, 2)
	r := newRig(t, nil, func(_ *rig, _ int, c *net.TCPConn) {
		if all, at := readMarking(c); all != "" {
			got <- seen{all, at}
		}
	})
	c := r.dial()
	write(t, c, "before")
	rc, err := c.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = rc.Write(func(fd uintptr) bool { return unix.Sendto(int(fd), []byte("!"), unix.MSG_OOB, nil) == nil })
	write(t, c, "after")
	_ = c.CloseWrite()
	for range 2 {
		if s := <-got; s.all != "before!after" || s.at != len("before") {
			t.Errorf("a server read %q with the mark at %d", s.all, s.at)
		}
	}
}

// readMarking reads to the end, urgent data in-stream, and notes where the
// mark was.
func readMarking(c *net.TCPConn) (all string, at int) {
	at = -1
	rc, err := c.SyscallConn()
	if err != nil {
		return err.Error(), at
	}
	_ = rc.Control(func(fd uintptr) { _ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1) })
	for b := make([]byte, 1); ; {
		_ = rc.Read(func(fd uintptr) bool {
			if mark, _ := unix.IoctlGetInt(int(fd), unix.SIOCATMARK); mark != 0 {
				at = len(all)
			}
			n, rerr := unix.Read(int(fd), b)
			err = rerr
			if n > 0 {
				all += string(b[:n])
			}
			if n == 0 {
				err = io.EOF
			}
			return !errors.Is(rerr, unix.EAGAIN)
		})
		if err != nil {
			return all, at
		}
	}
}

// A client that resets: both servers have seen the same bytes of it, all that
// it had sent, before they see a reset.
func TestClientResets(t *testing.T) {
	type seen struct {
		n   int
		err error
	}
	got := make(chan seen, 2)
	r := newRig(t, nil, func(_ *rig, _ int, c *net.TCPConn) {
		if b, err := io.ReadAll(c); len(b) > 0 {
			got <- seen{len(b), err}
		}
	})
	c := r.dial()
	write(t, c, string(randomBytes(1<<20)))
	eventually(t, "all bytes to be read", func() bool { return r.s.count.bytesIn.Load() == 1<<20 })
	_ = c.SetLinger(0)
	_ = c.Close()
	for range 2 {
		if s := <-got; s.n != 1<<20 || !errors.Is(s.err, unix.ECONNRESET) {
			t.Errorf("a server saw %d bytes and %v", s.n, s.err)
		}
	}
}

func TestIdleTimeout(t *testing.T) {
	r := newRig(t, func(s *configs.Service) { s.Timeout.Idle = 200 * time.Millisecond }, echo)
	c := r.dial()
	write(t, c, "x")
	read(t, c, 1)
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("an idle connection ends with %v", err)
	}
	if n := r.s.count.ends[stream.ReasonIdle].Load(); n == 0 {
		eventually(t, "the idle connection to be counted", func() bool { return r.s.count.ends[stream.ReasonIdle].Load() == 1 })
	}
}

// A backup that never reads: the client and the primary go on after lag.limit.
func TestBackupStopsReading(t *testing.T) {
	stop := make(chan struct{})
	defer close(stop)
	r := newRig(t, nil, func(r *rig, which int, c *net.TCPConn) {
		defer func() { _ = c.Close() }()
		if _, err := c.Read(make([]byte, 1)); err != nil {
			return // a health check
		}
		if which == r.primary() {
			n, _ := io.Copy(io.Discard, io.LimitReader(c, 64<<20-1))
			if n == 64<<20-1 {
				_, _ = c.Write([]byte("done"))
			}
			return
		}
		<-stop
	})
	c := r.dial()
	go func() { _, _ = c.Write(randomBytes(64 << 20)) }()
	if got := read(t, c, 4); string(got) != "done" {
		t.Errorf("the client reads %q", got)
	}
	if n := r.s.count.drops[stream.ReasonLag].Load(); n != 1 {
		t.Errorf("%d legs were dropped for lag", n)
	}
}
