package rig_test

import (
	"context"
	"os"
	"testing"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
)

func TestMain(m *testing.M) { os.Exit(rig.Main(m.Run)) }

// needRoot skips without root, which CI must have.
func needRoot(t *testing.T) {
	t.Helper()
	switch {
	case os.Geteuid() == 0:
	case os.Getenv("CI") == "true":
		t.Fatal("network namespaces need root")
	default:
		t.Skip("network namespaces need root")
	}
}

// newLab makes a lab of some of the standard hosts for the time of the test.
func newLab(t *testing.T, hosts ...string) (context.Context, *lab.Lab) {
	t.Helper()
	needRoot(t)
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	l, err := lab.New(lab.Options{Name: "rig", Hosts: lab.Standard(hosts...)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return ctx, l
}

// dial connects and sets a deadline for the whole connection.
func dial(ctx context.Context, t *testing.T, l *lab.Lab, host, addr string) *rig.Conn {
	t.Helper()
	c, err := rig.Dial(ctx, l, host, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	deadline, _ := ctx.Deadline()
	if err := c.SetDeadline(deadline); err != nil {
		t.Fatal(err)
	}
	return c
}

// must is for what only has to work.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}
