package e2e

import (
	"os"
	"time"
)

func (t *talk) trace(w *world) {
	if os.Getenv("TRACE") == "" {
		return
	}
	start := time.Now()
	for t.going() {
		w.Logf("%v %d", time.Since(start).Round(time.Millisecond), t.value())
		time.Sleep(250 * time.Millisecond)
	}
}

var t0 = time.Now()

func (w *world) mark(s string) { w.Logf("MARK %v %s", time.Since(t0).Round(time.Millisecond), s) }
