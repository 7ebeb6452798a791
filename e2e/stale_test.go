package e2e

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"strings"
	"testing"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
)

// redisAddr is the service of the stateful scenarios.
var redisAddr = netip.AddrPortFrom(lab.VIP4, 6379).String()

// newStore is a stateful service with Redis behind it.
func newStore(t *testing.T) *world {
	t.Helper()
	w := newWorld(t, lab.Options{})
	w.serve(startRedis)
	w.start(rig.Config{Services: []rig.Service{{Name: "svc", Ports: "6379", Extra: "stateful: true\nrelease: both"}}})
	return w
}

// write begins to write to Redis, with keys of that name.
func (w *world) write(name string) (*talk, *pipeline) {
	w.Helper()
	r := &pipeline{name: name}
	talk := begin(w.dial(redisAddr), r.talk)
	w.no(talk.reach(w.ctx, 10))
	return talk, r
}

// end waits for the end of a client that has got all that it should.
func (w *world) end(talk *talk) {
	w.Helper()
	if err := talk.end(w.ctx); err != nil {
		w.Fatalf("the client: %v; the gateway: %s", err, w.gw.Log())
	}
}

// loseS1 kills the server s1 under a client, and starts it again, empty.
func loseS1(w *world, talk *talk) {
	w.Helper()
	w.no(w.servers["s1"].KillGroup9())
	w.waitStates("s1 stale, s2 up")
	w.no(talk.reach(w.ctx, talk.value()+20))
	w.serveOn("s1", startRedis)
	w.until("s1 healthy", func() error { return w.healthy("s1") })
}

// healthy returns nil if the gateway's checks find the server well: NAME, or
// SERVICE/NAME.
func (w *world) healthy(name string) error {
	servers, err := w.gw.Admin.Servers(w.ctx)
	if err != nil {
		return err
	}
	for _, s := range servers {
		if s.Healthy && (s.Name == name || s.Service+"/"+s.Name == name) {
			return nil
		}
	}
	return fmt.Errorf("server %s is not healthy", name)
}

// TestStaleSurvivesRestart has a server miss bytes. It stays out, however the
// gateway ends and starts again: its data are old.
func TestStaleSurvivesRestart(t *testing.T) {
	t.Parallel()
	w := newStore(t)
	talk, first := w.write("a")
	loseS1(w, talk)
	w.end(talk)

	w.stop()
	w.restart("s1 stale, s2 up")
	again, second := w.write("b")
	w.end(again)

	w.no(w.gw.KillGroup9())
	w.restart("s1 stale, s2 up")
	last, third := w.write("c")
	if n := w.service("svc").TwoLegs; n != 0 {
		t.Errorf("%d connections have two legs, and one server is stale", n)
	}
	w.end(last)

	if got := dump(w, "s1"); got != "" {
		t.Errorf("the stale server was written to: %s", short(got))
	}
	w.no(sameData(dump(w, "s2"), merge(first, second, third).dump()))
	w.checkNoErrors()
}

// merge is the data of several pipelines, whose keys differ.
func merge(list ...*pipeline) model {
	all := model{}
	for _, r := range list {
		maps.Copy(all, r.model)
	}
	return all
}

// refused gives an order that the gateway is to refuse, and wants its words.
func (w *world) refused(words string, args ...string) {
	w.Helper()
	out, err := w.gw.Command(w.ctx, args...)
	if err == nil || !strings.Contains(out, words) {
		w.Errorf("%q: %q (%v), want a refusal with %q", args, out, err, words)
	}
}

// order gives an order that is to be obeyed.
func (w *world) order(args ...string) {
	w.Helper()
	if _, err := w.gw.Command(w.ctx, args...); err != nil {
		w.Fatal(err)
	}
}

// copyData has the Redis on one host copy the data of the one on another.
func (w *world) copyData(from, to string) {
	w.Helper()
	w.direct(from, "CONFIG", "SET", "repl-diskless-sync-delay", "0")
	w.direct(to, "REPLICAOF", w.lab.Host(from).Addr4().String(), "6379")
	w.until("the copy", func() error {
		info := w.direct(to, "INFO", "replication")
		if strings.Contains(info, "master_link_status:up") && strings.Contains(info, "master_sync_in_progress:0") {
			return nil
		}
		return fmt.Errorf("it says %s", info)
	})
	w.direct(to, "REPLICAOF", "NO", "ONE")
}

// TestReady brings a stale server back the way OPERATIONS.md says: freeze,
// copy, ready, thaw. Nobody is disconnected by freezing, and nothing that is
// written then reaches a server before the thaw.
func TestReady(t *testing.T) {
	t.Parallel()
	w := newStore(t)
	talk, before := w.write("before")
	loseS1(w, talk)
	w.refused("not frozen", "server", "ready", "s1")

	stays := w.dial(redisAddr) // a client that has a leg at s2 alone
	w.ask(stays, "SET", "stays", "1")
	w.end(talk)
	w.waitConnections(1)
	w.order("service", "freeze", "svc")
	w.refused("1 connections have no leg there", "server", "ready", "s1")
	w.order("service", "thaw", "svc")
	w.no(stays.Close())
	w.waitConnections(0)

	w.order("service", "freeze", "svc")
	during := w.dial(redisAddr)
	w.no(during.SendRedis("SET", "during", "1"))
	w.copyData("s2", "s1")
	w.order("server", "ready", "s1")
	w.waitStates("s1 up, s2 up")
	want := merge(before)
	want["stays"] = []string{"1"}
	w.no(w.bothHold(want))
	w.order("service", "thaw", "svc")
	w.replies(during, "OK")
	want["during"] = []string{"1"}
	last, after := w.write("after")
	w.end(last)
	w.waitConnections(1)
	maps.Copy(want, after.model)
	w.no(w.bothHold(want))
	w.checkReady(during)
}

// waitConnections waits until the service has so many connections.
func (w *world) waitConnections(n int) {
	w.Helper()
	w.until(fmt.Sprintf("%d connections", n), func() error {
		if have := w.service("svc").Connections; have != n {
			return fmt.Errorf("there are %d", have)
		}
		return nil
	})
}

// TestFrozenClientMayLeave has the last client without a leg at the stale
// server leave while the service is frozen: then the server can be made ready.
func TestFrozenClientMayLeave(t *testing.T) {
	for how, leave := range map[string]func(*rig.Conn) error{
		"FIN": func(c *rig.Conn) error { return c.Close() },
		"RST": func(c *rig.Conn) error { return errors.Join(c.Conn.(*net.TCPConn).SetLinger(0), c.Close()) },
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			w := newStore(t)
			talk, _ := w.write("before")
			loseS1(w, talk)
			w.end(talk)
			c := w.dial(redisAddr)
			w.ask(c, "SET", "a", "1")
			w.order("service", "freeze", "svc")
			w.no(leave(c))
			w.waitConnections(0)
			w.order("server", "ready", "s1")
		})
	}
}

// ask sends a command and wants OK.
func (w *world) ask(c *rig.Conn, cmd ...string) {
	w.Helper()
	w.no(c.SendRedis(cmd...))
	w.replies(c, "OK")
}

func (w *world) replies(c *rig.Conn, want string) {
	w.Helper()
	if got, err := c.ReadReply(); err != nil || got != want {
		w.Fatalf("reply %q (%v), want %q; the gateway: %s", got, err, want, w.gw.Log())
	}
}

// bothHold returns nil if both servers hold exactly that.
func (w *world) bothHold(m model) error {
	for _, host := range []string{"s1", "s2"} {
		if err := sameData(dump(w, host), m.dump()); err != nil {
			return fmt.Errorf("%s: %w", host, err)
		}
	}
	return nil
}

// checkReady wants that a server that is ready is trusted again: the other
// one may die now.
func (w *world) checkReady(c *rig.Conn) {
	w.Helper()
	if n := w.service("svc").TwoLegs; n != 1 {
		w.Errorf("%d connections have two legs, want 1", n)
	}
	w.no(w.servers["s2"].KillGroup9())
	w.ask(c, "SET", "last", "1")
	w.waitStates("s1 up, s2 stale")
	if got := w.direct("s1", "GET", "last"); got != "1" {
		w.Errorf("s1 has %q, want 1", got)
	}
}

// TestReadyResetsConnections has a client that does not leave: the operator
// may have it reset. What it wrote meanwhile reaches nobody.
func TestReadyResetsConnections(t *testing.T) {
	t.Parallel()
	w := newStore(t)
	talk, before := w.write("before")
	loseS1(w, talk)
	stays := w.dial(redisAddr)
	w.ask(stays, "SET", "stays", "1")
	w.end(talk)
	w.waitConnections(1)
	w.order("service", "freeze", "svc")
	w.no(stays.SendRedis("SET", "never", "1"))
	w.copyData("s2", "s1")
	w.order("server", "ready", "s1", "--reset-connections")
	if got, err := stays.ReadReply(); err == nil {
		t.Errorf("a connection that was to be reset is answered with %q", got)
	}
	w.order("service", "thaw", "svc")
	w.waitStates("s1 up, s2 up")
	want := merge(before)
	want["stays"] = []string{"1"}
	w.no(w.bothHold(want))
	w.checkLeft()
}
