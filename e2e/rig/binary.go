package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
)

// built is the gateway that this process has built, if it has. The file has no
// name any more, so that nothing is left however this process ends.
var built struct {
	mu   sync.Mutex
	file *os.File
}

// Binary finds the gateway's program: the file that the environment variable
// STTCP_BIN names, or else one that is built from this module's sources, once
// per process. That one exists as long as this process does.
func Binary(ctx context.Context) (string, error) {
	if path := os.Getenv("STTCP_BIN"); path != "" {
		return filepath.Abs(path)
	}
	built.mu.Lock()
	defer built.mu.Unlock()
	if built.file == nil {
		var err error
		if built.file, err = buildUnnamed(ctx); err != nil {
			return "", fmt.Errorf("build gateway: %w", err)
		}
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), built.file.Fd()), nil
}

// buildUnnamed builds the program, and removes its name.
func buildUnnamed(ctx context.Context) (f *os.File, err error) {
	dir, err := os.MkdirTemp("", "sttcp-bin-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "sttcp")
	if err := build(ctx, path); err != nil {
		return nil, err
	}
	return os.Open(path)
}

// orBuilt is path, or Binary when that is empty.
func orBuilt(ctx context.Context, path string) (string, error) {
	if path != "" {
		return path, nil
	}
	return Binary(ctx)
}

// build builds as `make build` does: without cgo, even when this program is
// one with the race detector. (With -trimpath nothing that `go test` has
// compiled could be used again.)
func build(ctx context.Context, path string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, "sttcp/cmd/sttcp")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%v: %w: %s", cmd, err, out)
	}
	return nil
}
