package rig_test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sttcp/e2e/rig"
)

// TestBinary builds one, once, and wants it to run and to leave nothing.
func TestBinary(t *testing.T) {
	t.Setenv("STTCP_BIN", "")
	ctx := context.Background()
	path := must(rig.Binary(ctx))(t)
	if again := must(rig.Binary(ctx))(t); again != path {
		t.Errorf("built %s and %s", path, again)
	}
	out, err := exec.Command(path, "version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "sttcp") {
		t.Errorf("sttcp version: %v, %s", err, out)
	}
	if target := must(os.Readlink(path))(t); !strings.HasSuffix(target, " (deleted)") {
		t.Errorf("the program still has its name, %s", target)
	}
	t.Setenv("STTCP_BIN", "bin/some")
	if path := must(rig.Binary(ctx))(t); !filepath.IsAbs(path) || !strings.HasSuffix(path, "/e2e/rig/bin/some") {
		t.Errorf("STTCP_BIN gives %s", path)
	}
}
