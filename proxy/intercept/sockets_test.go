package intercept

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func sockaddr(a netip.AddrPort) (family int, sa unix.Sockaddr) {
	if a.Addr().Is4() {
		return unix.AF_INET, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return unix.AF_INET6, &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

// startConnect sends a SYN and does not wait for the answer.
func (h *host) startConnect(t *testing.T, to netip.AddrPort) (fd int) {
	t.Helper()
	h.do(t, func() (err error) {
		family, sa := sockaddr(to)
		if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		if err := unix.Connect(fd, sa); !errors.Is(err, unix.EINPROGRESS) {
			return err
		}
		return nil
	})
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func connected(fd int) bool {
	_, err := unix.Getpeername(fd)
	return err == nil
}

// socketError is the pending error of a socket, which reading it clears.
func socketError(fd int) error {
	n, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || n == 0 {
		return err
	}
	return unix.Errno(n)
}

// unknownSegment sends a segment of a connection that only this side knows of:
// TCP_REPAIR puts the socket into ESTABLISHED, and sends a window probe when it
// is switched off.
func (h *host) unknownSegment(t *testing.T, from, to netip.AddrPort) (fd int) {
	t.Helper()
	h.do(t, func() (err error) {
		family, local := sockaddr(from)
		_, remote := sockaddr(to)
		if fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK, 0); err != nil {
			return err
		}
		return errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, 1),
			unix.Bind(fd, local), unix.Connect(fd, remote),
			unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, 0))
	})
	t.Cleanup(func() {
		_ = unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, 1) // closes without a word
		unix.Close(fd)
	})
	return fd
}

// silence sends an unknown segment and expects that the gateway counts it as
// dropped and sends nothing back.
func (l *lab) silence(t *testing.T, from, to netip.AddrPort, sender *host, reason string) {
	t.Helper()
	before := l.drops(t)[reason]
	fd := sender.unknownSegment(t, from, to)
	eventually(t, "the drop of a segment from "+from.String()+" to "+to.String(), func() bool {
		return l.drops(t)[reason] > before
	})
	if err := socketError(fd); err != nil {
		t.Errorf("unknown segment from %s to %s: %v, want no answer", from, to, err)
	}
}

// noResets expects that no host has sent a RST so far.
func (l *lab) noResets(t *testing.T) {
	t.Helper()
	for name, h := range map[string]*host{"client": l.client, "gateway": l.gateway, "server": l.server} {
		if n := h.tcpCounter(t, "OutRsts"); n != 0 {
			t.Errorf("the %s sent %d RSTs", name, n)
		}
	}
}

// afterGreeting reads the greeting away.
func afterGreeting(t *testing.T, c net.Conn) net.Conn {
	t.Helper()
	greeting(t, c)
	return c
}

// letGatewayClose has the gateway send the first FIN, so that TIME_WAIT is its.
func letGatewayClose(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("bye")); err != nil {
		t.Fatal(err)
	}
	if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Fatalf("read after goodbye: %d, %v", n, err)
	}
	c.Close()
}

// leg connects from the gateway with any source address.
func (l *lab) leg(t *testing.T, from, to netip.AddrPort) net.Conn {
	t.Helper()
	var c net.Conn
	l.gateway.do(t, func() error {
		family, local := sockaddr(from)
		_, remote := sockaddr(to)
		fd, err := unix.Socket(family, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "leg")
		defer f.Close()
		err = errors.Join(SetTransparent(fd, family),
			unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &unix.Timeval{Sec: int64(patience / time.Second)}))
		if err == nil {
			err = errors.Join(unix.Bind(fd, local), unix.Connect(fd, remote))
		}
		if err == nil {
			c, err = net.FileConn(f)
		}
		return err
	})
	t.Cleanup(func() { c.Close() })
	if err := c.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return c
}

// abort closes with a RST, so that the addresses are free at once.
func abort(t *testing.T, c net.Conn) {
	t.Helper()
	if err := errors.Join(c.(*net.TCPConn).SetLinger(0), c.Close()); err != nil {
		t.Fatal(err)
	}
}

// withFD calls f with the descriptor of a connection.
func withFD(t *testing.T, c net.Conn, f func(fd int) error) {
	t.Helper()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err == nil {
		err = errors.Join(raw.Control(func(fd uintptr) { err = f(int(fd)) }), err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// sendSequence is the sequence number that a socket will use next.
func sendSequence(t *testing.T, c net.Conn) (seq uint32) {
	withFD(t, c, func(fd int) error {
		const sendQueue = 2
		err := errors.Join(
			unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, 1),
			unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR_QUEUE, sendQueue))
		n, getErr := unix.GetsockoptInt(fd, unix.SOL_TCP, unix.TCP_QUEUE_SEQ)
		seq = uint32(n)
		return errors.Join(err, getErr, unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, -1))
	})
	return seq
}

// sendPacketTooBig tells the sender of a connection's packets that a link
// takes no more than mtu bytes, as a router would.
func (h *host) sendPacketTooBig(t *testing.T, c net.Conn, mtu int) {
	t.Helper()
	local := c.LocalAddr().(*net.TCPAddr).AddrPort()
	remote := c.RemoteAddr().(*net.TCPAddr).AddrPort()
	message, proto := tooBig6(local, remote, mtu), unix.IPPROTO_ICMPV6
	if local.Addr().Is4() {
		message, proto = tooBig4(local, remote, mtu), unix.IPPROTO_ICMP
	}
	tcp := binary.BigEndian.AppendUint16(nil, local.Port())
	tcp = binary.BigEndian.AppendUint16(tcp, remote.Port())
	tcp = binary.BigEndian.AppendUint32(tcp, sendSequence(t, c))
	message = append(message, tcp...)
	if proto == unix.IPPROTO_ICMP {
		binary.BigEndian.PutUint16(message[2:], checksum(message))
	}
	h.do(t, func() error {
		family, sa := sockaddr(netip.AddrPortFrom(local.Addr(), 0))
		fd, err := unix.Socket(family, unix.SOCK_RAW, proto)
		if err != nil {
			return err
		}
		return errors.Join(unix.Sendto(fd, message, 0, sa), unix.Close(fd))
	})
}

// tooBig4 is "fragmentation needed" (RFC 1191) and the header it quotes.
func tooBig4(from, to netip.AddrPort, mtu int) []byte {
	m := make([]byte, 8+20)
	m[0], m[1] = 3, 4
	binary.BigEndian.PutUint16(m[6:], uint16(mtu))
	ip := m[8:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_TCP
	binary.BigEndian.PutUint16(ip[2:], 1500)
	copy(ip[12:], from.Addr().AsSlice())
	copy(ip[16:], to.Addr().AsSlice())
	return m
}

// tooBig6 is "packet too big" (RFC 4443, section 3.2) and the header it quotes.
func tooBig6(from, to netip.AddrPort, mtu int) []byte {
	m := make([]byte, 8+40)
	m[0] = 2
	binary.BigEndian.PutUint32(m[4:], uint32(mtu))
	ip := m[8:]
	ip[0], ip[6], ip[7] = 0x60, unix.IPPROTO_TCP, 64
	binary.BigEndian.PutUint16(ip[4:], 1460)
	copy(ip[8:], from.Addr().AsSlice())
	copy(ip[24:], to.Addr().AsSlice())
	return m
}

// checksum is the internet checksum (RFC 1071) of an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	sum = sum>>16 + sum&0xffff
	return ^uint16(sum>>16 + sum)
}

func pathMTU(t *testing.T, c net.Conn) (mtu int) {
	t.Helper()
	withFD(t, c, func(fd int) error {
		info, err := unix.GetsockoptTCPInfo(fd, unix.SOL_TCP, unix.TCP_INFO)
		if err == nil {
			mtu = int(info.Pmtu)
		}
		return err
	})
	return mtu
}
