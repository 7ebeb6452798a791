// Package node is the life of one node from start to clean stop: `sttcp run`.
//
// What is set up is a list of steps, each with how it is undone; a failure, or
// the end, undoes them in the reverse order. Nothing survives a clean stop but
// the directories, the lock file and what state_dir holds. After a kill -9 the
// interception and the virtual IPs stay, on purpose: without them the kernel
// would answer the clients with resets. The next start takes them over.
//
// The order of the steps, and why:
//
//  1. run_dir and state_dir, since all else needs them.
//  2. The lock on run_dir: from here on no other node of this host uses its
//     files, its socket or its table.
//  3. The limit of open files, before anything opens many.
//  4. The proxy, with its listeners, and the interception: from here on the
//     kernel answers no client by itself.
//  5. The virtual IPs. They come after the interception and go before it, for
//     an address without it would reset the clients of a predecessor.
//  6. The admin interface. An operator sees the node from before it serves
//     until its last connection has ended.
//  7. The proxy starts: connections are accepted, servers are checked.
package node
