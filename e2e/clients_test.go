package e2e

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

// behaviour is one way in which a client, or this gateway, may behave. What
// each does is in the files next to this one. At the end nothing may be left
// of it, and unless it says otherwise no server was given up.
type behaviour struct {
	name  string
	proto testsrv.Proto
	extra string // keys of the service; stateful and release if they are not there
	left  string // "victim" if the server that was struck is stale at the end
	full  bool   // only with the full counts
	act   func(s *scene)

	errors bool                          // the gateway's log will have some
	config func(s *scene, c *rig.Config) // changes it before the start
}

// scene is the world of one behaviour. Its service is stateful, so a server
// that was given up for a moment only shows at the end.
type scene struct {
	*world
	to      netip.AddrPort
	records map[string]string // by host: where its server records
	victim  string            // the server that was struck, "" for none
}

const scenePort = 7000

// behave runs behaviours, each in a world of its own.
func behave(t *testing.T, list []behaviour) {
	for _, b := range list {
		if b.full && !full() {
			continue
		}
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			s := newScene(t, b)
			b.act(s)
			s.checkEnd(b)
		})
	}
}

// newScene starts servers that record, and the gateway.
func newScene(t *testing.T, b behaviour) *scene {
	t.Helper()
	s := &scene{world: newWorld(t, lab.Options{}), to: netip.AddrPortFrom(lab.VIP4, scenePort), records: map[string]string{}}
	s.serve(func(w *world, host string) (*rig.Server, error) {
		s.records[host] = t.TempDir()
		return testServer(testsrv.Spec{Proto: b.proto, Port: scenePort, Record: s.records[host]})(w, host)
	})
	keys := b.extra
	if !strings.Contains(keys, "stateful:") {
		keys = "stateful: true\nrelease: both\n" + keys
	}
	conf := rig.Config{Services: []rig.Service{{Name: "svc", Ports: fmt.Sprint(scenePort), Extra: keys}}}
	if b.config != nil {
		b.config(s, &conf)
	}
	s.start(conf)
	return s
}

// checkEnd wants nothing left, and no server given up but as the behaviour
// says.
func (s *scene) checkEnd(b behaviour) {
	s.Helper()
	want := "s1 up, s2 up"
	if b.left == "victim" {
		want = strings.Replace(want, s.victim+" up", s.victim+" stale", 1)
	}
	s.checkLeft()
	s.waitStates(want)
	if svc := s.service("svc"); b.left == "" && len(svc.Dropped)+int(svc.Promoted+svc.Muted+svc.Diverged) != 0 {
		s.Errorf("a server was blamed: %+v", svc)
	}
	if !b.errors {
		s.checkNoErrors()
	}
	s.stop()
}

// open connects the client.
func (s *scene) open() *rig.Conn {
	s.Helper()
	return s.dial(s.to.String())
}

// got returns what the server on a host has got, by connection. Those that
// brought nothing are left out: a busy gateway's health check may be one.
func (s *scene) got(host string) []testsrv.Record {
	s.Helper()
	list, err := testsrv.Records(s.records[host])
	s.no(err)
	return slices.DeleteFunc(list, func(r testsrv.Record) bool { return len(r.Bytes) == 0 })
}

// bothGot waits until both servers have got exactly this, on their only
// connection, and seen that end of it.
func (s *scene) bothGot(want []byte, end string) {
	s.Helper()
	for host := range s.records {
		s.hostGot(host, want, end)
	}
}

func (s *scene) hostGot(host string, want []byte, end string) {
	s.Helper()
	s.until("the record of "+host, func() error {
		list := s.got(host)
		if len(list) != 1 {
			return fmt.Errorf("it has %d connections", len(list))
		}
		if !bytes.Equal(list[0].Bytes, want) || list[0].End != end {
			return fmt.Errorf("it has got %d bytes of %d, right up to %d; its end: %q",
				len(list[0].Bytes), len(want), common(list[0].Bytes, want), list[0].End)
		}
		return nil
	})
}

// bothHaveStart wants what each server has got to be the start of a stream.
func (s *scene) bothHaveStart(stream []byte) {
	s.Helper()
	for host := range s.records {
		for _, r := range s.got(host) {
			if n := common(r.Bytes, stream); n < len(r.Bytes) {
				s.Errorf("%s has got %d bytes, which are wrong from byte %d on", host, len(r.Bytes), n)
			}
		}
	}
}

// common is how many bytes two streams have in common from their start.
func common(a, b []byte) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// ended waits until so many connections have ended for a reason.
func (s *scene) ended(reason string, want uint64) {
	s.Helper()
	s.until(fmt.Sprintf("%d ends for %s", want, reason), func() error {
		if have := s.service("svc").Ended; have[reason] != want {
			return fmt.Errorf("they are %v", have)
		}
		return nil
	})
}

// roleOf returns who is the primary, or the backup, of the only connection.
func (s *scene) roleOf(role string) string {
	s.Helper()
	host, err := s.gw.Primary(s.ctx, "svc")
	s.no(err)
	if role == "backup" {
		host = other(host)
	}
	return host
}

// kill kills the server that has a role, process and all.
func (s *scene) kill(role string) {
	s.Helper()
	s.victim = s.roleOf(role)
	s.no(s.servers[s.victim].KillGroup9())
}

// cut takes the server that has a role off the network.
func (s *scene) cut(role string) *lab.Fault {
	s.Helper()
	s.victim = s.roleOf(role)
	return s.down(s.victim)
}

// down takes a host off the network, until the end of the test at the latest.
func (s *scene) down(host string) *lab.Fault {
	s.Helper()
	f, err := s.lab.Host(host).LinkDown()
	s.no(err)
	return f
}

// pull asks a paced server for a stream.
func (s *scene) pull(c *rig.Conn, size int64, over time.Duration) (*rig.Download, []byte) {
	s.Helper()
	d, err := c.Paced(content.Content{Seed: 1, Size: size}, over)
	s.no(err)
	return d, fmt.Appendf(nil, "%d %v 1\n", size, over)
}

// whole waits until a download is complete and right.
func (s *scene) whole(d *rig.Download) {
	s.Helper()
	if r, err := d.Wait(s.ctx); err != nil {
		s.Fatalf("the client: %v (%+v); the gateway: %s", err, r, s.gw.Log())
	}
}

// finish ends a connection whose answers have all been read.
func (s *scene) finish(c *rig.Conn) {
	s.Helper()
	if err := hangUp(c); err != nil {
		s.Fatalf("the end: %v; the gateway: %s", err, s.gw.Log())
	}
}

// reset ends a connection by RST.
func (s *scene) reset(c *rig.Conn) {
	s.Helper()
	s.no(c.Conn.(*net.TCPConn).SetLinger(0))
	s.no(c.Close())
}

// rss is the gateway's resident memory, in bytes.
func (s *scene) rss() int64 {
	s.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.gw.PID))
	s.no(err)
	for line := range strings.Lines(string(text)) {
		var kb int64
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kb); n == 1 {
			return kb << 10
		}
	}
	s.Fatal("the gateway has no VmRSS")
	return 0
}

// bytesOf is all of a content.
func bytesOf(c content.Content) []byte {
	b, _ := io.ReadAll(c.Reader()) // can't fail
	return b
}

// lines are numbered lines, [from, to).
func lines(from, to int) []byte {
	var b []byte
	for i := from; i < to; i++ {
		b = fmt.Appendf(b, "line %d\n", i)
	}
	return b
}
