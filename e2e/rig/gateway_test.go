package rig_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

// startPaced starts two servers that pace, and returns them by their names.
func startPaced(ctx context.Context, t *testing.T, l *lab.Lab) map[string]*rig.Server {
	t.Helper()
	servers := map[string]*rig.Server{}
	for _, host := range []string{"s1", "s2"} {
		servers[host] = must(rig.StartTestServer(ctx, l, host, testsrv.Spec{Proto: testsrv.Paced, Port: 7000}))(t)
	}
	return servers
}

// TestGateway starts a gateway, downloads through it, kills the primary that
// it names and shuts it down.
func TestGateway(t *testing.T) {
	ctx, l := newLab(t, "client", "g1", "s1", "s2")
	servers := startPaced(ctx, t, l)
	g := must(rig.StartGateway(ctx, l, "", rig.Config{Extra: "drain: 1s",
		Services: []rig.Service{{Name: "paced", Ports: "7000", Extra: "stateful: false"}}}))(t)
	c := dial(ctx, t, l, "client", lab.VIP4.String()+":7000")
	what := content.Content{Seed: 6, Size: 4 << 20}
	d := must(c.Paced(what, time.Second))(t)
	if err := d.WaitBytes(ctx, 1<<20); err != nil {
		t.Fatal(err)
	}
	first := must(g.Primary(ctx, "paced"))(t)
	if err := servers[first].KillGroup9(); err != nil {
		t.Fatal(err)
	}
	if r, err := d.Wait(ctx); err != nil {
		t.Fatalf("%v (%+v); the gateway's log: %s", err, r, g.Log())
	}
	if now := must(g.Primary(ctx, "paced"))(t); now == first {
		t.Errorf("%s is dead and still primary", now)
	}
	if out, err := g.Command(ctx, "servers"); err != nil || !strings.Contains(out, first) {
		t.Errorf("sttcp servers: %v, %s", err, out)
	}
	if err := g.Shutdown(ctx); err != nil {
		t.Error(err)
	}
	if st, err := g.Admin.Status(ctx); err == nil {
		t.Errorf("the gateway has ended and has status %+v", st)
	}
}

// TestGatewaySourceClient wants the client's own address at the servers, with
// both ways to get the answers to the gateway.
func TestGatewaySourceClient(t *testing.T) {
	ctx, l := newLab(t, "client", "rc", "router", "g1", "s1", "s2")
	startPaced(ctx, t, l)
	nets := append(rig.HostAddrs(l.Host("client")), rig.Clients...)
	if err := rig.RouteThrough(l, "g1", nets, "s1", "s2"); err != nil {
		t.Fatal(err)
	}
	must(rig.StartGateway(ctx, l, "", rig.Config{Services: []rig.Service{
		{Ports: "7000", Source: "client"}, {Ports: "7000", Source: "client", IPv6: true}}}))(t)
	seen := must(l.Host("s2").Capture())(t)
	for _, host := range []string{"client", "rc"} {
		for _, addr := range []string{lab.VIP4.String() + ":7000", "[" + lab.VIP6.String() + "]:7000"} {
			c := dial(ctx, t, l, host, addr)
			if _, err := must(c.Paced(content.Content{Seed: 1, Size: 100_000}, 0))(t).Wait(ctx); err != nil {
				t.Errorf("from %s to %s: %v", host, addr, err)
			}
			segs := must(seen.Segments(lab.Tuple{Src: c.Local()}))(t)
			if len(segs) == 0 {
				t.Errorf("s2 saw nothing from %v", c.Local())
			}
		}
	}
}

// TestGatewayRestart starts it again with the same directories.
func TestGatewayRestart(t *testing.T) {
	ctx, l := newLab(t, "client", "g1", "s1", "s2")
	startPaced(ctx, t, l)
	g := must(rig.StartGateway(ctx, l, "", rig.Config{Services: []rig.Service{{Ports: "7000"}}}))(t)
	if err := g.Kill9(); err != nil {
		t.Fatal(err)
	}
	if err := g.WaitReady(ctx); err == nil || strings.Contains(err.Error(), "deadline") {
		t.Errorf("a dead gateway: %v", err)
	}
	again := must(rig.StartGateway(ctx, l, g.Binary, g.Config))(t)
	if again.Socket != g.Socket {
		t.Errorf("the admin socket moved from %s to %s", g.Socket, again.Socket)
	}
	dial(ctx, t, l, "client", lab.VIP4.String()+":7000")
}

func TestGatewayErrors(t *testing.T) {
	ctx, l := newLab(t, "g1", "s1", "s2")
	for what, c := range map[string]rig.Config{
		"bad key":  {Services: []rig.Service{{Ports: "80"}}, Extra: "nonsense: 1"},
		"bad host": {Host: "g9"},
	} {
		if g, err := rig.StartGateway(ctx, l, "", c); err == nil {
			t.Errorf("%s: started %v", what, g)
		} else if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: waited for its time-out: %v", what, err)
		}
	}
	_, err := rig.StartGateway(ctx, l, "/nonexistent/sttcp", rig.Config{Services: []rig.Service{{Ports: "80"}}})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a program that is not there: %v", err)
	}
}
