// Package node is the life of one node from start to clean stop: `sttcp run`.
//
// What is set up is a list of steps, each with how it is undone; a failure, or
// the end, undoes them in the reverse order. Nothing survives a clean stop but
// the directories, the lock file and what state_dir holds. After a kill -9 the
// interception and the virtual IPs stay, on purpose: without them the kernel
// would answer the clients with resets. The next start takes them over.
package node
