package cli

import (
	"github.com/spf13/cobra"

	"sttcp/e2e/demo" // the only place outside e2e that imports it
)

// demoCmd declares the flags of the demo here, so that their misuse looks like
// that of any other command.
func (a *app) demoCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo [--keep]",
		Short: "Show on this machine that a connection survives its server",
		Long: `Build hosts as network namespaces, start a gateway and two real servers, download
through them, and take the primary away in mid-stream. Takes less than a minute,
needs root, and removes all that it has made. The exit status is 0 only if every
byte was right.`,
		Args: exactly(),
	}
	keep := cmd.Flags().Bool("keep", false, "leave it all up at the end, until Ctrl-C")
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return demo.Run(cmd.Context(), demo.Options{Keep: *keep, Out: a.out})
	}
	return cmd
}
