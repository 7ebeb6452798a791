package proxy

import (
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sttcp/configs"
)

// moody serves as chance has it: well, not at all, or it leaves by FIN or RST
// before, while or after it has answered.
func moody(_ *rig, _ int, c *net.TCPConn) {
	defer func() { _ = c.Close() }()
	b := make([]byte, 4096)
	for turn := rand.N(12); ; turn++ {
		switch turn % 12 {
		case 0:
			_ = c.SetLinger(0)
			return
		case 1:
			_ = c.CloseWrite()
		case 2:
			return
		case 3:
			_, _ = io.Copy(io.Discard, c) // never answers
			return
		}
		n, err := c.Read(b)
		if err != nil {
			return
		}
		_, _ = c.Write(b[:n])
	}
}

// fickle is a client that says something a few times, and leaves one way or
// another.
func (r *rig) fickle() {
	c, err := net.DialTCP("tcp4", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(r.p.acceptors[0].port)})
	if err != nil {
		return
	}
	defer func() { _ = c.Close() }()
	b := make([]byte, 1+rand.N(64<<10))
	for range rand.N(4) {
		_ = c.SetDeadline(time.Now().Add(50 * time.Millisecond))
		_, _ = c.Write(b)
		_, _ = c.Read(b)
	}
	switch rand.N(3) {
	case 0:
		_ = c.SetLinger(0)
	case 1:
		_ = c.CloseWrite()
		_, _ = io.Copy(io.Discard, c)
	}
}

// Thousands of short connections whose ends do whatever they like: nothing is
// left of any of them.
func TestNothingIsLeft(t *testing.T) {
	newRig(t, nil, echo) // what is made once, is made now
	leaks := goleak.IgnoreCurrent()
	before := descriptors(t)
	r := newRig(t, func(s *configs.Service) {
		s.Stateful, s.MaxConn = false, 1000
		s.Timeout.Idle, s.FinDelay = 500*time.Millisecond, 20*time.Millisecond
		s.Lag = configs.Lag{Suspect: 20 * time.Millisecond, Limit: 100 * time.Millisecond}
	}, moody)
	var wg sync.WaitGroup
	for range 32 {
		wg.Go(func() {
			for range 60 {
				r.fickle()
			}
		})
	}
	wg.Wait()
	eventually(t, "all connections to be forgotten", func() bool { return r.s.status().Connections == 0 })
	for _, s := range r.s.servers() {
		if s.Legs != 0 || s.Primaries != 0 {
			t.Errorf("%s has %d legs, %d as primary, of no connection", s.Name, s.Legs, s.Primaries)
		}
	}
	if st := r.s.status(); st.Accepted < 1000 {
		t.Errorf("of 1920 clients %d were accepted, %d refused", st.Accepted, st.Refused)
	}
	if err := r.p.Close(); err != nil {
		t.Error(err)
	}
	_, _ = r.servers[0].Close(), r.servers[1].Close()
	eventually(t, "all descriptors to be closed", func() bool { return descriptors(t) <= before })
	if err := goleak.Find(leaks); err != nil {
		t.Error(err)
	}
}
