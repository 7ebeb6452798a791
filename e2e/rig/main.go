package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"sttcp/e2e/rig/testsrv"
)

// serveEnv says, as the JSON of a testsrv.Spec, that this process is to be a
// test server instead of what it is otherwise.
const serveEnv = "STTCP_RIG_SERVE"

// Main runs a test package's tests: `os.Exit(rig.Main(m.Run))`. Before them
// it lets this program be a test server if it was started as one.
func Main(run func() int) int {
	MaybeServe()
	return run()
}

// MaybeServe does not return when this program was started by StartTestServer:
// then it is that server until it gets a signal.
func MaybeServe() {
	text, ok := os.LookupEnv(serveEnv)
	if !ok {
		return
	}
	if err := serve(text); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(text string) error {
	var spec testsrv.Spec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return fmt.Errorf("parse %s: %w", serveEnv, err)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer cancel()
	return testsrv.Run(ctx, spec)
}
