package configs

import "regexp"

// later is every key whose feature this version does not have. Whoever
// builds a feature deletes its row. A row may ask for a value, where only
// that one has no effect yet; of a map only the map itself is listed.
var later = []struct {
	key  string // indices left out
	when func(*Config) bool
}{
	{key: "cluster"},
	{key: "node.role", when: func(c *Config) bool { return c.Node.Role == RoleWitness }},
	{key: "node.bpf_dir"},
	{key: "gate", when: func(c *Config) bool { return c.Gate == GateRequired }},
	{key: "virtual_ips[].prefer"},
	{key: "virtual_ips[].preempt"},
	{key: "virtual_ips[].services[].maxhalfopen"},
	{key: "admin.metrics"},
}

var index = regexp.MustCompile(`\[[0-9]+\]`)

// ineffective lists what the file sets and later names, in the file's order.
func ineffective(r *reporter, c *Config) (out []string) {
	for _, path := range r.order {
		key := index.ReplaceAllString(path, "[]")
		for _, row := range later {
			if row.key == key && (row.when == nil || row.when(c)) {
				out = append(out, path)
			}
		}
	}
	return out
}
