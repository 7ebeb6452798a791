// Package cli is the command line of sttcp, callable like any function.
//
// What a command has to say goes to standard output, why it failed to standard
// error, as one line `sttcp: ...`. (The log of `sttcp run` goes to standard
// error, too.) The exit status is 0, 1 if the command failed, 2 if it was
// called wrongly.
//
// Only flags and wiring are here. What a command does is in a package of its
// own: configs (check), cmd/doctor, cmd/sttcp/node (run), e2e/demo, and
// cmd/admin for all that speaks to a running node.
//
// A running node is found by its admin socket: --socket names it, else it is
// read from the configuration (-c, default /etc/sttcp/sttcp.yaml) that the node
// was started with.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// The exit statuses.
const (
	exitOK     = 0
	exitFailed = 1
	exitUsage  = 2
)

// defaultConfig is where the configuration lies if -c does not say.
const defaultConfig = "/etc/sttcp/sttcp.yaml"

// redraw is how often --watch asks.
const redraw = time.Second

// app is one call of the command line.
type app struct {
	out, err io.Writer
	redraw   time.Duration
}

// Run carries out the command in args, without the program's name, and returns
// the exit status. The end of ctx is for `run` what SIGTERM is.
func Run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	a := &app{out: stdout, err: stderr, redraw: redraw}
	return a.run(ctx, args)
}

func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(append([]string{}, args...)) // nil would mean os.Args
	root.SetOut(a.out)
	root.SetErr(a.err)
	return a.status(root.ExecuteContext(ctx))
}

// usageError is a command that was called wrongly.
type usageError struct{ msg string }

func (e usageError) Error() string { return e.msg }

// errSaid is a failure of which everything has been said: the lines of check
// and doctor are the message.
var errSaid = errors.New("failed")

// status prints err, if it is not said yet, and gives it its exit status.
func (a *app) status(err error) int {
	var usage usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errSaid):
		return exitFailed
	}
	// Joined errors and parsers' errors have several lines.
	fmt.Fprintf(a.err, "sttcp: %s\n", strings.Join(strings.FieldsFunc(err.Error(), isNewline), "; "))
	if errors.As(err, &usage) {
		return exitUsage
	}
	return exitFailed
}

func isNewline(r rune) bool { return r == '\n' || r == '\r' }

// root has all commands of this version. Those of later ones are not there at
// all: an unknown command is a clearer answer than one that does nothing.
func (a *app) root() *cobra.Command {
	root := group("sttcp", "ST-TCP gateway: TCP connections that survive the death of their server",
		a.runCmd(), a.checkCmd(), a.doctorCmd(), a.statusCmd(), a.serversCmd(), a.connectionsCmd(),
		a.serverCmd(), a.serviceCmd(), a.demoCmd(), a.versionCmd())
	root.Version = versionLine()
	root.SetVersionTemplate("{{.Version}}\n")
	root.CompletionOptions.DisableDefaultCmd = true
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef(cmd, "%v", err)
	})
	return root
}

// group is a command that only has others below it. It takes any arguments to
// refuse them itself: cobra's own message has several lines.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef(cmd, "say what to do: %s", names(cmd))
			}
			return usagef(cmd, "unknown command %q; there are %s", args[0], names(cmd))
		},
	}
	cmd.AddCommand(sub...)
	return cmd
}

// names are the commands below cmd.
func names(cmd *cobra.Command) string {
	var out []string
	for _, c := range cmd.Commands() {
		if c.IsAvailableCommand() {
			out = append(out, c.Name())
		}
	}
	return strings.Join(out, ", ")
}

// usagef is a usageError with where to find help.
func usagef(cmd *cobra.Command, format string, args ...any) error {
	return usageError{fmt.Sprintf(format, args...) + fmt.Sprintf(" (see %s --help)", cmd.CommandPath())}
}

// exactly accepts as many arguments as there are names for them.
func exactly(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return usagef(cmd, "%s is missing", names[len(args)])
		case len(args) > len(names):
			return usagef(cmd, "unexpected argument %q", args[len(names)])
		}
		return nil
	}
}

// configFlag adds -c.
func configFlag(cmd *cobra.Command) *string {
	return cmd.Flags().StringP("config", "c", defaultConfig, "the configuration `FILE`")
}
