package lab

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/afpacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"golang.org/x/net/bpf"
)

const (
	// snapLen is how much of a frame is kept: all headers (14+40+60 bytes)
	// and the start of the payload.
	snapLen = 160
	// slotBytes is the kernel's header and one frame, in the ring.
	slotBytes = 256
	// blockBytes times ringBlocks is the ring shared with the kernel: it
	// holds 65,536 frames, of which drainEvery sees few.
	blockBytes = 1 << 20
	ringBlocks = 16
	drainEvery = 10 * time.Millisecond
	// frameBytes is about what a kept frame costs.
	frameBytes = snapLen + 40
	// maxFrames bounds a capture's memory, at about 256 MiB.
	maxFrames = 256 << 20 / frameBytes
)

// ErrFramesLost is part of every answer of a capture that has not seen or not
// kept all frames: what the answer does not show may still have happened.
var ErrFramesLost = errors.New("the capture lost frames")

// Capture records the frames that pass a place in the lab: their headers with
// the kernel's time stamps, in memory. See Link.Capture for what is seen.
//
// The kernel writes the frames into a ring of fixed slots (PACKET_RX_RING,
// TPACKET_V2) that this process has mapped. Version 2 because a slot can be
// read as soon as its frame is in it: version 3 hands over whole blocks, and a
// question asked right after an event would miss the event. Every question
// first empties the ring, so it covers what passed before it was asked.
type Capture struct {
	// Constant after open.
	lab   *Lab
	where string
	quit  chan struct{}
	idle  chan struct{} // closed when the reader has ended

	// Guarded by mu.
	mu     sync.Mutex
	ring   *afpacket.TPacket // nil once stopped
	frames []frame           // append only, until Reset
	slab   []byte            // where the next frames' bytes go
	limit  int               // frames
	lost   uint64            // those beyond limit
	drops  uint64            // dropped by the kernel until Reset or Stop
	base   uint64            // dropped by the kernel before Reset
	err    error             // what broke the capture
}

// frame is the start of a captured frame.
type frame struct {
	at   time.Time
	wire int // true length, bytes
	data []byte
}

// Capture records what passes the host's end of the cable: what the host sent
// (after its tc programs) and received (before its tc programs), but not what
// a fault swallowed on the way to it.
func (k *Link) Capture() (*Capture, error) {
	return k.host.lab.capture(k.host, k.name, k.String(), false)
}

// CapturePort records what passes the switch's end of the cable. It sees what
// Capture sees, without a packet socket in the host.
func (k *Link) CapturePort() (*Capture, error) {
	return k.host.lab.capture(k.host.lab.sw, k.wire, "port of "+k.String(), false)
}

// CaptureNetwork records each frame that enters a network's bridge, once.
// Frames that a fault swallows between a host and the bridge are not seen.
func (l *Lab) CaptureNetwork(name string) (*Capture, error) {
	return l.capture(l.sw, name, "network "+name, true)
}

// capture opens a capture in the namespace of h and enters it into the list that
// Close stops. From its return on, every frame that passes is seen.
func (l *Lab) capture(h *Host, dev, where string, promiscuous bool) (*Capture, error) {
	c := &Capture{lab: l, where: where, limit: maxFrames, quit: make(chan struct{}), idle: make(chan struct{})}
	err := h.Do(func() (err error) {
		c.ring, err = openRing(dev, promiscuous)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("capture %s: %w", where, err)
	}
	go c.read()
	l.mu.Lock()
	closed := l.closed
	l.captures = append(l.captures, c)
	l.mu.Unlock()
	if closed {
		c.Stop()
		return nil, fmt.Errorf("capture %s: %w", where, errEnded)
	}
	return c, nil
}

// openRing opens a packet socket with a ring in the current namespace.
func openRing(dev string, promiscuous bool) (*afpacket.TPacket, error) {
	ring, err := afpacket.NewTPacket(afpacket.OptInterface(dev), afpacket.TPacketVersion2,
		afpacket.OptFrameSize(slotBytes), afpacket.OptBlockSize(blockBytes),
		afpacket.OptNumBlocks(ringBlocks), afpacket.OptPollTimeout(0))
	if err != nil {
		return nil, err
	}
	filter, err := bpf.Assemble([]bpf.Instruction{bpf.RetConstant{Val: snapLen}})
	if err == nil {
		err = ring.SetBPF(filter)
	}
	if err == nil && promiscuous {
		err = ring.SetPromiscuous(true)
	}
	if err != nil {
		ring.Close()
		return nil, err
	}
	return ring, nil
}

// read empties the ring now and then. Nothing waits for single frames, so
// that a capture costs the machine little.
func (c *Capture) read() {
	defer close(c.idle)
	tick := time.NewTicker(drainEvery)
	defer tick.Stop()
	for {
		select {
		case <-c.quit:
			return
		case <-tick.C:
			c.mu.Lock()
			c.drain()
			c.mu.Unlock()
		}
	}
}

// drain takes everything out of the ring that the kernel has put there; c.mu
// is held.
func (c *Capture) drain() {
	if c.ring == nil {
		return
	}
	for {
		data, ci, err := c.ring.ZeroCopyReadPacketData()
		if err != nil { // empty, or the link went down and it is empty
			if !errors.Is(err, afpacket.ErrTimeout) && !errors.Is(err, afpacket.ErrPoll) {
				c.err = err
			}
			break
		}
		c.keep(data, ci)
	}
	if stats, _, err := c.ring.SocketStats(); err == nil {
		c.drops = uint64(stats.Drops()) - c.base
	}
}

// keep copies a frame out of the ring, into large pieces of memory that many
// frames share: one allocation each would cost more than the frame. c.mu is held.
func (c *Capture) keep(data []byte, ci gopacket.CaptureInfo) {
	if len(c.frames) >= c.limit {
		c.lost++
		return
	}
	data = data[:min(len(data), snapLen)] // before the filter was set it was more
	if len(c.slab) < len(data) {
		c.slab = make([]byte, 1<<20)
	}
	n := copy(c.slab, data)
	c.frames = append(c.frames, frame{at: ci.Timestamp, wire: ci.Length, data: c.slab[:n:n]})
	c.slab = c.slab[n:]
}

// Stop ends the recording; what was recorded can still be asked about.
func (c *Capture) Stop() {
	c.mu.Lock()
	if c.ring != nil {
		c.drain()
		c.ring.Close()
		c.ring = nil
		close(c.quit)
	}
	c.mu.Unlock()
	<-c.idle
}

// Reset forgets everything recorded so far, losses included.
func (c *Capture) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drain()
	c.base += c.drops
	c.frames, c.slab, c.lost, c.drops, c.err = nil, nil, 0, 0, nil
}

// snapshot returns all frames up to now, and ErrFramesLost if some are
// missing.
func (c *Capture) snapshot() ([]frame, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drain()
	err := c.err
	if n := c.lost + c.drops; n > 0 {
		err = errors.Join(err, fmt.Errorf("%w: %d, after %d that it has", ErrFramesLost, n, len(c.frames)))
	}
	return c.frames[:len(c.frames):len(c.frames)], wrap(err, "capture %s", c.where)
}

// Frames is how many frames were recorded.
func (c *Capture) Frames() (int, error) {
	frames, err := c.snapshot()
	return len(frames), err
}

// String says where the capture is.
func (c *Capture) String() string { return c.where }

// WritePcap writes what was recorded to a file in pcap format, for Wireshark
// or tcpdump. ErrFramesLost is returned after the file was written.
func (c *Capture) WritePcap(path string) error {
	frames, lost := c.snapshot()
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write pcap: %w", err)
	}
	return errors.Join(lost, wrap(errors.Join(writePcap(f, frames), f.Close()), "write pcap %s", path))
}

// writePcap writes the classic format with time stamps in nanoseconds. The true
// length goes with each frame, so that a reader sees what was cut off.
func writePcap(w io.Writer, frames []frame) error {
	pw := pcapgo.NewWriterNanos(w)
	if err := pw.WriteFileHeader(snapLen, layers.LinkTypeEthernet); err != nil {
		return err
	}
	for _, f := range frames {
		ci := gopacket.CaptureInfo{Timestamp: f.at, CaptureLength: len(f.data), Length: f.wire}
		if err := pw.WritePacket(ci, f.data); err != nil {
			return err
		}
	}
	return nil
}
