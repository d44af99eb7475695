package rewrite

import (
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// responseFields is what happens to the fields of an answer. A field that is not here is passed
// on as it is. Names are canonical (http.CanonicalHeaderKey).
var responseFields = map[string]func(*Map, http.Header, string){
	// URLs anywhere in the value, in any spelling that bodies know
	"Location":                    urlField, // RFC 9110 section 10.2.2
	"Content-Location":            urlField, // RFC 9110 section 8.7
	"Refresh":                     urlField, // HTML section 15.6.18, meta refresh
	"Link":                        urlField, // RFC 8288; preload, canonical, next
	"Access-Control-Allow-Origin": urlField, // Fetch section 3.3.3
	"Timing-Allow-Origin":         urlField, // Resource Timing section 3.5.2
	"Allow-Csp-From":              urlField, // CSP: Embedded Enforcement section 3.3
	"Sourcemap":                   urlField, // ECMA-426
	"X-Sourcemap":                 urlField,
	"Report-To":                   urlField, // Reporting API, 2018 draft: JSON
	"Reporting-Endpoints":         urlField, // Reporting API section 3.3
	"Nel":                         urlField, // Network Error Logging section 5.1
	"Expect-Ct":                   urlField, // RFC 9163 section 2.1.1: report-uri
	"Permissions-Policy":          urlField, // origins in quotes
	"Feature-Policy":              urlField,
	"X-Frame-Options":             urlField, // ALLOW-FROM, RFC 7034 section 2.1
	"Speculation-Rules":           urlField,
	"X-Pingback":                  urlField, // WordPress
	"Hx-Location":                 urlField, // htmx
	"Hx-Redirect":                 urlField,
	"Hx-Push-Url":                 urlField,
	"Hx-Replace-Url":              urlField,
	"Turbo-Location":              urlField,       // Turbo
	"X-Inertia-Location":          urlField,       // Inertia
	"Www-Authenticate":            challengeField, // RFC 6750 section 3, RFC 9728 section 5.1

	// hosts without a scheme too
	"Content-Security-Policy":             policyField, // CSP level 3 section 2.3.1
	"Content-Security-Policy-Report-Only": policyField,
	"X-Content-Security-Policy":           policyField, // what browsers before CSP 1.0 read
	"X-Webkit-Csp":                        policyField,
	"Set-Cookie":                          cookieField, // Domain, RFC 6265 section 4.1.2.3; Rules.Cookies

	// it would lead round the edge
	"Alt-Svc": dropField, // RFC 7838
}

// Header maps response fields from the origin's names to the public ones, in place; those of
// trailers too. What belongs to the body (ETag, lengths, digests) is Response's.
func (m *Map) Header(h http.Header) {
	for name := range h {
		if field := responseFields[name]; field != nil {
			field(m, h, name)
		}
	}
}

func urlField(m *Map, h http.Header, name string) { mapValues(m.toPublic, h[name]) }

// challengeField maps where a client gets a token. What a Digest challenge says it hashes together
// with the password (RFC 7616 section 3.4.2), and the origin does the same with its own names.
func challengeField(m *Map, h http.Header, name string) {
	for i, line := range h[name] {
		if !strings.Contains(strings.ToLower(line), "digest ") {
			h[name][i] = m.toPublic.String(line)
		}
	}
}

func dropField(_ *Map, h http.Header, name string) { delete(h, name) }

func policyField(m *Map, h http.Header, name string) {
	for i, line := range h[name] {
		h[name][i] = m.policy(line)
	}
}

func cookieField(m *Map, h http.Header, name string) {
	for i, line := range h[name] {
		h[name][i] = m.cookie(line)
	}
}

// policy maps a Content-Security-Policy: directives parted by semicolons, policies by commas.
func (m *Map) policy(value string) string {
	var out strings.Builder
	out.Grow(len(value) + len(value)/8)
	directive := ""
	for len(value) > 0 {
		n := strings.IndexAny(value, policySeparators)
		if n < 0 {
			n = len(value)
		}
		token := value[:n]
		switch {
		case token == "":
		case directive == "":
			directive = strings.ToLower(token)
			out.WriteString(token)
		case takesSources(directive):
			out.WriteString(m.source(token))
		default:
			out.WriteString(m.toPublic.String(token))
		}
		if n < len(value) {
			if value[n] == ';' || value[n] == ',' {
				directive = ""
			}
			out.WriteByte(value[n])
			n++
		}
		value = value[n:]
	}
	return out.String()
}

// takesSources says whether a directive's values are sources, and a word there may be a host.
func takesSources(directive string) bool {
	for _, suffix := range []string{"-src", "-src-elem", "-src-attr"} {
		if strings.HasSuffix(directive, suffix) {
			return true
		}
	}
	return slices.Contains([]string{"base-uri", "form-action", "frame-ancestors", "navigate-to"}, directive)
}

// source maps a source expression: [scheme://]host[:port][/path]. A wildcard that the map does
// not have as such keeps standing for what is not mapped, and the public hosts of what it covers
// are added.
func (m *Map) source(token string) string {
	if token[0] == '\'' || token == "*" || strings.HasSuffix(token, ":") {
		return token
	}
	scheme, rest := "", token
	if i := strings.Index(token, "://"); i >= 0 {
		scheme, rest = token[:i+3], token[i+3:]
	}
	host, path := rest, ""
	if i := strings.IndexByte(rest, '/'); i >= 0 {
		host, path = rest[:i], rest[i:]
	}
	mapped := m.toPublic.String(token)
	if mapped == token && scheme == "" {
		mapped = m.sourceHost(host) + path
	}
	if domain, ok := strings.CutPrefix(strings.ToLower(host), "*."); ok {
		mapped = m.addCovered(mapped, scheme, domain, path)
	}
	return mapped
}

// sourceHost maps host[:port]; port may be "*".
func (m *Map) sourceHost(authority string) string {
	bare, anyPort := strings.CutSuffix(authority, ":*")
	host, port, ok := splitAuthority(bare)
	if !ok {
		return authority
	}
	rule, labels := m.toPublic.find([]byte(host), "", port)
	if rule == nil && anyPort && len(m.toPublic.exact[host]) > 0 {
		first := m.toPublic.exact[host][0]
		rule, labels = m.toPublic.find([]byte(host), first.from.Scheme, first.from.Port)
	}
	if rule == nil {
		return authority
	}
	to := rule.to.fill(host[:labels])
	if anyPort && to.Port == "" {
		return to.Authority() + ":*"
	}
	return to.Authority()
}

// addCovered adds to a wildcard source the public hosts of single hosts below its domain.
func (m *Map) addCovered(mapped, scheme, domain, path string) string {
	for i := range m.toPublic.rules {
		rule := &m.toPublic.rules[i]
		if rule.keep || rule.from.wildcard() || !strings.HasSuffix(rule.from.Host, "."+domain) {
			continue
		}
		if _, parent, _ := strings.Cut(rule.to.Host, "."); !strings.Contains(mapped, "*."+parent) {
			mapped += " " + scheme + rule.to.Authority() + path
		}
	}
	return mapped
}

// cookie maps the Domain attribute of a Set-Cookie line, and the value if the site names the cookie.
func (m *Map) cookie(line string) string {
	pair, attributes, _ := strings.Cut(line, ";")
	mapped := m.cookiePair(m.toPublic, pair)
	if !hasDomain(attributes) {
		if mapped == pair {
			return line
		}
		return mapped + line[len(pair):]
	}
	var out strings.Builder
	out.WriteString(mapped)
	for attribute := range strings.SplitSeq(attributes, ";") {
		name, domain, _ := strings.Cut(attribute, "=")
		if !strings.EqualFold(strings.TrimSpace(name), "domain") {
			out.WriteString(";" + attribute)
			continue
		}
		bare := strings.ToLower(strings.TrimPrefix(strings.TrimSpace(domain), "."))
		if public, ok := m.cookieDomain(bare); ok {
			out.WriteString(";" + name + "=" + strings.Replace(strings.ToLower(domain), bare, public, 1))
		}
	}
	return out.String()
}

// hasDomain is quick and may be mistaken one way.
func hasDomain(attributes string) bool {
	return strings.Contains(attributes, "omain") || strings.Contains(strings.ToLower(attributes), "domain")
}

// cookieDomain is the public counterpart of a cookie's domain: the narrowest domain that holds the
// public host of every mapped host at or below it. It is unknown when there is none that a browser
// takes (RFC 6265 section 5.3, step 5: no public suffix, no address); the cookie then stays with
// the host that set it.
func (m *Map) cookieDomain(domain string) (public string, ok bool) {
	var labels []string
	for i := range m.toPublic.rules {
		rule := &m.toPublic.rules[i]
		from, to := rule.from.domain(), rule.to.domain()
		switch {
		case rule.keep || domain == "":
			continue
		case from == domain || strings.HasSuffix(from, "."+domain):
		case rule.from.wildcard() && strings.HasSuffix(domain, "."+from) && m.toPublic.exact[domain] == nil:
			to = strings.TrimSuffix(domain, from) + to
		default:
			continue
		}
		labels = commonEnd(labels, strings.Split(to, "."), !ok)
		ok = true
	}
	public = strings.Join(labels, ".")
	if suffix, _ := publicsuffix.PublicSuffix(public); public == "" || suffix == public {
		return "", false
	}
	_, err := netip.ParseAddr(public)
	return public, err != nil
}

// commonEnd is what two label lists end in; b when it is the first.
func commonEnd(a, b []string, first bool) []string {
	if first {
		return b
	}
	n := 0
	for n < len(a) && n < len(b) && a[len(a)-1-n] == b[len(b)-1-n] {
		n++
	}
	return a[len(a)-n:]
}
