package proxy

import "sttcp/proxy/pool"

// Gate is what the data path has of the kernel gate (docs/ARCHITECTURE.md,
// section 3, point 2). It is called by the loops' goroutines, many at a time.
type Gate interface {
	// Acked returns how many bytes of the sent ones the peer's TCP of socket
	// fd has acknowledged; a FIN counts one.
	Acked(fd int, sent uint64) uint64
	// SetLive says which legs' acknowledgements bound what is acknowledged to
	// the client of a connection (I1).
	SetLive(id pool.ConnID, live [2]bool)
	// AllowClose says that the next FIN or RST of socket fd is meant (I3).
	AllowClose(fd int)
}

// noGate asks the sockets themselves. It protects from nothing that happens to
// this process.
type noGate struct{}

func (noGate) Acked(fd int, sent uint64) uint64 {
	n, err := sendQueue(fd)
	if err != nil || uint64(n) > sent {
		return 0
	}
	return sent - uint64(n)
}

func (noGate) SetLive(pool.ConnID, [2]bool) {}
func (noGate) AllowClose(int)               {}
