package configs

import (
	"regexp"
	"time"
)

// config gives the raw structs their final types. Empty lists become nil, so
// that `prefer: []` and no prefer at all are one configuration (Hash).
func (raw *rawConfig) config() *Config {
	return &Config{
		Node: Node{
			Name: string(raw.Node.Name), Role: raw.Node.Role, RunDir: string(raw.Node.RunDir),
			StateDir: string(raw.Node.StateDir), BPFDir: string(raw.Node.BPFDir),
		},
		Cluster:    raw.Cluster.config(),
		VirtualIPs: convert(raw.VirtualIPs, rawVIP.config),
		Gate:       raw.Gate,
		Admin: Admin{
			Listen: string(raw.Admin.Listen), TokenFile: string(raw.Admin.TokenFile),
			Metrics: string(raw.Admin.Metrics),
		},
		Drain: time.Duration(raw.Drain),
		Log:   Log(raw.Log),
	}
}

// convert does a list; an empty one becomes nil.
func convert[R, T any](raw []R, one func(R) T) (out []T) {
	for _, r := range raw {
		out = append(out, one(r))
	}
	return out
}

func (n name) config() string { return string(n) }
func (p peer) config() string { return string(p) }

// config gives nil for no cluster, which is a node alone.
func (raw *rawCluster) config() *Cluster {
	if raw == nil {
		return nil
	}
	return &Cluster{
		Gossip:     raw.Gossip.AddrPort,
		Link:       raw.Link.AddrPort,
		Join:       convert(raw.Join, peer.config),
		Voters:     convert(raw.Voters, name.config),
		SecretFile: string(raw.SecretFile),
		Timing:     Timing{Heartbeat: time.Duration(raw.Timing.Heartbeat), Lease: time.Duration(raw.Timing.Lease)},
		TLS:        TLS{CA: string(raw.TLS.CA), Cert: string(raw.TLS.Cert), Key: string(raw.TLS.Key)},
		Fence: Fence{
			Command: append([]string(nil), raw.Fence.Command...), Timeout: time.Duration(raw.Fence.Timeout),
		},
		Isolation: raw.Isolation.config(),
	}
}

func (raw rawIsolation) config() Isolation {
	out := Isolation{WithoutMajority: raw.WithoutMajority}
	for _, a := range raw.Neighbours {
		out.Neighbours = append(out.Neighbours, a.Addr)
	}
	return out
}

func (raw rawVIP) config() VirtualIP {
	return VirtualIP{
		Name:      string(raw.Name),
		Addresses: convert(raw.Addresses, rawAddress.config),
		Prefer:    convert(raw.Prefer, name.config),
		Preempt:   raw.Preempt,
		Services:  convert(raw.Services, rawService.config),
	}
}

func (raw rawAddress) config() VIPAddress {
	return VIPAddress{Prefix: raw.Address.Prefix, Interface: string(raw.Interface)}
}

// config does not know whether a key was given or is a default; what depends
// on that is left to checker.complete.
func (raw rawService) config() Service {
	return Service{
		Name:       string(raw.Name),
		ListenVIP:  raw.Listen.vip,
		ListenAddr: raw.Listen.addr,
		Ports:      convert(raw.Ports, func(p portRange) PortRange { return PortRange(p) }),
		Servers:    convert(raw.Servers, rawServer.config),
		Legs:       raw.Legs, Stateful: raw.Stateful, Rejoin: raw.Rejoin, Balance: raw.Balance,
		Release: raw.Release, OnDivergence: raw.OnDivergence,
		Compare: Compare{
			Mode: raw.Compare.Mode, Report: raw.Compare.Report,
			Mask: convert(raw.Compare.Mask, func(m mask) *regexp.Regexp { return m.Regexp }),
		},
		Source: raw.Source, ProxyProtocol: raw.ProxyProtocol,
		Lag:      Lag{Suspect: time.Duration(raw.Lag.Suspect), Limit: time.Duration(raw.Lag.Limit)},
		Buffer:   int(raw.Buffer),
		FinDelay: time.Duration(raw.FinDelay),
		MaxConn:  raw.MaxConn, MaxHalfOpen: raw.MaxHalfOpen,
		Timeout: Timeout{Connect: time.Duration(raw.Timeout.Connect), Idle: time.Duration(raw.Timeout.Idle)},
		Health:  raw.Health.config(),
	}
}

// config cuts the port to 16 bits, which its tag has bounded.
func (raw rawServer) config() Server {
	return Server{Name: string(raw.Name), Address: raw.Address.Addr, Port: uint16(raw.Port)}
}

func (raw rawHealth) config() Health {
	return Health{
		Interval: time.Duration(raw.Interval), Timeout: time.Duration(raw.Timeout),
		Rise: raw.Rise, Fall: raw.Fall, Send: raw.Send, Expect: raw.Expect.Regexp,
	}
}
