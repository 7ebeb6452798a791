package health

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Getenv("STTCP_HEALTH_CHILD") != "" {
		os.Exit(checkUntilAnswered(os.Args[1]))
	}
	goleak.VerifyTestMain(m)
}

// patient is long enough for a check that is to pass on a busy machine.
const patient = 10 * time.Second

// serve has each connection of a listener on the loopback of that address
// handled, one after another, and returns where it listens.
func serve(t *testing.T, host string, handle func(net.Conn)) netip.AddrPort {
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			handle(c)
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-ended })
	return addrOf(l)
}

func addrOf(l net.Listener) netip.AddrPort { return l.Addr().(*net.TCPAddr).AddrPort() }

func check(cfg Config, addr netip.AddrPort) error {
	return newProber(cfg, addr).check(context.Background())
}

func TestRefused(t *testing.T) {
	addr := serve(t, "127.0.0.1", func(net.Conn) {})
	closed := netip.AddrPortFrom(netip.MustParseAddr("127.77.0.1"), addr.Port())
	err := check(Config{Timeout: patient}, closed)
	if !errors.Is(err, unix.ECONNREFUSED) || blameFor(err) != theirs || !strings.HasPrefix(err.Error(), "connect: ") {
		t.Errorf("got %v", err)
	}
}

// TestConversation: question and answer, on both families.
func TestConversation(t *testing.T) {
	for _, tt := range []struct {
		name, send, expect string
		answer             func(in *bufio.Reader, c net.Conn)
		want               string // in the error; empty: the check passes
	}{
		{"question", "PING\r\n", `^\+PONG\r\n`, func(in *bufio.Reader, c net.Conn) {
			if line, _ := in.ReadString('\n'); line == "PING\r\n" {
				io.WriteString(c, "+PONG\r\n")
			}
		}, ""},
		{"banner", "", `^220 `, func(_ *bufio.Reader, c net.Conn) { io.WriteString(c, "220 ready") }, ""},
		{"question only", "hello", ``, func(in *bufio.Reader, _ net.Conn) { in.ReadByte() }, ""},
		{"other answer", "", `^220 `, func(_ *bufio.Reader, c net.Conn) { io.WriteString(c, "500 no") }, `no match in 6 bytes ("500 no"): EOF`},
		{"no answer", "", `x`, func(*bufio.Reader, net.Conn) {}, `no match in 0 bytes (""): EOF`},
		{"reset", "", `x`, func(_ *bufio.Reader, c net.Conn) { c.(*net.TCPConn).SetLinger(0) }, "connection reset by peer"},
		{"at the bound", "", `x$`, func(_ *bufio.Reader, c net.Conn) { io.WriteString(c, strings.Repeat("y", maxAnswer-1)+"x") }, ""},
		{"beyond the bound", "", `x`, func(_ *bufio.Reader, c net.Conn) { io.WriteString(c, strings.Repeat("y", maxAnswer)+"x") },
			"no match in the first 16384 bytes"},
	} {
		for _, host := range []string{"127.0.0.1", "::1"} {
			t.Run(tt.name+" "+host, func(t *testing.T) {
				addr := serve(t, host, func(c net.Conn) {
					c.SetDeadline(time.Now().Add(patient))
					tt.answer(bufio.NewReader(c), c)
				})
				cfg := Config{Timeout: patient, Send: tt.send}
				if tt.expect != "" {
					cfg.Expect = regexp.MustCompile(tt.expect)
				}
				err := check(cfg, addr)
				if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
					t.Errorf("got %v, want %q", err, tt.want)
				}
			})
		}
	}
}

// TestSplitAnswer: however the answer is cut into segments. A pipe's write
// returns when it was read, so every piece is a read of its own.
func TestSplitAnswer(t *testing.T) {
	const answer = "HTTP/1.1 200 OK\r\nServer: x\r\n\r\n"
	for size := 1; size <= len(answer); size++ {
		c, server := net.Pipe()
		go func() {
			for rest := answer; rest != ""; {
				n := min(size, len(rest))
				if _, err := io.WriteString(server, rest[:n]); err != nil {
					return // matched: the checker has closed
				}
				rest = rest[n:]
			}
		}()
		p := prober{timeout: patient, expect: regexp.MustCompile(`^HTTP/1\.1 200 `),
			dial: func(context.Context) (net.Conn, error) { return c, nil }}
		if err := p.check(context.Background()); err != nil {
			t.Errorf("pieces of %d: %v", size, err)
		}
		server.Close()
	}
}

// TestSlow: a server that goes on talking without saying it, or says nothing,
// or does not take the question, has until the time-out and no longer.
func TestSlow(t *testing.T) {
	for name, handle := range map[string]func(net.Conn){
		"silent": func(c net.Conn) { io.Copy(io.Discard, c) },
		"endless": func(c net.Conn) {
			for {
				if _, err := c.Write([]byte(".")); err != nil {
					return
				}
				time.Sleep(ms)
			}
		},
	} {
		addr := serve(t, "127.0.0.1", handle)
		err := check(Config{Timeout: 50 * ms, Send: "?", Expect: regexp.MustCompile("!")}, addr)
		if !errors.Is(err, os.ErrDeadlineExceeded) || blameFor(err) != unclear {
			t.Errorf("%s: %v", name, err)
		}
	}
	stuck := serve(t, "127.0.0.1", func(c net.Conn) { c.Read(make([]byte, 1)); waitClosed(c) })
	err := check(Config{Timeout: 50 * ms, Send: strings.Repeat("?", 64<<20)}, stuck)
	if !errors.Is(err, os.ErrDeadlineExceeded) || !strings.HasPrefix(err.Error(), "send: ") {
		t.Errorf("stuck: %v", err)
	}
}

// waitClosed returns when the peer is gone, without reading what it has sent.
func waitClosed(c net.Conn) {
	for c.SetWriteDeadline(time.Now().Add(patient)); ; {
		if _, err := c.Write([]byte(".")); err != nil {
			return
		}
		time.Sleep(ms)
	}
}

// TestFullBacklog: a server whose program is stuck and whose queue of accepted
// connections is full does not answer the handshake any more.
func TestFullBacklog(t *testing.T) {
	addr := listenFull(t)
	err := check(Config{Timeout: 100 * ms}, addr)
	if err == nil || !errors.Is(err, context.DeadlineExceeded) && !os.IsTimeout(errors.Unwrap(err)) {
		t.Errorf("got %v", err)
	}
	if blameFor(err) != unclear {
		t.Errorf("%v is not a refusal", err)
	}
}

// listenFull listens with a queue of one and fills it.
func listenFull(t *testing.T) netip.AddrPort {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	sa := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := errors.Join(unix.Bind(fd, sa), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(name.(*unix.SockaddrInet4).Port))
	c, err := net.DialTimeout("tcp", addr.String(), patient)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return addr
}

// TestDialerIsUsed: source address and control function of the configuration
// count, with and without a conversation.
func TestDialerIsUsed(t *testing.T) {
	from := make(chan string, 1)
	addr := serve(t, "127.0.0.1", func(c net.Conn) { from <- c.RemoteAddr().(*net.TCPAddr).IP.String() })
	calls := 0
	control := func(_, _ string, c syscall.RawConn) error {
		calls++
		return c.Control(func(fd uintptr) { unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_PRIORITY, 3) })
	}
	source := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 5)}
	if err := check(Config{Timeout: patient, Send: "x", Dialer: net.Dialer{LocalAddr: source, Control: control}}, addr); err != nil {
		t.Fatal(err)
	}
	if got := <-from; got != "127.0.0.5" || calls != 1 {
		t.Errorf("came from %s, control was called %d times", got, calls)
	}
	failing := errors.New("no such mark")
	for _, d := range []net.Dialer{
		{Control: func(string, string, syscall.RawConn) error { return failing }},
		{ControlContext: func(context.Context, string, string, syscall.RawConn) error { return failing }},
	} {
		if err := check(Config{Timeout: patient, Dialer: d}, addr); !errors.Is(err, failing) {
			t.Errorf("control failed, the check says %v", err)
		}
	}
}

// TestCheckEndsWithContext: Close does not wait for a time-out, also when the
// connection is there and the answer is not.
func TestCheckEndsWithContext(t *testing.T) {
	addr := serve(t, "127.0.0.1", func(c net.Conn) { io.Copy(io.Discard, c) })
	p := newProber(Config{Timeout: time.Hour, Expect: regexp.MustCompile("x")}, addr)
	connected := make(chan struct{})
	dial := p.dial
	p.dial = func(ctx context.Context) (net.Conn, error) {
		defer close(connected)
		return dial(ctx)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- p.check(ctx) }()
	<-connected
	cancel()
	if err := <-ended; err == nil || !strings.HasPrefix(err.Error(), "expect: ") {
		t.Errorf("got %v", err)
	}
}
