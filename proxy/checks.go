package proxy

import (
	"net/netip"

	"sttcp/proxy/health"
)

// newChecks returns the health checks of s, which tell the pool. A server
// without a port of its own is checked at the service's first.
func newChecks(s *service) checker {
	var addrs []netip.AddrPort
	for _, srv := range s.cfg.Servers {
		port := srv.Port
		if port == 0 {
			port = s.cfg.Ports[0].First
		}
		addrs = append(addrs, netip.AddrPortFrom(srv.Address, port))
	}
	h := s.cfg.Health
	cfg := health.Config{Interval: h.Interval, Timeout: h.Timeout, Rise: h.Rise, Fall: h.Fall, Send: h.Send, Expect: h.Expect}
	return health.New(cfg, addrs, func(v health.Verdict) { s.health(v.Server, v.Up, v.Gen, v.Err) })
}
