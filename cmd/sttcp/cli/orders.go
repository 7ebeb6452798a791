package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"sttcp/cmd/admin"
)

// serverCmd has the orders about servers. What they mean for a stateful and for
// a stateless service is decided in package proxy/pool.
func (a *app) serverCmd() *cobra.Command {
	return group("server", "Give orders about a server",
		a.serverOrder(admin.OpDrain, "Send no new connections to a server; of a stateful service it is ejected"),
		a.serverOrder(admin.OpMaint, "Take a server out at once; its connections go on with the other one"),
		a.serverOrder(admin.OpReady, "Bring a server back; a stale one needs its service frozen and its data copied"))
}

// serverOrder is one of them. Only ready may reset connections: the others end
// none.
func (a *app) serverOrder(op admin.Op, short string) *cobra.Command {
	cmd := &cobra.Command{
		Use: string(op) + " NAME", Short: short, Args: exactly("NAME"),
		Long: short + ".\nNAME is a server's, or SERVICE/SERVER where several services have one of that name.",
	}
	reset := new(bool)
	if op == admin.OpReady {
		cmd.Flags().BoolVar(reset, "reset-connections", false, "reset the connections that have no leg there")
	}
	cmd.RunE = a.orderServer(targetFlags(cmd), op, reset)
	return cmd
}

// orderServer gives the order and prints the state that came of it, which need
// not be the word of the order: drain makes a server of a stateful service
// stale.
func (a *app) orderServer(t *target, op admin.Op, reset *bool) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		c, err := t.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		now, err := c.Server(cmd.Context(), admin.ServerOrder{Name: args[0], Op: op, ResetConnections: *reset})
		if err != nil {
			return explain(err)
		}
		for _, s := range now {
			fmt.Fprintf(a.out, "server %s of service %s is %s\n", s.Name, s.Service, s.State)
		}
		return nil
	}
}

func (a *app) serviceCmd() *cobra.Command {
	return group("service", "Give orders about a service",
		a.serviceOrder(admin.OpFreeze, "Stop reading from the clients of a service; nobody is disconnected",
			"service %s is frozen: its clients wait until sttcp service thaw\n"),
		a.serviceOrder(admin.OpThaw, "Go on after a freeze", "service %s goes on\n"))
}

// serviceOrder is an order about a service; done says what has come of it.
func (a *app) serviceOrder(op admin.Op, short, done string) *cobra.Command {
	cmd := &cobra.Command{Use: string(op) + " NAME", Short: short, Args: exactly("NAME")}
	t := targetFlags(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := t.dial()
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.Service(cmd.Context(), admin.ServiceOrder{Name: args[0], Op: op}); err != nil {
			return explain(err)
		}
		fmt.Fprintf(a.out, done, args[0])
		return nil
	}
	return cmd
}
