package cli

import (
	"errors"
	"io/fs"

	"github.com/spf13/cobra"

	"sttcp/cmd/doctor"
	"sttcp/configs"
)

// doctorCmd uses the default configuration if there is one, as run does.
func (a *app) doctorCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor [-c FILE]",
		Short: "Check whether this host has all that a node needs",
		Long: `Check whether this host has all that a node needs, one line each: ok, or what to
do. With a configuration (-c, or the default one if there is one) it is checked
for that node, without one for any gateway. Needs root; changes nothing.`,
		Args: exactly(),
	}
	file := configFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := nodeOfDoctor(*file, cmd.Flags().Changed("config"))
		if err != nil {
			return err
		}
		if !doctor.Run(cmd.Context(), cfg, a.out) {
			return errSaid
		}
		return nil
	}
	return cmd
}

// nodeOfDoctor loads the configuration; nil if there is none and none was
// asked for. Interfaces that are missing are for doctor to say.
func nodeOfDoctor(file string, asked bool) (*configs.Config, error) {
	cfg, err := load(file, configs.Env{FileReadable: configs.Host().FileReadable})
	if errors.Is(err, fs.ErrNotExist) && !asked {
		return nil, nil
	}
	return cfg, err
}
