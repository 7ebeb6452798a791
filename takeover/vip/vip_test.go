package vip

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

var (
	front4 = Addr{netip.MustParsePrefix("10.9.0.100/24"), "eth0"}
	front6 = Addr{netip.MustParsePrefix("fd09::100/64"), "eth0"}
)

// inNamespace runs the test in a network namespace of its own, with lo and an
// eth0 up, on a thread that is thrown away afterwards.
func inNamespace(t *testing.T, f func() error) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root to make a network namespace")
		}
		t.Skip("needs root to make a network namespace")
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.New()
		if err == nil {
			defer ns.Close()
			pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer"}
			err = errors.Join(up("lo"), netlink.LinkAdd(pair), up("peer"), up("eth0"))
		}
		if err == nil {
			err = f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func up(name string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(link)
}

func ip(args ...string) (string, error) {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("ip %v: %w: %s", args, err, out)
	}
	return string(out), err
}

func TestEnsureAndRemove(t *testing.T) {
	inNamespace(t, func() error {
		before, err := ip("-o", "addr")
		if err != nil {
			return err
		}
		addrs := []Addr{front4, front6}
		added, err := Ensure(addrs)
		if !slices.Equal(added, addrs) || err != nil {
			t.Errorf("first Ensure: %v, %v", added, err)
		}
		with, err := ip("-o", "addr")
		expectLine(t, with, "lo    inet 10.9.0.100/32 ", "scope global", "valid_lft forever")
		expectLine(t, with, "eth0    inet6 fd09::100/128 ", "nodad", "deprecated", "valid_lft forever", "preferred_lft 0sec")
		if added, err := Ensure(addrs); len(added) > 0 || err != nil {
			t.Errorf("second Ensure: %v, %v", added, err)
		}
		removed, removeErr := Remove(addrs)
		if !slices.Equal(removed, addrs) || removeErr != nil {
			t.Errorf("Remove: %v, %v", removed, removeErr)
		}
		after, afterErr := ip("-o", "addr")
		if strip(after) != strip(before) {
			t.Errorf("before:\n%s\nafter:\n%s", before, after)
		}
		if removed, err := Remove(addrs); len(removed) > 0 || err != nil {
			t.Errorf("second Remove: %v, %v", removed, err)
		}
		return errors.Join(err, afterErr)
	})
}

// expectLine expects one line of the output with all of the words.
func expectLine(t *testing.T, out string, words ...string) {
	t.Helper()
	for line := range strings.Lines(out) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return
		}
	}
	t.Errorf("no line with all of %q in\n%s", words, out)
}

// strip leaves the addresses out that the kernel makes on its own.
func strip(out string) string {
	var keep []string
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "fe80:") {
			keep = append(keep, line)
		}
	}
	return strings.Join(keep, "")
}

// An administrator's address is used and never removed, whatever its prefix.
func TestForeignAddressStays(t *testing.T) {
	inNamespace(t, func() error {
		_, err4 := ip("addr", "add", "10.9.0.100/24", "dev", "lo")
		_, err6 := ip("addr", "add", "fd09::100/128", "dev", "eth0", "nodad", "preferred_lft", "0")
		if err := errors.Join(err4, err6); err != nil {
			return err
		}
		addrs := []Addr{front4, front6}
		if added, err := Ensure(addrs); len(added) > 0 || err != nil {
			t.Errorf("Ensure: %v, %v", added, err)
		}
		if removed, err := Remove(addrs); len(removed) > 0 || err != nil {
			t.Errorf("Remove: %v, %v", removed, err)
		}
		out, err := ip("-o", "addr")
		if !strings.Contains(out, "10.9.0.100/24") || !strings.Contains(out, "fd09::100/128") {
			t.Errorf("an address is gone:\n%s", out)
		}
		return err
	})
}

// The same address on another interface is not the one on ours: IPv4 has it on
// lo besides, and only that is removed.
func TestSameAddressElsewhereStays(t *testing.T) {
	inNamespace(t, func() error {
		if _, err := ip("addr", "add", "10.9.0.100/24", "dev", "eth0"); err != nil {
			return err
		}
		added, err := Ensure([]Addr{front4})
		if len(added) != 1 || err != nil {
			t.Errorf("Ensure: %v, %v", added, err)
		}
		if removed, err := Remove(added); len(removed) != 1 || err != nil {
			t.Errorf("Remove: %v, %v", removed, err)
		}
		out, err := ip("-o", "addr")
		if strings.Count(out, "10.9.0.100") != 1 {
			t.Errorf("addresses:\n%s", out)
		}
		return err
	})
}

func TestErrorsNameAddressAndInterface(t *testing.T) {
	inNamespace(t, func() error {
		if err := os.WriteFile("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", []byte("1"), 0o644); err != nil {
			return err
		}
		gone := Addr{front4.Prefix, "eth7"}
		for _, c := range []struct {
			addrs []Addr
			want  []string
			added int
		}{
			{[]Addr{gone}, []string{"10.9.0.100 of eth7", "look up interface eth7"}, 0},
			{[]Addr{front4, front6}, []string{"fd09::100 of eth0", "net.ipv6.conf.eth0.disable_ipv6=0"}, 1},
			{[]Addr{{Interface: "eth0"}}, []string{"not an address"}, 0},
		} {
			added, err := Ensure(c.addrs)
			for _, want := range c.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("Ensure(%v): %v, want %q in it", c.addrs, err, want)
				}
			}
			if len(added) != c.added {
				t.Errorf("Ensure(%v) added %v", c.addrs, added)
			}
		}
		if removed, err := Remove([]Addr{gone}); len(removed) > 0 || err != nil {
			t.Errorf("Remove on an interface that is gone: %v, %v", removed, err)
		}
		return nil
	})
}

// The kernel answers for what Ensure has put there as for any of its addresses,
// and IPv6 is usable at once, though not preferred as source.
func TestAddressesAreUsable(t *testing.T) {
	inNamespace(t, func() error {
		if _, err := Ensure([]Addr{front4, front6}); err != nil {
			return err
		}
		for _, a := range []Addr{front4, front6} {
			l, err := net.Listen("tcp", netip.AddrPortFrom(a.Prefix.Addr(), 0).String())
			if err != nil {
				return err
			}
			l.Close()
		}
		if _, err := ip("addr", "add", "fd09::1/64", "dev", "eth0", "nodad"); err != nil {
			return err
		}
		out, err := ip("route", "get", "fd09::2")
		if !strings.Contains(out, "src fd09::1 ") {
			t.Errorf("the virtual IP is a source of connections of this host: %s", out)
		}
		return err
	})
}

// An IPv4 address in IPv6 form is an IPv4 address.
func TestMappedAddress(t *testing.T) {
	inNamespace(t, func() error {
		mapped := Addr{netip.PrefixFrom(netip.AddrFrom16(front4.Prefix.Addr().As16()), 128), "eth0"}
		if added, err := Ensure([]Addr{mapped}); len(added) != 1 || err != nil {
			t.Errorf("Ensure: %v, %v", added, err)
		}
		if added, err := Ensure([]Addr{front4}); len(added) != 0 || err != nil {
			t.Errorf("Ensure of the same: %v, %v", added, err)
		}
		if removed, err := Remove([]Addr{front4}); len(removed) != 1 || err != nil {
			t.Errorf("Remove: %v, %v", removed, err)
		}
		return nil
	})
}

// Remove goes on after an address that can't be removed.
func TestRemoveGoesOn(t *testing.T) {
	inNamespace(t, func() error {
		if _, err := Ensure([]Addr{front4}); err != nil {
			return err
		}
		removed, err := Remove([]Addr{{Interface: "eth0"}, front4})
		if !slices.Equal(removed, []Addr{front4}) || err == nil {
			t.Errorf("Remove: %v, %v", removed, err)
		}
		return nil
	})
}
