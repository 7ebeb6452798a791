package proxy

import (
	"errors"
	"io"
	"net"
	"testing"

	"golang.org/x/sys/unix"
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
