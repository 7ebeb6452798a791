package lab_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/lab/labtest"
)

// sendStream sends n bytes that depend on the seed.
func sendStream(w io.Writer, seed byte, n int64) error {
	_, err := io.CopyN(w, rand.NewChaCha8([32]byte{seed}), n)
	return err
}

// exchange sends n bytes and receives other n at the same time.
func exchange(c net.Conn, send, want byte, n int64) error {
	sent := make(chan error, 1)
	go func() { sent <- sendStream(c, send, n) }()
	return errors.Join(receive(c, want, n), <-sent)
}

// transfer sends n bytes each way at the same time, and compares both
// streams. It returns how long it took.
func transfer(t *testing.T, from, to *lab.Host, addr netip.Addr, n int64) time.Duration {
	t.Helper()
	served := make(chan error, 1)
	ln := must[net.Listener](t)(to.Listen("tcp", ":0"))
	defer ln.Close()
	go func() {
		c, err := ln.Accept()
		if err == nil {
			defer c.Close()
			err = exchange(c, 2, 1, n)
		}
		served <- err
	}()
	start := time.Now()
	c := dial(t, from, netip.AddrPortFrom(addr, uint16(ln.Addr().(*net.TCPAddr).Port)))
	check(t, exchange(c, 1, 2, n))
	check(t, <-served)
	took := time.Since(start)
	check(t, c.Close())
	return took
}

// receive compares n bytes with what sendStream sends.
func receive(r io.Reader, seed byte, n int64) error {
	got, want := sha256.New(), sha256.New()
	if have, err := io.CopyN(got, r, n); err != nil {
		return fmt.Errorf("after %d bytes: %w", have, err)
	}
	if err := sendStream(want, seed, n); err != nil {
		return err
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		return errors.New("the bytes differ")
	}
	return nil
}

// Random loss loses frames in its direction only, the stream stays whole, and
// a capture behind the loss sees the gaps and their repair.
func TestLoss(t *testing.T) {
	l := labtest.New(t, lab.Options{Hosts: lab.Standard("client", "s1"), NoOffloads: true})
	client, s1 := l.Host("client"), l.Host("s1")
	at := labtest.Capture(t, s1.Capture)
	f := labtest.Inject(t)(s1.Loss(lab.In, 2))
	transfer(t, client, s1, s1.Addr4(), 2<<20)
	n := must[uint64](t)(f.Dropped())
	if total := must[int](t)(at.Frames()); n == 0 || n > uint64(total)/10 {
		t.Errorf("%d lost of about %d", n, total)
	}
	segs := must[[]lab.Segment](t)(at.Segments(lab.Tuple{Src: netip.AddrPortFrom(client.Addr4(), 0)}))
	there := lab.Tuple{Src: segs[0].Src, Dst: segs[0].Dst}
	gaps := must[[]lab.Gap](t)(at.SequenceGaps(there))
	if len(gaps) == 0 {
		t.Error("the capture behind the loss has no gap")
	}
	for _, g := range gaps {
		if g.Filled.IsZero() {
			t.Errorf("gap %v", g)
		}
	}
	if gaps := must[[]lab.Gap](t)(at.SequenceGaps(there.Reverse())); len(gaps) > 0 {
		t.Errorf("gaps where the sender is: %v", gaps)
	}
}

// A limit can be seen as a least time: noise makes a transfer slower only.
func TestRate(t *testing.T) {
	l := newLab(t, "client", "s1")
	client, s1 := l.Host("client"), l.Host("s1")
	const bytes, rate = 1 << 20, 10e6
	const least = time.Duration(float64(bytes-128<<10) * 8 / rate * float64(time.Second)) // but for the bucket
	for _, dir := range []lab.Dir{lab.In, lab.Out} {
		f := labtest.Inject(t)(s1.Rate(dir, rate))
		if took := transfer(t, client, s1, s1.Addr4(), bytes); took < least {
			t.Errorf("%v: %d bytes in %v, want at least %v", f, bytes, took, least)
		}
		labtest.Undo(t, f)
	}
	var best time.Duration = 1 << 62
	for range 5 { // not limited any more: one of them shows it
		best = min(best, transfer(t, client, s1, s1.Addr4(), bytes))
	}
	if best >= least {
		t.Errorf("without a limit %v at best, with it at least %v", best, least)
	}
}

// Each direction has its own delay, seen as a least time; streams pass whole,
// with super-frames and without.
func TestDelay(t *testing.T) {
	for _, noOffloads := range []bool{false, true} {
		t.Run(fmt.Sprintf("NoOffloads=%v", noOffloads), func(t *testing.T) {
			l := labtest.New(t, lab.Options{Hosts: lab.Standard("client", "s1"), NoOffloads: noOffloads})
			client, s1 := l.Host("client"), l.Host("s1")
			serve(t, s1, 7, echo)
			f := labtest.Inject(t)(s1.Delay(5*time.Millisecond, 30*time.Millisecond))
			both(t, func(t *testing.T, addr func(*lab.Host) netip.Addr) {
				c := dial(t, client, netip.AddrPortFrom(addr(s1), 7))
				start := time.Now()
				check(t, roundTrip(c, "hello"))
				if took := time.Since(start); took < 35*time.Millisecond {
					t.Errorf("there and back in %v", took)
				}
				transfer(t, client, s1, addr(s1), 4<<20)
			})
			if n := must[uint64](t)(f.Dropped()); n > 0 {
				t.Errorf("the relay lost %d frames", n)
			}
		})
	}
}

// The delays are where they should be: half of the way is seen by a capture
// at each end of the relay.
func TestDelayPerDirection(t *testing.T) {
	l := newLab(t, "client", "s1")
	client, s1 := l.Host("client"), l.Host("s1")
	serve(t, s1, 7, echo)
	const in, out = 20 * time.Millisecond, 50 * time.Millisecond
	labtest.Inject(t)(s1.Delay(in, out))
	atClient, atServer := labtest.Capture(t, client.Capture), labtest.Capture(t, s1.CapturePort)
	check(t, roundTrip(dial(t, client, netip.AddrPortFrom(s1.Addr4(), 7)), "hello"))
	flag := func(c *lab.Capture, want lab.TCPFlags) time.Time {
		segs := must[[]lab.Segment](t)(c.Select(func(s lab.Segment) bool { return s.Flags == want }))
		if len(segs) == 0 {
			t.Fatalf("%v has no %v", c, want)
		}
		return segs[0].Time
	}
	if d := flag(atServer, lab.SYN).Sub(flag(atClient, lab.SYN)); d < in {
		t.Errorf("in: %v, want %v", d, in)
	}
	if d := flag(atClient, lab.SYN|lab.ACK).Sub(flag(atServer, lab.SYN|lab.ACK)); d < out {
		t.Errorf("out: %v, want %v", d, out)
	}
}

// Other faults of the link work the same with and without a relay, whichever
// came first, and survive its coming and going.
func TestDelayWithOtherFaults(t *testing.T) {
	l := newLab(t, "client", "s1")
	client, s1 := l.Host("client"), l.Host("s1")
	serve(t, s1, 7, echo)
	serve(t, s1, 8, echo)
	c := dial(t, client, netip.AddrPortFrom(s1.Addr4(), 7))
	refused := func(dir string) {
		t.Helper()
		if _, err := client.DialContext(within(t, 100*time.Millisecond), "tcp", "10.9.0.11:8"); !timedOut(err) {
			t.Errorf("%s: error %v", dir, err)
		}
		check(t, roundTrip(c, dir))
	}
	for _, m := range []lab.Match{{Dir: lab.In, DPort: 8}, {Dir: lab.Out, SPort: 8}} {
		before := labtest.Inject(t)(s1.Drop(m))
		refused("before the delay")
		delay := labtest.Inject(t)(s1.Delay(time.Millisecond, time.Millisecond))
		refused("with the delay")
		during := labtest.Inject(t)(s1.Drop(m))
		labtest.Undo(t, before)
		refused("made with the delay")
		cut := labtest.Inject(t)(s1.LinkDown())
		silent(t, c)
		labtest.Undo(t, cut)
		answers(t, c)
		if _, err := s1.Delay(0, 0); err == nil {
			t.Error("delayed twice")
		}
		labtest.Undo(t, delay)
		refused("after the delay")
		labtest.Undo(t, during)
		check(t, roundTrip(dial(t, client, netip.MustParseAddrPort("10.9.0.11:8")), "x"))
	}
}

// A limit in front of a relay stays in front of it.
func TestRateWithDelay(t *testing.T) {
	l := newLab(t, "client", "s1")
	client, s1 := l.Host("client"), l.Host("s1")
	labtest.Inject(t)(s1.Rate(lab.In, 20e6))
	f := labtest.Inject(t)(s1.Delay(time.Millisecond, time.Millisecond))
	if took := transfer(t, client, s1, s1.Addr4(), 1<<20); took < 300*time.Millisecond {
		t.Errorf("1 MiB in %v", took)
	}
	labtest.Undo(t, f)
	if took := transfer(t, client, s1, s1.Addr4(), 1<<20); took < 300*time.Millisecond {
		t.Errorf("without the delay: 1 MiB in %v", took)
	}
}

func BenchmarkThroughput(b *testing.B) {
	for _, delay := range []time.Duration{-1, 0, 2 * time.Millisecond} {
		for _, noOffloads := range []bool{false, true} {
			b.Run(fmt.Sprintf("delay=%v/NoOffloads=%v", delay, noOffloads), func(b *testing.B) {
				benchmarkStream(b, delay, noOffloads)
			})
		}
	}
}

// benchmarkStream sends megabytes through a relay, or past it when the delay
// is negative.
func benchmarkStream(b *testing.B, delay time.Duration, noOffloads bool) {
	l := labtest.New(b, lab.Options{Hosts: lab.Standard("client", "s1"), NoOffloads: noOffloads})
	if delay >= 0 {
		labtest.Inject(b)(l.Host("s1").Delay(delay, delay))
	}
	ln, err := l.Host("s1").Listen("tcp", ":7")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	go func() {
		if c, err := ln.Accept(); err == nil {
			_, _ = io.Copy(io.Discard, c)
		}
	}()
	c, err := l.Host("client").Dial("tcp", "10.9.0.11:7")
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	b.SetBytes(1 << 20)
	buf := make([]byte, 1<<20)
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
	}
}
