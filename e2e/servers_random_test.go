package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sttcp/cmd/admin"
	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

// state is something that a kill can hit a connection in.
type state string

const (
	halfClosed   state = "half-closed"
	zeroWindow   state = "zero window"
	legMissing   state = "a leg missing"
	apart        state = "legs at different offsets"
	backupAhead  state = "backup ahead"
	backupBehind state = "backup behind"
	mutedLeg     state = "muted"
)

// allStates are the rows of the table: each must be hit.
var allStates = []state{halfClosed, zeroWindow, legMissing, apart, backupAhead, backupBehind, mutedLeg}

// statesOf tells what state a connection is in.
func statesOf(c admin.ConnStatus) (list []state) {
	var mine, theirs admin.LegStatus
	there, muted := 0, false
	for _, l := range c.Legs {
		if l.State != "absent" {
			there++
		}
		muted = muted || l.State == "muted"
		if l.Server == c.Primary {
			mine = l
		} else {
			theirs = l
		}
	}
	compare := there == 2 && !muted
	for _, s := range []struct {
		state
		hit bool
	}{
		{halfClosed, c.ClientFIN != c.ServerFIN}, {zeroWindow, c.Blocked}, {legMissing, there < 2}, {mutedLeg, muted},
		{apart, compare && (mine.Read != theirs.Read || mine.Acked != theirs.Acked)},
		{backupAhead, compare && theirs.Read > mine.Read}, {backupBehind, compare && theirs.Read < mine.Read},
	} {
		if s.hit {
			list = append(list, s.state)
		}
	}
	return list
}

// way is one way to use a connection of a stateful service while one of its
// servers is killed.
type way struct {
	name   string
	victim string // primary, backup, either; gone: one that the connection has no leg at
	says   string // lines for Script; PRIMARY and BACKUP are the servers
	talk   func(c *rig.Conn, p *progress, seed uint64) error
}

// The streams last for killTime and have killSize bytes.
const (
	killTime = 2200 * time.Millisecond
	killSize = 4 << 20
)

var killStream = fmt.Sprintf("send %d %v SEED", killSize, killTime)

// eachWay are services with the states that they are there for. There are
// several of the first two in the full run, where they are counted.
var eachWay = []way{
	{"download", "primary", killStream, getAll},
	{"upload", "primary", fmt.Sprintf("recv %d", killSize), sendAll},
	{"download-b", "backup", killStream, getAll},
	{"upload-b", "backup", fmt.Sprintf("recv %d", killSize), sendAll},
	{"half-closed", "either", killStream, getHalfClosed},
	{"slow-client", "either", fmt.Sprintf("send %d 0s SEED", 4*killSize), getSlowly},
	{"backup-ahead", "either", "@PRIMARY wait 50ms\n" + killStream, getAll},
	{"backup-behind", "either", "@BACKUP wait 50ms\n" + killStream, getAll},
	{"muted", "backup", "@BACKUP edit flip 0\n" + killStream, getAll},
	{"leg-missing", "gone", killStream, getAll},
}

func getAll(c *rig.Conn, p *progress, seed uint64) error {
	return errors.Join(getStream(c, p, content.Content{Seed: seed, Size: killSize}), hangUp(c))
}

// getHalfClosed ends its own direction at once.
func getHalfClosed(c *rig.Conn, p *progress, seed uint64) error {
	if err := c.CloseWrite(); err != nil {
		return err
	}
	if err := getStream(c, p, content.Content{Seed: seed, Size: killSize}); err != nil {
		return err
	}
	if b, err := c.Reader().ReadByte(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("instead of a FIN the client got %q, %w", b, err)
	}
	return c.Close()
}

// getSlowly gets a stream that is sent at once in as long as the others last.
func getSlowly(c *rig.Conn, p *progress, seed uint64) error {
	if err := c.Conn.(*net.TCPConn).SetReadBuffer(64 << 10); err != nil {
		return err
	}
	what := content.Content{Seed: seed, Size: 4 * killSize}
	check, start := content.NewChecker(what), time.Now()
	for check.Bytes() < what.Size {
		time.Sleep(time.Duration(float64(check.Bytes())/float64(what.Size)*float64(killTime)) - time.Since(start))
		n, err := io.CopyN(check, c.Reader(), min(grain, what.Size-check.Bytes()))
		if p.add(n); err != nil {
			return fmt.Errorf("download: after %d bytes: %w", check.Bytes(), err)
		}
	}
	return errors.Join(check.Err(), hangUp(c))
}

// sendAll sends a stream evenly and wants its hash.
func sendAll(c *rig.Conn, p *progress, seed uint64) error {
	what := content.Content{Seed: seed, Size: killSize}
	in, start := what.Reader(), time.Now()
	for p.value() < what.Size {
		time.Sleep(time.Duration(float64(p.value())/killSize*float64(killTime)) - time.Since(start))
		n, err := io.CopyN(c.Conn, in, min(grain, what.Size-p.value()))
		if p.add(n); err != nil {
			return fmt.Errorf("upload: after %d bytes: %w", p.value(), err)
		}
	}
	got, err := c.ReadLine()
	if err == nil && got != what.SHA256() {
		err = fmt.Errorf("upload: the server has %q, want %s", got, what.SHA256())
	}
	return errors.Join(err, hangUp(c))
}

// TestServerKillsCoverage kills servers of stateful services at random
// instants, in every state that a connection can be in. Every client gets
// every byte right, and none a reset.
func TestServerKillsCoverage(t *testing.T) {
	t.Parallel()
	ways, want := eachWay, 3
	if full() {
		want = 200
		for i := range 4 {
			for _, w := range eachWay[:2] {
				w.name = fmt.Sprintf("%s-%d", w.name, i)
				ways = append(ways[:len(ways):len(ways)], w)
			}
		}
	}
	k := newAssassin(t, newRand(t), ways)
	for round := 1; k.kills["download"] < want || k.kills["upload"] < want; round++ {
		if round > 2*want {
			t.Fatalf("only %v kills were within a stream", k.kills)
		}
		k.round(round)
	}
	k.table()
	k.checkLeft()
	k.checkNoErrors()
}

// assassin is the world of the kills.
type assassin struct {
	*world
	rand    *rand.Rand
	ways    []way
	running map[string]*rig.Server // by "way/host"
	seed    uint64
	kills   map[string]int // those that count, of primaries, by first word of the way
	hits    map[state]int
	longest map[string]time.Duration
}

func newAssassin(t *testing.T, r *rand.Rand, ways []way) *assassin {
	k := &assassin{world: newWorld(t, lab.Options{}), rand: r, ways: ways, running: map[string]*rig.Server{},
		kills: map[string]int{}, hits: map[state]int{}, longest: map[string]time.Duration{}}
	var services []rig.Service
	for i, w := range ways {
		services = append(services, rig.Service{Name: w.name, Ports: fmt.Sprint(k.port(i)),
			Extra: "stateful: true\nrelease: both"})
		k.revive(i)
	}
	k.start(rig.Config{Services: services})
	return k
}

func (k *assassin) port(i int) uint16 { return uint16(firstPort + i) }

// revive starts the servers of a way that have been killed.
func (k *assassin) revive(i int) {
	k.Helper()
	for _, host := range []string{"s1", "s2"} {
		name := k.ways[i].name + "/" + host
		if s := k.running[name]; s != nil && s.Running() {
			continue
		}
		s, err := testServer(testsrv.Spec{Proto: testsrv.Script, Port: k.port(i)})(k.world, host)
		k.no(err)
		k.running[name] = s
	}
}

// target is a client of a round, and what is to happen to it.
type target struct {
	*talk
	way     way
	primary string
	victim  string
	at      time.Duration
}

// round runs a client of each way, and kills one server of each at an instant
// of its own.
func (k *assassin) round(number int) {
	k.Helper()
	var list []*target
	for i := range k.ways {
		list = append(list, k.begin(i))
	}
	for _, s := range list {
		k.no(s.reach(k.ctx, 1))
		s.at = time.Duration(k.rand.Int64N(int64(killTime * 3 / 5)))
	}
	slices.SortFunc(list, func(a, b *target) int { return cmp.Compare(a.at, b.at) })
	start := time.Now()
	for _, s := range list {
		time.Sleep(time.Until(start.Add(s.at))) // the random instant
		k.kill(number, s)
	}
	for _, s := range list {
		if err := s.end(k.ctx); err != nil {
			k.Fatalf("round %d: %s, %s was killed: %v; the gateway: %s", number, s.way.name, s.victim, err, k.gw.Log())
		}
		word := strings.Split(s.way.name, "-")[0] + " " + s.way.victim
		k.longest[word] = max(k.longest[word], s.stall(start))
	}
	k.repair()
}

// begin connects a client and has it begin.
func (k *assassin) begin(i int) *target {
	k.Helper()
	s := &target{way: k.ways[i]}
	if s.way.victim == "gone" {
		s.victim = []string{"s1", "s2"}[k.rand.IntN(2)]
		k.orderServer(s.way.name+"/"+s.victim, admin.OpMaint)
		k.until("a leg less", func() error { return k.stateIs(s.way.name, s.victim, "stale") })
	}
	c := k.dial(netip.AddrPortFrom(lab.VIP4, k.port(i)).String())
	if got, err := c.Ask("say hello"); err != nil || got != "hello" {
		k.Fatalf("%s: greeting %q, %v; the gateway: %s", s.way.name, got, err, k.gw.Log())
	}
	conn, ok := k.connection(s.way.name)
	if !ok {
		k.Fatalf("service %s has no connection; the gateway: %s", s.way.name, k.gw.Log())
	}
	s.primary = conn.Primary
	switch {
	case s.way.victim == "primary", s.way.victim == "either" && k.rand.IntN(2) == 0:
		s.victim = s.primary
	case s.victim == "":
		s.victim = other(s.primary)
	}
	k.seed++
	says := strings.NewReplacer("PRIMARY", s.primary, "BACKUP", other(s.primary), "SEED", fmt.Sprint(k.seed)).Replace(s.way.says)
	k.no(c.Send(says))
	s.talk = &talk{progress: newProgress(), conn: c, done: make(chan struct{})}
	go func(seed uint64) {
		defer close(s.done)
		s.err = s.way.talk(c, s.progress, seed)
	}(k.seed)
	return s
}

// connection is the only one of a service, if it has one.
func (k *assassin) connection(service string) (admin.ConnStatus, bool) {
	k.Helper()
	all, err := k.gw.Admin.Connections(k.ctx)
	k.no(err)
	for _, c := range all.Connections {
		if c.Service == service {
			return c, true
		}
	}
	return admin.ConnStatus{}, false
}

// kill kills the target's victim. It counts if the client has not got its last
// byte.
func (k *assassin) kill(round int, s *target) {
	k.Helper()
	before, there := k.connection(s.way.name)
	if !there {
		return // it was late
	}
	k.no(k.running[s.way.name+"/"+s.victim].KillGroup9())
	if !s.going() {
		return
	}
	hit := statesOf(before)
	for _, state := range hit {
		k.hits[state]++
	}
	if s.victim == s.primary {
		k.kills[strings.Split(s.way.name, "-")[0]]++
	}
	role := map[bool]string{true: "primary", false: "backup"}[s.victim == s.primary]
	k.Logf("round %d: %s of %s killed at in %d, out %d: %q", round, role, s.way.name, before.In, before.Out, hit)
}

// repair brings all servers back, as an operator would.
func (k *assassin) repair() {
	k.Helper()
	for i := range k.ways {
		k.revive(i)
	}
	for _, w := range k.ways {
		k.until("the end of "+w.name, func() error {
			if n := k.service(w.name).Connections; n > 0 {
				return fmt.Errorf("%d connections", n)
			}
			return nil
		})
		k.no(k.gw.Admin.Service(k.ctx, admin.ServiceOrder{Name: w.name, Op: admin.OpFreeze}))
		for _, host := range []string{"s1", "s2"} {
			k.until(host+" of "+w.name+" healthy", func() error { return k.healthyAt(w.name, host) })
			k.orderServer(w.name+"/"+host, admin.OpReady)
		}
		k.no(k.gw.Admin.Service(k.ctx, admin.ServiceOrder{Name: w.name, Op: admin.OpThaw}))
	}
	k.waitStates(strings.TrimSuffix(strings.Repeat("s1 up, s2 up, ", len(k.ways)), ", "))
}

func (k *assassin) orderServer(name string, op admin.Op) {
	k.Helper()
	_, err := k.gw.Admin.Server(k.ctx, admin.ServerOrder{Name: name, Op: op})
	k.no(err)
}

func (k *assassin) stateIs(service, server, want string) error {
	s, err := k.serverOf(service, server)
	if err == nil && s.State != want {
		err = fmt.Errorf("%s of %s is %s, want %s", server, service, s.State, want)
	}
	return err
}

func (k *assassin) healthyAt(service, server string) error {
	s, err := k.serverOf(service, server)
	if err == nil && !s.Healthy {
		err = fmt.Errorf("its checks fail")
	}
	return err
}

func (k *assassin) serverOf(service, server string) (admin.ServerStatus, error) {
	servers, err := k.gw.Admin.Servers(k.ctx)
	for _, s := range servers {
		if s.Service == service && s.Name == server {
			return s, nil
		}
	}
	return admin.ServerStatus{}, errors.Join(err, fmt.Errorf("no server %s/%s", service, server))
}

// table logs what was hit, and fails for a state that was not.
func (k *assassin) table() {
	k.Helper()
	k.Logf("kills of primaries within a stream: %v", k.kills)
	for _, way := range slices.Sorted(maps.Keys(k.longest)) {
		k.Logf("%-28s longest stall %v", way, k.longest[way].Round(time.Millisecond))
	}
	for _, s := range allStates {
		k.Logf("%-28s hit %d times", s, k.hits[s])
		if k.hits[s] == 0 {
			k.Errorf("no kill has hit a connection in the state %q", s)
		}
	}
}
