package proxy

import (
	"bufio"
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/pires/go-proxyproto"

	"sttcp/configs"
)

// FuzzProxyHeader writes headers for any two addresses and reads them back as
// a server would.
func FuzzProxyHeader(f *testing.F) {
	f.Add(true, []byte{10, 9, 0, 10}, uint16(5000), []byte{10, 9, 0, 100}, uint16(80))
	f.Add(false, []byte{10, 9, 0, 10}, uint16(1), []byte{10, 9, 0, 100}, uint16(65535))
	f.Add(true, bytes.Repeat([]byte{0xfd}, 16), uint16(5000), bytes.Repeat([]byte{1}, 16), uint16(80))
	f.Add(false, append(make([]byte, 10), 0xff, 0xff, 1, 2, 3, 4), uint16(7), bytes.Repeat([]byte{1}, 16), uint16(80))
	f.Fuzz(func(t *testing.T, v1 bool, from []byte, fromPort uint16, to []byte, toPort uint16) {
		client, ok1 := netip.AddrFromSlice(from)
		dest, ok2 := netip.AddrFromSlice(to)
		client, dest = client.Unmap(), dest.Unmap() // as addrPort gives them
		if !ok1 || !ok2 || client.Is4() != dest.Is4() {
			t.Skip("not the two ends of a connection")
		}
		readHeader(t, v1, netip.AddrPortFrom(client, fromPort), netip.AddrPortFrom(dest, toPort))
	})
}

func readHeader(t *testing.T, v1 bool, client, dest netip.AddrPort) {
	version := configs.ProxyV2
	if v1 {
		version = configs.ProxyV1
	}
	b, err := proxyHeader(version, client, dest)
	if err != nil {
		t.Fatalf("write header %s for %v to %v: %v", version, client, dest, err)
	}
	r := bufio.NewReader(bytes.NewReader(append(b, "rest"...)))
	h, err := proxyproto.Read(r)
	if err != nil {
		t.Fatalf("read header %q: %v", b, err)
	}
	if got := h.SourceAddr.(*net.TCPAddr).AddrPort(); unmap(got) != client {
		t.Errorf("client %v is read as %v from %q", client, got, b)
	}
	if got := h.DestinationAddr.(*net.TCPAddr).AddrPort(); unmap(got) != dest {
		t.Errorf("destination %v is read as %v from %q", dest, got, b)
	}
	if rest, _ := r.Peek(4); string(rest) != "rest" {
		t.Errorf("the header %q ends in the wrong place", b)
	}
}

func unmap(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }

func TestNoProxyHeader(t *testing.T) {
	if b, err := proxyHeader(configs.ProxyNone, netip.AddrPort{}, netip.AddrPort{}); b != nil || err != nil {
		t.Errorf("got %q, %v", b, err)
	}
}
