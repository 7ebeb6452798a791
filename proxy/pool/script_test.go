package pool

import (
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"sttcp/configs"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the expected output of the scripts")

// TestScripts plays testdata/*.txt: blocks of commands, a line "----", what
// they are expected to print, and an empty line. `go test -run Scripts
// -rewrite` writes what they do print; read the difference before committing.
//
//	pool [stateful] [auto] [legs=N] [servers=a,b] [balance=B] [stale=a,b]
//	up|down SERVER [GEN]         the checks' verdict
//	pick CONN [ADDR]             a new connection
//	fail|diverged|dropped CONN SERVER
//	close CONN; recorded SERVER
//	drain|maint SERVER; ready SERVER [reset]; freeze; thaw
//	show                         all servers
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("find scripts: %v, %v", files, err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) { playFile(t, f) })
	}
}

func playFile(t *testing.T, file string) {
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var r runner
	var got strings.Builder
	for block := range strings.SplitSeq(strings.TrimSpace(string(text)), "\n\n") {
		input, _, _ := strings.Cut(block, "\n----")
		fmt.Fprintf(&got, "%s\n", input)
		if out, ran := r.block(input); ran {
			fmt.Fprintf(&got, "----\n%s", out)
		}
		got.WriteString("\n")
	}
	want := strings.TrimSpace(string(text))
	if *rewrite {
		err = os.WriteFile(file, []byte(strings.TrimSpace(got.String())+"\n"), 0o644)
	} else if strings.TrimSpace(got.String()) != want {
		t.Errorf("%s\n%s", file, firstDifference(want, strings.TrimSpace(got.String())))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func firstDifference(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range g {
		if i >= len(w) || w[i] != g[i] {
			return fmt.Sprintf("line %d: got %q, want %q\nwhole output:\n%s", i+1, g[i], w[min(i, len(w)-1)], got)
		}
	}
	return "output ends early:\n" + got
}

// runner plays the commands of one script.
type runner struct {
	p *Pool
}

// block runs the commands of a block; ran is false if there were only comments.
func (r *runner) block(input string) (out string, ran bool) {
	for line := range strings.SplitSeq(input, "\n") {
		if f := strings.Fields(line); len(f) > 0 && f[0] != "#" {
			out += r.command(f)
			ran = true
		}
	}
	return out, ran
}

func (r *runner) command(f []string) string {
	arg := append(f[1:], "", "")
	switch f[0] {
	case "pool":
		r.p = New(serviceFrom(f[1:]))
		return r.show()
	case "show":
		return r.show()
	case "pick":
		return r.pick(arg[0], arg[1]) + r.outputs()
	}
	ev := r.event(f[0], arg)
	if ev == nil {
		return fmt.Sprintf("unknown command %q\n", f)
	}
	if err := r.p.Step(ev); err != nil {
		return fmt.Sprintf("%v\n", err) + r.outputs()
	}
	return r.outputs()
}

func (r *runner) event(name string, arg []string) Event {
	switch name {
	case "up":
		return HealthUp{r.server(arg[0]), r.gen(arg)}
	case "down":
		return HealthDown{r.server(arg[0]), r.gen(arg), "timeout"}
	case "fail":
		return LegFailed{connID(arg[0]), r.server(arg[1]), "lag"}
	case "diverged":
		return Diverged{connID(arg[0]), r.server(arg[1]), "diverged"}
	case "dropped":
		return LegDropped{connID(arg[0]), r.server(arg[1])}
	case "close":
		return ConnClosed{connID(arg[0])}
	case "recorded":
		return StaleRecorded{r.server(arg[0])}
	}
	return orderFrom(name, arg)
}

func orderFrom(name string, arg []string) Event {
	switch name {
	case "drain":
		return Drain{arg[0]}
	case "maint":
		return Maint{arg[0]}
	case "ready":
		return Ready{arg[0], arg[1] == "reset"}
	case "freeze":
		return Freeze{}
	case "thaw":
		return Thaw{}
	}
	return nil
}

// gen is the generation of a verdict: the newest unless the script says which.
func (r *runner) gen(arg []string) uint64 {
	if n, err := strconv.ParseUint(arg[1], 10, 64); err == nil {
		return n
	}
	if s := r.p.server(r.server(arg[0])); s != nil {
		return s.gen
	}
	return 0
}

func (r *runner) server(name string) int {
	for i, s := range r.p.Servers() {
		if s.Name == name {
			return i
		}
	}
	return 99
}

func connID(s string) ConnID {
	n, _ := strconv.ParseUint(s, 10, 64)
	return ConnID(n)
}

func (r *runner) name(i int) string {
	if i == none {
		return "-"
	}
	return r.p.servers[i].name
}

func (r *runner) pick(id, addr string) string {
	if addr == "" {
		addr = "192.0.2.1"
	}
	ch := r.p.Pick(connID(id), netip.MustParseAddr(addr))
	s := fmt.Sprintf("%d legs: %s %s", ch.N, r.name(ch.Primary), r.name(ch.Backup))
	if ch.Hold {
		s += ", hold"
	}
	return s + "\n"
}

func (r *runner) show() string {
	var b strings.Builder
	for _, s := range r.p.Servers() {
		fmt.Fprintf(&b, "%s %s legs=%d/%d", s.Name, s.State, s.Legs, s.Primaries)
		if !s.Healthy {
			b.WriteString(" unhealthy")
		}
		if s.Lacking > 0 {
			fmt.Fprintf(&b, " lacking=%d", s.Lacking)
		}
		b.WriteString("\n")
	}
	return b.String()
}

func (r *runner) outputs() string {
	var b strings.Builder
	for _, o := range r.p.Take() {
		b.WriteString("  " + r.output(o) + "\n")
	}
	return b.String()
}

func (r *runner) output(o Output) string {
	switch o := o.(type) {
	case PersistStale:
		return fmt.Sprintf("PersistStale %s: %s", r.name(o.Server), o.Reason)
	case EjectRecorded:
		return fmt.Sprintf("EjectRecorded %s for %v", r.name(o.Server), o.Conns)
	case DropLegs:
		return fmt.Sprintf("DropLegs %s: %s", r.name(o.Server), o.Reason)
	case ResetConnections:
		return fmt.Sprintf("ResetConnections %s: %v", r.name(o.Server), o.Conns)
	case ClearStale:
		return "ClearStale " + r.name(o.Server)
	case Recheck:
		return fmt.Sprintf("Recheck %s gen %d", r.name(o.Server), o.Gen)
	case ProbeNow:
		return "ProbeNow " + r.name(o.Server)
	case StateChanged:
		return fmt.Sprintf("%s: %s -> %s (%s)", r.name(o.Server), o.From, o.To, o.Reason)
	}
	return fmt.Sprintf("%T", o)
}

// serviceFrom reads the arguments of the pool command.
func serviceFrom(args []string) (svc configs.Service, stale []string) {
	svc = configs.Service{Name: "web", Legs: 2, Rejoin: configs.RejoinManual, Balance: configs.BalanceRoundRobin}
	names := "s1,s2"
	for _, a := range args {
		key, value, _ := strings.Cut(a, "=")
		switch key {
		case "stateful":
			svc.Stateful = true
		case "auto":
			svc.Rejoin = configs.RejoinAuto
		case "legs":
			svc.Legs, _ = strconv.Atoi(value)
		case "balance":
			svc.Balance = configs.Balance(value)
		case "servers":
			names = value
		case "stale":
			stale = strings.Split(value, ",")
		}
	}
	for n := range strings.SplitSeq(names, ",") {
		svc.Servers = append(svc.Servers, configs.Server{Name: n})
	}
	return svc, stale
}
