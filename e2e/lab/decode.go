package lab

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// Segment is a captured TCP segment; with offloads it may be a super-frame
// that stands for many.
type Segment struct {
	// Time is the kernel's, taken where the capture is.
	Time time.Time
	// Src and Dst are the ends of the segment's direction.
	Src, Dst netip.AddrPort
	// SrcMAC is the hardware address that sent the frame.
	SrcMAC net.HardwareAddr
	// Seq and Ack are as on the wire.
	Seq, Ack uint32
	Flags    TCPFlags
	// Window is as on the wire, not scaled.
	Window uint16
	// Len is the payload's true length in bytes.
	Len int
}

// String is one line in the manner of tcpdump.
func (s Segment) String() string {
	return fmt.Sprintf("%s %v > %v [%v] seq %d ack %d win %d len %d",
		s.Time.Format("15:04:05.000000"), s.Src, s.Dst, s.Flags, s.Seq, s.Ack, s.Window, s.Len)
}

// decoder takes frames apart; its fields hold the last one.
type decoder struct {
	eth    layers.Ethernet
	arp    layers.ARP
	ip4    layers.IPv4
	ip6    layers.IPv6
	tcp    layers.TCP
	icmp6  layers.ICMPv6
	advert layers.ICMPv6NeighborAdvertisement

	parser *gopacket.DecodingLayerParser
	has    []gopacket.LayerType
}

// newDecoder makes a decoder that reuses its layers: it allocates nothing per
// frame, which matters for a million of them.
func newDecoder() *decoder {
	d := &decoder{}
	d.parser = gopacket.NewDecodingLayerParser(layers.LayerTypeEthernet,
		&d.eth, &d.arp, &d.ip4, &d.ip6, &d.tcp, &d.icmp6, &d.advert)
	d.parser.IgnoreUnsupported = true
	return d
}

// decode takes a frame apart as far as it goes.
func (d *decoder) decode(f frame) {
	// An error means that the rest is damaged or cut off; what was decoded
	// before it is in has.
	_ = d.parser.DecodeLayers(f.data, &d.has)
}

// is tells whether the last frame has a layer.
func (d *decoder) is(t gopacket.LayerType) bool { return slices.Contains(d.has, t) }

// ips are the addresses of the IP header and the length of what follows it,
// as it was on the wire.
func (d *decoder) ips(f frame) (src, dst netip.Addr, length int, ok bool) {
	switch {
	case d.is(layers.LayerTypeIPv4):
		src, _ = netip.AddrFromSlice(d.ip4.SrcIP)
		dst, _ = netip.AddrFromSlice(d.ip4.DstIP)
		length = int(binary.BigEndian.Uint16(d.ip4.Contents[2:4]))
		if length == 0 { // larger than its field can say
			length = f.wire - len(d.eth.Contents)
		}
		return src.Unmap(), dst.Unmap(), length - len(d.ip4.Contents), true
	case d.is(layers.LayerTypeIPv6):
		src, _ = netip.AddrFromSlice(d.ip6.SrcIP)
		dst, _ = netip.AddrFromSlice(d.ip6.DstIP)
		return src, dst, int(d.ip6.Length), true
	}
	return src, dst, 0, false
}

// segment returns the frame's TCP segment, if it has one.
func (d *decoder) segment(f frame) (Segment, bool) {
	d.decode(f)
	src, dst, length, ok := d.ips(f)
	if !ok || !d.is(layers.LayerTypeTCP) {
		return Segment{}, false
	}
	return Segment{
		Time:   f.at,
		Src:    netip.AddrPortFrom(src, uint16(d.tcp.SrcPort)),
		Dst:    netip.AddrPortFrom(dst, uint16(d.tcp.DstPort)),
		SrcMAC: slices.Clone(d.eth.SrcMAC),
		Seq:    d.tcp.Seq, Ack: d.tcp.Ack,
		Flags:  TCPFlags(d.tcp.Contents[13]) & (FIN | SYN | RST | PSH | ACK | URG),
		Window: d.tcp.Window,
		Len:    length - len(d.tcp.Contents),
	}, true
}

// Kind is how an address was claimed.
type Kind uint8

// The kinds of claims, as a set.
const (
	ByIP  Kind = 1 << iota // source of an IP packet
	ByARP                  // sender of an ARP request or reply
	ByNDP                  // target of a neighbour advertisement
)

// claims tells in which ways a frame claims to come from the address.
func (d *decoder) claims(f frame, addr netip.Addr) Kind {
	d.decode(f)
	var kind Kind
	if src, _, _, ok := d.ips(f); ok && src == addr {
		kind |= ByIP
	}
	if d.is(layers.LayerTypeARP) && sameAddr(d.arp.SourceProtAddress, addr) {
		kind |= ByARP
	}
	if d.is(layers.LayerTypeICMPv6NeighborAdvertisement) && sameAddr(d.advert.TargetAddress, addr) {
		kind |= ByNDP
	}
	return kind
}

// sameAddr compares an address as it is in a packet with one of ours.
func sameAddr(b []byte, addr netip.Addr) bool {
	a, ok := netip.AddrFromSlice(b)
	return ok && a == addr
}

// checksumWrong verifies the checksum of a TCP segment that was captured as a
// whole; others are not wrong.
func (d *decoder) checksumWrong(f frame) bool {
	if len(f.data) < f.wire {
		return false
	}
	f.data = slices.Clone(f.data) // verifying writes to it
	if _, ok := d.segment(f); !ok {
		return false
	}
	var network gopacket.NetworkLayer = &d.ip4
	if d.is(layers.LayerTypeIPv6) {
		network = &d.ip6
	}
	if err := d.tcp.SetNetworkLayerForChecksum(network); err != nil {
		return true
	}
	err, result := d.tcp.VerifyChecksum()
	return err != nil || !result.Valid
}
