package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

// Server is a running server program. Kill it with KillGroup9, which takes
// nginx's worker, too.
type Server struct {
	*lab.Process
	Host *lab.Host
	Port uint16
	Cmd  lab.Cmd // what it was started with
}

// Addr4 is the server's own IPv4 address and port.
func (s *Server) Addr4() string { return netip.AddrPortFrom(s.Host.Addr4(), s.Port).String() }

// Addr6 is the server's own IPv6 address and port.
func (s *Server) Addr6() string { return netip.AddrPortFrom(s.Host.Addr6(), s.Port).String() }

// start starts a server and waits until it listens with both families.
func start(ctx context.Context, h *lab.Host, port uint16, c lab.Cmd) (*Server, error) {
	p, err := h.Start(ctx, c)
	if err != nil {
		return nil, err
	}
	s := &Server{Process: p, Host: h, Port: port, Cmd: c}
	for _, addr := range []netip.Addr{h.Addr4(), h.Addr6()} {
		if !addr.IsValid() {
			continue
		}
		if err := waitListen(ctx, p, h, netip.AddrPortFrom(addr, port).String()); err != nil {
			// The first error is the one that matters.
			return nil, errors.Join(fmt.Errorf("start %v: %w; its log: %s", p, err, p.Log()), p.KillGroup9())
		}
	}
	return s, nil
}

// Restart starts a server that has ended again, just as it was started.
func (s *Server) Restart(ctx context.Context) (*Server, error) {
	return start(ctx, s.Host, s.Port, s.Cmd)
}

// waitListen is lab.Host.WaitListen that gives up when the process ends.
func waitListen(ctx context.Context, p *lab.Process, h *lab.Host, addr string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ready := make(chan struct{})
	defer close(ready)
	go func() {
		select {
		case <-p.Done():
			cancel(errEnded)
		case <-ready:
		}
	}()
	err := h.WaitListen(ctx, addr)
	if err != nil && context.Cause(ctx) == errEnded {
		return fmt.Errorf("wait for it to listen on %s: %w", addr, errEnded)
	}
	return err
}

// Files are the contents of a web site by their paths, as in "big.bin".
type Files map[string]content.Content

// Site is a directory with files for web servers. Several servers of a lab may
// share it: then also the times of the files agree, and so ETag and
// Last-Modified do.
type Site struct {
	// Dir has the files, and nobody changes them.
	Dir   string
	files Files
}

// NewSite makes the files of a site in the lab's directory.
func NewSite(l *lab.Lab, files Files) (*Site, error) {
	dir, err := dirFor(l, "all", "site")
	if err != nil {
		return nil, fmt.Errorf("make site: %w", err)
	}
	for path, c := range files {
		if err := c.WriteFile(filepath.Join(dir, path)); err != nil {
			return nil, fmt.Errorf("make site: %w", err)
		}
	}
	return &Site{Dir: dir, files: files}, nil
}

// Content is what the file has; path may start with a slash. It is empty for
// a file that is not there.
func (s *Site) Content(path string) content.Content {
	return s.files[strings.TrimPrefix(path, "/")]
}

// ErrNotInstalled is for a server program that this machine does not have.
var ErrNotInstalled = errors.New("not installed")

// find looks a server's program up also where a user's PATH has no look.
func find(program string) (string, error) {
	for _, name := range []string{program, "/usr/sbin/" + program, "/usr/local/sbin/" + program} {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("find %s: %w", program, ErrNotInstalled)
}

// Nginx says how to run nginx.
type Nginx struct {
	Site *Site
	Port uint16 // default 80
	// Extra are directives for the server block, as in "limit_rate 8m;".
	Extra string
}

// StartNginx starts nginx in a host, with a configuration of its own only: one
// worker, connections that live on, both families. It returns ErrNotInstalled
// when there is no nginx.
func StartNginx(ctx context.Context, l *lab.Lab, host string, n Nginx) (*Server, error) {
	path, err := find("nginx")
	if err != nil {
		return nil, err
	}
	h, err := hostOf(l, host)
	if err != nil {
		return nil, err
	}
	if n.Port == 0 {
		n.Port = 80
	}
	dir, err := dirFor(l, host, "nginx")
	if err != nil {
		return nil, err
	}
	conf, err := writeFile(dir, "nginx.conf", n.config(dir))
	if err != nil {
		return nil, err
	}
	return start(ctx, h, n.Port, lab.Cmd{Path: path, Args: []string{"-e", "stderr", "-p", dir, "-c", conf}})
}

// config is a whole nginx.conf. The user is root, because the site may be in a
// directory that only we may enter.
func (n Nginx) config(dir string) string {
	var temp strings.Builder
	for _, what := range []string{"client_body", "proxy", "fastcgi", "uwsgi", "scgi"} {
		fmt.Fprintf(&temp, "  %s_temp_path %s/%s;\n", what, dir, what)
	}
	return fmt.Sprintf(`daemon off;
user root;
worker_processes 1;
pid %[1]s/pid;
lock_file %[1]s/lock;
error_log stderr warn;
events { worker_connections 4096; }
http {
%[2]s  access_log %[1]s/access.log;
  default_type application/octet-stream;
  keepalive_timeout 1h;
  keepalive_requests 1000000;
  server {
    listen %[3]d backlog=1024;
    listen [::]:%[3]d backlog=1024;
    root %[4]s;
    %[5]s
  }
}
`, dir, temp.String(), n.Port, n.Site.Dir, n.Extra)
}

// StartRedis starts Redis in a host, without persistence and open to all; port
// 0 is 6379. It returns ErrNotInstalled when there is no Redis.
func StartRedis(ctx context.Context, l *lab.Lab, host string, port uint16) (*Server, error) {
	path, err := find("redis-server")
	if err != nil {
		return nil, err
	}
	h, err := hostOf(l, host)
	if err != nil {
		return nil, err
	}
	if port == 0 {
		port = 6379
	}
	dir, err := dirFor(l, host, "redis")
	if err != nil {
		return nil, err
	}
	return start(ctx, h, port, lab.Cmd{Path: path, Args: []string{
		"--port", fmt.Sprint(port), "--bind", "0.0.0.0", "::", "--protected-mode", "no",
		"--save", "", "--appendonly", "no", "--dir", dir, "--daemonize", "no"}})
}

// StartTestServer starts a server of package testsrv in a host, which is this
// program again: call Main or MaybeServe first thing. Its default name is the
// host's. The arguments are those with which this program gets there.
func StartTestServer(ctx context.Context, l *lab.Lab, host string, spec testsrv.Spec, args ...string) (*Server, error) {
	h, err := hostOf(l, host)
	if err != nil {
		return nil, err
	}
	if spec.Name == "" {
		spec.Name = host
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("describe server: %w", err)
	}
	path, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find own program: %w", err)
	}
	return start(ctx, h, spec.Port, lab.Cmd{
		Path: path, Args: args, Name: string(spec.Proto), Env: append(os.Environ(), serveEnv+"="+string(text))})
}
