package cache

import (
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// What a message says of caches:
//
//  1. an answer's CDN-Cache-Control is read first; one that is well formed and
//     says anything is the only one (RFC 9213 §2.2; targeted.go),
//  2. else its Cache-Control (RFC 9111 §5.2), or a request's,
//  3. a request without either may say Pragma: no-cache (§5.4).
//
// What is malformed is read the careful way: a lifetime that is no number is
// over, and a permission that is no permission is none.

// mostSeconds is the largest delta-seconds that counts (RFC 9111 §1.2.2).
const mostSeconds = math.MaxInt32

// unsaid is a directive with a number that is not there.
const unsaid time.Duration = -1

// directives are those of one message.
type directives struct {
	any bool // something was said at all

	noStore, noCache, private, public  bool
	mustRevalidate, proxyRevalidate    bool
	mustUnderstand, noTransform        bool
	immutable                          bool // RFC 8246
	onlyIfCached                       bool
	noCacheFields, privateFields       []string // the qualified forms (RFC 9111 §5.2.2.4, §5.2.2.7)
	maxAge, sMaxAge                    time.Duration
	maxStale, minFresh                 time.Duration // of requests
	staleWhileRevalidate, staleIfError time.Duration // RFC 5861
}

func noDirectives() directives {
	return directives{maxAge: unsaid, sMaxAge: unsaid, maxStale: unsaid, minFresh: unsaid, staleWhileRevalidate: unsaid, staleIfError: unsaid}
}

// readControl reads the lines of a Cache-Control field.
func readControl(lines []string) directives {
	d := noDirectives()
	for _, line := range lines {
		for line != "" {
			var name, value string
			var has bool
			name, value, has, line = nextDirective(line)
			if name != "" {
				d.any = true
				d.set(name, value, has)
			}
		}
	}
	return d
}

// nextDirective takes the first directive off s. has says that it has a value:
// a token, or a quoted string without its quotes.
func nextDirective(s string) (name, value string, has bool, rest string) {
	s = strings.TrimLeft(s, " \t,")
	i := strings.IndexAny(s, ",=")
	if i < 0 {
		return strings.TrimRight(s, " \t"), "", false, ""
	}
	name, rest = strings.TrimRight(s[:i], " \t"), s[i+1:]
	if s[i] == ',' {
		return name, "", false, rest
	}
	if !strings.HasPrefix(rest, `"`) {
		value, rest, _ = strings.Cut(rest, ",")
		return name, strings.TrimRight(value, " \t"), true, rest
	}
	value, rest, closed := unquote(rest)
	junk, rest, _ := strings.Cut(rest, ",")
	if !closed || strings.Trim(junk, " \t") != "" {
		value = `"` // no value of any directive
	}
	return name, value, true, rest
}

// unquote reads the quoted string (RFC 9110 §5.6.4) that s begins with.
func unquote(s string) (value, rest string, closed bool) {
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return strings.ReplaceAll(s[1:i], `\`, ""), s[i+1:], true
		case '\\':
			i++
		}
	}
	return "", "", false
}

// set notes one directive. Names are compared without case (RFC 9111 §5.2).
func (d *directives) set(name, value string, has bool) {
	switch {
	case is(name, "no-store"):
		d.noStore = true
	case is(name, "no-cache"):
		d.noCache, d.noCacheFields = qualified(d.noCache, d.noCacheFields, value)
	case is(name, "private"):
		d.private, d.privateFields = qualified(d.private, d.privateFields, value)
	case is(name, "public"):
		d.public = true
	case is(name, "must-revalidate"):
		d.mustRevalidate = true
	case is(name, "proxy-revalidate"):
		d.proxyRevalidate = true
	case is(name, "must-understand"):
		d.mustUnderstand = true
	case is(name, "no-transform"):
		d.noTransform = true
	case is(name, "immutable"):
		d.immutable = true
	case is(name, "only-if-cached"):
		d.onlyIfCached = true
	case is(name, "max-age"):
		lifetime(&d.maxAge, value)
	case is(name, "s-maxage"):
		lifetime(&d.sMaxAge, value)
	case is(name, "max-stale"):
		if !has {
			value = strconv.Itoa(mostSeconds) // any age (§5.2.1.2)
		}
		allowance(&d.maxStale, value)
	case is(name, "min-fresh"):
		if n, ok := deltaSeconds(value); ok {
			d.minFresh = max(d.minFresh, n)
		}
	case is(name, "stale-while-revalidate"):
		allowance(&d.staleWhileRevalidate, value)
	case is(name, "stale-if-error"):
		allowance(&d.staleIfError, value)
	}
}

func is(name, directive string) bool {
	return len(name) == len(directive) && strings.EqualFold(name, directive)
}

// qualified adds one no-cache or private to what there was of it: without field
// names it is for the whole answer.
func qualified(all bool, fields []string, value string) (bool, []string) {
	found := false
	for field := range strings.SplitSeq(value, ",") {
		if field = strings.Trim(field, " \t"); field != "" && field != `"` {
			fields = append(fields, http.CanonicalHeaderKey(field))
			found = true
		}
	}
	return all || !found, fields
}

// lifetime notes a number that makes an answer fresh. One that is malformed, or
// stands twice and differs, makes it stale (RFC 9111 §4.2.1).
func lifetime(to *time.Duration, value string) {
	n, ok := deltaSeconds(value)
	if !ok || *to != unsaid && *to != n {
		n = 0
	}
	*to = n
}

// allowance notes a number that allows what would not be: the smallest counts,
// and a malformed one does not.
func allowance(to *time.Duration, value string) {
	if n, ok := deltaSeconds(value); ok && (*to == unsaid || n < *to) {
		*to = n
	}
}

// deltaSeconds reads delta-seconds (RFC 9111 §1.2.2).
func deltaSeconds(s string) (time.Duration, bool) {
	if s == "" {
		return 0, false
	}
	var n int64
	for i := 0; i < len(s); i++ {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		if n = n*10 + int64(s[i]-'0'); n > mostSeconds {
			n = mostSeconds
		}
	}
	return time.Duration(n) * time.Second, true
}

// answerControl is what an answer says of shared caches; targeted that it said
// it in CDN-Cache-Control, and so neither Cache-Control nor Expires counts.
func answerControl(h http.Header) (d directives, targeted bool) {
	if lines := h["Cdn-Cache-Control"]; len(lines) > 0 {
		if d, ok := readTargeted(lines); ok && d.any {
			return d, true
		}
	}
	return readControl(h["Cache-Control"]), false
}

// requestControl is what a request says.
func requestControl(h http.Header) directives {
	lines := h["Cache-Control"]
	if len(lines) == 0 {
		d := noDirectives()
		for _, line := range h["Pragma"] {
			d.noCache = d.noCache || readControl([]string{line}).noCache
		}
		return d
	}
	return readControl(lines)
}
