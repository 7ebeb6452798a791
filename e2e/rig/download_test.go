package rig

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig/content"
)

var what = content.Content{Seed: 11, Size: 100_000}

// pieces is a stream whose pieces come when the test sends them. Closing the
// channel ends it with err.
type pieces struct {
	ch  chan []byte
	err error
}

func (p *pieces) Read(b []byte) (int, error) {
	next, ok := <-p.ch
	if !ok {
		return 0, p.err
	}
	return copy(b, next), nil
}

func newDownload(err error) (*Download, *pieces) {
	p := &pieces{make(chan []byte), err}
	return watch(p, what), p
}

func bytesOf(t *testing.T, c content.Content) []byte {
	t.Helper()
	b, err := io.ReadAll(c.Reader())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func within(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// TestDownloadResults feeds good and bad streams in two pieces.
func TestDownloadResults(t *testing.T) {
	right := bytesOf(t, what)
	wrong := append([]byte(nil), right...)
	wrong[70_000]++
	reset := errors.New("connection reset")
	for _, tt := range []struct {
		name   string
		stream []byte
		end    error
		diff   int64
		want   string
	}{
		{"right", right, io.EOF, -1, ""},
		{"a wrong byte", wrong, io.EOF, 70_000, "byte 70000 of 100000 is wrong"},
		{"cut", right[:99_999], io.EOF, -1, "got 99999 of 100000"},
		{"reset", right[:80_000], reset, -1, "read after 80000 bytes: connection reset"},
		{"reset at the very end", right, reset, -1, "connection reset"},
		{"too long", append(right, 'x'), io.EOF, 100_000, "got 100001 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, p := newDownload(tt.end)
			for s := tt.stream; len(s) > 0; s = s[min(len(s), 50_000):] {
				p.ch <- s[:min(len(s), 50_000)]
			}
			close(p.ch)
			r, err := d.Wait(within(t))
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Wait: %v, want %q", err, tt.want)
			}
			if r.Bytes != int64(len(tt.stream)) || r.FirstDiff != tt.diff || r.Want != what.SHA256() {
				t.Errorf("result %+v", r)
			}
			if (r.SHA256 == r.Want) != (r.FirstDiff < 0 && r.Bytes == what.Size) {
				t.Errorf("hashes %s and %s", r.SHA256, r.Want)
			}
			if d.Quiet() != 0 {
				t.Error("it is quiet after its end")
			}
		})
	}
}

func TestDownloadWaitBytes(t *testing.T) {
	ctx, right := within(t), bytesOf(t, what)
	d, p := newDownload(io.EOF)
	early, cancel := context.WithTimeout(ctx, 10*time.Millisecond)
	defer cancel()
	if err := d.WaitBytes(early, 1); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waited for byte 1: %v", err)
	}
	if _, err := d.Wait(early); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waited for the end: %v", err)
	}
	reached := make(chan error, 2)
	go func() { reached <- d.WaitBytes(ctx, 600) }()
	go func() { reached <- d.WaitBytes(ctx, 99_000) }()
	p.ch <- right[:600]
	if err := <-reached; err != nil || d.Bytes() != 600 {
		t.Errorf("waited for 600 bytes, has %d: %v", d.Bytes(), err)
	}
	if err := d.WaitBytes(ctx, 600); err != nil {
		t.Error(err)
	}
	close(p.ch)
	if err := <-reached; err == nil || !strings.Contains(err.Error(), "the stream ended: got 600 of 100000") {
		t.Errorf("waited for 99000 bytes: %v", err)
	}
}

// TestDownloadGaps makes one long silence after another and wants them found.
func TestDownloadGaps(t *testing.T) {
	right := bytesOf(t, what)
	d, p := newDownload(errors.New("broken"))
	quiet := func(long time.Duration) {
		err := lab.Until(within(t), "silence", func() error {
			if d.Quiet() < long {
				return errors.New("not yet")
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	p.ch <- right[:1000]
	quiet(300 * time.Millisecond)
	p.ch <- right[1000:2000]
	if err := d.WaitBytes(within(t), 2000); err != nil {
		t.Fatal(err)
	}
	fault := time.Now()
	quiet(50 * time.Millisecond)
	close(p.ch) // the silence before the failure is one, too
	<-d.Done()
	if g := d.Result().Longest; g.Offset != 1000 || g.Length < 300*time.Millisecond {
		t.Errorf("longest gap: %+v", g)
	}
	if g := d.Stall(fault); g.Offset != 2000 || g.Length < 50*time.Millisecond || g.Start.After(fault) {
		t.Errorf("stall of the fault at %v: %+v", fault, g)
	}
	if g := d.Stall(time.Now()); g != (Gap{}) {
		t.Errorf("stall after the end: %+v", g)
	}
}

func TestGapsAreBounded(t *testing.T) {
	d := &Download{check: content.NewChecker(what), last: time.Unix(0, 0)}
	for i := range maxGaps + 100 {
		long := minGap + time.Duration(i%100)
		if i == maxGaps/2 || i == maxGaps+50 {
			long = time.Second
		}
		next := d.last.Add(long)
		d.note(next)
		d.last = next
	}
	seconds := 0
	for _, g := range d.gaps {
		if g.Length == time.Second {
			seconds++
		}
	}
	if len(d.gaps) != maxGaps || seconds != 2 {
		t.Errorf("%d gaps are kept, %d of the 2 long ones", len(d.gaps), seconds)
	}
}
