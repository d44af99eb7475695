package rewrite

import "strings"

// maxHost is the longest host name in bytes (RFC 1035 section 2.3.4, without the final dot).
const maxHost = 253

// isHostByte says whether c can stand inside a host name: letters, digits, hyphen, and the
// underscore that some sites use in spite of RFC 952.
func isHostByte(c byte) bool { return hostBytes[c]&ofLabel != 0 }

const (
	ofLabel   = 1 << iota // can stand inside a label
	ofHost                // the same, and the dots and the star between and before labels
	ofUnicode             // can stand in a label that is written in its own script
)

var hostBytes = func() (table [256]byte) {
	for c := range table {
		if c := byte(c); 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' {
			table[c] = ofLabel | ofHost
		}
	}
	table['.'], table['*'] = ofHost, ofHost
	for c := beyond; c < len(table); c++ {
		table[c] = ofUnicode
	}
	return table
}()

// rule is one pair seen from one direction. A rule that keeps exchanges nothing: its hosts are the
// names of the other side.
type rule struct {
	from, to Base
	keep     bool
	shadowed bool   // the way back of some names below the wildcard to may lead elsewhere
	tail     string // what is written of to's host: the literal, or the domain of a wildcard
}

// accepts says whether a URL with this scheme ("" = none seen) and port is the rule's. The
// scheme's default port is the same as no port.
func (r *rule) accepts(scheme, port string) bool {
	if scheme == "" {
		scheme = r.from.Scheme
	}
	return port == r.from.Port || r.from.Port == "" && port == defaultPort(scheme)
}

// Replacer exchanges the hosts of one direction in text. It is immutable and safe for concurrent
// use.
type Replacer struct {
	rules    []rule
	exact    map[string][]*rule // whole host -> rules by port
	wildcard map[string][]*rule // domain below which they hold -> rules by port
	unicode  []rule             // of hosts with a Unicode spelling (unicode.go)
	search   *search
	host     byte       // what hosts are made of: ofHost, and ofUnicode where the map has such
	spells   *[256]bool // what URLs up to their port are spelled with
	back     *Replacer  // the other direction
	bare     bool       // hosts alone in quotes too (bare.go)
	withBare *Replacer  // the same with bare
}

// newReplacer replaces what the pairs call Origin with what they call Public.
func newReplacer(pairs []Pair) *Replacer {
	r := &Replacer{exact: map[string][]*rule{}, wildcard: map[string][]*rule{}}
	r.rules = make([]rule, 0, 2*len(pairs))
	var literals []string
	above := parents(pairs)
	for _, p := range pairs {
		to := rule{from: p.Origin, to: p.Public, tail: p.Public.literal()}
		if to.to.wildcard() {
			to.tail = to.to.domain()
			to.shadowed = above[to.tail]
		}
		r.rules = append(r.rules, to, rule{from: p.Public, to: p.Origin, keep: true})
		literals = append(literals, strings.TrimPrefix(p.Origin.literal(), "*"))
	}
	for i := range r.rules {
		r.enter(&r.rules[i])
	}
	r.search = newSearch(append(literals, r.enterUnicode()...))
	withBare := *r
	withBare.bare = true
	r.withBare, withBare.withBare = &withBare, &withBare
	return r
}

// enter makes a rule findable.
func (r *Replacer) enter(of *rule) {
	table := r.exact
	if of.from.wildcard() {
		table = r.wildcard
	}
	table[of.from.domain()] = append(table[of.from.domain()], of)
}

// parents are the domains that a name of the pairs is below of.
func parents(pairs []Pair) map[string]bool {
	above := map[string]bool{}
	for _, p := range pairs {
		for _, name := range []string{p.Public.domain(), p.Origin.domain()} {
			for rest, ok := name, true; ok; above[rest] = ok {
				if _, rest, ok = strings.Cut(rest, "."); !ok {
					break
				}
			}
		}
	}
	return above
}

func (r *Replacer) setBack(back *Replacer) { r.back, r.withBare.back = back, back }

// find is the rule that exchanges a lower-case host, and how many bytes of it its wildcard
// stands for; nil when the host stays. Exact goes before wildcard and the longest match wins.
func (r *Replacer) find(host []byte, scheme, port string) (*rule, int) {
	found, labels := r.match(host, scheme, port)
	if found == nil || found.keep {
		return nil, 0
	}
	if found.shadowed && !r.returns(found, host[:labels]) {
		return nil, 0
	}
	return found, labels
}

func (r *Replacer) match(host []byte, scheme, port string) (*rule, int) {
	for _, rule := range r.exact[string(host)] {
		if rule.accepts(scheme, port) {
			return rule, 0
		}
	}
	if len(r.wildcard) == 0 || len(host) == 0 || host[0] == '.' {
		return nil, 0
	}
	for i := 1; i < len(host); i++ {
		if host[i] != '.' {
			continue
		}
		if host[i-1] == '.' { // no name has an empty label
			return nil, 0
		}
		for _, rule := range r.wildcard[string(host[i+1:])] {
			if rule.accepts(scheme, port) {
				return rule, i
			}
		}
	}
	return nil, 0
}

// returns says whether the name that the rule makes of the labels leads back to its own pair,
// and not to another one that is more exact.
func (r *Replacer) returns(rule *rule, labels []byte) bool {
	var space [maxHost + maxHost]byte
	name := append(append(append(space[:0], labels...), '.'), rule.tail...)
	back, _ := r.back.match(name, rule.to.Scheme, rule.to.Port)
	return back != nil && !back.keep && back.from == rule.to
}

// base maps an authority.
func (r *Replacer) base(scheme, authority string) (Base, bool) {
	host, port, ok := splitAuthority(authority)
	if !ok || strings.Contains(host, "*") {
		return Base{}, false
	}
	rule, labels := r.find([]byte(host), scheme, port)
	if rule == nil {
		return Base{}, false
	}
	return rule.to.fill(host[:labels]), true
}

// String is s with its URLs exchanged; s itself when there are none.
func (r *Replacer) String(s string) string {
	var space, spaceOut [512]byte
	b := append(space[:0], s...)
	out, _, replaced := r.run(spaceOut[:0], b, 0, true)
	if replaced == 0 {
		return s
	}
	return string(out)
}

// Append appends src, a whole text, to dst with its URLs exchanged.
func (r *Replacer) Append(dst, src []byte) []byte {
	dst, _, _ = r.run(dst, src, 0, true)
	return dst
}
