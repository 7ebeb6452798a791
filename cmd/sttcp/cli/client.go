package cli

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"sttcp/cmd/admin"
	"sttcp/configs"
)

// target is the node that a command is for.
type target struct {
	cmd                    *cobra.Command
	config, socket, tokens *string
}

// targetFlags adds the flags that name a node.
func targetFlags(cmd *cobra.Command) *target {
	return &target{
		cmd:    cmd,
		config: configFlag(cmd),
		socket: cmd.Flags().String("socket", "", "the node's admin socket, a `PATH` or HOST:PORT, instead of -c"),
		tokens: cmd.Flags().String("token-file", "", "the `FILE` with the token, for --socket HOST:PORT"),
	}
}

// dial gives a client of the node. Of the configuration only the place of the
// socket is used, so this machine is not asked about interfaces and files: a
// node whose interface is gone is the one that an operator wants to see.
func (t *target) dial() (*admin.Client, error) {
	addr, tokenFile := *t.socket, *t.tokens
	if addr == "" {
		cfg, err := load(*t.config, configs.Env{}) // of a node that runs, or ran
		switch {
		case errors.Is(err, fs.ErrNotExist) && !t.cmd.Flags().Changed("config"):
			return nil, fmt.Errorf("no %s here: say which node with -c FILE (its configuration) or --socket PATH (its admin socket)", *t.config)
		case err != nil:
			return nil, err
		}
		network, a := cfg.AdminAddr()
		addr = a
		if network != "unix" && tokenFile == "" {
			tokenFile = cfg.Admin.TokenFile
		}
	}
	token := ""
	if tokenFile != "" {
		var err error
		if token, err = admin.ReadToken(tokenFile); err != nil {
			return nil, err
		}
	}
	return admin.Dial(addr, token), nil
}

// explain says what to do about a node that can't be reached. What the node
// itself has refused is a sentence for the operator already.
func explain(err error) error {
	hint := ""
	var refused *admin.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &refused) && refused.Status == 401:
		hint = "give the right one with --token-file FILE"
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		hint = "no node runs there; start it with sttcp run, or say where it is with -c FILE or --socket PATH"
	case errors.Is(err, fs.ErrPermission):
		hint = "run this as the user of the node, root"
	default:
		return err
	}
	return fmt.Errorf("%w: %s", err, hint)
}
