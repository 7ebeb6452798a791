package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"sttcp/e2e/rig"
	"sttcp/e2e/rig/content"
)

// masks are what two web servers may answer differently: the time, and their
// names, which tell us who it was that answered.
const masks = `compare: {mode: exact, mask: ['(?m)^Date: [^\r\n]*', '(?m)^X-Server: [^\r\n]*']}`

// keepAlive asks nginx many small things, one after the other on one
// connection. Each answer has the number that was asked for and the number
// that the server gives the request: a request that is lost, or reaches a
// server twice, shows in all that follow. It also has whom the server sees.
type keepAlive struct {
	sees func(*rig.Conn) netip.Addr // constant

	mu     sync.Mutex
	server string // who answered last
}

func (k *keepAlive) serve(w *world, host string) (*rig.Server, error) {
	site, err := rig.NewSite(w.lab, nil)
	if err != nil {
		return nil, err
	}
	return rig.StartNginx(w.ctx, w.lab, host, rig.Nginx{Site: site, Extra: fmt.Sprintf(
		`location /n { add_header X-Server %s; return 200 "$arg_i $connection_requests $remote_addr\n"; }`, host)})
}

func (k *keepAlive) port() uint16  { return 80 }
func (k *keepAlive) extra() string { return masks }

// strike is after a few hundred requests.
func (k *keepAlive) strike(share float64) int64 { return 100 + int64(share*400) }

func (k *keepAlive) talk(c *rig.Conn, p *progress) error {
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	ending := p.ending(200)
	for i := 1; !ending.over(); i++ {
		resp, err := c.Get(fmt.Sprintf("/n?i=%d", i))
		if err != nil {
			return fmt.Errorf("request %d: %w", i, err)
		}
		if want := fmt.Sprintf("%d %d %v\n", i, i, k.sees(c)); resp.Status != 200 || string(resp.Body) != want {
			return fmt.Errorf("request %d: %d %q, want %q", i, resp.Status, resp.Body, want)
		}
		k.note(resp.Header.Get("X-Server"))
		p.add(1)
		<-pace.C
	}
	return nil
}

func (k *keepAlive) note(server string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.server = server
}

// check wants the last answers to be the survivor's own.
func (k *keepAlive) check(_ *world, survivor *rig.Server) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.server != survivor.Host.Name() {
		return fmt.Errorf("the last answer came from %q, not from %s", k.server, survivor.Host.Name())
	}
	return nil
}

// download has nginx send a file at a limited rate, which takes 2 s at least.
type download struct {
	size int64
	rate string // of nginx, in bytes per second
	site *rig.Site
}

func (d *download) content() content.Content { return content.Content{Seed: 3, Size: d.size} }

func (d *download) serve(w *world, host string) (s *rig.Server, err error) {
	if d.site == nil { // both servers share it
		if d.site, err = rig.NewSite(w.lab, rig.Files{"file": d.content()}); err != nil {
			return nil, err
		}
	}
	extra := fmt.Sprintf("limit_rate %s; add_header X-Server %s;", d.rate, host)
	return rig.StartNginx(w.ctx, w.lab, host, rig.Nginx{Site: d.site, Extra: extra})
}

func (d *download) port() uint16  { return 80 }
func (d *download) extra() string { return masks }

// strike is in the first half.
func (d *download) strike(share float64) int64 { return int64((0.1 + 0.4*share) * float64(d.size)) }

// grain is how finely the progress of a download is seen, in bytes.
const grain = 64 << 10

func (d *download) talk(c *rig.Conn, p *progress) error {
	in, err := c.Download("/file", d.content())
	if err != nil {
		return err
	}
	ctx := context.Background() // the connection has a deadline
	for at := p.value(); at < d.size; at = p.value() {
		if err := in.WaitBytes(ctx, min(at+grain, d.size)); err != nil {
			return err
		}
		p.add(in.Bytes() - at)
	}
	_, err = in.Wait(ctx)
	return err
}

func (d *download) check(*world, *rig.Server) error { return nil }
