package content_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"sttcp/e2e/rig/content"
)

func all(t *testing.T, c content.Content) []byte {
	t.Helper()
	b, err := io.ReadAll(c.Reader())
	if err != nil || int64(len(b)) != c.Size {
		t.Fatalf("read %d bytes of %+v: %v", len(b), c, err)
	}
	return b
}

func TestContentIsDeterministic(t *testing.T) {
	a := content.Content{Seed: 1, Size: 100_003}
	small, err := io.ReadAll(iotest.OneByteReader(a.Reader()))
	if err != nil || !bytes.Equal(all(t, a), small) {
		t.Fatalf("what is read depends on how it is read (%v)", err)
	}
	if !bytes.HasPrefix(all(t, content.Content{Seed: 1, Size: 200_000}), all(t, a)) {
		t.Error("a longer stream of the same seed starts otherwise")
	}
	if bytes.Equal(all(t, a), all(t, content.Content{Seed: 2, Size: a.Size})) {
		t.Error("two seeds give the same stream")
	}
	sum := sha256.Sum256(all(t, a))
	if got := a.SHA256(); got != hex.EncodeToString(sum[:]) {
		t.Errorf("SHA256 is %s, of its bytes %x", got, sum)
	}
}

func TestContentFile(t *testing.T) {
	c := content.Content{Seed: 7, Size: 70_000}
	path := filepath.Join(t.TempDir(), "sub", "file")
	if err := c.WriteFile(path); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, all(t, c)) {
		t.Errorf("the file has other bytes (%v)", err)
	}
	if err := c.WriteFile(filepath.Join(path, "below-a-file")); err == nil {
		t.Error("written below a file")
	}
}

// TestChecker alters one byte, cuts or appends, at random places and with
// random pieces, and expects the exact place to be named.
func TestChecker(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	c := content.Content{Seed: 3, Size: 10_000}
	right := all(t, c)
	for range 200 {
		at := rnd.Int64N(c.Size)
		wrong := bytes.Clone(right)
		wrong[at] ^= byte(1 + rnd.IntN(255))
		expect(t, rnd, c, wrong, at, "is wrong")
		expect(t, rnd, c, right[:at], -1, "all of them right")
	}
	expect(t, rnd, c, right, -1, "")
	// Too many, and the same as in a longer stream of that seed.
	longer := all(t, content.Content{Seed: 3, Size: 10_500})
	for range 50 {
		expect(t, rnd, c, longer, c.Size, "got 10500 bytes instead of 10000")
	}
	longer[10_200]++
	expect(t, rnd, c, longer, c.Size, "got 10500 bytes instead of 10000")
	expect(t, rnd, c, append(bytes.Clone(right), 0), c.Size, "got 10001 bytes instead of 10000")
	expect(t, rnd, content.Content{}, nil, -1, "")
}

func expect(t *testing.T, rnd *rand.Rand, c content.Content, stream []byte, diff int64, msg string) {
	t.Helper()
	k := content.NewChecker(c)
	for rest := stream; len(rest) > 0; {
		n := min(1+rnd.IntN(3000), len(rest))
		if m, err := k.Write(rest[:n]); m != n || err != nil {
			t.Fatalf("Write: %d, %v", m, err)
		}
		rest = rest[n:]
	}
	sum := sha256.Sum256(stream)
	if k.Bytes() != int64(len(stream)) || k.FirstDiff() != diff || k.SHA256() != hex.EncodeToString(sum[:]) {
		t.Fatalf("%d bytes, first difference at %d; want %d, %d", k.Bytes(), k.FirstDiff(), len(stream), diff)
	}
	if err := k.Err(); (err == nil) != (msg == "") || err != nil && !strings.Contains(err.Error(), msg) {
		t.Fatalf("Err() = %v, want %q", err, msg)
	}
}
