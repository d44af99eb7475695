package rewrite

import (
	"cmp"
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Pair says that the origin calls Origin what visitors call Public. Either both are wildcards
// or neither; a wildcard stands for one label or more, the same ones on both sides.
type Pair struct{ Public, Origin Base }

// PairError is the first fault NewMap finds.
type PairError struct {
	Index  int    // the pair at fault
	Other  int    // the earlier pair it collides with; Index itself when there is none
	Reason string // what is wrong
}

func (e *PairError) Error() string {
	if e.Other != e.Index {
		return fmt.Sprintf("host pair %d: %s (pair %d)", e.Index, e.Reason, e.Other)
	}
	return fmt.Sprintf("host pair %d: %s", e.Index, e.Reason)
}

// Map is the host map of a site. It is immutable and safe for concurrent use.
type Map struct {
	pairs    []Pair
	toPublic *Replacer
	toOrigin *Replacer
	rules    Rules
	version  string
	memory   *memory              // shared with the copies of With and WithRules
	runtime  func() *runtimeFiles // made when they are first asked for
}

// engineVersion goes into Map.Version: count it up when the same input gives other output.
const engineVersion = 3

// NewMap checks and compiles the pairs. The error is a *PairError: a base out of form, a
// wildcard on one side only, two pairs with one public or one origin authority, or a public
// authority that is an origin authority too. Wildcards that cover hosts of other pairs are
// fine: exact goes before wildcard and the longest match wins.
func NewMap(pairs []Pair) (*Map, error) {
	m := &Map{pairs: slices.Clone(pairs), memory: newMemory()}
	publics, origins := map[string]int{}, map[string]int{}
	for i, p := range m.pairs {
		p = Pair{p.Public.normal(), p.Origin.normal()}
		m.pairs[i] = p
		if reason := p.fault(); reason != "" {
			return nil, &PairError{i, i, reason}
		}
		if other, found := publics[p.Public.Authority()]; found {
			return nil, &PairError{i, other, "public host " + p.Public.Authority() + " is mapped twice"}
		}
		if other, found := origins[p.Origin.Authority()]; found {
			return nil, &PairError{i, other, "origin host " + p.Origin.Authority() + " has two public hosts"}
		}
		publics[p.Public.Authority()] = i
		origins[p.Origin.Authority()] = i
	}
	for i, p := range m.pairs {
		if other, found := origins[p.Public.Authority()]; found {
			return nil, &PairError{i, other, "public host " + p.Public.Authority() + " is an origin host too"}
		}
	}
	m.compile()
	return m, nil
}

// compile makes both directions from the pairs.
func (m *Map) compile() {
	turned := slices.Clone(m.pairs)
	for i, p := range turned {
		turned[i] = Pair{Public: p.Origin, Origin: p.Public}
	}
	m.toPublic, m.toOrigin = newReplacer(m.pairs), newReplacer(turned)
	m.toPublic.setBack(m.toOrigin)
	m.toOrigin.setBack(m.toPublic)
	m.version = hashMap(m.pairs, m.rules)
	m.runtime = sync.OnceValue(func() *runtimeFiles { return newRuntime(m.pairs) })
}

func (p Pair) fault() string {
	if reason := p.Public.fault(); reason != "" {
		return "public: " + reason
	}
	if reason := p.Origin.fault(); reason != "" {
		return "origin: " + reason
	}
	if p.Public.wildcard() != p.Origin.wildcard() {
		return p.Public.Host + " and " + p.Origin.Host + " must both be wildcards or neither"
	}
	return ""
}

// OriginOf is the origin base of a public authority as it stands in a Host header, with the
// labels of a wildcard filled in. Case, a final dot and a default port make no difference.
func (m *Map) OriginOf(authority string) (Base, bool) { return m.toOrigin.base("", authority) }

// PublicOf is the public base of an origin authority in a URL with the scheme given; "" is any.
func (m *Map) PublicOf(scheme, authority string) (Base, bool) {
	return m.toPublic.base(scheme, authority)
}

// hasName says whether there is something to exchange in text, in either direction.
func (m *Map) hasName(text string) bool {
	return m.toPublic.String(text) != text || m.toOrigin.String(text) != text
}

// ToPublic exchanges origin hosts for public ones: for what the origin says.
func (m *Map) ToPublic() *Replacer { return m.toPublic }

// ToOrigin exchanges public hosts for origin ones: for what the client says.
func (m *Map) ToOrigin() *Replacer { return m.toOrigin }

// Version is a short hash of the pairs, whatever their order, and of the rules: eight lower-case
// letters and digits that are the same on every node with the same map and the same engine.
func (m *Map) Version() string { return m.version }

func hashMap(pairs []Pair, rules Rules) string {
	lines := make([]string, len(pairs))
	for i, p := range pairs {
		lines[i] = p.Public.String() + " " + p.Origin.String()
	}
	slices.SortFunc(lines, cmp.Compare[string])
	sum := sha256.Sum256(fmt.Appendf(nil, "%d\n%s%s", engineVersion, strings.Join(lines, "\n"), rules.mark()))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:5]))
}
