package lab

import (
	"errors"
	"fmt"
	"time"

	"github.com/vishvananda/netlink"
)

// Delay adds a fixed delay to each direction of the link, by a relay in this
// process between the cable and the bridge. It adds up to 0.2 ms of its own,
// more on a busy machine, and never reorders. It holds up to 32 MiB per
// direction; what does not fit is lost and counted. At the moments when it is
// put in and taken out, a frame may be lost or, at Undo, overtake one that
// the relay let go early.
func (k *Link) Delay(in, out time.Duration) (*Fault, error) {
	what := fmt.Sprintf("delay %v in by %v, out by %v", k, in, out)
	if in < 0 || out < 0 {
		return nil, fmt.Errorf("%s: out of range", what)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.relay != nil {
		return nil, fmt.Errorf("%s: it is delayed already", what)
	}
	r, err := k.insertRelay(in, out)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	k.relay = r
	return &Fault{what: what, lab: k.host.lab, undo: k.removeRelay, count: r.lost}, nil
}

// relayDevs are the names of the veth pair between relay and bridge.
func (k *Link) relayDevs() (port, near string) { return "b-" + k.wire, "r-" + k.wire }

// insertRelay makes the bridge's port a new device, and moves frames between
// the cable and that device's peer. k.mu is held.
func (k *Link) insertRelay(in, out time.Duration) (r *relay, err error) {
	sw := k.host.lab.sw
	port, near := k.relayDevs()
	if err := k.addRelayDevs(port, near); err != nil {
		return nil, errors.Join(err, sw.delete(port))
	}
	err = sw.Do(func() error {
		r, err = openRelay(k.wire, near)
		return err
	})
	if err != nil {
		return nil, errors.Join(err, sw.delete(port))
	}
	// From here to start the cable is not connected, some microseconds.
	err = errors.Join(sw.withDev(k.wire, "unplug", (*netlink.Handle).LinkSetNoMaster), r.start(in, out), k.movePort(port))
	if err != nil {
		return nil, errors.Join(err, r.stop(), k.movePort(k.wire), sw.delete(port), k.plugBack())
	}
	return r, nil
}

// addRelayDevs makes the veth pair of a relay: port in the bridge, near for the
// relay. While the cable is a port of the same bridge nothing sends to near, so
// that there is no loop.
func (k *Link) addRelayDevs(port, near string) error {
	sw := k.host.lab.sw
	br, err := k.host.lab.network(k.network)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MasterIndex = port, br.Attrs().Index
	pair := &netlink.Veth{LinkAttrs: attrs, PeerName: near}
	if err := sw.rtnl(func(nl *netlink.Handle) error { return nl.LinkAdd(pair) }); err != nil {
		return fmt.Errorf("add relay's devices: %w", err)
	}
	if k.host.lab.opt.NoOffloads {
		if err := errors.Join(sw.noOffloads(port), sw.noOffloads(near)); err != nil {
			return err
		}
	}
	return errors.Join(sw.setUp(port), sw.setUp(near))
}

// removeRelay undoes Delay. What the relay holds is let go at once.
func (k *Link) removeRelay() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	port, _ := k.relayDevs()
	err := errors.Join(k.relay.stop(), k.movePort(k.wire), k.plugBack(), k.host.lab.sw.delete(port))
	k.relay = nil
	return err
}

// plugBack makes the cable the bridge's port again.
func (k *Link) plugBack() error {
	br, err := k.host.lab.network(k.network)
	if err != nil {
		return err
	}
	sw := k.host.lab.sw
	return sw.withDev(k.wire, "plug in", func(nl *netlink.Handle, link netlink.Link) error {
		return nl.LinkSetMaster(link, br)
	})
}

// stopRelay ends the relay of a link that is being removed.
func (k *Link) stopRelay() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.relay == nil {
		return nil
	}
	return k.relay.stop()
}
