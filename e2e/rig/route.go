package rig

import (
	"fmt"
	"net/netip"

	"sttcp/e2e/lab"
)

// RouteThrough makes hosts reach dst by way of a host of their own network,
// in each family that via and dst have; it may be said again with another via.
//
// A `source: client` service needs it, because its servers answer the client's
// own address and these answers have to come by the gateway:
//
//	RouteThrough("g1", Clients, "s1", "s2")  // client rc behind the router
//	RouteThrough("g1", HostAddrs(client), "s1", "s2") // client on the same LAN
//
// So does a service with a routed address, on the client's side:
//
//	RouteThrough("g1", []netip.Prefix{...}, "router")
func RouteThrough(l *lab.Lab, via string, dst []netip.Prefix, hosts ...string) error {
	gw, err := hostOf(l, via)
	if err != nil {
		return err
	}
	for _, name := range hosts {
		h, err := hostOf(l, name)
		if err != nil {
			return err
		}
		for _, p := range dst {
			hop := gw.Addr4()
			if p.Addr().Is6() {
				hop = gw.Addr6()
			}
			if err := h.SetRoute(lab.Route{Dst: p, Via: hop}); err != nil {
				return fmt.Errorf("route through %s: %w", via, err)
			}
		}
	}
	return nil
}

// Clients are the networks of the client rc, which is behind the router.
var Clients = []netip.Prefix{
	netip.PrefixFrom(lab.Outside4(0), 24), netip.PrefixFrom(lab.Outside6(0), 64),
}

// HostAddrs are the addresses of a host's first interface, as routes to it.
func HostAddrs(h *lab.Host) []netip.Prefix {
	var list []netip.Prefix
	for _, a := range []netip.Addr{h.Addr4(), h.Addr6()} {
		if a.IsValid() {
			list = append(list, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	return list
}
