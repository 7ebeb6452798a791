package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"sttcp/cmd/admin"
)

// asMain makes this test binary the program.
const asMain = "STTCP_TEST_AS_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asMain) != "" {
		main()
	}
	os.Exit(m.Run())
}

const config = `
node: {name: g1, run_dir: %[1]s/run, state_dir: %[1]s/state}
drain: 200ms
virtual_ips:
  - name: front
    addresses: [{address: 10.9.0.100/24, interface: lo}, {address: "fd09::100", interface: lo}]
    services:
      - {name: echo, ports: [7000], servers: [{name: s1, address: 10.9.0.11}, {name: s2, address: 10.9.0.12}]}
`

// host is a network namespace with two echo servers and a node's files.
type host struct {
	t      *testing.T
	config string
	socket string
}

// newHost puts the test's goroutine into a network namespace of its own, which
// goes with the thread when the test ends.
func newHost(t *testing.T) *host {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("network namespaces need root")
		}
		t.Skip("network namespaces need root")
	}
	runtime.LockOSThread()
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ns.Close() })
	dir := t.TempDir()
	h := &host{t: t, config: filepath.Join(dir, "sttcp.yaml"), socket: filepath.Join(dir, "run", "admin.sock")}
	h.must(os.WriteFile(h.config, fmt.Appendf(nil, config, dir), 0o600))
	lo, err := netlink.LinkByName("lo")
	h.must(err)
	h.must(netlink.LinkSetUp(lo))
	for _, a := range []string{"10.9.0.11", "10.9.0.12"} {
		addr, err := netlink.ParseAddr(a + "/32")
		h.must(err)
		h.must(netlink.AddrAdd(lo, addr))
		h.echo(net.JoinHostPort(a, "7000"))
	}
	return h
}

func (h *host) must(err error) {
	h.t.Helper()
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) echo(addr string) {
	ln, err := net.Listen("tcp", addr)
	h.must(err)
	h.t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
}

// sttcp prepares the program with arguments.
func (h *host) sttcp(args ...string) *exec.Cmd {
	exe, err := os.Executable()
	h.must(err)
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), asMain+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// node is a running `sttcp run`.
type node struct {
	*exec.Cmd
	log *lockedBuffer
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// run starts the node and waits for the word on --ready-fd.
func (h *host) run() *node {
	h.t.Helper()
	r, w, err := os.Pipe()
	h.must(err)
	defer r.Close()
	n := &node{h.sttcp("run", "-c", h.config, "--ready-fd", "3"), &lockedBuffer{}}
	n.ExtraFiles, n.Stderr = []*os.File{w}, n.log
	h.must(errors.Join(n.Start(), w.Close()))
	h.t.Cleanup(func() { _ = n.Process.Kill() })
	if word, err := io.ReadAll(r); err != nil || string(word) != "ready\n" {
		_ = n.Wait()
		h.t.Fatalf("--ready-fd got %q, %v; the log:\n%s", word, err, n.log)
	}
	return n
}

// left describes what a node may leave on a host: addresses, rules, tables.
func (h *host) left() []string {
	h.t.Helper()
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_ALL)
	h.must(err)
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	h.must(err)
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	h.must(err)
	var c nftables.Conn
	tables, err := c.ListTables()
	h.must(err)
	var out []string
	for _, a := range addrs {
		out = append(out, "address "+a.IPNet.String())
	}
	for _, r := range rules {
		out = append(out, "rule "+r.String())
	}
	for _, r := range routes {
		out = append(out, "route "+r.String())
	}
	for _, t := range tables {
		out = append(out, "table "+t.Name)
	}
	slices.Sort(out)
	return out
}

func (h *host) expectLeft(want []string) {
	h.t.Helper()
	if got := h.left(); !slices.Equal(got, want) {
		h.t.Errorf("there is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// talk sends a line through the virtual IP and reads it back.
func (h *host) talk(c net.Conn) {
	h.t.Helper()
	const line = "hello, both of you\n"
	h.must(c.SetDeadline(time.Now().Add(10 * time.Second)))
	_, err := io.WriteString(c, line)
	h.must(err)
	got := make([]byte, len(line))
	if _, err := io.ReadFull(c, got); err != nil || string(got) != line {
		h.t.Fatalf("read back %q, %v", got, err)
	}
}

func (h *host) dial() net.Conn {
	h.t.Helper()
	c, err := net.DialTimeout("tcp", "10.9.0.100:7000", 10*time.Second)
	h.must(err)
	h.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (h *host) status() (st admin.Status) {
	h.t.Helper()
	out, err := h.sttcp("status", "--json", "-c", h.config).Output()
	h.must(err)
	h.must(json.Unmarshal(out, &st))
	return st
}

func TestRunAndStop(t *testing.T) {
	h := newHost(t)
	before := h.left()
	n := h.run()
	if during := h.left(); !slices.Contains(during, "table sttcp") || !slices.Contains(during, "address 10.9.0.100/32") || !slices.Contains(during, "address fd09::100/128") {
		t.Errorf("while it runs there is only %v", during)
	}
	h.talk(h.dial())
	st := h.status()
	if len(st.Services) != 1 || st.Services[0].Connections != 1 || st.Services[0].TwoLegs != 1 {
		t.Errorf("services: %+v", st.Services)
	}
	if len(st.Servers) != 2 || st.Servers[0].State != "up" || st.PID != n.Process.Pid {
		t.Errorf("status: %+v", st)
	}
	out, err := h.sttcp("run", "-c", h.config).CombinedOutput()
	if want := fmt.Sprintf("held by process %d", n.Process.Pid); err == nil || !strings.Contains(string(out), want) {
		t.Errorf("a second node: %v, %s", err, out)
	}
	h.must(n.Process.Signal(syscall.SIGTERM))
	if err := n.Wait(); err != nil {
		t.Errorf("the node ended with %v; its log:\n%s", err, n.log)
	}
	if !strings.Contains(n.log.String(), "msg=stopped connections_cut=1") {
		t.Errorf("it is not said that the connection was cut:\n%s", n.log)
	}
	h.expectLeft(before)
	if _, err := os.Lstat(h.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// What a killed node leaves keeps the kernel from resetting its clients; the
// next one takes it over, and leaves nothing.
func TestRunAfterKill(t *testing.T) {
	h := newHost(t)
	before := h.left()
	n := h.run()
	during := h.left()
	h.must(n.Process.Kill())
	_ = n.Wait()
	h.expectLeft(during)
	n = h.run()
	h.expectLeft(during)
	h.talk(h.dial())
	h.must(n.Process.Signal(syscall.SIGINT))
	if err := n.Wait(); err != nil {
		t.Errorf("the node ended with %v; its log:\n%s", err, n.log)
	}
	h.expectLeft(before)
}

func TestWatchOfARealNode(t *testing.T) {
	h := newHost(t)
	n := h.run()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	w := h.sttcp("servers", "--watch", "--json", "--socket", h.socket)
	out, err := w.StdoutPipe()
	h.must(err)
	h.must(w.Start())
	stop := context.AfterFunc(ctx, func() { _ = w.Process.Kill() })
	defer stop()
	pages := json.NewDecoder(out)
	for range 2 {
		var s admin.Servers
		if err := pages.Decode(&s); err != nil || len(s.Servers) != 2 {
			t.Fatalf("page %+v, %v", s, err)
		}
	}
	h.must(w.Process.Signal(syscall.SIGINT))
	if err := w.Wait(); err != nil {
		t.Errorf("the watch ended with %v", err)
	}
	h.must(n.Process.Signal(syscall.SIGTERM))
	h.must(n.Wait())
}
