// Package pool is the state machine of the servers of one service: who is up,
// who is stale, who may be given up, and which of them a new connection gets.
// It is pure: no sockets, files, goroutines, clock or logger.
//
// Everything that happens comes in by Step (and Pick, which opens a
// connection); what is to be done about it is collected and taken by Take, in
// the order in which it is to be done. Each Output says what it has to wait
// for and which event its completion is.
//
// # Three facts and what is shown
//
// What the operator asked for (nothing, drain, maint), what the health checks
// say, and whether a server has missed a client byte (stale) are kept apart;
// the State that is shown is derived from them, in this order:
//
//	stale > maint > drain > down > joining > up
//
// # Stateful services
//
// A server of a stateful service that missed one client byte on one
// connection is of no use for any: it is ejected, that is recorded as stale
// on disk, and comes back by the operator's word alone. So the choice of
// servers does not look at health there: a connection opened without a server
// would make it stale, a refused leg does so soon enough, and a server that
// was away while nobody needed it has missed nothing.
//
// # Stateless services
//
// A server that failed is left out until the health checks have found it up
// again, afresh. A server that returns is joining until every connection
// that has fewer legs than it should, and was opened before, is gone.
//
// A Pool is not safe for concurrent use: one goroutine, or one lock, owns it.
package pool
