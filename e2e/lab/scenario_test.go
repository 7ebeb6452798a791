package lab_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/e2e/lab"
	"sttcp/e2e/lab/labtest"
)

// startNginx starts a real nginx with two workers that says hello.
func startNginx(t *testing.T, h *lab.Host) *lab.Process {
	t.Helper()
	if _, err := exec.LookPath("nginx"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "nginx.conf")
	check(t, os.WriteFile(conf, fmt.Appendf(nil, `
		daemon off; worker_processes 2; pid %[1]s/pid; error_log stderr;
		events {}
		http { access_log off; client_body_temp_path %[1]s/b; proxy_temp_path %[1]s/p; fastcgi_temp_path %[1]s/f;
			uwsgi_temp_path %[1]s/u; scgi_temp_path %[1]s/s;
			server { listen 80; listen [::]:80; location / { return 200 hello; } } }`, dir), 0o644))
	p := labtest.Start(t, h, lab.Cmd{Path: "nginx", Args: []string{"-e", "stderr", "-c", conf}})
	check(t, h.WaitListen(within(t, 20*time.Second), netip.AddrPortFrom(h.Addr4(), 80).String()))
	check(t, h.WaitListen(within(t, 20*time.Second), netip.AddrPortFrom(h.Addr6(), 80).String()))
	return p
}

// get fetches a page from the host on a connection of its own.
func get(t *testing.T, from *lab.Host, url string) (string, error) {
	t.Helper()
	client := http.Client{Timeout: 10 * time.Second,
		Transport: &http.Transport{DialContext: from.DialContext, DisableKeepAlives: true}}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// A real server with workers: killing the master alone leaves a service that
// answers, killing the group leaves none.
func TestNginx(t *testing.T) {
	l := newLab(t, "client", "s1")
	client, s1 := l.Host("client"), l.Host("s1")
	p := startNginx(t, s1)
	for _, url := range []string{"http://10.9.0.11/", "http://[fd09::11]/"} {
		if body, err := get(t, client, url); body != "hello" || err != nil {
			t.Fatalf("%s: %q, %v; log: %s", url, body, err, p.Log())
		}
	}
	check(t, p.Kill9())
	if body, err := get(t, client, "http://10.9.0.11/"); body != "hello" {
		t.Errorf("the workers are gone with the master: %v", err)
	}
	check(t, p.KillGroup9())
	if _, err := get(t, client, "http://10.9.0.11/"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("somebody still answers: %v", err)
	}
	check(t, p.KillGroup9()) // nobody is left, which is no error
}

// A stopped server's kernel still accepts, its program does not answer until
// it goes on.
func TestStoppedServer(t *testing.T) {
	l := newLab(t, "client", "s1")
	p := startNginx(t, l.Host("s1"))
	check(t, p.Stop())
	c := dial(t, l.Host("client"), netip.MustParseAddrPort("10.9.0.11:80"))
	_, err := io.WriteString(c, "GET / HTTP/1.0\r\n\r\n")
	check(t, err)
	check(t, c.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
	if n, err := c.Read(make([]byte, 1)); !timedOut(err) {
		t.Errorf("it answered: %d bytes, %v", n, err)
	}
	check(t, p.Cont())
	check(t, c.SetReadDeadline(time.Now().Add(20*time.Second)))
	if body := must[[]byte](t)(io.ReadAll(c)); !strings.HasSuffix(string(body), "hello") {
		t.Errorf("got %q", body)
	}
}

// Faults of a host with two links act on the one they are asked of.
func TestFaultsPerLink(t *testing.T) {
	l := newLab(t, "client", "rc", "router", "s1")
	serve(t, l.Host("s1"), 7, echo)
	to := netip.AddrPortFrom(l.Host("s1").Addr4(), 7)
	near, far := dial(t, l.Host("client"), to), dial(t, l.Host("rc"), to)
	router := l.Host("router")
	if len(router.Links()) != 2 || router.Links()[1].Interface() != "eth1" || router.Links()[0] != router.Link {
		t.Fatalf("links %v", router.Links())
	}
	outside := router.Links()[1]
	capture := labtest.Capture(t, outside.Capture)
	delay := labtest.Inject(t)(outside.Delay(10*time.Millisecond, 10*time.Millisecond))
	start := time.Now()
	check(t, roundTrip(far, "delayed"))
	if took := time.Since(start); took < 20*time.Millisecond {
		t.Errorf("there and back in %v", took)
	}
	for _, inject := range []func() (*lab.Fault, error){outside.Isolate, outside.LinkDown} {
		f := labtest.Inject(t)(inject())
		check(t, roundTrip(near, "not touched"))
		silent(t, far)
		labtest.Undo(t, f)
		answers(t, far)
	}
	labtest.Undo(t, delay)
	seen := must[[]lab.Segment](t)(capture.Flow(lab.FromTo(l.Host("rc").Addr4(), to)))
	other := must[[]lab.Segment](t)(capture.Flow(lab.FromTo(l.Host("client").Addr4(), to)))
	if len(seen) == 0 || len(other) != 0 {
		t.Errorf("on the outside: %d segments of rc, %d of client", len(seen), len(other))
	}
}

// A capture goes on after its link was down.
func TestCaptureSurvivesLinkDown(t *testing.T) {
	l := newLab(t, "client", "s1")
	s1 := l.Host("s1")
	serve(t, s1, 7, echo)
	captures := []*lab.Capture{labtest.Capture(t, s1.Capture), labtest.Capture(t, s1.CapturePort)}
	for _, inject := range []func() (*lab.Fault, error){s1.LinkDown, s1.NICDown} {
		labtest.Undo(t, labtest.Inject(t)(inject()))
		for _, c := range captures {
			c.Reset()
		}
		check(t, roundTrip(dial(t, l.Host("client"), netip.AddrPortFrom(s1.Addr4(), 7)), "hello"))
		for _, c := range captures {
			segs := must[[]lab.Segment](t)(c.Segments(lab.Tuple{Src: netip.AddrPortFrom(s1.Addr4(), 7)}))
			if payload(segs) != 5 {
				t.Errorf("%v: %v", c, segs)
			}
		}
	}
}

// Many labs at a time, made and closed by many goroutines, with the same
// addresses: none sees another's hosts.
func TestLabsInParallel(t *testing.T) {
	labtest.NeedRoot(t)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			if err := oneOfMany(i); err != nil {
				t.Errorf("lab %d: %v", i, err)
			}
		})
	}
	wg.Wait()
}

// oneOfMany makes a lab whose server says the lab's number.
func oneOfMany(i int) error {
	l, err := lab.New(lab.Options{Name: "many", Hosts: lab.Standard("client", "s1")})
	if err != nil {
		return err
	}
	defer l.Close()
	ln, err := l.Host("s1").Listen("tcp", ":80")
	if err != nil {
		return err
	}
	defer ln.Close()
	go func() {
		if c, err := ln.Accept(); err == nil {
			fmt.Fprint(c, i)
			c.Close()
		}
	}()
	c, err := l.Host("client").Dial("tcp", "10.9.0.11:80")
	if err != nil {
		return err
	}
	defer c.Close()
	if said, err := io.ReadAll(c); err != nil || string(said) != fmt.Sprint(i) {
		return fmt.Errorf("the server says %q, %w", said, err)
	}
	return l.Close()
}

// Several processes make labs at the same time: nobody sweeps what another is
// just making.
func TestMakersInParallel(t *testing.T) {
	type made struct {
		cmd  *exec.Cmd
		id   string
		dir  string
		pids []int
	}
	all := make(chan made, 4)
	for range cap(all) {
		go func() {
			var m made
			defer func() { all <- m }()
			m.cmd, m.id, m.dir, m.pids = startMaker(t, "wait")
		}()
	}
	for range cap(all) {
		m := <-all
		if m.id == "" {
			t.Fatal("a maker did not start")
		}
		if n := len(namespacesOf(t, m.id)); n != 3 || !isAlive(m.pids[0]) {
			t.Errorf("%s has %d namespaces", m.id, n)
		}
		defer func() {
			check(t, m.cmd.Process.Signal(unix.SIGTERM))
			_ = m.cmd.Wait() // died of the signal
			check(t, leftovers(t, m.id, m.dir, m.pids...))
		}()
	}
}

// A connection through the router is lost with the router and with nothing
// less; loss in one direction of it is loss for both.
func TestRoutedFaults(t *testing.T) {
	l := newLab(t, "rc", "router", "s1", "s2")
	serve(t, l.Host("s1"), 7, echo)
	both(t, func(t *testing.T, addr func(*lab.Host) netip.Addr) {
		c := dial(t, l.Host("rc"), netip.AddrPortFrom(addr(l.Host("s1")), 7))
		off := labtest.Inject(t)(l.Host("s2").PowerOff())
		check(t, roundTrip(c, "s2 does not matter"))
		labtest.Undo(t, off)
		frozen := labtest.Inject(t)(l.Host("router").Freeze())
		silent(t, c)
		labtest.Undo(t, frozen)
		answers(t, c)
		lost := labtest.Inject(t)(l.Host("router").Drop(lab.Match{Dir: lab.Out, Dst: addr(l.Host("s1"))}))
		silent(t, c)
		if n := must[uint64](t)(lost.Dropped()); n == 0 {
			t.Error("nothing was dropped")
		}
		labtest.Undo(t, lost)
		answers(t, c)
	})
}

// Run and Start see the host's interfaces; the parts of a machine that are no
// network are shared.
func TestWhatAHostShares(t *testing.T) {
	l := newLab(t, "s1", "w1")
	file := filepath.Join(t.TempDir(), "shared")
	_ = must[string](t)(l.Host("s1").Run(t.Context(), "sh", "-c", "echo hi > "+file))
	if text := must[string](t)(l.Host("w1").Run(t.Context(), "cat", file)); text != "hi\n" {
		t.Errorf("read %q", text)
	}
	links := must[string](t)(l.Host("w1").Run(t.Context(), "ip", "-br", "link"))
	if strings.Contains(links, "s1") || !strings.Contains(links, "02:00:0a:09:00:03") {
		t.Errorf("w1 has %s", links)
	}
	err := l.Host("w1").Do(func() error {
		_, err := net.InterfaceByName("eth0")
		return err
	})
	check(t, err)
}
