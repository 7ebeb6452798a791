package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/cmd/admin"
	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/testsrv"
)

// TestPortReuse has a client come back from the port it has just left: its
// new connection is a new one, for it and for both servers. With `source:
// client` the servers see that same port again.
func TestPortReuse(t *testing.T) {
	for _, source := range []string{"vip", "client"} {
		t.Run("source-"+source, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, lab.Options{})
			w.serve(testServer(testsrv.Spec{Proto: testsrv.Echo, Port: 7}))
			w.serve(testServer(testsrv.Spec{Proto: testsrv.End, Port: 8}))
			if source == "client" {
				w.no(rig.RouteThrough(w.lab, "g1", rig.Clients, "s1", "s2"))
			}
			w.start(rig.Config{Services: []rig.Service{
				{Name: "svc", Ports: "7", Source: source}, {Name: "end", Ports: "8", Source: source}}})
			for _, how := range []string{"client-reset", "client-close", "server-close", "server-reset"} {
				w.reusePort(how)
			}
			w.checkLeft()
			w.checkNoErrors()
			w.stop()
		})
	}
}

// reusePort opens and ends one connection after another, all from one port.
func (w *world) reusePort(how string) {
	w.Helper()
	times := 8
	if full() {
		times = 200
	}
	port := 40000
	for i := range times {
		service := uint16(7)
		if strings.HasPrefix(how, "server") {
			service = 8
		}
		c := w.dialPort(service, port)
		w.endBy(how, c)
		w.forget(port)
		if got, want := states(w.allServers()), "s1 up, s2 up, s1 up, s2 up"; got != want {
			w.Fatalf("%s, time %d: %s; the gateway: %s", how, i, got, w.gw.Log())
		}
	}
	for _, name := range []string{"svc", "end"} {
		if svc := w.service(name); len(svc.Dropped) != 0 || svc.Ended["no-server"] != 0 {
			w.Errorf("%s: %+v", how, svc)
		}
	}
}

// endBy has a connection end in one of the ways, after a word was exchanged.
func (w *world) endBy(how string, c *rig.Conn) {
	w.Helper()
	switch how {
	case "client-reset", "client-close":
		w.echoes(c)
		if how == "client-reset" {
			w.no(c.Conn.(*net.TCPConn).SetLinger(0))
			w.no(c.Close())
			return
		}
		w.no(hangUp(c))
	case "server-close":
		w.no(c.Send("fin 5"))
		got, err := io.ReadAll(c.Reader())
		if err != nil || len(got) != 5 {
			w.Fatalf("%s: %d bytes, %v; the gateway: %s", how, len(got), err, w.gw.Log())
		}
		w.no(c.Close())
	case "server-reset":
		w.no(c.Send("rst 5"))
		n, err := io.Copy(io.Discard, c.Reader())
		if n > 5 || !isReset(err) {
			w.Fatalf("%s: %d bytes, %v; the gateway: %s", how, n, err, w.gw.Log())
		}
		w.no(c.Close())
	}
}

// dialPort connects the client from a port.
func (w *world) dialPort(service uint16, port int) *rig.Conn {
	w.Helper()
	h := w.lab.Host(client)
	ctx, cancel := context.WithTimeout(w.ctx, 20*time.Second)
	defer cancel()
	c, err := rig.DialFrom(ctx, w.lab, client, netip.AddrPortFrom(h.Addr4(), uint16(port)),
		netip.AddrPortFrom(lab.VIP4, service).String())
	if err != nil {
		w.Fatalf("%v; the gateway: %s", err, w.gw.Log())
	}
	w.Cleanup(func() { c.Close() })
	w.no(c.SetDeadline(time.Now().Add(patience)))
	return c
}

// forget has the client's kernel forget the port's TIME_WAIT, as a client
// behind a NAT with few ports seems to.
func (w *world) forget(port int) {
	w.Helper()
	_, err := w.lab.Host(client).Run(w.ctx, "ss", "-K", "-tn", "state", "all", "sport", fmt.Sprintf("= :%d", port))
	w.no(err)
}

func (w *world) allServers() []admin.ServerStatus {
	w.Helper()
	list, err := w.gw.Admin.Servers(w.ctx)
	w.no(err)
	return list
}

func isReset(err error) bool { return errors.Is(err, unix.ECONNRESET) }
