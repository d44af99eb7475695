package cache

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// No-Vary-Search (draft-ietf-httpbis-no-vary-search), where the policy follows it:
// an answer says which parameters of the query do not matter to it.
//
//  1. an answer that says so is kept under a key with the query as it says, and the
//     rule is remembered for its path,
//  2. a request for that path is looked up under that key too: what is found there
//     is for it when it says the same,
//  3. a rule is also kept in the store, as an object without a URL, so that it is
//     there again after a restart; one that is forgotten costs a fetch,
//  4. a URL is let go of by all rules that are kept of its path (purge.go).

// searchRule is what a No-Vary-Search field says.
type searchRule struct {
	field  string   // as it stands
	order  bool     // the order of names does not matter
	all    bool     // no parameter does, but for except
	params []string // these do not
	except []string
}

// mostRules bounds how many are remembered.
const mostRules = 1 << 14

// rules are those of paths.
type rules struct {
	mu sync.Mutex // guards of
	of map[Key]searchRule
}

func (r *rules) get(base Key) (searchRule, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rule, ok := r.of[base]
	return rule, ok
}

// set remembers a rule, and says whether it is another than before.
func (r *rules) set(base Key, rule searchRule) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if was, ok := r.of[base]; ok && was.field == rule.field {
		return false
	}
	if r.of == nil {
		r.of = map[Key]searchRule{}
	}
	for other := range r.of {
		if len(r.of) < mostRules {
			break
		}
		delete(r.of, other) // any one
	}
	r.of[base] = rule
	return true
}

// readSearch reads the field; not ok is one that is not there, is malformed, or
// says that all matters.
func readSearch(h http.Header) (rule searchRule, ok bool) {
	lines := h["No-Vary-Search"]
	if len(lines) == 0 {
		return rule, false
	}
	rule.field = strings.Join(lines, ", ")
	members, ok := readDictionary(lines)
	if !ok {
		return rule, false
	}
	for name, value := range members {
		switch {
		case name == "key-order" && value.kind == 'b':
			rule.order = value.text == "1"
		case name == "params" && value.kind == 'b':
			rule.all = value.text == "1"
		case name == "params" && value.kind == '(' && value.strings:
			rule.params = value.list
		case name == "except" && value.kind == '(' && value.strings:
			rule.except = value.list
		case name == "key-order" || name == "params" || name == "except":
			return rule, false
		}
	}
	if len(rule.except) > 0 && !rule.all {
		return rule, false
	}
	return rule, rule.order || rule.all || len(rule.params) > 0
}

// query is what of a query matters.
func (r *searchRule) query(raw string) string {
	type parameter struct{ name, text string }
	var list []parameter
	for text := range strings.SplitSeq(raw, "&") {
		if text == "" {
			continue
		}
		name, _, _ := strings.Cut(text, "=")
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
		if r.all && !slices.Contains(r.except, name) || slices.Contains(r.params, name) {
			continue
		}
		list = append(list, parameter{name, text})
	}
	if r.order {
		slices.SortStableFunc(list, func(a, b parameter) int { return strings.Compare(a.name, b.name) })
	}
	var b strings.Builder
	for _, p := range list {
		b.WriteByte('&')
		b.WriteString(p.text)
	}
	return b.String()
}

// searchBase is the key of the rules for a request's path, whatever the policy.
func searchBase(req *http.Request) Key {
	return keyOf(&http.Request{}, &Policy{}, searchURL(req, ""), nil)
}

// searchKey is the key of the answers that say rule, for a request.
func searchKey(req *http.Request, policy *Policy, rule *searchRule) Key {
	query, _ := policy.Query.of(req.URL)
	return keyOf(req, policy, searchURL(req, rule.field+"\x00"+rule.query(query)), policy.strangers(req.Header, nil))
}

// searchURL is no URL: it has a byte that none has.
func searchURL(req *http.Request, rest string) []byte {
	b := append([]byte(req.URL.Scheme), "://"...)
	b = appendLower(b, hostOfRequest(req))
	b = append(b, targetPath(req.URL)...)
	return append(append(b, 0), rest...)
}

// find gives what is kept for the request.
func (a *ask) find() []*Object {
	objects := a.c.options.Store.Find(a.key)
	if !a.policy.Search {
		return objects
	}
	base := searchBase(a.req)
	rule, ok := a.c.rules.get(base)
	if !ok {
		if rule, ok = a.c.recall(base); !ok {
			return objects
		}
	}
	list := slices.Clone(objects)
	for _, o := range a.c.options.Store.Find(searchKey(a.req, a.policy, &rule)) {
		if own, ok := readSearch(o.Meta.Header); ok && own.field == rule.field {
			list = append(list, o)
		}
	}
	return list
}

// keptUnder is the key that an answer is kept under: another than the request's when
// it says so.
func (f *flight) keptUnder(h http.Header) Key {
	if !f.policy.Search {
		return f.key.key
	}
	rule, ok := readSearch(h)
	if !ok {
		return f.key.key
	}
	if base := searchBase(f.out); f.c.rules.set(base, rule) {
		f.rule = base
	}
	return searchKey(f.out, f.policy, &rule)
}

// recall is the rule of a path as the store has it: the last one.
func (c *Cache) recall(base Key) (rule searchRule, ok bool) {
	for _, o := range c.options.Store.Find(base) {
		if rule, ok = readSearch(o.Meta.Header); ok {
			c.rules.set(base, rule)
			break
		}
	}
	return rule, ok
}

// searchRules are all rules that are known of a request's path, also those of earlier
// answers, which may come again.
func (c *Cache) searchRules(req *http.Request) (list []searchRule) {
	base := searchBase(req)
	if rule, ok := c.rules.get(base); ok {
		list = append(list, rule)
	}
	for _, o := range c.options.Store.Find(base) {
		if rule, ok := readSearch(o.Meta.Header); ok {
			list = append(list, rule)
		}
	}
	return list
}

// keepRule gives the store the rule that an answer says, where it is new.
func (f *flight) keepRule(m *Meta) {
	if f.rule == (Key{}) {
		return
	}
	field := strings.Join(m.Header["No-Vary-Search"], ", ")
	draft, err := f.c.options.Store.Begin(0)
	if err != nil {
		return
	}
	f.c.options.Store.Keep((&Meta{
		Key: f.rule, ID: variantID([]Selector{{"No-Vary-Search", field}}, nil), Site: m.Site, Status: m.Status, Header: http.Header{"No-Vary-Search": m.Header["No-Vary-Search"]},
		Requested: m.Requested, Received: m.Received, Until: m.Until,
	}).settled(), draft)
}
