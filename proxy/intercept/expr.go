package intercept

import (
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TCP flag bits in the 14th byte of the header (RFC 9293, section 3.1).
const (
	tcpFIN = 0x01
	tcpSYN = 0x02
	tcpRST = 0x04
	tcpACK = 0x10
)

// Registers of nf_tables: 1 is sixteen bytes wide, and so is 2.
const (
	reg1 = unix.NFT_REG_1
	reg2 = unix.NFT_REG_2
)

// side says which end of a packet is matched.
type side int

const (
	src side = iota
	dst
)

type exprs = []expr.Any

// join makes one list of the parts of a rule, in their order.
func join(parts ...exprs) exprs {
	var out exprs
	for _, p := range parts {
		out = append(out, p...)
	}
	return out
}

// equal continues the rule if register 1 holds data.
func equal(data ...byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: reg1, Data: data}
}

// endpoint matches TCP packets whose given side is an address and port range.
// The order of tests is the cheapest first for packets that are not ours; nft
// prints it as `ip saddr A tcp sport P`.
func endpoint(s side, a netip.Addr, p PortRange) exprs {
	return join(address(s, a), l4proto(unix.IPPROTO_TCP), port(s, p))
}

// address matches the IP version and one side's address (RFC 791 and 8200 for
// the offsets).
func address(s side, a netip.Addr) exprs {
	family, length := byte(unix.NFPROTO_IPV6), uint32(16)
	offset := map[side]uint32{src: 8, dst: 24}[s]
	if a.Is4() {
		family, length = unix.NFPROTO_IPV4, 4
		offset = map[side]uint32{src: 12, dst: 16}[s]
	}
	return exprs{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1}, equal(family),
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: length},
		equal(a.AsSlice()...),
	}
}

// l4proto matches the protocol after any IPv6 extension headers.
func l4proto(proto byte) exprs {
	return exprs{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg1}, equal(proto)}
}

// port matches one side's port or range, which are in network byte order.
func port(s side, p PortRange) exprs {
	load := &expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: 2 * uint32(s), Len: 2}
	if p.First == p.Last {
		return exprs{load, equal(binaryutil.BigEndian.PutUint16(p.First)...)}
	}
	return exprs{load, &expr.Range{
		Op: expr.CmpOpEq, Register: reg1,
		FromData: binaryutil.BigEndian.PutUint16(p.First),
		ToData:   binaryutil.BigEndian.PutUint16(p.Last),
	}}
}

// syn matches the first segment of a connection; op CmpOpNeq matches all others.
func syn(op expr.CmpOp) exprs {
	return join(l4proto(unix.IPPROTO_TCP), exprs{
		&expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: 13, Len: 1},
		&expr.Bitwise{SourceRegister: reg1, DestRegister: reg1, Len: 1, Mask: []byte{tcpFIN | tcpSYN | tcpRST | tcpACK}, Xor: []byte{0}},
		&expr.Cmp{Op: op, Register: reg1, Data: []byte{tcpSYN}},
	})
}

// icmpError matches the ICMP errors of one IP version that report on packets
// of ours: unreachable (path MTU included), and in IPv6 packet too big.
func icmpError(family byte) exprs {
	version := exprs{&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: reg1}, equal(family)}
	kind := &expr.Payload{DestRegister: reg1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1}
	if family == unix.NFPROTO_IPV4 {
		return join(version, l4proto(unix.IPPROTO_ICMP), exprs{kind, equal(3)})
	}
	return join(version, l4proto(unix.IPPROTO_ICMPV6), exprs{kind, &expr.Range{
		Op: expr.CmpOpEq, Register: reg1, FromData: []byte{1}, ToData: []byte{2},
	}})
}

// transparentSocket matches packets for which a socket with IP_TRANSPARENT
// exists. With no socket at all the expression does not match either
// (net/netfilter/nft_socket.c).
func transparentSocket() exprs {
	return exprs{&expr.Socket{Key: expr.SocketKeyTransparent, Register: reg1}, equal(1)}
}

// ordinarySocket matches packets for which a socket without it exists.
func ordinarySocket() exprs {
	return exprs{&expr.Socket{Key: expr.SocketKeyTransparent, Register: reg1}, equal(0)}
}

// setMark sets the bits of mask to value and keeps the others.
func setMark(value, mask uint32) exprs {
	return exprs{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: reg1},
		&expr.Bitwise{
			SourceRegister: reg1, DestRegister: reg1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^mask),
			Xor:  binaryutil.NativeEndian.PutUint32(value),
		},
		&expr.Meta{Key: expr.MetaKeyMARK, SourceRegister: true, Register: reg1},
	}
}

// tproxy hands the packet to the socket of its connection or else to the
// listener on the loopback address. Where there is neither the rule does not
// match and the packet goes on to the next one (net/netfilter/nft_tproxy.c).
func tproxy(v4 bool, port uint16) exprs {
	family, addr := byte(unix.NFPROTO_IPV6), netip.IPv6Loopback()
	if v4 {
		family, addr = unix.NFPROTO_IPV4, loopback4
	}
	return exprs{
		&expr.Immediate{Register: reg1, Data: addr.AsSlice()},
		&expr.Immediate{Register: reg2, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.TProxy{Family: family, TableFamily: unix.NFPROTO_INET, RegAddr: reg1, RegPort: reg2},
	}
}

func accept() exprs { return exprs{&expr.Verdict{Kind: expr.VerdictAccept}} }

// drop counts what it drops, so that Drops can tell.
func drop() exprs { return exprs{&expr.Counter{}, &expr.Verdict{Kind: expr.VerdictDrop}} }

func goTo(chain string) exprs {
	return exprs{&expr.Verdict{Kind: expr.VerdictGoto, Chain: chain}}
}

func jump(chain string) exprs {
	return exprs{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

// notrack hides a packet from the connection tracker, whose hook has priority
// -200: it must be met before, in a chain of priority raw (-300).
func notrack() exprs { return exprs{&expr.Notrack{}} }
