package proxy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"

	"golang.org/x/sys/unix"

	"sttcp/proxy/intercept"
)

// The ports that legs leave from with `source: vip`. Clients never connect to
// them, and this node alone uses them.
const (
	firstLegPort = 20000
	lastLegPort  = 59999
)

// dialTries bounds how many ports are tried for a leg, each one found to be
// in use towards that server.
const dialTries = 256

// errNoPort is returned by dial when every port tried is in use.
var errNoPort = errors.New("no free source port towards the server")

// ports hands out source ports in turn, so that one that was just closed
// rests as long as possible. Safe for concurrent use.
type ports struct {
	mu   sync.Mutex
	next uint16 // 0: not begun
}

func (p *ports) take() uint16 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next < firstLegPort || p.next > lastLegPort {
		p.next = firstLegPort
	}
	p.next++
	return p.next - 1
}

// jump goes on somewhere else: long-lived connections that were opened
// together hold a run of ports, which is not worth to be tried one by one.
func (p *ports) jump() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = firstLegPort + uint16(rand.N(lastLegPort-firstLegPort+1))
}

// dial sends a SYN from src to dst and does not wait for the answer. With
// port 0 in src a port is taken from p. The descriptor is the caller's.
func dial(src, dst netip.AddrPort, p *ports) (int, error) {
	if src.Port() != 0 {
		return dialFrom(src, dst)
	}
	for i := range dialTries {
		if i%16 == 15 {
			p.jump()
		}
		fd, err := dialFrom(netip.AddrPortFrom(src.Addr(), p.take()), dst)
		if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		return fd, err
	}
	return -1, fmt.Errorf("connect to %v from %v: %w", dst, src.Addr(), errNoPort)
}

func dialFrom(src, dst netip.AddrPort) (fd int, err error) {
	fd, err = unix.Socket(family(dst.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, fmt.Errorf("make a socket: %w", err)
	}
	if err := prepareLeg(fd, src); err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("leave from %v: %w", src, err)
	}
	if err := unix.Connect(fd, sockaddr(dst)); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("connect to %v from %v: %w", dst, src, err)
	}
	return fd, nil
}

// prepareLeg binds fd to src, an address that need not be this host's.
func prepareLeg(fd int, src netip.AddrPort) error {
	if err := intercept.SetTransparent(fd, family(src.Addr())); err != nil {
		return err
	}
	// Two legs of a client with `source: client` share its address and port.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return fmt.Errorf("set SO_REUSEADDR: %w", err)
	}
	if err := setOptions(fd); err != nil {
		return err
	}
	if err := unix.Bind(fd, sockaddr(src)); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	return nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}
