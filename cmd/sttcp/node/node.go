package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"sttcp/cmd/admin"
	"sttcp/configs"
	"sttcp/proxy"
	"sttcp/takeover/vip"
)

// Options is what a node needs beside its configuration.
type Options struct {
	Log     *slog.Logger
	Version string
	Ready   func() // called once, when services are served; nil for none
}

// dataPath is what a node has of its proxy (*proxy.Proxy).
type dataPath interface {
	Intercept() error
	Start()
	// Stop drains until ctx is done, and cuts what is left.
	Stop(ctx context.Context) (cut int)
	Close() error
	Services() []proxy.ServiceStatus
	Servers() []proxy.ServerStatus
	Connections(most int) (list []proxy.ConnStatus, more int)
	DrainServer(name string) error
	MaintServer(name string) error
	ReadyServer(name string, reset bool) error
	Freeze(name string, on bool) error
}

// parts makes what a node is built of; tests put in parts that fail.
type parts struct {
	ensure func([]vip.Addr) (added []vip.Addr, err error)
	remove func([]vip.Addr) (removed []vip.Addr, err error)
	proxy  func(*configs.Config, *slog.Logger) (dataPath, error)
}

var production = parts{
	ensure: vip.Ensure,
	remove: vip.Remove,
	proxy: func(cfg *configs.Config, log *slog.Logger) (dataPath, error) {
		return proxy.New(cfg, log)
	},
}

// gateway is one node while it runs. One goroutine owns it.
type gateway struct {
	cfg     *configs.Config
	opt     Options
	log     *slog.Logger
	parts   parts
	started time.Time
	done    undoer

	proxy  dataPath
	served bool // the start succeeded
}

// NewLogger gives the logger that the configuration asks for.
func NewLogger(cfg configs.Log, w io.Writer) *slog.Logger {
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.Level)); err != nil {
		level = slog.LevelInfo // configs lets only the known names through
	}
	o := &slog.HandlerOptions{Level: level}
	if cfg.Format == configs.LogJSON {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// Run runs the node until SIGTERM, SIGINT or the end of ctx, then drains its
// connections for cfg.Drain; a second signal cuts them at once. The error is
// of the start, which was undone then, or of the clean-up.
func Run(ctx context.Context, cfg *configs.Config, o Options) error {
	sig := make(chan os.Signal, 16)
	signal.Notify(sig, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(sig)
	// Go ends a process that writes to a broken standard error; the log is
	// not worth the connections.
	pipe := make(chan os.Signal, 1)
	signal.Notify(pipe, syscall.SIGPIPE)
	defer signal.Stop(pipe)
	return run(ctx, cfg, o, production, sig)
}

// run is Run with the parts and the signals given. A start that fails has no
// connection worth a drain: its undoing gets a context that is over.
func run(ctx context.Context, cfg *configs.Config, o Options, p parts, sig <-chan os.Signal) error {
	g := &gateway{cfg: cfg, opt: o, log: o.Log, parts: p, started: time.Now()}
	if err := g.start(); err != nil {
		over, cancel := context.WithCancel(context.Background())
		cancel()
		return errors.Join(err, g.done.undo(over))
	}
	g.served = true
	g.ready()
	g.wait(ctx, sig)
	g.notify(daemon.SdNotifyStopping)
	drain, cancel := g.drain(sig)
	defer cancel()
	return g.done.undo(drain)
}

// start takes the steps in order. Each one adds how it is undone when it has
// succeeded. The packets are intercepted before the addresses are there, and
// the addresses gone before that ends, so that the kernel never answers a
// client by itself; the admin interface outlives the drain, to be watched.
func (g *gateway) start() error {
	g.say()
	if g.cfg.Node.Role == configs.RoleWitness {
		return errors.New("start node: role witness comes with a later version; this one runs gateways")
	}
	for _, step := range []func() error{ // see the package comment
		g.directories, g.lock, g.files, g.newProxy, g.addresses, g.admin, g.startProxy,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

// say tells what does not give all that the file may seem to ask for.
func (g *gateway) say() {
	g.log.Info("starting", "node", g.cfg.Node.Name, "version", g.opt.Version)
	for _, w := range g.cfg.Warnings {
		g.log.Warn(w)
	}
	for _, key := range g.cfg.Ineffective {
		g.log.Warn("key has no effect in this version", "key", key)
	}
	g.log.Warn("connections do not survive the death of this gateway: this version has no kernel gate")
}

// directories makes run_dir and state_dir; they stay.
func (g *gateway) directories() error {
	for _, dir := range []string{g.cfg.Node.RunDir, g.cfg.Node.StateDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("create directory: %w", err)
		}
	}
	return nil
}

// lock makes sure that no other process runs a node with this run_dir. What
// belongs to the host, such as the nftables table, is only kept apart by it as
// long as all nodes of a network namespace use the same run_dir.
func (g *gateway) lock() error {
	l, err := lock(g.cfg.Node.RunDir)
	if err != nil {
		return err
	}
	g.done.add("unlock run_dir", func(context.Context) error { return l.unlock() })
	return nil
}

// files raises the limit of open files and says if that is not enough. It is
// no error: most nodes never see maxconn.
func (g *gateway) files() error {
	limit, err := raiseFiles()
	if err != nil {
		return fmt.Errorf("raise limit of open files: %w", err)
	}
	if need := filesNeeded(g.cfg); need > limit {
		g.log.Warn("open files do not suffice for maxconn; raise LimitNOFILE or lower maxconn",
			"limit", limit, "needed", need, "short", need-limit)
	}
	return nil
}

// newProxy makes the proxy, with its listeners, and has the packets of the
// services intercepted. Nothing is accepted yet.
func (g *gateway) newProxy() (err error) {
	if g.proxy, err = g.parts.proxy(g.cfg, g.log); err != nil {
		return err
	}
	g.done.add("close proxy", func(context.Context) error { return g.proxy.Close() })
	return g.proxy.Intercept()
}

// admin serves the admin interface. It is closed with two seconds of its own,
// since what the drain had may be used up, and a request under way is short.
func (g *gateway) admin() error {
	network, address := g.cfg.AdminAddr()
	o := admin.Options{Network: network, Address: address, Log: g.log}
	if network != "unix" {
		var err error
		if o.Token, err = admin.ReadToken(g.cfg.Admin.TokenFile); err != nil {
			return err
		}
	}
	s, err := admin.Serve(&backend{g.cfg, g.opt.Version, g.started, g.proxy}, o)
	if err != nil {
		return err
	}
	g.done.add("close admin interface", func(context.Context) error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		return s.Close(ctx)
	})
	return nil
}

// startProxy begins to serve. Undone, it drains until ctx is done.
func (g *gateway) startProxy() error {
	g.proxy.Start()
	g.done.add("stop proxy", func(ctx context.Context) error {
		g.log.Info("stopped", "connections_cut", g.proxy.Stop(ctx))
		return nil
	})
	return nil
}

// ready tells everybody who may wait for it: the log, systemd, our caller.
func (g *gateway) ready() {
	g.log.Info("ready", "pid", os.Getpid())
	g.notify(daemon.SdNotifyReady)
	if g.opt.Ready != nil {
		g.opt.Ready()
	}
}

// notify tells systemd, if it started us.
func (g *gateway) notify(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		g.log.Warn("systemd was not told", "state", state, "error", err)
	}
}

// wait returns when the node is to stop. SIGHUP is caught and ignored: daemons
// reload on it, so somebody will send it, and its default is to die uncleanly.
func (g *gateway) wait(ctx context.Context, sig <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			g.log.Info("stopping", "drain", g.cfg.Drain)
			return
		case s := <-sig:
			if s != syscall.SIGHUP {
				g.log.Info("stopping", "signal", s, "drain", g.cfg.Drain)
				return
			}
			g.log.Warn("SIGHUP ignored: this version does not reload; stop and start instead")
		}
	}
}

// drain gives the time that connections have to end: cfg.Drain, or until the
// next signal. It goes on reading signals until it is cancelled, so that a
// third one, or a SIGHUP, does not fill the channel and hide others.
func (g *gateway) drain(sig <-chan os.Signal) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), g.cfg.Drain)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case s := <-sig:
				if s != syscall.SIGHUP {
					g.log.Warn("second signal: connections are cut", "signal", s)
					cancel()
				}
			}
		}
	}()
	return ctx, cancel
}
