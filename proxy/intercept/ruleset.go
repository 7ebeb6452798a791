package intercept

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TableName is the name of our table, of family inet.
const TableName = "sttcp"

// Names of chains. A service has a chain per IP version, named by its place
// in the Spec, since a service's own name may hold any character.
const (
	chainRawIn    = "prerouting_raw"
	chainRawOut   = "output_raw"
	chainIn       = "prerouting"
	chainLegs     = "legs"
	chainLegsRaw  = "legs_raw"
	chainApplied  = "applied" // reached by no packet: holds the hash
	maxComment    = 120       // bytes; nft allows 128
	hashGenerator = "1"       // changed when the same rules must be written anew
)

var loopback4 = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// rule is one rule and the comment that names it to an operator, to Drops and
// to the check whether anything has changed.
type rule struct {
	comment string
	exprs   exprs
}

// chain is a base chain if hook is set, else one that others jump to.
type chain struct {
	name     string
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    []rule
}

func (c *chain) add(comment string, parts ...exprs) {
	if len(comment) > maxComment {
		comment = comment[:maxComment]
	}
	c.rules = append(c.rules, rule{comment: comment, exprs: join(parts...)})
}

// ruleset is the whole table as it is wanted: plain data, made from a Spec
// without asking the kernel anything.
type ruleset struct {
	chains []*chain
	hash   string
}

func (r ruleset) has(chainName string) bool {
	return slices.ContainsFunc(r.chains, func(c *chain) bool { return c.name == chainName })
}

// build turns a valid Spec with its defaults filled in into rules.
func build(s Spec) ruleset {
	rawIn := &chain{name: chainRawIn, hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityRaw}
	rawOut := &chain{name: chainRawOut, hook: nftables.ChainHookOutput, priority: nftables.ChainPriorityRaw}
	in := &chain{name: chainIn, hook: nftables.ChainHookPrerouting, priority: nftables.ChainPriorityMangle}

	r := ruleset{chains: []*chain{rawIn, rawOut, in, legsChain(s), legsRawChain()}}
	addUntracked(rawIn, rawOut, s)
	addGuard(in, s)
	addLegs(in, s)
	addErrors(in, s)
	for i, svc := range s.Services {
		r.chains = append(r.chains, addService(in, s, svc, i)...)
	}
	r.hash = r.sum()
	applied := &chain{name: chainApplied}
	applied.add(r.hash, accept())
	r.chains = append(r.chains, applied)
	return r
}

// addUntracked keeps the connection tracker away from services and legs, both
// ways: an entry made on one gateway would call everything INVALID on the next.
// Traffic between other programs and the servers stays tracked.
func addUntracked(in, out *chain, s Spec) {
	for _, svc := range s.Services {
		name := svc.Name
		eachDest(svc, func(a netip.Addr, p PortRange) {
			in.add(name+": from clients", endpoint(dst, a, p), notrack(), accept())
			out.add(name+": to clients", endpoint(src, a, p), notrack(), accept())
		})
		eachServer(svc, func(a netip.Addr, p PortRange) {
			in.add(name+": from servers", endpoint(src, a, p), jump(chainLegsRaw))
			out.add(name+": to servers", endpoint(dst, a, p), jump(chainLegsRaw))
		})
	}
}

// legsRawChain finds a packet's socket in both directions: on the way out it is
// the one that the packet comes from.
func legsRawChain() *chain {
	c := &chain{name: chainLegsRaw}
	c.add("leg", transparentSocket(), notrack(), accept())
	return c
}

// addGuard keeps the listeners for connections that were intercepted: nobody,
// a program on this host included, connects to them by their own address.
func addGuard(in *chain, s Spec) {
	for _, svc := range s.Services {
		for _, a := range []netip.Addr{loopback4, netip.IPv6Loopback()} {
			if p := svc.listener(a); p != 0 {
				in.add(svc.Name+": listener", endpoint(dst, a, PortRange{p, p}), drop())
			}
		}
	}
}

// addLegs comes before the services, so that an answer of a server to a leg with
// a virtual IP as source is not taken for a client's packet when that leg's port
// lies in a service's range.
func addLegs(in *chain, s Spec) {
	for _, svc := range s.Services {
		eachServer(svc, func(a netip.Addr, p PortRange) {
			in.add(svc.Name+": from servers", endpoint(src, a, p), jump(chainLegs))
			if port := s.listenerOf(a, p); port != 0 {
				addOrphans(in, s, svc.Name, a, p, port)
			}
		})
	}
}

// addOrphans keeps apart two connections with the same addresses and ports:
// where clients know a server by its own address and the legs have the
// client's, what the server still sends on a leg that is gone looks like the
// gateway's answer to the client, who must never see it (in the worst case a
// RST inside the window). The kernel resets such a server, by the listener.
func addOrphans(in *chain, s Spec, name string, a netip.Addr, p PortRange, listener uint16) {
	from := endpoint(src, a, p)
	in.add(name+": program of this host", from, ordinarySocket(), accept())
	if !s.Grace {
		in.add(name+": leg that is gone", from, tproxy(a.Is4(), listener), setMark(s.Mark, s.MarkMask), accept())
	}
	in.add(name+": no leg", from, drop())
}

// listenerOf returns the listener of the service that is reached at a and a
// port of p, 0 if there is none.
func (s Spec) listenerOf(a netip.Addr, p PortRange) uint16 {
	for _, svc := range s.Services {
		if slices.Contains(svc.Dest, a) && slices.ContainsFunc(svc.Ports, p.overlaps) {
			return svc.listener(a)
		}
	}
	return 0
}

// legsChain delivers what a server sends to a leg. What belongs to no leg is
// none of our business, for a client may talk to a server past us, except in
// the grace, when it may belong to a leg that is not restored yet.
func legsChain(s Spec) *chain {
	c := &chain{name: chainLegs}
	c.add("leg", transparentSocket(), setMark(s.Mark, s.MarkMask), accept())
	if s.Grace {
		c.add("program of this host", ordinarySocket(), accept())
		c.add("grace: unknown leg", syn(expr.CmpOpNeq), drop())
	}
	return c
}

// addErrors delivers ICMP errors about packets that we sent with an address
// that is not this host's; without them path MTU discovery fails.
func addErrors(in *chain, s Spec) {
	if len(s.Services) == 0 {
		return
	}
	for _, family := range []byte{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
		in.add("ICMP error", icmpError(family), transparentSocket(), setMark(s.Mark, s.MarkMask), accept())
	}
}

// addService sends the packets of a service to a chain of its own, which lets
// none of them return.
func addService(in *chain, s Spec, svc Service, index int) []*chain {
	var out []*chain
	for _, v4 := range []bool{true, false} {
		c := &chain{name: fmt.Sprintf("service_%d_ip%d", index, ipVersion(v4))}
		used := false
		eachDest(svc, func(a netip.Addr, p PortRange) {
			if a.Is4() == v4 {
				used = true
				in.add(svc.Name+": from clients", endpoint(dst, a, p), goTo(c.name))
			}
		})
		if used {
			fillService(c, s, svc, v4)
			out = append(out, c)
		}
	}
	return out
}

func ipVersion(v4 bool) int {
	if v4 {
		return 4
	}
	return 6
}

// fillService is the order of decisions for a client's packet; see the
// package's comment.
func fillService(c *chain, s Spec, svc Service, v4 bool) {
	listener := svc.Listener6
	if v4 {
		listener = svc.Listener4
	}
	mark := setMark(s.Mark, s.MarkMask)
	c.add(svc.Name+": SYN", syn(expr.CmpOpEq), tproxy(v4, listener), mark, accept())
	c.add(svc.Name+": connection", transparentSocket(), mark, accept())
	last := svc.Name + ": no listener"
	if s.Grace {
		last = svc.Name + ": grace"
	} else {
		c.add(svc.Name+": unknown", tproxy(v4, listener), mark, accept())
	}
	c.add(last, drop())
}

func eachDest(svc Service, f func(netip.Addr, PortRange)) {
	for _, a := range svc.Dest {
		for _, p := range svc.Ports {
			f(a, p)
		}
	}
}

func eachServer(svc Service, f func(netip.Addr, PortRange)) {
	for _, srv := range svc.Servers {
		for _, p := range srv.Ports {
			f(srv.Addr, p)
		}
	}
}

// sum is a hash of the rules' text: equal rules, equal hash, whatever process
// made them.
func (r ruleset) sum() string {
	h := sha256.New()
	fmt.Fprintln(h, hashGenerator)
	for _, c := range r.chains {
		fmt.Fprintf(h, "chain %s\n", c.name)
		for _, rule := range c.rules {
			fmt.Fprintf(h, "rule %q\n", rule.comment)
			for _, e := range rule.exprs {
				fmt.Fprintf(h, "%T %+v\n", e, e)
			}
		}
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}
