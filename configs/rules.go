package configs

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
)

// maxSocketPath is how long the path of a Unix socket may be, in bytes:
// sun_path has 108 with the NUL (unix(7)).
const maxSocketPath = 107

// AdminAddr gives where the admin interface is served, as net.Listen takes
// it: network "unix" with the full path, or "tcp" with HOST:PORT.
func (c *Config) AdminAddr() (network, address string) {
	if _, tcp := splitHostPort(c.Admin.Listen); tcp {
		return "tcp", c.Admin.Listen
	}
	if filepath.IsAbs(c.Admin.Listen) {
		return "unix", filepath.Clean(c.Admin.Listen)
	}
	return "unix", filepath.Join(c.Node.RunDir, c.Admin.Listen)
}

// A checker holds the rules about more than one word. Each rule first asks
// whether the keys that it compares are clean.
type checker struct {
	*reporter
	c     *Config
	env   Env
	vipOf map[netip.Addr]*VirtualIP
}

// check runs every rule; what the file does not say was completed before.
func check(r *reporter, c *Config, env Env) {
	k := &checker{reporter: r, c: c, env: env, vipOf: map[netip.Addr]*VirtualIP{}}
	k.complete()
	k.node()
	k.admin()
	if c.Cluster != nil && k.clean("cluster") {
		k.cluster(c.Cluster)
	}
	k.virtualIPs()
	k.services()
}

// complete notes whose each virtual address is, and fills in the
// default that depends on another key.
func (k *checker) complete() {
	for i := range k.c.VirtualIPs {
		for _, a := range k.c.VirtualIPs[i].Addresses {
			if addr := a.Prefix.Addr(); addr.IsValid() {
				k.vipOf[addr] = &k.c.VirtualIPs[i]
			}
		}
	}
	for _, s := range k.all() {
		if s.Legs == 1 && !k.set(s.path+".release") {
			s.Release = ReleasePrimary
		}
	}
}

// node holds the role against what there is to do. A witness may well read
// the gateways' file, virtual IPs and all; a gateway with nothing to serve is
// a file that was cut short.
func (k *checker) node() {
	witness := k.c.Node.Role == RoleWitness
	if witness && k.clean("node.role", "cluster") && k.c.Cluster == nil {
		k.at("node.role", "a witness votes in a cluster, but there is no cluster; add one or use role: gateway")
	}
	if !witness && k.clean("node.role", "virtual_ips") && len(k.c.VirtualIPs) == 0 {
		k.at("virtual_ips", "is missing; give a gateway at least one virtual IP with a service")
	}
}

// admin sees to it that whoever can reach the admin interface may use it: a
// Unix socket is guarded by the permissions of its directory, a port only by
// a token.
func (k *checker) admin() {
	if !k.clean("admin", "node.run_dir") {
		return
	}
	a := k.c.Admin
	network, addr := k.c.AdminAddr()
	switch {
	case network == "tcp" && a.TokenFile == "":
		k.at("admin.token_file", "is missing; admin.listen is HOST:PORT, so give the path of a file with a token")
	case network == "unix" && len(addr) > maxSocketPath: // bind(2) would say EINVAL
		k.at("admin.listen", "%s has %d bytes, a Unix socket at most %d; use a shorter path", quote(addr), len(addr), maxSocketPath)
	case a.Metrics != "" && a.Metrics == a.Listen:
		k.at("admin.metrics", "%s is admin.listen already; use another port", a.Metrics)
	}
	k.readable("admin.token_file", a.TokenFile)
}

// readable asks the host for a file, if one is named.
func (k *checker) readable(path, file string) {
	if k.env.FileReadable == nil || file == "" {
		return
	}
	if err := k.env.FileReadable(file); err != nil {
		k.at(path, "cannot be read: %s; create the file or correct the path", oneLine(err.Error()))
	}
}

// cluster holds the parts of the cluster against each other. Without the gate
// a node that lost its lease would go on sending as the virtual IP (I5), and
// without a secret anybody on the network could vote; neither is an option.
func (k *checker) cluster(c *Cluster) {
	if k.c.Gate == GateOff {
		k.at("gate", "off is for a node alone, but there is a cluster; use required or remove the cluster")
	}
	if c.SecretFile == "" {
		k.at("cluster.secret_file", "is empty; give the path of a file with the secret that all nodes share")
	}
	if c.Timing.Heartbeat >= c.Timing.Lease {
		k.at("cluster.timing", "heartbeat %s is not shorter than lease %s; make the lease about five heartbeats",
			c.Timing.Heartbeat, c.Timing.Lease)
	}
	if c.Gossip.Port() == c.Link.Port() && overlap(c.Gossip.Addr(), c.Link.Addr()) {
		k.at("cluster.link", "%s collides with cluster.gossip %s; use another port", c.Link, c.Gossip)
	}
	k.voters(c)
	k.clusterFiles(c)
	k.fence(c)
}

// overlap reports whether two listeners on one port would collide.
func overlap(a, b netip.Addr) bool {
	return a == b || a.IsUnspecified() || b.IsUnspecified()
}

// voters wants each node counted once. A gateway need not vote, but two
// voters are a majority only together: when one is gone, the other has to ask
// the network whether it is itself that is cut off.
func (k *checker) voters(c *Cluster) {
	k.unique("cluster.voters", c.Voters)
	me := k.c.Node.Name
	if k.c.Node.Role == RoleWitness && k.clean("node") && !slices.Contains(c.Voters, me) {
		k.at("cluster.voters", "this node, the witness %s, is not among them; add it, voting is all it does", me)
	}
	iso := c.Isolation
	if len(c.Voters) == 2 && iso.WithoutMajority == "neighbours" && len(iso.Neighbours) == 0 {
		k.at("cluster.isolation.neighbours",
			"two voters have no majority when one dies; list a router here, add a witness, or set without_majority: fence")
	}
}

// unique reports every word that stands in a list for the second time.
func (k *checker) unique(path string, words []string) {
	seen := map[string]bool{}
	for i, w := range words {
		if seen[w] && k.clean(path) {
			k.at(fmt.Sprintf("%s[%d]", path, i), "%s is listed twice; remove one", w)
		}
		seen[w] = true
	}
}

// clusterFiles wants all files of the link or none: a certificate without its
// key or authority would only fail at the first handshake.
func (k *checker) clusterFiles(c *Cluster) {
	k.readable("cluster.secret_file", c.SecretFile)
	files := []struct{ key, path string }{{"ca", c.TLS.CA}, {"cert", c.TLS.Cert}, {"key", c.TLS.Key}}
	var missing []string
	for _, f := range files {
		k.readable("cluster.tls."+f.key, f.path)
		if f.path == "" {
			missing = append(missing, f.key)
		}
	}
	if len(missing) > 0 && len(missing) < len(files) {
		k.at("cluster.tls", "%s not given; give ca, cert and key, or none of them", strings.Join(missing, " and "))
	}
}

// fence checks what decides when there is no majority. The command runs with
// no shell and no PATH; a neighbour must be one that stays where it is, since
// a virtual IP that moved here would answer from this very node.
func (k *checker) fence(c *Cluster) {
	cmd := c.Fence.Command
	if len(cmd) > 0 && !filepath.IsAbs(cmd[0]) {
		k.at("cluster.fence.command[0]", "expected the absolute path of a program, found %s", quote(cmd[0]))
	}
	for i, a := range c.Isolation.Neighbours {
		if v := k.vipOf[a]; v != nil {
			k.at(fmt.Sprintf("cluster.isolation.neighbours[%d]", i),
				"%s belongs to virtual IP %s, which moves; give an address that stays, such as the router's", a, v.Name)
		}
	}
}
