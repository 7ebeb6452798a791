package lab

import "net/netip"

// The networks of the standard plan.
const (
	// LAN is 10.9.0.0/24 and fd09::/64: gateways, servers, witness, client,
	// and the inner side of the router.
	LAN = "lan"
	// Outside is 10.8.0.0/24 and fd08::/64: the client "rc" and the outer
	// side of the router.
	Outside = "outside"
)

// The virtual IP addresses of the standard plan. No host has them until a
// test or a gateway adds them.
var (
	VIP4 = LAN4(100)
	VIP6 = LAN6(100)
)

// routerNumber is the last part of the router's addresses on both networks.
const routerNumber = 254

// hostNumbers is the last part of a standard host's addresses on the LAN.
var hostNumbers = map[string]int{
	"client": 10, "g1": 1, "g2": 2, "w1": 3, "s1": 11, "s2": 12, "s3": 13,
}

// LAN4 is 10.9.0.n, n from 0 to 255.
func LAN4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 9, 0, byte(n)}) }

// LAN6 is fd09::n, with the decimal digits of n: LAN6(100) is fd09::100.
func LAN6(n int) netip.Addr { return unique6(9, n) }

// Outside4 is 10.8.0.n, n from 0 to 255.
func Outside4(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 8, 0, byte(n)}) }

// Outside6 is fd08::n, with the decimal digits of n.
func Outside6(n int) netip.Addr { return unique6(8, n) }

// unique6 is fdNN::n, n written in decimal so that it reads like the IPv4
// address of the same host.
func unique6(network byte, n int) netip.Addr {
	bcd := n/100%10<<8 | n/10%10<<4 | n%10
	return netip.AddrFrom16([16]byte{0: 0xfd, 1: network, 14: byte(bcd >> 8), 15: byte(bcd)})
}

// Standard returns the usual hosts of the given names, or all of them: client,
// rc (a client behind the router), router, g1, g2, w1, s1, s2, s3. Every host
// of the LAN has the router as its default route. A name that is not among
// them gives a host without a link, which New refuses.
func Standard(names ...string) []HostSpec {
	if len(names) == 0 {
		names = []string{"client", "rc", "router", "g1", "g2", "w1", "s1", "s2", "s3"}
	}
	specs := make([]HostSpec, 0, len(names))
	for _, name := range names {
		specs = append(specs, standardHost(name))
	}
	return specs
}

// standardHost is one host of the plan, or one without links.
func standardHost(name string) HostSpec {
	switch name {
	case "client", "g1", "g2", "w1", "s1", "s2", "s3":
		return lanHost(name)
	case "rc":
		return outsideClient()
	case "router":
		return router()
	}
	return HostSpec{Name: name}
}

// lanHost is a host with one link, on the LAN.
func lanHost(name string) HostSpec {
	n := hostNumbers[name]
	return HostSpec{
		Name:   name,
		Links:  []LinkSpec{lanLink(n)},
		Routes: []Route{{Via: LAN4(routerNumber)}, {Via: LAN6(routerNumber)}},
	}
}

// outsideClient is rc, whose packets reach the LAN through the router only.
func outsideClient() HostSpec {
	return HostSpec{
		Name:   "rc",
		Links:  []LinkSpec{outsideLink(10)},
		Routes: []Route{{Via: Outside4(routerNumber)}, {Via: Outside6(routerNumber)}},
	}
}

// router has one link on each network. It needs no routes: both are its own.
func router() HostSpec {
	return HostSpec{
		Name:    "router",
		Links:   []LinkSpec{lanLink(routerNumber), outsideLink(routerNumber)},
		Forward: true,
	}
}

// lanLink and outsideLink have both families on one interface.
func lanLink(n int) LinkSpec {
	return LinkSpec{Network: LAN, Addrs: []netip.Prefix{
		netip.PrefixFrom(LAN4(n), 24), netip.PrefixFrom(LAN6(n), 64)}}
}

func outsideLink(n int) LinkSpec {
	return LinkSpec{Network: Outside, Addrs: []netip.Prefix{
		netip.PrefixFrom(Outside4(n), 24), netip.PrefixFrom(Outside6(n), 64)}}
}
