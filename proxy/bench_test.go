package proxy

import (
	"io"
	"net"
	"sync"
	"testing"

	"sttcp/configs"
)

// The benchmarks run clients, gateway and servers in one process over
// loopback, so only their ratios mean anything, and only within one run.

func benchService(legs int, compare configs.CompareMode) func(*configs.Service) {
	return func(s *configs.Service) {
		s.Legs, s.Compare.Mode = legs, compare
		if legs == 1 {
			s.Release, s.Stateful, s.Servers = configs.ReleasePrimary, false, s.Servers[:1]
		}
	}
}

// source answers each byte of a request with 1 MiB.
func source(_ *rig, _ int, c *net.TCPConn) {
	defer func() { _ = c.Close() }()
	body := randomBytes(1 << 20)
	for b := make([]byte, 1); ; {
		if _, err := io.ReadFull(c, b); err != nil {
			return
		}
		if _, err := c.Write(body); err != nil {
			return
		}
	}
}

func BenchmarkDownload(b *testing.B) {
	for name, change := range map[string]func(*configs.Service){
		"one-leg":      benchService(1, configs.CompareOff),
		"two-legs":     benchService(2, configs.CompareExact),
		"two-legs-off": benchService(2, configs.CompareOff),
	} {
		b.Run(name, func(b *testing.B) {
			c := newRig(b, change, source).dial()
			b.SetBytes(1 << 20)
			buf := make([]byte, 256<<10)
			for b.Loop() {
				_, _ = c.Write([]byte("x"))
				if _, err := io.CopyBuffer(io.Discard, io.LimitReader(onlyReader{c}, 1<<20), buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// onlyReader hides what lets io.CopyBuffer ignore its buffer.
type onlyReader struct{ io.Reader }

func BenchmarkUpload(b *testing.B) {
	for name, change := range map[string]func(*configs.Service){
		"one-leg":  benchService(1, configs.CompareOff),
		"two-legs": benchService(2, configs.CompareExact),
	} {
		b.Run(name, func(b *testing.B) {
			c := newRig(b, change, func(_ *rig, _ int, c *net.TCPConn) {
				defer func() { _ = c.Close() }()
				_, _ = io.CopyBuffer(io.Discard, onlyReader{c}, make([]byte, 256<<10))
			}).dial()
			body := randomBytes(1 << 20)
			b.SetBytes(int64(len(body)))
			for b.Loop() {
				if _, err := c.Write(body); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkRequest(b *testing.B) {
	for name, change := range map[string]func(*configs.Service){
		"one-leg":  benchService(1, configs.CompareOff),
		"two-legs": benchService(2, configs.CompareExact),
	} {
		b.Run(name, func(b *testing.B) {
			c := newRig(b, change, echo).dial()
			buf := make([]byte, 64)
			for b.Loop() {
				_, _ = c.Write(buf)
				if _, err := io.ReadFull(c, buf); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRequests is BenchmarkRequest over 32 connections at a time.
func BenchmarkRequests(b *testing.B) {
	for name, change := range map[string]func(*configs.Service){
		"one-leg":  benchService(1, configs.CompareOff),
		"two-legs": benchService(2, configs.CompareExact),
	} {
		b.Run(name, func(b *testing.B) {
			r := newRig(b, change, echo)
			var conns [32]*net.TCPConn
			for i := range conns {
				conns[i] = r.dial()
				write(b, conns[i], "x")
				read(b, conns[i], 1)
			}
			b.ResetTimer()
			var wg sync.WaitGroup
			for i, c := range conns {
				wg.Go(func() { requests(b, c, b.N/len(conns)+min(1, max(0, b.N%len(conns)-i))) })
			}
			wg.Wait()
		})
	}
}

// requests sends n requests over c, one after the other.
func requests(b *testing.B, c net.Conn, n int) {
	buf := make([]byte, 64)
	for range n {
		_, _ = c.Write(buf)
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Error(err)
			return
		}
	}
}
