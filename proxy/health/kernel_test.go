package health

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// inNamespace runs the test in a network namespace of its own, with lo up. Its
// thread is thrown away afterwards, and the namespace with it; sockets made by
// this goroutine, whose network is non-blocking, belong there.
func inNamespace(t *testing.T, test func(t *testing.T)) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root to make a network namespace")
		}
		t.Skip("needs root to make a network namespace")
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread() // and never unlock
		ns, err := netns.New()
		if err != nil {
			t.Errorf("make namespace: %v", err)
			return
		}
		defer ns.Close()
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Errorf("set up lo: %v", err)
			return
		}
		test(t)
	}()
	<-ended
}

// TestBlackhole: a machine that is gone. The packets end at a veth whose other
// end does not have the address they are for.
func TestBlackhole(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		gone := netip.MustParseAddrPort("192.0.2.2:80")
		if err := addBlackhole(gone.Addr()); err != nil {
			t.Error(err)
			return
		}
		err := check(Config{Timeout: 100 * ms}, gone)
		if err == nil || !strings.Contains(err.Error(), "i/o timeout") || blameFor(err) != unclear {
			t.Errorf("got %v", err)
		}
	})
}

func addBlackhole(gone netip.Addr) error {
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("add veth: %w", err)
	}
	for _, name := range []string{"a", "b"} {
		l, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(l); err != nil {
			return err
		}
	}
	addr, err := netlink.ParseAddr("192.0.2.1/24")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(veth, addr); err != nil {
		return err
	}
	return netlink.NeighAdd(&netlink.Neigh{LinkIndex: veth.Attrs().Index, State: netlink.NUD_PERMANENT,
		IP: gone.AsSlice(), HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, 9}})
}

// TestLeavesNothing: the server's program sees nothing of checks that only
// connect, no TIME_WAIT stays here, and nothing at all with the server.
func TestLeavesNothing(t *testing.T) {
	inNamespace(t, func(t *testing.T) {
		fd, addr, err := listenRaw()
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		seen := 0
		for range 20 {
			if err := check(Config{Timeout: patient}, addr); err != nil {
				t.Error(err)
			}
			if c, _, err := unix.Accept4(fd, unix.SOCK_NONBLOCK); err == nil {
				seen++
				unix.Close(c)
			}
		}
		// The delayed ACK goes out after 200 ms if this process does not get to
		// run meanwhile: then the server does see a connection, and a reset.
		if seen > 10 {
			t.Errorf("the server saw %d of 20 checks", seen)
		}
		left, err := connections(addr.Port())
		if err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}

// listenRaw listens without Go's poller, which belongs to no namespace but
// whose goroutines do not stay on this thread.
func listenRaw() (int, netip.AddrPort, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, netip.AddrPort{}, err
	}
	addr := netip.MustParseAddrPort("127.0.0.1:8080")
	if err = unix.Bind(fd, &unix.SockaddrInet4{Addr: addr.Addr().As4(), Port: int(addr.Port())}); err == nil {
		err = unix.Listen(fd, 64)
	}
	return fd, addr, err
}

// connections lists the sockets, also those in TIME_WAIT, of this thread's
// namespace with that port, but for listeners.
func connections(port uint16) ([]string, error) {
	text, err := os.ReadFile("/proc/thread-self/net/tcp")
	var out []string
	for line := range strings.Lines(string(text)) {
		f := strings.Fields(line)
		if strings.Contains(line, fmt.Sprintf(":%04X ", port)) && f[3] != "0A" {
			out = append(out, strings.TrimSpace(line))
		}
	}
	return out, err
}

// TestDownAndUp: a whole checker against a server that goes and comes back.
func TestDownAndUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := addrOf(l)
	told := make(chan Verdict, 1000)
	c := New(Config{Interval: 5 * ms, Timeout: patient, Rise: 2, Fall: 2}, []netip.AddrPort{addr},
		func(v Verdict) { told <- v })
	c.Run()
	defer c.Close()
	for _, up := range []bool{true, false, true} {
		switch {
		case !up:
			l.Close()
		case l == nil:
		default:
			if again, err := net.Listen("tcp", addr.String()); err == nil {
				l = again
				defer l.Close()
			}
		}
		awaitVerdict(t, told, up)
		probed := make(chan bool)
		c.ProbeNow(0, func(up bool) { probed <- up })
		if got := <-probed; got != up {
			t.Errorf("probe says %v, want %v", got, up)
		}
	}
}

func awaitVerdict(t *testing.T, told chan Verdict, up bool) {
	t.Helper()
	deadline := time.After(patient)
	for {
		select {
		case v := <-told:
			if v.Up == up {
				return
			}
		case <-deadline:
			t.Fatalf("not told that up is %v", up)
		}
	}
}

// TestStoppedProcess stops a process in the middle of a check: when it goes on
// its time-out has passed, but the answer was there in time.
func TestStoppedProcess(t *testing.T) {
	asked := make(chan struct{})
	addr := serve(t, "127.0.0.1", func(c net.Conn) {
		select {
		case <-asked: // all but the first are answered
		default:
			close(asked)
			c.SetReadDeadline(time.Now().Add(patient))
			c.Read(make([]byte, 1)) // until the child gives up
		}
		c.Write([]byte("!"))
	})
	cmd := exec.Command(os.Args[0], addr.String())
	cmd.Env = append(os.Environ(), "STTCP_HEALTH_CHILD=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	<-asked
	stopFor(t, cmd.Process, 700*ms)
	if err := cmd.Wait(); err != nil || strings.Contains(out.String(), "down") || !strings.Contains(out.String(), "true") {
		t.Errorf("%v, the child said: %s", err, out.String())
	}
}

// stopFor stops a process until its clock has moved on by d: this is the fault
// itself, not a wait for something.
func stopFor(t *testing.T, p *os.Process, d time.Duration) {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(d)
	if err := p.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
}

// checkUntilAnswered is the child: it checks with fall 1, prints every result
// and ends at the first check that passes.
func checkUntilAnswered(addr string) int {
	passed := make(chan struct{}, 1)
	cfg := Config{Interval: time.Second, Timeout: 400 * ms, Rise: 1, Fall: 1, Expect: regexp.MustCompile("!")}
	cfg.Each = func(r Result) {
		fmt.Println("check", r.Err, r.Excused)
		if r.Err == nil {
			passed <- struct{}{}
		}
	}
	c := New(cfg, []netip.AddrPort{netip.MustParseAddrPort(addr)}, func(v Verdict) {
		if !v.Up {
			fmt.Println("down", v.Err)
		}
	})
	c.Run()
	select {
	case <-passed:
		c.Close()
		return 0
	case <-time.After(patient):
		return 1
	}
}
