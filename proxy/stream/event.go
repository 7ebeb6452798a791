package stream

import "time"

// Leg numbers one of the connection's legs: 0 or 1.
type Leg uint8

func (l Leg) other() Leg {
	return 1 - l
}

// EventType is the kind of an Event.
type EventType uint8

// The events. Each names the fields of Event it uses besides Now.
const (
	// Tick: time has passed. Due whenever Deadline is reached.
	Tick EventType = iota
	// ClientRead: N bytes were read from the client into ClientSpace.
	ClientRead
	// ClientUrgent: the byte that will be read next from the client is urgent
	// (RFC 9293, 3.8.5).
	ClientUrgent
	// ClientFIN: the client has closed its direction, all its bytes were read.
	ClientFIN
	// ClientRST: the client's connection is gone.
	ClientRST
	// ClientWrote: N of the bytes that ToClient offered were written. Fewer
	// than offered means that the client's socket takes no more now.
	ClientWrote
	// LegConnected: the handshake with leg Leg's server is complete.
	LegConnected
	// LegRefused: there will be no such leg (refused, unreachable, no port).
	LegRefused
	// LegRead: N bytes were read from leg Leg into LegSpace.
	LegRead
	// LegUrgent: the byte that will be read next from leg Leg is urgent.
	LegUrgent
	// LegFIN: leg Leg's server has closed its direction, all was read. Comes
	// after a LegAcked, if NeedsAck.
	LegFIN
	// LegRST: leg Leg's connection is gone, all that could be read was read.
	// Comes after a LegAcked, if NeedsAck: what the server has not
	// acknowledged by then it has missed.
	LegRST
	// LegWrote: N of the bytes that ToLeg(Leg) offered were written.
	LegWrote
	// LegAcked: the server's TCP of leg Leg has acknowledged the client stream
	// up to Off. Values that go back are ignored.
	LegAcked
	// Confirmed: every record up to Seq is where it has to be.
	Confirmed
	// Refused: the Publish Seq asked to eject a server that must not be
	// ejected (it is the last); its leg is to be kept. If there is none to
	// keep (the server refused it), the client is reset. It also confirms
	// every record before Seq.
	Refused
	// Verdict: a health probe, begun after the Probe action with Seq that asked
	// for it, found leg Leg's server Up or not.
	Verdict
	// Ejected: the service has no use for leg Leg's server any more, Why says
	// the reason. The record of it is kept already.
	Ejected
	// AllDown: health has every server of the service down, and we are not the
	// ones that are cut off.
	AllDown
	// Freeze and Thaw: the operator stops and continues reading from clients.
	Freeze
	Thaw
	// Gap: this process, or its clock, stood still. All timers restart. Comes
	// before any other event whose Now is beyond the gap.
	Gap
)

// Event is something that happened. Now is the time since an arbitrary fixed
// start and never goes back.
type Event struct {
	Type EventType
	Leg  Leg
	Up   bool
	N    int
	Off  uint64
	Seq  uint64
	Why  Reason
	Now  time.Duration
}

// Reason says why something was done. It is printed in logs and counters.
type Reason uint8

// The reasons.
const (
	ReasonNone      Reason = iota
	ReasonRefused          // the server did not accept the connection in time
	ReasonClosed           // FIN or RST at an offset that the other leg has passed
	ReasonDead             // the health probe failed
	ReasonLag              // owed and did not move for lag.limit
	ReasonDiverged         // the answers differ
	ReasonEjected          // the server was lost on another connection
	ReasonDown             // health has the server down
	ReasonOperator         // drain or maint
	ReasonIdle             // timeout.idle
	ReasonServerRST        // the servers reset the connection
	ReasonClientRST        // the client reset the connection
	ReasonNoServer         // no leg could be had, or none is left
	ReasonDone             // both directions have ended
)

var reasons = [...]string{"none", "refused", "closed-early", "dead", "lag", "diverged",
	"ejected", "server-down", "operator", "idle", "server-reset", "client-reset", "no-server", "done"}

// Reasons is how many reasons there are.
const Reasons = len(reasons)

func (r Reason) String() string {
	return reasons[r]
}

// ActionType is the kind of an Action.
type ActionType uint8

// The actions. They are to be carried out in the order of Actions.
const (
	// Publish: make the connection's record (see Conn.Record) durable wherever it
	// has to be; then answer Confirmed with Seq. If Eject, the server of leg
	// Leg has missed a byte: it has to be recorded as stale first, which may
	// be answered by Refused instead. Nothing that depends on the record
	// happens before the answer. Right before Done it is the last news of a
	// server that missed bytes, and the answer is nobody's.
	Publish ActionType = iota
	// Probe: check the health of all legs' servers now; answer Verdict each,
	// with this Seq.
	Probe
	// SetLive: Live are the legs whose servers' acknowledgements bound what
	// may be acknowledged to the client (invariant I1): also those that are
	// connecting, and those whose drop is not confirmed.
	SetLive
	// ShutdownClient: FIN to the client. Allowed to leave (I3).
	ShutdownClient
	// ResetClient: RST to the client, and close.
	ResetClient
	// CloseClient: close the client's socket; both directions have ended.
	CloseClient
	// ShutdownLeg: FIN to leg Leg's server. Allowed to leave (I3).
	ShutdownLeg
	// CloseLeg: close leg Leg; with Reset by RST.
	CloseLeg
	// Promoted: leg Leg is the primary from response offset Off on.
	Promoted
	// Dropped: leg Leg was dropped for Why.
	Dropped
	// Diverged: the answers differ at response offset Off. Sample holds up to
	// 64 bytes of both from there, by leg, valid until the next Step, unless
	// the configuration switched that off. Followed by what is done about it.
	Diverged
	// Muted: leg Leg has no voice any more.
	Muted
	// Done: the connection is over for Why, and the last action.
	Done
)

// Action is something that is to be done.
type Action struct {
	Type   ActionType
	Leg    Leg
	Eject  bool
	Reset  bool
	Live   [2]bool
	Why    Reason
	Seq    uint64
	Off    uint64
	Sample [2][]byte
}
