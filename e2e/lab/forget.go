package lab

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// forgetConnections destroys all TCP sockets of the current namespace
// (sock_diag's SOCK_DESTROY), orphans included. With the links down nobody
// hears of it.
func forgetConnections() error {
	var errs []error
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		socks, err := netlink.SocketDiagTCP(family)
		if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("list sockets: %w", err)
		}
		for _, s := range socks {
			err := destroy(s)
			if err != nil && !errors.Is(err, unix.ENOENT) { // gone by itself
				errs = append(errs, fmt.Errorf("destroy socket %v: %w", s.ID, err))
			}
		}
	}
	return errors.Join(errs...)
}

// destroy ends one socket. The cookie in the request makes sure that it is the
// one that was listed, not a later one with the same addresses.
func destroy(s *netlink.Socket) error {
	req := nl.NewNetlinkRequest(nl.SOCK_DESTROY, unix.NLM_F_ACK)
	req.AddRawData(diagRequest(s))
	_, err := req.Execute(unix.NETLINK_INET_DIAG, 0)
	return err
}

// diagRequest is struct inet_diag_req_v2 (linux/inet_diag.h) for one socket.
func diagRequest(s *netlink.Socket) []byte {
	b := make([]byte, 56)
	b[0], b[1] = s.Family, unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], 0xffffffff) // any state
	binary.BigEndian.PutUint16(b[8:], s.ID.SourcePort)
	binary.BigEndian.PutUint16(b[10:], s.ID.DestinationPort)
	src, dst := s.ID.Source, s.ID.Destination
	if s.Family == unix.AF_INET {
		src, dst = src.To4(), dst.To4()
	}
	copy(b[12:28], src)
	copy(b[28:44], dst)
	binary.NativeEndian.PutUint32(b[44:], s.ID.Interface)
	binary.NativeEndian.PutUint32(b[48:], s.ID.Cookie[0])
	binary.NativeEndian.PutUint32(b[52:], s.ID.Cookie[1])
	return b
}
