package configs

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// svc is a service with where it stands.
type svc struct {
	*Service
	vip           *VirtualIP
	path, vipPath string
}

// all gives every service in the order of the file.
func (k *checker) all() (out []svc) {
	for i := range k.c.VirtualIPs {
		v, vipPath := &k.c.VirtualIPs[i], fmt.Sprintf("virtual_ips[%d]", i)
		for j := range v.Services {
			out = append(out, svc{&v.Services[j], v, fmt.Sprintf("%s.services[%d]", vipPath, j), vipPath})
		}
	}
	return out
}

// virtualIPs wants every virtual IP and every address of them once: an
// address in two virtual IPs could be wanted by two nodes at a time.
func (k *checker) virtualIPs() {
	names, addrs := map[string]int{}, map[netip.Addr]int{}
	for i, v := range k.c.VirtualIPs {
		path := fmt.Sprintf("virtual_ips[%d]", i)
		k.uniqueName(names, path+".name", v.Name, "another virtual IP")
		k.unique(path+".prefer", v.Prefer)
		for j, a := range v.Addresses {
			k.vipAddress(addrs, a, fmt.Sprintf("%s.addresses[%d]", path, j))
		}
	}
}

// uniqueName reports a name that was seen before; seen keeps the lines.
func (k *checker) uniqueName(seen map[string]int, path, name, whose string) {
	if name == "" { // a syntax error, reported already
		return
	}
	if line, dup := seen[name]; dup {
		k.at(path, "%s is the name of %s (line %d); choose a different one", name, whose, line)
		return
	}
	seen[name] = k.line(path)
}

// vipAddress checks one address; seen keeps the lines of those before it. The
// prefix length plays no part: 10.9.0.100/24 and 10.9.0.100 are one address.
func (k *checker) vipAddress(seen map[netip.Addr]int, a VIPAddress, path string) {
	if !k.clean(path) {
		return
	}
	addr := a.Prefix.Addr()
	if line, dup := seen[addr]; dup {
		k.at(path+".address", "%s is a virtual address already (line %d); remove one", addr, line)
	} else {
		seen[addr] = k.line(path + ".address")
	}
	// A witness may read the gateways' file, and has none of their interfaces.
	ask := k.env.InterfaceExists
	if ask != nil && k.c.Node.Role != RoleWitness && !ask(a.Interface) {
		k.at(path+".interface", "this host has no network interface %s; correct the name (see: ip link)", a.Interface)
	}
}

// services checks each service by itself and then their ports together. Names
// and addresses are compared even where the rest of a service is broken, so
// that the operator does not meet those errors one load later.
func (k *checker) services() {
	names := map[string]int{}
	for _, s := range k.all() {
		k.uniqueName(names, s.path+".name", s.Name, "another service")
		k.listen(s)
		k.servers(s)
		if !k.clean(s.path) {
			continue
		}
		k.legs(s)
		k.policies(s)
		k.families(s)
	}
	k.ports()
}

// listen keeps routed addresses and virtual ones apart: interception treats
// only the latter as its own, and takes them from listen: vip.
func (k *checker) listen(s svc) {
	if s.ListenVIP || !k.clean(s.path+".listen") {
		return
	}
	if v := k.vipOf[s.ListenAddr]; v != nil {
		k.at(s.path+".listen", "%s is an address of virtual IP %s; write listen: vip in a service of it, or a routed address", s.ListenAddr, v.Name)
	}
}

// servers wants real and different servers. The virtual IP as a server would
// be the gateway connecting to itself; the same server on both legs would do
// every request twice and protect from nothing.
func (k *checker) servers(s svc) {
	names, addrs := map[string]int{}, map[netip.Addr][]int{}
	for i, srv := range s.Servers {
		path := fmt.Sprintf("%s.servers[%d]", s.path, i)
		k.uniqueName(names, path+".name", srv.Name, "another server of this service")
		if !k.clean(path, s.path+".ports") {
			continue
		}
		if v := k.vipOf[srv.Address]; v != nil {
			k.at(path+".address", "%s belongs to virtual IP %s, not to a server; give the server's own address", srv.Address, v.Name)
		}
		for _, j := range addrs[srv.Address] {
			if other := s.Servers[j]; samePort(s, srv.Port, other.Port) {
				k.at(path+".address", "%s is the same server as %s; remove one or give different ports", srv.Address, other.Name)
				break
			}
		}
		addrs[srv.Address] = append(addrs[srv.Address], i)
	}
}

// samePort reports whether two servers on one host can be asked on the same
// port; 0 is whichever the client used.
func samePort(s svc, a, b uint16) bool {
	if a == b {
		return true
	}
	if a != 0 && b != 0 {
		return false
	}
	return slices.ContainsFunc(s.Ports, func(r PortRange) bool { return r.Contains(max(a, b)) })
}

// legs holds the number of servers against what is promised. A stateful
// server that is not on every connection misses bytes, so a spare one would
// be stale from the start, and one that comes back needs an operator's word
// that its data was copied.
func (k *checker) legs(s svc) {
	n := len(s.Servers)
	switch {
	case s.Legs > n:
		k.at(s.path+".legs", "%d legs need at least %d servers, found %d; add a server or set legs: 1", s.Legs, s.Legs, n)
	case s.Stateful && s.Legs != n:
		k.at(s.path+".stateful", "true with legs: %d needs exactly as many servers, found %d; list %d, or set stateful: false if servers keep nothing between connections",
			s.Legs, n, s.Legs)
	}
	if s.Legs == 1 && s.Release == ReleaseBoth {
		k.at(s.path+".release", "both needs legs: 2; use release: primary or remove the key")
	}
	if s.Stateful && s.Rejoin == RejoinAuto {
		k.at(s.path+".rejoin", "auto needs stateful: false, since a stateful server that was away is stale; use manual")
	}
}

// policies checks pairs of keys: a mask is applied only where bytes are
// compared, and a suspicion must leave time to probe before the leg is lost.
func (k *checker) policies(s svc) {
	if s.Compare.Mode != CompareExact && len(s.Compare.Mask) > 0 {
		k.at(s.path+".compare.mask", "has no meaning with mode: %s; use mode: exact or remove the mask", s.Compare.Mode)
	}
	if s.Lag.Suspect >= s.Lag.Limit {
		k.at(s.path+".lag", "suspect %s is not shorter than limit %s; make the limit longer", s.Lag.Suspect, s.Lag.Limit)
	}
}

// families relies on legs being plain sockets: the kernel does not translate
// between IPv4 and IPv6, so both ends of a leg are of one family. It sees to
// it that every server can be reached from the source that is asked for: a
// virtual address, or the client's.
func (k *checker) families(s svc) {
	if !k.clean(s.vipPath+".addresses") || len(s.vip.Addresses) == 0 {
		return
	}
	for i, srv := range s.Servers {
		path := fmt.Sprintf("%s.servers[%d].address", s.path, i)
		fam := family(srv.Address)
		switch other := otherFamily(s, srv.Address); {
		case s.Source == SourceVIP && !hasFamily(s.vip, srv.Address):
			k.at(path, "%s is %s, but virtual IP %s has no %s address to reach it from; add one or use source: client",
				srv.Address, fam, s.vip.Name, fam)
		case s.Source == SourceClient && other.IsValid():
			k.at(path, "%s is %s and source: client cannot pass on the %s clients of %s; use source: vip or a server address of their family",
				srv.Address, fam, family(other), other)
		}
	}
}

// listenAddrs gives the addresses that clients of a service connect to.
func (s svc) listenAddrs() (out []netip.Addr) {
	if !s.ListenVIP {
		return []netip.Addr{s.ListenAddr}
	}
	for _, a := range s.vip.Addresses {
		out = append(out, a.Prefix.Addr())
	}
	return out
}

// otherFamily gives an address that clients connect to and that is of
// another family than a; invalid if there is none.
func otherFamily(s svc, a netip.Addr) netip.Addr {
	for _, l := range s.listenAddrs() {
		if l.Is4() != a.Is4() {
			return l
		}
	}
	return netip.Addr{}
}

// hasFamily reports whether a virtual IP has an address of a's family, which
// a leg to a can then be bound to.
func hasFamily(v *VirtualIP, a netip.Addr) bool {
	return slices.ContainsFunc(v.Addresses, func(x VIPAddress) bool { return x.Prefix.Addr().Is4() == a.Is4() })
}

// family names the family of an address for a message.
func family(a netip.Addr) string {
	if a.Is4() {
		return "IPv4"
	}
	return "IPv6"
}

// claim is a range of ports on an address.
type claim struct {
	PortRange
	s     svc
	index int // in s.Ports
	order int // in the file
}

// ports reports every range that overlaps another one on the same address,
// once, at the one that comes later in the file.
func (k *checker) ports() {
	reported := map[string]bool{}
	byAddr := k.claims()
	for _, addr := range slices.SortedFunc(maps.Keys(byAddr), netip.Addr.Compare) {
		claims := byAddr[addr]
		slices.SortFunc(claims, func(a, b claim) int {
			return cmp.Or(cmp.Compare(a.First, b.First), cmp.Compare(a.order, b.order))
		})
		// Sorted by their first port, a range overlaps an earlier one only if it
		// overlaps the one that reaches furthest, top.
		top := claims[0]
		for _, c := range claims[1:] {
			if c.First <= top.Last {
				k.overlap(reported, top, c)
			}
			if c.Last > top.Last {
				top = c
			}
		}
	}
}

// claims gives the ranges by address. A service listens on every address of
// its virtual IP, or on one routed address, which services of different
// virtual IPs may share.
func (k *checker) claims() map[netip.Addr][]claim {
	out, order := map[netip.Addr][]claim{}, 0
	for _, s := range k.all() {
		if !k.clean(s.path+".ports", s.path+".listen", s.vipPath+".addresses") {
			continue
		}
		for i, p := range s.Ports {
			order++
			for _, a := range s.listenAddrs() {
				out[a] = append(out[a], claim{p, s, i, order})
			}
		}
	}
	return out
}

// overlap reports two claims that collide, at the later one; reported keeps
// what was told, since a virtual IP's second address collides once more.
func (k *checker) overlap(reported map[string]bool, a, b claim) {
	if a.order > b.order {
		a, b = b, a
	}
	path := fmt.Sprintf("%s.ports[%d]", b.s.path, b.index)
	if a.order == b.order || reported[path] { // the second is a virtual IP's next address, or a duplicate one
		return
	}
	reported[path] = true
	where := "this service"
	if a.s.path != b.s.path {
		where = "service " + a.s.Name
	}
	line := k.line(fmt.Sprintf("%s.ports[%d]", a.s.path, a.index))
	k.at(path, "%s overlaps %s of %s (line %d); each port of an address belongs to one service", b.PortRange, a.PortRange, where, line)
}

// String writes a range as the file does.
func (r PortRange) String() string {
	if r.First == r.Last {
		return fmt.Sprint(r.First)
	}
	return fmt.Sprintf("%d-%d", r.First, r.Last)
}

// warnings says what a valid configuration does not promise.
func warnings(c *Config) (out []string) {
	for _, v := range c.VirtualIPs {
		for _, s := range v.Services {
			if s.Stateful && s.Legs == 2 {
				out = append(out, fmt.Sprintf("service %s: %s", s.Name, sharedState))
			}
		}
	}
	return out
}

const sharedState = `shared state not verified: concurrent clients that write the same data may reach the two servers in different orders; a difference that shows in an answer is caught, a silent one is not`
