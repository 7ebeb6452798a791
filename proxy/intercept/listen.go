package intercept

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Listen makes the listener that intercepted connections of one IP version
// (unix.AF_INET or AF_INET6) are handed to, and returns its descriptor, which
// the caller closes, and its port for Service.Listener4 or 6. The kernel caps
// backlog, in connections, by net.core.somaxconn.
//
// It is bound to the loopback address: from the network no packet may come to
// that, and for programs on this host Apply closes it. So whoever is accepted
// was intercepted, and the accepted socket's local address is the one that the
// client connected to. The kernel chooses the port, so that it is nobody's. It
// is plain TCP, never MPTCP, whose sockets cannot be restored. The descriptor
// does not block and is closed on exec; accepted sockets inherit IP_TRANSPARENT.
func Listen(family int, backlog int) (fd int, port uint16, err error) {
	fd, err = unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err != nil {
		return -1, 0, fmt.Errorf("make %s listener: %w", familyName(family), err)
	}
	if port, err = listen(fd, family, backlog); err != nil {
		_ = unix.Close(fd)
		return -1, 0, fmt.Errorf("make %s listener: %w", familyName(family), err)
	}
	return fd, port, nil
}

func listen(fd, family, backlog int) (uint16, error) {
	if err := SetTransparent(fd, family); err != nil {
		return 0, err
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return 0, fmt.Errorf("set SO_REUSEADDR: %w", err)
	}
	if err := unix.Bind(fd, loopbackSockaddr(family)); err != nil {
		return 0, fmt.Errorf("bind to the loopback address: %w", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		return 0, fmt.Errorf("listen: %w", err)
	}
	return localPort(fd)
}

// SetTransparent lets a socket take addresses that are not this host's
// (IP_TRANSPARENT, IPV6_TRANSPARENT; ip(7)), which needs CAP_NET_ADMIN or
// CAP_NET_RAW. Legs need it, before bind: only sockets that have it get the
// answers that Apply's rules deliver.
func SetTransparent(fd, family int) error {
	level, option, name := unix.SOL_IP, unix.IP_TRANSPARENT, "IP_TRANSPARENT"
	if family == unix.AF_INET6 {
		level, option, name = unix.SOL_IPV6, unix.IPV6_TRANSPARENT, "IPV6_TRANSPARENT"
	}
	if err := unix.SetsockoptInt(fd, level, option, 1); err != nil {
		return fmt.Errorf("set %s (needs CAP_NET_ADMIN or CAP_NET_RAW): %w", name, err)
	}
	return nil
}

func loopbackSockaddr(family int) unix.Sockaddr {
	if family == unix.AF_INET6 {
		return &unix.SockaddrInet6{Addr: netip.IPv6Loopback().As16()}
	}
	return &unix.SockaddrInet4{Addr: loopback4.As4()}
}

func localPort(fd int) (uint16, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return 0, fmt.Errorf("ask for the port: %w", err)
	}
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return uint16(sa.Port), nil
	case *unix.SockaddrInet6:
		return uint16(sa.Port), nil
	}
	return 0, fmt.Errorf("ask for the port: not an internet socket")
}
