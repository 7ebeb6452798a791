package doctor

import (
	"errors"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sttcp/configs"
)

// eachService calls f for every service; there is none without a configuration.
func (h *host) eachService(f func(*configs.Service)) {
	if h.cfg == nil {
		return
	}
	for v := range h.cfg.VirtualIPs {
		for s := range h.cfg.VirtualIPs[v].Services {
			f(&h.cfg.VirtualIPs[v].Services[s])
		}
	}
}

// eachAddress calls f for every address of every virtual IP.
func (h *host) eachAddress(f func(configs.VIPAddress)) {
	if h.cfg == nil {
		return
	}
	for _, v := range h.cfg.VirtualIPs {
		for _, a := range v.Addresses {
			f(a)
		}
	}
}

// findLinks names the interfaces of the virtual IPs and those by which the
// servers are reached; without a configuration all but lo.
func (h *host) findLinks() []string {
	var names []string
	add := func(name string) {
		if name != "" && name != "lo" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if h.cfg == nil {
		links, _ := netlink.LinkList()
		for _, l := range links {
			if l.Attrs().Flags&net.FlagUp != 0 {
				add(l.Attrs().Name)
			}
		}
		return names
	}
	h.eachAddress(func(a configs.VIPAddress) { add(a.Interface) })
	h.eachService(func(s *configs.Service) {
		for _, srv := range s.Servers {
			name, _ := outgoing(srv.Address)
			add(name)
		}
	})
	return names
}

// outgoing is the interface by which an address is reached.
func outgoing(a netip.Addr) (string, error) {
	routes, err := netlink.RouteGet(a.Unmap().AsSlice())
	if err != nil {
		return "", err
	}
	if len(routes) == 0 {
		return "", errors.New("no route")
	}
	link, err := netlink.LinkByIndex(routes[0].LinkIndex)
	if err != nil {
		return "", err
	}
	return link.Attrs().Name, nil
}

// families are the IP versions that the configuration uses, or both.
func (h *host) families() []int {
	if h.cfg == nil {
		return []int{unix.AF_INET, unix.AF_INET6}
	}
	var out []int
	add := func(a netip.Addr) {
		if f := familyOf(a); !slices.Contains(out, f) {
			out = append(out, f)
		}
	}
	h.eachAddress(func(a configs.VIPAddress) { add(a.Prefix.Addr()) })
	h.eachService(func(s *configs.Service) {
		for _, srv := range s.Servers {
			add(srv.Address)
		}
	})
	return out
}

// familyOf takes an IPv4 address in IPv6 form for what it is.
func familyOf(a netip.Addr) int {
	if a.Unmap().Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

// usesVIP4 reports whether ARP matters. Without a configuration it may.
func (h *host) usesVIP4() bool {
	found := h.cfg == nil
	h.eachAddress(func(a configs.VIPAddress) { found = found || familyOf(a.Prefix.Addr()) == unix.AF_INET })
	return found
}

// routerFor names the first service for which others route through this host.
func (h *host) routerFor() (why string) {
	h.eachService(func(s *configs.Service) {
		switch {
		case why != "":
		case !s.ListenVIP:
			why = "service " + s.Name + " with a routed address"
		case s.Source == configs.SourceClient:
			why = "service " + s.Name + " with source: client"
		}
	})
	return why
}

// routes reports whether the services that routerFor means use an IP version.
func (h *host) routes(family int) (yes bool) {
	h.eachService(func(s *configs.Service) {
		if s.ListenVIP && s.Source != configs.SourceClient {
			return
		}
		for _, srv := range s.Servers {
			yes = yes || familyOf(srv.Address) == family
		}
	})
	return yes
}

// serviceAt is the service that an address and port belong to, or nil.
func (h *host) serviceAt(at netip.AddrPort) (found *configs.Service) {
	if h.cfg == nil {
		return nil
	}
	for v := range h.cfg.VirtualIPs {
		vip := &h.cfg.VirtualIPs[v]
		for i := range vip.Services {
			s := &vip.Services[i]
			inPorts := slices.ContainsFunc(s.Ports, func(r configs.PortRange) bool { return r.Contains(at.Port()) })
			if inPorts && slices.Contains(addressesOf(vip, s), at.Addr()) {
				return s
			}
		}
	}
	return nil
}

// addressesOf are the addresses that the clients of a service connect to.
func addressesOf(vip *configs.VirtualIP, s *configs.Service) []netip.Addr {
	if !s.ListenVIP {
		return []netip.Addr{s.ListenAddr.Unmap()}
	}
	var out []netip.Addr
	for _, a := range vip.Addresses {
		out = append(out, a.Prefix.Addr().Unmap())
	}
	return out
}
