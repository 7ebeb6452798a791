package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sttcp/cmd/admin"
)

// view is something that a node shows, as T in JSON or as text.
type view[T any] struct {
	use, short string
	fetch      func(*admin.Client, context.Context) (T, error)
	text       func(io.Writer, T) error
}

func (a *app) statusCmd() *cobra.Command {
	return showCmd(a, view[admin.Status]{
		"status", "Show a node, its virtual IPs, services and servers", (*admin.Client).Status, printStatus})
}

func (a *app) serversCmd() *cobra.Command {
	return showCmd(a, view[admin.Servers]{
		"servers", "Show the servers of all services", servers, printServers})
}

// servers gives the list the name that it has in the status, too.
func servers(c *admin.Client, ctx context.Context) (admin.Servers, error) {
	list, err := c.Servers(ctx)
	return admin.Servers{Servers: list}, err
}

func (a *app) connectionsCmd() *cobra.Command {
	return showCmd(a, view[admin.Connections]{
		"connections", "Show the open connections and how far each has come", (*admin.Client).Connections, printConnections})
}

// showCmd is a command that shows v, once or with --watch.
func showCmd[T any](a *app, v view[T]) *cobra.Command {
	cmd := &cobra.Command{Use: v.use, Short: v.short, Args: exactly()}
	t := targetFlags(cmd)
	asJSON := cmd.Flags().Bool("json", false, "print JSON, with --watch one line each time")
	watch := cmd.Flags().Bool("watch", false, "show it again each second until interrupted")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		c, err := t.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		if !*watch {
			return show(cmd.Context(), a.out, c, v, *asJSON, "  ")
		}
		return watchView(cmd.Context(), a, c, v, *asJSON)
	}
	return cmd
}

// show asks the node once.
func show[T any](ctx context.Context, w io.Writer, c *admin.Client, v view[T], asJSON bool, indent string) error {
	data, err := v.fetch(c, ctx)
	if err != nil {
		return explain(err)
	}
	if !asJSON {
		return v.text(w, data)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", indent)
	return enc.Encode(data)
}

// watchView shows v until ctx ends or a signal comes. A node that is gone
// later, not at first, may be about to come back: it is asked on.
func watchView[T any](ctx context.Context, a *app, c *admin.Client, v view[T], asJSON bool) error {
	ctx, cancel := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM)
	defer cancel()
	tick := time.NewTicker(a.redraw)
	defer tick.Stop()
	for first := true; ; first = false {
		var page bytes.Buffer
		err := show(ctx, &page, c, v, asJSON, "")
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			if first {
				return err
			}
			page.Reset()
			page.WriteString(sorry(err, asJSON))
		}
		if err := draw(a.out, page.Bytes(), asJSON, first); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// sorry is the page of a node that did not answer.
func sorry(err error, asJSON bool) string {
	if asJSON {
		line, _ := json.Marshal(admin.Error{Message: err.Error()})
		return string(line) + "\n"
	}
	return "sttcp: " + err.Error() + "\n"
}

// draw writes a page at once: in place on a terminal, else below the last one.
// One write for all of it keeps a terminal from flickering, and a reader of
// JSON from half a line.
func draw(out io.Writer, page []byte, asJSON, first bool) error {
	const home = "\x1b[H\x1b[2J"
	switch {
	case asJSON:
	case isTerminal(out):
		page = append([]byte(home), page...)
	case !first:
		page = append([]byte("\n"), page...)
	}
	if _, err := out.Write(page); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	return nil
}

// isTerminal reports whether w is a terminal: only those have settings
// (tcgetattr(3)).
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
