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

// built is the gateway that this process has built, if it has.
var built struct {
	mu   sync.Mutex
	dir  string
	path string
}

// Binary finds the gateway's program: the file that the environment variable
// STTCP_BIN names, or else one that is built from this module's sources, once
// per process. Only Main removes that.
func Binary(ctx context.Context) (string, error) {
	if path := os.Getenv("STTCP_BIN"); path != "" {
		return filepath.Abs(path)
	}
	built.mu.Lock()
	defer built.mu.Unlock()
	if built.path != "" {
		return built.path, nil
	}
	dir, err := os.MkdirTemp("", "sttcp-bin-")
	if err != nil {
		return "", fmt.Errorf("build gateway: %w", err)
	}
	path := filepath.Join(dir, "sttcp")
	if err := build(ctx, path); err != nil {
		return "", errors.Join(fmt.Errorf("build gateway: %w", err), os.RemoveAll(dir))
	}
	built.dir, built.path = dir, path
	return path, nil
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

func removeBuilt() {
	built.mu.Lock()
	defer built.mu.Unlock()
	if built.dir != "" {
		_ = os.RemoveAll(built.dir) // a temporary directory
	}
	built.dir, built.path = "", ""
}
