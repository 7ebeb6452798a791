package stream

import (
	"bytes"
	"math/rand/v2"
	"testing"
)

// TestWindow plays a ring against a plain slice, in sizes that make it grow.
func TestWindow(t *testing.T) {
	for seed := range uint64(300) {
		playWindow(t, seed, 1+int(seed*977)%(3*firstBuffer))
	}
}

func playWindow(t *testing.T, seed uint64, limit int) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	bufs := &lender{}
	w := window{limit: limit}
	var held []byte // what the window should hold
	var base uint64
	for range 200 {
		switch rnd.IntN(4) {
		case 0, 1:
			space := w.space(bufs)
			if (space == nil) != (len(held) == limit) || len(held)+len(space) > limit {
				t.Fatalf("seed %d: space of %d with %d held, limit %d", seed, len(space), len(held), limit)
			}
			n := min(len(space), 1+rnd.IntN(limit))
			for i := range n {
				space[i] = byte(rnd.Uint32())
			}
			held = append(held, space[:n]...)
			w.fill(n)
		case 2:
			n := rnd.IntN(len(held) + 1)
			base, held = base+uint64(n), held[n:]
			w.drop(base)
			w.drop(base - min(base, 3)) // never back
		default:
			w.trim(bufs)
		}
		compareWindow(t, &w, base, held)
	}
	w.drop(w.end + 5)
	if w.trim(bufs); w.base != w.end || bufs.out != 0 {
		t.Fatalf("seed %d: [%d,%d) and %d bytes borrowed at the end", seed, w.base, w.end, bufs.out)
	}
}

func compareWindow(t *testing.T, w *window, base uint64, held []byte) {
	t.Helper()
	a := w.at(base)
	b := w.at(base + uint64(len(a)))
	if got := join(a, b); w.base != base || !bytes.Equal(got, held) {
		t.Fatalf("window [%d,%d) holds %d bytes, not the %d at %d", w.base, w.end, len(got), len(held), base)
	}
	if w.at(w.end) != nil || base > 0 && w.at(base-1) != nil {
		t.Fatal("bytes outside of the window")
	}
}

// TestCommonPrefix has the difference at every place of every length.
func TestCommonPrefix(t *testing.T) {
	for n := range 70 {
		a := bytes.Repeat([]byte("x"), n)
		if got := commonPrefix(a, a); got != n {
			t.Errorf("%d equal bytes: %d", n, got)
		}
		for i := range n {
			b := bytes.Clone(a)
			b[i] = 'y'
			b[n-1] = 'z'
			if got := commonPrefix(a, b); got != i {
				t.Errorf("%d bytes, difference at %d: %d", n, i, got)
			}
		}
	}
}
