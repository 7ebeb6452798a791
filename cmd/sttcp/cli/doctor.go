package cli

import (
	"context"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"sttcp/configs"
)

var runDoctor = func(context.Context, *configs.Config, io.Writer) bool {
	return false
}

func (a *app) doctorCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "doctor [-c FILE]", Short: "Check whether this host has all that a node needs",
		Args: exactly(),
	}
	file := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var cfg *configs.Config
		if cmd.Flags().Changed("config") {
			var err error
			if cfg, err = load(*file, configs.Host()); err != nil {
				return err
			}
		}
		if !runDoctor(cmd.Context(), cfg, a.out) {
			return errSaid
		}
		return nil
	}
	return cmd
}

var _ = errors.New
