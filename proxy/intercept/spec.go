package intercept

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
)

// The defaults of a Spec. The mark is one bit that the usual users of marks
// leave alone (kube-proxy 0x4000 and 0x8000, Cilium 0x0f00 and the upper half,
// Tailscale 0xff0000, Calico the upper half); its mask keeps the other bits of
// a packet's mark as they are.
const (
	DefaultMark  uint32 = 0x2000
	DefaultTable int    = 7973
)

// Spec describes all that is intercepted. It is a value: Apply makes the
// kernel look like it, whatever was there before.
type Spec struct {
	Services []Service

	// Mark is put on every packet that is to be delivered here, under
	// MarkMask; the other bits of a packet's mark survive. Both zero: the
	// default bit.
	Mark, MarkMask uint32

	// Table is the number of the routing table that marked packets use, 1 to
	// 2^31-1 without the kernel's own 253 to 255. Zero: the default.
	Table int

	// Grace: segments of connections that the kernel does not know are
	// dropped, not reset, because they may only be not yet restored.
	Grace bool
}

// Service is what clients connect to, and the servers behind it.
type Service struct {
	Name string // for the eyes of an operator who lists the rules

	// Dest are the addresses that clients connect to: virtual IPs (local
	// addresses of this host) or routed ones (this host being the router).
	Dest  []netip.Addr
	Ports []PortRange // of Dest; at least one

	// Listener4 and Listener6 are the ports that Listen returned for the
	// family. Zero: none, then Dest must not have an address of that family.
	Listener4, Listener6 uint16

	// Servers are where legs go to. What they answer is delivered here when a
	// leg's socket is found, whatever address the leg has taken: the client's
	// own, a virtual IP, or one of this host.
	Servers []Server
}

// Server is an address and the ports of it that legs connect to.
type Server struct {
	Addr  netip.Addr
	Ports []PortRange // at least one
}

// PortRange is an inclusive range of TCP ports, 1 <= First <= Last <= 65535.
type PortRange struct{ First, Last uint16 }

// withDefaults fills in the mark and the table, and unmaps IPv4 addresses
// written as IPv6.
func (s Spec) withDefaults() Spec {
	if s.Mark == 0 && s.MarkMask == 0 {
		s.Mark, s.MarkMask = DefaultMark, DefaultMark
	}
	if s.Table == 0 {
		s.Table = DefaultTable
	}
	s.Services = slices.Clone(s.Services)
	for i := range s.Services {
		s.Services[i] = s.Services[i].unmapped()
	}
	return s
}

// unmapped returns a copy, for the caller's slices are the caller's.
func (s Service) unmapped() Service {
	s.Dest = slices.Clone(s.Dest)
	for i := range s.Dest {
		s.Dest[i] = s.Dest[i].Unmap()
	}
	s.Servers = slices.Clone(s.Servers)
	for i := range s.Servers {
		s.Servers[i].Addr = s.Servers[i].Addr.Unmap()
	}
	return s
}

// validate finds what the kernel would refuse late or, worse, accept and do
// something else with.
func (s Spec) validate() error {
	if s.Mark == 0 || s.Mark&^s.MarkMask != 0 {
		return fmt.Errorf("check mark %#x: it needs a bit, and all of them inside mask %#x", s.Mark, s.MarkMask)
	}
	if s.Table < 1 || s.Table > 1<<31-1 || (s.Table >= 253 && s.Table <= 255) {
		return fmt.Errorf("check routing table %d: it must be 1 to 2147483647 and not one of the kernel's 253 to 255", s.Table)
	}
	for i, svc := range s.Services {
		if err := svc.validate(); err != nil {
			return fmt.Errorf("check service %q: %w", svc.Name, err)
		}
		for _, other := range s.Services[:i] {
			if svc.overlaps(other) {
				return fmt.Errorf("check service %q: it shares an address and port with service %q", svc.Name, other.Name)
			}
		}
	}
	return nil
}

// validate checks one service by itself.
func (s Service) validate() error {
	if len(s.Dest) == 0 {
		return errors.New("it has no address")
	}
	if err := validPorts(s.Ports); err != nil {
		return err
	}
	for _, a := range s.Dest {
		if err := s.validDest(a); err != nil {
			return err
		}
	}
	for _, srv := range s.Servers {
		if !srv.Addr.IsValid() || srv.Addr.IsUnspecified() {
			return fmt.Errorf("server address %s is not one host's", srv.Addr)
		}
		if err := validPorts(srv.Ports); err != nil {
			return fmt.Errorf("server %s: %w", srv.Addr, err)
		}
	}
	return nil
}

// validDest refuses addresses that packets from the network can't be sent to.
func (s Service) validDest(a netip.Addr) error {
	if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() {
		return fmt.Errorf("address %s cannot be intercepted", a)
	}
	if s.listener(a) == 0 {
		return fmt.Errorf("address %s has no listener of its family", a)
	}
	return nil
}

// listener is the port to which connections for address a are handed.
func (s Service) listener(a netip.Addr) uint16 {
	if a.Is4() {
		return s.Listener4
	}
	return s.Listener6
}

// overlaps reports whether a packet could belong to both services.
func (s Service) overlaps(o Service) bool {
	shared := slices.ContainsFunc(s.Dest, func(a netip.Addr) bool { return slices.Contains(o.Dest, a) })
	return shared && slices.ContainsFunc(s.Ports, func(p PortRange) bool {
		return slices.ContainsFunc(o.Ports, p.overlaps)
	})
}

func (p PortRange) overlaps(o PortRange) bool { return p.First <= o.Last && o.First <= p.Last }

func validPorts(ports []PortRange) error {
	if len(ports) == 0 {
		return errors.New("it has no port")
	}
	for _, p := range ports {
		if p.First == 0 || p.First > p.Last {
			return fmt.Errorf("ports %d-%d are not a range", p.First, p.Last)
		}
	}
	return nil
}
