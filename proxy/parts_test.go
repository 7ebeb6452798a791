package proxy

import (
	"errors"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/proxy/pool"
)

// askedGate counts who asks for acknowledgements.
type askedGate struct {
	noGate
	asked atomic.Int64
}

func (g *askedGate) Acked(fd int, sent uint64) uint64 {
	g.asked.Add(1)
	return g.noGate.Acked(fd, sent)
}

// What the servers have acknowledged is asked for, however often the client
// speaks.
func TestAcknowledgementsAreAskedForDuringTraffic(t *testing.T) {
	r := newRig(t, nil, echo)
	gate := &askedGate{}
	release := r.stall()
	r.s.gate = gate
	release()
	c := r.dial()
	eventually(t, "the asking", func() bool {
		write(t, c, "x")
		read(t, c, 1)
		return gate.asked.Load() > 0
	})
}

// brokenStore can't write before it is mended.
type brokenStore struct {
	Store
	mended atomic.Bool
	tried  atomic.Int64
}

func (s *brokenStore) Mark(service, server, reason string, at time.Time) error {
	s.tried.Add(1)
	if !s.mended.Load() {
		return unix.EIO
	}
	return s.Store.Mark(service, server, reason, at)
}

// While the disk is broken the connection waits that lost a leg, and nobody
// else: that all servers are down shows at once.
func TestBrokenDiskHoldsUpNobodyElse(t *testing.T) {
	r := newRig(t, nil, echo)
	store := &brokenStore{Store: r.s.store}
	r.s.store = store
	held := r.dial()
	write(t, held, "x")
	read(t, held, 1)
	if err := r.p.DrainServer("s1"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a failed write", func() bool { return store.tried.Load() > 0 })
	for i := range r.servers {
		r.s.health(i, false, 0, errors.New("test"))
	}
	_ = held.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := held.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("all servers are down, the disk is broken, and the client sees %v", err)
	}
	store.mended.Store(true)
	eventually(t, "the write", func() bool { return len(r.p.store.List()) == 1 })
}

// What was to be written when the gateway stopped is written.
func TestLastNewsReachTheDisk(t *testing.T) {
	r := newRig(t, nil, echo)
	r.s.mu.Lock() // as if run had no turn any more
	r.s.queue = append(r.s.queue, pool.PersistStale{Server: 1, Reason: "test"})
	r.s.mu.Unlock()
	marked := &brokenStore{Store: r.s.store}
	marked.mended.Store(true)
	r.s.store = marked
	if err := r.p.Close(); err != nil {
		t.Fatal(err)
	}
	if marked.tried.Load() != 1 {
		t.Error("what was found last is not on disk")
	}
}

func TestBuffers(t *testing.T) {
	b := &buffers{free: make(map[int][][]byte)}
	for _, n := range []int{5 << 10, 16 << 10, 1 << 20} {
		x := b.Get(n)
		if len(x) != n {
			t.Errorf("asked for %d bytes, got %d", n, len(x))
		}
		b.Put(x[:n/2])
		if y := b.Get(n); len(y) != n || &x[0] != &y[0] {
			t.Errorf("a buffer of %d bytes is not used again", n)
		}
	}
	for range 2 * keepBuffers >> 20 {
		b.Put(make([]byte, 1<<20))
	}
	if b.kept != keepBuffers || len(b.free[1<<20]) != keepBuffers>>20 {
		t.Errorf("%d bytes are kept in %d buffers", b.kept, len(b.free[1<<20]))
	}
	b.Get(1 << 20)
	if b.kept != keepBuffers-1<<20 {
		t.Errorf("after a loan %d bytes are kept", b.kept)
	}
}

func TestPortsGoRound(t *testing.T) {
	p := &ports{}
	seen := map[uint16]bool{}
	for range lastLegPort - firstLegPort + 1 {
		seen[p.take()] = true
	}
	if len(seen) != lastLegPort-firstLegPort+1 || !seen[firstLegPort] || !seen[lastLegPort] {
		t.Errorf("%d ports were handed out", len(seen))
	}
	if first := p.take(); first != firstLegPort {
		t.Errorf("after the last port comes %d", first)
	}
	for range 1000 {
		p.jump()
		if got := p.take(); got < firstLegPort || got > lastLegPort {
			t.Fatalf("port %d after a jump", got)
		}
	}
}

// A run of ports that are in use towards a server is no obstacle.
func TestDialPassesARunOfPortsInUse(t *testing.T) {
	needRoot(t)
	ln := listen(t)
	defer func() { _ = ln.Close() }()
	src, dst := netip.MustParseAddr("127.0.0.77"), netip.MustParseAddrPort(ln.Addr().String())
	p := &ports{}
	for i := range 400 {
		fd, err := dial(netip.AddrPortFrom(src, 0), dst, p)
		if err != nil {
			t.Fatalf("dial %d: %v", i, err)
		}
		defer func() { abort(fd) }()
	}
	p.next = firstLegPort // round
	fd, err := dial(netip.AddrPortFrom(src, 0), dst, p)
	if err != nil {
		t.Fatalf("dial over a run of %d: %v", 400, err)
	}
	abort(fd)
}

// Nobody can be served from an address of the other family, and no descriptor
// is lost by trying.
func TestDialErrors(t *testing.T) {
	needRoot(t)
	before := descriptors(t)
	v4, v6 := netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort("[::1]:9")
	if _, err := dial(v4, v6, &ports{}); err == nil {
		t.Error("a leg left from IPv4 to IPv6")
	}
	if _, err := dial(v4, netip.MustParseAddrPort("224.0.0.1:80"), &ports{}); err == nil {
		t.Error("a leg to a multicast address")
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

// A FIN that the server has not acknowledged must not look like a byte that it
// has not.
func TestAckedCountsTheFIN(t *testing.T) {
	needRoot(t)
	ln := listen(t)
	defer func() { _ = ln.Close() }()
	fd, err := dial(netip.MustParseAddrPort("127.0.0.1:0"), netip.MustParseAddrPort(ln.Addr().String()), &ports{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { abort(fd) }()
	far, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = far.Close() }()
	s := &sock{fd: fd}
	s.write([]byte("hello"), false)
	eventually(t, "the bytes to be acknowledged", func() bool { return noGate{}.Acked(fd, s.sent) == 5 })
	deaf := dupOf(t, far)
	defer func() { _ = unix.Close(deaf) }()
	nothing := unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K}}
	if err := unix.SetsockoptSockFprog(deaf, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &nothing); err != nil {
		t.Fatal(err)
	}
	s.shutdown() // the FIN is lost
	if got := (noGate{}).Acked(fd, s.sent); got != 5 {
		t.Errorf("with the FIN on its way %d of 5 bytes are acknowledged", got)
	}
}
