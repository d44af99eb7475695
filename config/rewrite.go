package config

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/net/http/httpguts"
	"golang.org/x/net/publicsuffix"

	"causeway/rewrite"
)

// parseMediaType checks one of rewrite.types: a media type without parameters
// (RFC 9110 section 8.3.1), perhaps with a "-" before it.
func parseMediaType(s string) (string, *fault) {
	name := strings.TrimPrefix(strings.ToLower(s), "-")
	kind, subtype, ok := strings.Cut(name, "/")
	switch {
	case strings.Contains(name, ";"):
		return "", &fault{"a media type is written without parameters here", "write " + strings.TrimSpace(s[:strings.IndexByte(s, ';')])}
	case strings.Contains(name, "*"):
		return "", &fault{"a media type is written in full here", "write each one, such as application/x-shop"}
	case !ok || !httpguts.ValidHeaderFieldName(kind) || !httpguts.ValidHeaderFieldName(subtype): // both are tokens
		return "", &fault{strconv.Quote(s) + " is not a media type", "write one such as application/x-shop, or -text/csv to leave that type as it is"}
	case strings.HasPrefix(kind, "multipart"):
		return "", &fault{"the parts of multipart bodies have types of their own, and parts of files no text", "leave it out"}
	}
	return strings.ToLower(s), nil
}

// parseExclude checks one of rewrite.exclude: a path as in routes, "?" and the
// name of a query parameter, or both.
func parseExclude(s string) (string, *fault) {
	path, name, asks := strings.Cut(s, "?")
	if path != "" || !asks {
		if f := pathFault(path); f != nil {
			return "", f
		}
	}
	if asks && (name == "" || strings.ContainsAny(name, "=&#? ")) {
		return "", &fault{strconv.Quote(s) + " does not name a query parameter", "write ? and the name alone, such as " + path + "?X-Amz-Signature"}
	}
	return s, nil
}

// parseCookieName checks one of rewrite.cookies (RFC 6265 section 4.1.1), which
// may end in a "*".
func parseCookieName(s string) (string, *fault) {
	star := strings.IndexByte(s, '*')
	switch {
	case !httpguts.ValidHeaderFieldName(s):
		return "", &fault{strconv.Quote(s) + " cannot name a cookie", "write its name alone, such as return_to"}
	case star == 0:
		return "", &fault{"a * alone would be every cookie, those that are signed too", "write how the names begin, such as comment_author_url_*"}
	case star > 0 && star < len(s)-1:
		return "", &fault{"a * can only be the last character of a cookie's name", "keep one * at the end, such as " + s[:star+1]}
	}
	return s, nil
}

// rules are what the map is told.
func (w *Rewrite) rules() rewrite.Rules {
	return rewrite.Rules{
		Untouched: !w.Bodies, Types: w.Types, Bare: w.Bare, Cookies: w.Cookies,
		BodyBytes: int64(w.BodyBytes), Runtime: w.Runtime,
	}
}

// excludes says whether a request's body, query and answer stay as they are.
func (w *Rewrite) excludes(path, query string) bool {
	if len(w.Exclude) == 0 {
		return false
	}
	path = plainPath(path)
	return slices.ContainsFunc(w.Exclude, func(e string) bool {
		pattern, name, asks := strings.Cut(e, "?")
		return (pattern == "" || pathMatches(pattern, path)) && (!asks || hasParameter(query, name))
	})
}

// hasParameter says whether a raw query has a parameter of that name, written
// as it is.
func hasParameter(query, name string) bool {
	for parameter := range strings.SplitSeq(query, "&") {
		if key, _, _ := strings.Cut(parameter, "="); key == name {
			return true
		}
	}
	return false
}

// ruledMaps are the maps of a site or a route.
type ruledMaps struct {
	rewrite   *Rewrite
	ruled     *rewrite.Map // with the rules
	untouched *rewrite.Map // with those of what is excluded
}

func newRuledMaps(m *rewrite.Map, w *Rewrite) ruledMaps {
	untouched := w.rules()
	untouched.Untouched = true
	return ruledMaps{w, m.WithRules(w.rules()), m.WithRules(untouched)}
}

// Names is the host map for a request, with the rules that it comes under:
// those of its route (nil: none matched), else those of the site.
func (s *Site) Names(route *Route, path, query string) *rewrite.Map {
	m := s.mapsOf(route)
	if m.rewrite.excludes(path, query) {
		return m.untouched
	}
	return m.ruled
}

// AllNames are the maps that Names may give for a route.
func (s *Site) AllNames(route *Route) []*rewrite.Map {
	m := s.mapsOf(route)
	return []*rewrite.Map{m.ruled, m.untouched}
}

// made is a short hash of what answers to requests of a route (nil: none matched)
// are made with: the hosts and where they lead, the rules of the rewriting, and the
// route's own origin. It is the same on each node and after each restart with the
// same file. Where an origin is dialled is not in it: another address of one server
// has the same pages, and what is kept is worth most when that is changed in a hurry.
func (s *Site) made(route *Route) string {
	m := s.mapsOf(route)
	made := m.ruled.Version()
	if len(m.rewrite.Exclude) > 0 {
		made += fmt.Sprintf(" %q", slices.Sorted(slices.Values(m.rewrite.Exclude)))
	}
	if route != nil && route.Origin != nil {
		made += " " + route.Origin.String()
	}
	if len(made) > len(m.ruled.Version()) {
		sum := sha256.Sum256([]byte(made))
		made = strings.ToLower(base32.StdEncoding.EncodeToString(sum[:5]))
	}
	return made
}

func (s *Site) mapsOf(route *Route) *ruledMaps {
	if route != nil && route.Rewrite != nil {
		return &route.maps
	}
	return &s.maps
}

// ThirdParty says whether a host of the site is one that belongs to others: its
// origin has a registrable domain, and another than that of the site's first
// host.
// Cookies of the site are no business of theirs, nor is the client's address.
func (s *Site) ThirdParty(origin rewrite.Base) bool {
	return slices.ContainsFunc(s.others, func(b rewrite.Base) bool {
		return b.Host == origin.Host || inside(origin.Host, b.Host)
	})
}

// others finds the third parties of a site that have no `cookies: true`.
func others(hosts []Host) (found []rewrite.Base) {
	for _, h := range hosts {
		if name := registrable(h.To.Host); !h.Cookies && name != "" && name != registrable(hosts[0].To.Host) {
			found = append(found, h.To)
		}
	}
	return found
}

// registrable is the domain that was registered for a host: one label more than
// the public suffix (https://publicsuffix.org). An address, or a name without
// dots, has none: it is a server of one's own.
func registrable(host string) string {
	if _, err := netip.ParseAddr(host); err == nil {
		return ""
	}
	name, _ := publicsuffix.EffectiveTLDPlusOne(strings.TrimPrefix(host, "*.")) // "" for localhost
	return name
}

// checkRewrite looks at the rules of a site or a route, at path.
func checkRewrite(r *report, path string, w *Rewrite) {
	for _, list := range []struct {
		name   string
		values []string
	}{{"types", w.Types}, {"exclude", w.Exclude}, {"cookies", w.Cookies}} {
		for i, value := range list.values {
			if value != "" && slices.Contains(list.values[:i], value) {
				r.value(fmt.Sprintf("%s.%s[%d]", path, list.name, i), "keep one of them", "%s is written twice", value)
			}
		}
	}
	if !w.Bodies && w.Runtime && r.good(path+".runtime") {
		r.value(path+".runtime", "leave out one of them", "runtime: true puts a script into pages, and bodies: false leaves them as they are")
	}
}
