package node

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrLocked: another process runs a node in that run_dir.
var ErrLocked = errors.New("run_dir is in use")

// dirLock is the lock of a process on its run_dir. The kernel drops it when
// the process dies, so the file may stay.
type dirLock struct{ file *os.File }

// lock takes the lock on dir, or returns ErrLocked with the pid of its holder.
func lock(dir string) (*dirLock, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock run_dir: %w", err)
	}
	if err := claim(f); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &dirLock{f}, nil
}

// claim locks the file and writes our pid into it. The lock belongs to the
// open file (flock(2)), which is closed on exec, so no child keeps it. The file
// is never removed: who had opened it before would lock one that has no name.
func claim(f *os.File) error {
	err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return fmt.Errorf("lock run_dir: %w: %s is held by %s; stop it first, or give this node a run_dir of its own",
			ErrLocked, f.Name(), holder(f))
	case err != nil:
		return fmt.Errorf("lock run_dir: flock %s: %w", f.Name(), err)
	}
	if err := f.Truncate(0); err != nil {
		return fmt.Errorf("lock run_dir: %w", err)
	}
	if _, err := fmt.Fprintf(f, "%d\n", os.Getpid()); err != nil {
		return fmt.Errorf("lock run_dir: %w", err)
	}
	return nil
}

// holder names the process that wrote into the lock file. It is for the message
// only: who holds it is the kernel's knowledge.
func holder(f *os.File) string {
	text, err := io.ReadAll(io.LimitReader(f, 32))
	if pid := strings.TrimSpace(string(text)); err == nil && pid != "" {
		return "process " + pid
	}
	return "a process that is just starting"
}

// unlock empties the file, so that no one takes a pid in it for a living one,
// and drops the lock.
func (l *dirLock) unlock() error {
	return errors.Join(l.file.Truncate(0), l.file.Close())
}
