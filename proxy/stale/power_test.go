package stale

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"
)

// sector is what a disk writes whole, at best; torn sectors are tried too.
const sector = 512

var errNoPower = errors.New("no power")

// fragileDisk is a disk that may lose its power, or fail, before any of its
// operations. What was not synced by then is there in part, in any order.
type fragileDisk struct {
	rng      *rand.Rand
	synced   []byte
	unsynced [][2]any // offset, bytes
	left     int      // operations until the power goes
	failing  bool     // every third operation fails
}

func (d *fragileDisk) operate() error {
	if d.left--; d.left < 0 {
		return errNoPower
	}
	if d.failing && d.rng.IntN(3) == 0 {
		return errors.New("input/output error")
	}
	return nil
}

func (d *fragileDisk) WriteAt(b []byte, off int64) (int, error) {
	err := d.operate()
	if !errors.Is(err, errNoPower) || d.left == -1 { // the last one may be under way
		d.unsynced = append(d.unsynced, [2]any{off, bytes.Clone(b)})
	}
	return len(b), err
}

func (d *fragileDisk) datasync() error {
	if err := d.operate(); err != nil {
		return err
	}
	for _, w := range d.unsynced {
		copy(d.synced[w[0].(int64):], w[1].([]byte))
	}
	d.unsynced = nil
	return nil
}

func (d *fragileDisk) Close() error { return nil }

// afterPowerLoss is one of the images that may be found.
func (d *fragileDisk) afterPowerLoss() image {
	img := bytes.Clone(d.synced)
	for _, w := range d.unsynced {
		off, b := int(w[0].(int64)), w[1].([]byte)
		for at := 0; at < len(b); at += sector {
			if n := min(sector, len(b)-at); d.rng.IntN(2) == 0 {
				copy(img[off+at:], b[at:at+d.rng.IntN(n+1)])
			}
		}
	}
	return image{img[:slotSize], img[slotSize:]}
}

// TestPowerLoss: whenever the power goes, and whatever failed before, what is
// read is what was last confirmed, or what was being written since.
func TestPowerLoss(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	if n, err := strconv.ParseUint(os.Getenv("STTCP_SEED"), 10, 64); err == nil {
		seed = n
	}
	rng := rand.New(rand.NewPCG(seed, 2))
	fresh := slotWith(t, state{seq: 1})
	runs := 1000
	if os.Getenv("STTCP_FULL") != "" {
		runs = 50_000
	}
	t.Logf("seed %d, %d runs (STTCP_SEED repeats it)", seed, runs)
	for n := range runs {
		d := &fragileDisk{rng: rng, synced: slices.Concat(fresh, fresh), left: rng.IntN(60), failing: n%2 == 0}
		allowed := useUntilDark(d, rng)
		for range 3 {
			st, _, _, err := d.afterPowerLoss().read()
			if err != nil {
				t.Fatalf("seed %d, run %d: %v", seed, n, err)
			}
			if !slices.ContainsFunc(allowed, func(e []Entry) bool { return reflect.DeepEqual(e, emptyIsNil(st.entries)) }) {
				t.Fatalf("seed %d, run %d: found %v, may be %v", seed, n, st.entries, allowed)
			}
		}
	}
}

// cached is what a process reads while there is power.
func (d *fragileDisk) cached() image {
	img := bytes.Clone(d.synced)
	for _, w := range d.unsynced {
		copy(img[w[0].(int64):], w[1].([]byte))
	}
	return image{img[:slotSize], img[slotSize:]}
}

// useUntilDark uses a store until its disk has no power, and returns what may
// be found on it: what was confirmed last and every attempt since. The process
// is killed and started again now and then.
func useUntilDark(d *fragileDisk, rng *rand.Rand) [][]Entry {
	s := &Store{file: d, st: state{seq: 1}}
	allowed := [][]Entry{nil}
	for d.left >= 0 {
		var attempt []Entry
		var err error
		if rng.IntN(4) == 0 {
			// A process whose Open fails goes no further; there is another one.
			for err = restart(s, d); err != nil && d.left >= 0; err = restart(s, d) {
				allowed = append(allowed, emptyIsNil(s.st.entries))
			}
			attempt = s.st.entries
		} else {
			attempt, err = changeOne(s, fmt.Sprint("s", rng.IntN(20)), string(bytes.Repeat([]byte("lag"), rng.IntN(80))))
		}
		allowed = append(allowed, emptyIsNil(attempt))
		if err == nil {
			allowed = [][]Entry{emptyIsNil(s.List())}
		}
	}
	return allowed
}

// restart opens the store as the next process does.
func restart(s *Store, d *fragileDisk) error {
	st, slot, copied, err := d.cached().read()
	if err != nil {
		return err
	}
	s.st, s.slot, s.unsure = st, slot, true
	return s.repair(copied)
}

// changeOne marks a server, or clears it if it is marked, and returns what
// that is to lead to.
func changeOne(s *Store, name, reason string) ([]Entry, error) {
	attempt := slices.Clone(s.st.entries)
	e := Entry{"web", name, reason, noon}
	i, found := slices.BinarySearchFunc(attempt, e, compare)
	if found {
		return slices.Delete(attempt, i, i+1), s.Clear("web", name)
	}
	return slices.Insert(attempt, i, e), s.Mark("web", name, reason, noon)
}

// emptyIsNil makes the same of both, since JSON tells them apart.
func emptyIsNil(e []Entry) []Entry {
	if len(e) == 0 {
		return nil
	}
	return e
}
