package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"sttcp/cmd/admin"
	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

// misdeed is one way for a server to fail, and what is to come of it. The
// servers are of testsrv.Script: the client itself says how they are to
// misbehave. In all texts VICTIM is the server that fails, OTHER the other
// one, BACKUP the backup.
type misdeed struct {
	name string
	who  []string // whether the victim is primary or backup, one play each
	keys string   // of the service

	says string // the lines that the client sends
	up   int64  // bytes that it sends after them
	gets func(p *play) io.Reader
	over string // how the servers end the connection: "fin", "rst", or the client does

	// Once the client has got at bytes, or sent them if it sends, strike is
	// called; then the client sends the lines of then. If stall, that is not
	// before nothing moves any more, while the client gets nothing.
	at     int64
	stall  bool
	strike func(p *play) error
	then   string

	drops []string // the reason for which one leg is dropped is one of these
	loser string   // whose leg that is; default VICTIM
	voice bool     // the answers differ: that is counted, and muted if nobody is dropped
}

// either has the primary be the victim, and in another play the backup.
var either = []string{"primary", "backup"}

// play is one misdeed under way.
type play struct {
	*world
	misdeed
	role            string
	port            uint16
	victim, primary string
	own             map[string]*rig.Server // servers of its own, if it strikes
	offset          int64                  // random
	stalled         time.Duration
	struck          time.Time
	reset           bool // the client was
}

// title names the play, its service and its test.
func (p *play) title() string {
	return strings.NewReplacer(" ", "-", ",", "").Replace(p.name + " " + p.role)
}

func (p *play) loserName() string {
	if p.loser == "" {
		return p.victim
	}
	return p.words(p.loser)
}

// words puts names in a text.
func (p *play) words(text string) string {
	return strings.NewReplacer("VICTIM", p.victim, "OTHER", other(p.victim), "BACKUP", other(p.primary),
		"OFFSET", fmt.Sprint(p.offset)).Replace(text)
}

// plays are all plays of some misdeeds. The ordinary run has one of the two
// victims, by chance, of those misdeeds of which there are many alike.
func plays(r *rand.Rand, list []misdeed, sample bool) (out []*play) {
	for _, m := range list {
		who := m.who
		if who == nil {
			who = []string{"both"}
		} else if sample && !full() {
			who = who[r.IntN(len(who)):][:1]
		}
		for _, role := range who {
			out = append(out, &play{misdeed: m, role: role, offset: r.Int64N(streamSize)})
		}
	}
	return out
}

// streamSize is how much the answer of most misdeeds has, in bytes, at an even
// pace of a second.
const streamSize = 1 << 20

// aStream is the line for it.
var aStream = fmt.Sprintf("\nsend %d 1s 1", streamSize)

// wholeStream and beginning are what comes of it.
func wholeStream(*play) io.Reader { return content.Content{Seed: 1, Size: streamSize}.Reader() }

func beginning(n int64) func(*play) io.Reader {
	return func(*play) io.Reader { return content.Content{Seed: 1, Size: n}.Reader() }
}

func word(s string) func(*play) io.Reader {
	return func(*play) io.Reader { return strings.NewReader(s + "\n") }
}

// uploaded is the content that clients send; hashed is what a server answers.
func uploaded(n int64) content.Content { return content.Content{Seed: 9, Size: n} }

func hashed(p *play) io.Reader { return strings.NewReader(uploaded(p.up).SHA256() + "\n") }

const (
	sharedPort  = 9000 // of the servers that all plays share
	firstPort   = 10000
	playsAtOnce = 6
)

// perform plays all at the same gateway, each with a service of its own.
func perform(t *testing.T, list []*play) *world {
	t.Helper()
	w := newWorld(t, lab.Options{})
	w.serve(testServer(testsrv.Spec{Proto: testsrv.Script, Port: sharedPort}))
	var services []rig.Service
	for i, p := range list {
		p.world, p.port = w, uint16(firstPort+i)
		at := []string{fmt.Sprintf("s1:%d", sharedPort), fmt.Sprintf("s2:%d", sharedPort)}
		if p.strike != nil {
			at = []string{"s1", "s2"}
			p.serveOwn()
		}
		services = append(services, rig.Service{Name: p.title(), Ports: fmt.Sprint(p.port), Servers: at,
			Extra: "health: {interval: 500ms}\n" + p.keys})
	}
	w.start(rig.Config{Services: services})
	results := performAll(w.ctx, list)
	for i, p := range list {
		t.Run(p.title(), func(t *testing.T) {
			if err := results[i]; err != nil {
				t.Errorf("offset %d: %v", p.offset, err)
			}
			t.Logf("victim %s; the longest time without progress %v", p.victim, p.stalled.Round(time.Millisecond))
		})
	}
	w.checkLeft()
	w.checkNoErrors()
	return w
}

// performAll runs a few plays at a time, and returns what was wrong with each.
func performAll(ctx context.Context, list []*play) []error {
	var wg sync.WaitGroup
	results := make([]error, len(list))
	turn := make(chan struct{}, playsAtOnce)
	for i, p := range list {
		wg.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			ctx, cancel := context.WithTimeout(ctx, patience/2)
			defer cancel()
			results[i] = p.run(ctx)
		})
	}
	wg.Wait()
	return results
}

// serveOwn starts servers for this play alone.
func (p *play) serveOwn() {
	p.Helper()
	p.own = map[string]*rig.Server{}
	for _, host := range []string{"s1", "s2"} {
		s, err := testServer(testsrv.Spec{Proto: testsrv.Script, Port: p.port})(p.world, host)
		p.no(err)
		p.own[host] = s
	}
}

// run is the whole play. It may be called from any goroutine.
func (p *play) run(ctx context.Context) error {
	c, err := rig.Dial(ctx, p.lab, client, netip.AddrPortFrom(lab.VIP4, p.port).String())
	if err != nil {
		return err
	}
	defer c.Close()
	end, _ := ctx.Deadline()
	if err := c.SetDeadline(end); err != nil {
		return err
	}
	if got, err := c.Ask("say hello"); err != nil || got != "hello" {
		return fmt.Errorf("greeting: %q, %w", got, err)
	}
	if p.primary, err = p.gw.Primary(ctx, p.title()); err != nil {
		return err
	}
	p.victim = p.primary
	if p.role == "backup" {
		p.victim = other(p.primary)
	}
	err = p.converse(ctx, c)
	if err == nil {
		err = p.judge(ctx)
	}
	if err != nil {
		err = fmt.Errorf("%w; the gateway: %s", err, p.said())
	}
	return err
}

// converse is the client.
func (p *play) converse(ctx context.Context, c *rig.Conn) error {
	if err := c.Send(p.words(strings.TrimSpace(p.says))); err != nil {
		return err
	}
	up, down, sent := newProgress(), newProgress(), make(chan error, 1)
	go func() { sent <- p.sendUp(ctx, c, up) }()
	err := p.receive(ctx, c, down)
	p.stalled = down.stall(time.Time{})
	if p.up > 0 {
		p.stalled = up.stall(time.Time{})
	}
	if err != nil {
		c.Close() // ends sendUp
		return errors.Join(err, <-sent)
	}
	if err := <-sent; err != nil {
		return err
	}
	return p.leave(c)
}

// sendUp sends what the client has to send after its lines.
func (p *play) sendUp(ctx context.Context, c *rig.Conn, pr *progress) error {
	in := uploaded(p.up).Reader()
	hit := make(chan error, 1)
	for done := int64(0); done < p.up; {
		if p.strike != nil && p.struck.IsZero() && done >= p.at {
			p.struck = time.Now()
			go func() { hit <- p.hit(ctx, c) }() // the client goes on to send
		}
		n, err := io.CopyN(c.Conn, in, min(32<<10, p.up-done))
		pr.add(n)
		if done += n; err != nil {
			return fmt.Errorf("upload: after %d bytes: %w", done, err)
		}
	}
	if p.strike == nil || p.up == 0 {
		return nil
	}
	return <-hit
}

// receive wants exactly the bytes that are to come. A reset may come earlier.
func (p *play) receive(ctx context.Context, c *rig.Conn, pr *progress) error {
	want := p.gets(p)
	buf, exp := make([]byte, 16<<10), make([]byte, 16<<10)
	for at := int64(0); ; {
		if p.strike != nil && p.up == 0 && p.struck.IsZero() && at >= p.at {
			p.struck = time.Now()
			if err := p.hit(ctx, c); err != nil {
				return err
			}
		}
		limit := int64(len(exp))
		if p.strike != nil && p.up == 0 && at < p.at {
			limit = min(limit, p.at-at)
		}
		k, _ := io.ReadFull(want, exp[:limit]) // fails only at the end
		if k == 0 {
			return nil
		}
		n, err := io.ReadFull(c.Reader(), buf[:k])
		if !bytes.Equal(buf[:n], exp[:n]) {
			return fmt.Errorf("the client was sent a wrong byte between %d and %d", at, at+int64(n))
		}
		at += int64(n)
		pr.add(int64(n))
		if err != nil && p.over == "rst" && errors.Is(err, syscall.ECONNRESET) {
			p.reset = true // it is said only once
			return nil
		}
		if err != nil {
			return fmt.Errorf("after %d bytes: %w", at, err)
		}
	}
}

// hit strikes, and says what is to be said then.
func (p *play) hit(ctx context.Context, c *rig.Conn) error {
	if p.stall {
		if err := p.untilFull(ctx); err != nil {
			return err
		}
	}
	if err := p.strike(p); err != nil {
		return err
	}
	if p.then == "" {
		return nil
	}
	if err := lab.Until(ctx, "the loss of a leg", func() error { return p.droppedAs(p.drops) }); err != nil {
		return err
	}
	return c.Send(p.then)
}

// untilFull waits until the gateway moves no more bytes.
func (p *play) untilFull(ctx context.Context) error {
	var last uint64
	since := time.Now()
	return lab.Until(ctx, "full queues", func() error {
		s, err := p.status(ctx)
		if err != nil {
			return err
		}
		if now := s.BytesIn + s.BytesOut; now != last {
			last, since = now, time.Now()
		}
		if quiet := time.Since(since); quiet < 250*time.Millisecond {
			return fmt.Errorf("quiet for %v", quiet)
		}
		return nil
	})
}

// leave ends the connection, or wants the servers' end of it.
func (p *play) leave(c *rig.Conn) error {
	switch p.over {
	case "":
		return hangUp(c)
	case "fin":
		if b, err := c.Reader().ReadByte(); !errors.Is(err, io.EOF) {
			return fmt.Errorf("instead of a FIN the client got %q, %w", b, err)
		}
		return c.Close()
	}
	if b, err := c.Reader().ReadByte(); !p.reset && !errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("instead of a reset the client got %q, %w", b, err)
	}
	return nil
}

// status is the service's.
func (p *play) status(ctx context.Context) (admin.ServiceStatus, error) {
	st, err := p.gw.Admin.Status(ctx)
	for _, s := range st.Services {
		if err == nil && s.Name == p.title() {
			return s, nil
		}
	}
	return admin.ServiceStatus{}, errors.Join(err, errors.New("the service is not there"))
}

// droppedAs returns nil if one leg was dropped, for one of the reasons; none,
// if there are no reasons.
func (p *play) droppedAs(reasons []string) error {
	s, err := p.status(p.ctx)
	if err != nil {
		return err
	}
	total := uint64(0)
	for reason, n := range s.Dropped {
		if total += n; !slices.Contains(reasons, reason) {
			return fmt.Errorf("legs were dropped: %v; only %q may be", s.Dropped, reasons)
		}
	}
	if want := uint64(min(1, len(reasons))); total != want {
		return fmt.Errorf("legs were dropped: %v; want %d for %q", s.Dropped, want, reasons)
	}
	return nil
}

// judge wants the counters and the states right once the connection is over.
func (p *play) judge(ctx context.Context) error {
	var s admin.ServiceStatus
	err := lab.Until(ctx, "the end of the connection", func() (err error) {
		if s, err = p.status(ctx); err == nil && s.Connections > 0 {
			err = fmt.Errorf("it is still there")
		}
		return err
	})
	if err == nil {
		err = p.droppedAs(p.drops)
	}
	if err != nil {
		return err
	}
	var want admin.ServiceStatus
	if p.voice {
		want.Diverged = 1
		if len(p.drops) == 0 && p.over != "rst" {
			want.Muted = 1
		}
	}
	if len(p.drops) > 0 && p.loserName() == p.primary {
		want.Promoted = 1
	}
	if s.Promoted != want.Promoted || s.Muted != want.Muted || s.Diverged != want.Diverged || s.Accepted != 1 {
		return fmt.Errorf("counters: %+v; want promoted %d, muted %d, diverged %d", s, want.Promoted, want.Muted, want.Diverged)
	}
	return p.judgeStates(ctx)
}

// judgeStates wants the loser out, and nobody else.
func (p *play) judgeStates(ctx context.Context) error {
	servers, err := p.gw.Admin.Servers(ctx)
	for _, s := range servers {
		want := "up"
		if len(p.drops) > 0 && s.Name == p.loserName() {
			want = "stale"
		}
		if s.Service == p.title() && s.State != want {
			return fmt.Errorf("server %s is %s, want %s", s.Name, s.State, want)
		}
	}
	return err
}

// said are the gateway's lines about the play.
func (p *play) said() string {
	var b strings.Builder
	for line := range strings.Lines(p.gw.Log()) {
		if strings.Contains(line, "service="+p.title()) || strings.Contains(line, "did not run") {
			b.WriteString(line)
		}
	}
	return b.String()
}
