// Package proxy is the data path: services, their listeners, the sockets of
// their connections, and the servers behind them.
//
// A connection is owned by one event loop (package epoll), which alone touches
// its sockets and its core (package stream). A service is shared: its pool of
// servers (package pool) is guarded by a lock that is never held over a system
// call, and what the pool asks for is done by one goroutine per service, in
// order, so that no loop waits for a disk or a health check.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/configs"
	"sttcp/proxy/intercept"
	"sttcp/proxy/pool"
	"sttcp/proxy/stale"
	"sttcp/proxy/stream"
)

// Proxy is the data path of one node.
type Proxy struct {
	// Constant after New.
	cfg       *configs.Config
	log       *slog.Logger
	services  []*service
	workers   []*worker
	acceptors []*acceptor
	store     *stale.Store
	ports     *ports // of all services, whose legs may meet at a server
	inter     intercept.Interceptor
	accepts   sync.WaitGroup // of acceptors
	loops     sync.WaitGroup

	intercepts bool // there may be something to remove
	close      sync.Once
	closed     error // of Close
}

// New prepares the data path: the durable state is read and the listeners are
// there, but nothing is intercepted yet. Close releases everything.
func New(cfg *configs.Config, log *slog.Logger) (p *Proxy, err error) {
	p = &Proxy{cfg: cfg, log: log, ports: &ports{}}
	defer func() {
		if err != nil {
			p.release()
		}
	}()
	if p.store, err = stale.Open(cfg.Node.StateDir); err != nil {
		return nil, err
	}
	if err := p.addWorkers(); err != nil {
		return nil, err
	}
	for i := range cfg.VirtualIPs {
		vip := &cfg.VirtualIPs[i]
		for k := range vip.Services {
			if err := p.addService(vip, &vip.Services[k]); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

// addWorkers starts one event loop per processor.
func (p *Proxy) addWorkers() error {
	start := time.Now()
	for range runtime.GOMAXPROCS(0) {
		w, err := newWorker(start, p.log)
		if err != nil {
			return err
		}
		p.workers = append(p.workers, w)
		p.loops.Add(1)
		go func() {
			defer p.loops.Done()
			if err := w.loop.Run(); err != nil {
				p.log.Error("event loop ended", "error", err)
			}
		}()
	}
	return nil
}

func (p *Proxy) addService(vip *configs.VirtualIP, cfg *configs.Service) error {
	s := &service{
		cfg: cfg, core: coreConfig(cfg), gate: noGate{}, workers: p.workers, ports: p.ports, store: p.store,
		log: p.log.With("service", cfg.Name), stop: make(chan struct{}), leaving: make(chan struct{}), wake: make(chan struct{}, 1),
		disk:  make(chan pool.Output, diskQueue(len(cfg.Servers))),
		conns: make(map[pool.ConnID]*conn), since: make([]time.Time, len(cfg.Servers)),
	}
	s.resume = sync.NewCond(&s.mu)
	for _, a := range vip.Addresses {
		s.vips = append(s.vips, a.Prefix.Addr())
	}
	s.dest = s.vips
	if !cfg.ListenVIP {
		s.dest = []netip.Addr{cfg.ListenAddr}
	}
	s.pool = pool.New(*cfg, p.staleServers(cfg))
	for i := range s.since {
		s.since[i] = time.Now()
	}
	s.checks = newChecks(s)
	p.services = append(p.services, s)
	return p.listen(s)
}

// staleServers are the service's servers that are recorded as stale.
func (p *Proxy) staleServers(cfg *configs.Service) []string {
	var names []string
	for _, e := range p.store.List() {
		if e.Service == cfg.Name {
			names = append(names, e.Server)
			p.log.Warn("server is stale", "service", cfg.Name, "server", e.Server, "since", e.At, "reason", e.Reason)
		}
	}
	return names
}

// listen opens the listeners of s, one for each family that it is reached by.
func (p *Proxy) listen(s *service) error {
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		if !s.reachedBy(family) {
			continue
		}
		a, err := newAcceptor(s, family)
		if err != nil {
			return err
		}
		p.acceptors = append(p.acceptors, a)
	}
	return nil
}

func (s *service) reachedBy(fam int) bool {
	for _, a := range s.dest {
		if family(a) == fam {
			return true
		}
	}
	return false
}

// Intercept brings the services' packets to the listeners: from now on the
// kernel answers no client by itself. Who connects is served from Start on.
func (p *Proxy) Intercept() error {
	p.intercepts = true
	if _, err := p.inter.Apply(p.spec()); err != nil {
		return fmt.Errorf("intercept the services' packets: %w", err)
	}
	return nil
}

// Start begins to serve.
func (p *Proxy) Start() {
	for _, s := range p.services {
		s.ended.Go(s.run)
		s.ended.Go(s.write)
		s.checks.Run()
	}
	for _, a := range p.acceptors {
		p.accepts.Go(a.run)
	}
}

// spec describes what is to be intercepted.
func (p *Proxy) spec() intercept.Spec {
	var spec intercept.Spec
	for _, s := range p.services {
		is := intercept.Service{Name: s.cfg.Name, Dest: s.dest, Ports: portRanges(s.cfg.Ports)}
		for _, srv := range s.cfg.Servers {
			to := portRanges(s.cfg.Ports)
			if srv.Port != 0 {
				to = []intercept.PortRange{{First: srv.Port, Last: srv.Port}}
			}
			is.Servers = append(is.Servers, intercept.Server{Addr: srv.Address, Ports: to})
		}
		for _, a := range p.acceptors {
			switch {
			case a.svc != s:
			case a.family == unix.AF_INET:
				is.Listener4 = a.port
			default:
				is.Listener6 = a.port
			}
		}
		spec.Services = append(spec.Services, is)
	}
	return spec
}

func portRanges(in []configs.PortRange) []intercept.PortRange {
	var out []intercept.PortRange
	for _, r := range in {
		out = append(out, intercept.PortRange(r))
	}
	return out
}

// Stop stops accepting, waits until ctx is done or all connections have ended,
// and cuts those that are left. It returns how many were cut.
func (p *Proxy) Stop(ctx context.Context) (cut int) {
	p.stopAccepting()
	p.drain(ctx)
	return p.cut()
}

// stopAccepting returns when every connection that there will ever be is known
// to its loop.
func (p *Proxy) stopAccepting() {
	for _, s := range p.services {
		s.close()
	}
	for _, a := range p.acceptors {
		_ = a.file.Close()
	}
	p.accepts.Wait()
	for _, s := range p.services {
		s.redials.Wait()
	}
}

// cut ends every connection and returns how many there were.
func (p *Proxy) cut() int {
	var n atomic.Int64
	do(p.workers, func(w *worker) {
		w.each(func(c *conn) {
			c.svc.warn(c.log(), "connection cut")
			c.cut(stream.ReasonOperator)
			n.Add(1)
		})
		for x := range w.lingering {
			x.end()
		}
	})
	return int(n.Load())
}

// Close ends interception and releases everything. Connections that are left
// are cut. Called again it does nothing.
func (p *Proxy) Close() error {
	p.close.Do(func() {
		p.stopAccepting()
		p.cut()
		if p.intercepts {
			p.closed = p.inter.Remove()
		}
		p.release()
	})
	return p.closed
}

// drain waits until no connection is left, or ctx is done.
func (p *Proxy) drain(ctx context.Context) {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for p.open() > 0 {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (p *Proxy) open() int {
	n := 0
	for _, s := range p.services {
		n += len(s.all())
	}
	return n
}

// release ends every goroutine and closes what is open.
func (p *Proxy) release() {
	p.stopAccepting()
	for _, s := range p.services {
		close(s.stop)
		s.checks.Close()
		s.ended.Wait()
	}
	for _, w := range p.workers {
		w.loop.Close()
	}
	p.loops.Wait()
	if p.store != nil {
		_ = p.store.Close()
	}
}

// ErrAmbiguous is returned for a server's name that several services have.
var ErrAmbiguous = errors.New("several services have a server of that name")

// ErrUnknown is returned for a service or a server that is not configured.
var ErrUnknown = errors.New("not configured")

// find returns the service that has the server of that name, which may be
// given as SERVICE/SERVER where several have one.
func (p *Proxy) find(name string) (*service, string, error) {
	var found *service
	var server string
	for _, s := range p.services {
		for _, srv := range s.cfg.Servers {
			switch name {
			case s.cfg.Name + "/" + srv.Name:
				return s, srv.Name, nil
			case srv.Name:
				if found != nil {
					return nil, "", fmt.Errorf("server %q: %w; say SERVICE/%s", name, ErrAmbiguous, name)
				}
				found, server = s, srv.Name
			}
		}
	}
	if found == nil {
		return nil, "", fmt.Errorf("server %q: %w", name, ErrUnknown)
	}
	return found, server, nil
}

// DrainServer, MaintServer and ReadyServer carry out the operator's word; an
// error is a sentence for the operator and means that nothing was changed.
func (p *Proxy) DrainServer(name string) error {
	return p.order(name, func(n string) pool.Event { return pool.Drain{Server: n} })
}

// MaintServer takes a server out: see DrainServer.
func (p *Proxy) MaintServer(name string) error {
	return p.order(name, func(n string) pool.Event { return pool.Maint{Server: n} })
}

// ReadyServer brings a server back: see DrainServer. With reset, connections
// that have no leg there are reset.
func (p *Proxy) ReadyServer(name string, reset bool) error {
	return p.order(name, func(n string) pool.Event { return pool.Ready{Server: n, ResetConnections: reset} })
}

func (p *Proxy) order(name string, ev func(string) pool.Event) error {
	s, server, err := p.find(name)
	if err != nil {
		return err
	}
	return s.event(ev(server))
}

// Freeze stops reading from the clients of a service, or with on false goes
// on. When it returns, no byte that was not read before reaches a server.
func (p *Proxy) Freeze(name string, on bool) error {
	for _, s := range p.services {
		if s.cfg.Name == name {
			s.freeze(on)
			return nil
		}
	}
	return fmt.Errorf("service %q: %w", name, ErrUnknown)
}
