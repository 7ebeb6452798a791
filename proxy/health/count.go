package health

import (
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// opinion is what the counted checks say.
type opinion uint8

const (
	undecided opinion = iota // neither rise nor fall is reached
	up
	down
)

// counter counts checks in a row that agree.
type counter struct {
	opinion   opinion
	good, bad int
}

// next is the counter after one more check: rise successes in a row say up,
// fall failures down. A check on demand (not steady) only ends a row of the
// opposite.
func (c counter) next(ok, steady bool, rise, fall int) counter {
	n := 0
	if steady {
		n = 1
	}
	if ok {
		c.good, c.bad = c.good+n, 0
	} else {
		c.good, c.bad = 0, c.bad+n
	}
	switch {
	case c.good >= rise:
		c.opinion = up
	case c.bad >= fall:
		c.opinion = down
	}
	return c
}

// maxExcused is how many failures in a row our own slowness may explain.
const maxExcused = 3

// slack is how late this process may be before it suspects itself of a failed
// check: a quarter of the check's time, but not less than 20 ms, which a
// healthy busy host may be late by.
func slack(timeout time.Duration) time.Duration {
	return max(timeout/4, 20*time.Millisecond)
}

// spacing is how close probes on demand may begin to each other. Those who ask
// in between share the next one, so its answer comes after spacing and timeout
// at the latest, however many ask.
func spacing(timeout time.Duration) time.Duration { return timeout / 8 }

// window is the timing of one check as its observer saw it.
type window struct {
	due, began time.Time
	late       time.Duration // the most that the observer's own ticks came late meanwhile
}

// starved reports whether we, not the server, may have been too slow:
//
//	due ... began ............ ended
//	    |late|      |late|           either longer than slack
func (w window) starved(slack time.Duration) bool {
	return w.began.Sub(w.due) > slack || w.late > slack
}

// blame is who a failure is to be ascribed to.
type blame uint8

const (
	theirs  blame = iota // the server's own kernel said no
	unclear              // silence, or the wrong answer: maybe we were slow
	ours                 // this machine could not even ask
)

// blameFor reads a failed check's error.
func blameFor(err error) blame {
	if errors.Is(err, unix.ECONNREFUSED) {
		return theirs
	}
	for _, e := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS,
		unix.EADDRNOTAVAIL, unix.EADDRINUSE, unix.EPERM, unix.EACCES} {
		if errors.Is(err, e) {
			return ours
		}
	}
	return unclear
}
