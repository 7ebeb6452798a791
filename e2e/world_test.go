package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/cmd/admin"
	"sttcp/e2e/lab"
	"sttcp/e2e/lab/labtest"
	"sttcp/e2e/rig"
)

// world is what a scenario happens in: a client behind a router, a gateway,
// two servers.
//
//	rc ---- router ---- g1, s1, s2
//	outside          lan
//
// Its methods end the test when something fails that is not what the scenario
// is about.
type world struct {
	*testing.T
	ctx     context.Context
	lab     *lab.Lab
	gw      *rig.Gateway
	servers map[string]*rig.Server // by host, for scenarios with one per host
	files   int                    // open files of the idle gateway
}

// client is the host of all clients.
const client = "rc"

// newWorld makes the hosts.
func newWorld(t *testing.T, opt lab.Options) *world {
	t.Helper()
	// STTCP_LAB=no-offload,cubic (or either) has every scenario in such a lab.
	for _, want := range strings.Split(os.Getenv("STTCP_LAB"), ",") {
		switch want {
		case "no-offload":
			opt.NoOffloads = true
		case "bbr", "cubic", "reno":
			opt.CongestionControl = want
		}
	}
	opt.Name, opt.Hosts = "e2e", lab.Standard(client, "router", "g1", "s1", "s2")
	return &world{T: t, ctx: patient(t), lab: labtest.New(t, opt), servers: map[string]*rig.Server{}}
}

// no ends the test when there is an error.
func (w *world) no(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// serve starts a server on both server hosts.
func (w *world) serve(start func(w *world, host string) (*rig.Server, error)) {
	w.Helper()
	for _, host := range []string{"s1", "s2"} {
		w.serveOn(host, start)
	}
}

// serveOn starts a server, or one more where it has died.
func (w *world) serveOn(host string, start func(w *world, host string) (*rig.Server, error)) {
	w.Helper()
	s, err := start(w, host)
	w.no(err)
	w.servers[host] = s
}

// start starts the gateway and waits until it serves; then it notes how many
// files it has open.
func (w *world) start(c rig.Config) {
	w.Helper()
	g, err := rig.StartGateway(w.ctx, w.lab, "", c)
	w.no(err)
	w.gw = g
	w.files = w.fewestFiles()
}

// restart starts the gateway again with the same configuration and
// directories, and waits until the servers are as said, "s1 stale, s2 up".
func (w *world) restart(states string) {
	w.Helper()
	g, err := rig.RunGateway(w.ctx, w.lab, "", w.gw.Config)
	w.no(err)
	w.gw = g
	w.until("the gateway to be ready", func() error { return w.logged("msg=ready") })
	w.waitStates(states)
}

// waitStates waits until the servers are as said, "s1 stale, s2 up".
func (w *world) waitStates(want string) {
	w.Helper()
	w.until("servers: "+want, func() error {
		if !w.gw.Running() {
			w.Fatalf("the gateway has ended: %s", w.gw.Log())
		}
		servers, err := w.gw.Admin.Servers(w.ctx)
		if err != nil {
			return err
		}
		if got := states(servers); got != want {
			return fmt.Errorf("they are: %s", got)
		}
		return nil
	})
}

// states is like "s1 stale, s2 up".
func states(servers []admin.ServerStatus) string {
	var list []string
	for _, s := range servers {
		list = append(list, s.Name+" "+s.State)
	}
	return strings.Join(list, ", ")
}

// until waits for a condition for as long as the scenario may last.
func (w *world) until(what string, cond func() error) {
	w.Helper()
	w.no(lab.Until(w.ctx, what, cond))
}

// dial connects the client; the connection ends with the test at the latest.
func (w *world) dial(addr string) *rig.Conn {
	w.Helper()
	return w.dialFrom(client, addr)
}

func (w *world) dialFrom(host, addr string) *rig.Conn {
	w.Helper()
	c, err := rig.Dial(w.ctx, w.lab, host, addr)
	w.no(err)
	w.Cleanup(func() { c.Close() })
	w.no(c.SetDeadline(time.Now().Add(patience)))
	return c
}

// service is the state of a service of the gateway.
func (w *world) service(name string) admin.ServiceStatus {
	w.Helper()
	st, err := w.gw.Admin.Status(w.ctx)
	w.no(err)
	for _, s := range st.Services {
		if s.Name == name {
			return s
		}
	}
	w.Fatalf("the gateway has no service %s", name)
	return admin.ServiceStatus{}
}

// openFiles is how many files the gateway has open.
func (w *world) openFiles() int {
	w.Helper()
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", w.gw.PID))
	w.no(err)
	return len(list)
}

// fewestFiles is openFiles without the sockets of health checks, which come
// and go: the least of what is seen over two of their intervals.
func (w *world) fewestFiles() int {
	w.Helper()
	least := w.openFiles()
	for end := time.Now().Add(500 * time.Millisecond); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		least = min(least, w.openFiles())
	}
	return least
}

// checkLeft waits until the gateway has no connection left, nor any file more
// than before the first one.
func (w *world) checkLeft() {
	w.Helper()
	w.until("an idle gateway", func() error {
		st, err := w.gw.Admin.Status(w.ctx)
		if err != nil {
			return err
		}
		for _, s := range st.Services {
			if s.Connections != 0 {
				return fmt.Errorf("service %s has %d connections", s.Name, s.Connections)
			}
		}
		if n := w.openFiles(); n > w.files {
			return fmt.Errorf("%d files are open, %d before", n, w.files)
		}
		return nil
	})
}

// logged returns nil if one line of the gateway's log has all parts.
func (w *world) logged(parts ...string) error {
	for line := range strings.Lines(w.gw.Log()) {
		if hasAll(line, parts) {
			return nil
		}
	}
	return fmt.Errorf("no line of the gateway's log has %q", parts)
}

func hasAll(line string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(line, p) {
			return false
		}
	}
	return true
}

// checkNoErrors wants no line of level error in the gateway's log, but for
// those with one of the given words.
func (w *world) checkNoErrors(but ...string) {
	w.Helper()
	for line := range strings.Lines(w.gw.Log()) {
		expected := slices.ContainsFunc(but, func(words string) bool { return strings.Contains(line, words) })
		if strings.Contains(line, "level=ERROR") && !expected {
			w.Errorf("the gateway logged: %s", line)
		}
	}
}

// stop stops the gateway, which has no connections, and wants a clean end.
func (w *world) stop() {
	w.Helper()
	w.no(w.gw.Signal(unix.SIGTERM))
	w.ends()
}

// host returns a host's address of a family.
func (w *world) addrOf(host string, ipv6 bool) netip.Addr {
	if ipv6 {
		return w.lab.Host(host).Addr6()
	}
	return w.lab.Host(host).Addr4()
}

// vip is the virtual IP of a family.
func vip(ipv6 bool) netip.Addr {
	if ipv6 {
		return lab.VIP6
	}
	return lab.VIP4
}

// other is the other server's host.
func other(host string) string {
	if host == "s1" {
		return "s2"
	}
	return "s1"
}

// errMore is for bytes that nobody asked for.
var errMore = errors.New("the client was sent more than the answers")
