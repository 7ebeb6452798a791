// Package stream is the core of one client connection: which byte goes where,
// when an answer may leave, what a missing or different answer means, and
// when a leg is given up. It is pure: no sockets, no clock, no goroutines, no
// logger. Everything that happens comes in through Conn.Step, with the time
// as a value; what is to be done comes out in two forms:
//
//   - levels: ClientSpace and LegSpace (where to read to, nil: do not read)
//     and ToClient and ToLeg (what may be written now). They may be asked at
//     any time and change only by Step.
//   - edges: Actions, in order, each to be carried out once.
//
// # Offsets
//
// Both streams are counted from their first byte. The client stream goes to
// every live leg; the response stream comes from each leg at its own pace:
//
//	client   [ ...sent to both | leg 1 has not taken | read from client )
//	leg p    [ ...released, R | held: equal in q, V | not yet in q | p.end )
//	leg q    [ ...compared and forgotten, V | q.end )
//
// R is how far the client was answered, V how far both answers are known to
// be equal. With release "both" R never exceeds V.
//
// # Records
//
// A decision that another node, or a later process, must know of before it
// shows (a leg opened, dropped, muted, a FIN passed on) raises the record's
// sequence number and waits for Confirmed. That second outbox is what keeps
// invariants I1 and I4 of docs/ARCHITECTURE.md.
//
// # Time
//
// What is held against a server (lag.suspect, lag.limit, fin_delay, the wait
// for a line's end) counts on the lag clock, which stands still while the
// client's window, or every leg's, is closed, and starts again after a Gap.
// Nothing is held against anybody while a record is not confirmed.
//
// # Memory
//
// A connection holds at most 3 x Config.Buffer bytes (the client stream and
// two answers), plus 2 x 4 KiB for masks, and none of it at rest.
//
// A Conn is not safe for concurrent use: one goroutine owns it.
package stream
