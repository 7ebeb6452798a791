package proxy

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

func TestForgetTimeWait(t *testing.T) {
	needRoot(t)
	for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
		// A port that is free again may be another program's at once.
		for try := 1; !forgetOne(t, addr); try++ {
			if try == 5 {
				t.Fatal("after TIME_WAIT the port was in use, five times")
			}
		}
	}
}

// forgetOne reports whether a port could be used again after its TIME_WAIT was
// ended.
func forgetOne(t *testing.T, addr string) bool {
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	src, dst := c.LocalAddr().(*net.TCPAddr).AddrPort(), ln.Addr().(*net.TCPAddr).AddrPort()
	if err := forgetTimeWait(src, dst); !errors.Is(err, errNotTimeWait) {
		t.Errorf("a live connection: %v", err)
	}
	intoTimeWait(t, ln, c)
	if err := dialAndClose(src, dst); !busy(err) {
		t.Errorf("during TIME_WAIT: %v", err)
	}
	if err := forgetTimeWait(src, dst); err != nil {
		t.Errorf("in TIME_WAIT: %v", err)
	}
	if err := forgetTimeWait(netip.AddrPortFrom(src.Addr(), 1), dst); err == nil {
		t.Error("a connection that never was is forgotten")
	}
	if err := dialAndClose(src, dst); err != nil && !busy(err) {
		t.Errorf("after TIME_WAIT: %v", err)
	} else if err != nil {
		return false
	}
	return true
}

// intoTimeWait has the dialling end close first, and both ends close.
func intoTimeWait(t *testing.T, ln net.Listener, c net.Conn) {
	t.Helper()
	server, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, server); err != nil {
		t.Fatal(err)
	}
	server.Close()
	if _, err := io.Copy(io.Discard, c); err != nil {
		t.Fatal(err)
	}
}

func dialAndClose(src, dst netip.AddrPort) error {
	fd, err := dialFrom(src, dst)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

func TestOurs(t *testing.T) {
	for _, tt := range []struct {
		failed     [2]error
		ours, busy bool
	}{
		{},
		{failed: [2]error{nil, unix.ENETUNREACH}},
		{failed: [2]error{unix.EHOSTUNREACH, errNoPort}, ours: true},
		{failed: [2]error{nil, unix.EMFILE}, ours: true},
		{failed: [2]error{unix.EADDRNOTAVAIL, nil}, ours: true, busy: true},
	} {
		if err := ours(tt.failed); (err != nil) != tt.ours || busy(err) != tt.busy {
			t.Errorf("%v: %v, busy %v", tt.failed, err, busy(err))
		}
	}
}
