// Package health checks whether servers can serve: a TCP connection within a
// time-out, and if wanted an answer that matches.
//
// Checks come round at an interval, and a connection that suspects a server
// has it probed at once. A check that failed while this process itself did not
// run says nothing about the server and is not counted.
package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"sync"
	"time"
)

// Config says how servers are checked.
type Config struct {
	Interval, Timeout time.Duration
	Rise, Fall        int            // checks in a row that make a verdict, at least 1
	Send              string         // written after connecting
	Expect            *regexp.Regexp // must match what comes back; nil: nothing is read
}

// Verdict is what the checks say of a server, once Rise or Fall of them in a
// row agree. It is repeated with every further check that agrees.
type Verdict struct {
	Server int
	Up     bool
	Gen    uint64 // of the last Recheck
	Err    error  // of the last check, if not Up
}

// maxAnswer bounds what is read to find Expect in, in bytes.
const maxAnswer = 16 << 10

// maxProbes bounds how many immediate checks of one server are under way.
const maxProbes = 4

// slack is how much longer than it may a check can take before we are the
// ones that are slow.
const slack = 100 * time.Millisecond

// Checker checks the servers of one service.
type Checker struct {
	// Constant after New.
	cfg     Config
	tell    func(Verdict)
	servers []*server
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup
}

type server struct {
	// Constant after New.
	number int
	addr   netip.AddrPort

	mu      sync.Mutex // guards all that follows
	tally   tally
	gen     uint64
	probes  int          // immediate checks under way
	waiting []func(bool) // for one that has not begun
}

// New returns a checker of the servers at addrs that does nothing before Run.
// tell is called from several goroutines.
func New(cfg Config, addrs []netip.AddrPort, tell func(Verdict)) *Checker {
	c := &Checker{cfg: cfg, tell: tell}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for i, a := range addrs {
		c.servers = append(c.servers, &server{number: i, addr: a, tally: newTally(cfg)})
	}
	return c
}

// Run begins to check.
func (c *Checker) Run() {
	for _, s := range c.servers {
		c.running.Add(1)
		go c.round(s)
	}
}

// Close ends all checks and waits for them. Probes that were asked for may
// stay unanswered.
func (c *Checker) Close() {
	c.cancel()
	c.running.Wait()
}

// round checks s at every interval.
func (c *Checker) round(s *server) {
	defer c.running.Done()
	tick := time.NewTicker(c.cfg.Interval)
	defer tick.Stop()
	for {
		gen := s.generation()
		if err := c.check(s); c.ctx.Err() == nil {
			c.count(s, gen, err)
		}
		select {
		case <-c.ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// ProbeNow checks a server once, beginning after the call, and calls result
// from another goroutine. Callers may share a check.
func (c *Checker) ProbeNow(number int, result func(up bool)) {
	s := c.servers[number]
	s.mu.Lock()
	s.waiting = append(s.waiting, result)
	start := s.probes < maxProbes && c.ctx.Err() == nil
	if start {
		s.probes++
		c.running.Add(1)
	}
	s.mu.Unlock()
	if start {
		go c.probe(s)
	}
}

// probe checks s for all that wait by now, and goes on as long as some do.
func (c *Checker) probe(s *server) {
	defer c.running.Done()
	for {
		s.mu.Lock()
		waiting, gen := s.waiting, s.gen
		s.waiting = nil
		if len(waiting) == 0 || c.ctx.Err() != nil {
			s.probes--
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		err := c.check(s)
		if errors.Is(err, errSlow) {
			err = c.check(s)
		}
		for _, result := range waiting {
			result(err == nil)
		}
		c.count(s, gen, err)
	}
}

// Recheck forgets what was counted for a server. Verdicts carry gen from now
// on, and are made of checks that begin after this.
func (c *Checker) Recheck(number int, gen uint64) {
	s := c.servers[number]
	s.mu.Lock()
	s.gen, s.tally = gen, newTally(c.cfg)
	s.mu.Unlock()
	c.ProbeNow(number, func(bool) {})
}

func (s *server) generation() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gen
}

// count takes the result of a check that began in generation gen.
func (c *Checker) count(s *server, gen uint64, err error) {
	if errors.Is(err, errSlow) {
		return
	}
	s.mu.Lock()
	decided := s.gen == gen && s.tally.take(err == nil)
	s.mu.Unlock()
	if decided && c.ctx.Err() == nil {
		c.tell(Verdict{Server: s.number, Up: err == nil, Gen: gen, Err: err})
	}
}

// tally counts checks in a row that agree.
type tally struct {
	rise, fall int
	up         bool
	run        int
}

func newTally(cfg Config) tally { return tally{rise: cfg.Rise, fall: cfg.Fall} }

// take counts one check and reports whether there is a verdict, which is what
// the check said.
func (t *tally) take(up bool) (decided bool) {
	if up != t.up {
		t.up, t.run = up, 0
	}
	t.run++
	if up {
		return t.run >= t.rise
	}
	return t.run >= t.fall
}

// errSlow says that a check failed while this process did not run.
var errSlow = errors.New("this process was slow, not the server")

// check makes one check and returns why it failed.
func (c *Checker) check(s *server) error {
	begun := time.Now()
	err := c.try(s)
	if err != nil && time.Since(begun) > c.cfg.Timeout+slack {
		return errSlow
	}
	return err
}

func (c *Checker) try(s *server) error {
	ctx, cancel := context.WithTimeout(c.ctx, c.cfg.Timeout)
	defer cancel()
	d := net.Dialer{KeepAlive: -1}
	d.SetMultipathTCP(false)
	conn, err := d.DialContext(ctx, "tcp", s.addr.String())
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	return c.talk(conn)
}

// talk sends what is to be sent and reads until the answer matches.
func (c *Checker) talk(conn net.Conn) error {
	if c.cfg.Send != "" {
		if _, err := conn.Write([]byte(c.cfg.Send)); err != nil {
			return fmt.Errorf("send: %w", err)
		}
	}
	if c.cfg.Expect == nil {
		return nil
	}
	answer := make([]byte, 0, maxAnswer)
	for len(answer) < maxAnswer {
		n, err := conn.Read(answer[len(answer):maxAnswer])
		answer = answer[:len(answer)+n]
		if c.cfg.Expect.Match(answer) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("expect %q: %w", c.cfg.Expect, err)
		}
	}
	return fmt.Errorf("expect %q: the answer does not match", c.cfg.Expect)
}
