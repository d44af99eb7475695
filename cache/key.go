package cache

import (
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// What answers are found by:
//
//  1. the URL as the policy sees it: scheme, host in lower case, and the target
//     byte for byte, less the parameters that do not count,
//  2. the site, what its answers are made with, the parts of the request that the policy
//     names, and the fields that nobody knows (request.go), each line as it stands,
//  3. all of it hashed, each part with its length before it: nobody can write one
//     part so that it looks like two,
//  4. before that a hash of the URL alone: what is let go of by its URL is found by that
//     (purge.go), whatever it was made with.
//
// Nothing that an origin may tell apart is made one: paths keep their case and
// their escapes, a query its order, and /a is not /a?.

// URL is the URL that an answer to req is kept under, and that purges and lists
// know it by.
func URL(req *http.Request, policy *Policy) string {
	var room [512]byte
	return string(appendURL(room[:0], req, policy))
}

func appendURL(b []byte, req *http.Request, policy *Policy) []byte {
	b = append(b, req.URL.Scheme...)
	b = append(b, "://"...)
	b = appendLower(b, hostOfRequest(req))
	b = append(b, targetPath(req.URL)...)
	if query, has := policy.Query.of(req.URL); has {
		b = append(b, '?')
		b = append(b, query...)
	}
	return b
}

func hostOfRequest(req *http.Request) string {
	if req.Host != "" {
		return req.Host
	}
	return req.URL.Host
}

// targetPath is the path as it is sent.
func targetPath(u *url.URL) string {
	p := u.Opaque
	if p == "" {
		p = u.EscapedPath()
	}
	if p == "" {
		return "/" // RFC 9110 §4.2.3
	}
	return p
}

func appendLower(b []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		b = append(b, c)
	}
	return b
}

// of is the part of a URL's query that counts; has says whether there is one, if
// only an empty one.
func (q *Query) of(u *url.URL) (query string, has bool) {
	if !q.drops(u) {
		return u.RawQuery, u.RawQuery != "" || u.ForceQuery
	}
	var counts []string
	for parameter := range strings.SplitSeq(u.RawQuery, "&") {
		name, _, _ := strings.Cut(parameter, "=")
		if q.counts(name) {
			counts = append(counts, parameter)
		}
	}
	return strings.Join(counts, "&"), len(counts) > 0
}

// drops reports whether a part of a URL's query does not count.
func (q *Query) drops(u *url.URL) bool {
	if u.RawQuery == "" || q.None {
		return q.None && (u.RawQuery != "" || u.ForceQuery)
	}
	if q.all() {
		return false
	}
	for parameter := range strings.SplitSeq(u.RawQuery, "&") {
		if name, _, _ := strings.Cut(parameter, "="); !q.counts(name) {
			return true
		}
	}
	return false
}

// rule is the key of the file that says which parameters count.
func (q *Query) rule() string {
	if len(q.Ignore) > 0 {
		return "query_ignore"
	}
	return "query_only"
}

func (q *Query) all() bool { return !q.None && len(q.Only) == 0 && len(q.Ignore) == 0 }

func (q *Query) counts(name string) bool {
	if q.None {
		return false
	}
	if len(q.Only) > 0 {
		return named(q.Only, name)
	}
	return !named(q.Ignore, name)
}

// named reports whether name is in names; one of those that ends in * is all that
// begin so.
func named(names []string, name string) bool {
	return slices.ContainsFunc(names, func(pattern string) bool {
		if prefix, open := strings.CutSuffix(pattern, "*"); open {
			return strings.HasPrefix(name, prefix)
		}
		return pattern == name
	})
}

// keyOf is the key of req, whose URL as the policy sees it is at, and that has strangers.
func keyOf(req *http.Request, policy *Policy, at []byte, strangers []string) (key Key) {
	url := sha256.Sum256(at)
	var room [512]byte
	b := append(room[:0], url[:]...)
	b = appendPart(appendPart(b, policy.Site), policy.Made)
	for _, name := range policy.KeyHeaders {
		b = appendPart(append(b, 'h'), name)
		value, has := selecting(req.Header, name)
		b = appendValue(b, value, has)
	}
	for _, name := range policy.KeyCookies {
		b = appendPart(append(b, 'c'), name)
		value, has := cookie(req.Header, name)
		b = appendValue(b, value, has)
	}
	for _, name := range strangers {
		b = appendPart(append(b, 's'), name)
		b = binary.AppendUvarint(b, uint64(len(req.Header[name])))
		for _, value := range req.Header[name] {
			b = appendPart(b, value)
		}
	}
	sum := sha256.Sum256(b)
	n := copy(key[:], url[:len(Head{})])
	copy(key[n:], sum[:])
	return key
}

// headOf is what the keys of a URL, as some policy sees it, begin with.
func headOf[T string | []byte](at T) Head {
	var room [512]byte
	sum := sha256.Sum256(append(room[:0], at...))
	return Head(sum[:])
}

func appendPart(b []byte, part string) []byte {
	b = binary.AppendUvarint(b, uint64(len(part)))
	return append(b, part...)
}

func appendValue(b []byte, value string, has bool) []byte {
	if !has {
		return append(b, 0)
	}
	return appendPart(append(b, 1), value)
}

// cookie is the value of the cookie of a name, as it stands: of all of them, with the
// semicolons that no value has, where there are several, as some origins take the first
// and others the last.
func cookie(h http.Header, name string) (value string, has bool) {
	for pair := range cookies(h) {
		n, v, _ := strings.Cut(pair, "=")
		switch {
		case cookieName(n) != name:
		case has:
			value += ";" + v
		default:
			value, has = v, true
		}
	}
	return value, has
}

// cookieName is a name without the space that some origins leave out before "=".
func cookieName(written string) string { return strings.TrimRight(written, " \t") }

// cookies gives the pairs of the Cookie field (RFC 6265 §4.2).
func cookies(h http.Header) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, line := range h["Cookie"] {
			for pair := range strings.SplitSeq(line, ";") {
				if pair = strings.Trim(pair, " \t"); pair != "" && !yield(pair) {
					return
				}
			}
		}
	}
}
