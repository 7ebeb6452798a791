package doctor

import (
	"errors"
	"net"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sttcp/configs"
)

// interfaces: those of the virtual IPs must be there and up.
func interfaces(h *host) []finding {
	var out []finding
	seen := map[string]bool{}
	h.eachAddress(func(a configs.VIPAddress) {
		if !seen[a.Interface] {
			seen[a.Interface] = true
			out = append(out, judgeInterface(a.Interface))
		}
	})
	return out
}

// judgeInterface: an interface without carrier is only warned of, since the
// other end may be booting.
func judgeInterface(name string) finding {
	link, err := netlink.LinkByName(name)
	switch {
	case err != nil:
		return fail("correct virtual_ips[].addresses[].interface; `ip link` lists them", "interface %s is not there (%v)", name, err)
	case link.Attrs().Flags&net.FlagUp == 0:
		return fail("ip link set "+name+" up", "interface %s is down", name)
	case link.Attrs().OperState == netlink.OperDown || link.Attrs().OperState == netlink.OperLowerLayerDown:
		return warn("look at the cable and the other end", "interface %s has no carrier", name)
	}
	return ok("interface %s is up", name)
}

// ipv6Enabled: the kernel refuses an IPv6 address on an interface where IPv6 is
// switched off, as some installers do.
func ipv6Enabled(h *host) []finding {
	var out []finding
	h.eachAddress(func(a configs.VIPAddress) {
		key := conf("ipv6", a.Interface, "disable_ipv6")
		if v, _ := h.sysctl(key); v != 0 && familyOf(a.Prefix.Addr()) == unix.AF_INET6 {
			out = append(out, fail(set(key, 0), "IPv6 is off on %s, which is to have %s", a.Interface, a.Prefix.Addr()))
		}
	})
	return out
}

// serverRoutes asks the kernel for the way to each server, as a connect would.
// Whether the server answers is for the health checks.
func serverRoutes(h *host) []finding {
	var out []finding
	h.eachService(func(s *configs.Service) {
		for _, srv := range s.Servers {
			link, err := outgoing(srv.Address)
			if err != nil {
				out = append(out, fail("ip route add "+srv.Address.String()+" via ROUTER, or correct the server's address",
					"server %s of service %s: no route to %s (%v)", srv.Name, s.Name, srv.Address, err))
				continue
			}
			out = append(out, ok("server %s of service %s is reached by %s", srv.Name, s.Name, link))
		}
	})
	return out
}

// tcpListeners: addresses of the admin's listeners must be free, unless it is
// a running gateway that has them.
func tcpListeners(h *host) []finding {
	if h.cfg == nil {
		return nil
	}
	var out []finding
	for _, l := range [][2]string{{"admin.listen", h.cfg.Admin.Listen}, {"admin.metrics", h.cfg.Admin.Metrics}} {
		key, addr := l[0], l[1]
		if _, _, err := net.SplitHostPort(addr); err != nil || strings.Contains(addr, "/") {
			continue // a path, or not used
		}
		out = append(out, h.judgeListener(key, addr))
	}
	return out
}

// judgeListener tries the address for a moment.
func (h *host) judgeListener(key, addr string) finding {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		_ = l.Close()
		return ok("%s %s is free", key, addr)
	}
	if errors.Is(err, unix.EADDRINUSE) && h.running() {
		return ok("%s %s is in use, and a gateway is running", key, addr)
	}
	return fail("ss -ltnp shows who has it; stop that, or change "+key, "%s %s cannot be listened on (%v)", key, addr, err)
}

// running reports whether a gateway with this configuration answers on the
// admin socket, where nobody listens once it has died.
func (h *host) running() bool {
	network, addr := h.cfg.AdminAddr()
	c, err := net.Dial(network, addr)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// foreignListeners finds programs that listen on an address and port of a
// service: their clients reach the gateway instead. It looks at exact addresses
// only: a program that listens on all of the host (sshd) may go on doing so.
func foreignListeners(h *host) []finding {
	var out []finding
	for _, at := range listening() {
		if s := h.serviceAt(at); s != nil {
			out = append(out, warn("stop it, or move it to another address or port (ss -ltnp shows it)",
				"another program listens on %s, which is of service %s", at, s.Name))
		}
	}
	if h.cfg != nil && out == nil {
		out = append(out, ok("no other program listens on an address of a service"))
	}
	return out
}

// listening are the local addresses of all TCP listeners.
func listening() []netip.AddrPort {
	const listen = 10 // TCP_LISTEN, include/net/tcp_states.h
	var out []netip.AddrPort
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		sockets, _ := netlink.SocketDiagTCP(family)
		for _, s := range sockets {
			if a, valid := netip.AddrFromSlice(s.ID.Source); valid && s.State == listen {
				out = append(out, netip.AddrPortFrom(a.Unmap(), s.ID.SourcePort))
			}
		}
	}
	return out
}
