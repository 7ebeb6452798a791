package lab

import (
	"fmt"
	"slices"
	"time"
)

// Gap is a range of a direction's sequence space that was passed over.
type Gap struct {
	// From and To are offsets: 0 is the first byte after SYN, or the first
	// sequence number seen when the capture has no SYN. FIN counts one.
	From, To int64
	// Opened is when a segment beyond the gap passed.
	Opened time.Time
	// Filled is when the gap was closed; zero if it never was.
	Filled time.Time
}

// String is like "[1448, 2896) never filled".
func (g Gap) String() string {
	if g.Filled.IsZero() {
		return fmt.Sprintf("[%d, %d) never filled", g.From, g.To)
	}
	return fmt.Sprintf("[%d, %d) filled after %v", g.From, g.To, g.Filled.Sub(g.Opened))
}

// SequenceGaps returns the gaps in one direction of one connection (all four
// fields of the tuple given), filled ones first: what a loss before this
// place and its repair leave, or a sender that went on at the wrong sequence
// number. Segments without payload count, too: they say where the sender is.
// A SYN with another number starts a new connection of the same tuple.
func (c *Capture) SequenceGaps(t Tuple) ([]Gap, error) {
	if !t.Src.IsValid() || !t.Dst.IsValid() || t.Src.Port() == 0 || t.Dst.Port() == 0 {
		return nil, fmt.Errorf("find sequence gaps of %v: not one connection", t)
	}
	segs, err := c.Segments(t)
	var g gapFinder
	for _, s := range segs {
		g.add(s)
	}
	return append(g.filled, g.open...), err
}

// gapFinder follows one direction of a connection.
//
//	first                         next
//	  |======|  open  |====| open |
//	  0                           end
type gapFinder struct {
	started bool
	isn     uint32 // of the SYN, if one was seen
	next    uint32 // sequence number of end, modulo 2^32
	end     int64  // offset up to which segments have been seen
	open    []Gap  // by offset
	filled  []Gap
}

// add takes the next segment of the direction, in the order of capture.
func (g *gapFinder) add(s Segment) {
	if s.Flags&RST != 0 {
		return // its number may be anything
	}
	if s.Flags&SYN != 0 {
		if !g.started || s.Seq != g.isn {
			*g = gapFinder{started: true, isn: s.Seq, next: s.Seq + 1,
				filled: append(g.filled, g.open...)}
		}
		return
	}
	if !g.started {
		g.started, g.next = true, s.Seq
	}
	// The distance from end is signed: less than 2 GiB either way.
	from := g.end + int64(int32(s.Seq-g.next))
	to := from + int64(s.Len)
	if s.Flags&FIN != 0 {
		to++
	}
	g.cover(from, to, s.Time)
}

// cover notes that [from, to) passed.
func (g *gapFinder) cover(from, to int64, at time.Time) {
	if from > g.end {
		g.open = append(g.open, Gap{From: g.end, To: from, Opened: at})
	}
	g.fill(from, to, at)
	if to > g.end {
		g.next += uint32(to - g.end)
		g.end = to
	}
}

// fill takes [from, to) out of the open gaps.
func (g *gapFinder) fill(from, to int64, at time.Time) {
	for i := 0; i < len(g.open); i++ {
		gap := g.open[i]
		lo, hi := max(from, gap.From), min(to, gap.To)
		if lo >= hi {
			continue
		}
		g.filled = append(g.filled, Gap{From: lo, To: hi, Opened: gap.Opened, Filled: at})
		var rest []Gap
		if gap.From < lo {
			rest = append(rest, Gap{From: gap.From, To: lo, Opened: gap.Opened})
		}
		if hi < gap.To {
			rest = append(rest, Gap{From: hi, To: gap.To, Opened: gap.Opened})
		}
		g.open = slices.Replace(g.open, i, i+1, rest...)
		i += len(rest) - 1
	}
}
