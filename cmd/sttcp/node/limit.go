package node

import (
	"golang.org/x/sys/unix"

	"sttcp/configs"
)

const (
	filesPerConn = 3  // the client's socket and two legs
	filesBeside  = 64 // listeners, event loops, health checks, admin clients, the log
)

// raiseFiles raises the soft limit of open files to the hard one, and returns
// what it is then.
func raiseFiles() (uint64, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	if l.Cur < l.Max {
		l.Cur = l.Max
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
			return 0, err
		}
	}
	return l.Cur, nil
}

// filesNeeded is how many files are open when every service has as many
// connections as maxconn allows.
func filesNeeded(cfg *configs.Config) uint64 {
	n := uint64(filesBeside)
	for _, v := range cfg.VirtualIPs {
		for _, s := range v.Services {
			n += uint64(max(s.MaxConn, 0)) * filesPerConn
		}
	}
	return n
}
