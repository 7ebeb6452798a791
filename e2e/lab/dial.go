package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Dial connects from the host. The connection can be used anywhere. The
// address is a literal one with a port: there are no names in a lab.
func (h *Host) Dial(network, addr string) (net.Conn, error) {
	return h.DialContext(context.Background(), network, addr)
}

// DialContext is Dial with a context; it fits http.Transport.
func (h *Host) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return h.DialWith(ctx, net.Dialer{}, network, addr)
}

// DialWith is Dial with a dialer that sets, say, the local address.
func (h *Host) DialWith(ctx context.Context, d net.Dialer, network, addr string) (conn net.Conn, err error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("dial from %s: %w", h.name, err)
	}
	// For a literal address net makes the socket in the calling goroutine,
	// which is what Do puts into the namespace.
	err = h.Do(func() error {
		conn, err = d.DialContext(ctx, network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("dial from %s: %w", h.name, err)
	}
	return conn, nil
}

// Listen listens in the host, with plain TCP (Go's default is MPTCP). The
// listener can be used anywhere.
func (h *Host) Listen(network, addr string) (ln net.Listener, err error) {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	err = h.Do(func() error {
		ln, err = lc.Listen(context.Background(), network, addr)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("listen in %s: %w", h.name, err)
	}
	return ln, nil
}

// WaitListen waits until a TCP socket listens on the address and port in the
// host, on the address itself or on all; without touching it, so that the
// server sees no connection. When ctx has no deadline it waits 10 s.
func (h *Host) WaitListen(ctx context.Context, addr string) error {
	want, err := netip.ParseAddrPort(addr)
	if err != nil {
		return fmt.Errorf("wait for listener in %s: %w", h.name, err)
	}
	return Until(ctx, fmt.Sprintf("a listener on %v in %s", want, h.name), func() error {
		return h.Do(func() error { return listens(want) })
	})
}

// errNotListening is what WaitListen has seen last when it gives up.
var errNotListening = errors.New("nothing listens there")

// tcpListen is TCP_LISTEN of the kernel's net/tcp_states.h.
const tcpListen = 10

// listens asks the current namespace's kernel (sock_diag).
func listens(want netip.AddrPort) error {
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		socks, err := netlink.SocketDiagTCP(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("list sockets: %w", err)
		}
		for _, s := range socks {
			if s.State == tcpListen && s.ID.SourcePort == want.Port() && covers(family, s.ID.Source, want.Addr()) {
				return nil
			}
		}
	}
	return errNotListening
}

// covers tells whether a socket bound to ip gets connections to addr. That a
// socket on [::] may be for IPv6 only is not in the answer.
func covers(family uint8, ip net.IP, addr netip.Addr) bool {
	bound, ok := netip.AddrFromSlice(ip)
	if !ok {
		return false
	}
	if bound.Unmap().IsUnspecified() {
		return addr.Is4() || family == unix.AF_INET6
	}
	return bound.Unmap() == addr.Unmap()
}
