// Package cluster will decide which gateway is active (docs/ARCHITECTURE.md,
// section 7). A gateway alone needs none of it; so far there is nothing here.
package cluster
