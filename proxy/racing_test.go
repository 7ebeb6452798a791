package proxy

import (
	"context"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/configs"
	"sttcp/proxy/pool"
	"sttcp/proxy/stream"
)

// within fails the test if f takes longer than a deadlock would let it.
func within(t *testing.T, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() { f(); close(done) }()
	select {
	case <-done:
	case <-time.After(10 * time.Second):
		t.Fatalf("waited 10 s for %s", what)
	}
}

// descriptors counts this process's open files, but for pipes: the servers'
// io.Copy keeps some for its next splice(2).
func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, f := range list {
		if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && !strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

// A stop may come while clients wait for room, or for a thaw.
func TestStopWhileNothingIsAccepted(t *testing.T) {
	for name, pause := range map[string]func(*rig){
		"maxconn": func(*rig) {},
		"frozen":  func(r *rig) { _ = r.p.Freeze("svc", true) },
	} {
		r := newRig(t, func(s *configs.Service) { s.MaxConn = 1 }, echo)
		c := r.dial()
		write(t, c, "x")
		read(t, c, 1)
		r.dial() // waits in the backlog
		pause(r)
		over, cancel := context.WithCancel(t.Context())
		cancel()
		within(t, name+": Stop", func() {
			if n := r.p.Stop(over); n != 1 {
				t.Errorf("%s: %d connections cut", name, n)
			}
		})
		if st := r.s.status(); st.Connections != 0 || st.Accepted != 1 {
			t.Errorf("%s: after the stop %d connections, %d accepted", name, st.Connections, st.Accepted)
		}
	}
}

func TestStopAndCloseInAnyOrder(t *testing.T) {
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for name, order := range map[string]func(p *Proxy){
		"Close, Close":       func(p *Proxy) { _, _ = p.Close(), p.Close() },
		"Close, Stop":        func(p *Proxy) { _, _ = p.Close(), p.Stop(over) },
		"Stop, Stop, Close":  func(p *Proxy) { _, _, _ = p.Stop(over), p.Stop(over), p.Close() },
		"Close, then orders": func(p *Proxy) { _, _, _ = p.Close(), p.Freeze("svc", true), p.DrainServer("s1") },
	} {
		r := newRig(t, nil, echo)
		c := r.dial()
		write(t, c, "x")
		read(t, c, 1)
		within(t, name, func() { order(r.p) })
		if _, err := c.Read(make([]byte, 1)); err == nil || os.IsTimeout(err) {
			t.Errorf("%s: the client sees %v", name, err)
		}
	}
}

// Clients that come while the gateway closes are served or refused, and leave
// nothing behind.
func TestCloseWhileClientsCome(t *testing.T) {
	newRig(t, nil, echo) // what is made once, is made now
	before := descriptors(t)
	for range 8 {
		r := newRig(t, nil, echo)
		var over atomic.Bool
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for !over.Load() {
					r.comeAndGo()
				}
			})
		}
		eventually(t, "some connections", func() bool { return r.s.count.accepted.Load() > 20 })
		within(t, "Close", func() { _ = r.p.Close() })
		over.Store(true)
		wg.Wait()
		_, _ = r.servers[0].Close(), r.servers[1].Close()
	}
	eventually(t, "all descriptors to be closed", func() bool { return descriptors(t) <= before })
}

// comeAndGo is a client that resets as soon as it has connected, if it can.
func (r *rig) comeAndGo() {
	c, err := net.DialTCP("tcp4", nil, &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(r.p.acceptors[0].port)})
	if err == nil {
		_, _ = c.SetLinger(0), c.Close()
	}
}

// stall keeps every loop busy until release is called.
func (r *rig) stall() (release func()) {
	goOn := make(chan struct{})
	var busy sync.WaitGroup
	for _, w := range r.p.workers {
		busy.Add(1)
		w.loop.Post(func() { busy.Done(); <-goOn })
	}
	busy.Wait()
	return sync.OnceFunc(func() { close(goOn) })
}

// A connection is known to its service before its loop knows of it. What comes
// in between must find it, and wait for it.
func TestOrdersMeetAConnectionThatIsBeingOpened(t *testing.T) {
	r := newRig(t, func(s *configs.Service) { s.Legs, s.Stateful = 2, false }, echo)
	c := r.dial()
	eventually(t, "the first connection", func() bool { return r.s.status().Connections == 1 })
	release := r.stall()
	defer release()
	r.s.admit.Lock()
	half, err := r.s.open(dupOf(t, c), c.LocalAddr().(*net.TCPAddr).AddrPort()) // as far as an acceptor is before it dials
	if err != nil {
		t.Fatal(err)
	}
	within(t, "orders", func() {
		var wg sync.WaitGroup
		wg.Go(func() { r.s.cut([]pool.ConnID{half.id, half.id}) })
		release()
		failed := r.s.dialLegs(half)
		half.loop.Post(func() { half.start(failed) })
		r.s.admit.Unlock()
		wg.Go(func() { r.s.freeze(true) })
		wg.Wait()
	})
	if n := r.s.count.ends[stream.ReasonOperator].Load(); n != 1 {
		t.Errorf("the connection was cut %d times", n)
	}
}

// No connection slips through a freeze: what was accepted before it is frozen.
func TestFreezeWhileClientsCome(t *testing.T) {
	r := newRig(t, func(s *configs.Service) { s.MaxConn = 1000 }, echo)
	for range 50 {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if c, err := r.tryDial(); err == nil {
					_, _ = c.Write([]byte("x"))
				}
			})
		}
		_ = r.p.Freeze("svc", true)
		before := r.s.count.bytesIn.Load()
		wg.Wait()
		for _, w := range r.p.workers {
			turns(w, 3)
		}
		if now := r.s.count.bytesIn.Load(); now != before {
			t.Fatalf("%d bytes were read in a frozen service", now-before)
		}
		_ = r.p.Freeze("svc", false)
	}
}

// turns waits until w's loop has gone round n times.
func turns(w *worker, n int) {
	for range n {
		done := make(chan struct{})
		w.loop.Post(func() { close(done) })
		<-done
	}
}

// maxconn is kept to the connection, whoever accepts.
func TestMaxConnIsExact(t *testing.T) {
	r := newRig(t, func(s *configs.Service) { s.MaxConn = 5 }, echo)
	second, err := newAcceptor(r.s, r.p.acceptors[0].family)
	if err != nil {
		t.Fatal(err)
	}
	r.p.acceptors = append(r.p.acceptors, second)
	r.p.accepts.Go(second.run)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			addr := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(r.p.acceptors[i%2].port)}
			for range 8 {
				c, err := net.DialTCP("tcp4", nil, addr)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = c.Write([]byte("x"))
				_, _ = c.Read(make([]byte, 1))
				if n := r.s.status().Connections; n > 5 {
					t.Errorf("%d connections with maxconn 5", n)
				}
				_ = c.Close()
			}
		})
	}
	wg.Wait()
}

// The time for which a loop did not run is no server's fault, for connections
// that it does not know yet neither.
func TestOpenedWhileTheLoopStoodStill(t *testing.T) {
	r := newRig(t, func(s *configs.Service) { s.Timeout.Connect = 100 * time.Millisecond }, echo)
	eventually(t, "the servers to be checked", func() bool { return r.s.servers()[0].Healthy })
	release := r.stall()
	defer release()
	from := time.Now()
	c := r.dial()
	eventually(t, "the connection to be accepted, long ago", func() bool {
		return r.s.count.accepted.Load() == 1 && time.Since(from) > 150*time.Millisecond
	})
	release()
	write(t, c, "x")
	read(t, c, 1)
}

// dupOf returns another descriptor of c's socket.
func dupOf(t *testing.T, c net.Conn) (fd int) {
	t.Helper()
	rc, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if cerr := rc.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); cerr != nil || err != nil {
		t.Fatal(cerr, err)
	}
	return fd
}
