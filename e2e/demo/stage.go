package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

const (
	service = "web"
	file    = "/stream.bin"
	small   = "/small.bin"
)

// vip is where the clients connect to.
var vip = netip.AddrPortFrom(lab.VIP4, 80)

// stage is a lab in which a client, a gateway and two servers are up.
type stage struct {
	lab     *lab.Lab
	kind    string // of the servers, for the drawing
	servers map[string]*rig.Server
	gateway *rig.Gateway
	wire    *lab.Capture // at the client
	want    content.Content
}

// newStage builds a lab. Its maker closes it.
func newStage(ctx context.Context, binary string, s script) (st *stage, err error) {
	l, err := lab.New(lab.Options{Name: "demo", Hosts: lab.Standard("client", "g1", "s1", "s2"), NoSignals: true})
	if err != nil {
		return nil, err
	}
	st = &stage{lab: l, servers: map[string]*rig.Server{}}
	built := false
	defer func() { // also after a panic
		if !built {
			err = errors.Join(err, l.Close())
		}
	}()
	if err = st.fill(ctx, binary, s); err != nil {
		return nil, fmt.Errorf("build the demo's hosts: %w", err)
	}
	if s.built != nil {
		s.built(st)
	}
	built = true
	return st, nil
}

// fill starts everything.
func (st *stage) fill(ctx context.Context, binary string, s script) error {
	site, err := rig.NewSite(st.lab, rig.Files{file[1:]: {Seed: 1, Size: s.size}, small[1:]: {Seed: 2, Size: 100}})
	if err != nil {
		return err
	}
	st.want = site.Content(file)
	for _, host := range []string{"s1", "s2"} {
		if err := st.startServer(ctx, host, site, s); err != nil {
			return err
		}
	}
	if st.wire, err = st.lab.Host("client").Capture(); err != nil {
		return err
	}
	st.gateway, err = rig.StartGateway(ctx, st.lab, binary, rig.Config{Services: []rig.Service{
		// Files: a server that was away has missed nothing. The one line in
		// which two web servers differ is the date.
		{Name: service, Ports: "80", Extra: `stateful: false
rejoin: auto
compare: {mode: exact, mask: ['(?m)^Date: [^\r\n]*']}`}}})
	return err
}

// startServer starts nginx, or a small server of our own where there is none.
func (st *stage) startServer(ctx context.Context, host string, site *rig.Site, s script) (err error) {
	st.kind = "nginx"
	var srv *rig.Server
	err = rig.ErrNotInstalled
	if !s.noNginx {
		// Small pieces, or it would send a second's worth at a time.
		srv, err = rig.StartNginx(ctx, st.lab, host, rig.Nginx{Site: site,
			Extra: fmt.Sprintf("limit_rate %d; sendfile_max_chunk 64k;", s.rate)})
	}
	if errors.Is(err, rig.ErrNotInstalled) {
		st.kind = "web server"
		srv, err = rig.StartTestServer(ctx, st.lab, host,
			testsrv.Spec{Proto: testsrv.HTTP, Port: 80, Root: site.Dir, Rate: s.rate}, "demo")
	}
	st.servers[host] = srv
	return err
}

// drawing shows the hosts.
func drawing(kind string) string {
	text := fmt.Sprintf(`A client downloads through an ST-TCP gateway from two unmodified servers.

    client ---------- gateway g1 ------+------ s1  %[1]s
    %-9[2]v         %[3]v    |       %[4]v
                      (virtual IP)     |
                                       +------ s2  %[1]s
                                               %[5]v`,
		kind, lab.LAN4(10), vip, lab.LAN4(11), lab.LAN4(12))
	if kind != "nginx" {
		text += "\n\n(There is no nginx on this machine: the servers are small ones of our own.)"
	}
	return text
}

// guide says how to play with a stage that is kept.
func (st *stage) guide(binary string) string {
	var b strings.Builder
	in := func(host string) string { return "ip netns exec " + st.lab.Host(host).Namespace() }
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("\nAll hosts are up again, for you. As root, in other terminals:\n")
	say("  # download, and see where it comes from")
	say("  %s curl -o /dev/null http://%v%s", in("client"), vip.Addr(), file)
	say("  %s servers --watch --socket %s\n", binary, st.gateway.Socket)
	for _, host := range []string{"s1", "s2"} {
		s := st.servers[host]
		say("  # kill %s, start it again", host)
		say("  kill -9 -- -%d", s.PID)
		if st.kind == "nginx" {
			say("  %s %s %s &", in(host), s.Cmd.Path, strings.Join(s.Cmd.Args, " "))
		}
		say("  # or take its link down, and up")
		say("  %s ip link set eth0 down\n", in(host))
	}
	say("  # the gateway's log, its configuration and its admin socket")
	say("  tail -f %s", st.gateway.LogPath())
	say("  cat %s", st.gateway.File)
	say("  curl --unix-socket %s http://sttcp/v1/status\n", st.gateway.Socket)
	say("Ctrl-C removes everything.")
	return b.String()
}
