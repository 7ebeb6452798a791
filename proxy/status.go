package proxy

import (
	"time"

	"sttcp/proxy/pool"
	"sttcp/proxy/stream"
)

// ServiceStatus is one service as the operator sees it. The JSON is stable
// (docs/ARCHITECTURE.md, section 8); counters were added to it.
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
	BytesIn      uint64            `json:"bytes_in"`
	BytesOut     uint64            `json:"bytes_out"`
	Promoted     uint64            `json:"promoted"`
	Muted        uint64            `json:"muted"`
	Diverged     uint64            `json:"diverged"`
	Dropped      map[string]uint64 `json:"dropped"` // legs, by reason
	Ended        map[string]uint64 `json:"ended"`   // connections, by reason
}

// ServerStatus is one server as the operator sees it. The JSON is stable.
type ServerStatus struct {
	Service   string    `json:"service"`
	Name      string    `json:"name"`
	Address   string    `json:"address"`
	State     string    `json:"state"` // up, down, drain, maint, stale, joining
	Since     time.Time `json:"since"`
	Healthy   bool      `json:"healthy"` // the checks' verdict, whatever the state
	Legs      int       `json:"legs"`
	Primaries int       `json:"primaries"`
}

// Services returns the state of all services, in the configuration's order.
func (p *Proxy) Services() []ServiceStatus {
	out := make([]ServiceStatus, 0, len(p.services))
	for _, s := range p.services {
		out = append(out, s.status())
	}
	return out
}

func (s *service) status() ServiceStatus {
	s.mu.Lock()
	st := ServiceStatus{Name: s.cfg.Name, Frozen: s.pool.Frozen()}
	st.Connections, st.TwoLegs = s.pool.Connections()
	s.mu.Unlock()
	if s.cfg.Legs < 2 {
		st.TwoLegs = 0
	}
	n := &s.count
	st.Accepted, st.Refused, st.AcceptErrors = n.accepted.Load(), n.refused.Load(), n.acceptErrors.Load()
	st.BytesIn, st.BytesOut = n.bytesIn.Load(), n.bytesOut.Load()
	st.Promoted, st.Muted, st.Diverged = n.promoted.Load(), n.muted.Load(), n.diverged.Load()
	st.Dropped, st.Ended = map[string]uint64{}, map[string]uint64{}
	for r := range stream.Reason(stream.Reasons) {
		if v := n.drops[r].Load(); v > 0 {
			st.Dropped[r.String()] = v
		}
		if v := n.ends[r].Load(); v > 0 {
			st.Ended[r.String()] = v
		}
	}
	return st
}

// Servers returns the state of all servers, in the configuration's order.
func (p *Proxy) Servers() []ServerStatus {
	var out []ServerStatus
	for _, s := range p.services {
		out = append(out, s.servers()...)
	}
	return out
}

func (s *service) servers() []ServerStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []ServerStatus
	for i, st := range s.pool.Servers() {
		out = append(out, serverStatus(s, i, st))
	}
	return out
}

func serverStatus(s *service, i int, st pool.Status) ServerStatus {
	return ServerStatus{
		Service: s.cfg.Name, Name: st.Name, Address: s.cfg.Servers[i].Address.String(),
		State: st.State.String(), Since: s.since[i], Healthy: st.Healthy, Legs: st.Legs, Primaries: st.Primaries,
	}
}
