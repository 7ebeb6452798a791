package configs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// base is a good file of eight lines that most cases change or add to.
const base = `node: {name: g1}
virtual_ips:
  - name: front
    addresses: [{address: 10.9.0.100/24, interface: eth0}]
    services:
      - name: web
        ports: [80]
        servers: [{name: s1, address: 10.9.0.11}, {name: s2, address: 10.9.0.12}]
`

const (
	svc0  = "virtual_ips[0].services[0]"
	two   = "servers: [{name: s1, address: 10.9.0.11}, {name: s2, address: 10.9.0.12}]"
	three = "servers: [{name: s1, address: 10.9.0.11}, {name: s2, address: 10.9.0.12}, {name: s3, address: 10.9.0.13}]"
	clust = "cluster: {voters: [g1, g2, w1], secret_file: /k}\n"
)

// top adds keys of the file, the first on line 9; svcWith keys of the
// service, from line 9 too.
func top(s string) string { return base + s + "\n" }
func svcWith(lines ...string) string {
	return base + "        " + strings.Join(lines, "\n        ") + "\n"
}

// sub is base with something replaced.
func sub(old, new string) string {
	if !strings.Contains(base, old) {
		panic("base has no " + old)
	}
	return strings.Replace(base, old, new, 1)
}

// more is base with a second service, whose keys start on line 9.
func more(lines ...string) string {
	return base + "      - " + strings.Join(lines, "\n        ") + "\n"
}

type badCase struct {
	name, in string
	want     []string // without the file's name
}

func one(name, in, want string) badCase { return badCase{name, in, []string{want}} }

var badText = []badCase{
	one("empty", "", "1: the file is empty; start from configs/smallest.yaml"),
	one("only comments", "# nothing\n\n", "1: the file is empty; start from configs/smallest.yaml"),
	one("null", "---\n~\n", "1: the file is empty; start from configs/smallest.yaml"),
	one("a word",
		"hello\n",
		`1: expected keys such as node: and virtual_ips: at the top, found "hello"`),
	one("a list",
		"\n- node\n",
		"2: expected keys such as node: and virtual_ips: at the top, found a list"),
	one("binary", "\x7fELF\x02\x01", "1: byte 0x7f is not text; this is not a YAML file in UTF-8"),
	one("not UTF-8",
		base+"log: \xff\n",
		"9: byte 0xff is not text; this is not a YAML file in UTF-8"),
	one("NUL", "node:\x00", "1: byte 0x00 is not text; this is not a YAML file in UTF-8"),
	one("large",
		strings.Repeat("#\n", maxFile),
		"1: larger than 1048576 bytes; this is not a configuration"),
	one("two documents",
		base+"---\n"+base,
		"9: a second document starts here; a file holds one, remove the ---"),
	one("indentation",
		base+"gate: off\n   drain: 3s\n",
		"10: not valid YAML (mapping values are not allowed in this context); check indentation, colons, quotes and brackets"),
	one("no colon",
		sub("    services:\n", "    services\n"),
		"5: not valid YAML (could not find expected ':'); check indentation, colons, quotes and brackets"),
	one("outdented key",
		base+"       legs: 1\n",
		"9: not valid YAML (did not find expected '-' indicator); check indentation, colons, quotes and brackets"),
	one("open quote",
		base+"drain: \"30s\nlog: {}\n",
		"9: not valid YAML (found unexpected end of stream); check indentation, colons, quotes and brackets"),
	one("open bracket",
		sub("ports: [80]", "ports: [80"),
		"7: not valid YAML (did not find expected ',' or ']'); check indentation, colons, quotes and brackets"),
	one("tab", base+"log:\n\tlevel: info\n", "10: not valid YAML (tab); indent with spaces"),
	one("unknown anchor",
		top("drain: *d"),
		"9: not valid YAML (unknown anchor 'd' referenced); check indentation, colons, quotes and brackets"),
	one("merge itself",
		top("log: &l {<<: *l}"),
		"9: log: expected << to merge a map that does not contain itself, found a map"),
	one("merge a word",
		top("log: {<<: info}"),
		`9: log: expected << to merge a map that does not contain itself, found "info"`),
	one("map as key",
		top("log: {{a: b}: c}"),
		"9: log: expected a word as key, found a map; quote values that contain { or ["),
}

var badKeys = []badCase{
	one("unknown at the top",
		top("virtual_ip: []"),
		"9: virtual_ip: unknown key; did you mean virtual_ips?"),
	one("unknown, nothing near",
		top("frontend: {}"),
		"9: frontend: unknown key; known here: node, cluster, virtual_ips, gate, admin, drain, log"),
	one("unknown in a service",
		svcWith("legs: 2", "Timeouts: {}"),
		"10: "+svc0+".Timeouts: unknown key; did you mean timeout?"),
	one("unknown in a server",
		sub("address: 10.9.0.11}", "adress: 10.9.0.11}"),
		"8: "+svc0+".servers[0].adress: unknown key; did you mean address?").
		and("8: " + svc0 + ".servers[0].address: is missing; give the server's IP address"),
	one("capitals", top("Drain: 3s"), "9: Drain: unknown key; did you mean drain?"),
	one("key of another level",
		top("log.level: info"),
		`9: "log.level": unknown key; known here: node, cluster, virtual_ips, gate, admin, drain, log`),
	one("merged unknown",
		svcWith("timeout: &t {idle: 1h}", "health: {<<: *t}"),
		"9: "+svc0+".health.idle: unknown key; known here: interval, timeout, rise, fall, send, expect"),
	one("key twice",
		svcWith("legs: 2", "stateful: false", "legs: 1"),
		"11: "+svc0+".legs: given twice (first on line 9); keep one"),
	one("section twice",
		top("drain: 3s\nnode: {name: g2}"),
		"10: node: given twice (first on line 1); keep one"),
	one("no value", top("drain:"), "9: drain: has no value; give one or remove the key"),
	one("no value in a list",
		sub("ports: [80]", "ports: [80, ~]"),
		"7: "+svc0+".ports[1]: has no value; give one or remove the key"),
	one("empty section",
		top("cluster:\n#  gossip: 1"),
		"9: cluster: has no value; give one or remove the key"),
	one("node missing",
		strings.TrimPrefix(base, "node: {name: g1}\n"),
		"1: node.name: is missing; give a name for this node, such as name: g1"),
	one("no virtual IPs",
		"node: {name: g1}\n",
		"1: virtual_ips: is missing; give a gateway at least one virtual IP with a service"),
	one("empty virtual IPs",
		"node: {name: g1}\nvirtual_ips: []\n",
		"2: virtual_ips: is missing; give a gateway at least one virtual IP with a service"),
	one("no ports",
		sub("        ports: [80]\n", ""),
		"6: "+svc0+".ports: is missing; give at least one port, such as [80, 8000-8010]"),
	one("empty servers",
		sub(two, "servers: []"),
		"8: "+svc0+".servers: is empty; give at least one, such as - {name: s1, address: 10.9.0.11}"),
	one("no interface",
		sub(", interface: eth0", ""),
		"4: virtual_ips[0].addresses[0].interface: is missing; give the network interface that it lies on, such as eth0"),
}

// and adds a line to what a case expects.
func (b badCase) and(want string) badCase {
	b.want = append(b.want, want)
	return b
}

var badTypes = []badCase{
	one("list for a map",
		sub("{name: g1}", "[g1]"),
		"1: node: expected a map with the keys name, role, run_dir, state_dir, bpf_dir, found a list"),
	one("word for a map",
		svcWith("compare: exact"),
		"9: "+svc0+`.compare: expected a map with the keys mode, mask, report, found "exact"`),
	one("word for a server",
		sub("{name: s1, address: 10.9.0.11}", "10.9.0.11"),
		"8: "+svc0+`.servers[0]: expected a map with the keys name, address, port, found "10.9.0.11"`),
	one("number for a list",
		sub("[80]", "80"),
		"7: "+svc0+".ports: expected a list, found the number 80; write [80]"),
	one("map for a list",
		sub("[{address: 10.9.0.100/24, interface: eth0}]", "{address: 10.9.0.100/24, interface: eth0}"),
		"4: virtual_ips[0].addresses: expected a list, found a map"),
	one("word for a number",
		svcWith("legs: two"),
		"9: "+svc0+`.legs: expected a whole number, found "two"`),
	one("fraction",
		svcWith("legs: 1.5"),
		"9: "+svc0+".legs: expected a whole number, found the number 1.5"),
	one("quoted number",
		svcWith(`maxconn: "10"`),
		"9: "+svc0+`.maxconn: expected a whole number, found "10"`),
	one("too large",
		svcWith("maxconn: 99999999999"),
		"9: "+svc0+".maxconn: expected a whole number, found the number 99999999999"),
	one("word for a boolean",
		svcWith("stateful: yes"),
		"9: "+svc0+`.stateful: expected true or false, found "yes"`),
	one("number as name",
		sub("name: g1", "name: 1"),
		`1: node.name: expected a name of at most 64 letters, digits, dots, dashes or underscores, found the number 1; quote it: "1"`),
	one("boolean as level",
		top("log: {level: true}"),
		"9: log.level: expected debug or info or warn or error, found the boolean true"),
	one("number as string",
		svcWith("health: {send: 5}"),
		"9: "+svc0+`.health.send: expected a string, found the number 5; quote it: "5"`),
	one("date as name",
		sub("name: front", "name: 2026-01-02"),
		`3: virtual_ips[0].name: expected a name of at most 64 letters, digits, dots, dashes or underscores, found the date 2026-01-02; quote it: "2026-01-02"`),
	one("list for a word", top("gate: [off]"), "9: gate: expected required or off, found a list"),
	one("foreign tag",
		top("gate: !x off"),
		`9: gate: expected required or off, found a value with the tag "!x"`),
	one("wrong word", top("gate: on"), `9: gate: expected required or off, found "on"`),
	one("empty word", top(`gate: ""`), `9: gate: expected required or off, found ""`),
	one("two words",
		svcWith("balance: roundrobin leastconn"),
		"9: "+svc0+`.balance: expected roundrobin or leastconn or source, found "roundrobin leastconn"`),
	one("number as version",
		svcWith("proxy_protocol: 1"),
		"9: "+svc0+".proxy_protocol: expected none or v1 or v2, found the number 1"),
	one("log format",
		top("log: {format: xml}"),
		`9: log.format: expected text or json, found "xml"`),
	one("on_divergence",
		svcWith("on_divergence: panic"),
		"9: "+svc0+`.on_divergence: expected mute or eject or reset, found "panic"`),
	one("name with a space",
		sub("name: web", "name: my web"),
		"6: "+svc0+`.name: expected a name of at most 64 letters, digits, dots, dashes or underscores, found "my web"`),
	one("empty name",
		sub("name: s1", `name: ""`),
		"8: "+svc0+`.servers[0].name: expected a name of at most 64 letters, digits, dots, dashes or underscores, found ""`),
	one("name of a directory",
		sub("name: web", `name: ".."`),
		"6: "+svc0+`.name: expected a name of at most 64 letters, digits, dots, dashes or underscores, found ".."`),
	one("relative path",
		sub("{name: g1}", "{name: g1, state_dir: lib}"),
		`1: node.state_dir: expected an absolute path such as /etc/sttcp/file, found "lib"`),
	one("interface too long",
		sub("eth0", "enp0123456789abcdef"),
		`4: virtual_ips[0].addresses[0].interface: expected a network interface of at most 15 bytes, such as eth0, found "enp0123456789abcdef"`),
}

const wantsDuration = "expected a duration with a unit (ms, s, m, h) such as 250ms, found "

var badValues = []badCase{
	one("duration without unit",
		top("drain: 30"),
		"9: drain: "+wantsDuration+"the number 30; write 30ms or 30s"),
	one("quoted duration without unit",
		top(`drain: "30"`),
		"9: drain: "+wantsDuration+`"30"; write 30ms or 30s`),
	one("zero without unit", top("drain: '0'"), "9: drain: "+wantsDuration+`"0"; write 0ms or 0s`),
	one("duration in days",
		svcWith("timeout: {idle: 1d}"),
		"9: "+svc0+".timeout.idle: "+wantsDuration+`"1d"`),
	one("negative duration", top("drain: -1s"), "9: drain: expected at least 0s, found -1s"),
	one("zero interval",
		svcWith("health:", "  interval: 0s"),
		"10: "+svc0+".health.interval: expected at least 1ms, found 0s"),
	one("duration too long",
		svcWith("timeout: {idle: 9000h}"),
		"9: "+svc0+".timeout.idle: expected at most 8760h, found 9000h"),
	one("buffer with the wrong unit",
		svcWith("buffer: 256KB"),
		"9: "+svc0+`.buffer: expected a size such as 256KiB, 1MiB or a number of bytes, found "256KB"`),
	one("buffer too small",
		svcWith("buffer: 4095"),
		"9: "+svc0+".buffer: expected 4KiB to 16MiB, found 4095"),
	one("buffer too large",
		svcWith("buffer: 1GiB"),
		"9: "+svc0+".buffer: expected 4KiB to 16MiB, found 1GiB"),
	one("buffer far too large",
		svcWith("buffer: 99999999999GiB"),
		"9: "+svc0+`.buffer: expected a size such as 256KiB, 1MiB or a number of bytes, found "99999999999GiB"`),
	one("three legs", svcWith("legs: 3"), "9: "+svc0+".legs: expected 1 to 2, found 3"),
	one("no legs", svcWith("legs: 0"), "9: "+svc0+".legs: expected 1 to 2, found 0"),
	one("rise",
		svcWith("health: {rise: 0}"),
		"9: "+svc0+".health.rise: expected at least 1, found 0"),
	one("fall",
		svcWith("health: {fall: -1}"),
		"9: "+svc0+".health.fall: expected at least 1, found -1"),
	one("maxconn", svcWith("maxconn: 0"), "9: "+svc0+".maxconn: expected at least 1, found 0"),
	one("maxhalfopen",
		svcWith("maxhalfopen: 0"),
		"9: "+svc0+".maxhalfopen: expected at least 1, found 0"),
	one("port 0",
		sub("[80]", "[0]"),
		"7: "+svc0+`.ports[0]: expected a port from 1 to 65535 or a range such as 8000-8010, found "0"`),
	one("port too large",
		sub("[80]", "[80, 8000-65536]"),
		"7: "+svc0+`.ports[1]: expected a port from 1 to 65535 or a range such as 8000-8010, found "8000-65536"`),
	one("signed port",
		sub("[80]", "[+80]"),
		"7: "+svc0+`.ports[0]: expected a port from 1 to 65535 or a range such as 8000-8010, found "+80"`),
	one("half a range",
		sub("[80]", `["80-"]`),
		"7: "+svc0+`.ports[0]: expected a port from 1 to 65535 or a range such as 8000-8010, found "80-"`),
	one("backward range",
		sub("[80]", "[8010-8000]"),
		"7: "+svc0+".ports[0]: the range 8010-8000 runs backwards; write 8000-8010"),
	one("server port",
		sub("address: 10.9.0.11", "address: 10.9.0.11, port: 0"),
		"8: "+svc0+".servers[0].port: expected 1 to 65535, found 0"),
	one("mask does not compile",
		svcWith("compare:", "  mask:", "    - 'a'", "    - '(b'"),
		"12: "+svc0+`.compare.mask[1]: "(b" is not a regular expression (RE2): missing closing ) at "(b"`),
	one("number as a mask",
		svcWith("compare: {mask: [5]}"),
		"9: "+svc0+`.compare.mask[0]: expected a regular expression such as '(?m)^Date: [^\r\n]*', found the number 5`),
	one("list as a mask",
		svcWith("health: {expect: [a]}"),
		"9: "+svc0+`.health.expect: expected a regular expression such as '^\+PONG', found a list`),
	one("mask of nothing",
		svcWith("compare: {mask: ['x*']}"),
		"9: "+svc0+`.compare.mask[0]: "x*" matches the empty string, so it masks nothing; make it match at least one byte`),
	one("expect anything",
		svcWith("health: {expect: '.*'}"),
		"9: "+svc0+`.health.expect: ".*" matches the empty string, so every server would pass; make it match at least one byte`),
	one("mask over two lines",
		svcWith(`compare: {mask: ["(\n"]}`),
		"9: "+svc0+`.compare.mask[0]: "(\n" is not a regular expression (RE2): missing closing ) at "(\n"`),
}

const wantsHost = "expected the IP address of one host (names are not looked up), found "

var badAddresses = []badCase{
	one("server by name",
		sub("10.9.0.11", "db1.example"),
		"8: "+svc0+".servers[0].address: "+wantsHost+`"db1.example"`),
	one("server with port",
		sub("10.9.0.11", "10.9.0.11:8080"),
		"8: "+svc0+".servers[0].address: "+wantsHost+`"10.9.0.11:8080"; write address: 10.9.0.11, port: 8080`),
	one("server with prefix",
		sub("10.9.0.11", "10.9.0.11/24"),
		"8: "+svc0+".servers[0].address: "+wantsHost+`"10.9.0.11/24"; write 10.9.0.11`),
	one("server unspecified",
		sub("10.9.0.11", "0.0.0.0"),
		"8: "+svc0+".servers[0].address: "+wantsHost+`"0.0.0.0"`),
	one("server multicast",
		sub("10.9.0.11", `"ff02::1"`),
		"8: "+svc0+".servers[0].address: "+wantsHost+`"ff02::1"`),
	one("server with zone",
		sub("10.9.0.11", `"fe80::1%eth0"`),
		"8: "+svc0+".servers[0].address: "+wantsHost+`"fe80::1%eth0"`),
	one("IPv4 in IPv6",
		sub("10.9.0.11", `"::ffff:10.9.0.11"`),
		"8: "+svc0+".servers[0].address: "+wantsHost+`"::ffff:10.9.0.11"`),
	one("virtual address",
		sub("10.9.0.100/24", "10.9.0.300"),
		`4: virtual_ips[0].addresses[0].address: expected the IP address of one host such as 10.9.0.100/24 or fd00::100, found "10.9.0.300"`),
	one("virtual address, prefix",
		sub("10.9.0.100/24", "10.9.0.100/33"),
		`4: virtual_ips[0].addresses[0].address: expected the IP address of one host such as 10.9.0.100/24 or fd00::100, found "10.9.0.100/33"`),
	one("virtual address, loopback",
		sub("10.9.0.100/24", "127.0.0.1"),
		`4: virtual_ips[0].addresses[0].address: expected the IP address of one host such as 10.9.0.100/24 or fd00::100, found "127.0.0.1"`),
	one("network address",
		sub("10.9.0.100/24", "10.9.0.0/24"),
		"4: virtual_ips[0].addresses[0].address: 10.9.0.0 is the network or broadcast address of 10.9.0.0/24; give the address of one host"),
	one("broadcast address",
		sub("10.9.0.100/24", "10.9.0.255/24"),
		"4: virtual_ips[0].addresses[0].address: 10.9.0.255 is the network or broadcast address of 10.9.0.0/24; give the address of one host"),
	one("listen",
		svcWith("listen: eth0"),
		"9: "+svc0+`.listen: expected vip or the IP address of one host, found "eth0"`),
	one("listen on a virtual address",
		svcWith("listen: 10.9.0.100"),
		"9: "+svc0+".listen: 10.9.0.100 is an address of virtual IP front; write listen: vip in a service of it, or a routed address"),
	one("server is the virtual IP",
		sub("10.9.0.11", "10.9.0.100"),
		"8: "+svc0+".servers[0].address: 10.9.0.100 belongs to virtual IP front, not to a server; give the server's own address"),
	one("same server twice",
		sub("10.9.0.12", "10.9.0.11"),
		"8: "+svc0+".servers[1].address: 10.9.0.11 is the same server as s1; remove one or give different ports"),
	one("same server, one port given",
		sub("10.9.0.12", "10.9.0.11, port: 80"),
		"8: "+svc0+".servers[1].address: 10.9.0.11 is the same server as s1; remove one or give different ports"),
	one("duplicate virtual address",
		sub("[{address: 10.9.0.100/24, interface: eth0}]",
			"\n      - {address: 10.9.0.100/24, interface: eth0}\n      - {address: 10.9.0.100, interface: eth1}"),
		"6: virtual_ips[0].addresses[1].address: 10.9.0.100 is a virtual address already (line 5); remove one"),
	one("no family for a server",
		sub("10.9.0.12", `"fd00::12"`),
		"8: "+svc0+".servers[1].address: fd00::12 is IPv6, but virtual IP front has no IPv6 address to reach it from; add one or use source: client"),
	one("clients of another family",
		strings.Replace(svcWith("source: client"), "10.9.0.12", `"fd00::12"`, 1),
		"8: "+svc0+".servers[1].address: fd00::12 is IPv6 and source: client cannot pass on the IPv4 clients of 10.9.0.100; use source: vip or a server address of their family"),
	one("routed clients of another family",
		svcWith(`listen: "fd00::5"`, "source: client", "legs: 1", "stateful: false"),
		"8: "+svc0+".servers[0].address: 10.9.0.11 is IPv4 and source: client cannot pass on the IPv6 clients of fd00::5; use source: vip or a server address of their family").
		and("8: " + svc0 + ".servers[1].address: 10.9.0.12 is IPv4 and source: client cannot pass on the IPv6 clients of fd00::5; use source: vip or a server address of their family"),
}

var badServices = []badCase{
	one("service name twice",
		more("name: web", "ports: [81]", two),
		"9: virtual_ips[0].services[1].name: web is the name of another service (line 6); choose a different one"),
	one("server name twice",
		sub("name: s2", "name: s1"),
		"8: "+svc0+".servers[1].name: s1 is the name of another server of this service (line 8); choose a different one"),
	one("ports overlap in a service",
		sub("[80]", "[80, 8000-8010, 8005]"),
		"7: "+svc0+".ports[2]: 8005 overlaps 8000-8010 of this service (line 7); each port of an address belongs to one service"),
	one("port twice",
		sub("[80]", "[80, 80]"),
		"7: "+svc0+".ports[1]: 80 overlaps 80 of this service (line 7); each port of an address belongs to one service"),
	one("ports overlap across services",
		more("name: alt", "ports: [81, 79-80]", two),
		"10: virtual_ips[0].services[1].ports[1]: 79-80 overlaps 80 of service web (line 7); each port of an address belongs to one service"),
	one("ports overlap a long range",
		sub("[80]", "[1-100, 10-20, 50]"),
		"7: "+svc0+".ports[1]: 10-20 overlaps 1-100 of this service (line 7); each port of an address belongs to one service").
		and("7: " + svc0 + ".ports[2]: 50 overlaps 1-100 of this service (line 7); each port of an address belongs to one service"),
	one("overlap on two addresses is told once",
		strings.Replace(sub("[80]", "[80, 80]"), "eth0}]", "eth0}, {address: 10.9.0.101, interface: eth0}]", 1),
		"7: "+svc0+".ports[1]: 80 overlaps 80 of this service (line 7); each port of an address belongs to one service"),
	one("one server for two legs",
		sub(", {name: s2, address: 10.9.0.12}", ""),
		"6: "+svc0+".legs: 2 legs need at least 2 servers, found 1; add a server or set legs: 1"),
	one("stateful with three",
		sub(two, three),
		"6: "+svc0+".stateful: true with legs: 2 needs exactly as many servers, found 3; list 2, or set stateful: false if servers keep nothing between connections"),
	one("stateful with one leg",
		svcWith("legs: 1"),
		"6: "+svc0+".stateful: true with legs: 1 needs exactly as many servers, found 2; list 1, or set stateful: false if servers keep nothing between connections"),
	one("rejoin auto",
		svcWith("rejoin: auto"),
		"9: "+svc0+".rejoin: auto needs stateful: false, since a stateful server that was away is stale; use manual"),
	one("release both with one leg",
		svcWith("legs: 1", "stateful: false", "release: both"),
		"11: "+svc0+".release: both needs legs: 2; use release: primary or remove the key"),
	one("mask without comparing",
		svcWith("compare: {mode: length, mask: [a]}"),
		"9: "+svc0+".compare.mask: has no meaning with mode: length; use mode: exact or remove the mask"),
	one("lag",
		svcWith("lag: {suspect: 2s}"),
		"9: "+svc0+".lag: suspect 2s is not shorter than limit 2s; make the limit longer"),
	one("virtual IP name twice",
		base+strings.Replace(strings.Replace(base[len("node: {name: g1}\nvirtual_ips:\n"):],
			"10.9.0.100", "10.9.0.101", 1), "name: web", "name: web2", 1),
		"9: virtual_ips[1].name: front is the name of another virtual IP (line 3); choose a different one"),
	one("prefer twice",
		sub("    services:", "    prefer: [g1, g2, g1]\n    services:"),
		"5: virtual_ips[0].prefer[2]: g1 is listed twice; remove one"),
	one("routed address of two virtual IPs",
		base+`        listen: 10.8.0.1
  - name: back
    addresses: [{address: 10.9.0.101, interface: eth0}]
    services:
      - name: old
        listen: 10.8.0.1
        ports: [1-100]
        servers: [{name: s1, address: 10.8.0.1}, {name: s2, address: 10.9.0.12}]
`,
		"15: virtual_ips[1].services[0].ports[0]: 1-100 overlaps 80 of service web (line 7); each port of an address belongs to one service"),
	{"many at once", sub("name: g1", "name: g 1") + "gate: maybe\ndrain: 5\n" + "extra: 1\n", []string{
		`1: node.name: expected a name of at most 64 letters, digits, dots, dashes or underscores, found "g 1"`,
		`9: gate: expected required or off, found "maybe"`,
		"10: drain: " + wantsDuration + "the number 5; write 5ms or 5s",
		"11: extra: unknown key; known here: node, cluster, virtual_ips, gate, admin, drain, log",
	}},
	{"syntax in one service, a rule in another", more("name: web", "ports: [80]", "servers: 5"), []string{
		"9: virtual_ips[0].services[1].name: web is the name of another service (line 6); choose a different one",
		"10: virtual_ips[0].services[1].ports[0]: 80 overlaps 80 of service web (line 7); each port of an address belongs to one service",
		"11: virtual_ips[0].services[1].servers: expected a list, found the number 5; write [5]",
	}},
	{"bad addresses are not the same server", strings.NewReplacer("10.9.0.11", "a", "10.9.0.12", "b").Replace(base), []string{
		"8: " + svc0 + ".servers[0].address: " + wantsHost + `"a"`,
		"8: " + svc0 + ".servers[1].address: " + wantsHost + `"b"`,
	}},
	{"bad listen addresses do not overlap", svcWith("listen: a") + "      - {name: b, ports: [80], listen: b, " + two + "}\n", []string{
		"9: " + svc0 + `.listen: expected vip or the IP address of one host, found "a"`,
		`10: virtual_ips[0].services[1].listen: expected vip or the IP address of one host, found "b"`,
	}},
	{"a bad service keeps its index", strings.Replace(more("name: c", "ports: [81]", "legs: 1", two), "      - name: web", "      - web\n      - name: web", 1), []string{
		`6: virtual_ips[0].services[0]: expected a map with the keys name, listen, ports, servers, legs, stateful, rejoin, balance, release, compare, on_divergence, source, proxy_protocol, lag, buffer, fin_delay, maxconn, maxhalfopen, timeout, health, found "web"`,
		"10: virtual_ips[0].services[2].stateful: true with legs: 1 needs exactly as many servers, found 2; list 1, or set stateful: false if servers keep nothing between connections",
	}},
	{"a bad name in a list", sub("    services:", "    prefer: [g 1, g2, g2]\n    services:"), []string{
		`5: virtual_ips[0].prefer[0]: expected a name of at most 64 letters, digits, dots, dashes or underscores, found "g 1"`,
	}},
	one("a bad server is not a missing one",
		sub("{name: s2, address: 10.9.0.12}", "s2"),
		"8: "+svc0+`.servers[1]: expected a map with the keys name, address, port, found "s2"`),
}

var badNodes = []badCase{
	one("witness alone",
		"node: {name: w1, role: witness}\n",
		"1: node.role: a witness votes in a cluster, but there is no cluster; add one or use role: gateway"),
	one("witness with a broken cluster",
		"node: {name: w1, role: witness}\ncluster: yes\n",
		`2: cluster: expected a map with the keys gossip, link, join, voters, secret_file, timing, tls, fence, isolation, found "yes"`),
	one("witness without a good name",
		"node: {name: w 1, role: witness}\n"+clust,
		`1: node.name: expected a name of at most 64 letters, digits, dots, dashes or underscores, found "w 1"`),
	one("admin with a bad token file",
		top("admin: {listen: 0.0.0.0:9781, token_file: t}"),
		`9: admin.token_file: expected an absolute path such as /etc/sttcp/file, found "t"`),
	one("witness without a vote",
		"node: {name: w2, role: witness}\n"+clust,
		"2: cluster.voters: this node, the witness w2, is not among them; add it, voting is all it does"),
	one("gate off in a cluster",
		top("gate: off\n"+clust),
		"9: gate: off is for a node alone, but there is a cluster; use required or remove the cluster"),
	one("cluster of nothing",
		top("cluster: {}"),
		"9: cluster.voters: is missing; give the names of the nodes that vote, such as [g1, g2, w1]").
		and("9: cluster.secret_file: is missing; give the path of a file with the secret that all nodes share"),
	one("empty secret",
		top(`cluster: {voters: [g1], secret_file: ""}`),
		"9: cluster.secret_file: is empty; give the path of a file with the secret that all nodes share"),
	one("voter twice",
		top("cluster: {voters: [g1, g1, w1], secret_file: /k}"),
		"9: cluster.voters[1]: g1 is listed twice; remove one"),
	one("two voters, no neighbour",
		top("cluster: {voters: [g1, g2], secret_file: /k}"),
		"9: cluster.isolation.neighbours: two voters have no majority when one dies; list a router here, add a witness, or set without_majority: fence"),
	one("neighbour moves",
		top("cluster: {voters: [g1, g2], secret_file: /k, isolation: {neighbours: [10.9.0.100]}}"),
		"9: cluster.isolation.neighbours[0]: 10.9.0.100 belongs to virtual IP front, which moves; give an address that stays, such as the router's"),
	one("timing by an unknown name",
		top(strings.Replace(clust, "}", ", timing: slow}", 1)),
		`9: cluster.timing: expected fast, lan, wan or {heartbeat: 200ms, lease: 1s}, found "slow"`),
	one("half a timing",
		top("cluster:\n  voters: [g1]\n  secret_file: /k\n  timing:\n    lease: 1s"),
		"12: cluster.timing.heartbeat: is missing; give how often to renew, such as 200ms"),
	one("lease too short",
		top(strings.Replace(clust, "}", ", timing: {heartbeat: 1s, lease: 1s}}", 1)),
		"9: cluster.timing: heartbeat 1s is not shorter than lease 1s; make the lease about five heartbeats"),
	one("gossip by name",
		top(strings.Replace(clust, "}", ", gossip: g1:7946}", 1)),
		`9: cluster.gossip: expected IP:PORT such as 10.9.0.1:7946 or [fd00::1]:7946, found "g1:7946"`),
	one("join without port",
		top(strings.Replace(clust, "}", ", join: [10.9.0.2]}", 1)),
		`9: cluster.join[0]: expected HOST:PORT such as 10.9.0.2:7946, found "10.9.0.2"`),
	one("link on gossip's port",
		top(strings.Replace(clust, "}", ", link: 10.9.0.1:7946}", 1)),
		"9: cluster.link: 10.9.0.1:7946 collides with cluster.gossip 0.0.0.0:7946; use another port"),
	one("half of tls",
		top(strings.Replace(clust, "}", ", tls: {ca: /ca}}", 1)),
		"9: cluster.tls: cert and key not given; give ca, cert and key, or none of them"),
	one("fence in PATH",
		top(strings.Replace(clust, "}", ", fence: {command: [ipmitool, off]}}", 1)),
		`9: cluster.fence.command[0]: expected the absolute path of a program, found "ipmitool"`),
	one("without_majority",
		top(strings.Replace(clust, "}", ", isolation: {without_majority: pray}}", 1)),
		`9: cluster.isolation.without_majority: expected neighbours or fence, found "pray"`),
	one("admin without token",
		top("admin: {listen: 0.0.0.0:9781}"),
		"9: admin.token_file: is missing; admin.listen is HOST:PORT, so give the path of a file with a token"),
	one("admin port",
		top(`admin: {listen: "127.0.0.1:0"}`),
		`9: admin.listen: expected a path such as admin.sock, or HOST:PORT, found "127.0.0.1:0"`),
	one("admin is a directory",
		top("admin: {listen: /run/}"),
		`9: admin.listen: expected a path such as admin.sock, or HOST:PORT, found "/run/"`),
	one("admin socket too long",
		top("admin: {listen: /"+strings.Repeat("a", 107)+"}"),
		`9: admin.listen: "/`+strings.Repeat("a", 59)+`"... has 108 bytes, a Unix socket at most 107; use a shorter path`),
	one("metrics on the admin port",
		top("admin: {listen: 127.0.0.1:1, token_file: /t, metrics: 127.0.0.1:1}"),
		"9: admin.metrics: 127.0.0.1:1 is admin.listen already; use another port"),
	one("metrics without port",
		top("admin: {metrics: 127.0.0.1}"),
		`9: admin.metrics: expected HOST:PORT such as 127.0.0.1:9780, or "", found "127.0.0.1"`),
}

func TestBad(t *testing.T) {
	for _, group := range [][]badCase{badText, badKeys, badTypes, badValues, badAddresses, badServices, badNodes} {
		for _, tc := range group {
			t.Run(strings.ReplaceAll(tc.name, "/", "_"), func(t *testing.T) {
				c, err := Parse("f.yaml", []byte(tc.in), Env{})
				if err == nil || c != nil {
					t.Fatalf("want no configuration and an error, got %+v, %v", c, err)
				}
				want := "f.yaml:" + strings.Join(tc.want, "\nf.yaml:")
				if err.Error() != want {
					t.Errorf("got:\n%v\nwant:\n%s", err, want)
				}
			})
		}
	}
}

func TestBaseIsGood(t *testing.T) {
	for _, in := range []string{base, svcWith("legs: 2"), top("gate: off"), top(clust), more("name: b", "ports: [81]", two)} {
		if _, err := Parse("f.yaml", []byte(in), Env{}); err != nil {
			t.Errorf("%v in\n%s", err, in)
		}
	}
}

func TestLoadUnreadable(t *testing.T) {
	dir := t.TempDir()
	none := filepath.Join(dir, "none.yaml")
	for _, tc := range []struct{ path, want string }{
		{none, none + ": no such file; give the path of the configuration with -c FILE"},
		{dir, dir + ": is a directory; give the path of the file in it"},
	} {
		_, err := Load(tc.path, Env{})
		if err == nil || err.Error() != tc.want {
			t.Errorf("got %v, want %s", err, tc.want)
		}
	}
	if _, err := Load(none, Env{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%v does not tell fs.ErrNotExist", err)
	}
	if _, err := Load("/dev/zero", Env{}); err == nil || !strings.HasPrefix(err.Error(), "/dev/zero:1: larger than") {
		t.Errorf("/dev/zero: %v", err)
	}
}

func TestErrorsAs(t *testing.T) {
	_, err := Parse("f.yaml", []byte(top("drain: 5")), Env{})
	var e *Error
	if !errors.As(err, &e) || e.Line != 9 || e.Key != "drain" || e.File != "f.yaml" {
		t.Errorf("got %#v", e)
	}
}

// TestLongBrokenFile has too many lines to search for the bad one.
func TestLongBrokenFile(t *testing.T) {
	_, err := Parse("f.yaml", []byte(strings.Repeat("#\n", maxSearchLines)+base+"drain: 'x\n"), Env{})
	want := "f.yaml:1009: not valid YAML (found unexpected end of stream); check indentation, colons, quotes and brackets"
	if err == nil || err.Error() != want {
		t.Errorf("got %v", err)
	}
}

// TestAliasBomb wants the work bounded, not merely the answer right.
func TestAliasBomb(t *testing.T) {
	var b strings.Builder
	b.WriteString("virtual_ips:\n- &v\n  services:\n  - &s\n    servers:\n    - &x {name: a, address: 10.9.0.1}\n")
	b.WriteString(strings.Repeat("    - *x\n", 300))
	b.WriteString(strings.Repeat("  - *s\n", 300))
	b.WriteString(strings.Repeat("- *v\n", 300))
	_, err := Parse("f.yaml", []byte(b.String()), Env{})
	if err == nil || !strings.Contains(err.Error(), "more than 100000 values; use fewer aliases") {
		t.Errorf("got %.200v", err)
	}
}

func TestEnv(t *testing.T) {
	env := Env{
		InterfaceExists: func(name string) bool { return name == "eth1" },
		FileReadable:    func(path string) error { return fmt.Errorf("open %s: %w", path, os.ErrNotExist) },
	}
	_, err := Parse("f.yaml", []byte(top("admin: {token_file: /t}\n"+clust)), env)
	want := strings.Join([]string{
		"f.yaml:4: virtual_ips[0].addresses[0].interface: this host has no network interface eth0; correct the name (see: ip link)",
		"f.yaml:9: admin.token_file: cannot be read: open /t: file does not exist; create the file or correct the path",
		"f.yaml:10: cluster.secret_file: cannot be read: open /k: file does not exist; create the file or correct the path",
	}, "\n")
	if err == nil || err.Error() != want {
		t.Errorf("got:\n%v\nwant:\n%s", err, want)
	}
	witness := strings.Replace(base, "name: g1", "name: w1, role: witness", 1) + clust
	if _, err := Parse("f.yaml", []byte(witness), Env{InterfaceExists: env.InterfaceExists}); err != nil {
		t.Errorf("a witness needs no interface: %v", err)
	}
}

func TestHost(t *testing.T) {
	env, dir := Host(), t.TempDir()
	if !env.InterfaceExists("lo") || env.InterfaceExists("none0") {
		t.Error("InterfaceExists: want lo and not none0")
	}
	if err := env.FileReadable(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	file := filepath.Join(dir, "there")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := env.FileReadable(file); err != nil {
		t.Errorf("readable file: %v", err)
	}
}
