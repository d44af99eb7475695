package cache

import (
	"net/http"
	"slices"
	"strings"
)

// The header of a kept answer is the same for all who are given the same form of it,
// but for what says how old it is: so it is written once, for who writes HTTP/1.1
// itself.

// Lines are the header of an answer as lines of HTTP/1.1 (RFC 9112 §5), in the order
// of the names.
type Lines struct {
	Fixed  []byte // all but the next two, and Content-Length; shared: nobody changes it
	Age    string // the value of Age
	Status string // the value of Cache-Status

	// What is needed until the answer has been given, so that it costs no memory.
	ask    ask
	answer http.Response
}

// codingPlace is the place of a coding in facts.lines, -1 for none.
func codingPlace(coding string) int { return slices.Index([]string{"", "gzip", "zstd", "br"}, coding) }

// tellLines writes a.lines of a form; false when the header is to be given as it is.
func (a *ask) tellLines(s *source, form chosen, etag string, size int64) bool {
	m := s.meta
	place := codingPlace(form.coding)
	if m.Status != http.StatusOK || m.Span != nil || a.ranged != nil || s.object == nil || s.header != nil || !s.aged ||
		m.read == nil || form.form == nil || size < 0 || place < 0 || conditional(a.req.Header) {
		return false
	}
	fixed := m.read.lines[place].Load()
	if fixed == nil {
		status := a.status
		h := a.header(s, form, etag)
		a.status = status
		fixed = new(fixedLines(h))
		m.read.lines[place].Store(fixed)
	}
	if len(*fixed) == 0 {
		return false
	}
	a.noteSearch(s)
	a.lines.Fixed, a.lines.Age, a.lines.Status = *fixed, ageText(s.age), a.status.String()
	return true
}

// apart are fields that whoever gives the answer may have a word in, besides those of
// Lines and of connections: an answer that has one of them has no Lines.
var apart = map[string]bool{"X-Request-Id": true, "Strict-Transport-Security": true, "Server-Timing": true, "Alt-Svc": true, "X-Robots-Tag": true}

// Apart reports whether a field may be put beside Lines: they never have it.
func Apart(name string) bool { return apart[name] }

// fixedLines writes a header, less what Lines has apart; nil for one that is not for
// that.
func fixedLines(h http.Header) []byte {
	if len(h["Cache-Status"]) != 1 || len(h["Date"]) == 0 {
		return nil
	}
	names := make([]string, 0, len(h))
	for name, values := range h {
		switch {
		case apart[name] || connection[name]:
			return nil
		case name != "Age" && name != "Cache-Status" && name != "Content-Length" && len(values) > 0:
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var b []byte
	for _, name := range names {
		for _, value := range h[name] {
			if strings.ContainsAny(value, "\r\n") {
				return nil
			}
			b = append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
		}
	}
	return slices.Clip(b)
}
