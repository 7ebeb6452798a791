package doctor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"sttcp/configs"
)

// spareFiles are descriptors for all but connections: the log, the listeners,
// health checks, the admin socket.
const spareFiles = 256

// fileLimit: a process that has no descriptor left can accept nobody. It
// compares the hard limit, up to which `run` raises the soft one, with what the
// services may need: one per connection and leg.
func fileLimit(h *host) []finding {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return []finding{warn("look at ulimit -Hn", "the file limit cannot be read (%v)", err)}
	}
	if h.cfg == nil {
		return []finding{ok("file limit %d, which is %d connections with two legs", limit.Max, (max(limit.Max, spareFiles)-spareFiles)/3)}
	}
	return []finding{h.judgeFiles(limit.Max)}
}

// judgeFiles: with the limit too low, connections beyond it would not be
// accepted, or would lose a leg that cannot be opened.
func (h *host) judgeFiles(limit uint64) finding {
	need := uint64(spareFiles)
	h.eachService(func(s *configs.Service) { need += uint64(s.MaxConn) * uint64(1+s.Legs) })
	if limit < need {
		return fail(fmt.Sprintf("LimitNOFILE=%d in the systemd unit (or ulimit -Hn), or a lower maxconn", need),
			"file limit %d is less than the %d that maxconn of all services needs", limit, need)
	}
	return ok("file limit %d is enough for maxconn of all services (%d)", limit, need)
}

// directories are made by `run` where they are not there.
func directories(h *host) []finding {
	if h.cfg == nil {
		return nil
	}
	return []finding{
		judgeDirectory("node.run_dir", h.cfg.Node.RunDir),
		judgeDirectory("node.state_dir", h.cfg.Node.StateDir),
	}
}

// judgeDirectory writes a file to the directory, or to the nearest one above
// it that exists, and removes it: permissions alone do not tell of read-only
// mounts and full disks.
func judgeDirectory(key, dir string) finding {
	at := nearest(dir)
	f, err := os.CreateTemp(at, ".sttcp-doctor-*")
	if err != nil {
		return fail("run as root, chown "+at+", or change "+key, "%s %s cannot be written to (%v)", key, dir, err)
	}
	if err := errors.Join(f.Close(), os.Remove(f.Name())); err != nil {
		return warn("remove "+f.Name(), "%s %s (%v)", key, dir, err)
	}
	return ok("%s %s can be written to", key, dir)
}

// nearest is dir or the first directory above it that exists.
func nearest(dir string) string {
	for filepath.Dir(dir) != dir {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			break
		}
		dir = filepath.Dir(dir)
	}
	return dir
}
