package lab

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
)

// sysctl is one setting, KEY as the sysctl command writes it.
type sysctl struct{ key, value string }

// hostSysctls make a host's addresses usable at once and its routing
// predictable: no duplicate address detection, no router solicitation, no
// reverse path filter, no redirects. Addresses survive an interface going
// down in both families.
func hostSysctls(opt Options, forward bool) []sysctl {
	var list []sysctl
	for _, scope := range []string{"all", "default"} {
		v4, v6 := "net.ipv4.conf."+scope+".", "net.ipv6.conf."+scope+"."
		list = append(list,
			sysctl{v4 + "rp_filter", "0"}, sysctl{v4 + "accept_redirects", "0"},
			sysctl{v4 + "send_redirects", "0"},
			sysctl{v6 + "disable_ipv6", "0"}, sysctl{v6 + "accept_dad", "0"},
			sysctl{v6 + "dad_transmits", "0"}, sysctl{v6 + "router_solicitations", "0"},
			sysctl{v6 + "accept_ra", "0"}, sysctl{v6 + "accept_redirects", "0"},
			sysctl{v6 + "keep_addr_on_down", "1"})
	}
	if forward {
		list = append(list, sysctl{"net.ipv4.ip_forward", "1"}, sysctl{"net.ipv6.conf.all.forwarding", "1"})
	}
	if cc := opt.CongestionControl; cc != "" {
		list = append(list, sysctl{"net.ipv4.tcp_congestion_control", cc})
	}
	return list
}

// switchSysctls keep the switch a switch: no IP stack of its own takes part,
// and its frames stay out of the IP packet filter.
var switchSysctls = []sysctl{
	{"net.ipv6.conf.all.disable_ipv6", "1"}, {"net.ipv6.conf.default.disable_ipv6", "1"},
	{"?net.bridge.bridge-nf-call-iptables", "0"}, {"?net.bridge.bridge-nf-call-ip6tables", "0"},
	{"?net.bridge.bridge-nf-call-arptables", "0"},
}

// setAll writes settings from a thread in the namespace. A key that starts
// with "?" may be missing.
func setAll(list []sysctl) error {
	for _, s := range list {
		key, optional := strings.CutPrefix(s.key, "?")
		err := writeSysctl(key, s.value)
		if err != nil && !(optional && errors.Is(err, os.ErrNotExist)) {
			return err
		}
	}
	return nil
}

// SetSysctl sets a network setting of the host, such as
// net.ipv4.tcp_rmem. Settings that are not the namespace's own are missing
// or read-only there, so that the machine's are safe.
func (h *Host) SetSysctl(key, value string) error {
	return h.Do(func() error { return writeSysctl(key, value) })
}

// Sysctl reads a network setting of the host.
func (h *Host) Sysctl(key string) (value string, err error) {
	err = h.Do(func() error {
		value, err = readSysctl(key)
		return err
	})
	return value, err
}

// sysctlPath refuses what is not under net: those belong to the machine.
func sysctlPath(key string) (string, error) {
	if !strings.HasPrefix(key, "net.") {
		return "", fmt.Errorf("sysctl %s: not a network setting, so not the host's own", key)
	}
	return "/proc/sys/" + strings.ReplaceAll(key, ".", "/"), nil
}

// writeSysctl writes to the namespace of the current thread: /proc/sys/net shows
// each reader its own.
func writeSysctl(key, value string) error {
	path, err := sysctlPath(key)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("set sysctl %s: %w", key, err)
	}
	_, err = f.WriteString(value)
	return wrap(errors.Join(err, f.Close()), "set sysctl %s to %q", key, value)
}

// readSysctl reads from the namespace of the current thread.
func readSysctl(key string) (string, error) {
	path, err := sysctlPath(key)
	if err != nil {
		return "", err
	}
	b, err := os.ReadFile(path)
	return string(bytes.TrimSpace(b)), wrap(err, "read sysctl %s", key)
}

// allowedCC lists the congestion controls that namespaces may choose.
const allowedCC = "net.ipv4.tcp_allowed_congestion_control"

// allowCongestionControl adds an algorithm to those that other namespaces may
// use. Only the first namespace can.
func allowCongestionControl(name string) error {
	if name == "" {
		return nil
	}
	list, err := readSysctl(allowedCC)
	if err != nil {
		return err
	}
	if slices.Contains(strings.Fields(list), name) {
		return nil
	}
	return writeSysctl(allowedCC, list+" "+name)
}
