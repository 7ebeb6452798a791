package node

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"sttcp/cmd/admin"
	"sttcp/configs"
	"sttcp/proxy"
)

// backend answers the admin interface. All of it is constant; the proxy keeps
// itself consistent.
type backend struct {
	cfg     *configs.Config
	version string
	started time.Time
	proxy   dataPath
}

// Status is the node's state. A node without a cluster holds all of its
// virtual IPs, by a lease that has no end.
func (b *backend) Status() admin.Status {
	st := admin.Status{
		Node: b.cfg.Node.Name, Role: string(b.cfg.Node.Role),
		Version: b.version, PID: os.Getpid(), Started: b.started,
		Servers: b.Servers(),
	}
	for _, v := range b.cfg.VirtualIPs {
		st.VirtualIPs = append(st.VirtualIPs, admin.VirtualIP{
			Name: v.Name, Holder: st.Node, Epoch: 1, InSync: []string{st.Node},
		})
	}
	legs := b.legs()
	st.Notes = slices.Clone(b.cfg.Warnings)
	for _, s := range b.proxy.Services() {
		st.Services = append(st.Services, admin.ServiceStatus(s))
		st.Notes = append(st.Notes, notes(s, legs[s.Name])...)
	}
	return st
}

// legs is how many legs the connections of a service should have.
func (b *backend) legs() map[string]int {
	out := map[string]int{}
	for _, v := range b.cfg.VirtualIPs {
		for _, s := range v.Services {
			out[s.Name] = s.Legs
		}
	}
	return out
}

// notes says what the connections of a service lack. Whatever needs two legs
// or two gateways and has only one is never silent about it.
func notes(s proxy.ServiceStatus, legs int) (out []string) {
	say := func(format string, args ...any) {
		out = append(out, fmt.Sprintf("service %s: ", s.Name)+fmt.Sprintf(format, args...))
	}
	if n := s.Connections - s.TwoLegs; n > 0 && legs == 2 {
		say("%d of %d connections have one leg: they would not survive its server", n, s.Connections)
	}
	if n := s.Connections - s.GatewayProtected; n > 0 {
		say("%d of %d connections would not survive this gateway", n, s.Connections)
	}
	if s.Frozen {
		say("frozen: nothing is read from its clients until `sttcp service thaw %s`", s.Name)
	}
	return out
}

// Servers is the state of all servers. The conversion compiles only as long
// as both types have the same fields: a new one must be added to the interface.
func (b *backend) Servers() []admin.ServerStatus {
	var out []admin.ServerStatus
	for _, s := range b.proxy.Servers() {
		out = append(out, admin.ServerStatus(s))
	}
	return out
}

// Connections are up to so many open connections.
func (b *backend) Connections(most int) admin.Connections {
	list, more := b.proxy.Connections(most)
	out := admin.Connections{More: more}
	for _, c := range list {
		v := admin.ConnStatus{
			Service: c.Service, ID: c.ID, Client: c.Client, Address: c.Address, Primary: c.Primary,
			In: c.In, Out: c.Out, ClientFIN: c.ClientFIN, ServerFIN: c.ServerFIN, Blocked: c.Blocked, Frozen: c.Frozen,
		}
		for _, l := range c.Legs {
			v.Legs = append(v.Legs, admin.LegStatus(l))
		}
		out.Connections = append(out.Connections, v)
	}
	return out
}

// DrainServer has no more connections go to a server.
func (b *backend) DrainServer(name string) error { return known(b.proxy.DrainServer(name)) }

// MaintServer takes a server out.
func (b *backend) MaintServer(name string) error { return known(b.proxy.MaintServer(name)) }

// ReadyServer brings a server back.
func (b *backend) ReadyServer(name string, reset bool) error {
	return known(b.proxy.ReadyServer(name, reset))
}

// Freeze stops reading from the clients of a service, or goes on.
func (b *backend) Freeze(name string, on bool) error { return known(b.proxy.Freeze(name, on)) }

// unknown is an error of the proxy about a name that nobody has.
type unknown struct{ error }

func (unknown) Is(target error) bool { return target == admin.ErrUnknown }

func (u unknown) Unwrap() error { return u.error }

// known translates the proxy's error into the admin interface's.
func known(err error) error {
	if errors.Is(err, proxy.ErrUnknown) {
		return unknown{err}
	}
	return err
}
