package pool

// ConnID names a connection. The owner gives it to Pick and never uses it
// again after ConnClosed.
type ConnID uint64

// Event is something that happened. Servers are numbered as in the
// configuration, but in the operator's words, which name them.
type Event interface {
	// apply changes p and returns why, for StateChanged. A refusal (an error)
	// leaves the state as it was.
	apply(p *Pool) (why string, err error)
}

// HealthUp says that the checks' verdict on Server is up (rise reached). It
// may be repeated with every check. Gen is that of the last Recheck that the
// verdict takes into account, 0 before any; a verdict with an older one is
// from before the failure and ignored.
type HealthUp struct {
	Server int
	Gen    uint64
}

// HealthDown says that the checks' verdict on Server is down (fall reached),
// as HealthUp does for up. Reason is for people.
type HealthDown struct {
	Server int
	Gen    uint64
	Reason string
}

// LegFailed says that connection Conn lost its leg at Server to failure or
// lag, and may have left bytes out there. It comes before Conn's ConnClosed.
// It is answered exactly once: either Step returns an error (ErrLastServer:
// the leg stays; if it cannot, the connection is to be reset), or an
// EjectRecorded names Conn. Until then nothing may be released or
// acknowledged without that leg.
//
// A connection that lost all its legs before a byte was written to any of
// them has nothing to report here.
type LegFailed struct {
	Conn   ConnID
	Server int
	Reason string
}

// Diverged says that connection Conn wants Server ejected because its answer
// differs. It is answered as LegFailed is.
type Diverged struct {
	Conn   ConnID
	Server int
	Reason string
}

// LegDropped says that connection Conn of a stateless service has dropped its
// leg at Server for no fault of the server's, as DropLegs asked. (Of a
// stateful one it is taken as LegFailed: the server misses what follows.)
type LegDropped struct {
	Conn   ConnID
	Server int
}

// ConnClosed says that connection Conn is over, however it ended.
type ConnClosed struct{ Conn ConnID }

// StaleRecorded is the completion of PersistStale: the entry is on disk, and
// synced. There is no event for a failed write: the owner tries again, with a
// pause, and the connections concerned go on holding.
type StaleRecorded struct{ Server int }

// Drain is the operator's word that Server gets no new connections. It ejects
// a server of a stateful service, or returns ErrLastServer.
type Drain struct{ Server string }

// Maint is the operator's word that Server is not to be used at all. It ejects
// a server of a stateful service, or returns ErrLastServer.
type Maint struct{ Server string }

// Ready is the operator's word that Server may be used again. For a stale
// server it is refused (ErrNotReady) unless the service is frozen, the server
// healthy, and no connection is without a leg there. With ResetConnections
// those that are get reset instead; for a server of a stateless service, those
// that have fewer legs than they should.
type Ready struct {
	Server           string
	ResetConnections bool
}

// Freeze is the operator's word that no client byte is read any more.
type Freeze struct{}

// Thaw ends a Freeze.
type Thaw struct{}

// Output is something to be done. The outputs of one Take are to be done in
// their order; those about the disk (PersistStale, ClearStale) also in the
// order of all Takes.
type Output interface{ output() }

// PersistStale: record on disk, synced, that Server is stale; then Step
// StaleRecorded. Nothing that any connection does without Server may leave
// before: no byte released, none acknowledged.
type PersistStale struct {
	Server int
	Reason string
}

// EjectRecorded answers the LegFailed and Diverged of Conns, and the Hold of
// their Choice: what they hold back because of Server may go. For a stateful
// service it comes after StaleRecorded, and so after the disk.
type EjectRecorded struct {
	Server int
	Conns  []ConnID // ascending
}

// DropLegs: every connection drops its leg at Server, except one of a
// stateless service that has no other; each then says LegDropped (not needed
// for a stateful service, where the legs no longer count). For a stateful
// service it comes after StaleRecorded: until then the legs stay live.
type DropLegs struct {
	Server int
	Reason string
}

// ResetConnections: reset Conns, which have no leg at Server, and let no byte
// of theirs leave any more, before what follows is done. Each then says
// ConnClosed.
type ResetConnections struct {
	Server int
	Conns  []ConnID // ascending
}

// ClearStale: remove Server's entry from the disk. Nothing waits for it: if it
// fails or the gateway dies before, the server is stale after a restart, which
// is safe, and the operator has to be told so.
type ClearStale struct{ Server int }

// Recheck: the health checks forget what they have counted for Server and
// decide afresh, by rise or fall, from checks that begin after this. Their
// verdicts then carry Gen.
type Recheck struct {
	Server int
	Gen    uint64
}

// ProbeNow: check Server's health at once.
type ProbeNow struct{ Server int }

// AllDown: the checks have every server that may hold a leg down. The owner
// makes sure that it is not itself cut off, then that this still holds
// (Pool.AllDown), and resets the connections.
type AllDown struct{}

// StateChanged is for the log and the metrics. It comes after the other
// outputs of the same step.
type StateChanged struct {
	Server   int
	From, To State
	Reason   string
}

func (PersistStale) output()     {}
func (EjectRecorded) output()    {}
func (DropLegs) output()         {}
func (ResetConnections) output() {}
func (ClearStale) output()       {}
func (Recheck) output()          {}
func (ProbeNow) output()         {}
func (AllDown) output()          {}
func (StateChanged) output()     {}
