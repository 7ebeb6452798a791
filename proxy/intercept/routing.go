package intercept

import (
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What of policy routing is ours is known by its protocol number, so that
// nothing else is ever deleted and a killed predecessor's is found.
const (
	// RoutingProtocol marks our rules and routes (rtnetlink(7); the numbers
	// above 4 are free to use, this one is in no distribution's rt_protos).
	RoutingProtocol = 173

	// RulePriority is the place of our rule: behind the kernel's own table
	// of local addresses, before what an administrator usually adds.
	RulePriority = 173
)

// addRouting makes `ip rule fwmark MARK/MASK lookup TABLE` and `local default
// dev lo table TABLE` for the IP versions that the services use. The rule comes
// first and goes last: it is by our rules that our routes are found again.
func addRouting(s Spec) error {
	for _, family := range families(s) {
		if err := addRule(s, family); err != nil {
			return fmt.Errorf("add rule `fwmark %#x/%#x lookup %d` for %s (CONFIG_IP_MULTIPLE_TABLES): %w",
				s.Mark, s.MarkMask, s.Table, familyName(family), err)
		}
		if err := addRoute(s, family); err != nil {
			return fmt.Errorf("add route `local default dev lo table %d` for %s: %w", s.Table, familyName(family), err)
		}
	}
	return nil
}

// families are the IP versions of a Spec's addresses. A host without IPv6 is
// asked for none of it if no service uses it.
func families(s Spec) []int {
	var v4, v6 bool
	for _, svc := range s.Services {
		for _, a := range svc.Dest {
			v4, v6 = v4 || a.Is4(), v6 || a.Is6()
		}
		for _, srv := range svc.Servers {
			v4, v6 = v4 || srv.Addr.Is4(), v6 || srv.Addr.Is6()
		}
	}
	var out []int
	if v4 {
		out = append(out, unix.AF_INET)
	}
	if v6 {
		out = append(out, unix.AF_INET6)
	}
	return out
}

func familyName(family int) string {
	if family == unix.AF_INET {
		return "IPv4"
	}
	return "IPv6"
}

// addRoute makes every address local for those who look into the table. The
// route is on lo, which takes it only while it is up.
func addRoute(s Spec, family int) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("look up interface lo: %w", err)
	}
	if lo.Attrs().Flags&net.FlagUp == 0 {
		return errors.New("interface lo is down: ip link set lo up")
	}
	return netlink.RouteReplace(localRoute(lo, s.Table, family))
}

func localRoute(lo netlink.Link, table, family int) *netlink.Route {
	return &netlink.Route{
		LinkIndex: lo.Attrs().Index, Dst: anywhere(family), Table: table,
		Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Protocol: RoutingProtocol,
	}
}

func anywhere(family int) *net.IPNet {
	size := net.IPv4len
	if family == unix.AF_INET6 {
		size = net.IPv6len
	}
	return &net.IPNet{IP: make(net.IP, size), Mask: make(net.IPMask, size)}
}

func addRule(s Spec, family int) error {
	err := netlink.RuleAdd(wantedRule(s, family))
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	return err
}

func wantedRule(s Spec, family int) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.Protocol = family, RulePriority, s.Table, RoutingProtocol
	r.Mark, r.Mask = s.Mark, &s.MarkMask
	return r
}

// removeRouting deletes our rules, and the routes that they lead to, unless
// keep wants them; nil wants none.
func removeRouting(keep *Spec) error {
	var errs []error
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		wanted := keep
		if keep != nil && !slices.Contains(families(*keep), family) {
			wanted = nil
		}
		errs = append(errs, removeFamily(wanted, family))
	}
	return errors.Join(errs...)
}

func removeFamily(keep *Spec, family int) error {
	rules, err := ourRules(family)
	if err != nil {
		return fmt.Errorf("list %s rules: %w", familyName(family), err)
	}
	for _, r := range rules {
		if keep == nil || r.Table != keep.Table {
			if err := removeRoute(r.Table, family); err != nil {
				return fmt.Errorf("delete %s route in table %d: %w", familyName(family), r.Table, err)
			}
		}
		if keep != nil && sameRule(r, *wantedRule(*keep, family)) {
			continue
		}
		if err := netlink.RuleDel(&r); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("delete %s rule %q: %w", familyName(family), r, err)
		}
	}
	return nil
}

// ourRules lists our rules of one IP version. The kernel interrupts a listing
// when somebody else changes rules meanwhile; it is then asked again.
func ourRules(family int) ([]netlink.Rule, error) {
	all, err := netlink.RuleList(family)
	for range 10 {
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
		all, err = netlink.RuleList(family)
	}
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // a kernel without IPv6 has no rules of it
	}
	all = slices.DeleteFunc(all, func(r netlink.Rule) bool {
		return r.Protocol != RoutingProtocol || r.Family != family
	})
	return all, err
}

func removeRoute(table, family int) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	err = netlink.RouteDel(localRoute(lo, table, family))
	if errors.Is(err, unix.ESRCH) || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

func sameRule(have, want netlink.Rule) bool {
	mask := ^uint32(0)
	if have.Mask != nil {
		mask = *have.Mask
	}
	return have.Priority == want.Priority && have.Table == want.Table &&
		have.Mark == want.Mark && mask == *want.Mask
}
