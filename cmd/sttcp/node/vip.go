package node

import (
	"context"

	"sttcp/configs"
	"sttcp/takeover/vip"
)

// addresses puts the virtual IPs on the host. A start that fails takes off
// what it has added; a clean stop also what a killed predecessor had. What an
// administrator has put there stays in both cases (package vip tells them
// apart). The undoing is added before the error is looked at, since Ensure may
// fail at the second address.
func (g *gateway) addresses() error {
	all := vipAddrs(g.cfg)
	added, err := g.parts.ensure(all)
	g.done.add("remove virtual IPs", func(context.Context) error {
		if g.served {
			added = all
		}
		removed, err := g.parts.remove(added)
		g.log.Debug("virtual IPs removed", "addresses", removed)
		return err
	})
	if err == nil {
		g.log.Debug("virtual IPs added", "addresses", added)
	}
	return err
}

// vipAddrs are the addresses of all virtual IPs.
func vipAddrs(cfg *configs.Config) (out []vip.Addr) {
	for _, v := range cfg.VirtualIPs {
		for _, a := range v.Addresses {
			out = append(out, vip.Addr(a))
		}
	}
	return out
}
