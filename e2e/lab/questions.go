package lab

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"time"
)

// Tuple is one direction of a TCP connection. An invalid (zero) address and a
// zero port match all.
type Tuple struct {
	Src, Dst netip.AddrPort
}

// Reverse is the other direction.
func (t Tuple) Reverse() Tuple { return Tuple{Src: t.Dst, Dst: t.Src} }

// FromTo is the direction from a host's address, any port, to an address and
// port: the usual way to name the connections of a client to a service.
func FromTo(src netip.Addr, dst netip.AddrPort) Tuple {
	return Tuple{Src: netip.AddrPortFrom(src, 0), Dst: dst}
}

// matches tells whether a segment goes in this direction.
func (t Tuple) matches(s Segment) bool {
	return endMatches(t.Src, s.Src) && endMatches(t.Dst, s.Dst)
}

// endMatches compares one end, address and port each for themselves.
func endMatches(want, have netip.AddrPort) bool {
	return (!want.Addr().IsValid() || want.Addr() == have.Addr()) &&
		(want.Port() == 0 || want.Port() == have.Port())
}

// Select returns the segments for which keep is true, in the order in which
// they passed. Like every question it covers all frames that had passed when
// it was asked; its error is ErrFramesLost when some of those are missing,
// and the segments are valid then, too.
func (c *Capture) Select(keep func(Segment) bool) ([]Segment, error) {
	frames, err := c.snapshot()
	d := newDecoder()
	var segs []Segment
	for _, f := range frames {
		if s, ok := d.segment(f); ok && keep(s) {
			segs = append(segs, s)
		}
	}
	return segs, err
}

// Segments returns the segments of one direction.
func (c *Capture) Segments(t Tuple) ([]Segment, error) { return c.Select(t.matches) }

// Flow returns the segments of both directions.
func (c *Capture) Flow(t Tuple) ([]Segment, error) {
	back := t.Reverse()
	return c.Select(func(s Segment) bool { return t.matches(s) || back.matches(s) })
}

// RSTs returns the segments of a direction that have RST set.
func (c *Capture) RSTs(t Tuple) ([]Segment, error) { return c.withFlag(t, RST) }

// RSTsTo returns every RST that went to an address.
func (c *Capture) RSTsTo(addr netip.Addr) ([]Segment, error) {
	return c.RSTs(Tuple{Dst: netip.AddrPortFrom(addr, 0)})
}

// FINs returns the segments of a direction that have FIN set.
func (c *Capture) FINs(t Tuple) ([]Segment, error) { return c.withFlag(t, FIN) }

// withFlag returns the segments of a direction that have a flag set.
func (c *Capture) withFlag(t Tuple, flag TCPFlags) ([]Segment, error) {
	return c.Select(func(s Segment) bool { return s.Flags&flag != 0 && t.matches(s) })
}

// BadChecksums returns the segments whose TCP checksum is wrong. It can judge
// only those that were captured as a whole, up to 160 bytes with all headers.
// With offloads nearly every one is wrong, since it is never filled in.
func (c *Capture) BadChecksums() ([]Segment, error) {
	frames, err := c.snapshot()
	d := newDecoder()
	var bad []Segment
	for _, f := range frames {
		if d.checksumWrong(f) {
			s, _ := d.segment(f)
			bad = append(bad, s)
		}
	}
	return bad, err
}

// Emission is a run of frames in which one hardware address alone spoke as an
// IP address.
type Emission struct {
	MAC net.HardwareAddr
	// Host is the lab's host with that hardware address; empty if none.
	Host        string
	First, Last time.Time
	Frames      int
	Kinds       Kind
}

// String says who, how often and when.
func (e Emission) String() string {
	return fmt.Sprintf("%v (%s) %d frames, %s to %s", e.MAC, e.Host, e.Frames,
		e.First.Format("15:04:05.000000"), e.Last.Format("15:04:05.000000"))
}

// EmittersOf tells who sent as an IP address and when, in order: as source of
// IP packets, as sender of ARP, as target of neighbour advertisements. A new
// Emission begins whenever another hardware address speaks, so two senders at
// a time show as many short ones in turn. Behind a router every address is
// the router's: ask a capture on the address's own network.
func (c *Capture) EmittersOf(addr netip.Addr) ([]Emission, error) {
	frames, err := c.snapshot()
	d := newDecoder()
	var runs []Emission
	for _, f := range frames {
		kind := d.claims(f, addr)
		if kind == 0 {
			continue
		}
		if n := len(runs); n == 0 || !bytes.Equal(runs[n-1].MAC, d.eth.SrcMAC) {
			mac := bytes.Clone(d.eth.SrcMAC)
			runs = append(runs, Emission{MAC: mac, Host: c.lab.hostOf(mac), First: f.at})
		}
		run := &runs[len(runs)-1]
		run.Last, run.Frames, run.Kinds = f.at, run.Frames+1, run.Kinds|kind
	}
	return runs, err
}

// hostOf names the host with a hardware address, "" when there is none.
func (l *Lab) hostOf(mac net.HardwareAddr) string {
	for _, h := range l.Hosts() {
		for _, k := range h.links {
			if bytes.Equal(k.mac, mac) {
				return h.name
			}
		}
	}
	return ""
}
