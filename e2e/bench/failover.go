package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"sttcp/cmd/admin"
	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

// The stream of one run: paced, so that what it is short of at the kill is
// what the gateway makes it wait for.
const (
	streamBytes = 4 << 20
	streamTime  = 600 * time.Millisecond
	pacedPort   = 7000
)

// failover kills the primary in mid-stream, in both ways, and prints how long
// the client had nothing.
func failover(ctx context.Context, l *lab.Lab, runs int) error {
	f := &fail{l: l, servers: map[string]*rig.Server{}}
	for _, h := range []string{"s1", "s2"} {
		if err := f.startServer(ctx, h); err != nil {
			return err
		}
	}
	g, err := rig.StartGateway(ctx, l, "", rig.Config{Services: []rig.Service{
		{Name: "paced", Ports: fmt.Sprint(pacedPort), Extra: "stateful: false\nrejoin: auto"}}})
	if err != nil {
		return err
	}
	f.gateway = g
	fmt.Println("time without a byte at the client, primary of a paced stream (release: both, lag.suspect 250ms, health.timeout 200ms)")
	if err := f.series(ctx, "process killed", runs, f.kill); err != nil {
		return err
	}
	return f.series(ctx, "link cut", runs, f.cut)
}

type fail struct {
	l       *lab.Lab
	gateway *rig.Gateway
	servers map[string]*rig.Server
}

func (f *fail) startServer(ctx context.Context, host string) error {
	s, err := rig.StartTestServer(ctx, f.l, host, testsrv.Spec{Proto: testsrv.Paced, Port: pacedPort})
	f.servers[host] = s
	return err
}

// kill kills a server's process; mend starts it again.
func (f *fail) kill(ctx context.Context, host string) (mend func() error, err error) {
	return func() error { return f.startServer(ctx, host) }, f.servers[host].KillGroup9()
}

// cut takes a server's cable away; mend plugs it in.
func (f *fail) cut(_ context.Context, host string) (mend func() error, err error) {
	fault, err := f.l.Host(host).Links()[0].LinkDown()
	if err != nil {
		return nil, err
	}
	return fault.Undo, nil
}

func (f *fail) series(ctx context.Context, name string, runs int, fault func(context.Context, string) (func() error, error)) error {
	var stalls []time.Duration
	for i := range runs {
		d, err := f.once(ctx, i, fault)
		if err != nil {
			return fmt.Errorf("%s, run %d: %w; the gateway's log: %s", name, i, err, f.gateway.Log())
		}
		stalls = append(stalls, d)
	}
	slices.Sort(stalls)
	at := func(p int) time.Duration {
		return stalls[min(len(stalls)*p/100, len(stalls)-1)].Round(100 * time.Microsecond)
	}
	fmt.Printf("  %-16s median %v, p95 %v, max %v (%d runs)\n", name, at(50), at(95), at(100), runs)
	return nil
}

// once streams through a fault and returns how long the client had nothing
// after it.
func (f *fail) once(ctx context.Context, run int, fault func(context.Context, string) (func() error, error)) (time.Duration, error) {
	whole := ctx // a server that is started again outlives the run
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	c, err := rig.Dial(ctx, f.l, "client", fmt.Sprintf("10.9.0.100:%d", pacedPort))
	if err != nil {
		return 0, err
	}
	defer func() { _ = c.Close() }()
	d, err := c.Paced(content.Content{Seed: uint64(run), Size: streamBytes}, streamTime)
	if err != nil {
		return 0, err
	}
	// A different place in each run, always in the middle of the stream.
	if err := d.WaitBytes(ctx, streamBytes/4+int64(run)*7919%(streamBytes/4)); err != nil {
		return 0, err
	}
	primary, err := f.gateway.Primary(ctx, "paced")
	if err != nil {
		return 0, err
	}
	when := time.Now()
	mend, err := fault(whole, primary)
	if err != nil {
		return 0, err
	}
	r, err := d.Wait(ctx)
	_ = c.Close()
	return d.Stall(when).Length, errors.Join(err, r.Err, mend(), f.recovered(ctx))
}

// recovered waits until both servers serve again.
func (f *fail) recovered(ctx context.Context) error {
	return f.gateway.WaitServers(ctx, "up", func(s admin.ServerStatus) bool { return s.State == "up" && s.Legs == 0 })
}
