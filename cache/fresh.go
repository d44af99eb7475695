package cache

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// How long an answer is fresh, and how old it is (RFC 9111 §4.2):
//
//  1. readFacts reads its header, once for each object,
//  2. freshness is its lifetime: the policy's where that overrides, else its
//     own, else the policy's for those that say nothing (§4.2.1, §4.2.2),
//  3. age is what §4.2.3 makes of Date, Age and the time since.
//
// Times of objects of this process carry the monotonic clock, so a jump of the
// wall clock does nothing to them. An object from before a restart that would
// have been received in the future is not fresh (judge).

// facts are what an answer's header says, read.
type facts struct {
	directives
	targeted bool // they stood in CDN-Cache-Control

	date     time.Time
	initial  time.Duration // corrected_initial_age (§4.2.3)
	explicit time.Duration // lifetime by the answer's own word, or unsaid
	source   string        // the word
	etag     string
	modified time.Time // Last-Modified; zero without
	opaque   bool
	squeezed bool // a coding makes it smaller, by its type

	negotiated bool // it says that it varies by Accept-Encoding
	anyOrigin  bool // every Origin may read it

	lines [4]atomic.Pointer[[]byte] // Lines.Fixed of the forms, by codingPlace; none is empty
	given atomic.Int64              // when it was last given from the store, Unix nanoseconds; 0 for never
}

// readFacts reads the header of an answer that was asked for at requested and
// was there at received.
func readFacts(h http.Header, requested, received time.Time) *facts {
	f := &facts{etag: first(h, "Etag"), opaque: opaque(h), squeezed: compressible(h), negotiated: varies(h, "Accept-Encoding"), anyOrigin: anyOrigin(h)}
	f.directives, f.targeted = answerControl(h)
	f.modified, _ = readTime(h["Last-Modified"])
	var dated bool
	if f.date, dated = readTime(h["Date"]); !dated {
		f.date = received // RFC 9110 §6.6.1
	}
	f.initial = initialAge(h, f.date, requested, received)
	f.explicit, f.source = f.lifetime(h)
	return f
}

// facts are those of a kept answer.
func (m *Meta) facts() *facts {
	if m.read != nil {
		return m.read
	}
	return readFacts(m.Header, m.Requested, m.Received)
}

// used is when an answer came, or was last given from the store.
func (m *Meta) used() time.Time {
	if m.read == nil {
		return m.Received
	}
	return later(m.Received, time.Unix(0, m.read.given.Load()))
}

// initialAge is corrected_initial_age of RFC 9111 §4.2.3.
func initialAge(h http.Header, date, requested, received time.Time) time.Duration {
	apparent := max(0, received.Round(0).Sub(date.Round(0)))
	var value time.Duration
	if lines := h["Age"]; len(lines) > 0 {
		number, _, _ := strings.Cut(lines[0], ",") // the first counts (RFC 9111 §5.1)
		value, _ = deltaSeconds(strings.Trim(number, " \t"))
	}
	return max(apparent, value+max(0, received.Sub(requested)))
}

// lifetime is freshness_lifetime by the answer's own word, for a shared cache
// (§4.2.1).
func (f *facts) lifetime(h http.Header) (time.Duration, string) {
	switch {
	case f.sMaxAge != unsaid:
		return f.sMaxAge, "s-maxage"
	case f.maxAge != unsaid:
		return f.maxAge, "max-age"
	case f.targeted:
		return unsaid, "" // Expires does not count (RFC 9213 §2.2)
	}
	lines := h["Expires"]
	if len(lines) == 0 {
		return unsaid, ""
	}
	expires, ok := readTime(lines)
	if !ok {
		return 0, "Expires" // the past (§5.3)
	}
	return max(0, expires.Sub(f.date)), "Expires"
}

// readTime reads a field that is an HTTP-date (RFC 9110 §5.6.7). Lines that
// differ are none.
func readTime(lines []string) (time.Time, bool) {
	if len(lines) == 0 {
		return time.Time{}, false
	}
	for _, line := range lines[1:] {
		if line != lines[0] {
			return time.Time{}, false
		}
	}
	t, err := http.ParseTime(strings.Trim(lines[0], " \t"))
	return t, err == nil
}

func first(h http.Header, name string) string {
	if lines := h[name]; len(lines) > 0 {
		return lines[0]
	}
	return ""
}

// byDefault are the statuses whose answers may be kept without a word of theirs
// (RFC 9110 §15.1).
func byDefault(status int) bool {
	switch status {
	case 200, 203, 204, 206, 300, 301, 308, 404, 405, 410, 414, 501:
		return true
	}
	return false
}

// usual is Policy.Statuses when it is nil.
var usual = []int{200, 203, 301, 308}

func (p *Policy) covers(status int) bool {
	if p.Statuses == nil {
		return slices.Contains(usual, wholeStatus(status))
	}
	return slices.Contains(p.Statuses, wholeStatus(status))
}

// added names the rule by which a status is covered that is none of the usual ones.
func (p *Policy) added(status int) string {
	if slices.Contains(usual, wholeStatus(status)) {
		return ""
	}
	return "statuses"
}

// wholeStatus is a status, and of a part that of the whole.
func wholeStatus(status int) int {
	if status == http.StatusPartialContent {
		return http.StatusOK
	}
	return status
}

// negative are the statuses of Policy.Negative.
func negative(status int) bool {
	switch status {
	case 404, 405, 410, 414, 501:
		return true
	}
	return false
}

// overrides reports whether the policy's TTL is in place of what an answer says.
func (p *Policy) overrides(status int) bool { return p.TTL > 0 && p.covers(status) }

// mostHeuristic bounds a lifetime that is guessed (RFC 9111 §4.2.2: a day is
// where caches once had to warn).
const mostHeuristic = 24 * time.Hour

// lifetimes is how long an answer stays fresh.
type lifetimes struct {
	life   time.Duration // unsaid: nobody says
	fromIt bool          // counted from its receipt, not from when it was made
	source string        // what says so
	note   string        // the rule of the policy that was used
}

// freshness is the lifetime of an answer for the policy.
func (p *Policy) freshness(f *facts, status int) lifetimes {
	silent := f.explicit == unsaid && !f.noCache
	switch {
	case p.overrides(status):
		return lifetimes{p.TTL, true, "ttl", joined("ttl="+secondsText(p.TTL), p.added(status))}
	case f.explicit != unsaid:
		return lifetimes{f.explicit, false, f.source, ""}
	case silent && p.DefaultTTL > 0 && p.covers(status):
		return lifetimes{p.DefaultTTL, true, "default_ttl", joined("default_ttl="+secondsText(p.DefaultTTL), p.added(status))}
	case silent && p.Negative > 0 && negative(status):
		return lifetimes{p.Negative, true, "negative_ttl", "negative_ttl=" + secondsText(p.Negative)}
	case silent && p.Heuristic && !f.modified.IsZero() && (byDefault(status) || f.public):
		life := min(f.date.Sub(f.modified)/10, mostHeuristic)
		return lifetimes{max(0, life), false, "heuristic", "heuristic"}
	}
	return lifetimes{life: unsaid}
}

// until is when an answer that was received then stops being fresh.
func (l lifetimes) until(f *facts, received time.Time) time.Time {
	switch {
	case l.life == unsaid:
		return received
	case l.fromIt:
		return received.Add(l.life)
	}
	return received.Add(l.life - f.initial)
}

// age is current_age (§4.2.3).
func (m *Meta) age(now time.Time) time.Duration {
	return m.facts().initial + max(0, now.Sub(m.Received))
}

// mustValidate reports whether an answer may not be used stale (§4.2.4), and the
// directive that says so.
func (f *facts) mustValidate() string {
	switch {
	case f.mustRevalidate:
		return "must-revalidate"
	case f.proxyRevalidate:
		return "proxy-revalidate"
	case f.noCache: // the last: a TTL is in place of it, not of those
		return "no-cache"
	}
	return ""
}

// windows are how long beyond its freshness an answer may be used while another
// is fetched, and when none can be had (RFC 5861). What the answer says itself
// counts before what the policy says; and an answer whose must-revalidate says
// no is never used stale. s-maxage alone does not say no: though it has the
// meaning of proxy-revalidate, answers with s-maxage and stale-while-revalidate
// mean what they say, and a policy is its owner's word.
func (p *Policy) windows(f *facts, status int) (whileRevalidate, ifError time.Duration, note string) {
	if must := f.mustValidate(); must != "" && !(must == "no-cache" && p.overrides(status)) {
		return 0, 0, ""
	}
	whileRevalidate, ifError = f.staleWhileRevalidate, f.staleIfError
	if whileRevalidate == unsaid {
		if whileRevalidate = p.StaleWhileRevalidate; whileRevalidate > 0 {
			note = "stale_while_revalidate=" + secondsText(whileRevalidate)
		}
	}
	if ifError == unsaid {
		ifError = p.StaleIfError
	}
	return whileRevalidate, ifError, note
}

// ageText is an Age field.
func ageText(age time.Duration) string { return strconv.FormatInt(max(0, int64(age/time.Second)), 10) }
