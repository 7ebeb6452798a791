package lab

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
)

// Dir is a direction as the host sees it.
type Dir string

// The directions.
const (
	In  Dir = "in"  // towards the host
	Out Dir = "out" // from the host
)

// hook is the netdev hook of the switch's port in this direction.
func (d Dir) hook() (string, error) {
	switch d {
	case In:
		return "egress", nil
	case Out:
		return "ingress", nil
	}
	return "", fmt.Errorf("direction %q is neither in nor out", string(d))
}

// Proto is a protocol in a Match.
type Proto string

// The protocols.
const (
	TCP    Proto = "tcp"
	UDP    Proto = "udp"
	ICMP   Proto = "icmp"
	ICMPv6 Proto = "ipv6-icmp" // neighbour discovery, too
	ARP    Proto = "arp"
)

// TCPFlags are the flags of a TCP header, as in its 14th byte.
type TCPFlags uint8

// The flags (RFC 9293, 3.1).
const (
	FIN TCPFlags = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// flagNames are nft's names, in the order of the bits.
var flagNames = []string{"fin", "syn", "rst", "psh", "ack", "urg"}

// String is like "syn|ack", and "0" for none.
func (f TCPFlags) String() string {
	var set []string
	for i, name := range flagNames {
		if f&(1<<i) != 0 {
			set = append(set, name)
		}
	}
	if set == nil {
		return "0"
	}
	return strings.Join(set, "|")
}

// Match selects frames on a host's cable. A zero field matches everything.
type Match struct {
	// Dir is In or Out and must be given.
	Dir Dir
	// Proto is the protocol; ports and flags imply TCP when it is empty.
	Proto Proto
	// Src and Dst are the addresses of IP, or of ARP's sender and target,
	// both of one family.
	Src, Dst netip.Addr
	// SPort and DPort are the ports of TCP or UDP.
	SPort, DPort uint16
	// Flags are TCP flags that are all set, Without those that are not:
	// Flags: SYN, Without: ACK is the first packet of a connection.
	Flags, Without TCPFlags
	// Percent drops that share of the matching frames at random, from 0.01;
	// 0 is all of them. With offloads a frame can be 64 KiB of segments.
	Percent float64
	// First drops only so many of the matching frames; 0 is no limit.
	First int
}

// nft writes the match as nft does.
func (m Match) nft() (string, error) {
	var parts []string
	add := func(format string, args ...any) { parts = append(parts, fmt.Sprintf(format, args...)) }
	if m.Percent < 0 || m.Percent > 100 || m.First < 0 {
		return "", fmt.Errorf("percent %v, first %d: out of range", m.Percent, m.First)
	}
	m.addAddresses(add)
	m.addTransport(add)
	if m.Percent > 0 && m.Percent < 100 {
		add("numgen random mod 10000 < %d", int(m.Percent*100))
	}
	if m.First > 0 {
		add("numgen inc mod 4294967295 < %d", m.First)
	}
	return strings.Join(parts, " "), nil
}

// addAddresses adds the addresses. nft itself refuses two of different families,
// and it adds what it needs to know the family.
func (m Match) addAddresses(add func(string, ...any)) {
	for _, a := range []struct {
		field string
		addr  netip.Addr
	}{{"saddr", m.Src}, {"daddr", m.Dst}} {
		switch {
		case !a.addr.IsValid():
		case m.Proto == ARP:
			add("arp %s ip %v", a.field, a.addr)
		case a.addr.Is4():
			add("ip %s %v", a.field, a.addr)
		default:
			add("ip6 %s %v", a.field, a.addr)
		}
	}
}

// addTransport adds protocol, ports and flags. "meta l4proto" finds the protocol
// in both families, also behind IPv6 extension headers.
func (m Match) addTransport(add func(string, ...any)) {
	flags := m.Flags | m.Without
	proto := m.Proto
	if proto == "" && (m.SPort != 0 || m.DPort != 0 || flags != 0) {
		proto = TCP
	}
	switch proto {
	case "":
	case ARP:
		add("meta protocol arp")
	default:
		add("meta l4proto %s", proto)
	}
	if m.SPort != 0 {
		add("%s sport %d", proto, m.SPort)
	}
	if m.DPort != 0 {
		add("%s dport %d", proto, m.DPort)
	}
	if flags != 0 {
		add("tcp flags & (%v) == %v", flags, m.Flags)
	}
}

// Drop drops the matching frames on the cable: neither end is told.
func (k *Link) Drop(m Match) (*Fault, error) {
	text, err := m.nft()
	what := fmt.Sprintf("drop %q %s of %v", text, m.Dir, k)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return k.addRules(what, []rule{{m.Dir, text + " counter drop"}})
}

// Loss drops a share of all frames of a direction at random.
func (k *Link) Loss(dir Dir, percent float64) (*Fault, error) {
	return k.Drop(Match{Dir: dir, Percent: percent})
}

// rule is an nft rule for a direction of a link.
type rule struct {
	dir  Dir
	text string
}

// table is the nft table of all rules, in the switch's namespace. With two
// faults it looks like this:
//
//	table netdev lab {
//		chain f1 { type filter hook egress device "s1" priority 0;
//			meta l4proto tcp tcp dport 80 counter drop; }
//		chain f2 { type filter hook ingress device "client" priority 0;
//			numgen random mod 10000 < 200 counter drop; }
//	}
//
// Ingress of the switch's port is the host's way out, egress its way in. Each
// fault has chains of its own, so that undoing one leaves the others' counters
// alone. Several chains on one hook all see a frame until one drops it.
const table = "netdev lab"

// ruleSerial makes the names of chains unique.
var ruleSerial atomic.Int64

// addRules adds rules in one batch, each in a chain of its own: all begin to
// work at the same moment, or none does.
func (k *Link) addRules(what string, rules []rule) (*Fault, error) {
	first := ruleSerial.Add(int64(len(rules))) - int64(len(rules))
	chain := func(i int) string { return fmt.Sprintf("f%d", first+int64(i)) }
	f := &portFault{
		apply: func(dev string) error {
			batch := fmt.Sprintf("table %s {\n", table)
			for i, r := range rules {
				hook, err := r.dir.hook()
				if err != nil {
					return err
				}
				batch += fmt.Sprintf("chain %s { type filter hook %s device %q priority 0; %s; }\n",
					chain(i), hook, dev, r.text)
			}
			return k.host.lab.nft(batch + "}\n")
		},
		lift: func(string) error {
			var batch string
			for i := range rules {
				batch += fmt.Sprintf("delete chain %s %s\n", table, chain(i))
			}
			return k.host.lab.nft(batch)
		},
	}
	return k.addPortFault(f, what, func() (n uint64, err error) {
		for i := range rules {
			one, err := k.host.lab.nftCount(chain(i))
			if err != nil {
				return n, err
			}
			n += one
		}
		return n, nil
	})
}

// nft runs a batch in the switch's namespace: all of it or nothing.
func (l *Lab) nft(batch string) error {
	_, err := l.sw.runInput(context.Background(), batch, "nft", "-f", "-")
	return wrap(err, "%s", batch)
}

// nftCounter finds the counter in what `nft list chain` prints.
var nftCounter = regexp.MustCompile(`counter packets (\d+)`)

// nftCount reads the counter of a chain's only rule.
func (l *Lab) nftCount(chain string) (uint64, error) {
	out, err := l.sw.Run(context.Background(), "nft", "list", "chain", "netdev", "lab", chain)
	if err != nil {
		return 0, err
	}
	m := nftCounter.FindStringSubmatch(out)
	if m == nil {
		return 0, fmt.Errorf("no counter in %q", out)
	}
	return strconv.ParseUint(m[1], 10, 64)
}
