package cli

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"sttcp/configs"
)

// load reads a configuration for a command that is not about its errors: they
// become one line.
func load(file string, env configs.Env) (*configs.Config, error) {
	cfg, err := configs.Load(file, env)
	var all configs.Errors
	if errors.As(err, &all) && len(all) > 1 {
		return nil, fmt.Errorf("%w (and %d more: sttcp check -c %s)", all[0], len(all)-1, file)
	}
	return cfg, err
}

// checkCmd asks this machine by default, because the file is mostly checked
// where it is to be used: "ok" then means that run accepts it.
func (a *app) checkCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [-c FILE]",
		Short: "Check the configuration and nothing else",
		Long: `Check the configuration file: prints "FILE: ok" and notes about what it does not
give, or one line for each error. This machine is asked whether the interfaces
and files that are named exist; --no-host leaves that out, for the file of
another machine. Whether this host has all it needs is for "sttcp doctor".`,
		Args: exactly(),
	}
	file := configFlag(cmd)
	noHost := cmd.Flags().Bool("no-host", false, "do not ask this machine for interfaces and files")
	cmd.RunE = func(*cobra.Command, []string) error {
		env := configs.Host()
		if *noHost {
			env = configs.Env{}
		}
		return a.check(*file, env)
	}
	return cmd
}

// check prints errors as they are, FILE:LINE first, so that editors can jump
// there; to standard error, as compilers do.
func (a *app) check(file string, env configs.Env) error {
	cfg, err := configs.Load(file, env)
	if err != nil {
		fmt.Fprintln(a.err, err)
		return errSaid
	}
	fmt.Fprintf(a.out, "%s: ok\n", file)
	for _, w := range cfg.Warnings {
		fmt.Fprintf(a.out, "note: %s\n", w)
	}
	if len(cfg.Ineffective) > 0 {
		fmt.Fprintf(a.out, "note: no effect in this version: %s\n", strings.Join(cfg.Ineffective, ", "))
	}
	return nil
}
