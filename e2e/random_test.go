package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

// kind is one way to use a connection, for the random kills. Each lasts for
// streamTime at least.
type kind struct {
	name    string
	proto   testsrv.Proto
	clients int // at a time
	talk    func(number uint64) func(*rig.Conn, *progress) error
}

const streamTime = 2500 * time.Millisecond

// kinds use a service of their own, each with servers of its own. The lines of
// a counter are numbered over all of its clients, so that it has one.
var kinds = []kind{
	{"download", testsrv.Paced, 4, pacedDownload},
	{"upload", testsrv.Sink, 4, pacedUpload},
	{"requests", testsrv.Count, 1, countedRequests},
	{"requests2", testsrv.Count, 1, countedRequests},
}

// pacedSize is how much a stream has, in bytes.
const pacedSize = 6 << 20

func pacedDownload(number uint64) func(*rig.Conn, *progress) error {
	return func(c *rig.Conn, p *progress) error {
		want := content.Content{Seed: number, Size: pacedSize}
		if err := c.Send(fmt.Sprintf("%d %v %d", want.Size, streamTime, want.Seed)); err != nil {
			return err
		}
		check := content.NewChecker(want)
		buf := make([]byte, grain)
		for check.Bytes() < want.Size {
			n, err := c.Reader().Read(buf[:min(grain, want.Size-check.Bytes())])
			_, _ = check.Write(buf[:n]) // never fails
			p.add(int64(n))
			if err != nil {
				return fmt.Errorf("download: after %d bytes: %w", check.Bytes(), err)
			}
		}
		return check.Err()
	}
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

// TestRandomKills kills a server of each kind at a random instant, again and
// again under one gateway. Every client gets every byte right.
func TestRandomKills(t *testing.T) {
	t.Parallel()
	kills := 2 * len(kinds)
	if full() {
		kills = 200
	}
	k := newKiller(t, newRand(t))
	done, streams := 0, 0
	for round := 1; done < kills; round++ {
		killed, hit := k.round(round)
		done, streams = done+killed, streams+hit
		if round > 2*kills {
			t.Fatalf("only %d of %d kills were within a stream", done, kills)
		}
	}
	t.Logf("%d kills within %d streams; the longest stall %v", done, streams, k.stall.Round(time.Millisecond))
	k.checkLeft()
	k.checkNoErrors()
	k.stop()
}

// killer is the world of the random kills.
type killer struct {
	*world
	rand    *rand.Rand
	running map[string]*rig.Server // by "kind/host"
	stall   time.Duration
	streams uint64 // so far
}

// newKiller starts everything. The services take turns in what they promise.
func newKiller(t *testing.T, r *rand.Rand) *killer {
	k := &killer{world: newWorld(t, lab.Options{}), rand: r, running: map[string]*rig.Server{}}
	var services []rig.Service
	for i, kind := range kinds {
		extra := []string{"release: both", "release: primary"}[i%2]
		services = append(services, rig.Service{Name: kind.name, Ports: fmt.Sprint(kindPort(i)),
			Extra: extra + "\nstateful: false\nrejoin: auto"})
		k.revive(i)
	}
	k.start(rig.Config{Services: services})
	return k
}

func kindPort(i int) uint16 { return uint16(9000 + i) }

// revive starts the servers of a kind that do not run. A counter starts afresh
// on both hosts, so that both count alike.
func (k *killer) revive(i int) {
	k.Helper()
	for _, host := range []string{"s1", "s2"} {
		name := kinds[i].name + "/" + host
		if s := k.running[name]; s != nil {
			if s.Running() && kinds[i].proto != testsrv.Count {
				continue
			}
			k.no(s.KillGroup9())
		}
		s, err := testServer(testsrv.Spec{Proto: kinds[i].proto, Port: kindPort(i)})(k.world, host)
		k.no(err)
		k.running[name] = s
	}
}

// stream is a client of a round and what it is of.
type stream struct {
	*talk
	kind   int
	number uint64
}

// round runs streams of all kinds, and kills one server of each at an instant
// of its own. It returns how many of the kills, and of the streams, count: they
// were between the first byte and the last.
func (k *killer) round(number int) (kills, hits int) {
	k.Helper()
	list := k.begin()
	start := time.Now()
	for _, kill := range k.plan(list) {
		time.Sleep(time.Until(start.Add(kill.at))) // the random instant
		k.no(k.running[kill.name].KillGroup9())
		if n := going(list, kill.kind); n > 0 {
			kills, hits = kills+1, hits+n
		}
	}
	for _, s := range list {
		if err := s.end(k.ctx); err != nil {
			k.Fatalf("round %d: %s %d: %v; the gateway: %s", number, kinds[s.kind].name, s.number, err, k.gw.Log())
		}
		k.stall = max(k.stall, s.talk.stall(start))
	}
	for i := range kinds {
		k.revive(i)
	}
	k.waitStates(strings.TrimSuffix(strings.Repeat("s1 up, s2 up, ", len(kinds)), ", "))
	return kills, hits
}

// begin starts the clients of a round and waits for the first byte of each.
func (k *killer) begin() (list []stream) {
	k.Helper()
	for i, kind := range kinds {
		for range kind.clients {
			k.streams++
			c := k.dial(netip.AddrPortFrom(lab.VIP4, kindPort(i)).String())
			list = append(list, stream{begin(c, kind.talk(k.streams)), i, k.streams})
		}
	}
	for _, s := range list {
		k.no(s.reach(k.ctx, 1))
	}
	return list
}

// kill is one to come.
type kill struct {
	at   time.Duration
	kind int
	name string
}

// plan chooses whom to kill and when: of each kind a server that is primary
// for one of its clients at least.
func (k *killer) plan(list []stream) (plan []kill) {
	k.Helper()
	for i, kind := range kinds {
		host := k.primary(kind.name)
		at := time.Duration(k.rand.Int64N(int64(streamTime * 3 / 5)))
		plan = append(plan, kill{at, i, kind.name + "/" + host})
	}
	slices.SortFunc(plan, func(a, b kill) int { return cmp.Compare(a.at, b.at) })
	return plan
}

// primary names a server that is the primary of a client of the service.
func (k *killer) primary(service string) string {
	k.Helper()
	servers, err := k.gw.Admin.Servers(k.ctx)
	k.no(err)
	var hosts []string
	for _, s := range servers {
		if s.Service == service && s.Primaries > 0 {
			hosts = append(hosts, s.Name)
		}
	}
	if hosts == nil {
		k.Fatalf("service %s has no primary: %+v", service, servers)
	}
	return hosts[k.rand.IntN(len(hosts))]
}

// going is how many streams of a kind have not ended.
func going(list []stream, kind int) (n int) {
	for _, s := range list {
		if s.kind == kind && s.going() {
			n++
		}
	}
	return n
}
