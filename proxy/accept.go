package proxy

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/configs"
	"sttcp/proxy/intercept"
	"sttcp/proxy/pool"
	"sttcp/proxy/stream"
)

// acceptor accepts the connections of one service and address family, and
// sends the SYNs to the servers in the order in which it accepted.
type acceptor struct {
	svc    *service
	file   *os.File
	port   uint16
	family int
	said   time.Time // when run last logged an error; run's own
}

// errPaused is returned by next when the service takes no connection now.
var errPaused = errors.New("accepting is paused")

// outOfFiles is how long accepting rests when there is no descriptor left. The
// clients wait in the backlog.
const outOfFiles = 50 * time.Millisecond

func newAcceptor(s *service, family int) (*acceptor, error) {
	fd, port, err := intercept.Listen(family, s.cfg.MaxConn)
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", s.cfg.Name, err)
	}
	return &acceptor{svc: s, file: os.NewFile(uintptr(fd), "listener of "+s.cfg.Name), port: port, family: family}, nil
}

// run accepts until the service takes no connection any more.
func (a *acceptor) run() {
	for {
		switch err := a.next(); {
		case err == nil:
		case errors.Is(err, os.ErrClosed):
			return
		case errors.Is(err, errPaused):
			if !a.svc.waitResume() {
				return
			}
		default:
			a.svc.count.acceptErrors.Add(1)
			a.complain(err)
			time.Sleep(outOfFiles) // no event tells that a descriptor is free again
		}
	}
}

// complain logs an error now and then: it comes again with every attempt.
func (a *acceptor) complain(err error) {
	if time.Since(a.said) < 10*time.Second {
		return
	}
	a.said = time.Now()
	a.svc.log.Error("no connection can be accepted; clients wait", "error", err)
}

// next waits for a connection and takes it.
func (a *acceptor) next() error {
	rc, err := a.file.SyscallConn()
	if err != nil {
		return fmt.Errorf("accept: %w", err)
	}
	rerr := rc.Read(func(lfd uintptr) bool {
		err = a.admit(int(lfd))
		return !errors.Is(err, unix.EAGAIN)
	})
	if rerr != nil {
		return os.ErrClosed
	}
	return err
}

// admit takes a connection, if one waits: from whether there is room for it to
// its SYNs it is one at a time, so that maxconn is exact and the SYNs leave in
// the order of accepts.
func (a *acceptor) admit(lfd int) error {
	s := a.svc
	s.admit.Lock()
	defer s.admit.Unlock()
	if !s.accepting() {
		return errPaused
	}
	for {
		fd, peer, err := unix.Accept4(lfd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		switch {
		case err == nil:
			a.take(fd, peer)
			return nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.ECONNABORTED):
			// Others may wait behind it, of whom no further event would tell.
		default:
			return err
		}
	}
}

// take makes a connection of an accepted socket.
func (a *acceptor) take(fd int, peer unix.Sockaddr) {
	s := a.svc
	c, err := s.open(fd, addrPort(peer))
	if err != nil {
		s.count.refused.Add(1)
		s.warn(s.log, "connection refused", "client", addrPort(peer), "error", err)
		abort(fd)
		return
	}
	failed := s.dialLegs(c)
	if busy(ours(failed)) {
		s.redials.Go(func() { s.dialAgain(c, failed) })
		return
	}
	c.loop.Post(func() { c.start(failed) })
}

// ours returns the error of a leg that failed for a reason of this machine's,
// nil if there is none. No server is to be given up for that.
func ours(failed [2]error) error {
	for _, err := range failed {
		for _, e := range []unix.Errno{unix.EMFILE, unix.ENFILE, unix.ENOMEM, unix.ENOBUFS,
			unix.EADDRNOTAVAIL, unix.EADDRINUSE} {
			if errors.Is(err, e) {
				return err
			}
		}
		if errors.Is(err, errNoPort) {
			return err
		}
	}
	return nil
}

// redial is how often legs are dialled again whose address is in use.
const redial = 2 * time.Millisecond

// dialAgain tries c's legs again while the client's former connection from
// that port is being ended, and starts c, which resets the client if that did
// not help, or no time was left.
func (s *service) dialAgain(c *conn, failed [2]error) {
	tick := time.NewTicker(redial)
	defer tick.Stop()
	for until := time.Now().Add(s.cfg.Timeout.Connect / 2); busy(ours(failed)) && time.Now().Before(until); {
		select {
		case <-s.leaving:
			until = time.Time{}
		case <-tick.C:
			s.redialLegs(c, &failed)
		}
	}
	c.loop.Post(func() { c.start(failed) })
}

// busy reports whether err says that an address is in use which need not stay
// so: it is the client's own.
func busy(err error) bool {
	return errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EADDRINUSE)
}

// errNoServer is why a client is refused when no server is to be had.
var errNoServer = errors.New("no server is up")

// errFull is why a client is refused when only spareFiles descriptors are left.
var errFull = errors.New("too many open files")

// spareFiles is how many descriptors clients leave for the health checks, the
// operator and the legs of those who were let in.
const spareFiles = 64

// open prepares a connection and chooses its servers.
func (s *service) open(fd int, client netip.AddrPort) (*conn, error) {
	if !affordable(fd) {
		return nil, errFull
	}
	if err := setOptions(fd); err != nil {
		return nil, err
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat); err != nil {
		return nil, fmt.Errorf("set TCP_NOTSENT_LOWAT: %w", err)
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		return nil, fmt.Errorf("ask for the address the client wanted: %w", err)
	}
	c := &conn{svc: s, client: client, dest: addrPort(local), servers: [2]int{-1, -1}}
	head, err := proxyHeader(s.cfg.ProxyProtocol, c.client, c.dest)
	if err != nil {
		return nil, err
	}
	c.head = uint64(len(head))
	c.k0 = sock{fd: fd, conn: c, writable: true}
	for l := range c.leg {
		c.leg[l] = sock{fd: -1, conn: c, dialing: true}
	}
	return c, s.choose(c, head)
}

// affordable reports whether fd leaves enough descriptors for others: the
// kernel always gives the lowest that is free. The limit may be changed while
// we run.
func affordable(fd int) bool {
	var limit unix.Rlimit
	err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit)
	return err != nil || uint64(fd)+spareFiles < limit.Cur
}

// choose gives c its servers, its loop and its core.
func (s *service) choose(c *conn, head []byte) error {
	return s.update(func(p *pool.Pool) error {
		s.lastID++
		c.id = s.lastID
		ch := p.Pick(c.id, c.client.Addr())
		if ch.N == 0 {
			return errNoServer
		}
		c.servers = [2]int{ch.Primary, ch.Backup}
		if ch.Hold {
			c.waits = 1
		}
		c.worker = s.workers[uint64(c.id)%uint64(len(s.workers))]
		c.loop = c.worker.loop
		c.core = stream.New(&s.core, c.worker.bufs, ch.N, 0, head, c.loop.Since())
		s.conns[c.id] = c
		s.count.accepted.Add(1)
		return nil
	})
}

// dialLegs sends the SYNs of c's legs and returns why those that could not be
// sent could not. admit is held.
func (s *service) dialLegs(c *conn) (failed [2]error) {
	s.dialing.Lock()
	defer s.dialing.Unlock()
	for l, server := range c.servers {
		if server < 0 {
			continue
		}
		src, dst := s.ends(c, server)
		c.leg[l].fd, failed[l] = dial(src, dst, s.ports)
	}
	return failed
}

// redialLegs is dialLegs for those whose address was in use.
func (s *service) redialLegs(c *conn, failed *[2]error) {
	s.dialing.Lock()
	defer s.dialing.Unlock()
	for l, server := range c.servers {
		if !busy(failed[l]) {
			continue
		}
		src, dst := s.ends(c, server)
		_ = forgetTimeWait(src, dst) // if it is anything else, we wait for its end
		c.leg[l].fd, failed[l] = dial(src, dst, s.ports)
	}
}

// ends returns where c's leg to a server leaves from and where it goes.
func (s *service) ends(c *conn, server int) (src, dst netip.AddrPort) {
	srv := s.cfg.Servers[server]
	dst = netip.AddrPortFrom(srv.Address, srv.Port)
	if srv.Port == 0 {
		dst = netip.AddrPortFrom(srv.Address, c.dest.Port())
	}
	return s.source(c, srv.Address), dst
}

// source returns where a leg to server leaves from. With a PROXY header, or
// `source: vip`, that is the virtual IP of the server's family.
func (s *service) source(c *conn, server netip.Addr) netip.AddrPort {
	if s.cfg.Source == configs.SourceClient {
		return c.client
	}
	for _, a := range s.vips {
		if a.Is4() == server.Is4() {
			return netip.AddrPortFrom(a, 0)
		}
	}
	return netip.AddrPort{} // the configuration has made sure that there is one
}

// accepting reports whether a new connection may be accepted now.
func (s *service) accepting() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mayAccept()
}

// mayAccept is accepting with mu held.
func (s *service) mayAccept() bool {
	return !s.closed && !s.pool.Frozen() && len(s.conns) < s.cfg.MaxConn
}

// mayResume has acceptors go on that wait for room, or for a thaw. mu is held.
func (s *service) mayResume() {
	if s.mayAccept() {
		s.resume.Broadcast()
	}
}

// waitResume waits until connections may be accepted again; false: never.
func (s *service) waitResume() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for !s.closed && !s.mayAccept() {
		s.resume.Wait()
	}
	return !s.closed
}

// close ends accepting for good.
func (s *service) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.closed = true
		close(s.leaving)
		s.resume.Broadcast()
	}
}

// legAt returns c's leg at server.
func (c *conn) legAt(server int) (stream.Leg, bool) {
	for l, s := range c.servers {
		if s == server {
			return stream.Leg(l), true
		}
	}
	return 0, false
}
