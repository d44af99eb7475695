package rewrite

import (
	"slices"
	"strings"
)

// Rules.Cookies: the values of the cookies that a site names are mapped, both ways; all others pass
// byte for byte. A value is whatever stands between the first "=" and the next ";" (RFC 6265
// section 5.2), in any spelling that bodies know.

// requestCookies maps the Cookie lines of a request, in place.
func (m *Map) requestCookies(lines []string) {
	if len(m.rules.Cookies) == 0 {
		return
	}
	for i, line := range lines {
		pairs := strings.Split(line, ";")
		for j, pair := range pairs {
			pairs[j] = m.cookiePair(m.toOrigin, pair)
		}
		lines[i] = strings.Join(pairs, ";")
	}
}

// cookiePair maps "name=value" if the site names the cookie.
func (m *Map) cookiePair(r *Replacer, pair string) string {
	name, value, ok := strings.Cut(pair, "=")
	if !ok || !m.rules.namesCookie(strings.TrimSpace(name)) {
		return pair
	}
	return name + "=" + r.String(value)
}

// namesCookie says whether a cookie's name is one of Cookies, or begins as one that ends in "*".
func (r Rules) namesCookie(name string) bool {
	return slices.ContainsFunc(r.Cookies, func(named string) bool {
		start, all := strings.CutSuffix(named, "*")
		return named == name || all && strings.HasPrefix(name, start)
	})
}
