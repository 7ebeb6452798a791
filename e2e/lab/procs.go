package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processesIn lists the processes in the namespace of the given inode, this
// process (whose threads visit namespaces) and zombies left out.
func processesIn(inode uint64) []int {
	links, _ := filepath.Glob("/proc/[0-9]*/ns/net") // the pattern is correct
	want := fmt.Sprintf("net:[%d]", inode)
	var pids []int
	for _, link := range links {
		if target, err := os.Readlink(link); err != nil || target != want {
			continue // ended meanwhile, or elsewhere
		}
		pid, err := strconv.Atoi(strings.Split(link, "/")[2])
		if err == nil && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// signalAll sends a signal to every process in a namespace.
func signalAll(inode uint64, sig unix.Signal) error {
	var errs []error
	for _, pid := range processesIn(inode) {
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			errs = append(errs, fmt.Errorf("send %v to %d: %w", sig, pid, err))
		}
	}
	return errors.Join(errs...)
}

// killAll kills the processes in a namespace until there are none.
func killAll(inode uint64) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	return Until(ctx, "the end of all processes", func() error {
		pids := processesIn(inode)
		if len(pids) == 0 {
			return nil
		}
		return errors.Join(signalAll(inode, unix.SIGKILL), fmt.Errorf("still alive: %v", pids))
	})
}

// killGroup sends a signal to the members of a process group that are in the
// namespace. Unlike kill(-pgid) it is safe when the leader has been reaped
// and its number may belong to somebody else.
func killGroup(inode uint64, pgid int, sig unix.Signal) error {
	var errs []error
	for _, pid := range processesIn(inode) {
		if group, err := unix.Getpgid(pid); err != nil || group != pgid {
			continue
		}
		if err := unix.Kill(pid, sig); err != nil && err != unix.ESRCH {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// defaultPatience is how long the Wait functions and Until wait when their
// context has no deadline.
const defaultPatience = 10 * time.Second

// Until calls cond every few milliseconds until it returns nil, or until ctx
// is done (after 10 s when ctx has no deadline); then it returns an error
// that says what was waited for and cond's last error.
func Until(ctx context.Context, what string, cond func() error) error {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, defaultPatience)
		defer cancel()
	}
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := cond()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w; last: %w", what, ctx.Err(), err)
		case <-tick.C:
		}
	}
}
