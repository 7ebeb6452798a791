package lab

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var macA, macB = net.HardwareAddr{2, 0, 0, 0, 0, 0xa}, net.HardwareAddr{2, 0, 0, 0, 0, 0xb}

// build makes a frame from its layers, with right lengths and checksums.
func build(t *testing.T, parts ...gopacket.SerializableLayer) []byte {
	t.Helper()
	for _, p := range parts {
		network, ok := p.(gopacket.NetworkLayer)
		if !ok {
			continue
		}
		for _, q := range parts {
			if c, ok := q.(interface {
				SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
			}); ok {
				if err := c.SetNetworkLayerForChecksum(network); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	buf := gopacket.NewSerializeBuffer()
	opt := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	if err := gopacket.SerializeLayers(buf, opt, parts...); err != nil {
		t.Fatal(err)
	}
	return slices.Clone(buf.Bytes())
}

func ether(src net.HardwareAddr, kind layers.EthernetType) *layers.Ethernet {
	return &layers.Ethernet{SrcMAC: src, DstMAC: macB, EthernetType: kind}
}

func ip4(src, dst netip.Addr, options ...layers.IPv4Option) *layers.IPv4 {
	return &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolTCP,
		SrcIP: src.AsSlice(), DstIP: dst.AsSlice(), Options: options}
}

func ip6(src, dst netip.Addr, next layers.IPProtocol) *layers.IPv6 {
	return &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: next, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
}

func tcpHeader() *layers.TCP {
	return &layers.TCP{SrcPort: 1000, DstPort: 80, Seq: 7, Ack: 9, ACK: true, PSH: true, URG: true, Window: 500,
		Options: []layers.TCPOption{{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop}}}
}

// Every way to write the same segment is read the same, whatever is in the
// headers before it, and though only the start of the frame is kept.
func TestDecodeSegment(t *testing.T) {
	data := gopacket.Payload(make([]byte, 1000))
	v4 := build(t, ether(macA, layers.EthernetTypeIPv4), ip4(LAN4(1), LAN4(2)), tcpHeader(), data)
	withOptions := build(t, ether(macA, layers.EthernetTypeIPv4), ip4(LAN4(1), LAN4(2),
		layers.IPv4Option{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}), tcpHeader(), data)
	v6 := build(t, ether(macA, layers.EthernetTypeIPv6), ip6(LAN6(1), LAN6(2), layers.IPProtocolTCP), tcpHeader(), data)
	// Larger than the length field can say: the kernel leaves it 0.
	huge := slices.Clone(v4)
	binary.BigEndian.PutUint16(huge[14+2:], 0)
	padded := append(slices.Clone(v4), make([]byte, 20)...) // Ethernet's padding is no payload
	for name, f := range map[string][]byte{
		"IPv4": v4, "IPv4 options": withOptions, "IPv6": v6, "huge": huge, "padded": padded} {
		c := captureOf(10, f)
		segs, err := c.Segments(Tuple{})
		if err != nil || len(segs) != 1 {
			t.Errorf("%s: %v, %v", name, segs, err)
			continue
		}
		s := segs[0]
		if s.Seq != 7 || s.Ack != 9 || s.Len != 1000 || s.Window != 500 || s.Flags != ACK|PSH|URG ||
			s.Src.Port() != 1000 || s.Dst.Port() != 80 || s.SrcMAC.String() != macA.String() ||
			(s.Src.Addr() != LAN4(1) && s.Src.Addr() != LAN6(1)) {
			t.Errorf("%s: %v", name, s)
		}
	}
}

// A wrong checksum is found wherever the damage is, in both families, also in
// segments of odd length; what was not captured as a whole is not judged.
func TestBadChecksums(t *testing.T) {
	for _, size := range []int{0, 1, 50} {
		data := gopacket.Payload(make([]byte, size))
		for start, good := range map[int][]byte{ // start of the TCP header
			34: build(t, ether(macA, layers.EthernetTypeIPv4), ip4(LAN4(1), LAN4(2)), tcpHeader(), data),
			54: build(t, ether(macA, layers.EthernetTypeIPv6), ip6(LAN6(1), LAN6(2), layers.IPProtocolTCP), tcpHeader(), data),
		} {
			if bad, err := captureOf(10, good).BadChecksums(); err != nil || len(bad) != 0 {
				t.Errorf("size %d: a good one is bad: %v, %v", size, bad, err)
			}
			for i := start + 4; i < start+24+size; i++ { // from the sequence number on
				damaged := slices.Clone(good)
				damaged[i] ^= 0x10
				if i == start+12 {
					continue // the header's length: it is no segment then
				}
				if bad, _ := captureOf(10, damaged).BadChecksums(); len(bad) != 1 {
					t.Errorf("size %d, byte %d: damage was not found", size, i)
				}
			}
		}
	}
	long := build(t, ether(macA, layers.EthernetTypeIPv4), ip4(LAN4(1), LAN4(2)), tcpHeader(), gopacket.Payload(make([]byte, 500)))
	long[60] ^= 1
	if bad, err := captureOf(10, long).BadChecksums(); err != nil || len(bad) != 0 {
		t.Errorf("judged what it has not seen: %v, %v", bad, err)
	}
}

func arpFrame(t *testing.T, src net.HardwareAddr, op uint16, sender, target netip.Addr) []byte {
	return build(t, ether(src, layers.EthernetTypeARP), &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: op, SourceHwAddress: src, SourceProtAddress: sender.AsSlice(),
		DstHwAddress: make([]byte, 6), DstProtAddress: target.AsSlice()})
}

func advertFrame(t *testing.T, src net.HardwareAddr, from, target netip.Addr) []byte {
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborAdvertisement, 0)}
	return build(t, ether(src, layers.EthernetTypeIPv6), ip6(from, LAN6(1), layers.IPProtocolICMPv6), icmp,
		&layers.ICMPv6NeighborAdvertisement{Flags: 0x60, TargetAddress: target.AsSlice()})
}

// Only a claim to be the address counts: asking for it, or sending to it, is
// none.
func TestWhatIsAClaim(t *testing.T) {
	tcp4 := func(src, dst netip.Addr) []byte {
		return build(t, ether(macA, layers.EthernetTypeIPv4), ip4(src, dst), tcpHeader())
	}
	for _, tc := range []struct {
		name  string
		frame []byte
		of    netip.Addr
		want  Kind
	}{
		{"IPv4 from", tcp4(VIP4, LAN4(1)), VIP4, ByIP},
		{"IPv4 to", tcp4(LAN4(1), VIP4), VIP4, 0},
		{"ARP reply", arpFrame(t, macA, layers.ARPReply, VIP4, LAN4(1)), VIP4, ByARP},
		{"gratuitous ARP", arpFrame(t, macA, layers.ARPRequest, VIP4, VIP4), VIP4, ByARP},
		{"ARP question for it", arpFrame(t, macA, layers.ARPRequest, LAN4(1), VIP4), VIP4, 0},
		{"advertisement", advertFrame(t, macA, LAN6(1), VIP6), VIP6, ByNDP},
		{"advertisement from itself", advertFrame(t, macA, VIP6, VIP6), VIP6, ByNDP | ByIP},
		{"advertisement of another", advertFrame(t, macA, LAN6(1), LAN6(2)), VIP6, 0},
		{"the other family", advertFrame(t, macA, LAN6(1), VIP6), VIP4, 0},
	} {
		runs, err := captureOf(10, tc.frame).EmittersOf(tc.of)
		var got Kind
		if len(runs) == 1 {
			got = runs[0].Kinds
		}
		if err != nil || got != tc.want || len(runs) > 1 {
			t.Errorf("%s: kinds %d, want %d (%v, %v)", tc.name, got, tc.want, runs, err)
		}
	}
}

// Two that speak as one address in turn are seen as such.
func TestEmittersInTurn(t *testing.T) {
	from := func(mac net.HardwareAddr) []byte { return arpFrame(t, mac, layers.ARPReply, VIP4, LAN4(1)) }
	other := arpFrame(t, macB, layers.ARPReply, LAN4(9), LAN4(1))
	runs, err := captureOf(10, from(macA), from(macA), other, from(macA), from(macB), from(macA)).EmittersOf(VIP4)
	if err != nil || len(runs) != 3 {
		t.Fatalf("%v, %v", runs, err)
	}
	want := []struct {
		mac         net.HardwareAddr
		frames      int
		first, last int64
	}{{macA, 3, 0, 3}, {macB, 1, 4, 4}, {macA, 1, 5, 5}}
	for i, run := range runs {
		w := want[i]
		if run.MAC.String() != w.mac.String() || run.Frames != w.frames || run.First.Unix() != w.first || run.Last.Unix() != w.last {
			t.Errorf("run %d: %v", i, run)
		}
	}
	if text := runs[0].String(); !strings.Contains(text, "02:00:00:00:00:0a () 3 frames") {
		t.Error(text)
	}
}

func TestTupleMatches(t *testing.T) {
	a, b := netip.MustParseAddrPort("10.9.0.1:1"), netip.MustParseAddrPort("10.9.0.2:2")
	s := Segment{Src: a, Dst: b}
	for _, tc := range []struct {
		tuple Tuple
		want  bool
	}{
		{Tuple{}, true},
		{Tuple{Src: a, Dst: b}, true},
		{Tuple{Src: a, Dst: b}.Reverse(), false},
		{Tuple{Src: netip.AddrPortFrom(a.Addr(), 0)}, true},
		{Tuple{Src: netip.AddrPortFrom(netip.Addr{}, 1)}, true},
		{Tuple{Src: netip.AddrPortFrom(netip.Addr{}, 2)}, false},
		{FromTo(a.Addr(), b), true},
		{FromTo(b.Addr(), b), false},
		{Tuple{Dst: netip.AddrPortFrom(b.Addr(), 3)}, false},
	} {
		if got := tc.tuple.matches(s); got != tc.want {
			t.Errorf("%v: %v", tc.tuple, got)
		}
	}
}

func TestFlagNames(t *testing.T) {
	for flags, want := range map[TCPFlags]string{0: "0", SYN: "syn", FIN | SYN | RST | PSH | ACK | URG: "fin|syn|rst|psh|ack|urg"} {
		if got := flags.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	if FIN != 0x01 || SYN != 0x02 || RST != 0x04 || PSH != 0x08 || ACK != 0x10 || URG != 0x20 {
		t.Error("the flags are not those of RFC 9293")
	}
}
