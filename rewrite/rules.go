package rewrite

import (
	"fmt"
	"slices"
)

// Rules are what a site chooses for itself beside its host map. The zero value is the usual.
type Rules struct {
	// Untouched leaves bodies, both ways, and queries as they are. Header fields are mapped all the
	// same: a redirect must lead to the public host whatever the body is.
	Untouched bool

	// Types are media types, in lower case, whose bodies are text beside the usual ones (types.go);
	// one that begins with "-" is none.
	Types []string

	// Bare exchanges hosts without a scheme too where they are a whole string in quotes.
	Bare bool

	// Cookies names the cookies whose values hold URLs; "name_*" are all that begin so.
	Cookies []string

	// BodyBytes is the longest request body that is read whole so that it keeps a Content-Length;
	// a longer one is mapped as it streams and has none, but for a form that is inside a file by
	// then (requestbody.go). 0 is DefaultBodyBytes.
	BodyBytes int64

	// Runtime puts a script into HTML pages that maps the URLs other scripts build.
	Runtime bool
}

// DefaultBodyBytes is the BodyBytes of Rules that say nothing.
const DefaultBodyBytes = 1 << 20

// WithRules is m with other rules. Its Version differs where what it makes of an answer does.
func (m *Map) WithRules(rules Rules) *Map {
	changed := *m
	changed.rules = rules
	changed.version = hashMap(m.pairs, rules)
	return &changed
}

// Rules are the site's own.
func (m *Map) Rules() Rules { return m.rules }

// mark is what tells answers made under these rules from others.
func (r Rules) mark() string {
	types := slices.Clone(r.Types)
	slices.Sort(types)
	if !r.Untouched && len(types) == 0 && !r.Bare && !r.Runtime {
		return ""
	}
	mark := fmt.Sprintf("%v %q %v %v", r.Untouched, types, r.Bare, r.Runtime)
	if r.Runtime {
		mark += runtimeSources
	}
	return mark
}
