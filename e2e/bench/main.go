// Command bench measures a gateway as a whole process, between real hosts.
//
//	bench throughput   direct, one leg, two legs compared or not, side by side
//	bench failover     what a client feels when its primary dies
//
// All figures are of one machine that everything shares: only the ratios of
// one run mean anything, and `failover`'s times only as far as the machine was
// quiet. It needs root.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
)

func main() {
	rig.MaybeServe()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	runs := flag.Int("n", 0, "runs of each measurement; 0: 5 of throughput, 100 of failover")
	cc := flag.String("cc", "", "congestion control of all hosts, empty: the kernel's default")
	flag.Parse()
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt)
	defer cancel()
	l, err := lab.New(lab.Options{Name: "bench", Hosts: lab.Standard("client", "g1", "s1", "s2"), CongestionControl: *cc})
	if err != nil {
		return err
	}
	defer func() { _ = l.Close() }()
	switch what := flag.Arg(0); what {
	case "throughput":
		return throughput(ctx, l, or(*runs, 5))
	case "failover":
		return failover(ctx, l, or(*runs, 100))
	default:
		return fmt.Errorf("measure %q: say throughput or failover", what)
	}
}

func or(n, other int) int {
	if n > 0 {
		return n
	}
	return other
}
