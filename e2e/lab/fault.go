package lab

import (
	"errors"
	"fmt"
	"sync"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Fault is something broken on purpose.
type Fault struct {
	what  string
	lab   *Lab
	undo  func() error
	count func() (uint64, error) // nil where nothing is counted

	once sync.Once
	err  error
}

// Undo repairs it. It may be called twice, and after the lab was closed.
func (f *Fault) Undo() error {
	f.once.Do(func() {
		if !f.lab.isClosed() {
			f.err = wrap(f.undo(), "undo %s", f.what)
		}
	})
	return f.err
}

// Dropped is how many frames a Drop, Loss or Isolate has swallowed so far, or
// a Delay's relay has lost. Other faults count nothing and return an error, as
// it does after Undo.
func (f *Fault) Dropped() (uint64, error) {
	if f.count == nil {
		return 0, fmt.Errorf("count drops of %s: nothing is counted there", f.what)
	}
	n, err := f.count()
	return n, wrap(err, "count drops of %s", f.what)
}

// String says what is broken where.
func (f *Fault) String() string { return f.what }

// portFault is a fault that is set up on the device which is the bridge's
// port for a link. When a delay relay comes or goes, that device changes, and
// the fault is lifted from the old one and applied to the new one: its counter
// begins again at 0.
type portFault struct {
	apply func(dev string) error
	lift  func(dev string) error
}

// addPortFault applies a fault to the link's port.
func (k *Link) addPortFault(f *portFault, what string, count func() (uint64, error)) (*Fault, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := f.apply(k.port); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	k.faults[f] = struct{}{}
	return &Fault{what: what, lab: k.host.lab, count: count, undo: func() error {
		k.mu.Lock()
		defer k.mu.Unlock()
		delete(k.faults, f)
		return f.lift(k.port)
	}}, nil
}

// movePort moves the link's faults to another device; k.mu is held.
func (k *Link) movePort(dev string) error {
	var errs []error
	for f := range k.faults {
		errs = append(errs, f.lift(k.port), f.apply(dev))
	}
	k.port = dev
	return errors.Join(errs...)
}

// LinkDown pulls the cable out at the switch: the host's interface loses its
// carrier and keeps its addresses.
func (k *Link) LinkDown() (*Fault, error) {
	what := fmt.Sprintf("link down of %v", k)
	sw := k.host.lab.sw
	if err := k.carrierAfter(false, sw.setDown(k.wire)); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return &Fault{what: what, lab: k.host.lab, undo: func() error {
		return k.carrierAfter(true, sw.setUp(k.wire))
	}}, nil
}

// NICDown sets the host's own interface down, as `ip link set eth0 down`
// does: the host loses its routes. Undo brings them back.
func (k *Link) NICDown() (*Fault, error) {
	what := fmt.Sprintf("interface down of %v", k)
	routes, err := k.routes()
	if err == nil {
		err = k.carrierAfter(false, k.host.setDown(k.name))
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return &Fault{what: what, lab: k.host.lab, undo: func() error {
		errs := []error{k.carrierAfter(true, k.host.setUp(k.name))}
		for _, r := range routes {
			errs = append(errs, k.host.rtnl(func(nl *netlink.Handle) error { return nl.RouteReplace(&r) }))
		}
		return errors.Join(errs...)
	}}, nil
}

// carrierAfter waits for the carrier unless there is an error already.
func (k *Link) carrierAfter(up bool, err error) error {
	if err != nil {
		return err
	}
	return k.waitCarrier(up)
}

// routes are those by way of the link that the kernel does not make itself.
func (k *Link) routes() ([]netlink.Route, error) {
	var all []netlink.Route
	err := k.host.withDev(k.name, "list routes of", func(nl *netlink.Handle, link netlink.Link) (err error) {
		all, err = nl.RouteList(link, netlink.FAMILY_ALL)
		return err
	})
	if err != nil {
		return nil, err
	}
	var own []netlink.Route
	for _, r := range all {
		if r.Protocol != unix.RTPROT_KERNEL {
			own = append(own, r)
		}
	}
	return own, nil
}

// Isolate lets nothing pass on the cable, in either direction, while both
// ends stay up: nobody is told.
func (k *Link) Isolate() (*Fault, error) {
	return k.addRules(fmt.Sprintf("isolate %v", k), []rule{{In, "counter drop"}, {Out, "counter drop"}})
}

// Freeze stops the machine: silence on all its cables, and all its processes
// stopped. The cables stay up, as those of a machine that hangs do. Its kernel
// can't be stopped: its timers go on, and what it sends is lost. Go code of
// this process that uses the host's sockets is not stopped either.
func (h *Host) Freeze() (*Fault, error) {
	what := "freeze " + h.name
	cut, err := h.onAllLinks((*Link).Isolate)
	if err == nil {
		err = signalAll(h.ns.inode, unix.SIGSTOP)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", what, err), cut.Undo())
	}
	return &Fault{what: what, lab: h.lab, undo: func() error {
		return errors.Join(signalAll(h.ns.inode, unix.SIGCONT), cut.Undo())
	}}, nil
}

// PowerOff ends the machine: its cables go down first, so that nothing leaves
// any more, then its processes are killed and its connections forgotten. Undo
// brings the cables up again, to a machine on which nothing runs.
func (h *Host) PowerOff() (*Fault, error) {
	what := "power off " + h.name
	cut, err := h.onAllLinks((*Link).LinkDown)
	if err == nil {
		err = errors.Join(killAll(h.ns.inode), h.Do(forgetConnections))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", what, err), cut.Undo())
	}
	cut.what = what
	return cut, nil
}

// onAllLinks breaks every link of the host in the same way. What it returns
// undoes what was done, also when there is an error.
func (h *Host) onAllLinks(f func(*Link) (*Fault, error)) (*Fault, error) {
	var faults []*Fault
	var err error
	for _, k := range h.links {
		var one *Fault
		if one, err = f(k); err != nil {
			break
		}
		faults = append(faults, one)
	}
	return &Fault{what: "links of " + h.name, lab: h.lab, undo: func() error {
		var errs []error
		for _, one := range faults {
			errs = append(errs, one.Undo())
		}
		return errors.Join(errs...)
	}}, err
}
