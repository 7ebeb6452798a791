package cli

import (
	"context"
	"io"

	"github.com/spf13/cobra"

	"sttcp/e2e/demo"
)

// runDemo is the only place outside e2e that imports it.
var runDemo = func(ctx context.Context, args []string, out io.Writer) error {
	return demo.Run(ctx, demo.Options{Args: args, Out: out})
}

func (a *app) demoCmd() *cobra.Command {
	return &cobra.Command{
		Use: "demo", Short: "Show on this machine that a connection survives its server",
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDemo(cmd.Context(), args, a.out)
		},
	}
}
