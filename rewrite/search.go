package rewrite

import "strings"

// maxHost is the longest host name in bytes (RFC 1035 section 2.3.4, without the final dot).
const maxHost = 253

// isHostByte says whether c can stand inside a host name: letters, digits, hyphen, and the
// underscore that some sites use in spite of RFC 952.
func isHostByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// rule is one pair seen from one direction. A rule without a to-side keeps its hosts as they are.
type rule struct {
	from, to Base
	keep     bool
}

// accepts says whether a URL with this scheme ("" = none seen) and port is the rule's.
func (r *rule) accepts(scheme, port string) bool {
	if scheme == "" {
		scheme = r.from.Scheme
	}
	if port == defaultPort(scheme) && r.from.Port != port {
		port = ""
	}
	return port == r.from.Port
}

// Replacer exchanges the hosts of one direction in text. It is immutable.
type Replacer struct {
	rules    []rule
	exact    map[string][]*rule // whole host -> rules by port
	wildcard map[string][]*rule // domain below which they hold -> rules by port
	back     *Replacer          // the other direction, set when wildcards need the way back checked
}

func newReplacer(pairs []Pair, toOrigin bool) *Replacer {
	r := &Replacer{exact: map[string][]*rule{}, wildcard: map[string][]*rule{}}
	r.rules = make([]rule, 0, 2*len(pairs))
	for _, p := range pairs {
		if toOrigin {
			p = Pair{p.Origin, p.Public}
		}
		r.rules = append(r.rules, rule{from: p.Origin, to: p.Public}, rule{from: p.Public, keep: true})
	}
	for i := range r.rules {
		b, table := r.rules[i].from, r.exact
		if b.wildcard() {
			table = r.wildcard
		}
		table[b.domain()] = append(table[b.domain()], &r.rules[i])
	}
	return r
}

// find is the rule for a lower-case host, and the labels its wildcard stands for.
func (r *Replacer) find(host, scheme, port string) (*rule, string) {
	for _, rule := range r.exact[host] {
		if rule.accepts(scheme, port) {
			return rule, ""
		}
	}
	for i := 1; i < len(host); i++ {
		if host[i] != '.' {
			continue
		}
		for _, rule := range r.wildcard[host[i+1:]] {
			if rule.accepts(scheme, port) {
				return rule, host[:i]
			}
		}
	}
	return nil, ""
}

// base maps an authority.
func (r *Replacer) base(scheme, authority string) (Base, bool) {
	host, port, ok := splitAuthority(authority)
	if !ok || strings.HasPrefix(host, "*.") {
		return Base{}, false
	}
	rule, labels := r.find(host, scheme, port)
	if rule == nil || rule.keep {
		return Base{}, false
	}
	return rule.to.fill(labels), true
}
