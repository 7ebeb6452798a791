// Package vip puts virtual IPs on this host and takes them off again.
//
// An IPv4 virtual IP lies on lo: the kernel answers ARP for it on every
// interface (arp_ignore=0). IPv6 never answers for an address of another
// interface, so there it lies on the interface itself, without duplicate address
// detection (another gateway has it too) and with preferred lifetime 0, so that
// no connection of this host's own chooses it as source.
//
// What was put there is told from an administrator's addresses by the protocol
// number of the address (IFA_PROTO, Linux 5.18), which `ip addr` shows. So a
// restarted process knows what its killed predecessor had added.
//
// The functions work on the network namespace of the calling thread and keep
// nothing in memory; they may be called from any goroutine, one at a time.
package vip

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Protocol is the number that marks our addresses. The kernel itself uses 1
// to 3 (include/uapi/linux/if_addr.h).
const Protocol = 173

// attrProtocol is IFA_PROTO, which x/sys does not name.
const attrProtocol = 11

// Addr is one address of a virtual IP. Whatever the length of the prefix, only
// the one address is put on the host (/32 or /128).
type Addr struct {
	Prefix    netip.Prefix
	Interface string // where its clients are
}

func (a Addr) String() string { return a.Prefix.Addr().Unmap().String() + " of " + a.Interface }

// Ensure puts those addresses on the host that are not there yet, and returns
// them. An address that is there already stays as it is, whoever put it there.
// It stops at the first error, which names the address and the interface; what
// was added until then is returned with it.
func Ensure(addrs []Addr) (added []Addr, err error) {
	for _, a := range addrs {
		missing, err := ensure(a)
		if err != nil {
			return added, fmt.Errorf("put virtual IP %s on the host: %w", a, err)
		}
		if missing {
			added = append(added, a)
		}
	}
	return added, nil
}

// Remove takes those addresses off the host that Ensure has put there, in this
// process or another, and returns them. It goes on after an error.
func Remove(addrs []Addr) (removed []Addr, err error) {
	var errs []error
	for _, a := range addrs {
		was, err := remove(a)
		if err != nil {
			errs = append(errs, fmt.Errorf("take virtual IP %s off the host: %w", a, err))
		}
		if was {
			removed = append(removed, a)
		}
	}
	return removed, errors.Join(errs...)
}

// ensure adds one address and reports whether it was missing.
func ensure(a Addr) (added bool, err error) {
	link, err := a.place()
	if err != nil {
		return false, err
	}
	if there, err := find(link, a); err != nil || there != nil {
		return false, err
	}
	err = add(link, a)
	if errors.Is(err, os.ErrExist) { // somebody was faster
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("add it to %s: %w", link.Attrs().Name, hint(err, link))
	}
	return true, nil
}

// remove deletes one address if it is there and ours.
func remove(a Addr) (removed bool, err error) {
	link, err := a.place()
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return false, nil // the address has gone with its interface
	}
	if err != nil {
		return false, err
	}
	there, err := find(link, a)
	if err != nil || there == nil || there.protocol != Protocol {
		return false, err
	}
	if err := del(link, a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return false, fmt.Errorf("delete it from %s: %w", link.Attrs().Name, err)
	}
	return true, nil
}

// place is the link that the address lies on. The interface of the clients
// must exist in any case: a gateway that cannot be reached by it is none.
func (a Addr) place() (netlink.Link, error) {
	if !a.Prefix.IsValid() {
		return nil, errors.New("it is not an address")
	}
	link, err := netlink.LinkByName(a.Interface)
	if err != nil {
		return nil, fmt.Errorf("look up interface %s: %w", a.Interface, err)
	}
	if a.ip().Is6() {
		return link, nil
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("look up interface lo: %w", err)
	}
	return lo, nil
}

func (a Addr) ip() netip.Addr { return a.Prefix.Addr().Unmap() }

func (a Addr) family() int {
	if a.ip().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// message is the part that all requests about an address have
// (rtnetlink(7), RTM_NEWADDR).
func (a Addr) message(link netlink.Link) []nl.NetlinkRequestData {
	m := nl.NewIfAddrmsg(a.family())
	m.Index, m.Prefixlen = uint32(link.Attrs().Index), uint8(a.ip().BitLen())
	if a.ip().Is6() {
		m.IfAddrmsg.Flags = unix.IFA_F_NODAD
	}
	ip := a.ip().AsSlice()
	return []nl.NetlinkRequestData{m, nl.NewRtAttr(unix.IFA_LOCAL, ip), nl.NewRtAttr(unix.IFA_ADDRESS, ip)}
}

// add is netlink.AddrAdd with the protocol number, which that does not know.
func add(link netlink.Link, a Addr) error {
	data := append(a.message(link), nl.NewRtAttr(attrProtocol, []byte{Protocol}))
	if a.ip().Is6() {
		// Preferred lifetime 0 without a valid one would mean "expired".
		forever := nl.IfaCacheInfo{IfaCacheinfo: unix.IfaCacheinfo{Valid: math.MaxUint32, Prefered: 0}}
		data = append(data, nl.NewRtAttr(unix.IFA_CACHEINFO, forever.Serialize()))
	}
	return request(unix.RTM_NEWADDR, unix.NLM_F_CREATE|unix.NLM_F_EXCL, data)
}

// del needs no protocol number: the kernel looks for link, address and length.
func del(link netlink.Link, a Addr) error {
	return request(unix.RTM_DELADDR, 0, a.message(link))
}

func request(kind, flags int, data []nl.NetlinkRequestData) error {
	req := nl.NewNetlinkRequest(kind, flags|unix.NLM_F_ACK)
	for _, d := range data {
		req.AddData(d)
	}
	_, err := req.Execute(unix.NETLINK_ROUTE, 0)
	return err
}

// found is an address that lies on a link.
type found struct {
	ip       netip.Addr
	protocol byte // 0: not given
}

// find looks for an address on a link, with any length of prefix. It is nil
// if it is not there.
func find(link netlink.Link, a Addr) (*found, error) {
	req := nl.NewNetlinkRequest(unix.RTM_GETADDR, unix.NLM_F_DUMP)
	req.AddData(nl.NewIfAddrmsg(a.family()))
	msgs, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	for range 10 { // another's change interrupts a listing
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
		msgs, err = req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWADDR)
	}
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	for _, m := range msgs {
		if int(nl.DeserializeIfAddrmsg(m).Index) != link.Attrs().Index {
			continue
		}
		if f, err := parse(m); err != nil || f.ip == a.ip() {
			return f, err
		}
	}
	return nil, nil
}

// parse reads the address and its protocol from an RTM_NEWADDR message.
func parse(m []byte) (*found, error) {
	attrs, err := nl.ParseRouteAttr(m[nl.DeserializeIfAddrmsg(m).Len():])
	if err != nil {
		return nil, fmt.Errorf("read an address: %w", err)
	}
	f := &found{}
	for _, attr := range attrs {
		switch attr.Attr.Type {
		case unix.IFA_LOCAL: // overrules IFA_ADDRESS, which may be a peer's
			f.ip, _ = netip.AddrFromSlice(attr.Value)
		case unix.IFA_ADDRESS:
			if !f.ip.IsValid() {
				f.ip, _ = netip.AddrFromSlice(attr.Value)
			}
		case attrProtocol:
			f.protocol = attr.Value[0]
		}
	}
	return f, nil
}

// hint says what the kernel's refusal usually means.
func hint(err error, link netlink.Link) error {
	switch {
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: IPv6 is off there: sysctl -w net.ipv6.conf.%s.disable_ipv6=0", err, link.Attrs().Name)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: CAP_NET_ADMIN is needed", err)
	}
	return err
}
