package lab

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"sync"

	"github.com/vishvananda/netlink"
)

// Options say what New builds.
type Options struct {
	// Name starts the names of the lab's namespaces: NAME-PID-N-HOST, PID
	// being this process. Default "lab"; lower-case letters and digits.
	Name string
	// Hosts are built by New, see Standard; AddHost adds more later.
	Hosts []HostSpec
	// NoOffloads switches checksum and segmentation offload (GSO, TSO, GRO)
	// off on every cable, so that each frame is one real packet with a real
	// checksum which the receiver verifies. With offloads veth carries
	// 64 KiB super-frames without checksums, which hides checksum errors.
	NoOffloads bool
	// CongestionControl is the hosts' net.ipv4.tcp_congestion_control;
	// empty leaves the kernel's default. If necessary it is added to
	// tcp_allowed_congestion_control of this process's namespace, where
	// it stays.
	CongestionControl string
	// NoSignals leaves SIGINT, SIGTERM and SIGHUP to the caller, who then
	// has to Close.
	NoSignals bool
}

// Lab is a network of hosts. Make one with New, and Close it.
type Lab struct {
	// Constant after New.
	opt Options
	id  string // NAME-PID-N
	res *reservation

	// Guarded by mu.
	mu       sync.Mutex
	sw       *Host                   // the switch's namespace
	networks map[string]netlink.Link // bridges in sw
	hosts    []*Host
	captures []*Capture
	closed   bool

	closing  sync.Once
	closeErr error
}

// namePattern keeps names short enough for interfaces (15 characters with the
// relay's prefix and a link's number) and free of what nft or sysctl would
// understand otherwise.
var namePattern = regexp.MustCompile(`^[a-z][a-z0-9]{0,8}$`)

// New builds a lab. It first removes what labs of dead processes have left.
// It needs root.
func New(opt Options) (l *Lab, err error) {
	if opt.Name == "" {
		opt.Name = "lab"
	}
	if !namePattern.MatchString(opt.Name) {
		return nil, fmt.Errorf("make lab: name %q does not match %s", opt.Name, namePattern)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("make lab: network namespaces need root")
	}
	res, err := reserve(opt.Name)
	if err != nil {
		return nil, fmt.Errorf("make lab: %w", err)
	}
	l = &Lab{opt: opt, id: res.id, res: res, networks: map[string]netlink.Link{}}
	if !opt.NoSignals {
		closeOnSignal(l)
	}
	made, built := l, false
	defer func() { // an error or a panic on the way leaves nothing behind
		if !built {
			err = errors.Join(err, made.Close())
		}
	}()
	if err := l.build(); err != nil {
		return nil, fmt.Errorf("make lab %s: %w", l.id, err)
	}
	built = true
	return l, nil
}

// build makes everything that the options ask for. Cables come up while the next
// hosts are being made; they are waited for at the end.
func (l *Lab) build() error {
	if err := allowCongestionControl(l.opt.CongestionControl); err != nil {
		return err
	}
	if err := l.addSwitch(); err != nil {
		return err
	}
	for _, spec := range l.opt.Hosts {
		if _, err := l.addHost(spec); err != nil {
			return err
		}
	}
	return waitReady(l.Hosts())
}

// ID is the first part of the names of the lab's namespaces, NAME-PID-N.
func (l *Lab) ID() string { return l.id }

// Dir is a directory for temporary files, removed by Close. The logs of the
// hosts' programs are there.
func (l *Lab) Dir() string { return l.res.dir }

// Host returns a host by its name, nil when there is none.
func (l *Lab) Host(name string) *Host {
	for _, h := range l.Hosts() {
		if h.name == name {
			return h
		}
	}
	return nil
}

// Hosts returns all hosts in the order in which they were added.
func (l *Lab) Hosts() []*Host {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.hosts)
}

// Close removes everything that the lab made. It may be called twice; every
// call returns the error of the first.
func (l *Lab) Close() error {
	l.closing.Do(func() { l.closeErr = wrap(l.removeAll(), "close lab %s", l.id) })
	return l.closeErr
}

// removeAll goes on after errors: what can be removed is. Captures first, since
// the end is not worth looking at; then the cables, so that nothing passes any
// more; then host by host, and the lock last, which is what tells others that
// there is nothing to sweep.
func (l *Lab) removeAll() error {
	l.mu.Lock()
	l.closed = true
	hosts, captures, sw := l.hosts, l.captures, l.sw
	l.mu.Unlock()
	defer forgetSignals(l) // last: until then a signal waits for us
	var errs []error
	for _, c := range captures {
		c.Stop()
	}
	if sw != nil {
		errs = append(errs, sw.Do(deleteCables))
	}
	for _, h := range hosts {
		errs = append(errs, h.remove())
	}
	if sw != nil {
		errs = append(errs, sw.remove())
	}
	return errors.Join(append(errs, l.res.release())...)
}

// isClosed tells the undoing of a fault that there is nothing left to undo.
func (l *Lab) isClosed() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.closed
}
