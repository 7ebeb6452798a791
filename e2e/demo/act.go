package demo

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
)

// act is a way to lose a server.
type act struct {
	title string
	// strike takes the host away and says what it has done.
	strike func(st *stage, host string) (did string, err error)
}

var killed = act{
	title: "the primary's process is killed",
	strike: func(st *stage, host string) (string, error) {
		s := st.servers[host]
		return fmt.Sprintf("kill -9 of %s on %s (process group %d)", s.Name(), host, s.PID), s.KillGroup9()
	},
}

var unplugged = act{
	title: "the primary's network link goes down",
	strike: func(st *stage, host string) (string, error) {
		_, err := st.lab.Host(host).LinkDown()
		return fmt.Sprintf("link of %s down", host), err
	},
}

// evidence is what an act has left, for judge.
type evidence struct {
	size     int64
	struck   time.Time
	struckAt int64 // bytes that the client had then
	result   rig.Result
	local    netip.AddrPort
	primary  string        // before
	now      string        // the primary after the download
	nowErr   error         // why that is not known
	again    error         // of a second request on the connection
	wire     []lab.Segment // SYN, FIN and RST at the client
	wireErr  error
}

// clock tells the time of an act.
type clock struct{ start time.Time }

func (c clock) String() string { return fmt.Sprintf("%5.2f s", time.Since(c.start).Seconds()) }

// play plays an act: the download, the failure, the rest of the download.
func (st *stage) play(ctx context.Context, s script, scr *screen, a act) (*evidence, error) {
	conn, d, err := st.download(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	now := clock{time.Now()}
	primary, err := st.gateway.Primary(ctx, service)
	if err != nil {
		return nil, err
	}
	e := &evidence{size: s.size, local: conn.Local(), primary: primary}
	scr.say("  %v  the client downloads %s from port %d; its primary is %s",
		now, mib(s.size), e.local.Port(), scr.strong(primary))
	if err := scr.follow(ctx, now, d, s.size, func() bool { return d.Bytes() >= s.strikeAt }); err != nil {
		return nil, err
	}
	if err := e.strike(ctx, now, st, s, scr, a, d); err != nil {
		return nil, err
	}
	if err := scr.follow(ctx, now, d, s.size, func() bool { return false }); err != nil {
		return nil, err
	}
	scr.say("  %v  the download ends after %s", now, mib(d.Bytes()))
	st.collect(ctx, e, conn, d)
	return e, nil
}

// download connects and requests the file.
func (st *stage) download(ctx context.Context) (*rig.Conn, *rig.Download, error) {
	conn, err := rig.Dial(ctx, st.lab, "client", vip.String())
	if err != nil {
		return nil, nil, err
	}
	deadline, _ := ctx.Deadline()
	err = conn.SetDeadline(deadline)
	if err == nil {
		var d *rig.Download
		if d, err = conn.Download(file, st.want); err == nil {
			return conn, d, nil
		}
	}
	return nil, nil, errors.Join(err, conn.Close())
}

// patience is how long the gateway may take to name a primary.
const patience = 3 * time.Second

// settled is how long a client must have been getting bytes again before the
// wait is measured: what was under way when the server died does not count.
const settled = 300 * time.Millisecond

// strike takes the primary away and shows how long the client waits.
func (e *evidence) strike(ctx context.Context, now clock, st *stage, s script, scr *screen, a act, d *rig.Download) error {
	e.struck, e.struckAt = time.Now(), d.Bytes()
	did, err := a.strike(st, e.primary)
	if err != nil {
		return err
	}
	scr.say("  %v  %s", now, scr.bad(did))
	enough := e.struckAt + s.rate*int64(settled)/int64(time.Second)
	err = scr.follow(ctx, now, d, s.size, func() bool { return d.Bytes() >= enough && d.Quiet() < settled/3 })
	if err == nil && d.Bytes() >= enough {
		scr.say("  %v  the client gets on; it waited for %s", now, scr.strong(wait(d.Stall(e.struck))))
	}
	return err
}

// collect asks for everything that judge wants to know. The connection is
// still open.
func (st *stage) collect(ctx context.Context, e *evidence, conn *rig.Conn, d *rig.Download) {
	e.result = d.Result()
	if e.result.Err == nil {
		_, e.again = conn.Get(small)
	}
	asking, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	e.now, e.nowErr = st.gateway.Primary(asking, service)
	client := st.lab.Host("client").Addr4()
	e.wire, e.wireErr = st.wire.Select(func(s lab.Segment) bool {
		return s.Flags&(lab.SYN|lab.FIN|lab.RST) != 0 &&
			(s.Src.Addr() == client && s.Dst == vip || s.Src == vip && s.Dst.Addr() == client)
	})
}

// wait writes how long a client waited. Less than a few milliseconds is not
// told from the stream's own pace.
func wait(g rig.Gap) string {
	if g.Length == 0 {
		return "less than 5 ms"
	}
	return fmt.Sprintf("%d ms", g.Length.Milliseconds())
}

func mib(n int64) string { return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20)) }
