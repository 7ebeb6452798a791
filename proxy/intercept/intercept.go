// Package intercept brings the packets of services and of their legs to this
// host's sockets, whatever addresses they carry: by nftables TPROXY and policy routing
// (Documentation/networking/tproxy.rst of the kernel).
//
// # The table
//
// All is in one table, inet sttcp, which Apply replaces in one transaction and
// which outlives the process: without a listener TPROXY lets packets pass, and
// the kernel would reset the clients. Only a clean, empty stop calls Remove. A
// hash of the rules lies in the table, so that a restarted process sees that
// there is nothing to change.
//
// # The order of the rules
//
// A packet that arrives meets, in chain prerouting (priority mangle):
//
//  1. A packet to a listener's own loopback address: dropped. Clients reach
//     the listener through step 4 only.
//  2. A packet from a server's address and port: if a transparent socket (a
//     leg's) exists for it, it is marked and accepted, whatever its
//     destination: the client's address with source: client, the virtual IP
//     with source: vip. What belongs to no leg goes its usual way, for others
//     may talk to that server past the gateway; only in the grace it is
//     dropped, unless an ordinary socket (a health check's) exists for it.
//     But where clients know the server by that very address and port nobody
//     can talk past us: then it is a leg's that is gone, is handed to the
//     listener, so that the kernel resets the server, and never goes on to the
//     client, to whom it would look like the gateway's own.
//  3. An ICMP error about a packet of a transparent socket: marked, accepted.
//     Path MTU discovery depends on it.
//  4. A packet to a service goes to that service's own chain, which lets none
//     return:
//     a SYN -> tproxy to the listener, marked, accepted;
//     any packet for which a transparent socket exists -> marked, accepted;
//     any other, after the grace -> tproxy too, so that the kernel checks a SYN
//     cookie or resets a truly unknown connection; in the grace -> dropped,
//     because the connection may only be not yet restored;
//     whatever is left (there is no listener) -> dropped, never reset.
//
// A SYN comes before the search for sockets because tproxy, which looks for
// the connection as well, knows that a SYN for a TIME_WAIT socket belongs to
// the listener; with the other order the client would wait a second.
//
// The mark selects a routing table in which every address is local. Only one
// bit of the mark is used. Chains at priority raw, of prerouting and output,
// take all this out of the connection tracker (notrack). A host firewall must
// therefore let pass what is marked, or `ct state untracked`; it will not see
// it as established.
//
// # What can't be intercepted
//
// Connections that a program on the gateway itself makes to a routed address
// (they leave by the output hook); those to a local virtual IP come back in
// through lo and are. The sysctls fwmark_reflect, tcp_fwmark_accept and
// src_valid_mark must be 0 (`sttcp doctor` looks): with them the mark of a
// received packet is used to route an answer.
package intercept
