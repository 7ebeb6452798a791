package cli

import (
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"sttcp/cmd/admin"
)

var update = flag.Bool("update", false, "write what cmp compares with into the scripts anew")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"sttcp": func() { os.Exit(Run(context.Background(), os.Args[1:], os.Stdout, os.Stderr)) },
	})
}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"node":   nodeCmd,
			"status": statusCmd,
		},
		RequireExplicitExec: true,
		UpdateScripts:       *update,
	})
}

// nodeYAML is the file of a node that could not run here.
const nodeYAML = `
node: {name: g1, run_dir: %s}
admin: {listen: "%s", token_file: "%s"}
virtual_ips:
  - name: front
    addresses: [{address: 10.9.0.100, interface: none0}]
    services:
      - {name: web, ports: [80], servers: [{name: s1, address: 10.9.0.11}, {name: s2, address: 10.9.0.12}]}
`

// nodeCmd serves a made-up node and writes its node.yaml:
//
//	node unix PATH-UNDER-RUN_DIR
//	node tcp TOKEN-FILE
//
// The real address is in $ADDR afterwards.
func nodeCmd(ts *testscript.TestScript, _ bool, args []string) {
	run := ts.MkAbs("run")
	o := admin.Options{Network: args[0], Address: filepath.Join(run, args[1]), Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	listen, tokenFile := args[1], ""
	if o.Network == "tcp" {
		o.Address, o.Token = "127.0.0.1:0", strings.TrimSpace(ts.ReadFile(args[1]))
	}
	s, err := admin.Serve(madeUp{}, o)
	ts.Check(err)
	ts.Defer(func() { _ = s.Close(context.Background()) })
	if o.Network == "tcp" {
		listen, tokenFile = s.Addr().String(), ts.MkAbs(args[1])
	}
	ts.Setenv("ADDR", s.Addr().String())
	ts.Check(os.WriteFile(ts.MkAbs("node.yaml"), fmt.Appendf(nil, nodeYAML, run, listen, tokenFile), 0o600))
}

// statusCmd runs sttcp and wants an exit status: status N ARGS...
func statusCmd(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec("sttcp", args[1:]...)
	got := "0"
	if err != nil {
		got = strings.TrimPrefix(err.Error(), "exit status ")
	}
	if got != args[0] {
		ts.Fatalf("sttcp %q: exit status %s, want %s", args[1:], got, args[0])
	}
}

// madeUp is a node of which every answer is known.
type madeUp struct{}

func (madeUp) Status() admin.Status {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return admin.Status{
		Node: "g1", Role: "gateway", Version: "v1.2.3", PID: 42, Started: at,
		VirtualIPs: []admin.VirtualIP{
			{Name: "front", Holder: "g1", Epoch: 1, InSync: []string{"g1"}},
			{Name: "back", Holder: "g2", Epoch: 7, LeaseMS: 900, InSync: []string{"g1", "g2"}},
		},
		Services: []admin.ServiceStatus{{
			Name: "web", Connections: 3, TwoLegs: 2, Accepted: 9, Refused: 1,
			BytesIn: 1023, BytesOut: 5 << 30, Promoted: 4, Diverged: 6, Muted: 5,
		}},
		Servers: madeUp{}.Servers(),
		Notes:   []string{"service web: shared state not verified"},
	}
}

func (madeUp) Servers() []admin.ServerStatus {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return []admin.ServerStatus{
		{Service: "web", Name: "s1", Address: "10.9.0.11", State: "up", Since: at, Healthy: true, Legs: 3, Primaries: 1},
		{Service: "web", Name: "s2", Address: "2001:db8::12", State: "stale", Legs: 2},
	}
}

func (madeUp) Connections(int) admin.Connections {
	return admin.Connections{More: 2, Connections: []admin.ConnStatus{
		{Service: "web", ID: 1, Client: "10.8.0.10:5000", Address: "10.9.0.100:80", Primary: "s2", In: 10, Out: 20,
			ClientFIN: true, Blocked: true, Legs: []admin.LegStatus{
				{Server: "s1", State: "live", Acked: 10, Sent: 10, Read: 19, Owes: true, Closed: true},
				{Server: "s2", State: "live", Acked: 10, Sent: 10, Read: 20}}},
		{Service: "web", ID: 2, Client: "10.8.0.10:5001", Address: "10.9.0.100:80", Primary: "s1",
			Legs: []admin.LegStatus{{Server: "s1", State: "live"}, {Server: "s2", State: "absent"}}},
	}}
}

func (madeUp) DrainServer(name string) error { return fmt.Errorf("drain %s\nthe last server", name) }
func (madeUp) MaintServer(string) error      { return nil }
func (madeUp) Freeze(name string, _ bool) error {
	if name != "web" {
		return fmt.Errorf("service %q: %w", name, admin.ErrUnknown)
	}
	return nil
}

func (madeUp) ReadyServer(name string, reset bool) error {
	if !reset {
		return fmt.Errorf("2 connections have no leg there (--reset-connections)")
	}
	return nil
}
