package pool

import (
	"cmp"
	"net/netip"
	"slices"

	"sttcp/configs"
)

// Choice is the servers of a new connection.
type Choice struct {
	N       int // how many legs, 0 to the service's number of legs
	Primary int // a server, -1 if N is 0
	Backup  int // a server, -1 if N is less than 2
	// Hold: a server is left out whose ejection is not on disk yet. Nothing
	// may be released or acknowledged before an EjectRecorded names the
	// connection.
	Hold bool
}

// Pick chooses the servers of a new connection of that client, and opens the
// connection: it counts from here to its ConnClosed. With N = 0 it is not
// opened. The id must not be in use.
func (p *Pool) Pick(id ConnID, client netip.Addr) Choice {
	order := p.order(p.usable(), client)
	ch := Choice{N: min(p.legs, len(order)), Primary: none, Backup: none}
	if ch.N == 0 {
		return ch
	}
	p.turn++
	ch.Primary = order[0]
	if ch.N == 2 {
		ch.Backup = order[1]
		p.assignRoles(&ch)
	}
	c := &conn{legs: [2]int{ch.Primary, ch.Backup}, epoch: p.epoch, waiting: p.recording()}
	ch.Hold = c.waiting != none
	p.conns[id] = c
	p.tally(c, +1)
	return ch
}

// usable returns the servers that a new connection may have. A stateful
// service leaves out none that has missed nothing, whatever its health.
func (p *Pool) usable() []int {
	var out []int
	for i := range p.servers {
		if s := &p.servers[i]; s.serves() || p.stateful && !s.stale {
			out = append(out, i)
		}
	}
	return out
}

// recording returns the server whose ejection is being written, or none. It
// is never more than one: ejecting needs another that serves, and a stateful
// service has two servers at most.
func (p *Pool) recording() int {
	return slices.IndexFunc(p.servers, func(s server) bool { return s.recording })
}

// assignRoles exchanges primary and backup where the backup should lead.
func (p *Pool) assignRoles(ch *Choice) {
	a, b := &p.servers[ch.Primary], &p.servers[ch.Backup]
	fewer := p.balance == configs.BalanceLeastConn && b.primaries < a.primaries
	if (fewer && a.healthy == b.healthy) || (!a.healthy && b.healthy) {
		ch.Primary, ch.Backup = ch.Backup, ch.Primary
	}
}

// order sorts the usable servers by preference. Only the first two count.
func (p *Pool) order(usable []int, client netip.Addr) []int {
	switch {
	case len(usable) < 2:
		return usable
	case p.balance == configs.BalanceLeastConn:
		return p.byLegs(usable)
	case p.balance == configs.BalanceSource:
		return p.byClient(usable, client)
	}
	return p.byTurn(usable)
}

// byTurn goes through all ordered pairs: each server is primary in turn, and
// with every round the next other one is its backup, so that what a lost
// server leaves behind spreads over all the others.
func (p *Pool) byTurn(usable []int) []int {
	n := uint64(len(usable))
	first := p.turn % n
	second := (first + 1 + p.turn/n%(n-1)) % n
	return []int{usable[first], usable[second]}
}

// byLegs prefers the servers with the fewest legs, and among equals goes round.
func (p *Pool) byLegs(usable []int) []int {
	k := int(p.turn % uint64(len(usable)))
	out := slices.Concat(usable[k:], usable[:k])
	slices.SortStableFunc(out, func(a, b int) int { return cmp.Compare(p.servers[a].legs, p.servers[b].legs) })
	return out
}

// byClient orders by rendezvous hashing: every (client, server) pair has a
// fixed weight, so the loss of a server moves its own clients only, and every
// gateway chooses alike.
func (p *Pool) byClient(usable []int, client netip.Addr) []int {
	addr := client.Unmap().WithZone("").AsSlice()
	weight := make(map[int]uint64, len(usable))
	for _, i := range usable {
		weight[i] = hash(addr, p.servers[i].name)
	}
	out := slices.Clone(usable)
	slices.SortFunc(out, func(a, b int) int { return cmp.Compare(weight[b], weight[a]) })
	return out
}

// hash is FNV-1a (draft-eastlake-fnv) with the finalizer of MurmurHash3, since
// FNV alone spreads short keys badly over the high bits. It is part of what
// gateways of one cluster must agree on: never change it.
func hash(addr []byte, name string) uint64 {
	h := uint64(14695981039346656037)
	for _, b := range append(append(addr[:len(addr):len(addr)], 0), name...) {
		h = (h ^ uint64(b)) * 1099511628211
	}
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}
