package health

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

// These tests run by a synthetic clock (testing/synctest), against servers
// that are functions: they are about when and what is asked and counted. What
// a check does on the wire is tested in probe_test.go.

const ms = time.Millisecond

var defaults = Config{Interval: 250 * ms, Timeout: 200 * ms, Rise: 2, Fall: 2}

// bench is a checker of fake servers, and what it did.
type bench struct {
	*Checker
	start time.Time
	// answer is what a server does: it returns when it answers, with an error
	// if the check is to fail. It ends with ctx at the latest.
	answer func(ctx context.Context, server int) error

	mu       sync.Mutex
	jump     time.Duration // added to the clock
	begun    [][]time.Duration
	results  []Result
	verdicts []Verdict
}

func newBench(cfg Config, servers int, answer func(ctx context.Context, server int) error) *bench {
	b := &bench{start: time.Now(), answer: answer, begun: make([][]time.Duration, servers)}
	cfg.Each = func(r Result) { b.locked(func() { b.results = append(b.results, r) }) }
	b.Checker = New(cfg, make([]netip.AddrPort, servers),
		func(v Verdict) { b.locked(func() { b.verdicts = append(b.verdicts, v) }) })
	for i, w := range b.servers {
		w.prober.dial = func(ctx context.Context) (net.Conn, error) { return b.dial(ctx, i) }
		w.now = b.now
	}
	return b
}

func (b *bench) locked(do func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	do()
}

func (b *bench) now() (now time.Time) {
	b.locked(func() { now = time.Now().Add(b.jump) })
	return now
}

// stall is as if the process had been stopped for d.
func (b *bench) stall(d time.Duration) { b.locked(func() { b.jump += d }) }

func (b *bench) dial(ctx context.Context, i int) (net.Conn, error) {
	b.locked(func() { b.begun[i] = append(b.begun[i], time.Since(b.start)) })
	if err := b.answer(ctx, i); err != nil {
		return nil, err
	}
	c, peer := net.Pipe()
	peer.Close()
	return c, nil
}

// told renders verdicts as "0U0D1U", with the generation if there is one.
func (b *bench) told() string {
	var out strings.Builder
	b.locked(func() {
		for _, v := range b.verdicts {
			fmt.Fprintf(&out, "%d%c", v.Server, "DU"[btoi(v.Up)])
			if v.Gen != 0 {
				fmt.Fprintf(&out, "g%d", v.Gen)
			}
		}
	})
	return out.String()
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// instant servers answer at once.
func instant(err error) func(context.Context, int) error {
	return func(context.Context, int) error { return err }
}

// silent servers never answer.
func silent(ctx context.Context, _ int) error {
	<-ctx.Done()
	return ctx.Err()
}

// TestInterval: all servers are checked at once and then every interval, and
// only agreeing checks repeat the verdict.
func TestInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(defaults, 2, func(_ context.Context, i int) error { return []error{nil, unix.ECONNREFUSED}[i] })
		b.Run()
		time.Sleep(600 * ms) // of the synthetic clock: until all has happened by then
		b.Close()
		want := []time.Duration{0, 250 * ms, 500 * ms}
		if !slices.Equal(b.begun[0], want) || !slices.Equal(b.begun[1], want) {
			t.Errorf("begun at %v", b.begun)
		}
		told := strings.Count(b.told(), "0U") + strings.Count(b.told(), "1D")
		if told != 4 || len(b.verdicts) != 4 {
			t.Errorf("told %s", b.told())
		}
		for _, v := range b.verdicts {
			if !v.Up && !errors.Is(v.Err, unix.ECONNREFUSED) || v.Up && v.Err != nil {
				t.Errorf("%+v", v)
			}
		}
	})
}

// TestTimeout: a silent server fails by its time-out; with one longer than the
// interval the next check waits for it, and is not late for that.
func TestTimeout(t *testing.T) {
	for _, tt := range []struct {
		timeout time.Duration
		begun   []time.Duration
	}{
		{200 * ms, []time.Duration{0, 250 * ms, 500 * ms, 750 * ms}},
		{400 * ms, []time.Duration{0, 400 * ms, 800 * ms}},
	} {
		synctest.Test(t, func(t *testing.T) {
			cfg := defaults
			cfg.Timeout = tt.timeout
			b := newBench(cfg, 1, silent)
			b.Run()
			time.Sleep(990 * ms)
			b.Close()
			if !slices.Equal(b.begun[0], tt.begun) {
				t.Errorf("begun at %v, want %v", b.begun[0], tt.begun)
			}
			for _, r := range b.results {
				if r.Excused || !errors.Is(r.Err, context.DeadlineExceeded) || r.Ended.Sub(r.Began) != tt.timeout {
					t.Errorf("%+v", r)
				}
			}
			if told := b.told(); !strings.HasPrefix(told, "0D") {
				t.Errorf("told %q", told)
			}
		})
	}
}

// TestProbeShared: whoever asks before a check begins shares it; one that is
// under way serves nobody who asks later; and none begin closer than spacing.
func TestProbeShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(defaults, 1, silent)
		b.Run()
		time.Sleep(10 * ms)
		var answers []time.Duration
		for n := range 1000 {
			asked := time.Now()
			b.ProbeNow(0, func(up bool) {
				b.locked(func() { answers = append(answers, time.Since(asked)) })
				if r := b.results[len(b.results)-1]; up || r.Began.Before(asked) || !r.Immediate {
					t.Errorf("up %v, asked %v, %+v", up, asked, r)
				}
			})
			if n%10 == 0 {
				time.Sleep(ms)
			}
		}
		time.Sleep(time.Second)
		b.Close()
		if len(answers) != 1000 || slices.Max(answers) > 225*ms {
			t.Errorf("%d answers, the last after %v", len(answers), slices.Max(answers))
		}
		on := b.begun[0][1:6] // 10, 35, 60, 85, 110: one more than 100 ms / 25 ms
		if !slices.Equal(on, []time.Duration{10 * ms, 35 * ms, 60 * ms, 85 * ms, 110 * ms}) {
			t.Errorf("probes began at %v", b.begun[0])
		}
	})
}

// TestSteadyServes: the check by interval serves those who asked before it.
func TestSteadyServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(defaults, 1, instant(nil))
		b.Run()
		time.Sleep(240 * ms)
		var first, second, none bool
		b.ProbeNow(0, func(up bool) { first = up }) // at 240
		time.Sleep(5 * ms)
		b.ProbeNow(0, func(up bool) { second = up }) // too close to 240, so at 250
		b.ProbeNow(0, nil)
		time.Sleep(10 * ms)
		b.Close()
		b.ProbeNow(0, func(bool) { none = true })
		synctest.Wait()
		if want := []time.Duration{0, 240 * ms, 250 * ms}; !slices.Equal(b.begun[0], want) {
			t.Errorf("begun at %v, want %v", b.begun[0], want)
		}
		if !first || !second || none {
			t.Errorf("answered %v, %v; after Close %v", first, second, none)
		}
	})
}

// TestProbesDecideNothing: neither rise nor fall is reached on demand.
func TestProbesDecideNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := defaults
		cfg.Interval, cfg.Rise, cfg.Fall = time.Hour, 2, 2
		b := newBench(cfg, 2, func(_ context.Context, i int) error { return []error{nil, unix.ECONNREFUSED}[i] })
		b.Run()
		for range 10 {
			b.ProbeNow(0, nil)
			b.ProbeNow(1, nil)
			time.Sleep(100 * ms)
		}
		b.Close()
		if len(b.results) != 20 || b.told() != "" {
			t.Errorf("%d results, told %q", len(b.results), b.told())
		}
	})
}

// TestRecheck: what began before does not count, what is said carries gen.
func TestRecheck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := func(ctx context.Context, _ int) error {
			time.Sleep(100 * ms)
			return nil
		}
		b := newBench(defaults, 1, slow)
		b.Run()
		time.Sleep(550 * ms) // two have passed, one is under way
		b.Recheck(0, 7)
		time.Sleep(790 * ms) // it ended at 600 and did not count; two more at 850, 1100, 1350
		told := b.told()
		b.Close()
		if told != "0U0Ug7" {
			t.Errorf("told %q", told)
		}
	})
}

// TestOlderIsNoNews: a check that began before one that is counted already
// does not count, though it ends later.
func TestOlderIsNoNews(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var checks atomic.Int32
		b := newBench(Config{Interval: 250 * ms, Timeout: 200 * ms, Rise: 1, Fall: 1}, 1,
			func(ctx context.Context, _ int) error {
				if checks.Add(1) == 1 {
					return silent(ctx, 0)
				}
				return nil
			})
		b.Run()
		time.Sleep(100 * ms)
		b.ProbeNow(0, nil) // passes at once, while the first waits for its time-out
		time.Sleep(200 * ms)
		b.Close()
		if b.told() != "0U" || len(b.results) != 3 {
			t.Errorf("told %q, results %v", b.told(), b.results)
		}
	})
}

// TestOwnSlowness: failures while we did not run do not count; a refusal does,
// and so does the fourth in a row.
func TestOwnSlowness(t *testing.T) {
	timeout := errors.New("i/o timeout")
	for _, tt := range []struct {
		name  string
		stall time.Duration
		err   error
		want  string // x: excused, -: counted
	}{
		{"stopped", time.Second, timeout, "xxx--"},
		{"starved", 80 * ms, timeout, "xxx--"},
		{"busy", 40 * ms, timeout, "-----"},
		{"refused", time.Second, unix.ECONNREFUSED, "-----"},
		{"no descriptors", 0, unix.EMFILE, "xxxxx"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var b *bench
				b = newBench(defaults, 1, func(context.Context, int) error {
					time.Sleep(10 * ms)
					b.stall(tt.stall)
					return tt.err
				})
				b.Run()
				for len(resultsOf(b)) < 5 {
					time.Sleep(ms)
				}
				b.Close()
				var got strings.Builder
				for _, r := range b.results {
					got.WriteByte("-x"[btoi(r.Excused)])
				}
				if got.String() != tt.want {
					t.Errorf("got %s, want %s", got.String(), tt.want)
				}
			})
		})
	}
}

func resultsOf(b *bench) (out []Result) {
	b.locked(func() { out = slices.Clone(b.results) })
	return out
}

// TestLateTick: it is also our slowness if the check itself began late.
func TestLateTick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(defaults, 1, instant(errors.New("no answer")))
		b.Run()
		time.Sleep(200 * ms)
		b.stall(100 * ms) // the one due at 250 begins 100 ms late
		time.Sleep(100 * ms)
		b.Close()
		if r := b.results; len(r) != 2 || r[0].Excused || !r[1].Excused {
			t.Errorf("%+v", r)
		}
	})
}

// TestExcusedProbeIsRepeated: those who asked get an answer about the server.
func TestExcusedProbeIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *bench
		calls := 0
		b = newBench(defaults, 1, func(context.Context, int) error {
			if calls++; calls != 2 {
				return nil
			}
			b.stall(time.Second)
			return errors.New("i/o timeout")
		})
		b.Run()
		time.Sleep(10 * ms)
		var answers []bool
		b.ProbeNow(0, func(up bool) { answers = append(answers, up) })
		time.Sleep(40 * ms)
		b.Close()
		if fmt.Sprint(answers) != "[true]" || calls != 3 || !b.results[1].Excused {
			t.Errorf("answers %v after %d checks: %+v", answers, calls, b.results)
		}
	})
}

// TestExcusesEnd: a check that passes ends the row of excuses.
func TestExcusesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b *bench
		n := 0
		b = newBench(defaults, 1, func(context.Context, int) error {
			if n++; n%4 == 0 {
				return nil
			}
			b.stall(time.Second)
			return errors.New("i/o timeout")
		})
		b.Run()
		for len(resultsOf(b)) < 12 {
			time.Sleep(ms)
		}
		b.Close()
		for i, r := range b.results[:12] {
			if r.Excused != (i%4 != 3) {
				t.Errorf("check %d: %+v", i, r)
			}
		}
	})
}

// TestSpacing: the next check on demand waits for its time, with nothing else
// to wake it, and whoever asked first is who has been waiting.
func TestSpacing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(defaults, 1, instant(nil))
		b.Run()
		time.Sleep(10 * ms)
		b.ProbeNow(0, nil)
		time.Sleep(2 * ms)
		b.ProbeNow(0, nil)
		time.Sleep(2 * ms)
		b.ProbeNow(0, nil)
		if w := b.servers[0]; w.asked.Sub(b.start) != 12*ms {
			t.Errorf("asked at %v", w.asked.Sub(b.start))
		}
		time.Sleep(100 * ms)
		b.Close()
		if want := []time.Duration{0, 10 * ms, 35 * ms}; !slices.Equal(b.begun[0], want) {
			t.Errorf("begun at %v, want %v", b.begun[0], want)
		}
	})
}

// TestCloseWhileTelling: a check that Close ended is not told of, though run
// was busy when it did.
func TestCloseWhileTelling(t *testing.T) {
	for range 20 {
		synctest.Test(t, func(t *testing.T) {
			var checks atomic.Int32
			b := newBench(Config{Interval: 250 * ms, Timeout: 200 * ms, Rise: 1, Fall: 1}, 1,
				func(ctx context.Context, _ int) error {
					if checks.Add(1) == 1 {
						return silent(ctx, 0)
					}
					return nil
				})
			b.Run()
			time.Sleep(10 * ms)
			b.ProbeNow(0, func(bool) { time.Sleep(50 * ms) }) // the first check is still waiting
			time.Sleep(10 * ms)
			b.Close()
			if len(b.results) != 1 || b.told() != "" {
				t.Errorf("%v, told %s", b.results, b.told())
			}
		})
	}
}

// TestClose: it ends what is under way, waits for it, and nothing is said of
// what failed for that reason.
func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(Config{Interval: 250 * ms, Timeout: 200 * ms, Rise: 1, Fall: 1}, 3, silent)
		b.Run()
		time.Sleep(100 * ms)
		asked := false
		b.ProbeNow(1, func(bool) { asked = true })
		time.Sleep(ms)
		b.Close()
		b.Close()
		b.Recheck(2, 1)
		if time.Since(b.start) != 101*ms || len(b.results) != 0 || len(b.verdicts) != 0 || asked {
			t.Errorf("%v, %v, asked %v", b.results, b.verdicts, asked)
		}
	})
}
