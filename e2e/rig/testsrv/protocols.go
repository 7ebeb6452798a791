package testsrv

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	"sttcp/e2e/rig/content"
)

func echo(_ *Server, r *bufio.Reader, c *net.TCPConn) error {
	_, err := io.Copy(c, r)
	return err
}

func banner(_ *Server, r *bufio.Reader, c *net.TCPConn) error {
	if _, err := io.WriteString(c, "220 ready\n"); err != nil {
		return err
	}
	return eachLine(r, c, func(line string) (string, error) { return "250 " + line, nil })
}

func who(s *Server, r *bufio.Reader, c *net.TCPConn) error {
	return eachLine(r, c, func(line string) (string, error) { return s.spec.Name + " " + line, nil })
}

func count(s *Server, r *bufio.Reader, c *net.TCPConn) error {
	return eachLine(r, c, func(line string) (string, error) { return s.counter.answer(line), nil })
}

// counter is what a Count server remembers, of all its connections.
type counter struct {
	mu    sync.Mutex
	n     int64
	lines hash.Hash
}

func (k *counter) answer(line string) string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.lines == nil {
		k.lines = sha256.New()
	}
	if line == "?" {
		return fmt.Sprintf("%d %s", k.n, hex.EncodeToString(k.lines.Sum(nil)))
	}
	k.n++
	_, _ = io.WriteString(k.lines, line+"\n") // a hash never fails
	return fmt.Sprintf("%d %s", k.n, line)
}

func sink(_ *Server, r *bufio.Reader, c *net.TCPConn) error {
	return eachLine(r, c, func(line string) (string, error) {
		sum := sha256.New()
		if line == "-" {
			_, err := io.Copy(sum, r)
			return hex.EncodeToString(sum.Sum(nil)), err
		}
		n, err := parseSize(line)
		if err != nil {
			return "", err
		}
		_, err = io.CopyN(sum, r, n)
		return hex.EncodeToString(sum.Sum(nil)), err
	})
}

func end(_ *Server, r *bufio.Reader, c *net.TCPConn) error {
	line, err := readLine(r)
	if err != nil {
		return refuse(c, err)
	}
	how, size, _ := strings.Cut(line, " ")
	n, err := parseSize(size)
	if err != nil || how != "fin" && how != "rst" {
		return refuse(c, fmt.Errorf("parse %q: want fin or rst and a number of bytes", line))
	}
	if _, err := io.Copy(c, content.Content{Size: n}.Reader()); err != nil {
		return err
	}
	if how == "rst" {
		return errors.Join(drained(c), c.SetLinger(0)) // Close sends RST
	}
	return nil
}

// paced serves a stream per line.
func paced(_ *Server, r *bufio.Reader, c *net.TCPConn) error {
	for {
		line, err := readLine(r)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return refuse(c, err)
		}
		what, over, err := parsePaced(line)
		if err != nil {
			return refuse(c, err)
		}
		if err := sendPaced(c, what, over); err != nil {
			return fmt.Errorf("send %s: %w", line, err)
		}
	}
}

// parsePaced parses "BYTES DURATION SEED".
func parsePaced(line string) (what content.Content, over time.Duration, err error) {
	f := strings.Fields(line)
	if len(f) != 3 {
		return what, 0, fmt.Errorf("parse %q: want bytes, duration, seed", line)
	}
	size, err1 := parseSize(f[0])
	over, err2 := time.ParseDuration(f[1])
	seed, err3 := strconv.ParseUint(f[2], 10, 64)
	if err := errors.Join(err1, err2, err3); err != nil {
		return what, 0, fmt.Errorf("parse %q: %w", line, err)
	}
	return content.Content{Seed: seed, Size: size}, over, nil
}

// pace is how often sendPaced sends.
const pace = 5 * time.Millisecond

// allowed is how many of size bytes may be sent after the elapsed time.
func allowed(size int64, elapsed, over time.Duration) int64 {
	if elapsed >= over {
		return size
	}
	return int64(float64(size) * (float64(elapsed) / float64(over)))
}

func parseSize(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("parse size %q: not a number of bytes", s)
	}
	return n, nil
}

// HashLines is the hash that a Count server gives after these lines.
func HashLines(lines ...string) string {
	sum := sha256.New()
	for _, l := range lines {
		_, _ = io.WriteString(sum, l+"\n")
	}
	return hex.EncodeToString(sum.Sum(nil))
}
