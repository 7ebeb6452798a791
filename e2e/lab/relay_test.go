package lab

import (
	"bytes"
	"fmt"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// wire is a pair of connected sockets that keep the borders of messages, as
// packet sockets do.
func wire(t *testing.T) (near, far *os.File) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	near, far = os.NewFile(uintptr(fds[0]), "near"), os.NewFile(uintptr(fds[1]), "far")
	t.Cleanup(func() { near.Close(); far.Close() })
	return near, far
}

// testPipe is a pipe between two wires and the relay that it is a part of.
func testPipe(t *testing.T, delay time.Duration, size int) (in, out *os.File, r *relay) {
	t.Helper()
	in, src := wire(t)
	dst, out := wire(t)
	p := newPipe(src, dst, delay)
	p.ring = newRing(size)
	r = &relay{files: [2]*os.File{src, dst}, pipes: []*pipe{p}}
	r.wg.Go(p.read)
	r.wg.Go(p.write)
	t.Cleanup(func() { _ = r.stop() }) // may have been stopped
	return in, out, r
}

func send(t *testing.T, f *os.File, frame []byte) {
	t.Helper()
	if _, err := f.Write(frame); err != nil {
		t.Fatal(err)
	}
}

func receiveFrame(t *testing.T, f *os.File) []byte {
	t.Helper()
	if err := f.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, maxFrame)
	n, err := f.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// Frames of all sizes come out in order, unchanged, and not before their
// time.
func TestPipeKeepsOrderAndTime(t *testing.T) {
	const delay = 20 * time.Millisecond
	in, out, r := testPipe(t, delay, ringBytes)
	for i := range 100 {
		frame := bytes.Repeat([]byte{byte(i)}, 1+i*600)
		start := time.Now()
		send(t, in, frame)
		if i%10 == 9 { // the last one has been waited for: its own delay
			for j := i - 9; j <= i; j++ {
				if got := receiveFrame(t, out); len(got) != 1+j*600 || got[0] != byte(j) {
					t.Fatalf("frame %d: %d bytes of %d", j, len(got), got[0])
				}
			}
			if took := time.Since(start); took < delay {
				t.Errorf("frame %d after %v", i, took)
			}
		}
	}
	if n, _ := r.lost(); n != 0 {
		t.Errorf("%d lost", n)
	}
}

// What does not fit is lost and counted; what is held comes out when the
// relay is stopped, without waiting for its time.
func TestPipeIsBoundedAndFlushes(t *testing.T) {
	in, out, r := testPipe(t, time.Hour, 2*maxFrame)
	const frames = 5
	for i := range byte(frames) {
		send(t, in, bytes.Repeat([]byte{i}, 60_000))
	}
	waitFor(t, "frames to be lost", func() bool { n, _ := r.lost(); return n > 0 })
	waitFor(t, "the rest to be read", func() bool { return unreadBytes(r.files[0]) == 0 })
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	lost, _ := r.lost()
	for i := range byte(frames - lost) {
		if got := receiveFrame(t, out); got[0] != i {
			t.Errorf("frame %d, want %d", got[0], i)
		}
	}
	if lost == 0 || lost == frames {
		t.Errorf("%d lost", lost)
	}
	if err := r.stop(); err != nil {
		t.Errorf("stopped twice: %v", err)
	}
}

func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	err := Until(t.Context(), what, func() error {
		if !cond() {
			return fmt.Errorf("not yet")
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// unreadBytes is how much waits in a socket, -1 if it can't be told.
func unreadBytes(f *os.File) int {
	raw, err := f.SyscallConn()
	if err != nil {
		return -1
	}
	n := -1
	err = raw.Control(func(fd uintptr) { n, err = unix.IoctlGetInt(int(fd), unix.SIOCINQ) })
	if err != nil {
		return -1
	}
	return n
}

// Frames that the far side refuses are lost and counted, and the rest goes on.
func TestPipeCountsRefusedFrames(t *testing.T) {
	in, out, r := testPipe(t, 0, ringBytes)
	send(t, in, []byte("one"))
	if got := receiveFrame(t, out); string(got) != "one" {
		t.Errorf("got %q", got)
	}
	out.Close()
	send(t, in, []byte("two"))
	waitFor(t, "the loss", func() bool { n, _ := r.lost(); return n == 1 })
}

func TestOpenRelayOnNothing(t *testing.T) {
	if _, err := openRelay("no-such-dev", "lo"); err == nil {
		t.Error("opened")
	}
}

// A far side that takes nothing does not keep stop for ever.
func TestPipeStopsThoughNobodyReads(t *testing.T) {
	in, _, r := testPipe(t, 0, ringBytes)
	for range 20 {
		send(t, in, make([]byte, 60_000))
	}
	if err := r.stop(); err != nil {
		t.Fatal(err)
	}
	if n, _ := r.lost(); n == 0 {
		t.Error("nothing was lost, though nobody read")
	}
}
