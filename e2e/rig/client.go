package rig

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig/content"
)

// Conn is a client's connection. It is one TCP connection to its end: nothing
// is ever tried again on another one. Requests go one after the other, from
// one goroutine.
type Conn struct {
	net.Conn
	r *bufio.Reader
}

// Dial connects from a host to an address such as "10.9.0.100:80".
func Dial(ctx context.Context, l *lab.Lab, host, addr string) (*Conn, error) {
	h, err := hostOf(l, host)
	if err != nil {
		return nil, err
	}
	c, err := h.DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return newConn(c), nil
}

// DialFrom is Dial from an address and port of the host; the port may be one
// that was used just before (SO_REUSEADDR).
func DialFrom(ctx context.Context, l *lab.Lab, host string, from netip.AddrPort, addr string) (*Conn, error) {
	h, err := hostOf(l, host)
	if err != nil {
		return nil, err
	}
	d := net.Dialer{LocalAddr: net.TCPAddrFromAddrPort(from), Control: reuseAddr}
	c, err := h.DialWith(ctx, d, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return newConn(c), nil
}

// reuseAddr sets SO_REUSEADDR on a socket that is not bound yet.
func reuseAddr(_, _ string, raw syscall.RawConn) error {
	var set error
	err := raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
	return errors.Join(err, set)
}

func newConn(c net.Conn) *Conn { return &Conn{Conn: c, r: bufio.NewReaderSize(c, 64<<10)} }

// Local is the client's own address and port.
func (c *Conn) Local() netip.AddrPort { return c.LocalAddr().(*net.TCPAddr).AddrPort() }

// CloseWrite sends FIN; answers can still be read.
func (c *Conn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// Reader reads what the server sends, after what answers have already taken.
func (c *Conn) Reader() *bufio.Reader { return c.r }

// Send sends a line, or several if it has newlines, and waits for nothing.
func (c *Conn) Send(line string) error {
	if _, err := io.WriteString(c, line+"\n"); err != nil {
		return fmt.Errorf("send %q: %w", short(line), err)
	}
	return nil
}

// ReadLine reads the next line of the answer, without its end.
func (c *Conn) ReadLine() (string, error) {
	line, err := c.r.ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read line after %q: %w", short(line), err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// Ask sends a line and reads one. The deadlines are the connection's.
func (c *Conn) Ask(line string) (string, error) {
	if err := c.Send(line); err != nil {
		return "", err
	}
	return c.ReadLine()
}

// short keeps messages readable.
func short(s string) string {
	if len(s) > 60 {
		return s[:60] + "..."
	}
	return s
}

// Response is the answer to Get.
type Response struct {
	Status int
	Header http.Header
	Body   []byte
}

// Get requests a path of a web server on this connection, which lives on, and
// reads the whole answer.
func (c *Conn) Get(path string) (*Response, error) {
	resp, err := c.request(path)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, fmt.Errorf("get %s: after %d bytes: %w", path, len(body), err)
	}
	return &Response{Status: resp.StatusCode, Header: resp.Header, Body: body}, nil
}

func (c *Conn) request(path string) (*http.Response, error) {
	req, err := http.NewRequest(http.MethodGet, "http://"+c.RemoteAddr().String()+path, nil)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	if err := req.Write(c); err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	resp, err := http.ReadResponse(c.r, req)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", path, err)
	}
	return resp, nil
}

// Download requests a path of a web server and checks its body as it comes.
func (c *Conn) Download(path string, want content.Content) (*Download, error) {
	resp, err := c.request(path)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK || resp.ContentLength != want.Size {
		err := fmt.Errorf("get %s: %s, %d bytes; want %d", path, resp.Status, resp.ContentLength, want.Size)
		return nil, errors.Join(err, resp.Body.Close())
	}
	return watch(resp.Body, want), nil
}

// Paced requests a stream of a testsrv.Paced server and checks it as it comes.
func (c *Conn) Paced(want content.Content, over time.Duration) (*Download, error) {
	if err := c.Send(fmt.Sprintf("%d %v %d", want.Size, over, want.Seed)); err != nil {
		return nil, err
	}
	return watch(io.LimitReader(c.r, want.Size), want), nil
}

// Redis sends one Redis command and returns its answer. See ReadReply.
func (c *Conn) Redis(args ...string) (string, error) {
	if err := c.SendRedis(args...); err != nil {
		return "", err
	}
	return c.ReadReply()
}

// SendRedis sends one Redis command and waits for nothing.
func (c *Conn) SendRedis(args ...string) error {
	if _, err := c.Write(AppendRedis(nil, args...)); err != nil {
		return fmt.Errorf("send %s: %w", short(strings.Join(args, " ")), err)
	}
	return nil
}

// AppendRedis appends a command in Redis's protocol (RESP), so that many can
// be sent at once.
func AppendRedis(b []byte, args ...string) []byte {
	b = fmt.Appendf(b, "*%d\r\n", len(args))
	for _, a := range args {
		b = fmt.Appendf(b, "$%d\r\n%s\r\n", len(a), a)
	}
	return b
}

// ErrRedis is for an answer of Redis that is an error.
var ErrRedis = errors.New("redis")

// ReadReply reads an answer of Redis: a status as its text, a number as
// digits, a string as it is, nothing as "". Arrays are not understood.
func (c *Conn) ReadReply() (string, error) {
	line, err := c.ReadLine()
	if err != nil || line == "" {
		return "", errors.Join(errors.New("read reply"), err)
	}
	switch kind, rest := line[0], line[1:]; kind {
	case '+', ':':
		return rest, nil
	case '-':
		return "", fmt.Errorf("%w: %s", ErrRedis, rest)
	case '$':
		return c.readBulk(rest)
	}
	return "", fmt.Errorf("read reply: %q", short(line))
}

func (c *Conn) readBulk(size string) (string, error) {
	n, err := strconv.Atoi(size)
	if err != nil || n > 512<<20 {
		return "", fmt.Errorf("read reply: size %q", size)
	}
	if n < 0 {
		return "", nil
	}
	b := make([]byte, n+2)
	if _, err := io.ReadFull(c.r, b); err != nil {
		return "", fmt.Errorf("read reply: %w", err)
	}
	return string(b[:n]), nil
}
