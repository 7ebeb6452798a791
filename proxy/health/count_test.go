package health

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestCounter plays rows of checks: + passed, - failed, by interval; p passed,
// f failed, on demand. After each the opinion: U up, D down, ? undecided.
func TestCounter(t *testing.T) {
	for _, tt := range []struct {
		rise, fall   int
		checks, want string
	}{
		{1, 1, "+-+-", "UDUD"},
		{2, 2, "+", "?"},
		{2, 2, "++", "?U"},
		{2, 2, "-+-+-+", "??????"},
		{2, 2, "--", "?D"},
		{2, 3, "++--+---+++", "?UUUUUUDDUU"},
		{2, 2, "++-p-f-", "?UUUUUD"},   // a success on demand ends the row, a failure is not part of it
		{2, 2, "--+f+p+", "?DDDDDU"},   // and the other way round
		{2, 2, "ffffpppp", "????????"}, // on demand alone nothing is decided
		{3, 1, "-++-+++-", "DDDDDDUD"},
		{2, 2, "+++++++++--", "?UUUUUUUUUD"},
	} {
		var c counter
		var got strings.Builder
		for _, check := range tt.checks {
			c = c.next(strings.ContainsRune("+p", check), strings.ContainsRune("+-", check), tt.rise, tt.fall)
			got.WriteByte("?UD"[c.opinion])
		}
		if got.String() != tt.want {
			t.Errorf("rise %d, fall %d: %s gave %s, want %s", tt.rise, tt.fall, tt.checks, got.String(), tt.want)
		}
	}
}

func TestStarved(t *testing.T) {
	const ms = time.Millisecond
	at := time.Unix(1000, 0)
	for _, tt := range []struct {
		late, gap time.Duration
		want      bool
	}{
		{0, 0, false}, {50 * ms, 50 * ms, false}, {51 * ms, 0, true}, {0, 51 * ms, true}, {-ms, -ms, false},
	} {
		w := window{due: at, began: at.Add(tt.late), late: tt.gap}
		if got := w.starved(slack(200 * ms)); got != tt.want {
			t.Errorf("%v late, %v gap: %v", tt.late, tt.gap, got)
		}
	}
	if slack(8*ms) != 20*ms || slack(2*time.Second) != 500*ms || spacing(200*ms) != 25*ms {
		t.Errorf("slack %v, %v; spacing %v", slack(8*ms), slack(2*time.Second), spacing(200*ms))
	}
}

func TestBlame(t *testing.T) {
	wrap := func(err error) error { return fmt.Errorf("connect: %w", &net.OpError{Op: "dial", Err: err}) }
	for _, tt := range []struct {
		err  error
		want blame
	}{
		{wrap(unix.ECONNREFUSED), theirs},
		{wrap(unix.ECONNRESET), unclear}, {wrap(unix.EHOSTUNREACH), unclear}, {wrap(unix.ETIMEDOUT), unclear},
		{wrap(unix.EMFILE), ours}, {wrap(unix.EADDRNOTAVAIL), ours}, {wrap(unix.EPERM), ours},
	} {
		if got := blameFor(tt.err); got != tt.want {
			t.Errorf("%v: %d, want %d", tt.err, got, tt.want)
		}
	}
}
