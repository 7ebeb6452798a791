package configs

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
)

// Hash is the same, 64 hexadecimal digits, on all nodes that serve the same
// thing: nodes whose hashes differ must not take over from each other. It
// covers everything but what is a node's own: node, admin, log, its addresses
// in the cluster (gossip, link, join) and the names of its interfaces.
func (c *Config) Hash() string {
	// Shallow copies: whatever is changed below is copied before.
	same := *c
	same.Node, same.Admin, same.Log = Node{}, Admin{}, Log{}
	same.Ineffective, same.Warnings = nil, nil
	if c.Cluster != nil {
		cl := *c.Cluster
		cl.Gossip, cl.Link, cl.Join = Cluster{}.Gossip, Cluster{}.Link, nil
		same.Cluster = &cl
	}
	same.VirtualIPs = withoutInterfaces(c.VirtualIPs)
	// JSON has the fields in the order of the structs and netip and regexp in
	// their own words, so the text is the same on every machine and each start.
	text, err := json.Marshal(same)
	if err != nil {
		// Every field is plain data or marshals itself without an error; a
		// hash that equals no other keeps the node out, the safe side.
		return "unhashable: " + err.Error()
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// withoutInterfaces copies as much as it changes.
func withoutInterfaces(vips []VirtualIP) []VirtualIP {
	out := append([]VirtualIP(nil), vips...)
	for i := range out {
		out[i].Addresses = append([]VIPAddress(nil), out[i].Addresses...)
		for j := range out[i].Addresses {
			out[i].Addresses[j].Interface = ""
		}
	}
	return out
}
