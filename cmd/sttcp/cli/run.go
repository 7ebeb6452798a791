package cli

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sttcp/cmd/sttcp/node"
	"sttcp/configs"
)

// runCmd takes over --ready-fd before anything else: a descriptor that is not
// there is the caller's mistake, and it should be told before a node starts.
func (a *app) runCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "run [-c FILE]",
		Short: "Run a node until SIGTERM or SIGINT",
		Long: `Run a node in the foreground. Its log goes to standard error. When services are
served it logs "ready", tells systemd (Type=notify) and, with --ready-fd, writes
"ready\n" to that file descriptor and closes it: programs wait for that, not for
the log. SIGTERM and SIGINT drain the connections for the time that "drain" in
the configuration gives, a second one cuts them.`,
		Args: exactly(),
	}
	file := configFlag(cmd)
	fd := cmd.Flags().Int("ready-fd", 0, "the file descriptor `N` to write \"ready\" to")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		o := node.Options{Version: Version()}
		if cmd.Flags().Changed("ready-fd") {
			f, err := readyFile(*fd)
			if err != nil {
				return usagef(cmd, "--ready-fd %d: %v", *fd, err)
			}
			defer f.Close()
			o.Ready = func() { tellReady(f) }
		}
		cfg, err := load(*file, configs.Host())
		if err != nil {
			return err
		}
		o.Log = node.NewLogger(cfg.Log, a.err)
		return node.Run(cmd.Context(), cfg, o)
	}
	return cmd
}

// readyFile takes over a descriptor that the caller of this process opened. The
// fence command and other children do not get it: a reader that waits for its
// end would wait for theirs.
func readyFile(fd int) (*os.File, error) {
	if fd < 1 {
		return nil, fmt.Errorf("not a descriptor to write to")
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil {
		return nil, err
	}
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		return nil, fmt.Errorf("it is open for reading only")
	}
	unix.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "ready"), nil
}

// tellReady ignores errors: who does not listen any more does not want to know.
func tellReady(f *os.File) {
	_, _ = f.WriteString("ready\n")
	_ = f.Close()
}
