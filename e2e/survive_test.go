package e2e

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/lab/labtest"
	"sttcp/e2e/rig"
)

// dims are the ways in which scenarios differ: what the client does, what
// breaks, which server it breaks for, and how the service is configured.
var dims = [...][]string{
	{"keepalive", "download", "redis"},
	{"kill", "link"},
	{"primary", "backup"},
	{"ipv4", "ipv6"},
	{"source-vip", "source-client"},
	{"vip", "routed"},
	{"stateful", "stateless"},
	{"offload", "no-offload"},
	{"bbr", "cubic"},
}

// scenarios has every value of every dimension together with every value of
// every other one, and every load with each fault of each server: see
// TestScenariosCoverPairs.
var scenarios = []string{
	"keepalive  kill  primary  ipv6  source-client  routed  stateless  offload     bbr  ",
	"keepalive  kill  backup   ipv4  source-vip     vip     stateful   offload     cubic",
	"keepalive  link  primary  ipv4  source-client  vip     stateless  no-offload  cubic",
	"keepalive  link  backup   ipv6  source-vip     routed  stateful   no-offload  cubic",
	"download   kill  primary  ipv6  source-vip     vip     stateful   no-offload  bbr  ",
	"download   kill  backup   ipv4  source-client  vip     stateless  offload     cubic",
	"download   link  primary  ipv4  source-vip     routed  stateful   offload     bbr  ",
	"download   link  backup   ipv6  source-client  routed  stateless  no-offload  bbr  ",
	"redis      kill  primary  ipv6  source-client  routed  stateful   no-offload  cubic",
	"redis      kill  backup   ipv4  source-vip     routed  stateless  no-offload  bbr  ",
	"redis      link  primary  ipv6  source-vip     vip     stateless  offload     cubic",
	"redis      link  backup   ipv4  source-client  vip     stateful   offload     bbr  ",
}

// more is what else may happen to a server, or be the matter with the network
// of the client: one scenario for each.
var more = []string{
	"download200  kill  primary  ipv4  source-vip     vip     stateful   offload  cubic",
	"keepalive  hang    primary  ipv4  source-vip     vip     stateful   offload  bbr  ",
	"download   silent  primary  ipv6  source-client  vip     stateless  offload  bbr  ",
	"download   kill    primary  ipv4  source-client  routed  stateful   offload  bbr  lossy",
	"redis      kill    primary  ipv6  source-vip     vip     stateful   offload  cubic  far",
	"redis      link    primary  ipv4  source-vip     routed  stateless  offload  bbr  lossy far",
	"upload     kill    primary  ipv6  source-client  routed  stateful   offload  bbr  ",
	"upload     link    backup   ipv4  source-vip     vip     stateless  offload  cubic",
}

// setting is one value of each dimension.
type setting []string

func (s setting) has(value string) bool { return slices.Contains(s, value) }

// String is the name of the scenario's test.
func (s setting) String() string { return strings.Join(s, "_") }

func settings(lines []string) (list []setting) {
	for _, line := range lines {
		list = append(list, strings.Fields(line))
	}
	return list
}

// product is all combinations of all dimensions but the last two, whose values
// take turns.
func product() (list []setting) {
	list = []setting{nil}
	for _, values := range dims[:len(dims)-2] {
		var longer []setting
		for _, s := range list {
			for _, v := range values {
				longer = append(longer, append(slices.Clone(s), v))
			}
		}
		list = longer
	}
	offload, cc := dims[len(dims)-2], dims[len(dims)-1]
	for i := range list {
		list[i] = append(list[i], offload[(i+i/4)%2], cc[(i/2+i/8)%2])
	}
	return list
}

func TestScenariosCoverPairs(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range settings(scenarios) {
		if len(s) != len(dims) {
			t.Fatalf("%v: %d values, want %d", s, len(s), len(dims))
		}
		seen[strings.Join(s[:3], " ")] = true
		for i, a := range s {
			if !slices.Contains(dims[i], a) {
				t.Errorf("%v: %q is none of %q", s, a, dims[i])
			}
			for _, b := range s {
				seen[a+" "+b] = true
			}
		}
	}
	for _, want := range wantedTogether() {
		if !seen[want] {
			t.Errorf("no scenario has %s", want)
		}
	}
}

// wantedTogether is all pairs of values of different dimensions, and all
// combinations of the first three.
func wantedTogether() (list []string) {
	for i, first := range dims {
		for _, second := range dims[i+1:] {
			for _, a := range first {
				for _, b := range second {
					list = append(list, a+" "+b)
				}
			}
		}
	}
	for _, s := range product() {
		list = append(list, strings.Join(s[:3], " "))
	}
	return list
}

// load is what a client does, and what it needs for that.
type load interface {
	// serve starts the server program on a host.
	serve(w *world, host string) (*rig.Server, error)
	// port is where it listens, extra more keys of the service.
	port() uint16
	extra() string
	// strike is the progress at which something is to break, for a share
	// from 0 to 1.
	strike(share float64) int64
	// talk is the client. It checks all that it gets, and notes its progress.
	talk(c *rig.Conn, p *progress) error
	// check is asked at the end, about the server that is left.
	check(w *world, survivor *rig.Server) error
}

func (s setting) load() load {
	switch s[0] {
	case "keepalive":
		return &keepAlive{sees: s.seen}
	case "download":
		return &download{size: 40 << 20, rate: "10m"}
	case "download200":
		return &download{size: 200 << 20, rate: "50m"}
	case "upload":
		return upload{}
	}
	return &pipeline{}
}

// TestSurvive is the main job: a client's connection goes on, byte for byte,
// when one of its two servers dies or vanishes in the middle.
func TestSurvive(t *testing.T) {
	r := newRand(t)
	list := settings(scenarios)
	if full() {
		list = product()
	}
	for _, s := range append(list, settings(more)...) {
		share := r.Float64()
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			survive(t, s, share)
		})
	}
}

func survive(t *testing.T, s setting, share float64) {
	w := newWorld(t, s.options())
	ld := s.load()
	w.serve(ld.serve)
	w.routes(s)
	w.start(rig.Config{Services: []rig.Service{s.service(w, ld)}})
	s.network(w)
	wire := labtest.Capture(t, w.lab.Host(client).Capture)

	to := netip.AddrPortFrom(s.address(w), ld.port())
	talk := begin(w.dial(to.String()), ld.talk)
	primary, err := w.gw.Primary(w.ctx, "svc")
	w.no(err)
	victim, survivor := s.roles(primary)
	w.no(talk.reach(w.ctx, ld.strike(share)))
	struck := time.Now()
	s.strike(w, victim)
	if !talk.going() {
		t.Fatalf("the client was done before the fault: %v", talk.err)
	}
	w.until("the loss of a leg", func() error { return w.lost(1) })
	if err := talk.end(w.ctx); err != nil {
		t.Fatalf("the client: %v; the gateway: %s", err, w.gw.Log())
	}
	t.Logf("%s of %s: stall %v", s[1], s[2], talk.stall(struck).Round(time.Millisecond))

	w.checkWire(wire, talk.conn.Local(), to, s.has("no-offload"))
	s.checkStatus(w, victim)
	s.checkLog(w, victim)
	w.no(ld.check(w, w.servers[survivor]))
	w.checkLeft()
	w.checkNoErrors()
	w.stop()
}

func (s setting) ipv6() bool { return s.has("ipv6") }

func (s setting) options() lab.Options {
	return lab.Options{NoOffloads: s.has("no-offload"), CongestionControl: s[8]}
}

// service is the service's configuration.
func (s setting) service(w *world, ld load) rig.Service {
	svc := rig.Service{Name: "svc", Ports: fmt.Sprint(ld.port()), IPv6: s.ipv6(), Source: "vip"}
	if s.has("source-client") {
		svc.Source = "client"
	}
	if s.has("routed") {
		svc.Listen = s.address(w)
	}
	svc.Extra = "stateful: true\nrelease: both\n"
	if s.has("stateless") {
		svc.Extra = "stateful: false\nrelease: primary\n"
	}
	svc.Extra += ld.extra()
	return svc
}

// seen is the address of a client that its servers see.
func (s setting) seen(c *rig.Conn) netip.Addr {
	if s.has("source-client") {
		return c.Local().Addr()
	}
	return vip(s.ipv6())
}

// address is what clients connect to: the virtual IP, or the address of the
// server that was there first.
func (s setting) address(w *world) netip.Addr {
	if s.has("routed") {
		return w.addrOf("s1", s.ipv6())
	}
	return vip(s.ipv6())
}

// routes has the packets that the gateway must see come by.
func (w *world) routes(s setting) {
	w.Helper()
	if s.has("routed") {
		a := s.address(w)
		w.no(rig.RouteThrough(w.lab, "g1", []netip.Prefix{netip.PrefixFrom(a, a.BitLen())}, "router"))
	}
	if s.has("source-client") {
		w.no(rig.RouteThrough(w.lab, "g1", rig.Clients, "s1", "s2"))
	}
}

// roles tells whom the fault is for and who is left.
func (s setting) roles(primary string) (victim, survivor string) {
	if s.has("primary") {
		return primary, other(primary)
	}
	return other(primary), primary
}

// network makes the client's way a bad one.
func (s setting) network(w *world) {
	w.Helper()
	link := w.lab.Host(client).Link
	if s.has("lossy") {
		for _, dir := range []lab.Dir{lab.In, lab.Out} {
			labtest.Inject(w.T)(link.Loss(dir, 1))
		}
	}
	if s.has("far") {
		labtest.Inject(w.T)(link.Delay(10*time.Millisecond, 10*time.Millisecond))
	}
}

// strike breaks the victim: its program is killed, or hangs (its kernel does
// not), its cable is pulled, or all is lost there.
func (s setting) strike(w *world, victim string) {
	w.Helper()
	server, host := w.servers[victim], w.lab.Host(victim)
	switch s[1] {
	case "kill":
		w.no(server.KillGroup9())
	case "hang":
		w.no(server.Stop())
	case "link":
		labtest.Inject(w.T)(host.LinkDown())
	case "silent":
		labtest.Inject(w.T)(host.Isolate())
	}
}

// lost returns nil if the gateway has counted so many lost legs.
func (w *world) lost(want uint64) error {
	var have uint64
	svc := w.service("svc")
	for _, n := range svc.Dropped {
		have += n
	}
	if have != want {
		return fmt.Errorf("legs lost: %v", svc.Dropped)
	}
	return nil
}

// reasons are those for which a leg may be lost to a fault. The health check
// may come first, and a close at the very offset of the other leg is judged by
// it; but a server that hangs is well for a check that only connects.
func (s setting) reasons() []string {
	reasons := []string{"dead", "lag"}
	switch s[1] {
	case "hang":
		return []string{"lag"}
	case "kill":
		reasons = []string{"closed-early", "dead"}
	}
	if s.has("stateless") {
		reasons = append(reasons, "server-down")
	}
	return reasons
}

// checkStatus wants the counters and the state of the dead server right.
func (s setting) checkStatus(w *world, victim string) {
	w.Helper()
	svc := w.service("svc")
	promoted := uint64(0)
	if s.has("primary") {
		promoted = 1
	}
	w.no(w.lost(1))
	for reason := range svc.Dropped {
		if !slices.Contains(s.reasons(), reason) {
			w.Errorf("the leg was lost for %q, want one of %q", reason, s.reasons())
		}
	}
	if svc.Promoted != promoted || svc.Diverged+svc.Muted+svc.Refused != 0 || svc.Accepted != 1 {
		w.Errorf("counters: %+v; want promoted %d", svc, promoted)
	}
	dead := "stale"
	if s.has("stateless") {
		dead = "down"
	}
	w.waitStates(twoStates(victim, dead))
}

// checkLog wants the gateway to have said what happened.
func (s setting) checkLog(w *world, victim string) {
	w.Helper()
	state := "to=stale"
	if s.has("stateless") {
		state = "to=down"
	}
	lines := [][]string{
		{"leg dropped", "server=" + victim, "reason="},
		{"server state", "server=" + victim, state},
	}
	if s.has("primary") {
		lines = append(lines, []string{"backup promoted", "server=" + other(victim)})
	}
	for _, parts := range lines {
		if err := w.logged(parts...); err != nil {
			w.Errorf("%v: %s", err, w.gw.Log())
		}
	}
}

// checkWire asks what the client's network saw of its only connection: one
// opening, no reset, no hole, an end by FIN in both directions.
func (w *world) checkWire(wire *lab.Capture, local, to netip.AddrPort, checksums bool) {
	w.Helper()
	ask := func(what string, list []lab.Segment, err error) []lab.Segment {
		w.Helper()
		if err != nil {
			w.Fatalf("%s: %v", what, err)
		}
		return list
	}
	up := lab.Tuple{Src: local, Dst: to}
	opened, err := wire.Select(func(s lab.Segment) bool { return s.Flags&(lab.SYN|lab.ACK) == lab.SYN && s.Dst == to })
	for _, s := range ask("SYN", opened, err) {
		if s.Src != local {
			w.Errorf("another connection: %v", s)
		}
	}
	resets, err := wire.RSTsTo(local.Addr())
	if list := ask("RST", resets, err); len(list) > 0 {
		w.Errorf("resets to the client: %v", list)
	}
	for _, t := range []lab.Tuple{up, up.Reverse()} {
		fins, err := wire.FINs(t)
		if len(ask("FIN", fins, err)) == 0 {
			w.Errorf("no FIN from %v", t.Src)
		}
		w.checkGaps(wire, t)
	}
	if checksums {
		bad, err := wire.BadChecksums()
		if list := ask("checksums", bad, err); len(list) > 0 {
			w.Errorf("%d bad checksums, the first: %v", len(list), list[0])
		}
	}
}

// checkGaps wants no hole in the sequence numbers of a direction that was not
// filled. Filled ones are the network's losses.
func (w *world) checkGaps(wire *lab.Capture, t lab.Tuple) {
	w.Helper()
	gaps, err := wire.SequenceGaps(t)
	w.no(err)
	var slowest time.Duration
	for _, g := range gaps {
		if g.Filled.IsZero() {
			w.Errorf("sequence gap from %v: %v", t.Src, g)
		}
		slowest = max(slowest, g.Filled.Sub(g.Opened))
	}
	if len(gaps) > 0 {
		w.Logf("from %v: %d segments came out of order, by up to %v", t.Src, len(gaps), slowest)
	}
}
