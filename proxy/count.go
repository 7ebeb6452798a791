package proxy

import (
	"sync/atomic"

	"sttcp/proxy/stream"
)

// counters of one service. They only grow.
type counters struct {
	accepted, refused, acceptErrors atomic.Uint64
	bytesIn, bytesOut               atomic.Uint64 // from and to clients
	promoted, muted, diverged       atomic.Uint64
	drops, ends                     [stream.Reasons]atomic.Uint64 // by reason
}

func (c *counters) dropped(why stream.Reason) { c.drops[why].Add(1) }
func (c *counters) ended(why stream.Reason)   { c.ends[why].Add(1) }
