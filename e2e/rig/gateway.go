package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/cmd/admin"
	"sttcp/e2e/lab"
)

// Gateway is a running gateway.
type Gateway struct {
	*lab.Process
	Host   *lab.Host
	Config Config // with the directories that were made

	// File is the configuration's path, Binary the program's, and Socket
	// the admin socket's.
	File, Binary, Socket string

	// Admin asks the admin socket.
	Admin *admin.Client

	ready string // the file that says "ready" once services are served
}

// StartGateway starts a gateway in its host, prepared by PrepareGateway, and
// waits until it serves and all servers are up. An
// empty binary is the one that Binary finds. A Gateway's Config, given again,
// restarts it in place. The gateway's log is part of the error.
func StartGateway(ctx context.Context, l *lab.Lab, binary string, c Config) (*Gateway, error) {
	g, err := RunGateway(ctx, l, binary, c)
	if err != nil {
		return nil, err
	}
	if err := g.WaitReady(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("start gateway: %w; its log: %s", err, g.Log()), g.KillGroup9())
	}
	return g, nil
}

// RunGateway is StartGateway that waits for nothing.
func RunGateway(ctx context.Context, l *lab.Lab, binary string, c Config) (*Gateway, error) {
	if c.Host == "" {
		c.Host = "g1"
	}
	h, err := hostOf(l, c.Host)
	if err != nil {
		return nil, err
	}
	if binary, err = orBuilt(ctx, binary); err != nil {
		return nil, err
	}
	file, err := c.writeFile(l)
	if err != nil {
		return nil, err
	}
	if err := PrepareGateway(h); err != nil {
		return nil, err
	}
	g := &Gateway{Host: h, Config: c, File: file, Binary: binary,
		Socket: filepath.Join(c.RunDir, "admin.sock"), ready: file + ".ready"}
	g.Admin = admin.Dial(g.Socket, "")
	g.Process, err = h.Start(ctx, lab.Cmd{Name: "sttcp", Path: binary,
		Args: []string{"run", "-c", file, "--ready-fd", "1"}, Stdout: g.ready})
	if err != nil {
		return nil, err
	}
	return g, nil
}

// writeFile makes the node's directories, where it has none, and the file.
func (c *Config) writeFile(l *lab.Lab) (path string, err error) {
	dir, err := dirFor(l, c.Host, "sttcp")
	if err != nil {
		return "", err
	}
	if c.RunDir == "" {
		c.RunDir = filepath.Join(dir, "run")
	}
	if c.StateDir == "" {
		c.StateDir = filepath.Join(dir, "state")
	}
	text, err := c.YAML(l)
	if err != nil {
		return "", err
	}
	return writeFile(dir, "sttcp.yaml", text)
}

// PrepareGateway does what an operator does to a gateway's host: it is a
// router, since servers may have it as theirs, and filters no reverse paths.
// The virtual IPs are the gateway's own business.
func PrepareGateway(h *lab.Host) error {
	for _, s := range [][2]string{
		{"net.ipv4.ip_forward", "1"}, {"net.ipv6.conf.all.forwarding", "1"},
		{"net.ipv4.conf.all.rp_filter", "0"}, {"net.ipv4.conf.default.rp_filter", "0"},
		{"net.ipv4.conf." + h.Interface() + ".rp_filter", "0"},
		{"net.ipv4.conf.all.src_valid_mark", "0"},
		{"net.ipv4.conf.all.send_redirects", "0"}, {"net.ipv4.conf." + h.Interface() + ".send_redirects", "0"},
	} {
		if err := h.SetSysctl(s[0], s[1]); err != nil {
			return fmt.Errorf("prepare gateway %s: %w", h.Name(), err)
		}
	}
	return nil
}

// WaitReady waits until the gateway serves and every server is up; it gives
// up when the gateway ends.
func (g *Gateway) WaitReady(ctx context.Context) error {
	err := g.while(ctx, "the gateway to be ready", func(context.Context) error {
		text, err := os.ReadFile(g.ready)
		if err == nil && string(text) != "ready\n" {
			err = errors.New("it has not said so yet")
		}
		return err
	})
	if err != nil {
		return err
	}
	return g.WaitServers(ctx, "every server up", func(s admin.ServerStatus) bool { return s.State == "up" })
}

// WaitServers waits until there are servers and all are as asked.
func (g *Gateway) WaitServers(ctx context.Context, what string, ok func(admin.ServerStatus) bool) error {
	return g.while(ctx, what, func(ctx context.Context) error {
		servers, err := g.Admin.Servers(ctx)
		if err == nil && len(servers) == 0 {
			err = errors.New("it has no servers")
		}
		for _, s := range servers {
			if !ok(s) {
				return fmt.Errorf("server %s of %s is %s", s.Name, s.Service, s.State)
			}
		}
		return err
	})
}

// patience is for what a gateway does within a second or two on a machine
// that has nothing else to do.
const patience = 20 * time.Second

// while waits for a condition, as long as the gateway runs.
func (g *Gateway) while(ctx context.Context, what string, cond func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return lab.Until(ctx, what, func() error {
		if !g.Running() {
			cancel()
			return fmt.Errorf("watch %v: %w", g, errEnded)
		}
		return cond(ctx)
	})
}

// Primary waits until the service has connections, all of one primary, and
// names that server.
func (g *Gateway) Primary(ctx context.Context, service string) (name string, err error) {
	err = lab.Until(ctx, "a primary of "+service, func() error {
		servers, err := g.Admin.Servers(ctx)
		if err != nil {
			return err
		}
		name, err = primaryOf(servers, service)
		return err
	})
	return name, err
}

// primaryOf names the only server that is a primary in the service.
func primaryOf(servers []admin.ServerStatus, service string) (name string, err error) {
	for _, s := range servers {
		switch {
		case s.Service != service || s.Primaries == 0:
		case name != "":
			return "", fmt.Errorf("find primary of %s: both %s and %s are", service, name, s.Name)
		default:
			name = s.Name
		}
	}
	if name == "" {
		return "", fmt.Errorf("find primary of %s: there is none", service)
	}
	return name, nil
}

// Command runs the gateway's program as an operator would, `sttcp ARGS...
// -c FILE` in its host, and returns what it printed.
func (g *Gateway) Command(ctx context.Context, args ...string) (string, error) {
	return g.Host.Run(ctx, g.Binary, append(args, "-c", g.File)...)
}

// Shutdown asks the gateway to end (SIGTERM) and waits for its clean end.
// Stop, in contrast, is SIGSTOP, and Kill9 is kill -9.
func (g *Gateway) Shutdown(ctx context.Context) error {
	if err := g.Signal(unix.SIGTERM); err != nil {
		return err
	}
	if err := g.Wait(ctx); err != nil {
		return fmt.Errorf("shut gateway down: %w; its log: %s", err, g.Log())
	}
	return nil
}
