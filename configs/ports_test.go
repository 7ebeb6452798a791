package configs

import (
	"fmt"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// site is a service of the model: where it listens and on what.
type site struct {
	vip    int    // which virtual IP it belongs to
	listen string // "vip" or an address
	ports  []PortRange
}

// TestOverlapsLikeTheModel compares the sweep over sorted ranges with one bit
// for every port of every address.
func TestOverlapsLikeTheModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sites := rapid.SliceOfN(rapid.Custom(drawSite), 1, 6).Draw(t, "sites")
		_, err := Parse("f.yaml", []byte(render(sites)), Env{})
		want := collides(sites)
		if got := err != nil; got != want {
			t.Fatalf("collision %v, want %v: %v\n%s", got, want, err, render(sites))
		}
		if err != nil && strings.Count(err.Error(), "\n")+1 != strings.Count(err.Error(), " overlaps ") {
			t.Fatalf("want only overlaps:\n%v", err)
		}
	})
}

func drawSite(t *rapid.T) site {
	s := site{
		vip:    rapid.IntRange(0, 1).Draw(t, "vip"),
		listen: rapid.SampledFrom([]string{"vip", "vip", "10.8.0.1", "10.8.0.2"}).Draw(t, "listen"),
	}
	for range rapid.IntRange(1, 4).Draw(t, "n") {
		first := rapid.Uint16Range(1, 60).Draw(t, "first")
		s.ports = append(s.ports, PortRange{first, first + rapid.Uint16Range(0, 8).Draw(t, "more")})
	}
	return s
}

// collides counts who claims each port of each address. Each virtual IP has
// two addresses, which must make no difference.
func collides(sites []site) bool {
	claimed := map[string]bool{}
	for _, s := range sites {
		where := s.listen
		if where == "vip" {
			where = fmt.Sprint("vip", s.vip)
		}
		for _, r := range s.ports {
			for p := r.First; p <= r.Last; p++ {
				k := fmt.Sprint(where, " ", p)
				if claimed[k] {
					return true
				}
				claimed[k] = true
			}
		}
	}
	return false
}

// render writes a file with two virtual IPs, or those of them that have a
// service.
func render(sites []site) string {
	var b strings.Builder
	b.WriteString("node: {name: g1}\nvirtual_ips:\n")
	for vip := range 2 {
		var services strings.Builder
		for i, s := range sites {
			if s.vip == vip {
				ports := strings.ReplaceAll(strings.Trim(fmt.Sprint(s.ports), "[]"), " ", ", ")
				fmt.Fprintf(&services, "      - {name: s%d, listen: %s, ports: [%s], %s}\n", i, s.listen, ports, two)
			}
		}
		if services.Len() > 0 {
			fmt.Fprintf(&b, "  - name: v%[1]d\n    addresses: [{address: 10.9.%[1]d.100/24, interface: a}, "+
				"{address: 10.9.%[1]d.101, interface: a}]\n    services:\n%[2]s", vip, services.String())
		}
	}
	return b.String()
}
