package cache

import (
	"net/http"
	"strings"
	"time"
)

// The conditions of a request, held against an answer that is known (RFC 9110
// §13): If-None-Match, and without it If-Modified-Since; then If-Range, which is
// for Range alone (§13.2.2). If-Match and If-Unmodified-Since are the origin's
// (passes).

// strong reports whether an entity tag is a strong one.
func strong(tag string) bool {
	return len(tag) >= 2 && tag[0] == '"' && tag[len(tag)-1] == '"'
}

// weaken makes an entity tag a weak one.
func weaken(tag string) string {
	if tag == "" || strings.HasPrefix(tag, "W/") {
		return tag
	}
	return "W/" + tag
}

// alike is the weak comparison (§8.8.3.2).
func alike(a, b string) bool {
	return a != "" && strings.TrimPrefix(a, "W/") == strings.TrimPrefix(b, "W/")
}

// conditional reports whether a request has a condition that a cache evaluates.
func conditional(h http.Header) bool {
	return len(h["If-None-Match"]) > 0 || len(h["If-Modified-Since"]) > 0
}

// unchanged reports whether the conditions say that the client has this answer.
func unchanged(h http.Header, etag string, modified time.Time) bool {
	if lines := h["If-None-Match"]; len(lines) > 0 {
		for _, line := range lines {
			if lists(line, etag) {
				return true
			}
		}
		return false
	}
	since, ok := readTime(h["If-Modified-Since"])
	return ok && !modified.IsZero() && !modified.After(since)
}

// lists reports whether a list of entity tags has one that is alike, or is *.
func lists(line, etag string) bool {
	if strings.Trim(line, " \t") == "*" {
		return true
	}
	for line != "" {
		open := strings.IndexByte(line, '"')
		if open < 0 {
			break
		}
		end := strings.IndexByte(line[open+1:], '"')
		if end < 0 {
			break
		}
		if end += open + 2; alike(line[open:end], etag) {
			return true
		}
		line = line[end:]
	}
	return false
}

// rangeHolds reports whether the request's If-Range, if any, is true of an
// answer: then its Range counts (§13.1.5). A date is strong when the answer was
// made a second after at least (§8.8.2.2).
func rangeHolds(h http.Header, etag string, modified, date time.Time) bool {
	lines := h["If-Range"]
	if len(lines) == 0 {
		return true
	}
	if strings.Contains(lines[0], `"`) {
		return strong(etag) && strings.Trim(lines[0], " \t") == etag
	}
	at, ok := readTime(lines)
	return ok && at.Equal(modified) && date.Sub(modified) >= time.Second
}
