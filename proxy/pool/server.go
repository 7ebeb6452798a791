package pool

// State is what is shown of a server.
type State uint8

// The states of a server.
const (
	StateUp      State = iota // gets connections
	StateDown                 // failed its checks or a leg, or waits for Ready after that
	StateDrain                // operator: no new connections, legs stay
	StateMaint                // operator: no legs at all
	StateStale                // missed a client byte; back by Ready alone
	StateJoining              // gets connections, but older ones lack a leg there
)

var states = [...]string{"up", "down", "drain", "maint", "stale", "joining"}

// String returns the state's name as the operator sees it.
func (s State) String() string {
	if int(s) < len(states) {
		return states[s]
	}
	return "unknown"
}

// admin is what the operator asked for.
type admin uint8

const (
	adminNone admin = iota
	adminDrain
	adminMaint
)

// server is what is known of one server. The first three groups are
// independent of each other; all else follows from them or counts.
type server struct {
	name string // constant

	// The operator's word.
	admin admin

	// Health. A leg's failure is not a verdict of the checks: failed keeps a
	// server from new connections, but never makes AllDown.
	healthy bool   // last verdict of the checks; true before the first
	failed  bool   // stateless: a leg failed after the last HealthUp
	waits   bool   // stateless, rejoin manual: was down, waits for Ready
	gen     uint64 // of the last Recheck
	outage  uint64 // epoch of the last time it went down

	// Staleness. recording implies stale.
	stale     bool
	recording bool // PersistStale is under way

	// Rejoining. joining is true exactly while it serves and lacking > 0.
	joining  bool
	joinedAt uint64 // epoch; older connections are waited for
	lacking  int    // connections older than joinedAt, short of legs, none here

	legs, primaries int // connections with a leg here; of these, as primary

	shown  State // as last reported
	served bool  // serves(), as of the last step
}

// serves reports whether new connections may use the server, and whether the
// service can live on it alone.
func (s *server) serves() bool {
	return !s.stale && s.admin == adminNone && s.healthy && !s.failed && !s.waits
}

// state derives what is shown.
func (s *server) state() State {
	switch {
	case s.stale:
		return StateStale
	case s.admin == adminMaint:
		return StateMaint
	case s.admin == adminDrain:
		return StateDrain
	case !s.serves():
		return StateDown
	case s.joining:
		return StateJoining
	}
	return StateUp
}

// conn is one open connection.
type conn struct {
	legs    [2]int // servers: primary, backup; none where there is no leg
	epoch   uint64 // when it was opened
	waiting int    // the server whose EjectRecorded it waits for, or none
}

// none stands where a server's number is expected and there is none.
const none = -1

func (c *conn) has(s int) bool { return c.legs[0] == s || c.legs[1] == s }

// count is how many legs the connection has.
func (c *conn) count() int {
	n := 0
	for _, s := range c.legs {
		if s != none {
			n++
		}
	}
	return n
}

// drop removes the leg at server s. The backup takes the primary's place.
func (c *conn) drop(s int) {
	if c.legs[1] == s {
		c.legs[1] = none
	}
	if c.legs[0] == s {
		c.legs = [2]int{c.legs[1], none}
	}
}
