package testsrv

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// urgent answers each urgent byte: see Urgent.
func urgent(_ *Server, _ *bufio.Reader, c *net.TCPConn) error {
	marks, err := NewMarks(c)
	if err != nil {
		return err
	}
	for at := int64(0); ; {
		b, marked, err := marks.Read(64)
		if errors.Is(err, io.EOF) {
			_, err = fmt.Fprintf(c, "end %d\n", at)
			return err
		}
		if err != nil {
			return err
		}
		if marked {
			if _, err := fmt.Fprintf(c, "%d ", at); err != nil {
				return err
			}
			if err := SendUrgent(c, b[0]); err != nil {
				return err
			}
		}
		at += int64(len(b))
	}
}

// Marks reads a connection and tells its urgent bytes from others. Nobody else
// may read it.
type Marks struct{ raw rawConn }

// rawConn is the part of syscall.RawConn that is used.
type rawConn interface {
	Control(func(fd uintptr)) error
	Read(func(fd uintptr) bool) error
	Write(func(fd uintptr) bool) error
}

// NewMarks has urgent data of a connection come in-stream (SO_OOBINLINE).
func NewMarks(c *net.TCPConn) (*Marks, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("read urgent data: %w", err)
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_OOBINLINE, 1)
	})
	if err := errors.Join(err, set); err != nil {
		return nil, fmt.Errorf("read urgent data: %w", err)
	}
	return &Marks{raw}, nil
}

// Read returns up to n bytes, or one that is urgent, or io.EOF.
func (m *Marks) Read(n int) (b []byte, urgent bool, err error) {
	rerr := m.raw.Read(func(fd uintptr) bool {
		b, urgent, err = readMarked(int(fd), n)
		for errors.Is(err, unix.EAGAIN) && queued(int(fd)) { // see queued
			b, urgent, err = readMarked(int(fd), n)
		}
		return !errors.Is(err, unix.EAGAIN)
	})
	if err := errors.Join(rerr, err); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, false, io.EOF
		}
		return nil, false, fmt.Errorf("read urgent data: %w", err)
	}
	return b, urgent, nil
}

// readMarked asks for the mark only when there is something to read: what
// comes after the question has a mark that the question did not see.
func readMarked(fd, n int) (b []byte, urgent bool, err error) {
	b = make([]byte, n)
	got, _, err := unix.Recvfrom(fd, b[:1], unix.MSG_PEEK|unix.MSG_DONTWAIT)
	if err != nil {
		return nil, false, err
	}
	if got == 0 {
		return nil, false, io.EOF
	}
	at, err := unix.IoctlGetInt(fd, unix.SIOCATMARK)
	if err != nil {
		return nil, false, err
	}
	if at != 0 {
		b = b[:1]
	}
	got, err = unix.Read(fd, b)
	return b[:max(got, 0)], at != 0, err
}

// queued reports whether there are bytes to be read. A read that is at an
// urgent byte gives EAGAIN all the same while a signal is pending, as Go's own
// are (net/ipv4/tcp.c, tcp_recvmsg_locked).
func queued(fd int) bool {
	n, err := unix.IoctlGetInt(fd, unix.SIOCINQ)
	return err == nil && n > 0
}

// SendUrgent sends one byte as urgent data.
func SendUrgent(c *net.TCPConn, b byte) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return fmt.Errorf("send urgent data: %w", err)
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		_, sent = unix.SendmsgN(int(fd), []byte{b}, nil, nil, unix.MSG_OOB|unix.MSG_NOSIGNAL)
		return !errors.Is(sent, unix.EAGAIN)
	})
	if err := errors.Join(err, sent); err != nil {
		return fmt.Errorf("send urgent data: %w", err)
	}
	return nil
}
