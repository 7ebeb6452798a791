package proxy

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"sttcp/proxy/epoll"
)

// notSentLowat bounds what a client's socket holds that was not sent yet, in
// bytes (TCP_NOTSENT_LOWAT): what waits there can't be taken back.
const notSentLowat = 128 << 10

// sock is one non-blocking TCP socket of a connection. It owns its descriptor.
type sock struct {
	fd   int // -1 once closed
	conn *conn

	readable, writable bool
	ended              bool       // the peer has ended its direction, or all of it
	told               readResult // which end was read, and told; a RST may follow a FIN
	urgent             bool       // an urgent byte is, or was, in the receive queue
	broken             bool       // the connection is gone, whatever is left to be read
	dialing            bool
	sent               uint64 // bytes taken by the kernel; a FIN counts one
}

// Ready takes epoll's word and lets the connection move.
func (s *sock) Ready(e epoll.Events) {
	s.readable = s.readable || e.Readable()
	s.writable = s.writable || e.Writable()
	s.ended = s.ended || e.Ended()
	s.urgent = s.urgent || e.Urgent()
	s.broken = s.broken || e.Failed()
	s.conn.ready(s)
}

// readResult is what came of a read.
type readResult uint8

const (
	readNothing readResult = iota // nothing there for now
	readBytes
	readFIN
	readRST // the connection is gone: reset, timed out, unreachable
)

// read reads into b, which is not empty.
func (s *sock) read(b []byte) (int, readResult) {
	if !s.readable { // atMark has found out
		return 0, readNothing
	}
	n, err := ignoringEINTR(func() (int, error) {
		n, err := unix.Read(s.fd, b)
		if s.urgent && errors.Is(err, unix.EAGAIN) && s.queued() {
			// At an urgent byte the kernel also says so while a signal is
			// pending, as Go's own are often, and gives no new edge
			// (net/ipv4/tcp.c, tcp_recvmsg_locked).
			err = unix.EINTR
		}
		return n, err
	})
	switch {
	case err == nil && n > 0:
		// A short read has emptied the queue; what comes later is a new edge
		// (epoll(7)). But a read also ends before an urgent byte.
		s.readable = n == len(b) || s.ended || s.urgent
		return n, readBytes
	case errors.Is(err, unix.EAGAIN) && !s.broken:
		s.readable = false
		return 0, readNothing
	}
	return 0, s.end(err)
}

// end notes that there is nothing more to be read, for want of bytes or for
// err.
func (s *sock) end(err error) readResult {
	s.readable, s.told = false, readFIN
	if err != nil || s.broken {
		s.told = readRST
	}
	return s.told
}

// lost reports a RST that came after the FIN that was told. Nobody reads there
// any more, so nobody would find out.
func (s *sock) lost() readResult {
	if s.told != readFIN || !s.broken {
		return readNothing
	}
	s.readable, s.told = false, readRST
	return readRST
}

// peekEnd reports the peer's end if nothing is left to be read before it, and
// reads nothing.
func (s *sock) peekEnd() readResult {
	if !s.ended || s.told != readNothing {
		return s.lost()
	}
	n, err := ignoringEINTR(func() (int, error) {
		var b [1]byte
		n, _, err := unix.Recvfrom(s.fd, b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return n, err
	})
	if n > 0 || errors.Is(err, unix.EAGAIN) {
		return readNothing
	}
	return s.end(err)
}

// atMark reports whether the next byte to be read is urgent. It asks the
// kernel only when epoll has spoken of urgent data, and only about a byte that
// is there: one that comes between this question and the read would be read as
// any other. So when there is none, nothing is readable.
func (s *sock) atMark() bool {
	if !s.urgent {
		return false
	}
	if !s.ended && !s.queued() {
		s.readable = false
		return false
	}
	at, err := unix.IoctlGetInt(s.fd, unix.SIOCATMARK)
	return err == nil && at != 0
}

// queued reports whether there are bytes to be read.
func (s *sock) queued() bool {
	n, err := unix.IoctlGetInt(s.fd, unix.SIOCINQ)
	return err == nil && n > 0
}

// write writes b and returns how much was taken. An error shows when the
// socket is read, after what the peer had sent before it.
func (s *sock) write(b []byte, urgent bool) int {
	flags := unix.MSG_NOSIGNAL
	if urgent {
		flags |= unix.MSG_OOB
	}
	n, err := ignoringEINTR(func() (int, error) {
		return unix.SendmsgN(s.fd, b, nil, nil, flags)
	})
	if err != nil {
		n = 0
		if !errors.Is(err, unix.EAGAIN) {
			s.broken, s.readable, s.ended = true, true, true
		}
	}
	s.writable = n == len(b)
	s.sent += uint64(n)
	return n
}

// sendQueue returns how many bytes that fd's socket was given its peer has not
// acknowledged (SIOCOUTQ, tcp(7)); a FIN counts one.
func sendQueue(fd int) (int, error) { return unix.IoctlGetInt(fd, unix.SIOCOUTQ) }

// dialed returns how connecting ended.
func (s *sock) dialed() error {
	errno, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return fmt.Errorf("ask for the result of connecting: %w", err)
	}
	if errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

// shutdown sends a FIN after what was written.
func (s *sock) shutdown() {
	s.sent++                              // the kernel counts it as well (SIOCOUTQ)
	_ = unix.Shutdown(s.fd, unix.SHUT_WR) // fails only if the connection is gone, which a read will say
}

// close closes the socket; with reset by a RST, whatever it still holds.
func (s *sock) close(reset bool) {
	if s.fd < 0 {
		return
	}
	fd := s.release()
	if reset {
		abort(fd)
		return
	}
	_ = unix.Close(fd)
}

// release gives the descriptor up, unclosed, and returns it.
func (s *sock) release() (fd int) {
	fd = s.fd
	s.conn.loop.Forget(fd)
	s.fd, s.readable, s.writable = -1, false, false
	return fd
}

// abort closes a connection by RST and discards what it still held
// (RFC 9293, 3.10.5).
func abort(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(fd)
}

func ignoringEINTR(f func() (int, error)) (int, error) {
	for {
		if n, err := f(); !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// setOptions sets what every socket of a connection wants: no delay, urgent
// data in-stream.
func setOptions(fd int) error {
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return fmt.Errorf("set TCP_NODELAY: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_OOBINLINE, 1); err != nil {
		return fmt.Errorf("set SO_OOBINLINE: %w", err)
	}
	return nil
}

// sockaddr returns ap for the kernel. The family is that of the address.
func sockaddr(ap netip.AddrPort) unix.Sockaddr {
	if ap.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(ap.Port()), Addr: ap.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(ap.Port()), Addr: ap.Addr().As16()}
}

// addrPort is the reverse of sockaddr; the zero AddrPort for other families.
func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}
