package stream

// Course is how far a connection has come, for those who watch it. Offsets
// are of the streams, in bytes; a FIN counts none.
type Course struct {
	Primary Leg
	Frozen  bool

	In        uint64 // read from the client
	ClientFIN bool   // the client has closed its direction
	Out       uint64 // handed to the client's socket
	Blocked   bool   // the client's socket takes no more of what it is to get
	ServerFIN bool   // the client was sent the FIN of the answer

	Legs [2]LegCourse
}

// LegCourse is one leg's part of a Course.
type LegCourse struct {
	State   string // connecting, live, muted, leaving, absent
	Acked   uint64 // of the client stream, by the server's TCP as last learned
	Sent    uint64 // of the client stream, handed to the leg's socket
	Read    uint64 // of the answer
	Blocked bool   // its socket takes no more of what it is to get
	Closed  bool   // the server has sent FIN or RST
	Owes    bool   // see lag.suspect
}

// Course returns how far the connection has come.
func (c *Conn) Course() Course {
	out := Course{
		Primary: c.prim, Frozen: c.frozen,
		In: c.in.end, ClientFIN: c.inEnd != open,
		Out: c.released, Blocked: c.stuck && c.mayRelease() > c.released, ServerFIN: c.outShut,
	}
	for l := range c.legs {
		g := &c.legs[l]
		out.Legs[l] = LegCourse{
			State: g.stateName(), Acked: g.acked, Sent: g.wrote, Read: g.win.end,
			Blocked: g.stuck, Closed: g.closed != open, Owes: g.owing,
		}
	}
	return out
}

func (g *leg) stateName() string {
	switch {
	case g.state == absent:
		return "absent"
	case g.dropping:
		return "leaving"
	case g.state == connecting:
		return "connecting"
	case g.muted:
		return "muted"
	}
	return "live"
}
