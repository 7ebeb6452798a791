package pool

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"reflect"
	"slices"
	"strconv"
	"testing"
	"time"

	"sttcp/configs"
)

// TestRandomSchedule plays random events against random services, with an
// owner that carries the outputs out late, and checks after every step what
// must always hold. STTCP_SEED repeats a run, STTCP_FULL makes it long.
func TestRandomSchedule(t *testing.T) {
	steps := 400_000
	if os.Getenv("STTCP_FULL") != "" {
		steps = 10_000_000
	}
	seed := uint64(time.Now().UnixNano())
	if s, err := strconv.ParseUint(os.Getenv("STTCP_SEED"), 10, 64); err == nil {
		seed = s
	}
	t.Logf("seed %d, %d steps (STTCP_SEED repeats it)", seed, steps)
	rng := rand.New(rand.NewPCG(seed, 1))
	var seen tally
	for n := 0; n < steps; {
		w := newWorld(rng)
		for range 200 + rng.IntN(800) {
			n++
			if err := w.step(); err != nil {
				t.Fatalf("seed %d, step %d: %v\n%+v", seed, n, err, w)
			}
		}
		seen.add(w.seen)
	}
	seen.requireAll(t)
}

// tally counts what a schedule met, so that a run that never gets anywhere
// does not pass for a good one.
type tally map[string]int

func (a *tally) add(b tally) {
	if *a == nil {
		*a = tally{}
	}
	for k, n := range b {
		(*a)[k] += n
	}
}

func (a tally) requireAll(t *testing.T) {
	t.Logf("met: %v", a)
	for _, k := range []string{"PersistStale", "EjectRecorded", "DropLegs", "ResetConnections", "ClearStale",
		"Recheck", "ProbeNow", "AllDown", "StateChanged", "hold", "no server", "last server", "not ready",
		"up", "down", "drain", "maint", "stale", "joining"} {
		if a[k] == 0 {
			t.Errorf("no schedule ever met %q", k)
		}
	}
}

// link is a connection as its owner sees it.
type link struct {
	legs    map[int]bool // live legs
	opened  int          // step
	holding int          // waits for an EjectRecorded of this server, or none
	doomed  bool         // to be reset: nothing of it leaves any more
}

// machine is the dumb model of a server: what was said about it, and no counts.
type machine struct {
	admin          State // StateUp where nothing was asked for
	healthy, stale bool
	failed, waits  bool
	gen            uint64
	outage, joined int // steps
	joining        bool
	served         bool  // as of the last step
	shown          State // as last reported
}

// world is a pool with its owner and its disk.
type world struct {
	rng      *rand.Rand
	svc      configs.Service
	p        *Pool
	now      int
	nextID   ConnID
	links    map[ConnID]*link
	machines []machine
	disk     map[int]bool
	writes   []Output // to the disk, in order
	frozen   bool
	allDown  bool
	seen     tally
	most     int // connections

	saidAllDown bool // in this step
}

func newWorld(rng *rand.Rand) *world {
	balances := []configs.Balance{configs.BalanceRoundRobin, configs.BalanceLeastConn, configs.BalanceSource}
	svc := configs.Service{Name: "web", Legs: min(2, 1+rng.IntN(5)), Stateful: rng.IntN(3) > 0,
		Rejoin: configs.RejoinManual, Balance: balances[rng.IntN(3)]}
	n := svc.Legs
	if !svc.Stateful {
		n += rng.IntN(3)
		if rng.IntN(2) == 0 {
			svc.Rejoin = configs.RejoinAuto
		}
	}
	w := &world{rng: rng, svc: svc, links: map[ConnID]*link{}, disk: map[int]bool{}, seen: tally{},
		most: 1 + rng.IntN(30)}
	var stale []string
	for i := range n {
		w.svc.Servers = append(w.svc.Servers, configs.Server{Name: fmt.Sprint("s", i)})
		w.machines = append(w.machines, machine{healthy: true, served: true})
	}
	if svc.Stateful && n == 2 && rng.IntN(4) == 0 {
		stale, w.disk[1] = []string{"s1"}, true
		w.machines[1] = machine{healthy: true, stale: true, shown: StateStale}
	}
	w.p = New(w.svc, stale)
	return w
}

// step does one thing, carries out what may be carried out, and checks.
func (w *world) step() error {
	w.now++
	w.saidAllDown = false
	if w.rng.IntN(5) == 0 && len(w.writes) > 0 {
		return w.finish(w.write())
	}
	if w.rng.IntN(6) == 0 && len(w.links) < w.most {
		return w.finish(w.open())
	}
	ev := w.event()
	before := w.p.Servers()
	err := w.p.Step(ev)
	if err != nil && !reflect.DeepEqual(before, w.p.Servers()) {
		return fmt.Errorf("%#v was refused (%v) but changed the state", ev, err)
	}
	if err := w.note(ev, err); err != nil {
		return fmt.Errorf("%#v: %w", ev, err)
	}
	if err := w.finish(nil); err != nil {
		return fmt.Errorf("%#v: %w", ev, err)
	}
	return nil
}

func (w *world) event() Event {
	s := w.rng.IntN(len(w.machines))
	name := w.svc.Servers[s].Name
	switch w.rng.IntN(20) {
	case 0, 1:
		return HealthDown{s, w.gen(s), "check"}
	case 2, 3, 4, 5:
		return HealthUp{s, w.gen(s)}
	case 6:
		return Drain{name}
	case 7:
		return Maint{name}
	case 8, 9, 10:
		return Ready{name, w.rng.IntN(2) == 0}
	case 11:
		return Freeze{}
	case 12:
		return Thaw{}
	}
	return w.connEvent(s)
}

// gen is mostly that of the last Recheck.
func (w *world) gen(s int) uint64 {
	if g := w.machines[s].gen; g == 0 || w.rng.IntN(4) > 0 {
		return g
	}
	return w.machines[s].gen - 1
}

func (w *world) connEvent(s int) Event {
	id := w.someConn()
	switch w.rng.IntN(8) {
	case 0:
		return Diverged{id, s, "diverged"}
	case 1, 2, 3:
		return ConnClosed{id}
	case 4:
		if !w.svc.Stateful {
			return LegDropped{id, s}
		}
	}
	return LegFailed{id, s, "failed"}
}

func (w *world) someConn() ConnID {
	ids := make([]ConnID, 0, len(w.links))
	for id := range w.links {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if len(ids) == 0 || w.rng.IntN(20) == 0 {
		return 1_000_000
	}
	return ids[w.rng.IntN(len(ids))]
}

func (w *world) open() error {
	w.nextID++
	usable := 0
	for i := range w.machines {
		if w.mayPick(i) {
			usable++
		}
	}
	ch := w.p.Pick(w.nextID, netip.AddrFrom4([4]byte{10, 0, 0, byte(w.rng.IntN(256))}))
	if ch.N != min(usable, w.svc.Legs) || (ch.N == 2 && ch.Primary == ch.Backup) {
		return fmt.Errorf("pick gave %+v, %d are usable", ch, usable)
	}
	if ch.N == 0 {
		w.seen["no server"]++
		return nil
	}
	l := &link{legs: map[int]bool{}, opened: w.now, holding: none}
	for _, s := range []int{ch.Primary, ch.Backup}[:ch.N] {
		if !w.mayPick(s) {
			return fmt.Errorf("pick gave %+v, but server %d is %v", ch, s, w.p.Servers()[s].State)
		}
		l.legs[s] = true
	}
	if ch.Hold {
		w.seen["hold"]++
		l.holding = slices.IndexFunc(w.p.Servers(), func(s Status) bool { return s.Recording })
	}
	w.links[w.nextID] = l
	return nil
}

// mayPick says by the model alone whether a new connection may have a leg at s.
func (w *world) mayPick(s int) bool {
	if w.svc.Stateful {
		return !w.machines[s].stale
	}
	return w.machines[s].serves()
}

func (m *machine) serves() bool {
	return !m.stale && m.admin == StateUp && m.healthy && !m.failed && !m.waits
}

// write carries out the oldest write to the disk.
func (w *world) write() error {
	o := w.writes[0]
	w.writes = w.writes[1:]
	switch o := o.(type) {
	case PersistStale:
		w.disk[o.Server] = true
		return w.p.Step(StaleRecorded{o.Server})
	case ClearStale:
		delete(w.disk, o.Server)
	}
	return nil
}
