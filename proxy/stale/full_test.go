package stale

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFullDisk fills a small disk up after the store was opened: it goes on
// recording. The disk is mounted by a child process in a mount namespace of
// its own, and goes with it.
func TestFullDisk(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root to mount a small disk")
		}
		t.Skip("needs root to mount a small disk")
	}
	for _, fs := range []string{"tmpfs", "ext4"} {
		t.Run(fs, func(t *testing.T) {
			dir := t.TempDir()
			if fs == "ext4" {
				makeExt4(t, dir)
			}
			cmd := exec.Command(os.Args[0], dir)
			cmd.Env = append(os.Environ(), "STTCP_STALE_CHILD="+fs)
			cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// makeExt4 makes the image that the child mounts. Skips where the host has no
// mkfs.ext4 or no loop devices; tmpfs is there everywhere.
func makeExt4(t *testing.T, dir string) {
	if _, err := os.Stat("/dev/loop-control"); err != nil {
		t.Skip("this host has no loop devices")
	}
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("this host has no mkfs.ext4")
	}
	if out, err := exec.Command("mkfs.ext4", "-q", filepath.Join(dir, "img"), "8M").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v: %s", err, out)
	}
}

// onFullDisk is the child.
func onFullDisk(fs, dir string) int {
	for _, step := range []func() error{
		func() error { return mountSmall(fs, dir) },
		func() error { return recordWhenFull(filepath.Join(dir, "disk")) },
	} {
		if err := step(); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	return 0
}

func mountSmall(fs, dir string) error {
	disk := filepath.Join(dir, "disk")
	if err := os.Mkdir(disk, 0o700); err != nil {
		return err
	}
	if fs == "tmpfs" {
		return unix.Mount("tmpfs", disk, "tmpfs", 0, "size=1m")
	}
	// mount(8) sees to the loop device, which goes with the last mount.
	out, err := exec.Command("mount", "-o", "loop", filepath.Join(dir, "img"), disk).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mount: %w: %s", err, out)
	}
	return nil
}

func recordWhenFull(disk string) error {
	s, err := Open(filepath.Join(disk, "state"))
	if err != nil {
		return err
	}
	if err := fillUp(filepath.Join(disk, "filler")); err != nil {
		return err
	}
	if _, err := Open(filepath.Join(disk, "new")); !errors.Is(err, unix.ENOSPC) {
		return fmt.Errorf("a new store on a full disk: %w", err)
	}
	// Enough entries for several blocks, several times over each slot.
	for i := range 150 {
		if err := s.Mark("web", fmt.Sprintf("s%03d", i), strings.Repeat("lag ", 40), noon); err != nil {
			return err
		}
	}
	if err := errors.Join(s.Clear("web", "s000"), s.Close()); err != nil {
		return err
	}
	if s, err = Open(filepath.Join(disk, "state")); err != nil {
		return err
	}
	if n := len(s.List()); n != 149 || s.Repaired() {
		return fmt.Errorf("%d entries, repaired %v", n, s.Repaired())
	}
	return s.Close()
}

// fillUp writes until not one byte more fits.
func fillUp(path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	for n := 64 << 10; n > 0; {
		if _, err := f.Write(make([]byte, n)); errors.Is(err, unix.ENOSPC) {
			n /= 2
		} else if err != nil {
			return err
		}
	}
	return errors.Join(f.Sync(), f.Close())
}
