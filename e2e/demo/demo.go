// Package demo is `sttcp demo`: on one machine, with real kernels and real
// servers, it shows that a client's TCP connection survives its server.
package demo

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/e2e/rig"
)

// Options say what Run does.
type Options struct {
	// Args are the command line's, after "demo": --keep, --help.
	Args []string
	// Keep leaves the lab up at the end, until a signal.
	Keep bool
	// Out is where the demo is shown. On a terminal one line is refreshed.
	Out io.Writer
	// Binary is the gateway's program; empty is this program.
	Binary string
}

// script is what the demo plays; tests play shorter ones.
type script struct {
	size     int64 // bytes of the download
	rate     int64 // bytes per second
	strikeAt int64 // bytes after which the primary dies
	acts     []act
	noNginx  bool         // as on a machine without
	built    func(*stage) // what tests do to a stage; may be nil
}

var standard = script{size: 64 << 20, rate: 8 << 20, strikeAt: 28 << 20, acts: []act{killed, unplugged}}

// limit is how long the acts may take; they take about 20 s.
const limit = 55 * time.Second

// Run shows the demo. Its error is nil only when everything that it shows was
// found to be true. Ctrl-C ends it; it always removes what it has made.
//
// A program that calls Run is also the demo's own web server, where there is
// no nginx: it is then started again as "PROGRAM demo", and has to call Run.
func Run(ctx context.Context, opt Options) error {
	rig.MaybeServe()
	if err := opt.parse(); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if err := needRoot(os.Geteuid()); err != nil {
		return err
	}
	if opt.Binary == "" {
		var err error
		if opt.Binary, err = os.Executable(); err != nil {
			return fmt.Errorf("find own program: %w", err)
		}
	}
	// SIGPIPE, too: a reader that goes away is no reason to leave things behind.
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGPIPE)
	defer stop()
	return play(ctx, opt, standard)
}

func needRoot(euid int) error {
	if euid != 0 {
		return errors.New("the demo needs root, because it makes network namespaces: try sudo sttcp demo")
	}
	return nil
}

func (o *Options) parse() error {
	f := flag.NewFlagSet("demo", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.BoolVar(&o.Keep, "keep", o.Keep, "")
	err := f.Parse(o.Args)
	switch {
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprint(o.Out, usage)
		return err
	case err == nil && f.NArg() > 0:
		err = fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if err != nil {
		return fmt.Errorf("demo: %w (see sttcp demo --help)", err)
	}
	return nil
}

const usage = `Show on this machine that a TCP connection survives its server.

Usage: sttcp demo [--keep]

Builds hosts as network namespaces, starts a gateway and two real servers,
downloads through them, and takes the primary away in mid-stream, twice. Takes
less than a minute, needs root, and removes all that it has made.

  --keep  at the end leave the hosts, the gateway and both servers up to play
          with, until Ctrl-C
`

// play plays a script.
func play(ctx context.Context, opt Options, s script) error {
	scr := newScreen(opt.Out)
	failed, err := playActs(ctx, opt, s, scr)
	if err != nil {
		return interrupted(ctx, err)
	}
	if failed > 0 {
		return fmt.Errorf("the demo failed: %d of its checks, see above", failed)
	}
	scr.say("\n%s", scr.good("The client lost its server and never noticed: all checks are true."))
	if opt.Keep {
		return keep(ctx, opt, s, scr)
	}
	return nil
}

// playActs returns how many checks of all acts failed.
func playActs(ctx context.Context, opt Options, s script, scr *screen) (failed int, err error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for i, a := range s.acts {
		n, err := playAct(ctx, opt, s, scr, i, a)
		failed += n
		if err != nil {
			return failed, err
		}
	}
	return failed, nil
}

// interrupted replaces what a signal has made fail by a word about it.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errors.New("the demo was interrupted; everything is removed")
	}
	return err
}

// playAct plays one act on a stage of its own, and returns how many of its
// checks failed.
func playAct(ctx context.Context, opt Options, s script, scr *screen, number int, a act) (failed int, err error) {
	st, err := newStage(ctx, opt.Binary, s)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, st.lab.Close()) }()
	if number == 0 {
		scr.say("%s", drawing(st.kind))
	}
	scr.say("\n%s", scr.strong(fmt.Sprintf("Act %d: %s", number+1, a.title)))
	e, err := st.play(ctx, s, scr, a)
	if err == nil {
		failed = scr.verdict(judge(e))
	}
	if !errors.Is(ctx.Err(), context.Canceled) && (err != nil || failed > 0) {
		scr.log(st.gateway)
	}
	return failed, err
}

// keep builds the stage once more and leaves it to the user.
func keep(ctx context.Context, opt Options, s script, scr *screen) (err error) {
	st, err := newStage(ctx, opt.Binary, s)
	if err != nil {
		return interrupted(ctx, err)
	}
	defer func() { err = errors.Join(err, st.lab.Close()) }()
	scr.say("%s", st.guide(opt.Binary))
	<-ctx.Done()
	scr.say("\nremoving everything")
	return nil
}
