package configs

import (
	"encoding"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"
	"time"
	"unicode"
)

// scalar is a value that the file gives as one word. UnmarshalText must take
// everything that it accepts from any instance alike: the walker tries it
// for the line number, mapstructure does it again for the value.
type scalar interface {
	encoding.TextUnmarshaler
	wants() string // what the file should hold, after "expected "
}

// numeric is a scalar that may be written as a plain number.
type numeric interface{ numeric() }

// hinter says what to write instead of s; "" if it does not know.
type hinter interface{ hint(s string) string }

// mismatch is the error for a word that is not what s wants.
func mismatch(s scalar, found string) error {
	msg := fmt.Sprintf("expected %s, found %s", s.wants(), quote(found))
	if h, ok := s.(hinter); ok {
		msg += h.hint(found)
	}
	return errors.New(msg)
}

// quote shows at most 60 bytes of the file, on one line.
func quote(s string) string {
	if len(s) > 60 {
		return strconv.Quote(s[:60]) + "..."
	}
	return strconv.Quote(s)
}

// name is what an operator calls a node, service or server. Names become
// parts of file names and of metrics, hence so few characters.
type name string

const maxName = 64

var namePattern = regexp.MustCompile(`^[A-Za-z0-9._-]+$`)

func (name) wants() string {
	return "a name of at most 64 letters, digits, dots, dashes or underscores"
}

// UnmarshalText also refuses "." and "..", which are no file names.
func (n *name) UnmarshalText(b []byte) error {
	s := string(b)
	if !namePattern.MatchString(s) || len(s) > maxName || s == "." || s == ".." {
		return mismatch(n, s)
	}
	*n = name(s)
	return nil
}

// ifName is the name of a network interface: IFNAMSIZ is 16 with the NUL,
// and net/core/dev.c dev_valid_name forbids the rest.
type ifName string

func (ifName) wants() string { return "a network interface of at most 15 bytes, such as eth0" }

// UnmarshalText says nothing about whether there is such an interface; that
// is asked of the host, in vipAddress.
func (n *ifName) UnmarshalText(b []byte) error {
	s := string(b)
	bad := strings.ContainsAny(s, "/:") || strings.ContainsFunc(s, unicode.IsSpace) || hasControl(s)
	if s == "" || len(s) > 15 || bad || s == "." || s == ".." {
		return mismatch(n, s)
	}
	*n = ifName(s)
	return nil
}

// hasControl finds what would break a line of a log, and the NUL that would
// cut a path short in the kernel.
func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }

// absPath is a path that does not depend on where sttcp was started; it may
// be empty.
type absPath string

func (absPath) wants() string { return "an absolute path such as /etc/sttcp/file" }

// UnmarshalText cleans the path, so that two ways to write it compare equal.
func (p *absPath) UnmarshalText(b []byte) error {
	s := string(b)
	if s == "" {
		*p = ""
		return nil
	}
	if !filepath.IsAbs(s) || hasControl(s) {
		return mismatch(p, s)
	}
	*p = absPath(filepath.Clean(s))
	return nil
}

// duration is a time span with a unit, at most a year.
type duration time.Duration

const maxDuration = 8760 * time.Hour

func (duration) wants() string { return "a duration with a unit (ms, s, m, h) such as 250ms" }

// hint is for a bare number, the most likely mistake: nobody can know whether
// seconds or milliseconds were meant.
func (duration) hint(s string) string {
	if _, err := strconv.ParseFloat(s, 64); err != nil {
		return ""
	}
	return fmt.Sprintf("; write %[1]sms or %[1]ss", s)
}

// UnmarshalText is stricter than time.ParseDuration, which takes "0".
func (d *duration) UnmarshalText(b []byte) error {
	s := string(b)
	v, err := time.ParseDuration(s)
	if err != nil || !strings.ContainsFunc(s, unicode.IsLetter) {
		return mismatch(d, s)
	}
	if v > maxDuration {
		return fmt.Errorf("expected at most 8760h, found %s", s)
	}
	*d = duration(v)
	return nil
}

// size is a number of bytes.
type size int

var (
	sizePattern = regexp.MustCompile(`^([0-9]+)(|B|KiB|MiB|GiB)$`)
	sizeUnits   = map[string]int64{"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
)

func (size) wants() string { return "a size such as 256KiB, 1MiB or a number of bytes" }
func (size) numeric()      {}

// UnmarshalText takes binary units only: KB is 1000 to some and 1024 to
// others.
func (z *size) UnmarshalText(b []byte) error {
	m := sizePattern.FindStringSubmatch(string(b))
	if m == nil {
		return mismatch(z, string(b))
	}
	v, err := strconv.ParseInt(m[1], 10, 64)
	if err != nil || v > math.MaxInt32 { // a bound on the number; the range is the tag's
		return mismatch(z, string(b))
	}
	*z = size(v * sizeUnits[m[2]])
	return nil
}

// portRange is a port or an inclusive range FIRST-LAST.
type portRange PortRange

func (portRange) wants() string { return "a port from 1 to 65535 or a range such as 8000-8010" }
func (portRange) numeric()      {}

// UnmarshalText takes no spaces and no sign.
func (p *portRange) UnmarshalText(b []byte) error {
	first, last, isRange := strings.Cut(string(b), "-")
	if !isRange {
		last = first
	}
	lo, okLo := parsePort(first)
	hi, okHi := parsePort(last)
	if !okLo || !okHi {
		return mismatch(p, string(b))
	}
	if lo > hi {
		return fmt.Errorf("the range %s runs backwards; write %d-%d", b, hi, lo)
	}
	*p = portRange{First: lo, Last: hi}
	return nil
}

// parsePort takes digits only, unlike strconv, which takes a sign.
func parsePort(s string) (uint16, bool) {
	if strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	v, err := strconv.ParseUint(s, 10, 16)
	return uint16(v), err == nil && v > 0
}

// unicast takes an address that one host can have. Zones are refused since
// an interface has a key of its own, IPv4 in IPv6 since it compares unequal
// to the same address written as IPv4.
func unicast(s string) (netip.Addr, bool) {
	a, err := netip.ParseAddr(s)
	ok := err == nil && a.Zone() == "" && !a.Is4In6() && !a.IsMulticast() && !a.IsUnspecified() &&
		a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
	return a, ok
}

// address is the address of a server or a neighbour.
type address struct{ netip.Addr }

func (address) wants() string { return "the IP address of one host (names are not looked up)" }

// hint finds the address in what looks like address and port, or a network.
func (address) hint(s string) string {
	if ap, err := netip.ParseAddrPort(s); err == nil {
		return fmt.Sprintf("; write address: %s, port: %d", ap.Addr(), ap.Port())
	}
	if p, err := netip.ParsePrefix(s); err == nil {
		return fmt.Sprintf("; write %s", p.Addr())
	}
	return ""
}

// UnmarshalText hides the one of netip.Addr.
func (a *address) UnmarshalText(b []byte) error {
	v, ok := unicast(string(b))
	if !ok {
		return mismatch(a, string(b))
	}
	a.Addr = v
	return nil
}

// vipPrefix is a virtual address with or without the prefix length of the
// network around it.
type vipPrefix struct{ netip.Prefix }

func (vipPrefix) wants() string {
	return "the IP address of one host such as 10.9.0.100/24 or fd00::100"
}

// UnmarshalText hides the one of netip.Prefix.
func (p *vipPrefix) UnmarshalText(b []byte) error {
	host, _, hasBits := strings.Cut(string(b), "/")
	addr, ok := unicast(host)
	if !ok || addr.IsLoopback() {
		return mismatch(p, string(b))
	}
	p.Prefix = netip.PrefixFrom(addr, addr.BitLen())
	if !hasBits {
		return nil
	}
	v, err := netip.ParsePrefix(string(b))
	if err != nil || v.Bits() == 0 {
		return mismatch(p, string(b))
	}
	p.Prefix = v
	return notWholeNet(v)
}

// notWholeNet refuses the first and the last address of an IPv4 network,
// which no host can have (RFC 922), except where there are only two or one
// (RFC 3021).
func notWholeNet(p netip.Prefix) error {
	if !p.Addr().Is4() || p.Bits() >= 31 {
		return nil
	}
	next := p.Addr().Next()
	if p.Addr() != p.Masked().Addr() && next.IsValid() && p.Contains(next) {
		return nil
	}
	return fmt.Errorf("%s is the network or broadcast address of %s; give the address of one host",
		p.Addr(), p.Masked())
}

// listen is where a service listens: on its virtual IP or on an address
// that is routed through the gateway.
type listen struct {
	vip  bool
	addr netip.Addr
}

func (listen) wants() string { return "vip or the IP address of one host" }

// UnmarshalText refuses loopback, which no client beyond this host can reach.
func (l *listen) UnmarshalText(b []byte) error {
	if string(b) == "vip" {
		*l = listen{vip: true}
		return nil
	}
	a, ok := unicast(string(b))
	if !ok || a.IsLoopback() {
		return mismatch(l, string(b))
	}
	*l = listen{addr: a}
	return nil
}

// addrPort is an address of this node with a port.
type addrPort struct{ netip.AddrPort }

func (addrPort) wants() string { return "IP:PORT such as 10.9.0.1:7946 or [fd00::1]:7946" }

// UnmarshalText hides the one of netip.AddrPort.
func (a *addrPort) UnmarshalText(b []byte) error {
	v, err := netip.ParseAddrPort(string(b))
	if err != nil || v.Port() == 0 || v.Addr().IsMulticast() || v.Addr().Is4In6() {
		return mismatch(a, string(b))
	}
	a.AddrPort = v
	return nil
}

// peer is HOST:PORT of another node.
type peer string

func (peer) wants() string { return "HOST:PORT such as 10.9.0.2:7946" }

// UnmarshalText takes names too: they are resolved at each attempt to join.
func (p *peer) UnmarshalText(b []byte) error {
	host, ok := splitHostPort(string(b))
	if !ok || host == "" {
		return mismatch(p, string(b))
	}
	*p = peer(b)
	return nil
}

// hostPort is HOST:PORT to listen on, with no host for every address; it may
// be empty.
type hostPort string

func (hostPort) wants() string { return `HOST:PORT such as 127.0.0.1:9780, or ""` }

// UnmarshalText takes "" for no listener at all.
func (h *hostPort) UnmarshalText(b []byte) error {
	if _, ok := splitHostPort(string(b)); !ok && len(b) > 0 {
		return mismatch(h, string(b))
	}
	*h = hostPort(b)
	return nil
}

// splitHostPort gives the host of HOST:PORT.
func splitHostPort(s string) (host string, ok bool) {
	host, port, err := net.SplitHostPort(s)
	if err != nil || hasControl(host) || strings.ContainsAny(host, "/ ") {
		return "", false
	}
	_, ok = parsePort(port)
	return host, ok
}

// adminListen is a path, or HOST:PORT.
type adminListen string

func (adminListen) wants() string { return "a path such as admin.sock, or HOST:PORT" }

// UnmarshalText takes a colon without a slash for HOST:PORT, right or wrong,
// since a socket by the name of "127.0.0.1:x" was meant by nobody.
func (a *adminListen) UnmarshalText(b []byte) error {
	s := string(b)
	_, tcp := splitHostPort(s)
	path := s != "" && !hasControl(s) && (strings.Contains(s, "/") || !strings.Contains(s, ":"))
	if !tcp && (!path || strings.HasSuffix(s, "/")) {
		return mismatch(a, s)
	}
	*a = adminListen(s)
	return nil
}

// mask is a regular expression of what two answers may differ in.
type mask struct{ *regexp.Regexp }

func (mask) wants() string { return `a regular expression such as '(?m)^Date: [^\r\n]*'` }

// UnmarshalText hides the one of regexp.Regexp.
func (m *mask) UnmarshalText(b []byte) (err error) {
	m.Regexp, err = compile(string(b))
	if err == nil && m.MatchString("") {
		err = fmt.Errorf("%s matches the empty string, so it masks nothing; make it match at least one byte", quote(string(b)))
	}
	return err
}

// expect is a regular expression of a healthy answer, or empty.
type expect struct{ *regexp.Regexp }

func (expect) wants() string { return `a regular expression such as '^\+PONG'` }

// UnmarshalText hides the one of regexp.Regexp.
func (e *expect) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		e.Regexp = nil
		return nil
	}
	e.Regexp, err = compile(string(b))
	if err == nil && e.MatchString("") {
		err = fmt.Errorf("%s matches the empty string, so every server would pass; make it match at least one byte", quote(string(b)))
	}
	return err
}

// compile says in one line what is wrong with an expression.
func compile(s string) (*regexp.Regexp, error) {
	re, err := regexp.Compile(s)
	var bad *syntax.Error
	if errors.As(err, &bad) {
		return nil, fmt.Errorf("%s is not a regular expression (RE2): %s at %s", quote(s), bad.Code, quote(bad.Expr))
	}
	if err != nil {
		return nil, fmt.Errorf("%s is not a regular expression (RE2)", quote(s))
	}
	return re, nil
}
