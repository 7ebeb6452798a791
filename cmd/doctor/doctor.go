// Package doctor checks whether a host has all that a gateway needs, and says
// for each thing that is missing what to do.
//
// It only looks, or tries things that leave nothing behind, and so may be run
// beside a working gateway. Every check is a small function in the table
// checks; what it reads under /proc/sys comes from a directory that tests
// replace.
package doctor

import (
	"context"
	"fmt"
	"io"

	"sttcp/configs"
)

// level is how bad a finding is.
type level int

const (
	levelOK   level = iota
	levelWarn       // works, but not in every network or not as fast
	levelFail       // does not work
)

func (l level) String() string {
	return [...]string{"ok  ", "warn", "FAIL"}[l]
}

// finding is one line of the report.
type finding struct {
	level level
	what  string
	fix   string // a command, or a key of the configuration; empty if ok
}

// ok is something that is as it should be.
func ok(format string, args ...any) finding {
	return finding{levelOK, fmt.Sprintf(format, args...), ""}
}

// warn is something that harms in some networks, or only speed.
func warn(fix, format string, args ...any) finding {
	return finding{levelWarn, fmt.Sprintf(format, args...), fix}
}

// fail is something without which the gateway, or a service, does not work.
func fail(fix, format string, args ...any) finding {
	return finding{levelFail, fmt.Sprintf(format, args...), fix}
}

// String is the line of the report. People grep for FAIL and scripts for the
// first word, so its form is not to be changed.
func (f finding) String() string {
	s := f.level.String() + " " + f.what
	if f.fix != "" {
		s += ": " + f.fix
	}
	return s
}

// host is what checks look at. It is not changed after newHost. What the kernel
// knows of links, routes and sockets is asked when a check needs it, since it
// may change between two runs.
type host struct {
	cfg     *configs.Config // nil: the host as such is checked
	procSys string          // the directory /proc/sys, or a test's
	links   []string        // interfaces on which packets of services come in
	checks  []check
}

// A check looks at one thing, which may give several findings, or none if the
// configuration does not use it.
type check func(h *host) []finding

// gatewayChecks is in the order of the report: first what most of the rest
// needs, then the network, the kernel's settings, and what the process uses.
var gatewayChecks = []check{
	capabilities, kernelVersion, nftFeatures, transparentSockets, policyRouting, foreignMarks, inputPolicy,
	interfaces, ipv6Enabled, serverRoutes,
	markSysctls, rpFilter, srcValidMark, arpIgnore, arpAnnounce, forwarding, bridgeNetfilter, nonlocalBind,
	backlog, fileLimit,
	directories, foreignListeners, tcpListeners,
	tcpRepair, gate,
}

// witnessChecks is for a node that only votes: it intercepts nothing.
var witnessChecks = []check{fileLimit, directories, tcpListeners}

// Run prints one line per check to out, `ok   what`, `warn what: what to do`
// or `FAIL what: what to do`, and reports whether none of them is a FAIL. With
// a nil cfg it checks what any gateway needs. It looks at the network namespace
// of the calling thread, and ends early, not ok, when ctx does.
func Run(ctx context.Context, cfg *configs.Config, out io.Writer) bool {
	return newHost(cfg, "/proc/sys").run(ctx, out)
}

// newHost prepares the checks. Of a file that all nodes share a witness uses
// only what is about the node itself.
func newHost(cfg *configs.Config, procSys string) *host {
	h := &host{cfg: cfg, procSys: procSys, checks: gatewayChecks}
	if cfg != nil && cfg.Node.Role == configs.RoleWitness {
		node := *cfg
		node.VirtualIPs = nil
		h.cfg, h.checks = &node, witnessChecks
	}
	h.links = h.findLinks()
	return h
}

// run does the checks one after the other; they take milliseconds.
func (h *host) run(ctx context.Context, out io.Writer) bool {
	good := true
	for _, c := range h.checks {
		if ctx.Err() != nil {
			return false
		}
		for _, f := range c(h) {
			fmt.Fprintln(out, f)
			good = good && f.level != levelFail
		}
	}
	return good
}
