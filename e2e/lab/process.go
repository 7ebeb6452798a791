package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Cmd is a program to start in a host.
type Cmd struct {
	// Path is the program, looked up in PATH when it has no slash.
	Path string
	// Args are the arguments, without the program's name.
	Args []string
	// Env is the environment; nil is this process's own.
	Env []string
	// Dir is the working directory; empty is this process's own.
	Dir string
	// Name is for messages and the log's name; empty is Path's last part.
	Name string
	// Stdout is the file for what the program prints on standard output,
	// truncated first; empty puts it into the log, where standard error
	// always goes.
	Stdout string
}

// Process is a running program. It leads a process group of its own, to which
// its children belong unless they leave it.
type Process struct {
	// PID is its process id, and that of its group.
	PID int

	// Constant after start.
	host *Host
	name string
	log  string // path
	cmd  *exec.Cmd

	// Set by the goroutine that reaps the process.
	done chan struct{} // closed at its end
	err  error         // set before done is closed
}

// logSerial keeps the logs of two programs of the same name apart.
var logSerial atomic.Int64

// Start starts a program in the host. It sees the host's network, and the
// machine's files and processes. When ctx ends, its group is killed; when this
// process ends, the program is (its children need not be: the next New kills
// them).
func (h *Host) Start(ctx context.Context, c Cmd) (*Process, error) {
	if c.Name == "" {
		c.Name = filepath.Base(c.Path)
	}
	log := filepath.Join(h.lab.Dir(), fmt.Sprintf("%s-%s.%d.log", h.name, c.Name, logSerial.Add(1)))
	p := &Process{host: h, name: c.Name, log: log, done: make(chan struct{})}
	if err := p.start(ctx, c); err != nil {
		return nil, fmt.Errorf("start %s in %s: %w", c.Name, h.name, err)
	}
	return p, nil
}

// start opens the files, starts the program on the host's own thread (see thread)
// and reaps it when it ends.
func (p *Process) start(ctx context.Context, c Cmd) error {
	if p.host.lab.isClosed() {
		return errEnded
	}
	log, err := os.Create(p.log)
	if err != nil {
		return err
	}
	defer log.Close()
	out := log
	if c.Stdout != "" {
		if out, err = os.Create(c.Stdout); err != nil {
			return err
		}
		defer out.Close()
	}
	p.cmd = exec.CommandContext(ctx, c.Path, c.Args...)
	p.cmd.Env, p.cmd.Dir, p.cmd.Stdout, p.cmd.Stderr = c.Env, c.Dir, out, log
	p.cmd.Cancel = func() error { return p.SignalGroup(unix.SIGKILL) }
	p.cmd.SysProcAttr = childAttr()
	if err := p.host.procs.run(p.cmd.Start); err != nil {
		return err
	}
	p.PID = p.cmd.Process.Pid
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return nil
}

// childAttr makes a child lead its own group and die with our thread.
func childAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
}

// Run runs a command in the host to its end and returns what it printed on
// standard output and standard error; it is part of the error, too. A child
// that the command leaves behind with its output open is an error after 1 s.
func (h *Host) Run(ctx context.Context, path string, args ...string) (string, error) {
	return h.runInput(ctx, "", path, args...)
}

// runInput is Run with something on standard input.
func (h *Host) runInput(ctx context.Context, stdin, path string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, path, args...)
	var out bytes.Buffer // one writer: os/exec uses one pipe for both
	cmd.Stdin, cmd.Stdout, cmd.Stderr = newReader(stdin), &out, &out
	cmd.SysProcAttr = childAttr()
	// A child that it leaves behind may hold the pipe open for ever.
	cmd.WaitDelay = time.Second
	err := h.procs.run(cmd.Start)
	if err == nil {
		err = cmd.Wait()
	}
	return out.String(), wrap(err, "run %s in %s: %s", path, h.name, out.String())
}

// Name is what messages call the process.
func (p *Process) Name() string { return p.name }

// String is HOST/NAME[PID].
func (p *Process) String() string { return fmt.Sprintf("%s/%s[%d]", p.host.name, p.name, p.PID) }

// LogPath is the file with the standard error (and output, see Cmd.Stdout).
func (p *Process) LogPath() string { return p.log }

// Log returns the last part of the log, at most 64 KiB.
func (p *Process) Log() string { return tail(p.log, 64<<10) }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Running tells whether the process has not ended yet. A stopped one runs.
func (p *Process) Running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// Wait waits for the end of the process. Its error is that of the process
// (an *exec.ExitError) or of ctx.
func (p *Process) Wait(ctx context.Context) error {
	select {
	case <-p.done:
		return p.err
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of %v: %w", p, ctx.Err())
	}
}

// Signal sends a signal to the process alone; one that has ended gets none,
// which is no error.
func (p *Process) Signal(sig os.Signal) error {
	if err := p.cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("send %v to %v: %w", sig, p, err)
	}
	return nil
}

// SignalGroup sends a signal to every process of the group, at once while the
// leader lives.
func (p *Process) SignalGroup(sig unix.Signal) error {
	pgid := p.cmd.Process.Pid
	var err error
	if p.Running() {
		err = unix.Kill(-pgid, sig)
	} else {
		err = killGroup(p.host.ns.inode, pgid, sig)
	}
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	return wrap(err, "send %v to the group of %v", sig, p)
}

// Kill9 kills the process alone and waits for its end. Its children live on.
func (p *Process) Kill9() error {
	if err := p.Signal(unix.SIGKILL); err != nil {
		return err
	}
	<-p.done
	return nil
}

// KillGroup9 kills the whole group, such as a server with its workers, and
// returns when none of it is left.
func (p *Process) KillGroup9() error {
	err := Until(context.Background(), "the end of the group", func() error {
		if err := p.SignalGroup(unix.SIGKILL); err != nil {
			return err
		}
		return p.groupGone()
	})
	if err == nil {
		<-p.done
	}
	return err
}

// groupGone is an error while a member of the group lives in the host.
func (p *Process) groupGone() error {
	for _, pid := range processesIn(p.host.ns.inode) {
		if group, err := unix.Getpgid(pid); err == nil && group == p.cmd.Process.Pid {
			return fmt.Errorf("%d of the group of %v is still there", pid, p)
		}
	}
	return nil
}

// Stop stops the whole group (SIGSTOP), as a hung or starved program would
// stop: its sockets stay open and its kernel goes on answering.
func (p *Process) Stop() error { return p.SignalGroup(unix.SIGSTOP) }

// Cont continues a stopped group.
func (p *Process) Cont() error { return p.SignalGroup(unix.SIGCONT) }
