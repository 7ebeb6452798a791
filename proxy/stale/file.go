package stale

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockDir makes dir and locks it for this process alone. The lock goes when
// the directory is closed, so also when the process is killed.
func lockDir(dir string) (*os.File, error) {
	if err := makeDir(dir); err != nil {
		return nil, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrLocked
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	return d, nil
}

// makeDir makes dir, durably, if it is not there.
func makeDir(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	parent, err := os.Open(filepath.Dir(dir))
	if err != nil {
		return err
	}
	return errors.Join(parent.Sync(), parent.Close())
}

// createIfMissing makes the file with an empty state in both slots, all of it
// on disk before it has its name: a file of that name is never half made. The
// caller has locked dir.
func createIfMissing(dir *os.File, path string) error {
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	tmp, err := os.OpenFile(path+".new", os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if err := errors.Join(fill(tmp), tmp.Close()); err != nil {
		os.Remove(tmp.Name())
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	return dir.Sync()
}

// fill reserves the space and writes every byte of it once, so that no later
// write needs any.
func fill(f *os.File) error {
	if err := unix.Fallocate(int(f.Fd()), 0, 0, fileSize); err != nil && !unsupported(err) {
		return fmt.Errorf("reserve space: %w", err)
	}
	buf, err := encode(state{seq: 1})
	if err != nil {
		return err
	}
	img := make([]byte, fileSize)
	copy(img, buf)
	copy(img[slotSize:], buf)
	if _, err := f.WriteAt(img, 0); err != nil {
		return err
	}
	return f.Sync()
}

// readImage reads both slots. What is missing of a file that is too short is
// missing in its slots too; of one that is too long, the rest is ignored.
func readImage(f *os.File) (image, error) {
	buf := make([]byte, fileSize)
	n, err := f.ReadAt(buf, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return image{}, err
	}
	return image{buf[:min(n, slotSize)], buf[min(n, slotSize):n]}, nil
}

// device is the file, or a test's disk that loses its power.
type device interface {
	io.WriterAt
	io.Closer
	datasync() error
}

// diskFile is a file on a real disk.
type diskFile struct{ *os.File }

// datasync returns when everything written is on disk.
func (f diskFile) datasync() error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("fdatasync", err)
		}
	}
}

// unsupported reports that a filesystem can't reserve space; writing every
// byte once does as much where files are overwritten in place.
func unsupported(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOSYS)
}
