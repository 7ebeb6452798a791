package configs

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// read gives the value that a scalar takes from text.
func read[T any, P interface {
	*T
	scalar
}](t *testing.T, text string) T {
	t.Helper()
	var v T
	if err := P(&v).UnmarshalText([]byte(text)); err != nil {
		t.Errorf("%q: %v", text, err)
	}
	return v
}

// refuses wants an error of one line for each text.
func refuses[T any, P interface {
	*T
	scalar
}](t *testing.T, texts ...string) {
	t.Helper()
	for _, text := range texts {
		var v T
		err := P(&v).UnmarshalText([]byte(text))
		switch {
		case err == nil:
			t.Errorf("%T takes %q as %v", v, text, v)
		case strings.ContainsAny(err.Error(), "\n\x00"):
			t.Errorf("%T: the error is not one line of text: %q", v, err)
		}
	}
}

func TestNames(t *testing.T) {
	for _, s := range []string{"g1", "G.1_x-y", "0", "...", "-", strings.Repeat("a", 64)} {
		equal(t, s, string(read[name](t, s)), s)
	}
	refuses[name](t, "", ".", "..", "a b", "a/b", "ä", "a\n", "a:1", "[a]", strings.Repeat("a", 65))
}

func TestInterfaceNames(t *testing.T) {
	for _, s := range []string{"lo", "eth0", "br-lan.100", "wlan0@x", strings.Repeat("i", 15)} {
		equal(t, s, string(read[ifName](t, s)), s)
	}
	refuses[ifName](t, "", ".", "..", "a/b", "eth0:1", "a b", "a\tb", "a\x00", strings.Repeat("i", 16))
}

func TestPaths(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "/": "/", "/a/b": "/a/b", "/a/../b/": "/b", "//x": "/x", "/with space": "/with space",
	} {
		equal(t, in, string(read[absPath](t, in)), want)
	}
	refuses[absPath](t, "a", "./a", "~/a", "/a\nb", "/a\x00")
}

func TestDurations(t *testing.T) {
	for in, want := range map[string]time.Duration{
		"250ms": 250 * time.Millisecond, "0s": 0, "1h30m": 90 * time.Minute, "1.5s": 1500 * time.Millisecond,
		"-1s": -time.Second, "8760h": maxDuration, "1us": time.Microsecond, "1µs": time.Microsecond,
	} {
		equal(t, in, time.Duration(read[duration](t, in)), want)
	}
	refuses[duration](t, "", "0", "5", "5.5", "ms", "5 s", "5S", "1d", "1w", "8760h1ns", "99999999h", "1e3s", "5s\n")
}

func TestDurationHints(t *testing.T) {
	for in, want := range map[string]string{
		"30": "; write 30ms or 30s", "1.5": "; write 1.5ms or 1.5s", "soon": "", "1d": "", "": "",
	} {
		equal(t, in, duration(0).hint(in), want)
	}
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]int{
		"0": 0, "4096": 4096, "4096B": 4096, "256KiB": 256 << 10, "1MiB": 1 << 20, "2GiB": 2 << 30,
		fmt.Sprint(math.MaxInt32): math.MaxInt32,
	} {
		equal(t, in, int(read[size](t, in)), want)
	}
	// The last one would wrap around to 0 bytes.
	refuses[size](t, "", "-1", "+1", "1.5MiB", "256K", "256KB", "256kib", "1 MiB", "0x10", "1_000", "1TiB",
		"2147483648", "17179869184GiB")
}

func TestPortRanges(t *testing.T) {
	for in, want := range map[string]PortRange{
		"1": {1, 1}, "65535": {65535, 65535}, "80-80": {80, 80}, "1-65535": {1, 65535}, "0080": {80, 80},
	} {
		equal(t, in, PortRange(read[portRange](t, in)), want)
	}
	refuses[portRange](t, "", "-", "0", "65536", "-80", "80-", "+80", "80 - 90", "80,90", "80-90-100", "90-80",
		"http", "8e1", "0x50", "80:90", "99999999999999999999", "0-80")
}

func TestUnicast(t *testing.T) {
	for _, s := range []string{"10.9.0.1", "127.0.0.1", "255.255.255.254", "::1", "fd00::1", "fe80::1"} {
		equal(t, s, read[address](t, s).Addr, addr(s))
	}
	refuses[address](t, "", "host", "10.9.0", "10.9.0.256", "10.09.0.1", "10.9.0.1/32", "10.9.0.1:80", "[fd00::1]",
		"0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "fe80::1%eth0", "::ffff:10.9.0.1", "vip", " 10.9.0.1")
}

func TestAddressHints(t *testing.T) {
	for in, want := range map[string]string{
		"10.9.0.1:80": "; write address: 10.9.0.1, port: 80", "[fd00::1]:80": "; write address: fd00::1, port: 80",
		"10.9.0.1/24": "; write 10.9.0.1", "db1": "", "10.9.0": "",
	} {
		equal(t, in, address{}.hint(in), want)
	}
}

func TestVirtualAddresses(t *testing.T) {
	for in, want := range map[string]string{
		"10.9.0.100": "10.9.0.100/32", "10.9.0.100/24": "10.9.0.100/24", "10.9.0.100/32": "10.9.0.100/32",
		"10.9.0.0/31": "10.9.0.0/31", "10.9.0.1/31": "10.9.0.1/31", "10.9.0.255/16": "10.9.0.255/16", "10.9.0.0/8": "10.9.0.0/8",
		"fd00::100": "fd00::100/128", "fd00::/64": "fd00::/64", "fd00::100/1": "fd00::100/1",
	} {
		equal(t, in, read[vipPrefix](t, in).Prefix, netip.MustParsePrefix(want))
	}
	refuses[vipPrefix](t, "", "/24", "10.9.0.100/", "10.9.0.100/33", "10.9.0.100/0", "10.9.0.100/024", "fd00::1/129",
		"127.0.0.1", "::1/128", "0.0.0.0/0", "224.0.0.1/24", "10.9.0.0/24", "10.9.0.255/24", "10.9.0.4/30", "10.9.0.7/30",
		"fe80::1%eth0/64", "10.9.0.100-10.9.0.110")
}

func TestListens(t *testing.T) {
	equal(t, "vip", read[listen](t, "vip"), listen{vip: true})
	equal(t, "address", read[listen](t, "10.8.0.1"), listen{addr: addr("10.8.0.1")})
	equal(t, "IPv6", read[listen](t, "fd00::1"), listen{addr: addr("fd00::1")})
	refuses[listen](t, "", "VIP", "10.8.0.0/24", "10.8.0.1:80", "127.0.0.1", "::1", "0.0.0.0", "*")
}

func TestHostPorts(t *testing.T) {
	for _, s := range []string{"10.9.0.1:1", "[fd00::1]:65535", "0.0.0.0:7946", "[::]:7946"} {
		equal(t, s, read[addrPort](t, s).AddrPort, netip.MustParseAddrPort(s))
	}
	refuses[addrPort](t, "", ":7946", "g1:7946", "10.9.0.1", "10.9.0.1:0", "fd00::1:7946", "224.0.0.1:1", "[::ffff:10.9.0.1]:1")
	for _, s := range []string{"10.9.0.1:1", "g2.example:7946", "[fd00::1]:7946"} {
		equal(t, s, string(read[peer](t, s)), s)
	}
	refuses[peer](t, "", "g2", ":7946", "g2:", "g2:0", "g2:http", "g2:+1", "a b:1", "a/b:1", "fd00::1:7946", "g2\n:1")
	for _, s := range []string{"", ":9780", "localhost:9780", "[::1]:9780"} {
		equal(t, s, string(read[hostPort](t, s)), s)
	}
	refuses[hostPort](t, "9780", "127.0.0.1", "127.0.0.1:", "127.0.0.1:70000", "http://x:1")
}

func TestAdminListens(t *testing.T) {
	for _, s := range []string{"admin.sock", "/run/x.sock", "a/b:c", ":9781", "[::1]:9781", "a b"} {
		equal(t, s, string(read[adminListen](t, s)), s)
	}
	refuses[adminListen](t, "", "/", "/run/", "127.0.0.1:", "127.0.0.1:0", "host:http", "::1", "a\nb")
}

func TestExpressions(t *testing.T) {
	for _, s := range []string{"a", `(?m)^Date: [^\r\n]*`, `[0-9]+`, "ä"} {
		equal(t, s, read[mask](t, s).String(), s)
		equal(t, s, read[expect](t, s).String(), s)
	}
	if e := read[expect](t, ""); e.Regexp != nil {
		t.Errorf("expect: \"\" gives %v", e.Regexp)
	}
	refuses[mask](t, "", "x*", "^", "$", "(?m)^", "a|", "(", "[", `\`, `(?=a)`, `\1`, "a{1001}", "(\n")
	refuses[expect](t, "x*", ".*", "(?s).*", "(", "a**")
}

func TestQuote(t *testing.T) {
	equal(t, "short", quote("a\n\"b\""), `"a\n\"b\""`)
	equal(t, "long", quote(strings.Repeat("x", 61)), `"`+strings.Repeat("x", 60)+`"...`)
}

func TestNearest(t *testing.T) {
	known := []string{"health", "timeout", "servers", "lag", "name"}
	for in, want := range map[string]string{
		"healht": "health", "Timeout": "timeout", "timeouts": "timeout", "server": "servers", "leg": "lag", "nam": "name",
		"backend": "", "x": "", "": "", strings.Repeat("health", 10): "",
	} {
		equal(t, in, nearest(in, known), want)
	}
	for _, tc := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2}, {"same", "same", 0}} {
		equal(t, tc.a+"/"+tc.b, edits(tc.a, tc.b), tc.want)
	}
}

func TestReporterLines(t *testing.T) {
	r := newReporter("f")
	r.saw("a", 2)
	r.saw("a.b", 3)
	r.saw("a.b[0]", 4)
	for path, want := range map[string]int{
		"": 1, "x": 1, "x.y[3].z": 1, "a": 2, "a.c": 2, "a.b": 3, "a.b[0]": 4, "a.b[0].c.d": 4, "a.b[1]": 3,
	} {
		equal(t, path, r.line(path), want)
	}
	r.at("a.b[0].c", "bad")
	r.endSyntax()
	r.at("z", "found by a rule")
	for path, want := range map[string]bool{
		"": false, "a": false, "a.b": false, "a.b[0]": false, "a.b[0].c": false,
		"a.b[1]": true, "a.b[0].d": true, "b": true, "z": true,
	} {
		equal(t, "clean "+path, r.clean(path), want)
	}
	equal(t, "clean of several", r.clean("b", "a.b"), false)
}
