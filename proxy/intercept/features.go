package intercept

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// ErrMissing is wrapped by errors that say which features the kernel lacks.
var ErrMissing = errors.New("the kernel lacks")

// Feature is something of the kernel that interception needs.
type Feature struct {
	Name   string // as nft calls it
	Config string // the kernel's build option
	exprs  exprs
	hook   *nftables.ChainHook
}

func (f Feature) String() string { return f.Name + " (" + f.Config + ")" }

func features() []Feature {
	in, out := nftables.ChainHookPrerouting, nftables.ChainHookOutput
	return []Feature{
		{"nf_tables with family inet", "CONFIG_NF_TABLES, CONFIG_NF_TABLES_INET", accept(), in},
		{"tproxy", "CONFIG_NFT_TPROXY", join(l4proto(unix.IPPROTO_TCP), tproxy(true, 1)), in},
		{"tproxy for IPv6", "CONFIG_NFT_TPROXY, CONFIG_NF_TPROXY_IPV6", join(l4proto(unix.IPPROTO_TCP), tproxy(false, 1)), in},
		{"socket", "CONFIG_NFT_SOCKET", transparentSocket(), in},
		{"socket in the output hook", "CONFIG_NFT_SOCKET, Linux 5.18", transparentSocket(), out},
		{"notrack", "CONFIG_NFT_CT", notrack(), in},
	}
}

// Missing returns the features that the kernel lacks. Each is tried in a
// throw-away table that is made and deleted in one transaction, so no packet
// ever meets it. An error means that nothing could be tried: without
// CAP_NET_ADMIN, or without any nf_tables.
func Missing() ([]Feature, error) {
	var missing []Feature
	for _, f := range features() {
		err := f.try()
		if errors.Is(err, os.ErrPermission) {
			return nil, fmt.Errorf("try nftables: %w: CAP_NET_ADMIN is needed", err)
		}
		if err != nil {
			missing = append(missing, f)
		}
	}
	return missing, nil
}

// try makes a rule with the feature and deletes its table in the same batch.
func (f Feature) try() error {
	c := newConn()
	name := fmt.Sprintf("%s_try_%d", TableName, os.Getpid())
	t := c.AddTable(&nftables.Table{Name: name, Family: nftables.TableFamilyINet})
	probe := (&chain{name: "try", hook: f.hook, priority: nftables.ChainPriorityMangle}).nft(t)
	c.AddRule(&nftables.Rule{Table: t, Chain: c.AddChain(probe), Exprs: f.exprs})
	c.DelTable(t)
	return c.Flush()
}

// explain adds to an error of nftables what is missing, if anything is.
func explain(err error) error {
	missing, tryErr := Missing()
	if tryErr != nil {
		return errors.Join(err, tryErr)
	}
	return lacking(err, missing)
}

func lacking(err error, missing []Feature) error {
	if len(missing) == 0 {
		return err
	}
	names := make([]string, len(missing))
	for i, f := range missing {
		names[i] = f.String()
	}
	return fmt.Errorf("%w %s: %w", ErrMissing, strings.Join(names, ", "), err)
}
