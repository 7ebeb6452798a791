package e2e

import (
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"sttcp/e2e/rig/content"
	"sttcp/e2e/rig/testsrv"
)

// TestClientsSlow has clients that take, or give, little or nothing for long,
// and such as send urgent data.
func TestClientsSlow(t *testing.T) {
	behave(t, []behaviour{
		{name: "stop-reading", proto: testsrv.Paced, act: stopReading("", "")},
		{name: "stop-reading-kill-primary", proto: testsrv.Paced, left: "victim", act: stopReading("kill", "primary")},
		{name: "stop-reading-kill-backup", proto: testsrv.Paced, left: "victim", full: true, act: stopReading("kill", "backup")},
		{name: "stop-reading-cut-primary", proto: testsrv.Paced, left: "victim", act: stopReading("cut", "primary")},
		{name: "stop-reading-cut-backup", proto: testsrv.Paced, left: "victim", full: true, act: stopReading("cut", "backup")},
		{name: "stop-reading-mid-request", proto: testsrv.Echo, act: stopReadingSending},
		{name: "trickle", proto: testsrv.Echo, act: trickle("")},
		{name: "trickle-kill-primary", proto: testsrv.Echo, left: "victim", act: trickle("primary")},
		{name: "urgent", proto: testsrv.Urgent, act: urgentData("")},
		{name: "urgent-kill-primary", proto: testsrv.Urgent, left: "victim", act: urgentData("primary")},
	})
}

// silence is how long a client does not read: longer than any limit on a
// server that does not move.
func silence() time.Duration {
	if full() {
		return 2 * time.Minute
	}
	return 5 * time.Second
}

// flat is how much the gateway's memory may grow while one client does not
// read, in bytes: its buffers, and what a process's memory does by itself. The
// stream is many times as long.
const flat = 12 << 20

// stopReading has a client not read in the middle of a download, and a server
// die meanwhile. Nobody is blamed for the client; memory does not grow; then
// the client reads on, and gets every byte.
func stopReading(how, role string) func(s *scene) {
	return func(s *scene) {
		c := s.open()
		what := content.Content{Seed: 1, Size: 96 << 20}
		s.no(c.Send(fmt.Sprintf("%d 0s 1", what.Size)))
		check := content.NewChecker(what)
		read := func(n int64) {
			s.Helper()
			s.no(c.SetDeadline(time.Now().Add(patience)))
			if got, err := io.CopyN(check, c.Reader(), n); err != nil {
				s.Fatalf("after %d of %d bytes: %v; the gateway: %s", got, n, err, s.gw.Log())
			}
		}
		read(8 << 20)
		s.stalls(how, role)
		read(what.Size - check.Bytes())
		s.no(check.Err())
		s.finish(c)
		asked := fmt.Appendf(nil, "%d 0s 1\n", what.Size)
		if how == "" {
			s.bothGot(asked, "fin")
			return
		}
		s.hostGot(other(s.victim), asked, "fin")
		s.bothHaveStart(asked)
	}
}

// stalls waits for as long as the client does not read, with a fault in the
// middle.
func (s *scene) stalls(how, role string) {
	s.Helper()
	before := s.rss()
	most, end := before, time.Now().Add(silence())
	for struck := false; time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		most = max(most, s.rss())
		if struck || time.Until(end) > silence()/2 {
			continue
		}
		struck = true
		s.checkUnblamed()
		switch how {
		case "kill":
			s.kill(role)
		case "cut":
			s.cut(role)
		}
	}
	if how == "" {
		s.checkUnblamed()
	}
	s.Logf("%v of silence: resident memory %d KiB, at most %d KiB more", silence(), before>>10, (most-before)>>10)
	if most-before > flat {
		s.Errorf("memory grew by %d KiB while a client did not read", (most-before)>>10)
	}
}

// checkUnblamed wants the only connection to have both its legs.
func (s *scene) checkUnblamed() {
	s.Helper()
	if svc := s.service("svc"); svc.TwoLegs != 1 || len(svc.Dropped) > 0 {
		s.Errorf("while the client stands still: %+v", svc)
	}
	s.waitStates("s1 up, s2 up")
}

// stopReadingSending has a client send without reading any answer until no
// byte goes any more in either direction, and then read.
func stopReadingSending(s *scene) {
	c := s.open()
	s.no(c.SetDeadline(time.Now().Add(silence() + patience)))
	what := content.Content{Seed: 3, Size: 64 << 20}
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(c.Conn, what.Reader())
		if err == nil {
			err = c.CloseWrite()
		}
		sent <- err
	}()
	s.stalls("", "")
	select {
	case err := <-sent:
		s.Fatalf("everything was sent (%v) and nothing read: somebody keeps it", err)
	default:
	}
	s.no(c.SetDeadline(time.Now().Add(patience)))
	check := content.NewChecker(what)
	if _, err := io.Copy(check, c.Reader()); err != nil {
		s.Fatalf("after %d bytes: %v; the gateway: %s", check.Bytes(), err, s.gw.Log())
	}
	s.no(<-sent)
	s.no(check.Err())
	s.bothGot(bytesOf(what), "fin")
}

// trickle sends a byte at a time, and wants each back.
func trickle(dies string) func(s *scene) {
	return func(s *scene) {
		count, pace := 40, 50*time.Millisecond
		if full() {
			count, pace = 90, time.Second
		}
		c := s.open()
		s.no(c.SetDeadline(time.Now().Add(patience + time.Duration(count)*pace)))
		text := lines(0, count)[:count]
		tick := time.NewTicker(pace)
		defer tick.Stop()
		for i := range text {
			if dies != "" && i == count/2 {
				s.kill(dies)
			}
			_, err := c.Write(text[i : i+1])
			s.no(err)
			if b, err := c.Reader().ReadByte(); err != nil || b != text[i] {
				s.Fatalf("byte %d: %q, %v, want %q; the gateway: %s", i, b, err, text[i], s.gw.Log())
			}
			<-tick.C
		}
		s.finish(c)
		for host := range s.records {
			if host != s.victim {
				s.hostGot(host, text, "fin")
			}
		}
		s.bothHaveStart(text)
	}
}

// urgentData sends urgent bytes at known places. Each server tells where it
// got them, and its answers, which are compared, have urgent bytes, too.
func urgentData(dies string) func(s *scene) {
	return func(s *scene) {
		c := s.open()
		tcp := c.Conn.(*net.TCPConn)
		marks, err := testsrv.NewMarks(tcp)
		s.no(err)
		at := 0
		const times = 500
		for i := range times {
			if dies != "" && i == times/2 {
				s.kill(dies)
			}
			before := lines(0, i%4)
			_, err := c.Write(before)
			s.no(err)
			at += len(before)
			s.no(testsrv.SendUrgent(tcp, '!'))
			s.wantMarked(marks, fmt.Sprintf("%d ", at), false)
			s.wantMarked(marks, "!", true)
			at++
		}
		s.no(c.CloseWrite())
		s.wantMarked(marks, fmt.Sprintf("end %d\n", at), false)
	}
}

// wantMarked reads text that is urgent, or is not.
func (s *scene) wantMarked(m *testsrv.Marks, want string, urgent bool) {
	s.Helper()
	for want != "" {
		b, marked, err := m.Read(len(want))
		if err != nil || marked != urgent || string(b) != want[:len(b)] {
			s.Fatalf("%q, urgent %v, %v; want %q, %v; the gateway: %s", b, marked, err, want, urgent, s.gw.Log())
		}
		want = want[len(b):]
	}
}
