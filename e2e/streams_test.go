package e2e

import (
	"errors"
	"fmt"
	"io"
	"time"

	"sttcp/e2e/rig"
	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

// pacedSize is how much a stream has, in bytes.
const pacedSize = 6 << 20

// streamTime is how long it lasts.
const streamTime = 2500 * time.Millisecond

func pacedDownload(number uint64) func(*rig.Conn, *progress) error {
	return func(c *rig.Conn, p *progress) error {
		want := content.Content{Seed: number, Size: pacedSize}
		if err := c.Send(fmt.Sprintf("%d %v %d", want.Size, streamTime, want.Seed)); err != nil {
			return err
		}
		return readChecked(c, p, content.NewChecker(want), want.Size)
	}
}

// readChecked reads a stream up to a size; from there on the checker knows it.
func readChecked(c *rig.Conn, p *progress, check *content.Checker, size int64) error {
	buf := make([]byte, grain)
	for check.Bytes() < size {
		n, err := c.Reader().Read(buf[:min(grain, size-check.Bytes())])
		_, _ = check.Write(buf[:n]) // never fails
		p.add(int64(n))
		if err != nil {
			return fmt.Errorf("download: after %d bytes: %w", check.Bytes(), err)
		}
		if at := check.FirstDiff(); at >= 0 {
			return fmt.Errorf("download: byte %d is wrong", at)
		}
	}
	return nil
}

// pacedUpload sends a stream evenly and wants its hash back.
func pacedUpload(number uint64) func(*rig.Conn, *progress) error {
	return func(c *rig.Conn, p *progress) error {
		what := content.Content{Seed: number, Size: pacedSize}
		if err := c.Send(fmt.Sprint(what.Size)); err != nil {
			return err
		}
		const steps = 250
		pace := time.NewTicker(streamTime / steps)
		defer pace.Stop()
		for in := what.Reader(); ; {
			n, err := io.CopyN(c.Conn, in, what.Size/steps)
			p.add(n)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return fmt.Errorf("upload: after %d bytes: %w", p.value(), err)
			}
			<-pace.C
		}
		got, err := c.ReadLine()
		if err == nil && got != what.SHA256() {
			err = fmt.Errorf("upload: the server has %q, want %s", got, what.SHA256())
		}
		return err
	}
}

// countedRequests asks a server to count, which is not idempotent: each answer
// is one more than the one before. At the end the server's own count and the
// hash of all that it was asked must be the client's.
func countedRequests(number uint64) func(*rig.Conn, *progress) error {
	return func(c *rig.Conn, p *progress) error {
		var lines []string
		pace := time.NewTicker(time.Millisecond)
		defer pace.Stop()
		for end := time.Now().Add(streamTime); time.Now().Before(end); <-pace.C {
			lines = append(lines, fmt.Sprintf("request %d of %d", len(lines), number))
			if err := wantAnswer(c, lines[len(lines)-1], fmt.Sprintf("%d %s", len(lines), lines[len(lines)-1])); err != nil {
				return err
			}
			p.add(1)
		}
		return wantAnswer(c, "?", fmt.Sprintf("%d %s", len(lines), testsrv.HashLines(lines...)))
	}
}

func wantAnswer(c *rig.Conn, line, want string) error {
	got, err := c.Ask(line)
	if err == nil && got != want {
		err = fmt.Errorf("%q is answered with %q, want %q", line, got, want)
	}
	return err
}

// upload is a load that sends a stream evenly.
type upload struct{}

func (upload) serve(w *world, host string) (*rig.Server, error) {
	return testServer(testsrv.Spec{Proto: testsrv.Sink, Port: 9000})(w, host)
}

func (upload) port() uint16                        { return 9000 }
func (upload) extra() string                       { return "" }
func (upload) strike(share float64) int64          { return int64((0.1 + 0.4*share) * pacedSize) }
func (upload) check(*world, *rig.Server) error     { return nil }
func (upload) talk(c *rig.Conn, p *progress) error { return pacedUpload(1)(c, p) }
