package nft

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// program brings the table to the ruleset, in one transaction, with one before
// for what must be there a moment earlier and one after for what must stay a
// moment longer.
//
// A packet may meet any moment of a change, so nothing that it goes through may
// miss half of the rules. The chains with hooks stay, as two of the same hook,
// one of them on its way out, can both be empty for one packet. The rules of all
// chains change at once for whoever comes in; elements of sets and maps do not
// (measured on Linux 6.18: one connection in 700 refused by a set that was made
// with the rule that asks it). So the sets of who is allowed are made before and
// taken away after. The maps are the rules' own, and what falls through one is
// caught by the next rule (balance). And a connection that got its target just
// before the change must be masqueraded just after it: the old rules for that
// go last.
//
// Counters keep their values.
func (s *ruleset) program() error {
	conn, err := open()
	if err != nil {
		return err
	}
	defer conn.CloseLasting()
	table := ourTable()
	had, err := ourChains(conn)
	if err != nil {
		return err
	}
	var counters []*nftables.CounterObj
	var outdated []uint64 // handles of rules of masquerading
	if len(had) > 0 {
		if counters, err = ourObjects(conn); err != nil {
			return err
		}
	}
	sets := map[string]*nftables.Set{}
	if len(had) > 0 {
		if sets, err = ourSets(conn); err != nil {
			return err
		}
	}
	if had[masquerading] != nil {
		if outdated, err = ruleHandles(masquerading); err != nil {
			return err
		}
	}

	conn.AddTable(table)
	if err := s.addSets(conn, table, sets); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return err
	}

	for _, name := range slices.Sorted(maps.Keys(had)) {
		if name != masquerading {
			conn.FlushChain(had[name])
		}
	}
	s.addCounters(conn, table, counters)
	for _, c := range s.chains {
		conn.AddChain(c.of(table))
	}
	for _, c := range s.chains {
		if err := c.fill(conn, table); err != nil {
			return err
		}
	}
	s.drop(conn, had, counters)
	if err := conn.Flush(); err != nil {
		return err
	}

	for _, name := range slices.Sorted(maps.Keys(sets)) {
		if !slices.ContainsFunc(s.sets, func(set *prefixSet) bool { return set.name == name }) {
			conn.DelSet(sets[name])
		}
	}
	for _, handle := range outdated {
		if err := conn.DelRule(&nftables.Rule{Table: table, Chain: had[masquerading], Handle: handle}); err != nil {
			return err
		}
	}
	return conn.Flush()
}

// of makes the kernel's chain.
func (c *chain) of(table *nftables.Table) *nftables.Chain {
	made := &nftables.Chain{Table: table, Name: c.name}
	if c.hook != nil {
		policy := nftables.ChainPolicyAccept
		made.Type, made.Hooknum, made.Priority, made.Policy = nftables.ChainType(c.hook.kind), c.hook.hooknum, c.hook.order, &policy
	}
	return made
}

// elementsAtOnce is how many elements of a set go in one message: an attribute
// of netlink has no more than 64 KB, and an element with a long chain name 300
// bytes.
const elementsAtOnce = 200

// fill adds the rules of a chain, each with its set.
func (c *chain) fill(conn *nftables.Conn, table *nftables.Table) error {
	in := c.of(table)
	for _, r := range c.rules {
		exprs := slices.Clone(r.exprs)
		if r.set != nil {
			set := *r.set
			set.Table = table
			if err := addSet(conn, &set, r.values); err != nil {
				return fmt.Errorf("rule %q: %w", strings.Join(r.text, " "), err)
			}
			lookup := *r.lookup
			lookup.SetID, lookup.SetName = set.ID, set.Name
			exprs[slices.Index(exprs, expr.Any(r.lookup))] = &lookup
		}
		conn.AddRule(&nftables.Rule{Table: table, Chain: in, Exprs: exprs})
	}
	return nil
}

// addSet adds a set with its elements, in as many messages as they need.
func addSet(conn *nftables.Conn, set *nftables.Set, values []nftables.SetElement) error {
	if len(values) <= elementsAtOnce {
		return conn.AddSet(set, values)
	}
	if err := conn.AddSet(set, nil); err != nil { // of no stated size
		return err
	}
	still := *set
	still.Anonymous = false // the library lets nobody add to an anonymous set; the kernel does, in this transaction
	for some := range slices.Chunk(values, elementsAtOnce) {
		if err := conn.SetAddElements(&still, some); err != nil {
			return err
		}
	}
	return nil
}

// addSets adds those that are not there yet.
func (s *ruleset) addSets(conn *nftables.Conn, table *nftables.Table, had map[string]*nftables.Set) error {
	for _, set := range s.sets {
		if had[set.name] != nil {
			continue
		}
		made := &nftables.Set{Table: table, Name: set.name, KeyType: families[set.family].keyType, Interval: true}
		if err := addSet(conn, made, prefixElements(set.prefixes)); err != nil {
			return fmt.Errorf("set %s: %w", set.name, err)
		}
	}
	return nil
}

// addCounters adds those that are not there yet.
func (s *ruleset) addCounters(conn *nftables.Conn, table *nftables.Table, had []*nftables.CounterObj) {
	known := map[string]bool{}
	for _, c := range had {
		known[c.Name] = true
	}
	for _, name := range s.counters {
		if !known[name] {
			conn.AddObj(&nftables.CounterObj{Table: table, Name: name})
		}
	}
}

// drop takes away the chains and counters that no rule needs any more.
func (s *ruleset) drop(conn *nftables.Conn, had map[string]*nftables.Chain, counters []*nftables.CounterObj) {
	needed := map[string]bool{}
	for _, c := range s.chains {
		needed[c.name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(had)) {
		if !needed[name] {
			conn.DelChain(had[name])
		}
	}
	clear(needed)
	for _, name := range s.counters {
		needed[name] = true
	}
	for _, c := range counters {
		if !needed[c.Name] {
			conn.DeleteObject(c)
		}
	}
}

// ourChains gives the chains of our table, by name; none when there is no table.
func ourChains(conn *nftables.Conn) (map[string]*nftables.Chain, error) {
	all, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, err
	}
	ours := map[string]*nftables.Chain{}
	for _, c := range all {
		if c.Table.Name == tableName {
			ours[c.Name] = c
		}
	}
	return ours, nil
}

// ourSets gives the sets and maps of our table that have a name, by it.
func ourSets(conn *nftables.Conn) (map[string]*nftables.Set, error) {
	all, err := conn.GetSets(ourTable())
	if err != nil {
		return nil, err
	}
	ours := map[string]*nftables.Set{}
	for _, set := range all {
		if !set.Anonymous {
			set.Table = ourTable()
			ours[set.Name] = set
		}
	}
	return ours, nil
}

// ruleHandles gives the numbers that the kernel has for the rules of one of our
// chains. The library's GetRules reads all of each rule, and cannot read "ct
// original".
func ruleHandles(chain string) ([]uint64, error) {
	conn, err := netlink.Dial(unix.NETLINK_NETFILTER, nil)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	which, err := netlink.MarshalAttributes([]netlink.Attribute{
		{Type: unix.NFTA_RULE_TABLE, Data: []byte(tableName + "\x00")},
		{Type: unix.NFTA_RULE_CHAIN, Data: []byte(chain + "\x00")},
	})
	if err != nil {
		return nil, err
	}
	rules, err := conn.Execute(netlink.Message{
		Header: netlink.Header{Type: unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE, Flags: netlink.Request | netlink.Dump},
		Data:   slices.Concat([]byte{unix.NFPROTO_INET, unix.NFNETLINK_V0, 0, 0}, which),
	})
	if err != nil {
		return nil, err
	}
	var handles []uint64
	for _, r := range rules {
		attrs, err := netlink.UnmarshalAttributes(r.Data[4:])
		if err != nil {
			return nil, err
		}
		for _, a := range attrs {
			if a.Type == unix.NFTA_RULE_HANDLE {
				handles = append(handles, binaryutil.BigEndian.Uint64(a.Data))
			}
		}
	}
	return handles, nil
}

// ourObjects gives the counters of our table, or ENOENT when there is none.
func ourObjects(conn *nftables.Conn) ([]*nftables.CounterObj, error) {
	tables, err := conn.ListTablesOfFamily(nftables.TableFamilyINet)
	if err != nil {
		return nil, err
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName }) {
		return nil, unix.ENOENT
	}
	objects, err := conn.GetObjects(ourTable())
	if err != nil {
		return nil, err
	}
	var counters []*nftables.CounterObj
	for _, object := range objects {
		if counter, ok := object.(*nftables.CounterObj); ok {
			counters = append(counters, counter)
		}
	}
	return counters, nil
}
