package e2e

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/testsrv"
)

// kind is one way to use a connection, for the random kills. Each lasts for
// streamTime at least.
type kind struct {
	name    string
	proto   testsrv.Proto
	clients int // at a time
	talk    func(number uint64) func(*rig.Conn, *progress) error
	extra   string // of the service
}

// kinds use a service of their own, each with servers of its own. The lines of
// a counter are numbered over all of its clients, so that it has one.
var kinds = []kind{
	{"download", testsrv.Paced, 4, pacedDownload, "release: both\nstateful: false\nrejoin: auto"},
	{"upload", testsrv.Sink, 4, pacedUpload, "release: primary\nstateful: false\nrejoin: auto"},
	{"requests", testsrv.Count, 1, countedRequests, "release: primary\nstateful: false\nrejoin: auto"},
	{"ledger", testsrv.Count, 1, countedRequests, stateful},
}

const stateful = "release: both\nstateful: true"

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

// newKiller starts everything.
func newKiller(t *testing.T, r *rand.Rand) *killer {
	k := &killer{world: newWorld(t, lab.Options{}), rand: r, running: map[string]*rig.Server{}}
	var services []rig.Service
	for i, kind := range kinds {
		services = append(services, rig.Service{Name: kind.name, Ports: fmt.Sprint(kindPort(i)), Extra: kind.extra})
		k.restartServers(i)
	}
	k.start(rig.Config{Services: services})
	return k
}

func kindPort(i int) uint16 { return uint16(9000 + i) }

// revive has both servers of a kind run again, and agree, and the gateway
// know that.
func (k *killer) revive(i int) {
	k.Helper()
	if kinds[i].extra != stateful {
		k.restartServers(i)
		return
	}
	name := kinds[i].name
	k.order("service", "freeze", name)
	k.restartServers(i)
	servers, err := k.gw.Admin.Servers(k.ctx)
	k.no(err)
	for _, s := range servers {
		if s.Service == name && s.State == "stale" {
			server := name + "/" + s.Name
			k.until(server+" healthy", func() error { return k.healthy(server) })
			k.order("server", "ready", server)
		}
	}
	k.order("service", "thaw", name)
}

// restartServers starts the servers of a kind that do not run. A counter
// starts afresh on both hosts, so that both count alike.
func (k *killer) restartServers(i int) {
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
	k.checkNoErrors("all servers are down") // we restart both
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
