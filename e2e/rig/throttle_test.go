package rig_test

import (
	"errors"
	"os/exec"
	"testing"
	"time"

	"sttcp/e2e/rig"
)

func TestThrottle(t *testing.T) {
	needRoot(t)
	spin := exec.Command("sh", "-c", "while :; do :; done")
	if err := spin.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = spin.Wait() }()
	defer func() { _ = spin.Process.Kill() }()
	q, err := rig.Throttle(spin.Process.Pid, 2*time.Millisecond, 100*time.Millisecond)
	if errors.Is(err, rig.ErrNoCgroup) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		waited, err := q.Waited()
		if err != nil {
			t.Fatal(err)
		}
		if waited >= 200*time.Millisecond {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("it has waited for %v only", waited)
		}
	}
	for range 2 {
		if err := q.Undo(); err != nil {
			t.Error(err)
		}
	}
	if _, err := q.Waited(); err == nil {
		t.Error("the cgroup is still there")
	}
	if _, err := rig.Throttle(spin.Process.Pid, 0, time.Second); !errors.Is(err, rig.ErrNoCgroup) {
		t.Errorf("no time at all: %v", err)
	}
}
