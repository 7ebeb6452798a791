package stream

// Buffers lends the memory of the windows. A buffer from Get has at least n
// bytes and is the connection's alone until it is given to Put.
type Buffers interface {
	Get(n int) []byte
	Put(b []byte)
}

// firstBuffer is the least memory that a window borrows, in bytes. A window
// grows when a read has filled it, up to its limit, and gives everything back
// when it is empty and the connection is at rest.
const firstBuffer = 16 << 10

// window holds the bytes [base, end) of one stream in a ring.
//
//	stream:   ... dropped | base ====== held ====== end | not yet read ...
//	ring:     [ end'== | ..free.. | pos=base ==== wraps to 0 ]
//
// Invariant: end-base <= len(buf) <= limit.
type window struct {
	buf       []byte
	base, end uint64 // stream offsets
	pos       int    // index in buf of the byte at base
	want      int    // how much to borrow next time
	limit     int    // most bytes ever held
}

func (w *window) len() int { return int(w.end - w.base) }

// space returns free memory that follows the byte at end-1, to be read into,
// or nil when the window is full.
func (w *window) space(bufs Buffers) []byte {
	n := w.len()
	if n >= w.limit {
		return nil
	}
	if n == len(w.buf) {
		w.grow(bufs)
	}
	from := w.index(w.end)
	to := len(w.buf)
	if n > 0 && from <= w.pos {
		to = w.pos
	}
	return w.buf[from:to]
}

// grow exchanges the ring for a larger one, or borrows the first.
func (w *window) grow(bufs Buffers) {
	if w.buf != nil {
		w.want = min(4*len(w.buf), w.limit)
	}
	if w.want == 0 {
		w.want = min(firstBuffer, w.limit)
	}
	b := bufs.Get(w.want)
	b = b[:min(len(b), w.limit)]
	n := copy(b, w.at(w.base))
	copy(b[n:], w.at(w.base+uint64(n)))
	w.give(bufs)
	w.buf = b
}

// index returns the place of the byte at off in the ring.
func (w *window) index(off uint64) int {
	i := w.pos + int(off-w.base)
	if i >= len(w.buf) {
		i -= len(w.buf)
	}
	return i
}

// fill says that n bytes were read into space.
func (w *window) fill(n int) {
	if n == len(w.buf) {
		w.want = min(4*n, w.limit)
	}
	w.end += uint64(n)
}

// at returns held bytes from off on, up to the end or the ring's edge.
func (w *window) at(off uint64) []byte {
	if off < w.base || off >= w.end {
		return nil
	}
	i := w.index(off)
	n := min(int(w.end-off), len(w.buf)-i)
	return w.buf[i : i+n]
}

// drop forgets the bytes below to. What is not there yet is not forgotten.
func (w *window) drop(to uint64) {
	to = min(to, w.end)
	if to <= w.base {
		return
	}
	if to == w.end {
		w.pos = 0
	} else {
		w.pos = w.index(to)
	}
	w.base = to
}

// trim gives the memory back when nothing is held.
func (w *window) trim(bufs Buffers) {
	if w.len() == 0 {
		w.give(bufs)
	}
}

func (w *window) give(bufs Buffers) {
	if w.buf != nil {
		bufs.Put(w.buf)
	}
	w.buf, w.pos = nil, 0
}
