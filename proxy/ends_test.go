package proxy

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/configs"
	"sttcp/proxy/stream"
)

// A client may reset after it has ended its direction: nothing more is read
// from it then, and yet nobody may wait for it.
func TestClientResetsAfterItsFIN(t *testing.T) {
	r := newRig(t, nil, func(_ *rig, _ int, c *net.TCPConn) {
		defer func() { _ = c.Close() }()
		if _, err := io.ReadAll(c); err != nil {
			return
		}
		for body := randomBytes(64 << 10); ; {
			if _, err := c.Write(body); err != nil {
				return
			}
		}
	})
	c := r.dial()
	write(t, c, "x")
	_ = c.CloseWrite()
	read(t, c, 1<<20)
	_ = c.SetLinger(0)
	_ = c.Close()
	eventually(t, "the client to be forgotten", func() bool { return r.s.status().Connections == 0 })
}

// Servers that have closed altogether answer what the client still says with
// RST. So must the client be, or it would wait for ever.
func TestServersResetAfterTheirFIN(t *testing.T) {
	r := newRig(t, nil, func(_ *rig, _ int, c *net.TCPConn) {
		if _, err := c.Read(make([]byte, 1)); err == nil {
			_, _ = c.Write([]byte("bye"))
		}
		_ = c.Close()
	})
	c := r.dial()
	write(t, c, "x")
	if got, err := io.ReadAll(c); string(got) != "bye" || err != nil {
		t.Fatalf("the client reads %q, %v", got, err)
	}
	write(t, c, "more")
	eventually(t, "the connection to be forgotten", func() bool { return r.s.status().Connections == 0 })
	if _, err := c.Write([]byte("x")); !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client writes to servers that are gone: %v", err)
	}
	for _, s := range r.s.servers() {
		if s.State != "up" {
			t.Errorf("%s closed as the other did, and is %s", s.Name, s.State)
		}
	}
}

// answerAndReset has both servers answer with body and reset at its end.
func answerAndReset(body []byte, sent *sync.WaitGroup) func(*rig, int, *net.TCPConn) {
	return func(_ *rig, _ int, c *net.TCPConn) {
		defer func() { _ = c.Close() }()
		if _, err := c.Read(make([]byte, 1)); err != nil {
			return
		}
		_, _ = c.Write(body)
		eventuallyAcked(c)
		sent.Done()
		sent.Wait()
		_ = c.SetLinger(0)
	}
}

// eventuallyAcked waits until the peer's kernel has all that was written.
func eventuallyAcked(c *net.TCPConn) {
	rc, err := c.SyscallConn()
	for waiting := err == nil; waiting; time.Sleep(time.Millisecond) {
		if rc.Control(func(fd uintptr) { waiting = unsent(int(fd)) }) != nil {
			return
		}
	}
}

// What the servers had answered before both reset reaches a client that reads
// late, and then the reset does.
func TestResetComesAfterTheAnswer(t *testing.T) {
	var sent sync.WaitGroup
	sent.Add(2)
	body := randomBytes(60 << 10)
	r := newRig(t, func(s *configs.Service) { s.Lag.Limit = 10 * time.Second }, answerAndReset(body, &sent))
	c := r.dialNarrow()
	write(t, c, "x")
	eventually(t, "the connection to end", func() bool { return r.s.count.ends[stream.ReasonServerRST].Load() == 1 })
	got, err := io.ReadAll(c)
	if !errors.Is(err, unix.ECONNRESET) || !bytes.Equal(got, body) {
		t.Errorf("the client reads %d of %d bytes, then %v", len(got), len(body), err)
	}
}

// A client that never reads is not waited for, neither for ever nor by Close.
func TestResetDoesNotWaitForEver(t *testing.T) {
	for name, limit := range map[string]time.Duration{"limit": 100 * time.Millisecond, "close": time.Hour} {
		var sent sync.WaitGroup
		sent.Add(2)
		r := newRig(t, func(s *configs.Service) { s.Lag.Limit = limit }, answerAndReset(randomBytes(60<<10), &sent))
		c := r.dialNarrow()
		write(t, c, "x")
		eventually(t, "the connection to end", func() bool { return r.s.count.ends[stream.ReasonServerRST].Load() == 1 })
		if name == "close" {
			within(t, "Close", func() { _ = r.p.Close() })
		}
		eventually(t, name+": the reset", func() bool {
			var left atomic.Int64
			do(r.p.workers, func(w *worker) { left.Add(int64(len(w.lingering))) })
			return left.Load() == 0
		})
	}
}

// dialNarrow connects a client whose kernel takes few bytes that are not read.
func (r *rig) dialNarrow() *net.TCPConn {
	r.t.Helper()
	d := net.Dialer{Control: func(_, _ string, rc syscall.RawConn) (err error) {
		cerr := rc.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, 4096) })
		return errors.Join(err, cerr)
	}}
	d.SetMultipathTCP(false)
	c, err := d.DialContext(r.t.Context(), "tcp4", fmt.Sprintf("127.0.0.1:%d", r.p.acceptors[0].port))
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}
