package rewrite

import (
	"context"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// datedTag is the entity tag of a rewritten body that the origin knows by its date alone; "" when
// there is no date, or one that could not be given back to the origin as it said it.
func (m *Map) datedTag(lastModified string, r *http.Request) string {
	when, err := http.ParseTime(lastModified)
	if err != nil || when.UTC().Format(http.TimeFormat) != lastModified {
		return ""
	}
	return `W/"` + strconv.FormatInt(when.Unix(), 16) + markDate + m.tagVersion(r) + `"`
}

// dateOf is the date in a tag that datedTag made, the zero time when it made none; current says
// whether its version is this one.
func dateOf(tag, version string) (when time.Time, current bool) {
	date, mark, ok := strings.Cut(tag, markDate)
	date, weak := strings.CutPrefix(date, `W/"`)
	seconds, err := strconv.ParseInt(date, 16, 64)
	if !ok || !weak || err != nil {
		return time.Time{}, false
	}
	return time.Unix(seconds, 0).UTC(), mark == version+`"`
}

// datedKey is the context key of the date that came in a tag of ours and stands in
// If-Modified-Since.
type datedKey struct{}

// datedConditions turns the tags that datedTag made into dates. The origin knows none of them, so
// that beside a tag of its own they say nothing.
func (m *Map) datedConditions(r *http.Request) {
	if kept, last, found := m.withoutDates(r, "If-None-Match"); found {
		r.Header.Del("If-None-Match")
		switch {
		case len(kept) > 0:
			r.Header.Set("If-None-Match", strings.Join(kept, ", "))
		case last.IsZero() || r.Method != http.MethodGet && r.Method != http.MethodHead: // section 13.1.3
			r.Header.Del("If-Modified-Since")
		default:
			date := last.Format(http.TimeFormat)
			r.Header.Set("If-Modified-Since", date)
			*r = *r.WithContext(context.WithValue(r.Context(), datedKey{}, date))
		}
	}
	// If-Match stays where the map is another one: no copy of the origin's has such a tag, and it
	// says so (412).
	if kept, last, found := m.withoutDates(r, "If-Match"); found && len(kept) == 0 && !last.IsZero() {
		r.Header.Del("If-Match")
		r.Header.Set("If-Unmodified-Since", last.Format(http.TimeFormat))
	}
}

// withoutDates is the list of a field without the tags that datedTag made, the last date in those
// of this version, and whether there were any.
func (m *Map) withoutDates(r *http.Request, field string) (kept []string, last time.Time, found bool) {
	for tag := range eachTag(strings.Join(r.Header[field], ", ")) {
		when, current := dateOf(tag, m.tagVersion(r))
		switch {
		case when.IsZero():
			kept = append(kept, tag)
			continue
		case current && when.After(last):
			last = when
		}
		found = true
	}
	return kept, last, found
}
