package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Host is a machine of the lab. Through the embedded Link its methods for
// addresses, faults and captures act on its first interface, eth0; Links has
// the others.
type Host struct {
	*Link

	// Constant after it was added.
	lab   *Lab
	name  string
	ns    *namespace
	links []*Link
	procs *thread // starts the processes

	// Guarded by using, which is read-locked while nl is used.
	using sync.RWMutex
	nl    *netlink.Handle // rtnetlink in the namespace; nil once removed

	removing  sync.Once
	removeErr error
}

// Link is an interface of a host and the cable to its switch.
type Link struct {
	// Constant after it was added.
	host    *Host
	name    string // eth0
	network string
	wire    string // the switch's end of the cable
	mac     net.HardwareAddr
	addrs   []netip.Addr

	// Guarded by mu.
	mu     sync.Mutex
	port   string // the bridge's port: wire, or the relay's
	relay  *relay // nil without Delay
	faults map[*portFault]struct{}
}

// newHost makes a host without links. The sysctls are set before it has any:
// an interface takes its settings from "default" at the moment when it is made.
func newHost(l *Lab, name string, sysctls []sysctl) (h *Host, err error) {
	h = &Host{lab: l, name: name}
	h.ns, err = createNamespace(l.id+"-"+name, func() error { return setAll(sysctls) })
	if err != nil {
		return nil, err
	}
	if h.nl, err = netlink.NewHandleAt(h.ns.fd, unix.NETLINK_ROUTE); err != nil {
		return nil, errors.Join(fmt.Errorf("open rtnetlink: %w", err), h.ns.remove())
	}
	if h.procs, err = newThread(h.ns); err != nil {
		return nil, errors.Join(err, h.remove())
	}
	return h, nil
}

// remove ends the host's processes and removes its namespace.
func (h *Host) remove() error {
	h.removing.Do(func() {
		var errs []error
		for _, k := range h.links {
			errs = append(errs, k.stopRelay())
		}
		errs = append(errs, killAll(h.ns.inode))
		if h.procs != nil {
			h.procs.end()
		}
		h.closeNetlink()
		h.removeErr = errors.Join(append(errs, h.ns.remove())...)
	})
	return h.removeErr
}

// closeNetlink waits until nobody uses the handle.
func (h *Host) closeNetlink() {
	h.using.Lock()
	defer h.using.Unlock()
	h.nl.Close()
	h.nl = nil
}

// rtnl runs f with the host's rtnetlink handle. A closed handle would open a
// new one, in this process's own namespace, and change the machine.
func (h *Host) rtnl(f func(*netlink.Handle) error) error {
	h.using.RLock()
	defer h.using.RUnlock()
	if h.nl == nil {
		return errEnded
	}
	return f(h.nl)
}

// Name is the host's name in the lab.
func (h *Host) Name() string { return h.name }

// Namespace is the name for `ip netns exec`.
func (h *Host) Namespace() string { return h.ns.name }

// Links returns eth0, eth1 and so on.
func (h *Host) Links() []*Link { return slices.Clone(h.links) }

// Do runs f on a thread that is in the host's namespace, and returns its
// error. Only f's own goroutine is there: goroutines that it starts are not.
// Sockets that f makes belong to the host wherever they are used later. A
// panic in f comes out of Do.
func (h *Host) Do(f func() error) error { return h.ns.do(f) }

// SetRoute adds a route or replaces the one with the same destination.
func (h *Host) SetRoute(r Route) error {
	err := h.rtnl(func(nl *netlink.Handle) error { return nl.RouteReplace(r.netlink()) })
	return wrap(err, "set route of %s to %v via %v", h.name, r.Dst, r.Via)
}

// DeleteRoute removes a route.
func (h *Host) DeleteRoute(r Route) error {
	err := h.rtnl(func(nl *netlink.Handle) error { return nl.RouteDel(r.netlink()) })
	return wrap(err, "delete route of %s to %v via %v", h.name, r.Dst, r.Via)
}

// netlink writes the default route out as the zero prefix of its family: with
// no destination at all the kernel would not know which family is meant.
func (r Route) netlink() *netlink.Route {
	dst := r.Dst
	if !dst.IsValid() {
		dst = netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		if r.Via.Is6() {
			dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
		}
	}
	return &netlink.Route{Dst: ipNet(dst.Masked()), Gw: r.Via.AsSlice()}
}

// ipNet keeps the address as it is; Masked drops the host part first.
func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// setUp sets an interface of the host administratively up.
func (h *Host) setUp(dev string) error {
	return h.withDev(dev, "set up", (*netlink.Handle).LinkSetUp)
}

// setDown sets an interface of the host administratively down.
func (h *Host) setDown(dev string) error {
	return h.withDev(dev, "set down", (*netlink.Handle).LinkSetDown)
}

// delete removes an interface, with both its ends if it is a cable.
func (h *Host) delete(dev string) error {
	return h.withDev(dev, "delete", (*netlink.Handle).LinkDel)
}

// withDev runs f with an interface of the host.
func (h *Host) withDev(dev, what string, f func(*netlink.Handle, netlink.Link) error) error {
	err := h.rtnl(func(nl *netlink.Handle) error {
		link, err := nl.LinkByName(dev)
		if err != nil {
			return err
		}
		return f(nl, link)
	})
	return wrap(err, "%s %s of %s", what, dev, h.name)
}

// String is HOST/INTERFACE.
func (k *Link) String() string { return k.host.name + "/" + k.name }

// Interface is the interface's name in the host, eth0 for the first.
func (k *Link) Interface() string { return k.name }

// MAC is the interface's hardware address.
func (k *Link) MAC() net.HardwareAddr { return slices.Clone(k.mac) }

// Addr4 is the first IPv4 address that the link was made with.
func (k *Link) Addr4() netip.Addr { return k.firstAddr(netip.Addr.Is4) }

// Addr6 is the first IPv6 address that the link was made with.
func (k *Link) Addr6() netip.Addr { return k.firstAddr(netip.Addr.Is6) }

// firstAddr returns the zero Addr when there is none.
func (k *Link) firstAddr(is func(netip.Addr) bool) netip.Addr {
	if i := slices.IndexFunc(k.addrs, is); i >= 0 {
		return k.addrs[i]
	}
	return netip.Addr{}
}

// AddAddr gives the interface another address, without duplicate address
// detection. It announces nothing.
func (k *Link) AddAddr(p netip.Prefix) error {
	return k.host.withDev(k.name, "add "+p.String()+" to", func(nl *netlink.Handle, link netlink.Link) error {
		return nl.AddrReplace(link, addrOf(p))
	})
}

// DeleteAddr takes an address away from the interface.
func (k *Link) DeleteAddr(p netip.Prefix) error {
	return k.host.withDev(k.name, "delete "+p.String()+" from", func(nl *netlink.Handle, link netlink.Link) error {
		return nl.AddrDel(link, addrOf(p))
	})
}

// addrOf keeps the host part, unlike a masked prefix.
func addrOf(p netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: ipNet(p)}
	if p.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}
