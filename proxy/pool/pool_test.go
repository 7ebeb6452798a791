package pool

import (
	"fmt"
	"go/parser"
	"go/token"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"sttcp/configs"
)

func newPool(balance configs.Balance, legs int, names ...string) *Pool {
	svc := configs.Service{Name: "web", Legs: legs, Rejoin: configs.RejoinAuto, Balance: balance}
	for _, n := range names {
		svc.Servers = append(svc.Servers, configs.Server{Name: n})
	}
	return New(svc, nil)
}

func client(i int) netip.Addr {
	return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})
}

// TestRoundRobinEven: after every full round each ordered pair was chosen
// equally often, so each server leads and follows each other one.
func TestRoundRobinEven(t *testing.T) {
	for n := 2; n <= 7; n++ {
		p := newPool(configs.BalanceRoundRobin, 2, strings.Split("abcdefg", "")[:n]...)
		pairs := map[[2]int]int{}
		for i := range 3 * n * (n - 1) {
			ch := p.Pick(ConnID(i), client(i))
			pairs[[2]int{ch.Primary, ch.Backup}]++
		}
		if len(pairs) != n*(n-1) {
			t.Errorf("%d servers: %d pairs, want %d", n, len(pairs), n*(n-1))
		}
		for pair, count := range pairs {
			if count != 3 || pair[0] == pair[1] {
				t.Errorf("%d servers: pair %v chosen %d times", n, pair, count)
			}
		}
	}
}

// TestLeastConnLevels: however unevenly connections end, new ones level the
// servers, in both roles.
func TestLeastConnLevels(t *testing.T) {
	p := newPool(configs.BalanceLeastConn, 2, "a", "b", "c")
	for i := range 300 {
		p.Pick(ConnID(i), client(i))
	}
	for i := range 300 { // whoever has a leg at a ends
		if p.conns[ConnID(i)].has(0) {
			if err := p.Step(ConnClosed{ConnID(i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	for i := range 600 {
		p.Pick(ConnID(1000+i), client(i))
	}
	st := p.Servers()
	for _, s := range st {
		if d := s.Legs - st[0].Legs; d < -1 || d > 1 {
			t.Errorf("legs are not level: %+v", st)
		}
		if d := s.Primaries - st[0].Primaries; d < -2 || d > 2 {
			t.Errorf("roles are not level: %+v", st)
		}
	}
}

// TestSourceSpreadsAndStays: clients spread evenly, and losing a server moves
// nobody who did not have it.
func TestSourceSpreadsAndStays(t *testing.T) {
	const clients = 20_000
	names := []string{"s1", "s2", "s3", "s4", "s5"}
	p := newPool(configs.BalanceSource, 2, names...)
	before := make([]Choice, clients)
	for i := range before {
		before[i] = p.Pick(ConnID(i), client(i))
	}
	for _, s := range p.Servers() {
		if want := clients / len(names); s.Primaries < want*95/100 || s.Primaries > want*105/100 {
			t.Errorf("%s is primary for %d of %d, want about %d", s.Name, s.Primaries, clients, want)
		}
	}
	const lost = 2
	if err := p.Step(HealthDown{Server: lost}); err != nil {
		t.Fatal(err)
	}
	for i, was := range before {
		is := p.Pick(ConnID(clients+i), client(i))
		switch {
		case was.Primary == lost && is.Primary != was.Backup:
			t.Fatalf("client %d: the backup did not take the lost primary's place: %+v, %+v", i, was, is)
		case was.Primary != lost && is.Primary != was.Primary:
			t.Fatalf("client %d: its primary moved: %+v, %+v", i, was, is)
		case was.Primary != lost && was.Backup != lost && is != was:
			t.Fatalf("client %d: moved: %+v, %+v", i, was, is)
		}
	}
}

// TestHashIsFixed: gateways of different versions must choose alike.
func TestHashIsFixed(t *testing.T) {
	for name, want := range map[string]uint64{"s1": 0x9048b752e77ae68e, "s2": 0xb135b1f10b657236} {
		if got := hash([]byte{192, 0, 2, 1}, name); got != want {
			t.Errorf("hash(192.0.2.1, %s) = %#x, want %#x", name, got, want)
		}
	}
}

func TestStateString(t *testing.T) {
	var got []string
	for s := StateUp; s <= StateJoining+1; s++ {
		got = append(got, s.String())
	}
	if want := "[up down drain maint stale joining unknown]"; fmt.Sprint(got) != want {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestFreezeShows(t *testing.T) {
	p := newPool(configs.BalanceRoundRobin, 1, "a")
	for _, tt := range []struct {
		ev   Event
		want bool
	}{{Freeze{}, true}, {Freeze{}, true}, {Thaw{}, false}, {Thaw{}, false}} {
		if err := p.Step(tt.ev); err != nil || p.Frozen() != tt.want || len(p.Take()) != 0 {
			t.Errorf("%T: %v, frozen %v", tt.ev, err, p.Frozen())
		}
	}
}

// TestPure: the core imports nothing that could do input or output.
func TestPure(t *testing.T) {
	allowed := []string{"cmp", "errors", "fmt", "maps", "net/netip", "slices", "strings", "sttcp/configs"}
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		src, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, imp := range src.Imports {
			if !slices.Contains(allowed, strings.Trim(imp.Path.Value, `"`)) {
				t.Errorf("%s imports %s", f, imp.Path.Value)
			}
		}
	}
}

func BenchmarkPick(b *testing.B) {
	p := newPool(configs.BalanceSource, 2, "a", "b", "c", "d")
	for i := range b.N {
		p.Pick(ConnID(i), client(i))
		if err := p.Step(ConnClosed{ConnID(i)}); err != nil {
			b.Fatal(err)
		}
	}
}
