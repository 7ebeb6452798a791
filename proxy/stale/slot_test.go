package stale

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// someState has n entries with long reasons, so that a few fill several blocks.
func someState(seq uint64, n int) state {
	st := state{seq: seq}
	for i := range n {
		st.entries = append(st.entries, Entry{"db", fmt.Sprintf("s%03d", i), strings.Repeat("why ", 50), noon})
	}
	return st
}

// slotWith is a whole slot with that state in it.
func slotWith(t testing.TB, st state) []byte {
	buf, err := encode(st)
	if err != nil {
		t.Fatal(err)
	}
	return append(buf, make([]byte, slotSize-len(buf))...)
}

// TestTornAtEveryByte tears an update after each of its bytes, from the front
// and from the back (disks may write blocks in any order): the old or the new
// state is read, never an error and never anything else.
func TestTornAtEveryByte(t *testing.T) {
	for _, sizes := range [][2]int{{2, 3}, {40, 41}, {41, 40}, {40, 0}} {
		slot, next := slotWith(t, someState(7, sizes[0])), slotWith(t, someState(8, sizes[1]))
		old, want := mustVerify(t, slot), mustVerify(t, next)
		front, back := bytes.Clone(slot), bytes.Clone(slot)
		written := len(mustEncode(t, someState(8, sizes[1])))
		for k := range written + 1 {
			if k > 0 {
				front[k-1], back[written-k] = next[k-1], next[written-k]
			}
			for _, torn := range [][]byte{front, back} {
				checkTorn(t, k, image{slot, torn}, old, want)
				checkTorn(t, k, image{torn, slot}, old, want)
				checkTorn(t, k, image{next, torn}, want, want) // the copy: what counts is synced already
			}
		}
		checkTorn(t, written, image{slot, front}, want, want)
		checkTorn(t, written, image{back, slot}, want, want)
	}
}

func mustEncode(t testing.TB, st state) []byte {
	buf, err := encode(st)
	if err != nil {
		t.Fatal(err)
	}
	return buf
}

func mustVerify(t testing.TB, slot []byte) content {
	c, err := verify(slot)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func checkTorn(t *testing.T, k int, img image, allowed ...content) {
	got, _, _, err := img.pick()
	for _, c := range allowed {
		if err == nil && got.seq == c.seq && bytes.Equal(got.payload, c.payload) {
			return
		}
	}
	t.Fatalf("torn after %d bytes: read sequence %d, %v", k, got.seq, err)
}

// TestTornWhole: the complete write counts, whichever slot it is in.
func TestTornWhole(t *testing.T) {
	a, b := slotWith(t, someState(1, 1)), slotWith(t, someState(2, 2))
	for i, img := range []image{{a, b}, {b, a}} {
		st, slot, copied, err := img.read()
		if err != nil || st.seq != 2 || slot != 1-i || copied {
			t.Errorf("image %d: sequence %d in slot %d, copied %v, %v", i, st.seq, slot, copied, err)
		}
	}
	if st, slot, copied, err := (image{b, b}).read(); err != nil || st.seq != 2 || slot != 0 || !copied {
		t.Errorf("copied: sequence %d in slot %d, copied %v, %v", st.seq, slot, copied, err)
	}
}

// TestFlippedBits flips every bit that carries something: in one slot the
// other is taken, in both it is an error, and never a wrong state.
func TestFlippedBits(t *testing.T) {
	want := someState(9, 3)
	good := slotWith(t, want)
	used := headerSize + int(binary.LittleEndian.Uint32(good[12:]))
	for bit := range used * 8 {
		bad := bytes.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := verify(bad); !errors.Is(err, errDamaged) {
			t.Fatalf("bit %d of byte %d flipped: verified, %v", bit%8, bit/8, err)
		}
		if st, _, _, err := (image{bad, bad}).read(); err == nil {
			t.Fatalf("bit %d of byte %d flipped in both: read %v", bit%8, bit/8, st)
		}
		for i, img := range []image{{bad, good}, {good, bad}} {
			if st, slot, copied, err := img.read(); err != nil || slot != 1-i || copied || !reflect.DeepEqual(st, want) {
				t.Fatalf("bit %d of byte %d flipped: %v, %v", bit%8, bit/8, st, err)
			}
		}
	}
}

// TestOtherVersion: what a newer version wrote is neither taken nor passed
// over for the older slot beside it.
func TestOtherVersion(t *testing.T) {
	newer := slotWith(t, someState(3, 1))
	binary.LittleEndian.PutUint32(newer[8:], 2)
	length := int(binary.LittleEndian.Uint32(newer[12:]))
	binary.LittleEndian.PutUint32(newer[28:], checksum(newer, length))
	for _, img := range []image{{newer, slotWith(t, someState(2, 1))}, {slotWith(t, someState(2, 1)), newer}} {
		if _, _, _, err := img.read(); !errors.Is(err, errVersion) {
			t.Errorf("read %v", err)
		}
	}
}

func TestEncodeLimits(t *testing.T) {
	n := 0
	for ; n < 5000; n++ {
		if _, err := encode(someState(1, n)); err != nil {
			if !errors.Is(err, ErrTooMany) {
				t.Fatal(err)
			}
			break
		}
	}
	if n < 200 {
		t.Errorf("only %d entries fit", n-1)
	}
	st := someState(1, n-1)
	slot := slotWith(t, st)
	if got, _, _, err := (image{slot, slot}).read(); err != nil || !reflect.DeepEqual(got, st) {
		t.Errorf("the fullest slot can't be read: %v", err)
	}
}

// FuzzRead: whatever is on disk, reading it does not fail badly, and what is
// read can be written and read again.
func FuzzRead(f *testing.F) {
	a, b := mustEncode(f, someState(1, 1)), mustEncode(f, someState(2, 2))
	f.Add(a, b)
	f.Add(a, []byte{})
	f.Add(b[:headerSize], bytes.Repeat([]byte{0xff}, headerSize))
	f.Fuzz(func(t *testing.T, a, b []byte) {
		for _, img := range []image{{a, b}, {sealed(a), b}, {sealed(a), sealed(b)}} {
			st, slot, _, err := img.read()
			if err != nil {
				continue
			}
			if other, err := verify(img[1-slot]); err == nil && other.seq > st.seq {
				t.Fatalf("took sequence %d, there is %d", st.seq, other.seq)
			}
			buf, err := encode(st)
			if errors.Is(err, ErrTooMany) {
				continue // the encoder may need more room than a foreign one
			}
			again, _, _, err2 := image{buf, nil}.read()
			if err != nil || err2 != nil || again.seq != st.seq || len(again.entries) != len(st.entries) {
				t.Fatalf("%+v: encode %v, read %v, %+v", st, err, err2, again)
			}
		}
	})
}

// sealed gives a slot the right magic, version, length and checksum, so that
// fuzzing reaches what lies behind them.
func sealed(slot []byte) []byte {
	if len(slot) < headerSize {
		return slot
	}
	slot = bytes.Clone(slot)
	copy(slot, magic[:])
	binary.LittleEndian.PutUint32(slot[8:], version)
	length := len(bytes.TrimRight(slot[headerSize:], "\x00"))
	binary.LittleEndian.PutUint32(slot[12:], uint32(length))
	binary.LittleEndian.PutUint32(slot[28:], checksum(slot, length))
	return slot
}

// TestLengths: a length that points outside is damage, however big the slot.
func TestLengths(t *testing.T) {
	for _, size := range []int{0, 1, headerSize - 1, headerSize, headerSize + 1, blockSize, slotSize} {
		for _, length := range []int{size - headerSize + 1, size, size + 1, 1 << 31, 1<<32 - 1} {
			slot := make([]byte, size)
			if size >= headerSize {
				copy(slot, magic[:])
				binary.LittleEndian.PutUint32(slot[8:], version)
				binary.LittleEndian.PutUint32(slot[12:], uint32(length))
			}
			if _, err := verify(slot); !errors.Is(err, errDamaged) {
				t.Errorf("length %d in a slot of %d: %v", length, size, err)
			}
		}
	}
}
