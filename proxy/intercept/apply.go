package intercept

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/userdata"
	mdnetlink "github.com/mdlayher/netlink"
)

// netlinkBuffer is enough, in bytes, for a batch of some thousand rules and
// the kernel's answers to it.
const netlinkBuffer = 8 << 20

// Interceptor applies Specs to the network namespace of the calling thread.
// It may be used from any goroutine.
type Interceptor struct {
	mu   sync.Mutex
	spec Spec // guarded by mu: what was applied last
}

// Apply makes the table, the rules of policy routing and the routes what spec
// wants, and reports whether the table had to be changed. It is idempotent,
// repairs what a killed predecessor left, and touches nothing that is not
// ours. Open connections live on: a packet meets either the old rules or the
// new ones.
//
// When the kernel refuses, the table stays as it was and the error names the
// kernel feature that is missing, if one is (ErrMissing).
func (i *Interceptor) Apply(spec Spec) (changed bool, err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.apply(spec)
}

// SetGrace switches between dropping (true) and answering (false) segments of
// connections that the kernel does not know. The Spec is the one applied last.
func (i *Interceptor) SetGrace(on bool) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	spec := i.spec
	spec.Grace = on
	_, err := i.apply(spec)
	return err
}

func (i *Interceptor) apply(spec Spec) (bool, error) {
	full := spec.withDefaults()
	if err := full.validate(); err != nil {
		return false, err
	}
	// Marked packets need their route before there are any; what is stale
	// goes after nobody is marked for it any more.
	if err := addRouting(full); err != nil {
		return false, err
	}
	changed, err := applyTable(build(full))
	if err != nil {
		return false, err
	}
	i.spec = spec
	return changed, removeRouting(&full)
}

// Remove deletes the table, and the rules and routes of policy routing that
// carry our protocol number. It is no error when there is nothing to remove.
func (i *Interceptor) Remove() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	_, ok, err := Exists()
	if err == nil && ok {
		err = deleteTable()
	}
	return errors.Join(err, removeRouting(nil))
}

// Exists reports whether our table is there and the hash of the rules that it
// was made from; the hash is empty if it is not one of ours, or damaged.
func Exists() (hash string, ok bool, err error) {
	c := newConn()
	_, err = c.ListTableOfFamily(TableName, nftables.TableFamilyINet)
	if errors.Is(err, os.ErrNotExist) {
		return "", false, nil
	}
	if err != nil {
		return "", false, fmt.Errorf("look up table inet %s: %w", TableName, explain(err))
	}
	rules, err := c.GetRules(ourTable(), &nftables.Chain{Name: chainApplied})
	if err != nil {
		return "", true, fmt.Errorf("read table inet %s: %w", TableName, err)
	}
	if len(rules) == 1 {
		hash = comment(rules[0])
	}
	return hash, true, nil
}

// Drops returns how many packets each dropping rule has dropped, by the
// rule's comment, since the rules were last changed.
func Drops() (map[string]uint64, error) {
	c := newConn()
	chains, err := listChains(c)
	if err != nil {
		return nil, err
	}
	drops := map[string]uint64{}
	for _, ch := range chains {
		rules, err := c.GetRules(ourTable(), ch)
		if err != nil {
			return nil, fmt.Errorf("read chain %s: %w", ch.Name, err)
		}
		for _, r := range rules {
			addCount(drops, r)
		}
	}
	return drops, nil
}

// addCount adds a rule's packets if it counts any.
func addCount(drops map[string]uint64, r *nftables.Rule) {
	for _, e := range r.Exprs {
		if n, ok := e.(*expr.Counter); ok {
			drops[comment(r)] += n.Packets
		}
	}
}

// newConn makes a connection that dials anew for each operation, in the
// network namespace of the calling thread.
func newConn() *nftables.Conn {
	c, _ := nftables.New(nftables.WithSockOptions(func(c *mdnetlink.Conn) error {
		return errors.Join(c.SetReadBuffer(netlinkBuffer), c.SetWriteBuffer(netlinkBuffer))
	})) // without AsLasting it dials nothing and cannot fail
	return c
}

func ourTable() *nftables.Table {
	return &nftables.Table{Name: TableName, Family: nftables.TableFamilyINet}
}

// comment is what nft shows as the rule's comment.
func comment(r *nftables.Rule) string {
	s, _ := userdata.GetString(r.UserData, userdata.TypeComment)
	return s
}

// listChains returns the chains of our table, none if there is no table.
func listChains(c *nftables.Conn) ([]*nftables.Chain, error) {
	all, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, fmt.Errorf("list chains: %w", explain(err))
	}
	var ours []*nftables.Chain
	for _, ch := range all {
		if ch.Table != nil && ch.Table.Name == TableName {
			ours = append(ours, ch)
		}
	}
	return ours, nil
}

// applyTable writes the rules unless they are there already.
func applyTable(want ruleset) (changed bool, err error) {
	c := newConn()
	have, err := listChains(c)
	if err != nil {
		return false, err
	}
	if same, err := unchanged(c, have, want); err != nil || same {
		return false, err
	}
	// The base chains are kept and refilled where possible: of a deleted and
	// a new base chain on one hook, a packet might pass the new one before
	// the batch takes effect and the old one after it, and so meet no rule.
	if len(have) > 0 && refill(c, have, want) == nil {
		return true, nil
	}
	if err := rewrite(c, want); err != nil {
		return false, fmt.Errorf("write table inet %s: %w", TableName, explain(err))
	}
	return true, nil
}

// unchanged compares what of a rule can be read back: the hash, and each
// chain's comments, in case that somebody has flushed or added something.
func unchanged(c *nftables.Conn, have []*nftables.Chain, want ruleset) (bool, error) {
	if len(have) != len(want.chains) {
		return false, nil
	}
	for _, ch := range want.chains {
		rules, err := c.GetRules(ourTable(), &nftables.Chain{Name: ch.name})
		if err != nil {
			return false, fmt.Errorf("read chain %s: %w", ch.name, err)
		}
		if !sameComments(rules, ch.rules) {
			return false, nil
		}
	}
	return true, nil
}

func sameComments(have []*nftables.Rule, want []rule) bool {
	if len(have) != len(want) {
		return false
	}
	for i := range have {
		if comment(have[i]) != want[i].comment {
			return false
		}
	}
	return true
}

// refill replaces all rules and keeps the table and the base chains that are
// wanted. It fails, changing nothing, if those have another hook or priority.
func refill(c *nftables.Conn, have []*nftables.Chain, want ruleset) error {
	t := c.AddTable(ourTable())
	c.FlushTable(t)
	for _, ch := range have {
		if ch.Hooknum == nil || !want.has(ch.Name) {
			c.DelChain(&nftables.Chain{Name: ch.Name, Table: t})
		}
	}
	addChains(c, t, want)
	return c.Flush()
}

// rewrite deletes the table, if there is one, and makes it anew.
func rewrite(c *nftables.Conn, want ruleset) error {
	t := c.AddTable(ourTable())
	c.DelTable(t)
	c.AddTable(t)
	addChains(c, t, want)
	return c.Flush()
}

func deleteTable() error {
	c := newConn()
	c.DelTable(c.AddTable(ourTable()))
	if err := c.Flush(); err != nil {
		return fmt.Errorf("delete table inet %s: %w", TableName, explain(err))
	}
	return nil
}

// addChains adds all chains before the first rule, which may jump to any.
func addChains(c *nftables.Conn, t *nftables.Table, want ruleset) {
	chains := make([]*nftables.Chain, len(want.chains))
	for i, ch := range want.chains {
		chains[i] = c.AddChain(ch.nft(t))
	}
	for i, ch := range want.chains {
		for _, r := range ch.rules {
			c.AddRule(&nftables.Rule{
				Table: t, Chain: chains[i], Exprs: r.exprs,
				UserData: userdata.AppendString(nil, userdata.TypeComment, r.comment),
			})
		}
	}
}

func (c *chain) nft(t *nftables.Table) *nftables.Chain {
	n := &nftables.Chain{Name: c.name, Table: t}
	if c.hook != nil {
		policy := nftables.ChainPolicyAccept
		n.Hooknum, n.Priority, n.Type, n.Policy = c.hook, c.priority, nftables.ChainTypeFilter, &policy
	}
	return n
}
