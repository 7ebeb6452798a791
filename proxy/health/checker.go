package health

import (
	"context"
	"net"
	"net/netip"
	"regexp"
	"sync"
	"time"
)

// Config says how servers are checked.
type Config struct {
	Interval, Timeout time.Duration  // both > 0; Timeout is for the whole check
	Rise, Fall        int            // checks in a row that make a verdict, at least 1
	Send              string         // written after connecting
	Expect            *regexp.Regexp // must match in the first 16 KiB that come back; nil: nothing is read

	// Dialer is how servers are reached: its LocalAddr and Control for a source
	// address and marks. Its time-outs and keep-alive are not used.
	Dialer net.Dialer
	// Each is called with every single check, if not nil.
	Each func(Result)
}

// Verdict is what the checks say of a server, once Rise or Fall of them in a
// row agree. It is repeated with every further check that agrees, so that one
// that comes too late does no lasting harm.
type Verdict struct {
	Server int
	Up     bool
	Gen    uint64 // of the last Recheck
	Err    error  // of the last check, if not Up
}

// Result is one check of one server.
type Result struct {
	Server       int
	Err          error     // nil: it passed
	Excused      bool      // it failed for reasons of our own, and says nothing about the server
	Immediate    bool      // ProbeNow asked for it (too), before Began
	Began, Ended time.Time // Ended is at most Timeout later, but for our own slowness
}

// Checker checks the servers of one service.
type Checker struct {
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
	servers []*watcher
}

// New returns a checker of the servers at addrs that does nothing before Run.
// Verdicts name servers by their index in addrs. What tell and the functions
// given to ProbeNow must not do is said in the package comment.
func New(cfg Config, addrs []netip.AddrPort, tell func(Verdict)) *Checker {
	c := &Checker{}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for i, addr := range addrs {
		c.servers = append(c.servers, &watcher{
			index:  i,
			cfg:    cfg,
			tell:   tell,
			prober: newProber(cfg, addr),
			now:    time.Now,
			wake:   make(chan struct{}, 1),
			done:   make(chan *probe),
		})
	}
	return c
}

// Run begins to check all servers, the first time at once. It returns; Close
// must be called.
func (c *Checker) Run() {
	for _, w := range c.servers {
		c.running.Go(func() { w.run(c.ctx) })
	}
}

// Close ends all checks and waits until nothing runs any more. Probes that
// were asked for may stay unanswered.
func (c *Checker) Close() {
	c.cancel()
	c.running.Wait()
}

// ProbeNow has a server checked by a check that begins after this call, and
// calls result, which may be nil, from another goroutine. Callers share checks.
func (c *Checker) ProbeNow(server int, result func(up bool)) {
	w := c.servers[server]
	w.ask(func() {
		if len(w.callers) == 0 {
			w.asked = w.now()
		}
		w.callers = append(w.callers, result)
	})
}

// Recheck forgets what was counted for a server. Verdicts carry gen from now
// on, and are made of checks that begin after this call.
func (c *Checker) Recheck(server int, gen uint64) {
	w := c.servers[server]
	w.ask(func() {
		w.gen, w.notBefore = gen, w.now()
		w.counter, w.excused = counter{}, 0
	})
}
