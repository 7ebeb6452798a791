package lab

import (
	"fmt"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

// watched are the labs that are closed when a signal ends this process.
var watched struct {
	mu   sync.Mutex
	labs map[*Lab]struct{}
	sigs chan os.Signal // nil while there are no labs
}

// closeOnSignal adds a lab to those that a signal closes.
func closeOnSignal(l *Lab) {
	watched.mu.Lock()
	defer watched.mu.Unlock()
	if watched.sigs == nil {
		watched.labs = map[*Lab]struct{}{}
		watched.sigs = make(chan os.Signal, 1)
		signal.Notify(watched.sigs, unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
		go dieCleanly(watched.sigs)
	}
	watched.labs[l] = struct{}{}
}

// forgetSignals undoes closeOnSignal; with the last lab the signals are as
// they were.
func forgetSignals(l *Lab) {
	watched.mu.Lock()
	defer watched.mu.Unlock()
	delete(watched.labs, l)
	if len(watched.labs) == 0 && watched.sigs != nil {
		signal.Stop(watched.sigs)
		close(watched.sigs)
		watched.sigs = nil
	}
}

// dieCleanly waits for a signal, closes all labs and dies of that signal.
func dieCleanly(sigs <-chan os.Signal) {
	sig, ok := <-sigs
	if !ok {
		return
	}
	for _, l := range watchedLabs() {
		if err := l.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
	}
	signal.Reset(sig)
	// Default action; there is nothing to do about an error.
	_ = unix.Kill(unix.Getpid(), sig.(unix.Signal))
}

// watchedLabs copies the list, since Close changes it.
func watchedLabs() []*Lab {
	watched.mu.Lock()
	defer watched.mu.Unlock()
	labs := make([]*Lab, 0, len(watched.labs))
	for l := range watched.labs {
		labs = append(labs, l)
	}
	return labs
}
