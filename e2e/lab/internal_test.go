package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"pgregory.net/rapid"
)

func TestNft(t *testing.T) {
	v4, v6 := LAN4(1), LAN6(1)
	for _, tc := range []struct {
		match Match
		want  string
	}{
		{Match{}, ""},
		{Match{Src: v4, Dst: LAN4(2)}, "ip saddr 10.9.0.1 ip daddr 10.9.0.2"},
		{Match{Dst: v6, DPort: 80}, "ip6 daddr fd09::1 meta l4proto tcp tcp dport 80"},
		{Match{Proto: UDP, SPort: 53}, "meta l4proto udp udp sport 53"},
		{Match{Proto: ARP, Dst: v4}, "arp daddr ip 10.9.0.1 meta protocol arp"},
		{Match{Flags: FIN | ACK, Without: RST}, "meta l4proto tcp tcp flags & (fin|rst|ack) == fin|ack"},
		{Match{Without: SYN}, "meta l4proto tcp tcp flags & (syn) == 0"},
		{Match{Percent: 0.5}, "numgen random mod 10000 < 50"},
		{Match{Percent: 100, First: 3}, "numgen inc mod 4294967295 < 3"},
	} {
		got, err := tc.match.nft()
		if err != nil || got != tc.want {
			t.Errorf("%+v: %q, %v; want %q", tc.match, got, err, tc.want)
		}
	}
}

// The ring gives back what was put in, in order, and never hands out memory
// that is in use: a model with copies of the frames says what must come out.
func TestRingAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const most = 16
		r := newRing(rapid.IntRange(most, 5*most).Draw(t, "size"))
		var model [][]byte
		for i := range byte(200) {
			if rapid.Bool().Draw(t, "put") {
				buf := r.reserve(most)
				if buf == nil {
					if len(model) == 0 {
						t.Fatal("an empty ring is full")
					}
					continue
				}
				n := rapid.IntRange(1, most).Draw(t, "length")
				for j := range buf { // all that was reserved is ours
					buf[j] = i
				}
				r.commit(n, time.Time{})
				model = append(model, bytes.Repeat([]byte{i}, n))
			} else if len(model) > 0 {
				got, _, ok := r.next()
				if !ok || !bytes.Equal(got, model[0]) {
					t.Fatalf("got %v, want %v", got, model[0])
				}
				r.release()
				model = model[1:]
			}
		}
		r.close()
		for range model {
			r.next()
			r.release()
		}
		if _, _, ok := r.next(); ok {
			t.Fatal("a closed and empty ring has a frame")
		}
	})
}

// seg is a segment at an offset after the SYN's number.
func seg(isn uint32, offset, length int, flags TCPFlags) Segment {
	return Segment{Seq: isn + 1 + uint32(offset), Len: length, Flags: flags, Time: time.Unix(int64(offset), 0)}
}

func TestSequenceGaps(t *testing.T) {
	for _, isn := range []uint32{100, 1<<32 - 50, 1<<31 - 20} {
		syn := seg(isn, -1, 0, SYN)
		for name, tc := range map[string]struct {
			segs []Segment
			want string
		}{
			"none":            {[]Segment{syn, seg(isn, 0, 10, ACK), seg(isn, 10, 90, ACK), seg(isn, 100, 0, FIN)}, ""},
			"retransmission":  {[]Segment{syn, seg(isn, 0, 100, ACK), seg(isn, 40, 20, ACK), seg(isn, 99, 0, ACK)}, ""},
			"lost":            {[]Segment{syn, seg(isn, 0, 10, ACK), seg(isn, 20, 10, ACK)}, "[10,20)open"},
			"repaired":        {[]Segment{syn, seg(isn, 20, 10, ACK), seg(isn, 0, 20, ACK)}, "[0,20)filled"},
			"repaired partly": {[]Segment{syn, seg(isn, 30, 10, ACK), seg(isn, 10, 10, ACK)}, "[10,20)filled [0,10)open [20,30)open"},
			"repaired twice": {[]Segment{syn, seg(isn, 10, 10, ACK), seg(isn, 30, 10, ACK), seg(isn, 0, 40, ACK)},
				"[0,10)filled [20,30)filled"},
			"ahead without payload": {[]Segment{syn, seg(isn, 5, 0, ACK)}, "[0,5)open"},
			"FIN counts":            {[]Segment{syn, seg(isn, 0, 10, ACK|FIN), seg(isn, 11, 0, ACK)}, ""},
			"beyond FIN":            {[]Segment{syn, seg(isn, 0, 10, ACK|FIN), seg(isn, 12, 0, ACK)}, "[11,12)open"},
			"RST is not counted":    {[]Segment{syn, seg(isn, 500, 0, RST)}, ""},
			"SYN again":             {[]Segment{syn, syn, seg(isn, 0, 10, ACK), syn}, ""},
			"no SYN":                {[]Segment{seg(isn, 50, 10, ACK), seg(isn, 70, 10, ACK)}, "[10,20)open"},
			"tuple used again": {[]Segment{syn, seg(isn, 5, 5, ACK), seg(isn+7777, -1, 0, SYN), seg(isn+7777, 0, 5, ACK),
				seg(isn+7777, 6, 1, ACK)}, "[0,5)open [5,6)open"},
		} {
			var g gapFinder
			for _, s := range tc.segs {
				g.add(s)
			}
			if got := describe(append(g.filled, g.open...)); got != tc.want {
				t.Errorf("isn %d, %s: %q, want %q", isn, name, got, tc.want)
			}
		}
	}
}

func describe(gaps []Gap) (text string) {
	for i, g := range gaps {
		if i > 0 {
			text += " "
		}
		state := "filled"
		if g.Filled.IsZero() {
			state = "open"
		}
		text += fmt.Sprintf("[%d,%d)%s", g.From, g.To, state)
	}
	return text
}

// Beyond 4 GiB the offsets go on: every segment follows the one before.
func TestSequenceGapsWrapAround(t *testing.T) {
	g := gapFinder{}
	g.add(seg(7, -1, 0, SYN))
	const step, steps = 1 << 30, 20
	for i := range steps {
		g.add(Segment{Seq: 8 + uint32(i*step%(1<<32)), Len: step})
	}
	if g.end != steps*step || len(g.open)+len(g.filled) > 0 {
		t.Errorf("end %d, gaps %v", g.end, append(g.open, g.filled...))
	}
}

// Segments of a stream in any order leave exactly the gaps that a bitmap says.
func TestSequenceGapsAgainstModel(t *testing.T) {
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 0))
		isn, seen, top := rng.Uint32(), make([]bool, 300), 0
		g := gapFinder{}
		g.add(seg(isn, -1, 0, SYN))
		for range 20 {
			from, length := rng.IntN(250), rng.IntN(50)
			g.add(seg(isn, from, length, ACK))
			for i := from; i < from+length; i++ {
				seen[i] = true
			}
			top = max(top, from+length)
		}
		open := slices.Repeat([]bool{true}, 300)
		for _, gap := range g.open {
			for i := gap.From; i < gap.To; i++ {
				open[i] = false
			}
		}
		if !slices.Equal(open[:top], seen[:top]) {
			t.Fatalf("seed %d: open gaps %v", seed, describe(g.open))
		}
	}
}

// captureOf is a capture without a ring, for what needs no network.
func captureOf(limit int, frames ...[]byte) *Capture {
	c := &Capture{where: "nowhere", limit: limit, lab: &Lab{}, quit: make(chan struct{})}
	for i, f := range frames {
		c.keep(f, gopacket.CaptureInfo{Timestamp: time.Unix(int64(i), 0), Length: len(f)})
	}
	return c
}

// A capture that is full keeps what it has, and every answer says that there
// was more.
func TestCaptureIsBounded(t *testing.T) {
	c := captureOf(2, []byte("one"), []byte("two"), []byte("three"))
	n, err := c.Frames()
	if n != 2 || !errors.Is(err, ErrFramesLost) {
		t.Errorf("%d frames, error %v", n, err)
	}
	if _, err := c.RSTsTo(VIP4); !errors.Is(err, ErrFramesLost) {
		t.Errorf("a question: %v", err)
	}
	if _, err := c.EmittersOf(VIP4); !errors.Is(err, ErrFramesLost) {
		t.Errorf("a question: %v", err)
	}
	if _, err := c.BadChecksums(); !errors.Is(err, ErrFramesLost) {
		t.Errorf("a question: %v", err)
	}
	if err := c.WritePcap("/dev/null"); !errors.Is(err, ErrFramesLost) {
		t.Errorf("a file: %v", err)
	}
	c.Reset()
	if n, err := c.Frames(); n != 0 || err != nil {
		t.Errorf("after Reset: %d frames, error %v", n, err)
	}
}

// Frames that are damaged or no TCP are passed over.
func TestOddFrames(t *testing.T) {
	long := bytes.Repeat([]byte{0xff}, 300)
	v4 := append(append(make([]byte, 12), 0x08, 0x00), 0x45)
	v6 := append(append(make([]byte, 12), 0x86, 0xdd), 0x60)
	c := captureOf(100, nil, []byte("x"), make([]byte, 14), v4, v6, long)
	if segs, err := c.Segments(Tuple{}); err != nil || len(segs) != 0 {
		t.Errorf("%v, %v", segs, err)
	}
	if e, err := c.EmittersOf(netip.IPv4Unspecified()); err != nil || len(e) != 0 {
		t.Errorf("%v, %v", e, err)
	}
	if n := len(c.frames[5].data); n != snapLen {
		t.Errorf("%d bytes of a long frame kept", n)
	}
}

// A segment that is damaged on the cable is refused with offloads off. With
// them its checksum is nobody's business, which is why the option exists.
func TestOffloadsHideChecksumErrors(t *testing.T) {
	for _, off := range []bool{true, false} {
		l := rootLab(t, Options{Hosts: Standard("client", "s1"), NoOffloads: off})
		ln, err := l.Host("s1").Listen("tcp", ":7")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		dial := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			defer cancel()
			c, err := l.Host("client").DialContext(ctx, "tcp", "10.9.0.11:7")
			if err == nil {
				err = c.Close()
			}
			return err
		}
		if err := dial(); err != nil {
			t.Fatal(err)
		}
		// The window is written over without a new checksum.
		if err := l.nft(`table netdev damage {
			chain c { type filter hook ingress device "client" priority 0; tcp dport 7 @th,112,16 set 0x1234; }
		}`); err != nil {
			t.Fatal(err)
		}
		if err := dial(); (err != nil) != off {
			t.Errorf("offloads off: %v; connection with damaged segments: %v", off, err)
		}
	}
}

// rootLab is labtest.New, which can't be imported here.
func rootLab(t *testing.T, opt Options) *Lab {
	t.Helper()
	if os.Geteuid() != 0 && os.Getenv("CI") != "true" {
		t.Skip("network namespaces need root")
	}
	l, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// A capture whose ring nobody empties loses frames, and says so.
func TestKernelDropsAreTold(t *testing.T) {
	l := rootLab(t, Options{Hosts: Standard("client")})
	c, err := l.Host("client").Capture()
	if err != nil {
		t.Fatal(err)
	}
	c.mu.Lock() // the reader waits
	flood(t, l.Host("client"), blockBytes*ringBlocks/slotBytes+100)
	c.mu.Unlock()
	if _, err := c.Segments(Tuple{}); !errors.Is(err, ErrFramesLost) {
		t.Errorf("error %v", err)
	}
	c.Reset()
	if n, err := c.Frames(); n > 100 || err != nil {
		t.Errorf("after Reset: %d frames, error %v", n, err)
	}
}

// flood sends n broadcast frames.
func flood(t *testing.T, h *Host, n int) {
	t.Helper()
	err := h.Do(func() error {
		f, ifindex, err := openPacket(h.Interface())
		if err != nil {
			return err
		}
		defer f.Close()
		if err := bindPacket(f, ifindex); err != nil {
			return err
		}
		frame := append(make([]byte, 10), bytes.Repeat([]byte{0xff}, 60)...) // virtio header first
		for range n {
			if _, err := f.Write(frame); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}
