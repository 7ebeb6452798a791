package doctor

import (
	"fmt"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sttcp/proxy/intercept"
)

// The oldest kernel on which the rules work: since then nftables' socket
// expression works in the output hook (net/netfilter/nft_socket.c, "only do sk
// lookups when indev is available").
const oldestMajor, oldestMinor = 5, 18

// capabilities are those of this process, which are what `run` will have when
// it is started the same way.
func capabilities(*host) []finding {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return []finding{fail("run as root", "capabilities cannot be read (%v)", err)}
	}
	return []finding{judgeCapabilities(data[0].Effective)}
}

func judgeCapabilities(effective uint32) finding {
	var missing []string
	if effective&(1<<unix.CAP_NET_ADMIN) == 0 {
		missing = append(missing, "CAP_NET_ADMIN")
	}
	if effective&(1<<unix.CAP_NET_RAW) == 0 {
		missing = append(missing, "CAP_NET_RAW")
	}
	if missing == nil {
		return ok("CAP_NET_ADMIN and CAP_NET_RAW")
	}
	return fail("run as root, or put AmbientCapabilities=CAP_NET_ADMIN CAP_NET_RAW into the systemd unit",
		"%s missing", strings.Join(missing, " and "))
}

// kernelVersion tells of a kernel that is too old in words that people know,
// before nftFeatures finds out what it lacks.
func kernelVersion(*host) []finding {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return []finding{warn("look at uname -r", "the kernel's version cannot be read (%v)", err)}
	}
	return []finding{judgeKernel(unix.ByteSliceToString(u.Release[:]))}
}

// judgeKernel takes what `uname -r` prints. A vendor's kernel may have more
// than its number says, which is why an odd one is only a warning.
func judgeKernel(release string) finding {
	want := fmt.Sprintf("use Linux %d.%d or newer", oldestMajor, oldestMinor)
	var major, minor int
	if n, _ := fmt.Sscanf(release, "%d.%d", &major, &minor); n != 2 {
		return warn(want, "kernel version %q is not understood", release)
	}
	if major < oldestMajor || major == oldestMajor && minor < oldestMinor {
		return fail(want, "Linux %s is too old", release)
	}
	return ok("Linux %s", release)
}

// nftFeatures tries each expression that the rules use, instead of looking for
// modules: they may be built in, or be loaded by the attempt.
func nftFeatures(*host) []finding {
	missing, err := intercept.Missing()
	if err != nil {
		return []finding{fail("run as root", "nftables cannot be tried (%v)", err)}
	}
	return judgeFeatures(missing)
}

func judgeFeatures(missing []intercept.Feature) []finding {
	if len(missing) == 0 {
		return []finding{ok("nftables with tproxy, socket and notrack")}
	}
	var out []finding
	for _, f := range missing {
		out = append(out, fail("modprobe -a nf_tables nft_tproxy nft_socket nft_ct, or use a kernel with "+f.Config,
			"nftables: %s is missing", f.Name))
	}
	return out
}

// transparentSockets makes a listener as a service does, and gives it up.
func transparentSockets(h *host) []finding {
	for _, family := range h.families() {
		fd, _, err := intercept.Listen(family, 1)
		if err != nil {
			return []finding{fail("run as root; see whether lo is up: ip link set lo up", "transparent listener (%v)", err)}
		}
		_ = unix.Close(fd)
	}
	return []finding{ok("transparent sockets")}
}

// policyRouting looks for the three rules that every kernel with
// CONFIG_IP_MULTIPLE_TABLES has from the start.
func policyRouting(h *host) []finding {
	for _, family := range h.families() {
		rules, err := netlink.RuleList(family)
		if err != nil || len(rules) == 0 {
			return []finding{fail("use a kernel with CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES",
				"policy routing (ip rule) is missing for %s", familyName(family))}
		}
	}
	return []finding{ok("policy routing")}
}

// foreignMarks finds rules of others that our bit of the mark would trigger.
func foreignMarks(h *host) []finding {
	for _, family := range h.families() {
		rules, _ := netlink.RuleList(family) // policyRouting tells of errors
		for _, r := range rules {
			if r.Protocol != intercept.RoutingProtocol && marked(r) {
				return []finding{warn("let it mask bit "+fmt.Sprintf("%#x", intercept.DefaultMark)+" out",
					"a foreign rule looks at our bit of the mark (pref %d, fwmark %#x)", r.Priority, r.Mark)}
			}
		}
	}
	return []finding{ok("no other rule uses mark %#x", intercept.DefaultMark)}
}

// marked reports whether a rule is about marks and tests our bit.
func marked(r netlink.Rule) bool {
	if r.Mark == 0 && r.Mask == nil {
		return false
	}
	return r.Mask == nil || *r.Mask&intercept.DefaultMark != 0
}

// inputPolicy finds firewalls that drop what no rule of theirs accepts: to them
// packets of services are untracked, not established.
func inputPolicy(*host) []finding {
	conn, err := nftables.New()
	if err != nil {
		return nil
	}
	chains, err := conn.ListChains()
	if err != nil {
		return nil // nftFeatures tells of it
	}
	for _, c := range chains {
		if dropsInput(c) {
			return []finding{warn("let it accept `meta mark & "+fmt.Sprintf("%#x", intercept.DefaultMark)+" != 0`, or `ct state untracked` of the services' ports",
				"a firewall drops by default (table %s, chain %s), and packets of services are not connection-tracked", c.Table.Name, c.Name)}
		}
	}
	return []finding{ok("no firewall drops packets to this host by default")}
}

// dropsInput reports whether a chain, of nft or of iptables-nft, drops by
// policy what is for this host. The old iptables is not seen here.
func dropsInput(c *nftables.Chain) bool {
	ip := []nftables.TableFamily{nftables.TableFamilyINet, nftables.TableFamilyIPv4, nftables.TableFamilyIPv6}
	return c.Hooknum != nil && *c.Hooknum == *nftables.ChainHookInput && slices.Contains(ip, c.Table.Family) &&
		c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop
}

// tcpRepair tries the socket option that a restart in place will need.
func tcpRepair(*host) []finding {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_TCP)
	if err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_TCP, unix.TCP_REPAIR, 1)
		_ = unix.Close(fd)
	}
	if err != nil {
		return []finding{warn("run as root; nothing of this version needs it yet", "TCP_REPAIR (%v)", err)}
	}
	return []finding{ok("TCP_REPAIR")}
}

// gate is for information only: nothing of this version depends on eBPF.
func gate(*host) []finding {
	return []finding{ok("gate: not in this version, so no eBPF is needed; connections do not survive the gateway")}
}

func familyName(family int) string {
	if family == unix.AF_INET {
		return "IPv4"
	}
	return "IPv6"
}
