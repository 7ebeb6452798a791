package admin

import "time"

// Status is a node as the operator sees it.
type Status struct {
	Node       string          `json:"node"`
	Role       string          `json:"role"` // gateway or witness
	VirtualIPs []VirtualIP     `json:"virtual_ips"`
	Services   []ServiceStatus `json:"services"`
	Servers    []ServerStatus  `json:"servers"`

	Version string    `json:"version"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
	// Notes are sentences about what does not give all that it may seem to:
	// connections with one leg, state that nobody compares.
	Notes []string `json:"notes"`
}

// VirtualIP says who holds a virtual IP. A node alone holds all of its own.
type VirtualIP struct {
	Name    string   `json:"name"`
	Holder  string   `json:"holder"`   // a node's name; "" when nobody holds it
	Epoch   uint64   `json:"epoch"`    // from 1; grows when the holder changes
	LeaseMS int64    `json:"lease_ms"` // what is left of the lease; 0 = it has no end
	InSync  []string `json:"in_sync"`  // the nodes that have every record
}

// ServiceStatus is one service with its counters since the start of the process.
// It has the fields of proxy.ServiceStatus, in its order.
type ServiceStatus struct {
	Name             string `json:"name"`
	Connections      int    `json:"connections"`
	TwoLegs          int    `json:"two_legs"`          // of these, with both legs
	GatewayProtected int    `json:"gateway_protected"` // of these, surviving this gateway's death
	Frozen           bool   `json:"frozen"`

	Accepted uint64 `json:"accepted"`
	Refused  uint64 `json:"refused"`
	// AcceptErrors counts attempts to accept that failed for want of
	// descriptors or memory; the clients wait.
	AcceptErrors uint64            `json:"accept_errors"`
	BytesIn      uint64            `json:"bytes_in"`  // from clients
	BytesOut     uint64            `json:"bytes_out"` // to clients
	Promoted     uint64            `json:"promoted"`
	Muted        uint64            `json:"muted"`
	Diverged     uint64            `json:"diverged"`
	Dropped      map[string]uint64 `json:"dropped"` // legs, by reason
	Ended        map[string]uint64 `json:"ended"`   // connections, by reason
}

// ServerStatus is one server of a service. It has the fields of proxy.ServerStatus,
// in its order.
type ServerStatus struct {
	Service   string    `json:"service"`
	Name      string    `json:"name"`
	Address   string    `json:"address"`
	State     string    `json:"state"` // up, down, drain, maint, stale, joining
	Since     time.Time `json:"since"` // when it came into that state
	Healthy   bool      `json:"healthy"`
	Legs      int       `json:"legs"`
	Primaries int       `json:"primaries"`
}

// ConnStatus is one open connection. It has the fields of proxy.ConnStatus, in
// its order. Offsets count bytes of the client's stream (in, acked, sent) or
// of the answer (out, read).
type ConnStatus struct {
	Service   string `json:"service"`
	ID        uint64 `json:"id"` // unique in its service while the process lives
	Client    string `json:"client"`
	Address   string `json:"address"` // what the client connected to
	Primary   string `json:"primary"` // the server whose answer counts when they differ
	In        uint64 `json:"in"`      // read from the client
	Out       uint64 `json:"out"`     // handed to the client's socket
	ClientFIN bool   `json:"client_fin"`
	ServerFIN bool   `json:"server_fin"`
	Blocked   bool   `json:"blocked"` // the client takes no more of what it is to get
	Frozen    bool   `json:"frozen"`

	Legs []LegStatus `json:"legs"`
}

// LegStatus is one leg of a connection.
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

// Connections are open connections by service and age. There are More than
// those listed.
type Connections struct {
	Connections []ConnStatus `json:"connections"`
	More        int          `json:"more"`
}

// Servers is the list of servers, in the order of the configuration.
type Servers struct {
	Servers []ServerStatus `json:"servers"`
}

// Op is what a ServerOrder asks for.
type Op string

// The operations on a server.
const (
	OpDrain Op = "drain" // no new connections; of a stateful service: it is ejected
	OpMaint Op = "maint" // out at once
	OpReady Op = "ready" // back
)

// ServerOrder is the operator's word about one server.
type ServerOrder struct {
	Name string `json:"name"` // or SERVICE/NAME, where several services have one
	Op   Op     `json:"op"`
	// ResetConnections resets the connections that have no leg there, which
	// would otherwise keep a stale server from being ready. Only with OpReady.
	ResetConnections bool `json:"reset_connections,omitempty"`
}

// The operations on a service.
const (
	OpFreeze Op = "freeze" // nothing more is read from its clients, nobody is disconnected
	OpThaw   Op = "thaw"
)

// ServiceOrder is the operator's word about one service.
type ServiceOrder struct {
	Name string `json:"name"`
	Op   Op     `json:"op"`
}

// complete makes every list and map of s one in JSON, never null: scripts index
// into them.
func (s *Status) complete() {
	s.VirtualIPs, s.Services = list(s.VirtualIPs), list(s.Services)
	s.Servers, s.Notes = list(s.Servers), list(s.Notes)
	for i := range s.VirtualIPs {
		s.VirtualIPs[i].InSync = list(s.VirtualIPs[i].InSync)
	}
	for i := range s.Services {
		v := &s.Services[i]
		v.Dropped, v.Ended = counts(v.Dropped), counts(v.Ended)
	}
}

func list[T any](in []T) []T {
	if in == nil {
		return []T{}
	}
	return in
}

func counts(in map[string]uint64) map[string]uint64 {
	if in == nil {
		return map[string]uint64{}
	}
	return in
}
