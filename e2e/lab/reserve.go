package lab

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// stateDir holds one file per lab on this machine. Its maker keeps it locked
// (flock) for as long as it lives, and it says where the lab's files are.
const stateDir = "/run/sttcp-lab"

// serial numbers the labs of this process.
var serial atomic.Int64

// reservation is a lab's unique id, its lock and its directory. Whether a
// lab's maker lives is asked of the lock, not of the process id in its name:
// ids are used again, and mean nothing across containers that share /run.
type reservation struct {
	id   string
	dir  string
	lock *os.File
}

// reserve sweeps and takes a new id. Both happen under one lock of the
// machine, so that nobody sweeps a reservation that is being made.
func reserve(prefix string) (*reservation, error) {
	if err := os.MkdirAll(stateDir, 0o755); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	all, err := os.OpenFile(filepath.Join(stateDir, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	defer all.Close()
	if err := flock(all, unix.LOCK_EX); err != nil {
		return nil, fmt.Errorf("lock %s: %w", all.Name(), err)
	}
	if err := shareNetnsDir(); err != nil {
		return nil, err
	}
	if err := sweep(); err != nil {
		return nil, fmt.Errorf("sweep leftovers: %w", err)
	}
	return take(fmt.Sprintf("%s-%d-%d", prefix, os.Getpid(), serial.Add(1)))
}

// take makes the directory and the lock file. The file says where the directory
// is, because TMPDIR may differ for the one who sweeps.
func take(id string) (*reservation, error) {
	dir, err := os.MkdirTemp("", id+".")
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	r := &reservation{id: id, dir: dir}
	// Processes that drop their privileges work in it, too.
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, errors.Join(err, r.release())
	}
	r.lock, err = os.OpenFile(filepath.Join(stateDir, id), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err == nil {
		err = flock(r.lock, unix.LOCK_EX|unix.LOCK_NB)
	}
	if err == nil {
		_, err = r.lock.WriteString(dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("reserve %s: %w", id, err), r.release())
	}
	return r, nil
}

// release removes the directory and, last, the lock.
func (r *reservation) release() error {
	err := os.RemoveAll(r.dir)
	if r.lock == nil {
		return err
	}
	return errors.Join(err, os.Remove(r.lock.Name()), r.lock.Close())
}

// sweep removes the labs whose makers are dead.
func sweep() error {
	entries, err := os.ReadDir(stateDir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), ".") {
			errs = append(errs, sweepOne(e.Name()))
		}
	}
	return errors.Join(errs...)
}

// sweepOne removes one lab unless somebody holds its lock.
func sweepOne(id string) error {
	path := filepath.Join(stateDir, id)
	lock, err := os.OpenFile(path, os.O_RDWR, 0)
	if os.IsNotExist(err) {
		return nil // its owner released it just now
	} else if err != nil {
		return err
	}
	defer lock.Close()
	if err := flock(lock, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil // alive
	}
	return errors.Join(removeNamespaces(id), removeDirOf(id, path), os.Remove(path))
}

// removeNamespaces ends the processes in a dead lab's namespaces (such as the
// workers of a server whose master died with the lab) and removes the names.
func removeNamespaces(id string) error {
	paths, err := filepath.Glob(filepath.Join(netnsDir, id+"-*"))
	errs := []error{err}
	for _, path := range paths {
		if inode, err := inodeOf(path); err == nil {
			errs = append(errs, killAll(inode))
		}
		errs = append(errs, removeNamed(filepath.Base(path)))
	}
	return errors.Join(errs...)
}

// removeDirOf removes the directory that a dead lab's lock file names, which
// is empty when the lab died before it wrote it.
func removeDirOf(id, lockPath string) error {
	dir, err := os.ReadFile(lockPath)
	if err != nil {
		return err
	}
	if !strings.HasPrefix(filepath.Base(string(dir)), id+".") {
		return nil
	}
	return os.RemoveAll(string(dir))
}

// flock locks the open file, not the process: a second lab of the same process is
// kept away like any other. The kernel unlocks it when the process dies, however
// it dies; children don't inherit it (close-on-exec).
func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if err != unix.EINTR {
			return err
		}
	}
}
