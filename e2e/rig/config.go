package rig

import (
	"fmt"
	"net/netip"
	"strings"

	"sttcp/e2e/lab"
)

// Service is a service of a gateway. Zero fields are left to the gateway's
// defaults.
type Service struct {
	// Name must be unique; default is "svc" and the number of the service.
	Name string
	// Ports are as in the file: "80" or "80, 8000-8010".
	Ports string
	// Servers are names of hosts, "s1", each followed by ":PORT" if its port
	// is another than the client's. Default s1 and s2.
	Servers []string
	// IPv6 makes it a service of the IPv6 virtual IP, with the servers'
	// IPv6 addresses.
	IPv6 bool
	// Listen is a routed address instead of the virtual IP.
	Listen netip.Addr
	// Source is vip or client.
	Source string
	// Extra are further keys of the service, one per line: "legs: 1".
	Extra string
}

// Config is a gateway's configuration.
type Config struct {
	// Host has the gateway; default g1.
	Host     string
	Services []Service
	// Extra are further keys at the top level, which may be maps:
	// "drain: 2s\nlog: {level: debug}".
	Extra string
	// RunDir and StateDir are the node's; StartGateway makes new ones where
	// they are empty.
	RunDir, StateDir string
}

// YAML writes the file for a lab.
func (c Config) YAML(l *lab.Lab) (string, error) {
	h, err := hostOf(l, c.Host)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	fmt.Fprintf(&b, "node: {name: %s, run_dir: %q, state_dir: %q}\n", c.Host, c.RunDir, c.StateDir)
	fmt.Fprintln(&b, "virtual_ips:")
	for _, v := range vips {
		if err := c.writeVIP(&b, l, h, v); err != nil {
			return "", err
		}
	}
	b.WriteString(indent(c.Extra, ""))
	return b.String(), nil
}

// vip is one of the two virtual IPs, which differ in their family.
type vip struct {
	name   string
	ipv6   bool
	prefix netip.Prefix
}

var vips = []vip{
	{"front4", false, netip.PrefixFrom(lab.VIP4, 24)},
	{"front6", true, netip.PrefixFrom(lab.VIP6, 64)},
}

func (c Config) writeVIP(b *strings.Builder, l *lab.Lab, h *lab.Host, v vip) error {
	if !c.uses(v) {
		return nil
	}
	fmt.Fprintf(b, "  - name: %s\n    addresses: [{address: %q, interface: %s}]\n    services:\n",
		v.name, v.prefix, h.Interface())
	for i, s := range c.Services {
		if s.IPv6 != v.ipv6 {
			continue
		}
		if err := s.write(b, l, i+1); err != nil {
			return err
		}
	}
	return nil
}

// uses tells whether a service is on the virtual IP.
func (c Config) uses(v vip) bool {
	for _, s := range c.Services {
		if s.IPv6 == v.ipv6 {
			return true
		}
	}
	return false
}

func (s Service) write(b *strings.Builder, l *lab.Lab, number int) error {
	if s.Name == "" {
		s.Name = fmt.Sprintf("svc%d", number)
	}
	if s.Servers == nil {
		s.Servers = []string{"s1", "s2"}
	}
	fmt.Fprintf(b, "      - name: %s\n        ports: [%s]\n", s.Name, s.Ports)
	if s.Listen.IsValid() {
		fmt.Fprintf(b, "        listen: %q\n", s.Listen)
	}
	if s.Source != "" {
		fmt.Fprintf(b, "        source: %s\n", s.Source)
	}
	b.WriteString(indent(s.Extra, "        "))
	fmt.Fprintln(b, "        servers:")
	for _, server := range s.Servers {
		if err := writeServer(b, l, server, s.IPv6); err != nil {
			return fmt.Errorf("describe service %s: %w", s.Name, err)
		}
	}
	return nil
}

func writeServer(b *strings.Builder, l *lab.Lab, server string, ipv6 bool) error {
	name, port, hasPort := strings.Cut(server, ":")
	h, err := hostOf(l, name)
	if err != nil {
		return err
	}
	addr := h.Addr4()
	if ipv6 {
		addr = h.Addr6()
	}
	fmt.Fprintf(b, "          - {name: %s, address: %q", name, addr)
	if hasPort {
		fmt.Fprintf(b, ", port: %s", port)
	}
	fmt.Fprintln(b, "}")
	return nil
}

// indent puts a prefix before every line, and a newline behind the last.
func indent(text, prefix string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		if strings.TrimSpace(line) != "" {
			fmt.Fprintf(&b, "%s%s\n", prefix, strings.TrimRight(line, "\n"))
		}
	}
	return b.String()
}
