package doctor

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"sttcp/configs"
)

// sysctl reads a number below /proc/sys; there is none where the kernel does
// not know the key.
func (h *host) sysctl(key string) (value int, there bool) {
	b, err := os.ReadFile(filepath.Join(h.procSys, key))
	if err != nil {
		return 0, false
	}
	value, err = strconv.Atoi(strings.TrimSpace(string(b)))
	return value, err == nil
}

// set is the command that sets a key. Names of interfaces may hold dots, so
// the form with slashes is printed, which sysctl(8) takes as well.
func set(key string, value int) string { return fmt.Sprintf("sysctl -w %s=%d", key, value) }

// conf is the key of a setting that each interface has.
func conf(family, link, key string) string { return "net/" + family + "/conf/" + link + "/" + key }

// highest is how the kernel combines a key of `all` with one of the interface
// (IN_DEV_MAXCONF, and IN_DEV_ORCONF for those that are 0 or 1). It returns the
// key that is to blame.
func (h *host) highest(link, key string) (value int, culprit string) {
	for _, l := range []string{"all", link} {
		if v, _ := h.sysctl(conf("ipv4", l, key)); v > value {
			value, culprit = v, conf("ipv4", l, key)
		}
	}
	return value, culprit
}

// zero is a check that keys are 0 where they exist. A kernel without the key
// behaves as with 0.
func (h *host) zero(name, why string, keys ...string) []finding {
	var out []finding
	for _, key := range keys {
		if v, _ := h.sysctl(key); v != 0 {
			out = append(out, fail(set(key, 0), "%s is %d: %s", name, v, why))
		}
	}
	if out == nil {
		out = append(out, ok("%s is off", name))
	}
	return out
}

// markSysctls: with these the kernel routes an answer by the mark of the packet
// that it answers, and our mark leads to this host itself. Then no client ever
// gets a SYN-ACK, or resets never leave.
func markSysctls(h *host) []finding {
	return append(
		h.zero("tcp_fwmark_accept", "answers to clients would not leave this host", "net/ipv4/tcp_fwmark_accept"),
		h.zero("fwmark_reflect", "resets would not leave this host", "net/ipv4/fwmark_reflect", "net/ipv6/fwmark_reflect")...)
}

// srcValidMark: with it the source of a marked packet is looked up by the mark,
// found to be this host, and the packet is dropped as martian, uncounted. It
// concerns IPv4 only.
func srcValidMark(h *host) []finding {
	keys := []string{conf("ipv4", "all", "src_valid_mark")}
	for _, l := range h.links {
		keys = append(keys, conf("ipv4", l, "src_valid_mark"))
	}
	return h.zero("src_valid_mark", "intercepted IPv4 packets would be dropped", keys...)
}

// rpFilter: strict mode drops packets that come in where answers would not go
// out. Where both ways are the same it does no harm.
func rpFilter(h *host) []finding {
	var out []finding
	for _, l := range h.links {
		if v, key := h.highest(l, "rp_filter"); v == 1 {
			out = append(out, warn(set(conf("ipv4", l, "rp_filter"), 2)+" (unless every route is symmetric)",
				"rp_filter of %s is strict (%s): packets that come another way than answers go are dropped", l, key))
		}
	}
	if out == nil {
		out = append(out, ok("rp_filter is not strict"))
	}
	return out
}

// arpIgnore: see takeover/vip. IPv4 virtual IPs lie on lo, and with 1 or more the kernel does not
// answer for them on other interfaces.
func arpIgnore(h *host) []finding {
	if !h.usesVIP4() {
		return nil
	}
	for _, l := range h.links {
		if v, key := h.highest(l, "arp_ignore"); v != 0 {
			return []finding{fail(set(key, 0), "arp_ignore of %s is %d: nobody would answer ARP for the virtual IPs", l, v)}
		}
	}
	return []finding{ok("arp_ignore is 0")}
}

// arpAnnounce: without 2 the kernel may ask for neighbours with a virtual IP as
// sender, which misleads their ARP caches when the address moves.
func arpAnnounce(h *host) []finding {
	if !h.usesVIP4() {
		return nil
	}
	for _, l := range h.links {
		if v, _ := h.highest(l, "arp_announce"); v != 2 {
			return []finding{warn(set(conf("ipv4", "all", "arp_announce"), 2),
				"arp_announce of %s is %d: ARP requests may carry a virtual IP as sender", l, v)}
		}
	}
	return []finding{ok("arp_announce is 2")}
}

// forwarding: where hosts use us as their router, all that is not intercepted
// (other ports, ICMP, DNS) must pass. Intercepted packets need no forwarding.
func forwarding(h *host) []finding {
	who := h.routerFor()
	if who == "" { // nobody's router: off is right
		return nil
	}
	var out []finding
	for _, version := range []struct {
		family int
		key    string
	}{{unix.AF_INET, "net/ipv4/ip_forward"}, {unix.AF_INET6, conf("ipv6", "all", "forwarding")}} {
		if v, _ := h.sysctl(version.key); v == 0 && h.routes(version.family) {
			out = append(out, warn(set(version.key, 1), "%s forwarding is off, and %s makes this host a router: what is not intercepted will not pass",
				familyName(version.family), who))
		}
	}
	if out == nil {
		out = append(out, ok("forwarding is on"))
	}
	return out
}

// bridgeNetfilter: where this host is also a bridge, packets that only cross
// the bridge would meet our rules.
func bridgeNetfilter(h *host) []finding {
	links, _ := netlink.LinkList()
	bridge := ""
	for _, l := range links {
		if l.Type() == "bridge" {
			bridge = l.Attrs().Name
		}
	}
	if bridge == "" {
		return []finding{ok("no bridge whose packets could meet the rules")}
	}
	var out []finding
	for _, key := range []string{"iptables", "ip6tables", "arptables"} {
		key = "net/bridge/bridge-nf-call-" + key
		if v, _ := h.sysctl(key); v != 0 {
			out = append(out, warn(set(key, 0), "packets that cross bridge %s meet the rules of this host", bridge))
		}
	}
	if out == nil {
		out = append(out, ok("packets that cross bridge %s do not meet the rules", bridge))
	}
	return out
}

// nonlocalBind says that a setting, which guides for other load balancers ask
// for, is not asked for here.
func nonlocalBind(*host) []finding {
	return []finding{ok("ip_nonlocal_bind may be anything: IP_TRANSPARENT is used")}
}

// usualBacklog is the kernel's default of somaxconn since 5.4.
const usualBacklog = 4096

// backlog: the queue of connections not accepted yet is cut to somaxconn, and
// beyond it SYNs are dropped.
func backlog(h *host) []finding {
	want := usualBacklog
	if h.cfg != nil { // the queue is never longer than what a service takes
		most := 0
		h.eachService(func(s *configs.Service) { most = max(most, s.MaxConn) })
		want = min(want, most)
	}
	const key = "net/core/somaxconn"
	if v, there := h.sysctl(key); there && v < want {
		return []finding{warn(set(key, want), "somaxconn is %d: of more connections opened at one moment some have to repeat their SYN", v)}
	}
	return []finding{ok("somaxconn is enough")}
}
