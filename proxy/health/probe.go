package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"regexp"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxAnswer bounds how much of an answer is looked at, in bytes.
const maxAnswer = 16 << 10

// prober does one check of one server.
type prober struct {
	dial    func(ctx context.Context) (net.Conn, error)
	timeout time.Duration
	send    string
	expect  *regexp.Regexp
}

func newProber(cfg Config, addr netip.AddrPort) prober {
	p := prober{timeout: cfg.Timeout, send: cfg.Send, expect: cfg.Expect}
	d := cfg.Dialer
	d.KeepAlive = -1
	d.SetMultipathTCP(false)
	if !p.talks() {
		d.ControlContext = withoutAck(cfg.Dialer)
	}
	p.dial = func(ctx context.Context) (net.Conn, error) {
		return d.DialContext(ctx, "tcp", addr.String())
	}
	return p
}

// talks reports whether there is a conversation after the handshake.
func (p prober) talks() bool { return p.send != "" || p.expect != nil }

// check asks the server once, for as long as timeout.
func (p prober) check(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	conn, err := p.dial(ctx)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	if !p.talks() {
		return resetOnClose(conn)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	return p.converse(conn)
}

func (p prober) converse(conn net.Conn) error {
	if p.send != "" {
		if _, err := io.WriteString(conn, p.send); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	if p.expect == nil {
		return nil
	}
	var got []byte
	buf := make([]byte, 4096)
	for len(got) < maxAnswer {
		n, err := conn.Read(buf[:min(len(buf), maxAnswer-len(got))])
		got = append(got, buf[:n]...)
		if n > 0 && p.expect.Match(got) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("expect: no match in %d bytes (%s): %w", len(got), excerpt(got), err)
		}
	}
	return fmt.Errorf("expect: no match in the first %d bytes (%s)", len(got), excerpt(got))
}

func excerpt(got []byte) string {
	if len(got) > 64 {
		return fmt.Sprintf("%q...", got[:64])
	}
	return fmt.Sprintf("%q", got)
}

// resetOnClose has the connection end by RST, not FIN.
func resetOnClose(conn net.Conn) error {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return nil
	}
	if err := tcp.SetLinger(0); err != nil {
		return fmt.Errorf("close: %w", err)
	}
	return nil
}

// withoutAck returns d's control function with one thing added: the handshake's
// last ACK is delayed (tcp(7), TCP_QUICKACK; net/ipv4/tcp_input.c,
// tcp_rcv_synsent_state_process), so that the reset goes instead of it.
func withoutAck(d net.Dialer) func(context.Context, string, string, syscall.RawConn) error {
	return func(ctx context.Context, network, addr string, c syscall.RawConn) error {
		var err error
		switch {
		case d.ControlContext != nil:
			err = d.ControlContext(ctx, network, addr, c)
		case d.Control != nil:
			err = d.Control(network, addr, c)
		}
		if err != nil {
			return err
		}
		var set error
		err = c.Control(func(fd uintptr) {
			set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 0)
		})
		return errors.Join(err, set)
	}
}
