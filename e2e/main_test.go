// Package e2e proves the gateway's promises on real hosts: network namespaces
// (package lab) with unmodified servers and the gateway as programs (package
// rig). Everything here is a test; see survive_test.go for the main one.
//
// STTCP_FULL=1 runs the full products and counts, STTCP_SEED=N replays the
// random choices of a run, which every test logs.
package e2e

import (
	"context"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"sttcp/e2e/rig"
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m.Run)) }

// patience bounds one scenario, or one client of a long one. It is only there
// to end what hangs: nothing that works comes near it, however busy the
// machine is.
const patience = 90 * time.Second

// full tells whether the full counts are asked for.
func full() bool { return os.Getenv("STTCP_FULL") == "1" }

// newRand is the source of a test's random choices, and logs how to have the
// same ones again.
func newRand(t *testing.T) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("STTCP_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("STTCP_SEED: %v", err)
		}
	}
	t.Logf("STTCP_SEED=%d", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// patient is a context for a whole scenario, which takes longer when the full
// counts are asked for.
func patient(t *testing.T) context.Context {
	limit := patience
	if full() {
		limit = 20 * time.Minute
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	t.Cleanup(cancel)
	return ctx
}
