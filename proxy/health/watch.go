package health

import (
	"context"
	"slices"
	"sync"
	"time"
)

// probe is one check under way.
type probe struct {
	window
	ended   time.Time
	err     error
	steady  bool            // the interval asked for it
	callers []func(up bool) // so did these
}

// watcher checks one server.
type watcher struct {
	// Constant.
	index  int
	cfg    Config
	tell   func(Verdict)
	prober prober
	now    func() time.Time
	wake   chan struct{} // something was asked for
	done   chan *probe

	// Guarded by mu.
	mu        sync.Mutex
	callers   []func(up bool) // whom no check serves yet
	asked     time.Time       // by the first of them
	counter   counter
	gen       uint64
	notBefore time.Time // checks that began earlier do not count
	excused   int       // failures in a row

	// Owned by run.
	due    time.Time // of the next check by interval
	last   time.Time // when the last check on demand began
	flying []*probe  // at most one of them steady
	alive  time.Time // when run last looked
}

// ask changes what mu guards, and has run look at it.
func (w *watcher) ask(change func()) {
	w.mu.Lock()
	change()
	w.mu.Unlock()
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run checks until ctx ends, then waits for what is under way.
func (w *watcher) run(ctx context.Context) {
	w.due = w.now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		var ended *probe
		select {
		case <-ctx.Done():
			for range w.flying {
				<-w.done
			}
			return
		case ended = <-w.done:
		case <-w.wake:
		case <-timer.C:
		}
		w.look()
		if ended != nil {
			w.land(ctx, ended)
		}
		w.launch(ctx)
		timer.Reset(w.rest())
	}
}

// pulse is how often run looks up while a check is under way, to find out
// whether it could have.
func (w *watcher) pulse() time.Duration { return slack(w.cfg.Timeout) / 2 }

// look notes how late run is, for the checks under way.
func (w *watcher) look() {
	now := w.now()
	late := now.Sub(w.alive) - w.pulse()
	w.alive = now
	for _, p := range w.flying {
		p.late = max(p.late, late)
	}
}

// launch begins the checks that are due or asked for; one may serve both.
func (w *watcher) launch(ctx context.Context) {
	now := w.now()
	if !w.steadyFlies() && !now.Before(w.due) {
		w.begin(ctx, &probe{window: window{due: w.due}, steady: true})
		w.due = now.Add(w.cfg.Interval)
	}
	if at, asked := w.demand(); asked && !now.Before(at) {
		w.begin(ctx, &probe{window: window{due: at}})
		w.last = now
	}
}

// rest is how long run may sleep.
func (w *watcher) rest() time.Duration {
	now := w.now()
	d := w.cfg.Interval
	if !w.steadyFlies() {
		d = w.due.Sub(now)
	}
	if at, asked := w.demand(); asked {
		d = min(d, at.Sub(now))
	}
	if len(w.flying) > 0 {
		d = min(d, w.pulse())
	}
	return d
}

// demand returns when the next check on demand is to begin, if one is asked for.
func (w *watcher) demand() (at time.Time, asked bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return later(w.asked, w.last.Add(spacing(w.cfg.Timeout))), len(w.callers) > 0
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func (w *watcher) steadyFlies() bool {
	return slices.ContainsFunc(w.flying, func(p *probe) bool { return p.steady })
}

// begin starts a check, which also serves whoever has asked for one until now.
func (w *watcher) begin(ctx context.Context, p *probe) {
	w.mu.Lock()
	p.began = w.now() // under the lock: whom it serves asked before
	p.callers, w.callers = w.callers, nil
	w.mu.Unlock()
	w.flying = append(w.flying, p)
	go func() {
		p.err = w.prober.check(ctx)
		p.ended = w.now()
		w.done <- p
	}()
}

// land counts a finished check and tells whom it concerns.
func (w *watcher) land(ctx context.Context, p *probe) {
	w.flying = slices.DeleteFunc(w.flying, func(f *probe) bool { return f == p })
	if p.steady { // with a time-out longer than the interval it is due only now
		w.due = later(w.due, p.ended)
	}
	if ctx.Err() != nil {
		return // it may have failed because of Close
	}
	excused, verdict := w.judge(p)
	if w.cfg.Each != nil {
		w.cfg.Each(Result{Server: w.index, Err: p.err, Excused: excused, Immediate: len(p.callers) > 0,
			Began: p.began, Ended: p.ended})
	}
	if verdict != nil {
		w.tell(*verdict)
	}
	if excused {
		w.ask(func() { w.callers, w.asked = append(p.callers, w.callers...), w.now() })
		return
	}
	for _, result := range p.callers {
		if result != nil {
			result(p.err == nil)
		}
	}
}

// judge counts a check, unless it is excused, or began before the last Recheck
// or before one that is counted already: what is older is not news. It returns
// the verdict that there is and that the check agrees with.
func (w *watcher) judge(p *probe) (excused bool, v *Verdict) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if excused = w.excuse(p); excused || p.began.Before(w.notBefore) {
		return excused, nil
	}
	w.notBefore = p.began
	w.counter = w.counter.next(p.err == nil, p.steady, w.cfg.Rise, w.cfg.Fall)
	said := down
	if p.err == nil {
		said = up
	}
	if w.counter.opinion != said {
		return false, nil
	}
	return false, &Verdict{Server: w.index, Up: said == up, Gen: w.gen, Err: p.err}
}

// excuse reports whether a failed check is not to count, see the package
// comment.
func (w *watcher) excuse(p *probe) bool {
	if p.err == nil {
		w.excused = 0
		return false
	}
	switch blameFor(p.err) {
	case ours:
		return true
	case unclear:
		if p.starved(slack(w.cfg.Timeout)) && w.excused < maxExcused {
			w.excused++
			return true
		}
	}
	return false
}
