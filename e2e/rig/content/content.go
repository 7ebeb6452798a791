// Package content makes deterministic streams of bytes and checks what came of
// them: two servers that send the same Content send the same bytes, and a
// client that knows which Content it asked for can say which byte is wrong.
package content

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// Content is a stream of Size pseudo-random bytes (ChaCha8), which differ from
// one Seed to another. Two of the same Seed agree as far as the shorter goes.
type Content struct {
	Seed uint64
	Size int64 // bytes, 0 or more
}

// Reader reads the stream from its start.
func (c Content) Reader() io.Reader { return io.LimitReader(c.endless(), c.Size) }

// endless never ends and never fails.
func (c Content) endless() *rand.ChaCha8 {
	var seed [32]byte
	binary.LittleEndian.PutUint64(seed[:], c.Seed)
	return rand.NewChaCha8(seed)
}

// SHA256 is the hash of the whole stream, in hexadecimal. It takes about 2 s
// per GB.
func (c Content) SHA256() string {
	h := sha256.New()
	_, _ = io.Copy(h, c.Reader()) // neither can fail
	return hex.EncodeToString(h.Sum(nil))
}

// WriteFile writes the stream to a file that it makes, with its directories.
func (c Content) WriteFile(path string) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make directory for content: %w", err)
	}
	f, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("write content: %w", err)
	}
	_, err = io.Copy(f, c.Reader())
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("write content to %s: %w", path, err)
	}
	return nil
}

// Checker compares a stream that is written to it with a Content. It takes
// everything, and remembers the first byte that is not as it should be. It is
// not for concurrent use.
type Checker struct {
	want  Content
	gen   *rand.ChaCha8
	sum   hash.Hash
	buf   []byte
	bytes int64
	diff  int64 // offset of the first difference, -1 for none
}

// NewChecker returns a Checker that has seen nothing yet.
func NewChecker(want Content) *Checker {
	return &Checker{want: want, gen: want.endless(), sum: sha256.New(), diff: -1}
}

// Write takes the next bytes; it never fails.
func (c *Checker) Write(p []byte) (int, error) {
	c.sum.Write(p)
	if len(p) > len(c.buf) {
		c.buf = make([]byte, len(p))
	}
	want := c.buf[:len(p)]
	_, _ = c.gen.Read(want) // never fails
	if c.diff < 0 {
		c.compare(p, want)
	}
	c.bytes += int64(len(p))
	return len(p), nil
}

func (c *Checker) compare(got, want []byte) {
	if !bytes.Equal(got, want) {
		for i := range got {
			if got[i] != want[i] {
				c.diff = c.bytes + int64(i)
				break
			}
		}
	}
	if end := c.bytes + int64(len(got)); end > c.want.Size && (c.diff < 0 || c.diff > c.want.Size) {
		c.diff = c.want.Size // the first byte too many
	}
}

// Bytes is how many bytes were written.
func (c *Checker) Bytes() int64 { return c.bytes }

// FirstDiff is the offset of the first byte that differs or is beyond the end
// of the Content, -1 when there is none.
func (c *Checker) FirstDiff() int64 { return c.diff }

// SHA256 is the hash of what was written, in hexadecimal.
func (c *Checker) SHA256() string { return hex.EncodeToString(c.sum.Sum(nil)) }

// Err is nil when exactly the Content was written; otherwise it says where the
// first difference is, or how much is missing.
func (c *Checker) Err() error {
	switch {
	case c.diff >= 0 && c.diff >= c.want.Size:
		return fmt.Errorf("got %d bytes instead of %d", c.bytes, c.want.Size)
	case c.diff >= 0:
		return fmt.Errorf("byte %d of %d is wrong", c.diff, c.want.Size)
	case c.bytes < c.want.Size:
		return fmt.Errorf("got %d of %d bytes, all of them right", c.bytes, c.want.Size)
	}
	return nil
}
