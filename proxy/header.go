package proxy

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/pires/go-proxyproto"

	"sttcp/configs"
)

// proxyHeader returns the PROXY protocol header that tells a server of a
// connection from client to dest, nil for configs.ProxyNone
// (https://www.haproxy.org/download/2.9/doc/proxy-protocol.txt).
func proxyHeader(version configs.ProxyProtocol, client, dest netip.AddrPort) ([]byte, error) {
	v := byte(1)
	switch version {
	case configs.ProxyNone:
		return nil, nil
	case configs.ProxyV2:
		v = 2
	}
	h := proxyproto.HeaderProxyFromAddrs(v, net.TCPAddrFromAddrPort(client), net.TCPAddrFromAddrPort(dest))
	b, err := h.Format()
	if err != nil {
		return nil, fmt.Errorf("write PROXY header for %v: %w", client, err)
	}
	return b, nil
}
