package e2e

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"sttcp/e2e/lab"
	"sttcp/e2e/lab/labtest"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

// TestClientsLeave has clients end in every way that there is.
func TestClientsLeave(t *testing.T) {
	behave(t, []behaviour{
		{name: "disappear", proto: testsrv.Echo, extra: "timeout: {idle: 2s}", act: disappear},
		{name: "disappear-download", proto: testsrv.Paced, extra: "timeout: {idle: 2s}", act: disappearInDownload},
		{name: "reset", proto: testsrv.Echo, act: resetAtRest},
		{name: "reset-download", proto: testsrv.Paced, act: resetInDownload},
		{name: "reset-upload", proto: testsrv.Sink, act: resetInUpload},
		{name: "reset-at-once", proto: testsrv.Echo, act: resetAtOnce},
		{name: "half-close", proto: testsrv.Paced, act: halfClose},
		{name: "half-close-kill-primary", proto: testsrv.Paced, left: "victim", act: halfCloseAnd("kill", "primary")},
		{name: "half-close-kill-backup", proto: testsrv.Paced, left: "victim", full: true, act: halfCloseAnd("kill", "backup")},
		{name: "half-close-cut-primary", proto: testsrv.Paced, left: "victim", full: true, act: halfCloseAnd("cut", "primary")},
		{name: "half-close-cut-backup", proto: testsrv.Paced, left: "victim", act: halfCloseAnd("cut", "backup")},
		{name: "close-in-failover", proto: testsrv.Echo, left: "victim", act: closeInFailover},
		{name: "reset-in-failover", proto: testsrv.Echo, left: "victim", act: resetInFailover},
		{name: "reset-in-failover-nothing-missed", proto: testsrv.Echo, act: resetNothingMissed},
		{name: "close-with-kill", proto: testsrv.Paced, left: "victim", act: closeWithKill},
	})
}

// disappear has a client's network go: only the idle time-out tells, and the
// gateway does not ask. When the client is back, its connection is unknown.
func disappear(s *scene) {
	c := s.open()
	s.echoes(c)
	wire := labtest.Capture(s.T, s.lab.Host("g1").Capture)
	gone := s.down(client)
	s.ended("idle", 1)
	s.bothGot([]byte("hello\n"), "rst")
	asked, err := wire.Select(func(g lab.Segment) bool {
		return g.Dst == c.Local() && g.Len <= 1 && g.Flags&lab.RST == 0
	})
	if s.no(err); len(asked) > 0 {
		s.Errorf("the gateway asked a silent client: %v", asked)
	}
	s.no(gone.Undo())
	if _, err := c.Ask("are you there?"); !errors.Is(err, unix.ECONNRESET) {
		s.Errorf("a client that was gone is told %v, want a reset", err)
	}
}

// disappearInDownload has a client's network go while all queues on the way to
// it fill up.
func disappearInDownload(s *scene) {
	d, asked := s.pull(s.open(), 64<<20, 2*time.Second)
	s.no(d.WaitBytes(s.ctx, 4<<20))
	s.down(client)
	s.ended("idle", 1)
	s.bothGot(asked, "rst")
}

func resetAtRest(s *scene) {
	c := s.open()
	s.echoes(c)
	s.reset(c)
	s.ended("client-reset", 1)
	s.bothGot([]byte("hello\n"), "rst")
}

func resetInDownload(s *scene) {
	c := s.open()
	d, asked := s.pull(c, 64<<20, 2*time.Second)
	s.no(d.WaitBytes(s.ctx, 4<<20))
	s.reset(c)
	s.ended("client-reset", 1)
	s.bothGot(asked, "rst")
}

// resetInUpload resets with much on its way. How much arrives is the network's
// affair, but it is the same at both.
func resetInUpload(s *scene) {
	c := s.open()
	what := content.Content{Seed: 2, Size: 32 << 20}
	s.no(c.Send(fmt.Sprint(what.Size)))
	n, err := io.CopyN(c.Conn, what.Reader(), 8<<20)
	s.no(err)
	s.reset(c)
	s.ended("client-reset", 1)
	s.checkLeft()
	stream := append(fmt.Appendln(nil, what.Size), bytesOf(what)[:n]...)
	had := s.got("s1")
	if len(had) != 1 {
		s.Fatalf("s1 has %d connections", len(had))
	}
	s.Logf("%d of %d bytes arrived before the reset", len(had[0].Bytes), len(stream))
	s.bothHaveStart(stream)
	s.bothGot(had[0].Bytes, "rst")
}

// resetAtOnce has clients that change their mind at once, some after a byte.
func resetAtOnce(s *scene) {
	const times = 30
	for i := range times {
		c := s.open()
		if i%2 == 1 {
			_, err := io.WriteString(c, "x")
			s.no(err)
		}
		s.reset(c)
	}
	s.until("the ends", func() error {
		if n := s.service("svc").Ended["client-reset"]; n != s.service("svc").Accepted {
			return fmt.Errorf("%d of %d have ended", n, s.service("svc").Accepted)
		}
		return nil
	})
	c := s.open()
	s.echoes(c)
	s.finish(c)
	s.checkSame()
	for _, r := range s.got("s1") {
		if text := string(r.Bytes); text != "" && text != "x" && text != "hello\n" {
			s.Errorf("a server has got %q", text)
		}
	}
}

// checkSame wants both servers to have got the same from clients that sent
// anything.
func (s *scene) checkSame() {
	s.Helper()
	s.until("the same at both", func() error {
		one, two := s.tally("s1"), s.tally("s2")
		if fmt.Sprint(one) != fmt.Sprint(two) {
			return fmt.Errorf("s1 has got %v, s2 %v", one, two)
		}
		return nil
	})
}

// tally counts what a server has got, over all connections.
func (s *scene) tally(host string) map[string]int {
	s.Helper()
	count := map[string]int{}
	for _, r := range s.got(host) {
		count[string(r.Bytes)]++
	}
	return count
}

// halfClose sends its FIN with the request and reads all of the answer.
func halfClose(s *scene) {
	c := s.open()
	d, asked := s.pull(c, 8<<20, 500*time.Millisecond)
	s.no(c.CloseWrite())
	s.whole(d)
	s.noMore(c)
	s.bothGot(asked, "fin")
	s.ended("done", 1)
}

// noMore wants a server's FIN, and nothing before it.
func (s *scene) noMore(c *rig.Conn) {
	s.Helper()
	if n, err := io.Copy(io.Discard, c.Reader()); n != 0 || err != nil {
		s.Errorf("at the end: %d bytes more, %v", n, err)
	}
}

// halfCloseAnd is halfClose with a server that dies in the middle.
func halfCloseAnd(how, role string) func(s *scene) {
	return func(s *scene) {
		c := s.open()
		d, asked := s.pull(c, 12<<20, 2500*time.Millisecond)
		s.no(c.CloseWrite())
		s.no(d.WaitBytes(s.ctx, 3<<20))
		map[string]func(role string){"kill": s.kill, "cut": func(role string) { s.cut(role) }}[how](role)
		s.whole(d)
		s.noMore(c)
		s.hostGot(other(s.victim), asked, "fin")
		s.bothHaveStart(asked)
	}
}

// talked has a conversation in lines on an echo service.
func (s *scene) talked(c *rig.Conn, from, to int) {
	s.Helper()
	for i := from; i < to; i++ {
		line := fmt.Sprintf("line %d", i)
		if got, err := c.Ask(line); err != nil || got != line {
			s.Fatalf("%q is answered with %q, %v; the gateway: %s", line, got, err, s.gw.Log())
		}
	}
}

// closeInFailover closes while the gateway does not know yet that the primary
// is gone. The client gets the rest, and the server that has missed it is
// stale.
func closeInFailover(s *scene) {
	c := s.open()
	s.talked(c, 0, 20)
	s.cut("primary")
	_, err := c.Write(lines(20, 30))
	s.no(err)
	s.no(c.CloseWrite())
	rest, err := io.ReadAll(c.Reader())
	if err != nil || string(rest) != string(lines(20, 30)) {
		s.Errorf("the last answers: %q, %v", rest, err)
	}
	s.hostGot(other(s.victim), lines(0, 30), "fin")
	s.bothHaveStart(lines(0, 30))
}

// resetInFailover is closeInFailover by RST: there is nobody any more to be
// answered, and still one server has got what the other has not.
func resetInFailover(s *scene) {
	c := s.open()
	s.talked(c, 0, 20)
	s.cut("primary")
	_, err := c.Write(lines(20, 30))
	s.no(err)
	s.until("the bytes at the other server", func() error {
		if list := s.got(other(s.victim)); len(list) != 1 || len(list[0].Bytes) != len(lines(0, 30)) {
			return fmt.Errorf("it has %d connections", len(list))
		}
		return nil
	})
	s.reset(c)
	s.hostGot(other(s.victim), lines(0, 30), "rst")
	s.bothHaveStart(lines(0, 30))
}

// resetNothingMissed leaves while a server can't be reached that has got every
// byte: there is nothing to blame it for.
func resetNothingMissed(s *scene) {
	c := s.open()
	s.talked(c, 0, 20)
	back := s.cut("primary")
	s.reset(c)
	s.ended("client-reset", 1)
	s.no(back.Undo())
	s.until("both healthy", s.allHealthy)
	s.hostGot(other(s.victim), lines(0, 20), "rst")
	s.bothHaveStart(lines(0, 20))
}

// allHealthy returns nil if the gateway's checks find every server well.
func (s *scene) allHealthy() error {
	servers, err := s.gw.Admin.Servers(s.ctx)
	for _, srv := range servers {
		if !srv.Healthy {
			err = errors.Join(err, fmt.Errorf("%s is not healthy", srv.Name))
		}
	}
	return err
}

// closeWithKill has client and primary end in the same moment.
func closeWithKill(s *scene) {
	c := s.open()
	d, asked := s.pull(c, 6<<20, time.Second)
	s.no(d.WaitBytes(s.ctx, 1<<20))
	host := s.roleOf("primary")
	s.no(c.CloseWrite())
	s.victim = host
	s.no(s.servers[host].KillGroup9())
	s.whole(d)
	s.noMore(c)
	s.hostGot(other(host), asked, "fin")
	s.bothHaveStart(asked)
}
