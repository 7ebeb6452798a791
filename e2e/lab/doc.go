// Package lab builds a small network on one machine, with real kernels: every
// host is a network namespace, and the switches (Linux bridges) between them
// live in one more. Programs are started in the hosts, faults are injected on
// the cable between a host and its switch, and what passes there is captured
// and can be asked about.
//
//	l, err := lab.New(lab.Options{Hosts: lab.Standard("client", "g1", "s1")})
//	if err != nil { ... }
//	defer l.Close()
//	p, err := l.Host("s1").Start(ctx, lab.Cmd{Path: "nginx", Args: ...})
//
// A person enters a host with `ip netns exec`, the name being Host.Namespace:
//
//	ip netns exec lab-4711-1-s1 ss -tan
//
// In a test, package labtest makes errors fatal and closes the lab:
//
//	l := labtest.New(t, lab.Options{Hosts: lab.Standard("client", "s1")})
//	seen := labtest.Capture(t, l.Host("client").Capture)
//	cut := labtest.Inject(t)(l.Host("s1").LinkDown())
//	...
//	labtest.Undo(t, cut)
//	resets, err := seen.RSTsTo(l.Host("client").Addr4())
//
// # What is removed, and when
//
// Close removes the processes, namespaces, mounts and files of the lab. Write
// `defer l.Close()` right after New: it then also runs when the goroutine
// panics. On SIGINT, SIGTERM and SIGHUP every open lab is closed before the
// process dies of the signal (Options.NoSignals leaves that to the caller). A
// process that is killed outright takes the programs that it started with it
// (parent death signal); the rest of what it leaves is removed by the next
// New on the machine, which finds that nobody holds the lab's lock file any
// more. What stays: /run/netns as a shared mount (as after `ip netns add`), the
// directory /run/sttcp-lab, and that a congestion control which was asked for
// is allowed.
//
// # Cables and faults
//
//	 host's namespace       the switch's namespace
//	+-----------------+    +----------------------------------+
//	|  program, kernel|    |                                  |
//	|      eth0 ------+----+-- s1 ---------- lan (bridge)     |
//	+-----------------+    |       \ delay /                  |
//	                       +----------------------------------+
//
// eth0 and its far end, named after the host, are one cable (a veth pair).
// Packets are dropped, slowed and delayed in the switch's namespace, so that
// the kernel of a host can't tell a fault from one of a real network: a
// segment dropped by a rule on the sending host would be reported to that
// host's TCP as not sent, and one dropped by a rule on the receiving host
// would already have been seen by its tc programs.
//
// # Concurrency
//
// Lab, Host, Link, Process, Fault and Capture may be used from several
// goroutines. Close waits for nothing but the processes; sockets that Dial
// and Listen gave out stay usable objects, but their network is gone.
package lab
