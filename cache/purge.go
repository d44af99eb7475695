package cache

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// What is let go of before its time:
//
//  1. Purge, by the owner. What is being fetched was asked for before: nobody
//     joins that any more, and its answer is not kept, or kept stale; those who
//     wait get it,
//  2. invalidate, by a request with an unsafe method that was no error (RFC 9111
//     §4.4): its target, and what Location and Content-Location name of the same
//     host; each whatever its answers were made with, or kept under in the file before,
//     as they would be found again by that.

// purge is one that came while a fetch was under way.
type purge struct {
	match  Match
	soft   bool
	strays bool // only if it is kept for other queries than its own (search.go)
}

// Purge removes what matches, or makes it stale, and says how many those were. A
// stale one is given while one request fetches it anew.
func (c *Cache) Purge(match Match, soft bool) int {
	anyTag := match
	anyTag.Tag = "" // those of an answer that is to come are not known
	c.overtake(func(f *flight) bool { return anyTag.Of(f.url, nil) }, purge{match: match, soft: soft})
	return c.options.Store.Purge(match, soft)
}

// overtake tells the fetches that are under way of a purge.
func (c *Cache) overtake(meant func(*flight) bool, by purge) {
	var under []*flight
	c.flights.Lock()
	for f := range c.all {
		if meant(f) {
			f.unjoin()
			under = append(under, f)
		}
	}
	c.flights.Unlock()
	for _, f := range under {
		f.purging.Lock() // waits for one that is given to the store: that is there then
		f.purges = append(f.purges, by)
		f.purging.Unlock()
	}
}

// purged reports whether an answer was purged while it came. f.purging is held.
func (f *flight) purged(m *Meta) (hard, soft bool) {
	for _, p := range f.purges {
		if p.match.Of(m.URL, m.Tags) && (!p.strays || m.Key.head() != f.key.key.head()) {
			hard, soft = hard || !p.soft, soft || p.soft
		}
	}
	return hard, soft
}

// invalidate lets go of what a request changed.
func (a *ask) invalidate(res *http.Response) {
	if res.StatusCode < 200 || res.StatusCode >= 400 {
		return
	}
	a.forget(a.req.URL)
	base := *a.req.URL
	base.Host = hostOfRequest(a.req)
	for _, name := range []string{"Location", "Content-Location"} {
		value := first(res.Header, name)
		if value == "" {
			continue
		}
		if base.Opaque != "" && !strings.Contains(value, "://") {
			base.Opaque, base.Path = "", "/" // a target that net/url does not resolve against
		}
		if u, err := base.Parse(value); err == nil && u.Scheme == base.Scheme && strings.EqualFold(u.Host, base.Host) {
			u.Fragment = ""
			a.forget(u)
		}
	}
}

// forget removes all that is kept of a URL of the request's host: as it is written, and
// as the policy has it.
func (a *ask) forget(u *url.URL) {
	of := (&http.Request{Method: http.MethodGet, URL: u, Host: hostOfRequest(a.req), Header: a.req.Header}).WithContext(a.req.Context())
	var heads []Head
	// Another policy than that of the request, where a rule is for a method or a path.
	for _, policy := range []*Policy{{}, a.t.policyOf(of)} {
		heads = append(heads, headOf(URL(of, policy)))
		for _, rule := range a.c.searchRules(of) {
			heads = append(heads, searchKey(of, policy, &rule).head())
		}
	}
	path, _, _ := strings.Cut(URL(of, &Policy{}), "?")
	a.c.overtake(func(f *flight) bool { return slices.Contains(heads, f.key.key.head()) }, purge{})
	a.c.overtake(func(f *flight) bool {
		of, _, _ := strings.Cut(f.url, "?")
		return f.policy.Search && of == path
	}, purge{strays: true})
	for _, head := range heads {
		a.c.options.Store.Forget(head)
	}
}
