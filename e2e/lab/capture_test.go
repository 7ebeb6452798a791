package lab_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/sys/unix"

	"sttcp/e2e/lab"
	"sttcp/e2e/lab/labtest"
)

// A connection from its first to its last segment, at both ends and in both
// families: nothing is missing at the moment of the question.
func TestCaptureOfAConnection(t *testing.T) {
	l := newLab(t, "client", "s1")
	client, s1 := l.Host("client"), l.Host("s1")
	serve(t, s1, 7, echo)
	both(t, func(t *testing.T, addr func(*lab.Host) netip.Addr) {
		to := netip.AddrPortFrom(addr(s1), 7)
		captures := []*lab.Capture{labtest.Capture(t, client.Capture), labtest.Capture(t, s1.Capture),
			labtest.Capture(t, client.CapturePort),
			labtest.Capture(t, func() (*lab.Capture, error) { return l.CaptureNetwork(lab.LAN) })}
		start := time.Now()
		c := dial(t, client, to)
		check(t, roundTrip(c, "hello, world"))
		for _, cap := range captures {
			there := lab.FromTo(addr(client), to)
			if n := payload(must[[]lab.Segment](t)(cap.Segments(there))); n != 12 {
				t.Errorf("%v: %d bytes there", cap, n)
			}
			flow := must[[]lab.Segment](t)(cap.Flow(there))
			checkHandshake(t, cap, flow, start)
			if fins := must[[]lab.Segment](t)(cap.FINs(there)); len(fins) != 0 {
				t.Errorf("%v: FIN before the end: %v", cap, fins)
			}
		}
		check(t, c.(*net.TCPConn).CloseWrite())
		_, err := io.ReadAll(c)
		check(t, err)
		for _, cap := range captures {
			back := lab.FromTo(addr(client), to).Reverse()
			if fins := must[[]lab.Segment](t)(cap.FINs(back)); len(fins) != 1 {
				t.Errorf("%v: FINs back: %v", cap, fins)
			}
			if rst := must[[]lab.Segment](t)(cap.RSTsTo(addr(client))); len(rst) != 0 {
				t.Errorf("%v: RSTs: %v", cap, rst)
			}
		}
	})
}

func payload(segs []lab.Segment) (n int) {
	for _, s := range segs {
		n += s.Len
	}
	return n
}

// checkHandshake looks at the first three segments of a flow.
func checkHandshake(t *testing.T, cap *lab.Capture, flow []lab.Segment, start time.Time) {
	t.Helper()
	if len(flow) < 3 {
		t.Fatalf("%v: %d segments", cap, len(flow))
	}
	syn, synAck, ack := flow[0], flow[1], flow[2]
	if syn.Flags != lab.SYN || synAck.Flags != lab.SYN|lab.ACK || ack.Flags != lab.ACK ||
		synAck.Ack != syn.Seq+1 || ack.Ack != synAck.Seq+1 || ack.Seq != syn.Seq+1 {
		t.Errorf("%v: handshake %v", cap, flow[:3])
	}
	if syn.Time.Before(start.Add(-time.Millisecond)) || syn.Time.After(time.Now()) || synAck.Time.Before(syn.Time) {
		t.Errorf("%v: times %v, %v, started at %v", cap, syn.Time, synAck.Time, start)
	}
}

func TestCaptureOfAReset(t *testing.T) {
	l := newLab(t, "client", "s1", "s2")
	client, s1 := l.Host("client"), l.Host("s1")
	serve(t, s1, 7, func(c net.Conn) {
		_, _ = c.Read(make([]byte, 1))
		_ = c.(*net.TCPConn).SetLinger(0) // closing resets
	})
	cap := labtest.Capture(t, client.Capture)
	c := dial(t, client, netip.AddrPortFrom(s1.Addr4(), 7))
	if err := roundTrip(c, "x"); !errors.Is(err, unix.ECONNRESET) {
		t.Fatalf("error %v, want reset", err)
	}
	rst := must[[]lab.Segment](t)(cap.RSTsTo(client.Addr4()))
	if len(rst) != 1 || rst[0].Src != netip.AddrPortFrom(s1.Addr4(), 7) || string(rst[0].SrcMAC) != string(s1.MAC()) {
		t.Errorf("RSTs to the client: %v", rst)
	}
	if rst := must[[]lab.Segment](t)(cap.RSTsTo(s1.Addr4())); len(rst) != 0 {
		t.Errorf("RSTs to the server: %v", rst)
	}
	cap.Reset()
	if n := must[int](t)(cap.Frames()); n > 2 {
		t.Errorf("%d frames after Reset", n)
	}
}

// Who was the virtual IP, and when: first g1, then g2; by ARP or neighbour
// advertisement and by IP.
func TestEmittersOf(t *testing.T) {
	l := newLab(t, "client", "g1", "g2", "s1")
	client := l.Host("client")
	cap := labtest.Capture(t, func() (*lab.Capture, error) { return l.CaptureNetwork(lab.LAN) })
	for _, vip := range []netip.Addr{lab.VIP4, lab.VIP6} {
		p := netip.PrefixFrom(vip, vip.BitLen())
		for _, g := range []string{"g1", "g2", "g1"} {
			h := l.Host(g)
			check(t, h.AddAddr(p))
			_ = must[string](t)(client.Run(t.Context(), "ip", "neigh", "flush", "all"))
			check(t, talk(client, h, netip.AddrPortFrom(vip, 80), cap))
			check(t, h.DeleteAddr(p))
		}
		checkEmitters(t, must[[]lab.Emission](t)(cap.EmittersOf(vip)))
	}
	if e := must[[]lab.Emission](t)(cap.EmittersOf(lab.LAN4(77))); len(e) != 0 {
		t.Errorf("an address that nobody has: %v", e)
	}
	if e := must[[]lab.Emission](t)(cap.EmittersOf(client.Addr6())); len(e) != 1 || e[0].Host != "client" {
		t.Errorf("the client: %v", e)
	}
}

// talk opens and closes a connection and waits until its last segment has
// been captured.
func talk(client, h *lab.Host, to netip.AddrPort, cap *lab.Capture) error {
	ln, err := h.Listen("tcp", ":80")
	if err != nil {
		return err
	}
	defer ln.Close()
	c, err := client.Dial("tcp", to.String())
	if err != nil {
		return err
	}
	s, err := ln.Accept()
	if err != nil {
		return err
	}
	there := lab.Tuple{Src: c.LocalAddr().(*net.TCPAddr).AddrPort(), Dst: to}
	if err := errors.Join(s.Close(), c.Close()); err != nil {
		return err
	}
	return lab.Until(context.Background(), "the end of the connection", func() error {
		fins, err := cap.FINs(there)
		if err != nil || len(fins) == 0 {
			return errors.Join(err, errors.New("no FIN"))
		}
		acks, err := cap.Segments(there.Reverse())
		if err == nil && acks[len(acks)-1].Ack != fins[0].Seq+1 {
			err = errors.New("FIN not acknowledged")
		}
		return err
	})
}

func checkEmitters(t *testing.T, runs []lab.Emission) {
	t.Helper()
	if len(runs) != 3 || runs[0].Host != "g1" || runs[1].Host != "g2" || runs[2].Host != "g1" {
		t.Fatalf("emitters: %v", runs)
	}
	for i, run := range runs {
		if run.Kinds&lab.ByIP == 0 || run.Kinds&(lab.ByARP|lab.ByNDP) == 0 || run.Frames < 2 || run.Last.Before(run.First) {
			t.Errorf("run %d: %+v", i, run)
		}
		if i > 0 && run.First.Before(runs[i-1].Last) {
			t.Errorf("run %d overlaps", i)
		}
	}
}

// What a capture wrote is what a reader of the format finds.
func TestWritePcap(t *testing.T) {
	l := newLab(t, "client", "s1")
	client, s1 := l.Host("client"), l.Host("s1")
	cap := labtest.Capture(t, s1.Capture)
	transfer(t, client, s1, s1.Addr4(), 1<<20)
	cap.Stop()
	want := must[[]lab.Segment](t)(cap.Segments(lab.Tuple{}))
	path := filepath.Join(t.TempDir(), "x.pcap")
	check(t, cap.WritePcap(path))
	f := must[*os.File](t)(os.Open(path))
	defer f.Close()
	r := must[*pcapgo.Reader](t)(pcapgo.NewReader(f))
	var segments, longest int
	for {
		data, ci, err := r.ReadPacketData()
		if err == io.EOF {
			break
		}
		check(t, err)
		longest = max(longest, ci.Length)
		packet := gopacket.NewPacket(data, r.LinkType(), gopacket.NoCopy)
		if tcp, ok := packet.Layer(layers.LayerTypeTCP).(*layers.TCP); ok {
			if s := want[segments]; s.Seq != tcp.Seq || !s.Time.Equal(ci.Timestamp) {
				t.Fatalf("segment %d: %v, file %v at %v", segments, s, tcp.Seq, ci.Timestamp)
			}
			segments++
		}
	}
	if segments != len(want) || longest < 2000 {
		t.Errorf("%d segments of %d, longest frame %d: want a super-frame", segments, len(want), longest)
	}
	if err := cap.WritePcap("/nonexistent/x"); err == nil {
		t.Error("written to nowhere")
	}
}

// With offloads off the checksums on the wire are right and no frame is
// longer than the wire's; with them neither is so, which shows that the
// question can be answered with yes.
func TestOffloads(t *testing.T) {
	for _, off := range []bool{true, false} {
		l := labtest.New(t, lab.Options{Hosts: lab.Standard("client", "s1"), NoOffloads: off})
		client, s1 := l.Host("client"), l.Host("s1")
		for _, capture := range []func() (*lab.Capture, error){s1.Capture, s1.CapturePort, client.Capture} {
			cap := labtest.Capture(t, capture)
			for _, addr := range []netip.Addr{s1.Addr4(), s1.Addr6()} {
				transfer(t, client, s1, addr, 1<<18)
			}
			if all := must[string](t)(s1.Run(t.Context(), "ethtool", "-k", "eth0")); allOff(all) != off {
				t.Errorf("offloads off: %v; ethtool disagrees", off)
			}
			bad := must[[]lab.Segment](t)(cap.BadChecksums())
			long := must[[]lab.Segment](t)(cap.Select(func(s lab.Segment) bool { return s.Len > 1460 }))
			if (len(bad) == 0) != off || (len(long) == 0) != off {
				t.Errorf("offloads off: %v; %d bad checksums, %d super-frames", off, len(bad), len(long))
			}
		}
	}
}

// allOff reads what ethtool says.
func allOff(features string) bool {
	on := regexp.MustCompile(`(rx-checksumming|tx-checksumming|tx-tcp-segmentation|tx-tcp6-segmentation|` +
		`generic-segmentation-offload|generic-receive-offload): on`)
	return !on.MatchString(features)
}

// The messages name the place and show the segment.
func TestStrings(t *testing.T) {
	l := newLab(t, "s1")
	cap := labtest.Capture(t, l.Host("s1").CapturePort)
	if cap.String() != "port of s1/eth0" || l.Host("s1").Namespace() != l.ID()+"-s1" {
		t.Errorf("%v, %v", cap, l.Host("s1").Namespace())
	}
	s := lab.Segment{Src: netip.MustParseAddrPort("10.9.0.1:1"), Dst: netip.MustParseAddrPort("10.9.0.2:2"), Flags: lab.SYN | lab.ACK, Seq: 7}
	if got := s.String(); !strings.Contains(got, "10.9.0.1:1 > 10.9.0.2:2 [syn|ack] seq 7 ack 0") {
		t.Error(got)
	}
	if _, err := cap.SequenceGaps(lab.Tuple{Src: s.Src}); err == nil {
		t.Error("gaps of half a tuple")
	}
	if _, err := l.CaptureNetwork("nowhere"); err == nil {
		t.Error("captured nowhere")
	}
}
