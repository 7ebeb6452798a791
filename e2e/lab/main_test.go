package lab_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/lab/labtest"
)

// TestMain also is the program that the tests about the end of a lab's maker
// start and kill, see lifetime_test.go.
func TestMain(m *testing.M) {
	if mode := os.Getenv("LAB_TEST_MAKER"); mode != "" {
		maker(mode)
		return
	}
	os.Exit(m.Run())
}

// newLab makes a lab of standard hosts.
func newLab(t *testing.T, names ...string) *lab.Lab {
	t.Helper()
	return labtest.New(t, lab.Options{Hosts: lab.Standard(names...)})
}

// must takes a value with its error.
func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// itoa keeps the paths short.
func itoa(n int) string { return strconv.Itoa(n) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within is a context that ends with the test or after a generous time.
func within(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return ctx
}

// serve answers each connection to the host's port with handle, until the
// test ends.
func serve(t *testing.T, h *lab.Host, port uint16, handle func(net.Conn)) {
	t.Helper()
	ln := must[net.Listener](t)(h.Listen("tcp", fmt.Sprintf(":%d", port)))
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			// A lab that was closed under it never ends a connection.
			t.Cleanup(func() { c.Close() })
			go func() {
				defer c.Close()
				handle(c)
			}()
		}
	}()
}

func echo(c net.Conn) { io.Copy(c, c) }

// sayPeer tells the client its own address.
func sayPeer(c net.Conn) { io.WriteString(c, c.RemoteAddr().(*net.TCPAddr).IP.String()) }

// dial connects and closes the connection when the test ends.
func dial(t *testing.T, h *lab.Host, to netip.AddrPort) net.Conn {
	t.Helper()
	c := must[net.Conn](t)(h.DialContext(within(t, 20*time.Second), "tcp", to.String()))
	t.Cleanup(func() { c.Close() })
	check(t, c.SetDeadline(time.Now().Add(60*time.Second)))
	return c
}

// roundTrip sends a line and reads it back.
func roundTrip(c net.Conn, line string) error {
	if _, err := io.WriteString(c, line); err != nil {
		return err
	}
	buf := make([]byte, len(line))
	if _, err := io.ReadFull(c, buf); err != nil {
		return err
	}
	if string(buf) != line {
		return fmt.Errorf("got %q, want %q", buf, line)
	}
	return nil
}

// silent checks that a connection passes nothing for a while. It can't pass
// by accident: whatever comes makes it fail.
func silent(t *testing.T, c net.Conn) {
	t.Helper()
	_, err := io.WriteString(c, "x")
	check(t, err)
	check(t, c.SetReadDeadline(time.Now().Add(150*time.Millisecond)))
	n, err := c.Read(make([]byte, 10))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("read %d bytes, error %v: want silence", n, err)
	}
	check(t, c.SetReadDeadline(time.Now().Add(60*time.Second)))
}

// answers checks that what silent sent comes through after all.
func answers(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// both runs a test for IPv4 and for IPv6. addr is the host's address of the
// family.
func both(t *testing.T, f func(t *testing.T, addr func(*lab.Host) netip.Addr)) {
	t.Run("IPv4", func(t *testing.T) { f(t, func(h *lab.Host) netip.Addr { return h.Addr4() }) })
	t.Run("IPv6", func(t *testing.T) { f(t, func(h *lab.Host) netip.Addr { return h.Addr6() }) })
}

// timedOut tells a deadline's error; net.Dial's is not os.ErrDeadlineExceeded.
func timedOut(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
