package proxy

import (
	"cmp"
	"slices"
	"sync"

	"sttcp/proxy/stream"
)

// ConnStatus is one connection as the operator sees it. The JSON is stable.
// Offsets count bytes of the client's stream (in, acked, sent) or of the
// answer (out, read).
type ConnStatus struct {
	Service   string `json:"service"`
	ID        uint64 `json:"id"`
	Client    string `json:"client"`
	Address   string `json:"address"` // what the client connected to
	Primary   string `json:"primary"`
	In        uint64 `json:"in"`         // read from the client
	Out       uint64 `json:"out"`        // handed to the client's socket
	ClientFIN bool   `json:"client_fin"` // the client has ended its direction
	ServerFIN bool   `json:"server_fin"` // the client was sent the answer's end
	Blocked   bool   `json:"blocked"`    // the client takes no more of what it is to get
	Frozen    bool   `json:"frozen"`

	Legs []LegStatus `json:"legs"`
}

// LegStatus is one leg of a ConnStatus.
type LegStatus struct {
	Server  string `json:"server"`
	State   string `json:"state"`   // connecting, live, muted, leaving, absent
	Acked   uint64 `json:"acked"`   // by the server, as last learned
	Sent    uint64 `json:"sent"`    // handed to the leg's socket
	Read    uint64 `json:"read"`    // of its answer
	Blocked bool   `json:"blocked"` // the server takes no more
	Closed  bool   `json:"closed"`  // the server has sent FIN or RST
	Owes    bool   `json:"owes"`    // it is behind the other leg
}

// Connections returns the open connections by service and age, at most so
// many, and how many more there are. Each is as it was at one moment, but not
// all at the same.
func (p *Proxy) Connections(most int) (list []ConnStatus, more int) {
	var mu sync.Mutex
	total := 0
	do(p.workers, func(w *worker) {
		some := w.inspect(most)
		mu.Lock()
		defer mu.Unlock()
		list, total = append(list, some...), total+len(w.conns)
	})
	slices.SortFunc(list, func(a, b ConnStatus) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.ID, b.ID))
	})
	list = list[:min(len(list), most)]
	return list, total - len(list)
}

// inspect describes up to so many connections of w. Called by w's loop.
func (w *worker) inspect(most int) (list []ConnStatus) {
	for c := range w.conns {
		if len(list) == most {
			break
		}
		list = append(list, c.inspect())
	}
	return list
}

func (c *conn) inspect() ConnStatus {
	v := c.core.Course()
	st := ConnStatus{
		Service: c.svc.cfg.Name, ID: uint64(c.id), Client: c.client.String(), Address: c.dest.String(),
		In: v.In, Out: v.Out,
		ClientFIN: v.ClientFIN, ServerFIN: v.ServerFIN, Blocked: v.Blocked, Frozen: v.Frozen,
	}
	for l, server := range c.servers {
		if server < 0 {
			continue
		}
		g := v.Legs[l]
		name := c.serverName(stream.Leg(l))
		if stream.Leg(l) == v.Primary {
			st.Primary = name
		}
		st.Legs = append(st.Legs, LegStatus{
			Server: name, State: g.State, Acked: g.Acked, Sent: g.Sent, Read: g.Read,
			Blocked: g.Blocked, Closed: g.Closed, Owes: g.Owes,
		})
	}
	return st
}
