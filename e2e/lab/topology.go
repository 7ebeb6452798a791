package lab

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// HostSpec describes a host.
type HostSpec struct {
	// Name is unique in the lab: a lower-case letter, then up to eight
	// lower-case letters and digits. "net" is the switch's.
	Name string
	// Links are the host's interfaces eth0, eth1 and so on; at least one.
	Links []LinkSpec
	// Routes are added once all links are up.
	Routes []Route
	// Forward makes the host a router.
	Forward bool
}

// LinkSpec describes an interface of a host and its cable.
type LinkSpec struct {
	// Network is the bridge at the other end, made when it is first named;
	// up to 15 characters.
	Network string
	// Addrs are the interface's addresses with their prefix lengths.
	Addrs []netip.Prefix
}

// Route is a route by way of a gateway.
type Route struct {
	// Dst is the destination; the zero value is everything, in the family
	// of Via.
	Dst netip.Prefix
	// Via is the gateway's address on one of the host's networks.
	Via netip.Addr
}

// addSwitch makes the namespace in which the bridges live.
func (l *Lab) addSwitch() error {
	sw, err := newHost(l, "net", switchSysctls)
	if err != nil {
		return fmt.Errorf("add switch: %w", err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errors.Join(errEnded, sw.remove())
	}
	l.sw = sw
	return nil
}

// network returns the bridge of a network, made if need be.
func (l *Lab) network(name string) (netlink.Link, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if br := l.networks[name]; br != nil {
		return br, nil
	}
	// Snooping would hold back neighbour discovery until it has seen who
	// listens to which group.
	snooping := false
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	br := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	err := l.sw.rtnl(func(nl *netlink.Handle) error { return errors.Join(nl.LinkAdd(br), nl.LinkSetUp(br)) })
	if err != nil {
		return nil, fmt.Errorf("add bridge %q: %w", name, err)
	}
	l.networks[name] = br
	return br, nil
}

// AddHost adds a host to a running lab and waits until its links are up.
func (l *Lab) AddHost(spec HostSpec) (*Host, error) {
	h, err := l.addHost(spec)
	if err != nil {
		return nil, err
	}
	return h, waitReady([]*Host{h})
}

// addHost makes a host whose links may not be up yet. On an error nothing is left
// of it; the end of its cables in the switch goes with its namespace.
func (l *Lab) addHost(spec HostSpec) (*Host, error) {
	if err := l.checkSpec(spec); err != nil {
		return nil, fmt.Errorf("add host %q: %w", spec.Name, err)
	}
	h, err := newHost(l, spec.Name, hostSysctls(l.opt, spec.Forward))
	if err != nil {
		return nil, fmt.Errorf("add host %q: %w", spec.Name, err)
	}
	err = l.plug(h, spec)
	if err == nil {
		err = l.register(h)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("add host %q: %w", spec.Name, err), h.remove())
	}
	return h, nil
}

// checkSpec refuses what the kernel would refuse later with a poorer message.
func (l *Lab) checkSpec(spec HostSpec) error {
	switch {
	case !namePattern.MatchString(spec.Name) || spec.Name == "net":
		return fmt.Errorf("the name does not match %s, or is \"net\"", namePattern)
	case l.Host(spec.Name) != nil:
		return errors.New("there is one already")
	case len(spec.Links) == 0:
		return errors.New("it has no link (or its name is not one of the standard plan)")
	}
	return nil
}

// register makes the host known, unless Close has been called meanwhile.
func (l *Lab) register(h *Host) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return errEnded
	}
	l.hosts = append(l.hosts, h)
	return nil
}

// plug gives a host its links and routes.
func (l *Lab) plug(h *Host, spec HostSpec) error {
	if err := h.setUp("lo"); err != nil {
		return err
	}
	for i, ls := range spec.Links {
		if err := h.addLink(i, ls); err != nil {
			return fmt.Errorf("add eth%d: %w", i, err)
		}
	}
	for _, r := range spec.Routes {
		if err := h.SetRoute(r); err != nil {
			return err
		}
	}
	return nil
}

// addLink lays a cable between the host and a network's bridge.
func (h *Host) addLink(i int, spec LinkSpec) error {
	br, err := h.lab.network(spec.Network)
	if err != nil {
		return err
	}
	k := &Link{host: h, name: fmt.Sprintf("eth%d", i), network: spec.Network,
		wire: wireName(h.name, i), mac: macFor(spec, h.name, i), faults: map[*portFault]struct{}{}}
	k.port = k.wire
	if err := k.layCable(br); err != nil {
		return err
	}
	for _, a := range spec.Addrs {
		if err := k.AddAddr(a); err != nil {
			return err
		}
		k.addrs = append(k.addrs, a.Addr())
	}
	h.links = append(h.links, k)
	if h.Link == nil {
		h.Link = k
	}
	return nil
}

// layCable makes the veth pair, its far end a port of the bridge.
func (k *Link) layCable(br netlink.Link) error {
	sw := k.host.lab.sw
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex, attrs.Group = k.wire, br.Attrs().Index, cableGroup
	cable := &netlink.Veth{LinkAttrs: attrs, PeerName: k.name, PeerHardwareAddr: k.mac,
		PeerNamespace: netlink.NsFd(k.host.ns.fd)}
	if err := sw.rtnl(func(nl *netlink.Handle) error { return nl.LinkAdd(cable) }); err != nil {
		return fmt.Errorf("add cable: %w", err)
	}
	if k.host.lab.opt.NoOffloads {
		if err := errors.Join(sw.noOffloads(k.wire), k.host.noOffloads(k.name)); err != nil {
			return err
		}
	}
	return errors.Join(sw.setUp(k.wire), k.host.setUp(k.name))
}

// cableGroup is the interface group of all cables' ends in the switch.
const cableGroup = 1

// deleteCables deletes all cables at once in the switch's namespace: one by
// one the kernel would wait for each. Sockets that are still open somewhere,
// and orphans of killed processes, keep a namespace alive, but from then on
// not on the network.
func deleteCables() error {
	req := nl.NewNetlinkRequest(unix.RTM_DELLINK, unix.NLM_F_ACK)
	req.AddData(nl.NewIfInfomsg(unix.AF_UNSPEC))
	req.AddData(nl.NewRtAttr(unix.IFLA_GROUP, nl.Uint32Attr(cableGroup)))
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.ENODEV) { // there are none
		return nil
	}
	return wrap(err, "delete cables")
}

// wireName is the name of the switch's end of a cable: the host's name for
// the first, with the number behind it for the others.
func wireName(host string, i int) string {
	if i == 0 {
		return host
	}
	return fmt.Sprintf("%s.%d", host, i)
}

// macFor is the same in every run, so that captures can be compared: a locally
// administered address that reads like the interface's first IPv4 address, or
// else has a hash of the host's name.
func macFor(spec LinkSpec, host string, i int) net.HardwareAddr {
	hash := fnv.New32a()
	hash.Write([]byte(host))
	mac := net.HardwareAddr(hash.Sum([]byte{0x02, byte(i)}))
	for _, a := range spec.Addrs {
		if a.Addr().Is4() {
			v4 := a.Addr().As4()
			copy(mac[2:], v4[:])
			break
		}
	}
	return mac
}

// waitReady waits until all cables of the hosts carry packets.
func waitReady(hosts []*Host) error {
	for _, h := range hosts {
		for _, k := range h.links {
			if err := k.waitCarrier(true); err != nil {
				return err
			}
		}
	}
	return nil
}

// waitCarrier waits until both ends of the cable are up, or the host's end
// has noticed that it is not connected. It does not wait for a closed lab.
func (k *Link) waitCarrier(up bool) error {
	var ended error
	err := Until(context.Background(), fmt.Sprintf("carrier=%v on %v", up, k), func() error {
		err := k.host.checkCarrier(k.name, up)
		if err == nil && up {
			err = k.host.lab.sw.checkCarrier(k.wire, up)
		}
		if errors.Is(err, errEnded) {
			ended, err = err, nil
		}
		return err
	})
	return errors.Join(err, ended)
}

// checkCarrier compares the operational state of an interface, which follows the
// other end, with what is wanted. An interface that is up must also have done
// with its addresses: even without duplicate address detection the kernel
// calls the link-local one tentative for a moment.
func (h *Host) checkCarrier(dev string, up bool) error {
	return h.withDev(dev, "check", func(nl *netlink.Handle, link netlink.Link) error {
		if is := link.Attrs().OperState; (is == netlink.OperUp) != up {
			return fmt.Errorf("it is %v", is)
		}
		if !up {
			return nil
		}
		addrs, err := nl.AddrList(link, netlink.FAMILY_V6)
		for _, a := range addrs {
			if a.Flags&unix.IFA_F_TENTATIVE != 0 {
				err = errors.Join(err, fmt.Errorf("%v is tentative", a.IP))
			}
		}
		return err
	})
}
