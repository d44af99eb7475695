package cache

import (
	"net/http"
	"net/url"
	"strings"
)

// What is let go of before its time:
//
//  1. Purge, by the owner. What is being fetched was asked for before: nobody
//     joins that any more, and its answer is not kept, or kept stale; those who
//     wait get it,
//  2. invalidate, by a request with an unsafe method that was no error (RFC 9111
//     §4.4): its target, and what Location and Content-Location name of the same
//     host.

// purge is one that came while a fetch was under way.
type purge struct {
	match Match
	soft  bool
}

// Purge removes what matches, or makes it stale, and says how many those were. A
// stale one is given while one request fetches it anew.
func (c *Cache) Purge(match Match, soft bool) int {
	anyTag := match
	anyTag.Tag = "" // those of an answer that is to come are not known
	c.overtake(func(f *flight) bool { return anyTag.Of(f.url, nil) }, purge{match, soft})
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
		if p.match.Of(m.URL, m.Tags) {
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

// forget removes all that is kept of a URL of the request's host.
func (a *ask) forget(u *url.URL) {
	of := (&http.Request{Method: http.MethodGet, URL: u, Host: hostOfRequest(a.req), Header: a.req.Header}).WithContext(a.req.Context())
	policy := a.t.policyOf(of) // another than that of the request, where a rule is for a method or a path
	at := URL(of, policy)
	if len(policy.KeyHeaders) > 0 || len(policy.KeyCookies) > 0 {
		a.c.Purge(Match{URL: at}, false) // under several keys
		return
	}
	key := keyOf(of, policy, []byte(at))
	a.c.overtake(func(f *flight) bool { return f.key.key == key }, purge{})
	kept := &ask{c: a.c, req: of, policy: policy, key: key}
	for range mostForgets {
		list := kept.find()
		if len(list) == 0 {
			return
		}
		for _, o := range list {
			a.c.options.Store.Remove(o) // not one that was changed since it was found
		}
	}
}

// mostForgets bounds how often what is to go is looked for: once more for each time
// that it is changed meanwhile, by the answer to a HEAD or with another form.
const mostForgets = 8
