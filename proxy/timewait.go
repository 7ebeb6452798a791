package proxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// forgetTimeWait ends the TIME_WAIT of the connection from src to dst, if it is
// in that state. With `source: client` a client that comes back from the port
// it has just left needs the very same tuple for its legs. That is safe for
// our part: the client's kernel has judged that its old connection is over, a
// server that has not is told so by the new SYN (RFC 9293, 3.5.1), and the old
// leg had been read to its end.
func forgetTimeWait(src, dst netip.AddrPort) error {
	answers, err := ask(nl.SOCK_DIAG_BY_FAMILY, src, dst, noCookie)
	if err != nil {
		return fmt.Errorf("ask for the socket from %v to %v: %w", src, dst, err)
	}
	// struct inet_diag_msg (linux/inet_diag.h): family, state, ..., at 4 an
	// inet_diag_sockid with the cookie at 40.
	if len(answers) != 1 || len(answers[0]) < 52 || answers[0][1] != unix.BPF_TCP_TIME_WAIT {
		return errNotTimeWait
	}
	_, err = ask(nl.SOCK_DESTROY, src, dst, answers[0][44:52])
	if err != nil {
		return fmt.Errorf("end TIME_WAIT from %v to %v: %w", src, dst, err)
	}
	return nil
}

// errNotTimeWait is returned by forgetTimeWait for a socket in another state.
var errNotTimeWait = errors.New("the socket is not in TIME_WAIT")

// noCookie matches every socket (INET_DIAG_NOCOOKIE).
var noCookie = []byte{255, 255, 255, 255, 255, 255, 255, 255}

// ask puts a question about one socket, or an order, to sock_diag(7).
func ask(what int, src, dst netip.AddrPort, cookie []byte) ([][]byte, error) {
	req := nl.NewNetlinkRequest(what, unix.NLM_F_ACK)
	req.AddRawData(diagRequest(src, dst, cookie))
	return req.Execute(unix.NETLINK_INET_DIAG, 0)
}

// diagRequest is a struct inet_diag_req_v2 (linux/inet_diag.h).
func diagRequest(src, dst netip.AddrPort, cookie []byte) []byte {
	b := make([]byte, 8, 56)
	b[0], b[1] = byte(family(src.Addr())), unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[4:], 1<<32-1) // in all states
	b = binary.BigEndian.AppendUint16(b, src.Port())
	b = binary.BigEndian.AppendUint16(b, dst.Port())
	for _, a := range []netip.Addr{src.Addr(), dst.Addr()} {
		b = append(b, a.AsSlice()...)
		b = append(b, make([]byte, 16-len(a.AsSlice()))...)
	}
	b = append(b, 0, 0, 0, 0) // any interface
	return append(b, cookie...)
}
