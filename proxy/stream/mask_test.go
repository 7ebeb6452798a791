package stream

import (
	"bytes"
	"regexp"
	"testing"
	"time"
)

var fuzzMasks = []*regexp.Regexp{
	regexp.MustCompile(`(?m)^Date: [^\r\n]*`),
	regexp.MustCompile(`id=\d+`),
	regexp.MustCompile(`\[[^\]]*\]`),
}

// FuzzMasks compares two answers that come in any pieces, and as whole texts.
func FuzzMasks(f *testing.F) {
	f.Add([]byte("a\nDate: 12\r\nb"), []byte("a\nDate: 13\r\nb"), []byte{3, 1, 4})
	f.Add([]byte("id=1 id=22\n"), []byte("id=2 id=2\n "), []byte{1})
	f.Add([]byte("x[ab]y\nz"), []byte("x[cd]y\nq"), []byte{200, 2, 7})
	f.Add([]byte("[\nDate: "), []byte("]\nDate: "), []byte{})
	f.Fuzz(func(t *testing.T, a, b, cuts []byte) {
		n := min(len(a), len(b), 2*maxLine)
		a, b = a[:n], b[:n]
		if tooLong(a) || tooLong(b) {
			t.Skip("masks apply to the start of a line only")
		}
		want, differ := firstDifference(a, b)
		got, found := firstDiverged(t, a, b, cuts)
		if found != differ || got != want {
			t.Errorf("%q and %q: the core says %v at %d, they differ: %v at %d", a, b, found, got, differ, want)
		}
	})
}

func tooLong(text []byte) bool {
	for line := range bytes.SplitSeq(text, []byte("\n")) {
		if len(line) > maxLine {
			return true
		}
	}
	return false
}

// firstDifference is what comparing means, without any buffers: line by line,
// each under the masks.
func firstDifference(a, b []byte) (off uint64, differ bool) {
	as, bs := bytes.Split(a, []byte("\n")), bytes.Split(b, []byte("\n"))
	for i := range min(len(as), len(bs)) {
		x, y := as[i], bs[i]
		if !bytes.Equal(x, y) {
			if len(x) != len(y) {
				return off + uint64(prefix(a[off:], b[off:])), true
			}
			if at, same := equalMasked(fuzzMasks, x, y); !same {
				return off + uint64(at), true
			}
		}
		off += uint64(len(x)) + 1
	}
	return 0, false
}

func prefix(a, b []byte) (n int) {
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// firstDiverged has a connection compare both, in pieces as long as cuts say,
// each leg's in turn, and a FIN at the end.
func firstDiverged(t *testing.T, a, b, cuts []byte) (off uint64, found bool) {
	cfg := &Config{Legs: 2, Both: true, Masks: fuzzMasks, Buffer: 1 << 20, Connect: time.Second,
		Idle: time.Hour, FinDelay: time.Second, Suspect: time.Second, Limit: 2 * time.Second}
	c := New(cfg, &lender{}, 2, 0, nil, 0)
	step := func(e Event) {
		c.Step(e)
		for _, act := range c.Actions() {
			if act.Type == Diverged {
				off, found = act.Off, true
			}
		}
		if c.seq > c.confirmed {
			c.Step(Event{Type: Confirmed, Seq: c.seq})
		}
	}
	step(Event{Type: LegConnected, Leg: 0})
	step(Event{Type: LegConnected, Leg: 1})
	rest := [2][]byte{a, b}
	for i := 0; len(rest[0])+len(rest[1]) > 0; i++ {
		l, n := Leg(i%2), 1
		if len(cuts) > 0 {
			n = 1 + int(cuts[i%len(cuts)])
		}
		if n = copy(c.LegSpace(l), rest[l][:min(n, len(rest[l]))]); n > 0 {
			rest[l] = rest[l][n:]
			step(Event{Type: LegRead, Leg: l, N: n})
		}
	}
	step(Event{Type: LegFIN, Leg: 0})
	step(Event{Type: LegFIN, Leg: 1})
	if !found && c.verified != uint64(len(a)) {
		t.Errorf("%q and %q: compared up to %d only", a, b, c.verified)
	}
	return off, found
}
