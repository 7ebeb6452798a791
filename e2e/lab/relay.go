package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// maxFrame is a super-frame of 64 KiB with its Ethernet header and the
	// virtio header in front of it.
	maxFrame = 64<<10 + 256
	// ringBytes is how much a direction of a relay can hold.
	ringBytes = 32 << 20
)

// relay passes frames between two interfaces, each way after a fixed delay.
// The frames carry virtio headers (PACKET_VNET_HDR), so that super-frames and
// checksums still to be filled in stay what they are.
//
//	host's eth0 == cable [ files[0] --pipes[1]--> files[1] ] near == port, bridge
//	                     [          <--pipes[0]--          ]
//
// A pipe has two goroutines and a ring between them. The reader stamps each
// frame with the time at which it is due, and never waits for the writer: a
// full ring loses frames, as a full queue of a router does. The writer sleeps
// until the oldest frame is due; since the delay is the same for all frames of
// a pipe, the oldest is always the next.
type relay struct {
	files [2]*os.File // packet sockets: the cable, the bridge's side
	ifs   [2]int      // their interfaces
	pipes []*pipe
	wg    sync.WaitGroup
}

// openRelay opens the sockets in the current namespace; they get no frames
// before start.
func openRelay(cable, bridge string) (*relay, error) {
	r := &relay{}
	for i, dev := range []string{cable, bridge} {
		var err error
		if r.files[i], r.ifs[i], err = openPacket(dev); err != nil {
			return nil, errors.Join(fmt.Errorf("open packet socket on %s: %w", dev, err), r.stop())
		}
	}
	return r, nil
}

// openPacket opens a packet socket that receives nothing yet: its protocol is 0
// until bindPacket. A packet socket does not see what it sends itself, so the
// frames of one direction don't come back in the other. It returns the interface's
// index, too.
func openPacket(dev string) (*os.File, int, error) {
	ifi, err := net.InterfaceByName(dev)
	if err != nil {
		return nil, 0, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, err
	}
	err = errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, ringBytes),
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, ringBytes))
	if err != nil {
		return nil, 0, errors.Join(err, unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), "relay "+dev), ifi.Index, nil
}

// start begins to relay; in is the delay towards the cable.
func (r *relay) start(in, out time.Duration) error {
	r.pipes = []*pipe{newPipe(r.files[1], r.files[0], in), newPipe(r.files[0], r.files[1], out)}
	for i, f := range r.files {
		if err := bindPacket(f, r.ifs[i]); err != nil {
			return fmt.Errorf("bind %s: %w", f.Name(), err)
		}
	}
	for _, p := range r.pipes {
		r.wg.Go(p.read)
		r.wg.Go(p.write)
	}
	return nil
}

// bindPacket makes a packet socket receive. Fd would make the file blocking.
func bindPacket(f *os.File, ifindex int) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	to := &unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: ifindex}
	var bindErr error
	err = raw.Control(func(fd uintptr) { bindErr = unix.Bind(int(fd), to) })
	return errors.Join(err, bindErr)
}

// stop ends the relay, once it has let go what it holds.
func (r *relay) stop() error {
	for _, p := range r.pipes {
		p.hurry.Store(true)
		// A closed file is as good.
		_ = p.src.SetReadDeadline(time.Now())
		_ = p.dst.SetWriteDeadline(time.Now().Add(time.Second))
	}
	r.wg.Wait()
	var errs []error
	for _, f := range r.files {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	if err := errors.Join(errs...); !errors.Is(err, os.ErrClosed) { // stopped twice
		return err
	}
	return nil
}

// lost counts the frames that got lost in the relay.
func (r *relay) lost() (uint64, error) {
	var n uint64
	for _, p := range r.pipes {
		n += p.lost.Load()
	}
	return n, nil
}

// htons brings a protocol number into network byte order.
func htons(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

// pipe is one direction of a relay.
type pipe struct {
	// Constant.
	src, dst *os.File
	delay    time.Duration
	ring     *ring

	// Read and set by anybody.
	lost  atomic.Uint64
	hurry atomic.Bool // don't wait any more
}

// newPipe makes a direction that does not move yet.
func newPipe(src, dst *os.File, delay time.Duration) *pipe {
	return &pipe{src: src, dst: dst, delay: delay, ring: newRing(ringBytes)}
}

// read takes frames from src into the ring until it is told to stop.
func (p *pipe) read() {
	defer p.ring.close()
	var spill [maxFrame]byte // frames that find the ring full end here
	for {
		buf := p.ring.reserve(maxFrame)
		full := buf == nil
		if full {
			buf = spill[:]
		}
		n, err := p.src.Read(buf)
		switch {
		case errors.Is(err, unix.ENETDOWN): // told once; it goes on when the link is up
		case err != nil:
			return
		case full:
			p.lost.Add(1)
		default:
			p.ring.commit(n, time.Now().Add(p.delay))
		}
	}
}

// write passes on each frame when it is due. What the kernel refuses (link
// down, queue full) is lost, as on a real cable.
func (p *pipe) write() {
	for {
		frame, due, ok := p.ring.next()
		if !ok {
			return
		}
		p.sleepUntil(due)
		if _, err := p.dst.Write(frame); err != nil {
			p.lost.Add(1)
		}
		p.ring.release()
	}
}

// sleepUntil sleeps in the kernel, since the timers of the Go runtime are
// rounded up to a millisecond when nothing else goes on.
func (p *pipe) sleepUntil(due time.Time) {
	for !p.hurry.Load() {
		left := min(time.Until(due), 5*time.Millisecond)
		if left <= 0 {
			return
		}
		ts := unix.NsecToTimespec(left.Nanoseconds())
		_ = unix.Nanosleep(&ts, nil) // interrupted: the loop goes on
	}
}

// ring is a queue of frames in one piece of memory, for one writer and one
// reader. A frame is never split: what does not fit before the end goes to
// the beginning.
//
//	0 . . . . tail ======= head . . . . len(mem)     or
//	0 ==== head . . . . . . tail ======== (unused)
type ring struct {
	mem []byte

	// Guarded by mu.
	mu     sync.Mutex
	filled sync.Cond
	frames []ringFrame // oldest first
	head   int         // where the next frame may start
	closed bool
}

// ringFrame is where a frame lies in the memory, and when it is due.
type ringFrame struct {
	start, end int
	due        time.Time
}

// newRing makes an empty ring. Its memory is only used as far as it is filled.
func newRing(size int) *ring {
	r := &ring{mem: make([]byte, size)}
	r.filled.L = &r.mu
	return r
}

// reserve returns n bytes of free memory for the next frame, nil when there
// are none.
func (r *ring) reserve(n int) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.frames) == 0 {
		r.head = 0
		return r.mem[:n]
	}
	tail := r.frames[0].start
	if r.head > tail { // free: from head to the end, and before tail
		if r.head+n <= len(r.mem) {
			return r.mem[r.head : r.head+n]
		}
		if n > tail {
			return nil
		}
		r.head = 0
		return r.mem[:n]
	}
	if r.head+n > tail {
		return nil
	}
	return r.mem[r.head : r.head+n]
}

// commit makes the first n bytes of what was reserved a frame.
func (r *ring) commit(n int, due time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frames = append(r.frames, ringFrame{r.head, r.head + n, due})
	r.head += n
	r.filled.Signal()
}

// next waits for the oldest frame; it is false when there will be none.
func (r *ring) next() (frame []byte, due time.Time, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.frames) == 0 && !r.closed {
		r.filled.Wait()
	}
	if len(r.frames) == 0 {
		return nil, time.Time{}, false
	}
	f := r.frames[0]
	return r.mem[f.start:f.end], f.due, true
}

// release frees the frame that next returned.
func (r *ring) release() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.frames = r.frames[1:]
}

// close says that there will be no more frames; those in the ring still come out.
func (r *ring) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.filled.Signal()
}
