package config

import (
	"cmp"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"causeway/cache"
)

// Cache is where an edge keeps answers, for all sites with entry `terminate`.
// What is kept, and for how long, the origin says (RFC 9111), as far as the
// `cache` of a site or a route says nothing else. `cache: off` keeps nothing.
type Cache struct {
	// Memory for answers.
	Memory Size `yaml:"memory,omitempty" default:"256MiB" min:"1MiB" max:"1TiB"`

	// Room on a disk, under `dir`. 0: none.
	Disk Size `yaml:"disk,omitempty" default:"0" min:"0" max:"1PiB"`

	// Folder for what is kept on the disk, which is made if it is not there; in
	// a file with `nodes` each has a folder of its name in it. What is in it is
	// found again after a restart.
	Dir string `yaml:"dir,omitempty" kind:"path" example:"/var/cache/causeway"`

	// The largest body that is kept, in bytes as it is kept: compressed, where it
	// crossed compressed. A form in another coding that would be larger is not made.
	// Left out: a sixteenth of the memory, or, if that is more, of the disk.
	ObjectBytes Size `yaml:"object_bytes,omitempty" min:"1KiB" max:"1TiB" example:"64MiB"`

	// The file says `off`.
	Off bool `yaml:"-"`
}

// Caching is what a site or a route wants of the cache. Left out, the origin is
// obeyed. `cache: off` lets all requests pass by. No rule here makes public what
// the origin calls `private` or `no-store`, or what sets a cookie. Each rule that
// was used in place of what the origin said stands in the `Cache-Status` of the
// answer.
type Caching struct {
	// How long answers are fresh, whatever they say of it themselves. To keep
	// nothing, write `cache: off`.
	TTL time.Duration `yaml:"ttl,omitempty" min:"1s" max:"8760h" example:"10m" mend:"write cache: off to keep nothing, or 1s to 8760h"`

	// How long answers are fresh that say nothing of it. `0s`, as left out: such
	// an answer is asked for with its entity tag or date each time, and is not kept
	// where it has none.
	DefaultTTL time.Duration `yaml:"default_ttl,omitempty" min:"0s" max:"8760h" example:"1m"`

	// The status of the answers that `ttl` and `default_ttl` are for. Left out:
	// 200, 203, 301 and 308. A part (206) goes with 200; 304, 401, 407 and 416 are
	// never kept.
	Statuses []int `yaml:"statuses,omitempty" min:"200" max:"599" example:"[200, 301, 404]"`

	// Answers that say nothing of it, but when they were last changed, are fresh
	// for a tenth of their age, at most a day.
	Heuristic bool `yaml:"heuristic,omitempty" default:"false"`

	// How long answers that there is nothing (404, 405, 410, 414, 501) are fresh
	// when they do not say it themselves. `0s`, as left out: as with `default_ttl`.
	NegativeTTL time.Duration `yaml:"negative_ttl,omitempty" min:"0s" max:"24h" example:"10s"`

	// How long an answer that is fresh no more may still be given while it is
	// asked for anew, where it does not say it itself. `0s`, as left out: not at all;
	// what an answer says itself counts all the same.
	StaleWhileRevalidate time.Duration `yaml:"stale_while_revalidate,omitempty" min:"0s" max:"8760h" example:"1m"`

	// How long an answer that is fresh no more may still be given when the origin
	// fails (500, 502, 503, 504) or can't be reached, where it does not say it
	// itself. `0s`, as left out: not at all; what an answer says itself counts all the
	// same.
	StaleIfError time.Duration `yaml:"stale_if_error,omitempty" min:"0s" max:"8760h" example:"24h"`

	// The parameters of the query that make another page; others do not count.
	// An empty list: none does. A name that ends in `*` is all that begin so.
	// The others do not reach the origin either, also where the answer is not kept;
	// with requests that pass by the cache (`bypass_cookies`, other methods than GET
	// and HEAD) all do.
	QueryOnly *[]string `yaml:"query_only,omitempty" kind:"parameter" example:"[page, q]"`

	// Parameters of the query that do not count. They do not reach the origin either,
	// as with `query_only`.
	QueryIgnore []string `yaml:"query_ignore,omitempty" kind:"parameter" example:"[\"utm_*\", gclid]"`

	// Fields of requests whose values make another page, beside those that the
	// origin names in `Vary`.
	KeyHeaders []string `yaml:"key_headers,omitempty" kind:"fieldname" example:"[Accept-Language]"`

	// Fields of requests that do not count. A name that ends in `*` is all that begin
	// so. Each field that is not of those that browsers send to all sites, or that
	// number requests, makes another page by itself, in case the origin answers by it.
	// These do not, and do not reach the origin either, as with `query_ignore`.
	IgnoreHeaders []string `yaml:"ignore_headers,omitempty" kind:"fieldpattern" example:"[X-Client-Trace, \"X-App-*\"]"`

	// Cookies whose values make another page.
	KeyCookies []string `yaml:"key_cookies,omitempty" kind:"cookie" example:"[currency]"`

	// Requests with one of these cookies pass by the cache. A name that ends in
	// `*` is all that begin so.
	BypassCookies []string `yaml:"bypass_cookies,omitempty" kind:"cookie" example:"[\"wordpress_logged_in_*\"]"`

	// The largest body that is kept of this site, if less than that of the whole
	// cache, in bytes as it is kept: compressed, where it crossed compressed. A form
	// in another coding that would be larger is not made.
	ObjectBytes Size `yaml:"object_bytes,omitempty" min:"1KiB" max:"1TiB" example:"1MiB"`

	// Keep nothing whose type does not go with the extension of its path, so that
	// nobody is led to `/account/x.css` for his account to be kept as a style.
	MatchExtension bool `yaml:"match_extension,omitempty" default:"false"`

	// Follow `No-Vary-Search`, by which an origin says which parameters of the
	// query do not count.
	NoVarySearch bool `yaml:"no_vary_search,omitempty" default:"false"`

	// Say in `Cache-Status` under which key an answer was looked up (RFC 9211): the
	// URL less the parameters that do not count, and the `key_headers` and
	// `key_cookies`. It tells every visitor how pages are told apart, and so helps
	// whoever looks for a way to poison the cache: for a test site, or for a time.
	StatusKey bool `yaml:"status_key,omitempty" default:"false"`

	// The file says `off`.
	Off bool `yaml:"-"`
}

// CacheDir is the folder of the cache of a node, "" for none.
func (c *Config) CacheDir(n *Node) string {
	switch {
	case !n.IsEdge() || c.Cache.Off || c.Cache.Disk == 0 || len(c.Sites) == 0:
		return ""
	case n.Role != RoleBoth:
		return filepath.Join(c.Cache.Dir, n.Name)
	}
	return c.Cache.Dir
}

// CheckCacheDir says why the cache of a node can't keep anything in its folder, as
// far as can be seen. The error is Errors. A node that starts so serves, with its
// memory alone.
func (c *Config) CheckCacheDir(n *Node) error { return c.checkCacheDir(n).orNil() }

func (c *Config) checkCacheDir(n *Node) Errors {
	dir := c.CacheDir(n)
	if dir == "" {
		return nil
	}
	r := &report{file: c.Path, places: c.places, bad: map[string]bool{}}
	if err := cache.CheckDir(dir); err != nil {
		r.value("cache.dir", "let the user that runs causeway write there, or name another folder", "nothing can be kept in %s: %v", dir, err)
	}
	return r.errs
}

// cacheWarnings say where the file gives the cache of a node more than this machine,
// which is the node's, has.
func (c *Config) cacheWarnings(n *Node) Errors {
	if !n.IsEdge() || c.Cache.Off || len(c.Sites) == 0 {
		return nil
	}
	r := &report{file: c.Path, places: c.places, bad: map[string]bool{}}
	if has, ok := cache.Memory(); ok && int64(c.Cache.Memory) > has {
		at := "cache.memory"
		if _, written := r.places[at]; written { // else it is the default's, on a very small machine
			r.value(at, "write a part of that, or less", "%s is more than the %s that this machine has: the kernel ends what takes it", c.Cache.Memory, whole(has))
		}
	}
	if dir := c.CacheDir(n); dir != "" {
		if has, ok := cache.DiskOf(dir); ok && int64(c.Cache.Disk) > has {
			r.value("cache.disk", "write "+whole(has).String()+" or less, or name a folder on another disk", "%s is more than the %s of the disk that has %s: what does not fit there is not kept", c.Cache.Disk, whole(has), dir)
		}
	}
	for _, warning := range r.errs {
		warning.Warning = true
	}
	return r.errs
}

// whole is a size in the largest unit that leaves at least ten of it, rounded down.
func whole(n int64) Size {
	for _, unit := range []int64{1 << 50, 1 << 40, 1 << 30, 1 << 20, 1 << 10} {
		if n >= 10*unit {
			return Size(n / unit * unit)
		}
	}
	return Size(n)
}

// Caching is the policy for a request, with that of its route (nil: none
// matched) in place of the site's. What stays is kept by nobody.
func (s *Site) Caching(route *Route) *cache.Policy {
	if route != nil {
		return route.policy
	}
	return s.policy
}

// makePolicies makes what Caching gives.
func makePolicies(c *Config) {
	for _, s := range c.Served() {
		if s.Cache == nil {
			s.Cache = &Caching{}
		}
		s.policy = s.Cache.of(c, s, nil)
		for i := range s.Routes {
			route := &s.Routes[i]
			route.policy = cmp.Or(route.Cache, s.Cache).of(c, s, route)
		}
	}
}

// of is the policy as the cache wants it, for a route or the rest of the site (nil).
func (w *Caching) of(c *Config, s *Site, route *Route) *cache.Policy {
	p := &cache.Policy{
		Site: s.Name, Made: s.made(route), Off: w.Off || c.Cache.Off || s.Entry == Passthrough,
		TTL: w.TTL, DefaultTTL: w.DefaultTTL, Heuristic: w.Heuristic, Statuses: w.Statuses, Negative: w.NegativeTTL,
		StaleWhileRevalidate: w.StaleWhileRevalidate, StaleIfError: w.StaleIfError,
		Query:      cache.Query{Ignore: w.QueryIgnore},
		KeyHeaders: w.KeyHeaders, KeyCookies: w.KeyCookies, IgnoreHeaders: w.IgnoreHeaders, BypassCookies: w.BypassCookies,
		MostBytes: int64(w.ObjectBytes), Extensions: w.MatchExtension, Search: w.NoVarySearch, ShowKey: w.StatusKey,
	}
	if w.QueryOnly != nil {
		p.Query.Only, p.Query.None = *w.QueryOnly, len(*w.QueryOnly) == 0
	}
	return p
}

// MostBytes is the largest body that is kept.
func (k *Cache) MostBytes() int64 {
	if k.ObjectBytes > 0 {
		return int64(k.ObjectBytes)
	}
	return int64(max(k.Memory, k.Disk)) / 16
}

// checkCache looks at where answers are kept.
func (c *Config) checkCache(r *report) {
	if _, written := r.places["cache"]; !written || c.Cache.Off || !r.good("cache") {
		return
	}
	switch {
	case c.Cache.Disk > 0 && c.Cache.Dir == "" && r.good("cache.dir"):
		r.value("cache.disk", "add dir: /var/cache/causeway", "there is no folder for what is kept on the disk")
	case c.Cache.Disk == 0 && c.Cache.Dir != "" && r.good("cache.disk"):
		r.value("cache.dir", "add disk: 10GiB, or take it out", "nothing is kept there without room on the disk")
	}
	if c.Cache.Disk > 0 && c.Cache.Disk < 16<<20 && r.good("cache.disk") {
		r.value("cache.disk", "write 16MiB or more, or take it out", "less than 16 MiB on a disk holds next to nothing")
	}
}

// checkCaching looks at the rules of a site or a route, at path.
func checkCaching(r *report, path string, s *Site, w *Caching) {
	if w == nil || !r.good(path) {
		return
	}
	if s.Entry == Passthrough && !w.Off {
		r.value(path, "write entry: terminate, or take it out", "the edge does not see the answers of a site that passes through, and keeps none")
		return
	}
	if w.QueryOnly != nil && w.QueryIgnore != nil {
		r.value(path+".query_ignore", "keep one of them", "with query_only nothing else counts anyway")
	}
	if len(w.Statuses) > 0 && w.TTL == 0 && w.DefaultTTL == 0 && r.good(path+".ttl") {
		r.value(path+".statuses", "add ttl: 10m or default_ttl: 10m, or take it out", "there is no ttl that it is for")
	}
	for i, status := range w.Statuses {
		switch at := fmt.Sprintf("%s.statuses[%d]", path, i); {
		case !r.good(at):
		case status == http.StatusPartialContent:
			r.value(at, "write 200, or take it out", "206 is a part of an answer, and is kept by the rule for the whole, which is 200")
		case slices.Contains(cache.NeverKept, status):
			r.value(at, "take it out", "an answer with %d is never kept", status)
		}
	}
	if w.TTL > 0 && w.DefaultTTL > 0 {
		r.value(path+".default_ttl", "keep one of them", "ttl is for all answers already")
	}
	for _, list := range []struct {
		name   string
		values []string
	}{{"query_ignore", w.QueryIgnore}, {"key_headers", w.KeyHeaders}, {"ignore_headers", w.IgnoreHeaders}, {"key_cookies", w.KeyCookies}, {"bypass_cookies", w.BypassCookies}} {
		for i, value := range list.values {
			if value != "" && slices.Contains(list.values[:i], value) {
				r.value(fmt.Sprintf("%s.%s[%d]", path, list.name, i), "keep one of them", "%s is written twice", value)
			}
		}
	}
	for i, name := range w.KeyHeaders {
		if unkeyed[name] {
			r.value(fmt.Sprintf("%s.key_headers[%d]", path, i), "take it out", "%s is another for each visitor, or the cache's own affair", name)
		}
	}
	for i, name := range w.IgnoreHeaders {
		at := fmt.Sprintf("%s.ignore_headers[%d]", path, i)
		switch {
		case !r.good(at):
		case slices.Contains(w.KeyHeaders, name):
			r.value(at, "keep one of them", "%s is in key_headers too", name)
		case !strings.HasSuffix(name, "*") && !cache.Counts(name):
			r.value(at, "take it out", "%s does not count anyway, but where an answer names it in Vary", name)
		}
	}
	for i, name := range w.KeyCookies {
		if strings.HasSuffix(name, "*") {
			r.value(fmt.Sprintf("%s.key_cookies[%d]", path, i), "write each name in full", "a cookie whose value counts has one name")
		}
	}
}

// unkeyed are fields that no page can be kept by.
var unkeyed = map[string]bool{
	"Accept-Encoding": true, "Authorization": true, "Cache-Control": true, "Connection": true, "Content-Length": true, "Cookie": true,
	"Host": true, "If-Match": true, "If-Modified-Since": true, "If-None-Match": true, "If-Range": true, "If-Unmodified-Since": true,
	"Pragma": true, "Range": true, "Transfer-Encoding": true, "Upgrade": true, "X-Forwarded-For": true, "X-Request-Id": true,
}

// parseFieldName checks one of cache.key_headers (RFC 9110 section 5.1).
func parseFieldName(s string) (string, *fault) {
	if !httpguts.ValidHeaderFieldName(s) {
		return "", &fault{strconv.Quote(s) + " cannot name a field", "write its name alone, such as Accept-Language"}
	}
	return http.CanonicalHeaderKey(s), nil
}

// parseFieldPattern checks one of cache.ignore_headers, which may end in a "*".
func parseFieldPattern(s string) (string, *fault) {
	prefix, all := strings.CutSuffix(s, "*")
	if all && prefix == "" || strings.Contains(prefix, "*") {
		return "", &fault{strconv.Quote(s) + " does not name fields", "write what their names begin with, and one * at the end, such as X-App-*"}
	}
	name, fault := parseFieldName(prefix)
	if fault == nil && all {
		name += "*"
	}
	return name, fault
}

// parseParameter checks the name of a query's parameter, which may end in a "*".
func parseParameter(s string) (string, *fault) {
	star := strings.IndexByte(s, '*')
	switch {
	case strings.ContainsAny(s, "=&#? "):
		return "", &fault{strconv.Quote(s) + " does not name a query parameter", "write the name alone, such as utm_source"}
	case s == "*":
		return "", &fault{"a * alone is every parameter", "write query_only: [] for a query that does not count"}
	case star >= 0 && star < len(s)-1:
		return "", &fault{"a * can only be the last character of a name", "keep one * at the end, such as " + s[:star+1]}
	}
	return s, nil
}
