// Package stale keeps on disk which servers are stale: they missed a client
// byte and must not be used again before the operator says so, not even after
// a power loss.
//
// It is written in the middle of a failover, so it must work on a disk that
// has filled up meanwhile. One file of fixed size is allocated when it is
// first opened, and only ever overwritten in place:
//
//	0        64 KiB     128 KiB
//	| slot 0 | slot 1   |          each: header, payload, rest unused
//
// Each slot holds a whole state with a sequence number and a checksum; the
// valid one with the highest number counts. An update goes
//
//  1. to the slot that was not synced last, and is synced: from here it counts
//  2. to the other slot too, not waited for, as a copy
//
// so a write that is torn at any byte leaves the other slot valid, and once
// both are on disk no single damage loses anything. Where copy-on-write is
// used (btrfs, ZFS) overwriting needs free space, and a full disk may still
// refuse; the error then says so.
//
// A Store is safe for concurrent use; its directory is locked against other
// processes.
package stale
