package e2e

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"sttcp/e2e/lab"
	"sttcp/e2e/rig"
	"sttcp/e2e/rig/testsrv"
)

// TestManyClients has many connections, at once and one after the other, and
// many that are never completed.
func TestManyClients(t *testing.T) {
	behave(t, []behaviour{
		{name: "at-once", proto: testsrv.Echo, extra: "maxconn: 6000", act: atOnce},
		{name: "one-after-the-other", proto: testsrv.Echo, act: inTurn},
		{name: "half-open", proto: testsrv.Echo, act: halfOpen},
	})
}

// many is how many connections there are at once: as many as three descriptors
// each leave of 20,000.
func many() int {
	if full() {
		return 5000
	}
	return 1500
}

// atOnce opens all connections before it ends the first. Each client has its
// own words. Then the gateway has nothing left of them, and further crowds take
// no more memory.
func atOnce(s *scene) {
	crowds := 1
	if full() {
		crowds = 3
	}
	want := map[string]int{}
	var settled int64
	for crowd := range crowds {
		before := s.rss()
		list := s.crowd(crowd, want)
		if have := s.service("svc"); have.TwoLegs != many() {
			s.Errorf("%d of %d connections have two legs", have.TwoLegs, many())
		}
		after := s.rss()
		s.Logf("crowd %d of %d: resident memory %d KiB, then %d KiB: %d bytes per connection", crowd, many(),
			before>>10, after>>10, (after-before)/int64(many()))
		if crowd == 1 { // before, the garbage collector has not found its pace
			settled = after
		} else if crowd > 1 && after > settled+settled/4 {
			s.Errorf("crowd %d takes %d KiB, the second took %d KiB", crowd, after>>10, settled>>10)
		}
		s.each(len(list), func(i int) error { return hangUp(list[i]) })
		s.checkLeft()
	}
	s.until("all words at both", func() error {
		for host := range s.records {
			if got := s.tally(host); !sameTally(got, want) {
				return fmt.Errorf("%s has %d connections' words, want %d", host, len(got), len(want))
			}
		}
		return nil
	})
}

// crowd opens the connections and has each exchange its words, which it adds
// to want.
func (s *scene) crowd(number int, want map[string]int) []*rig.Conn {
	s.Helper()
	list := make([]*rig.Conn, many())
	word := func(i int) string { return fmt.Sprintf("client %d of crowd %d", i, number) }
	s.each(len(list), func(i int) (err error) {
		if list[i], err = rig.Dial(s.ctx, s.lab, client, s.to.String()); err != nil {
			return err
		}
		return list[i].SetDeadline(time.Now().Add(10 * patience))
	})
	s.each(len(list), func(i int) error { return wantAnswer(list[i], word(i), word(i)) })
	for i := range list {
		want[word(i)+"\n"]++
	}
	return list
}

// each does something for 0 to n-1, some at a time.
func (s *scene) each(n int, f func(i int) error) {
	s.Helper()
	var next atomic.Int64
	var wg sync.WaitGroup
	failed := make(chan error, 32)
	for range cap(failed) {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				if err := f(int(i)); err != nil {
					failed <- fmt.Errorf("client %d: %w", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	close(failed)
	if err := <-failed; err != nil {
		s.Fatalf("%v; the gateway: %s", err, s.gw.Log())
	}
}

// inTurn opens, uses and ends one connection after the other.
func inTurn(s *scene) {
	times := 300
	if full() {
		times = 5000
	}
	want := map[string]int{}
	for i := range times {
		c := s.open()
		word := fmt.Sprintf("client %d", i)
		if err := wantAnswer(c, word, word); err != nil {
			s.Fatalf("%v; the gateway: %s", err, s.gw.Log())
		}
		s.finish(c)
		want[word+"\n"]++
	}
	s.until("all words at both", func() error {
		if one, two := s.tally("s1"), s.tally("s2"); !sameTally(one, want) || !sameTally(two, want) {
			return fmt.Errorf("s1 has %d, s2 %d of %d", len(one), len(two), times)
		}
		return nil
	})
}

// halfOpen floods the service with SYNs from addresses that do not answer.
// Clients that mean it are served all the while, and no server sees any other.
func halfOpen(s *scene) {
	syns := 20_000
	if full() {
		syns = 200_000
	}
	flood := make(chan error, 1)
	var sent atomic.Int64
	go func() { flood <- s.flood(syns, &sent) }()
	s.until("the flood", func() error {
		if sent.Load() < 2000 {
			return errors.New("it has not begun")
		}
		return nil
	})
	served := 0
	for during := true; during || served < 50; served++ {
		c := s.open()
		s.echoes(c)
		s.finish(c)
		select {
		case err := <-flood:
			s.no(err)
			during = false
		default:
		}
	}
	svc := s.service("svc")
	s.Logf("%d clients were served around %d SYNs", served, sent.Load())
	if svc.Accepted != uint64(served) || svc.Refused != 0 {
		s.Errorf("%d clients were served: %+v", served, svc)
	}
	if out, err := s.lab.Host("g1").Run(s.ctx, "nstat", "-asz", "TcpExtSyncookiesSent"); err == nil {
		s.Logf("%s", out) // were there so many that the queue was full?
	}
	s.checkSame()
	if n := s.tally("s1")["hello\n"]; n != served || len(s.got("s1")) != served {
		s.Errorf("s1 has seen %d connections, %d with the words; %d were served", len(s.got("s1")), n, served)
	}
}

// flood sends SYNs from the client's network, each from another address and
// port of hosts that are not there.
func (s *scene) flood(count int, sent *atomic.Int64) error {
	var fd int
	err := s.lab.Host(client).Do(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		return err
	})
	if err != nil {
		return fmt.Errorf("open raw socket: %w", err)
	}
	defer unix.Close(fd)
	for i := range count {
		src := netip.AddrPortFrom(lab.Outside4(100+i%100), uint16(1024+i/100%60000))
		b, err := synFrom(src, s.to, uint32(i))
		if err != nil {
			return err
		}
		// A full queue loses it, as any network may.
		err = unix.Sendto(fd, b, 0, &unix.SockaddrInet4{Addr: s.to.Addr().As4()})
		if err != nil && !errors.Is(err, unix.ENOBUFS) {
			return fmt.Errorf("send SYN: %w", err)
		}
		sent.Add(1)
		if i%20 == 0 {
			time.Sleep(time.Millisecond) // so that it lasts
		}
	}
	return nil
}

// synFrom is a SYN as an IPv4 packet.
func synFrom(src, dst netip.AddrPort, number uint32) ([]byte, error) {
	ip := &layers.IPv4{Version: 4, IHL: 5, TTL: 64, Protocol: layers.IPProtocolTCP,
		SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
	tcp := &layers.TCP{SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()),
		Seq: number * 64_000, SYN: true, Window: 64240, Options: []layers.TCPOption{{
			OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: binary.BigEndian.AppendUint16(nil, 1460)}}}
	if err := tcp.SetNetworkLayerForChecksum(ip); err != nil {
		return nil, fmt.Errorf("make SYN: %w", err)
	}
	buf := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, ip, tcp); err != nil {
		return nil, fmt.Errorf("make SYN: %w", err)
	}
	return buf.Bytes(), nil
}
