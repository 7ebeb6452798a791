package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

const (
	bulk     = 400 << 20 // bytes of a bulk transfer
	requests = 3000      // per connection
	many     = 32        // connections

	echoPort, sinkPort, webPort = 7, 9, 80
)

// way is how a client reaches the servers. A service listens on its offset
// added to the servers' port.
type way struct {
	name   string
	offset int // 0: past the gateway
	extra  string
}

var ways = []way{
	{"direct", 0, ""},
	{"one leg", 10000, "legs: 1\nstateful: false"},
	{"two legs, compared", 11000, "stateful: false\nrejoin: auto\ncompare: {mask: ['(?m)^Date: [^\\r\\n]*']}"},
	{"two legs, not compared", 12000, "stateful: false\nrejoin: auto\ncompare: {mode: 'off'}"},
}

// measure is one measurement over one way; higher is better.
type measure struct {
	name string
	unit string
	port int
	f    func(ctx context.Context, l *lab.Lab, addr string) (float64, error)
}

var measures = []measure{
	{"download", "MB/s", webPort, download},
	{"upload", "MB/s", sinkPort, upload},
	{"requests, 1 connection", "1/s", echoPort, func(ctx context.Context, l *lab.Lab, a string) (float64, error) {
		return ask(ctx, l, a, 1)
	}},
	{"requests, 32 connections", "1/s", echoPort, func(ctx context.Context, l *lab.Lab, a string) (float64, error) {
		return ask(ctx, l, a, many)
	}},
}

func throughput(ctx context.Context, l *lab.Lab, runs int) error {
	if err := startServers(ctx, l); err != nil {
		return err
	}
	var services []rig.Service
	for _, w := range ways[1:] {
		for _, port := range []int{echoPort, sinkPort, webPort} {
			s := rig.Service{Name: fmt.Sprintf("svc%d", w.offset+port), Ports: fmt.Sprint(w.offset + port), Extra: w.extra,
				Servers: []string{fmt.Sprintf("s1:%d", port), fmt.Sprintf("s2:%d", port)}}
			services = append(services, s)
		}
	}
	if _, err := rig.StartGateway(ctx, l, "", rig.Config{Services: services}); err != nil {
		return err
	}
	for _, m := range measures {
		if err := side(ctx, l, m, runs); err != nil {
			return fmt.Errorf("measure %s: %w", m.name, err)
		}
	}
	return nil
}

func startServers(ctx context.Context, l *lab.Lab) error {
	site, err := rig.NewSite(l, rig.Files{"/bulk": {Seed: 1, Size: bulk}})
	if err != nil {
		return err
	}
	for _, h := range []string{"s1", "s2"} {
		_, e1 := rig.StartNginx(ctx, l, h, rig.Nginx{Site: site, Port: webPort})
		_, e2 := rig.StartTestServer(ctx, l, h, testsrv.Spec{Proto: testsrv.Echo, Port: echoPort})
		_, e3 := rig.StartTestServer(ctx, l, h, testsrv.Spec{Proto: testsrv.Sink, Port: sinkPort})
		if err := errors.Join(e1, e2, e3); err != nil {
			return err
		}
	}
	return nil
}

// side measures all ways in turn, so that what the machine does besides hits
// all of them, and prints medians and their ratio to the first.
func side(ctx context.Context, l *lab.Lab, m measure, runs int) error {
	got := make([][]float64, len(ways))
	for range runs {
		for i, w := range ways {
			host := "10.9.0.100"
			if w.offset == 0 {
				host = l.Host("s1").Addr4().String()
			}
			v, err := m.f(ctx, l, fmt.Sprintf("%s:%d", host, w.offset+m.port))
			if err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			got[i] = append(got[i], v)
		}
	}
	fmt.Printf("%s (%s, median of %d)\n", m.name, m.unit, runs)
	for i, w := range ways {
		mid := median(got[i])
		fmt.Printf("  %-24s %10.0f   %.2f of direct\n", w.name, mid, mid/median(got[0]))
	}
	return nil
}

func median(v []float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[len(v)/2]
}

func download(ctx context.Context, l *lab.Lab, addr string) (float64, error) {
	c, err := l.Host("client").DialContext(ctx, "tcp", addr)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	begin := time.Now()
	if _, err := io.WriteString(c, "GET /bulk HTTP/1.0\r\n\r\n"); err != nil {
		return 0, err
	}
	n, err := io.CopyBuffer(io.Discard, onlyReader{c}, make([]byte, 256<<10))
	if err == nil && n < bulk {
		err = fmt.Errorf("got %d bytes of %d", n, bulk)
	}
	return float64(n) / 1e6 / time.Since(begin).Seconds(), err
}

// onlyReader hides what lets io.CopyBuffer ignore its buffer.
type onlyReader struct{ io.Reader }

func upload(ctx context.Context, l *lab.Lab, addr string) (float64, error) {
	c, err := rig.Dial(ctx, l, "client", addr)
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	const size = bulk / 4 // the sink hashes
	chunk := make([]byte, 256<<10)
	_, _ = content.Content{Seed: 2, Size: int64(len(chunk))}.Reader().Read(chunk)
	begin := time.Now()
	if err := c.Send(fmt.Sprint(size)); err != nil {
		return 0, err
	}
	for left := size; left > 0; left -= len(chunk) {
		if _, err := c.Write(chunk[:min(left, len(chunk))]); err != nil {
			return 0, err
		}
	}
	_, err = c.ReadLine()
	return size / 1e6 / time.Since(begin).Seconds(), err
}

// ask makes requests one after the other on each of n connections.
func ask(ctx context.Context, l *lab.Lab, addr string, n int) (float64, error) {
	conns := make([]net.Conn, n)
	for i := range conns {
		c, err := l.Host("client").DialContext(ctx, "tcp", addr)
		if err != nil {
			return 0, err
		}
		defer func() { _ = c.Close() }()
		conns[i] = c
	}
	begin := time.Now()
	var all sync.WaitGroup
	errs := make([]error, n)
	for i, c := range conns {
		all.Go(func() { errs[i] = pingPong(c, requests/min(n, 8)) })
	}
	all.Wait()
	return float64(n*(requests/min(n, 8))) / time.Since(begin).Seconds(), errors.Join(errs...)
}

func pingPong(c net.Conn, times int) error {
	b := make([]byte, 64)
	for range times {
		if _, err := c.Write(b); err != nil {
			return err
		}
		if _, err := io.ReadFull(c, b); err != nil {
			return err
		}
	}
	return nil
}
