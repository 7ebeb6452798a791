// Package admin serves and uses the operator's interface of a node: HTTP with
// JSON on a Unix socket, or on a TCP port behind a bearer token (RFC 6750).
//
//	GET  /v1/status   Status
//	GET  /v1/servers  Servers
//	GET  /v1/connections Connections
//	POST /v1/server   ServerOrder  -> Servers, those that the order was about
//	POST /v1/service  ServiceOrder -> {}
//
// Every error is a JSON object {"error": "a sentence for the operator"} with
// the HTTP status that fits: 400 for a request that says nothing sensible, 401
// for a wrong token, 404 for what is not configured, 409 for an order that is
// refused (nothing was changed), 413 for a body that is too long.
//
// The keys that docs/ARCHITECTURE.md, section 8, lists for `sttcp status
// --json` never change; more may be added beside them.
//
// A Server calls its Backend from many goroutines at a time. A Client may be
// used by many goroutines.
package admin
