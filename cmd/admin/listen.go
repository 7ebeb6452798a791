package admin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrInUse: somebody answers on the socket already.
var ErrInUse = errors.New("another process answers there")

// Modes of what is created. Who may open the socket may stop the service.
const (
	socketMode = 0o600
	dirMode    = 0o700
)

// listen opens the listener; a socket of a dead process is replaced. The
// directory is made for the owner only, but one that is there is left as it is:
// it may be /run.
func listen(network, address string) (net.Listener, error) {
	if network != "unix" {
		return net.Listen(network, address)
	}
	if err := os.MkdirAll(filepath.Dir(address), dirMode); err != nil {
		return nil, err
	}
	if err := removeStale(address); err != nil {
		return nil, err
	}
	lc := net.ListenConfig{Control: restrict}
	return lc.Listen(context.Background(), network, address)
}

// restrict gives the socket its mode before it has a name: Linux makes the
// file with the mode of the unbound socket (net/unix/af_unix.c, unix_bind_bsd),
// so that there is no moment in which others may connect.
func restrict(_, _ string, c syscall.RawConn) error {
	var err error
	if cerr := c.Control(func(fd uintptr) { err = unix.Fchmod(int(fd), socketMode) }); cerr != nil {
		return cerr
	}
	return err
}

// removeStale removes a socket file whose process is gone: nothing but a
// refused connection proves that. Whoever is too busy to accept gives EAGAIN, and
// a file that is no socket was not left by a node. Two processes that
// start at the same time on one path are kept apart by the lock on run_dir.
func removeStale(path string) error {
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("%s is there and is not a socket; remove it, or set another admin.listen", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	switch {
	case err == nil:
		_ = conn.Close()
		return fmt.Errorf("%s: %w; stop it, or set another admin.listen or node.run_dir", path, ErrInUse)
	case errors.Is(err, unix.ECONNREFUSED):
		return os.Remove(path)
	}
	return fmt.Errorf("find out who answers on %s: %w", path, err)
}

// ReadToken reads a token from a file: its only line that is not blank.
func ReadToken(file string) (string, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("read admin token: %w", err)
	}
	token := strings.TrimSpace(string(data))
	switch {
	case token == "":
		return "", fmt.Errorf("read admin token: %s is empty; put a long random word into it", file)
	case strings.ContainsAny(token, " \t\r\n"):
		return "", fmt.Errorf("read admin token: %s holds more than one word", file)
	}
	return token, nil
}
