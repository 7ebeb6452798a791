package intercept

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// patience is how long a test waits for what must come.
const patience = 10 * time.Second

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() == 0 {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatal("needs root to make network namespaces")
	}
	t.Skip("needs root to make network namespaces")
}

// host is a network namespace without a name: it ends with its last user.
type host struct{ ns netns.NsHandle }

func newHost(t *testing.T) *host {
	t.Helper()
	h := &host{}
	run(t, func() (err error) {
		h.ns, err = netns.New()
		return err
	})
	t.Cleanup(func() { h.ns.Close() })
	h.do(t, func() error {
		lo, err := netlink.LinkByName("lo")
		return errors.Join(err, netlink.LinkSetUp(lo))
	})
	return h
}

// run calls f on a thread that is thrown away afterwards.
func run(t *testing.T, f func() error) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// do calls f inside the host. Sockets that f makes stay there.
func (h *host) do(t *testing.T, f func() error) {
	t.Helper()
	run(t, func() error {
		if err := netns.Set(h.ns); err != nil {
			return err
		}
		return f()
	})
}

// output runs a program inside the host and returns what it printed.
func (h *host) output(t *testing.T, name string, args ...string) string {
	t.Helper()
	var out []byte
	h.do(t, func() (err error) {
		out, err = exec.Command(name, args...).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("%s %v: %w: %s", name, args, err, out)
		}
		return err
	})
	return string(out)
}

func (h *host) addr(t *testing.T, link string, addrs ...string) {
	t.Helper()
	h.sysctl(t, "net.ipv6.conf."+link+".accept_dad", "0")
	h.do(t, func() error {
		l, err := netlink.LinkByName(link)
		if err != nil {
			return err
		}
		for _, a := range addrs {
			parsed, err := netlink.ParseAddr(a)
			if err != nil {
				return err
			}
			if parsed.IP.To4() == nil {
				parsed.Flags = unix.IFA_F_NODAD
			}
			if err := netlink.AddrAdd(l, parsed); err != nil {
				return fmt.Errorf("add %s: %w", a, err)
			}
		}
		return netlink.LinkSetUp(l)
	})
}

func (h *host) defaultVia(t *testing.T, gateways ...string) {
	t.Helper()
	h.do(t, func() error {
		for _, g := range gateways {
			gw := netip.MustParseAddr(g)
			if err := netlink.RouteAdd(&netlink.Route{Gw: gw.AsSlice()}); err != nil {
				return fmt.Errorf("add default via %s: %w", g, err)
			}
		}
		return nil
	})
}

func (h *host) sysctl(t *testing.T, key, value string) {
	t.Helper()
	h.do(t, func() error {
		return os.WriteFile("/proc/sys/"+strings.ReplaceAll(key, ".", "/"), []byte(value), 0o644)
	})
}

// tcpCounter reads a counter of /proc/net/snmp, such as OutRsts.
func (h *host) tcpCounter(t *testing.T, name string) int {
	t.Helper()
	value := -1
	h.do(t, func() error {
		snmp, err := os.ReadFile("/proc/thread-self/net/snmp")
		var keys, values []string
		for line := range strings.Lines(string(snmp)) {
			if f := strings.Fields(line); f[0] == "Tcp:" {
				keys, values = values, f
			}
		}
		for i, k := range keys {
			if k == name {
				value, err = strconv.Atoi(values[i])
			}
		}
		return err
	})
	return value
}

// lab is client - gateway - server, the gateway being the router between them
// and the owner of the virtual IPs.
type lab struct {
	client, gateway, server *host
	listener4, listener6    uint16
}

// ends are the addresses of a lab in one IP version.
type ends struct{ client, gateway, server, vip netip.Addr }

var (
	v4 = ends{
		client: netip.MustParseAddr("10.71.1.2"), gateway: netip.MustParseAddr("10.71.1.1"),
		server: netip.MustParseAddr("10.71.2.2"), vip: netip.MustParseAddr("10.71.1.100"),
	}
	v6 = ends{
		client: netip.MustParseAddr("fd71:1::2"), gateway: netip.MustParseAddr("fd71:1::1"),
		server: netip.MustParseAddr("fd71:2::2"), vip: netip.MustParseAddr("fd71:1::100"),
	}
	versions = map[string]ends{"IPv4": v4, "IPv6": v6}
)

func newLab(t *testing.T) *lab {
	t.Helper()
	needRoot(t)
	l := &lab{client: newHost(t), gateway: newHost(t), server: newHost(t)}
	l.gateway.do(t, func() error {
		return errors.Join(veth("c0", 100, l.client), veth("s0", 101, l.server))
	})
	l.client.addr(t, "up", "10.71.1.2/24", "fd71:1::2/64")
	l.server.addr(t, "up", "10.71.2.2/24", "fd71:2::2/64")
	l.gateway.addr(t, "c0", "10.71.1.1/24", "fd71:1::1/64", "fd71:1::100/128")
	l.gateway.addr(t, "s0", "10.71.2.1/24", "fd71:2::1/64")
	l.gateway.addr(t, "lo", "10.71.1.100/32")
	l.gateway.sysctl(t, "net.ipv4.ip_forward", "1")
	l.gateway.sysctl(t, "net.ipv6.conf.all.forwarding", "1")
	l.client.defaultVia(t, "10.71.1.1", "fd71:1::1")
	l.server.defaultVia(t, "10.71.2.1", "fd71:2::1")
	return l
}

// veth joins this host with another. The index must differ from the peer's:
// the kernel takes a link with equal ones for a physical one, whose carrier it
// looks at only once a second (linkwatch_urgent_event).
func veth(name string, index int, peer *host) error {
	return netlink.LinkAdd(&netlink.Veth{
		LinkAttrs: netlink.LinkAttrs{Name: name, Index: index}, PeerName: "up", PeerNamespace: netlink.NsFd(peer.ns),
	})
}

// listen starts the listeners of both IP versions on the gateway, which greet
// and echo. The returned function stops them.
func (l *lab) listen(t *testing.T) (stop func()) {
	t.Helper()
	var listeners []net.Listener
	l.gateway.do(t, func() error {
		for family, port := range map[int]*uint16{unix.AF_INET: &l.listener4, unix.AF_INET6: &l.listener6} {
			fd, p, err := Listen(family, 64)
			if err != nil {
				return err
			}
			f := os.NewFile(uintptr(fd), "listener")
			ln, err := net.FileListener(f)
			if err := errors.Join(err, f.Close()); err != nil {
				return err
			}
			*port, listeners = p, append(listeners, ln)
			go serve(ln)
		}
		return nil
	})
	stop = func() {
		for _, ln := range listeners {
			ln.Close()
		}
	}
	t.Cleanup(stop)
	return stop
}

// serve tells each client which addresses the accepted socket has, then
// echoes until it is told goodbye.
func serve(ln net.Listener) {
	for {
		c, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			fmt.Fprintf(c, "%s %s\n", c.LocalAddr(), c.RemoteAddr())
			b := make([]byte, 1<<16)
			for {
				n, err := c.Read(b)
				if err != nil || string(b[:n]) == "bye" {
					return
				}
				if _, err := c.Write(b[:n]); err != nil {
					return
				}
			}
		}()
	}
}

// serveOn starts an ordinary server that greets and echoes like the gateway.
func (h *host) serveOn(t *testing.T, at netip.AddrPort) {
	t.Helper()
	h.do(t, func() error {
		ln, err := net.Listen("tcp", at.String())
		if err == nil {
			t.Cleanup(func() { ln.Close() })
			go serve(ln)
		}
		return err
	})
}

// spec is one service on the given addresses.
func (l *lab) spec(ports []PortRange, dest ...netip.Addr) Spec {
	return Spec{Services: []Service{{
		Name: "web", Dest: dest, Ports: ports, Listener4: l.listener4, Listener6: l.listener6,
		Servers: []Server{{v4.server, []PortRange{{80, 80}}}, {v6.server, []PortRange{{80, 80}}}},
	}}}
}

func (l *lab) apply(t *testing.T, i *Interceptor, s Spec) (changed bool) {
	t.Helper()
	l.gateway.do(t, func() (err error) {
		changed, err = i.Apply(s)
		return err
	})
	return changed
}

func (l *lab) drops(t *testing.T) (drops map[string]uint64) {
	t.Helper()
	l.gateway.do(t, func() (err error) {
		drops, err = Drops()
		return err
	})
	return drops
}

// dial connects from a host, from a given address and port if it is valid.
func (h *host) dial(t *testing.T, from, to netip.AddrPort) (c net.Conn, err error) {
	t.Helper()
	d := net.Dialer{Timeout: patience}
	if from.IsValid() {
		d.LocalAddr = net.TCPAddrFromAddrPort(from)
		d.Control = func(_, _ string, raw syscall.RawConn) error {
			return raw.Control(func(fd uintptr) {
				_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			})
		}
	}
	h.do(t, func() error {
		c, err = d.Dial("tcp", to.String())
		return nil
	})
	if err == nil {
		t.Cleanup(func() { c.Close() })
		err = c.SetDeadline(time.Now().Add(patience))
	}
	return c, err
}

func (h *host) mustDial(t *testing.T, to netip.AddrPort) net.Conn {
	t.Helper()
	c, err := h.dial(t, netip.AddrPort{}, to)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// greeting reads what serve says of the accepted socket.
func greeting(t *testing.T, c net.Conn) (local, remote string) {
	t.Helper()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		t.Fatalf("read greeting: %v", err)
	}
	local, remote, _ = strings.Cut(strings.TrimSpace(line), " ")
	return local, remote
}

// echo sends a few bytes and expects them back.
func echo(t *testing.T, c net.Conn) {
	t.Helper()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatalf("write: %v", err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("echo: got %q, %v", b, err)
	}
}

// eventually polls a condition.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s", patience, what)
		}
		runtime.Gosched()
	}
}
