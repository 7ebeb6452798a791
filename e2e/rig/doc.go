// Package rig has what scenarios and the demo share on top of package lab:
// servers as real programs (nginx, Redis, and the small ones of package
// testsrv), the gateway as a real program with its configuration, the routes
// of a `source: client` service, and clients that check every byte.
//
// A test package that uses it starts with
//
//	func TestMain(m *testing.M) { os.Exit(rig.Main(m.Run)) }
//
// All files are in the lab's directory; closing the lab ends and removes
// everything.
package rig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"sttcp/e2e/lab"
)

// hostOf finds a host of a lab.
func hostOf(l *lab.Lab, name string) (*lab.Host, error) {
	if h := l.Host(name); h != nil {
		return h, nil
	}
	return nil, fmt.Errorf("find host %q: it is not in the lab", name)
}

// dirFor makes a new directory in the lab's, for a program in a host.
func dirFor(l *lab.Lab, host, program string) (string, error) {
	dir, err := os.MkdirTemp(l.Dir(), host+"-"+program+"-")
	if err == nil {
		// Programs that drop their privileges look into it, too.
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		return "", fmt.Errorf("make directory: %w", err)
	}
	return dir, nil
}

// writeFile writes a file that anyone may read.
func writeFile(dir, name, text string) (string, error) {
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return "", fmt.Errorf("write %s: %w", name, err)
	}
	return path, nil
}

// errEnded is for a program that has ended where it should not have.
var errEnded = errors.New("it has ended")
