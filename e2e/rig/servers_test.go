package rig_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"sttcp/e2e/rig"
	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

// TestNginx wants two servers whose answers agree but for the date, by both
// families, on connections that live on; and none left after a kill.
func TestNginx(t *testing.T) {
	ctx, l := newLab(t, "client", "s1", "s2")
	site := must(rig.NewSite(l, rig.Files{
		"big.bin": {Seed: 1, Size: 20 << 20}, "sub/small": {Seed: 2, Size: 10}}))(t)
	var tags []string
	for _, host := range []string{"s1", "s2"} {
		n := must(rig.StartNginx(ctx, l, host, rig.Nginx{Site: site, Extra: "add_header X-Extra yes;"}))(t)
		for _, addr := range []string{n.Addr4(), n.Addr6()} {
			c := dial(ctx, t, l, "client", addr)
			small := must(c.Get("/sub/small"))(t)
			if small.Status != 200 || len(small.Body) != 10 || small.Header.Get("X-Extra") != "yes" {
				t.Errorf("small file of %s: %+v", addr, small)
			}
			tags = append(tags, small.Header.Get("ETag")+small.Header.Get("Last-Modified"))
			d := must(c.Download("/big.bin", site.Content("/big.bin")))(t)
			if r, err := d.Wait(ctx); err != nil {
				t.Errorf("download from %s: %v (%+v)", addr, err, r)
			}
			if must(c.Get("/none"))(t).Status != 404 {
				t.Error("there is a file that is not in the site")
			}
		}
		if err := n.KillGroup9(); err != nil {
			t.Fatal(err)
		}
		if c, err := rig.Dial(ctx, l, "client", n.Addr4()); err == nil {
			c.Close()
			t.Errorf("%v still serves", n)
		}
		n = must(n.Restart(ctx))(t)
		if got := must(dial(ctx, t, l, "client", n.Addr4()).Get("/sub/small"))(t); got.Status != 200 {
			t.Errorf("%v after its restart: %+v", n, got)
		}
	}
	for _, tag := range tags[1:] {
		if tag != tags[0] || tag == "" {
			t.Errorf("ETag and Last-Modified differ: %q", tags)
		}
	}
}

// TestNginxPace wants a limited download to come evenly, as the demo needs it:
// nothing arrives early, and in no pieces that take a tenth of the whole.
func TestNginxPace(t *testing.T) {
	ctx, l := newLab(t, "client", "s1")
	what := content.Content{Seed: 1, Size: 4 << 20}
	site := must(rig.NewSite(l, rig.Files{"file": what}))(t)
	n := must(rig.StartNginx(ctx, l, "s1", rig.Nginx{Site: site, Extra: "limit_rate 4m; sendfile_max_chunk 32k;"}))(t)
	c := dial(ctx, t, l, "client", n.Addr4())
	r := must(must(c.Download("/file", what))(t).Wait(ctx))(t)
	if r.Took < 900*time.Millisecond {
		t.Errorf("4 MiB at 4 MiB/s took %v", r.Took)
	}
}

func TestRedis(t *testing.T) {
	ctx, l := newLab(t, "client", "s1")
	s := must(rig.StartRedis(ctx, l, "s1", 0))(t)
	for i, addr := range []string{s.Addr4(), s.Addr6()} {
		c := dial(ctx, t, l, "client", addr)
		var batch []byte
		for n := range 100 {
			batch = rig.AppendRedis(batch, "SET", fmt.Sprintf("key-%d-%d", i, n), strings.Repeat("v", n))
		}
		must(c.Write(batch))(t)
		for range 100 {
			if got := must(c.ReadReply())(t); got != "OK" {
				t.Fatalf("SET is answered with %q", got)
			}
		}
		if got := must(c.Redis("GET", fmt.Sprintf("key-%d-7", i)))(t); got != "vvvvvvv" {
			t.Errorf("GET is answered with %q", got)
		}
		if got := must(c.Redis("GET", "none"))(t); got != "" {
			t.Errorf("GET of nothing is answered with %q", got)
		}
		if got := must(c.Redis("DBSIZE"))(t); got != fmt.Sprint(100*(i+1)) {
			t.Errorf("DBSIZE is %q", got)
		}
		if _, err := c.Redis("NONSENSE"); !errors.Is(err, rig.ErrRedis) {
			t.Errorf("NONSENSE is answered with %v", err)
		}
		if _, err := c.Redis("KEYS", "*"); err == nil {
			t.Error("an array was understood")
		}
	}
}

func TestTestServers(t *testing.T) {
	ctx, l := newLab(t, "client", "s1", "s2")
	for _, host := range []string{"s1", "s2"} {
		s := must(rig.StartTestServer(ctx, l, host, testsrv.Spec{Proto: testsrv.Who, Port: 7000}))(t)
		for _, addr := range []string{s.Addr4(), s.Addr6()} {
			if got := must(dial(ctx, t, l, "client", addr).Ask("hello"))(t); got != host+" hello" {
				t.Errorf("%s answers %q", addr, got)
			}
		}
	}
	s := must(rig.StartTestServer(ctx, l, "s1", testsrv.Spec{Proto: testsrv.Paced, Port: 7001}))(t)
	c, what := dial(ctx, t, l, "client", s.Addr6()), content.Content{Seed: 4, Size: 1 << 20}
	d := must(c.Paced(what, 200*time.Millisecond))(t)
	if r, err := d.Wait(ctx); err != nil || r.Took < 200*time.Millisecond {
		t.Errorf("paced: %+v, %v", r, err)
	}
}

func TestStartErrors(t *testing.T) {
	ctx, l := newLab(t, "client", "s1")
	first := must(rig.StartRedis(ctx, l, "s1", 7000))(t)
	for what, f := range map[string]func() (*rig.Server, error){
		"host":     func() (*rig.Server, error) { return rig.StartRedis(ctx, l, "s9", 0) },
		"protocol": func() (*rig.Server, error) { return rig.StartTestServer(ctx, l, "s1", testsrv.Spec{Port: 1}) },
		"nginx": func() (*rig.Server, error) {
			return rig.StartNginx(ctx, l, "s1", rig.Nginx{Site: &rig.Site{}, Extra: "nonsense"})
		},
	} {
		start := time.Now()
		if s, err := f(); err == nil {
			t.Errorf("%s: started %v", what, s)
		} else if time.Since(start) > 9*time.Second {
			t.Errorf("%s: waited for its time-out: %v", what, err)
		}
	}
	if !first.Running() {
		t.Error("the first server has ended")
	}
}

func TestRouteThrough(t *testing.T) {
	ctx, l := newLab(t, "rc", "router", "g1", "s1", "s2")
	hop := func(host, dst string) string {
		return must(l.Host(host).Run(ctx, "ip", "route", "get", dst))(t)
	}
	if err := rig.RouteThrough(l, "g1", rig.Clients, "s1"); err != nil {
		t.Fatal(err)
	}
	for dst, via := range map[string]string{"10.8.0.10": "via 10.9.0.1 ", "fd08::10": "via fd09::1 "} {
		if got := hop("s1", dst); !strings.Contains(got, via) {
			t.Errorf("s1 reaches %s by %q", dst, got)
		}
		if got := hop("s2", dst); strings.Contains(got, via) {
			t.Errorf("s2 reaches %s by %q", dst, got)
		}
	}
	if err := rig.RouteThrough(l, "g1", rig.HostAddrs(l.Host("s2")), "s1"); err != nil {
		t.Fatal(err)
	}
	if got := hop("s1", "10.9.0.12"); !strings.Contains(got, "via 10.9.0.1 ") {
		t.Errorf("s1 reaches s2 by %q", got)
	}
	if rig.RouteThrough(l, "g1", rig.Clients, "s9") == nil || rig.RouteThrough(l, "g9", nil) == nil {
		t.Error("routed through or from a host that is not there")
	}
}
