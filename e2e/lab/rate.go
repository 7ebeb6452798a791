package lab

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
)

// Rate limits a direction of the link to so many bits per second (at least
// 64,000) with a queue of 100 ms behind it. Outgoing frames are held in the
// host, as a slow network card would; incoming ones in the switch.
func (k *Link) Rate(dir Dir, bitsPerSecond uint64) (*Fault, error) {
	what := fmt.Sprintf("limit %s of %v to %d bit/s", dir, k, bitsPerSecond)
	if _, err := dir.hook(); err != nil || bitsPerSecond < 64_000 {
		return nil, errors.Join(fmt.Errorf("%s: out of range", what), err)
	}
	if dir == In {
		return k.addPortFault(&portFault{
			apply: func(dev string) error { return k.host.lab.sw.shape(dev, bitsPerSecond) },
			lift:  k.host.lab.sw.unshape,
		}, what, nil)
	}
	if err := k.host.shape(k.name, bitsPerSecond); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	return &Fault{what: what, lab: k.host.lab, undo: func() error { return k.host.unshape(k.name) }}, nil
}

// shape puts a token bucket filter on an interface's way out.
func (h *Host) shape(dev string, bitsPerSecond uint64) error {
	return h.withDev(dev, "shape", func(nl *netlink.Handle, link netlink.Link) error {
		return nl.QdiscReplace(tokenBucket(link, bitsPerSecond))
	})
}

// unshape brings the interface's default queue back. The rate in the request does
// not matter.
func (h *Host) unshape(dev string) error {
	return h.withDev(dev, "unshape", func(nl *netlink.Handle, link netlink.Link) error {
		return nl.QdiscDel(tokenBucket(link, 64_000))
	})
}

// tokenBucket has a bucket of 10 ms, or at least two packets. Larger
// super-frames are split by the kernel.
func tokenBucket(link netlink.Link, bitsPerSecond uint64) *netlink.Tbf {
	rate := bitsPerSecond / 8
	burst := max(3028, uint32(min(rate/100, 1<<30)))
	return &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_ROOT,
			Handle: netlink.MakeHandle(0x1ab, 0)},
		Rate:   rate,
		Limit:  burst + max(16<<10, uint32(min(rate/10, 1<<30))),
		Buffer: netlink.Xmittime(rate, burst),
	}
}
