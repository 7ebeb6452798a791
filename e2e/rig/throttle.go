package rig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrNoCgroup is returned by Throttle where no quota can be set.
var ErrNoCgroup = errors.New("no cgroup with a CPU quota can be made here")

// Quota is a limit on the processor time of a process.
type Quota struct {
	root, dir string // of cgroups, and the one that was made
	pid       int
}

// Throttle lets a process run for so long in each period, on all processors
// together, until Undo. It makes a cgroup of version 1 or 2. The period is 1 ms
// to 1 s, and run at least 1 ms.
func Throttle(pid int, run, period time.Duration) (*Quota, error) {
	root, files := cpuController(run, period)
	if root == "" {
		return nil, ErrNoCgroup
	}
	dir := filepath.Join(root, fmt.Sprintf("sttcp-%d-%d", os.Getpid(), pid))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoCgroup, err)
	}
	q := &Quota{root, dir, pid}
	for _, f := range append(files, file{"cgroup.procs", strconv.Itoa(pid)}) {
		if err := os.WriteFile(filepath.Join(dir, f.name), []byte(f.text), 0o644); err != nil {
			return nil, errors.Join(fmt.Errorf("%w: %w", ErrNoCgroup, err), q.Undo())
		}
	}
	return q, nil
}

type file struct{ name, text string }

// cpuController returns where cgroups with a CPU quota are made and what sets
// it, in microseconds.
func cpuController(run, period time.Duration) (root string, files []file) {
	const v1, v2 = "/sys/fs/cgroup/cpu", "/sys/fs/cgroup"
	exists := func(path string) bool { _, err := os.Stat(path); return err == nil }
	switch {
	case exists(v1 + "/cgroup.procs"):
		return v1, []file{{"cpu.cfs_period_us", strconv.FormatInt(period.Microseconds(), 10)},
			{"cpu.cfs_quota_us", strconv.FormatInt(run.Microseconds(), 10)}}
	case exists(v2 + "/cgroup.controllers"):
		return v2, []file{{"cpu.max", fmt.Sprintf("%d %d", run.Microseconds(), period.Microseconds())}}
	}
	return "", nil
}

// Waited is how long the process's threads, one after the other, have been kept
// from running so far.
func (q *Quota) Waited() (time.Duration, error) {
	text, err := os.ReadFile(filepath.Join(q.dir, "cpu.stat"))
	if err != nil {
		return 0, fmt.Errorf("read what a quota has done: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		var n int64
		if got, _ := fmt.Sscanf(line, "throttled_time %d", &n); got == 1 { // version 1
			return time.Duration(n), nil
		}
		if got, _ := fmt.Sscanf(line, "throttled_usec %d", &n); got == 1 {
			return time.Duration(n) * time.Microsecond, nil
		}
	}
	return 0, fmt.Errorf("read what a quota has done: %s", text)
}

// Undo takes the process out, if it has not ended, and removes the cgroup,
// which is busy until the kernel has buried the dead.
func (q *Quota) Undo() error {
	_ = os.WriteFile(filepath.Join(q.root, "cgroup.procs"), []byte(strconv.Itoa(q.pid)), 0o644)
	end := time.Now().Add(10 * time.Second)
	for {
		err := unix.Rmdir(q.dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(end) {
			return fmt.Errorf("remove cgroup %s: %w", q.dir, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
