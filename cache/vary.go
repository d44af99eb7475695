package cache

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Which of the answers under a key are for a request (RFC 9111 §4.1):
//
//  1. when an answer is kept, selectors notes the fields that it varies by, with
//     the values that its request had,
//  2. a request selects an answer when it has the same: selects.
//
// One with Origin selects no answer that was made without it, or for another, unless that
// lets every Origin read it, whatever its Vary says: many origins look at Origin and
// forget to say so (Fetch §3.2.5).
//
// Accept-Encoding is no selector: every request asks the origin for the same
// codings, and gets the form that it takes (forms.go). But an answer that nobody
// may put into another form is for those who take it, and for who asked for it
// with the same Accept-Encoding.

// AcceptEncoding is what a fetch for everybody asks the origin for.
const AcceptEncoding = "br, zstd, gzip"

// empty is the value of a selector for a field that is there and has none: one
// that is not there is "".
const empty = " "

// varyNames gives the names in a Vary field, canonical, and Origin where the answer
// is one that a single Origin may read (Access-Control-Allow-Origin, Fetch §3.2.5):
// kept for all, the first who asks would lock the others out.
func varyNames(h http.Header) []string {
	var names []string
	for _, line := range h["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.Trim(name, " \t"); name != "" {
				names = append(names, http.CanonicalHeaderKey(name))
			}
		}
	}
	for _, allowed := range h["Access-Control-Allow-Origin"] {
		if strings.Trim(allowed, " \t") != "*" && !slices.Contains(names, "Origin") {
			names = append(names, "Origin")
		}
	}
	return names
}

// selectors are those of an answer with this header to a request that was sent
// as sent. any is one that no request selects: Vary: *.
func selectors(h, sent http.Header) (list []Selector, any bool) {
	fixed := opaque(h)
	for _, name := range varyNames(h) {
		if name == "*" {
			return nil, true
		}
		if name == "Host" || name == "Accept-Encoding" {
			continue // the key; below
		}
		list = append(list, Selector{name, selectorValue(sent, name)})
	}
	if len(sent["Origin"]) > 0 && !anyOrigin(h) && !slices.ContainsFunc(list, isOrigin) {
		list = append(list, Selector{"Origin", selectorValue(sent, "Origin")})
	}
	if fixed {
		list = append(list, Selector{"Accept-Encoding", selectorValue(sent, "Accept-Encoding")})
	}
	return list, false
}

func isOrigin(s Selector) bool { return s.Name == "Origin" }

// anyOrigin reports whether every Origin may read an answer.
func anyOrigin(h http.Header) bool {
	return slices.ContainsFunc(h["Access-Control-Allow-Origin"], func(allowed string) bool { return strings.Trim(allowed, " \t") == "*" })
}

// opaque reports whether the body must stay in the form in which it came.
func opaque(h http.Header) bool {
	if _, known := codingOf(h); !known {
		return true
	}
	d, targeted := answerControl(h)
	if targeted {
		d = readControl(h["Cache-Control"]) // no-transform is for every intermediary (RFC 9110 §7.7)
	}
	return d.noTransform
}

// selectorValue is the value of a field as a selector has it.
func selectorValue(h http.Header, name string) string {
	value, has := selecting(h, name)
	if has && value == "" {
		return empty
	}
	return value
}

// selecting is the value of a field, normalised: lines joined, and no space
// around commas and semicolons in fields that are known to be lists.
func selecting(h http.Header, name string) (value string, has bool) {
	lines := h[name]
	if len(lines) == 0 || unkeyed(name) {
		return "", false
	}
	value = strings.Trim(lines[0], " \t")
	for _, line := range lines[1:] {
		value += ", " + strings.Trim(line, " \t")
	}
	if list, lower := isList(name); list {
		value = squeeze(value)
		if lower {
			value = strings.ToLower(value)
		}
	}
	return value, true
}

// isList reports whether a field is a list whose spaces say nothing, and whether
// its case does not either.
func isList(name string) (list, lower bool) {
	switch name {
	case "Accept-Language", "Accept-Charset", "Accept-Encoding":
		return true, true
	case "Accept":
		return true, false // a parameter may have case
	}
	return false, false
}

// squeeze takes off the space around commas and semicolons. A value with quotes
// is left as it is.
func squeeze(value string) string {
	if !strings.ContainsAny(value, " \t") || strings.IndexByte(value, '"') >= 0 {
		return value
	}
	var b strings.Builder
	for i, part := range strings.FieldsFunc(value, func(c rune) bool { return c == ',' }) {
		if i > 0 {
			b.WriteByte(',')
		}
		for j, parameter := range strings.Split(part, ";") {
			if j > 0 {
				b.WriteByte(';')
			}
			b.WriteString(strings.Trim(parameter, " \t"))
		}
	}
	return b.String()
}

// sameFields reports whether selectors are of the same fields.
func sameFields(a, b []Selector) bool {
	return slices.EqualFunc(a, b, func(a, b Selector) bool { return a.Name == b.Name })
}

// selects reports whether the request selects the answer.
func (a *ask) selects(m *Meta) bool { return a.mismatch(m) == "" }

// mismatch names the field by which the request does not select the answer; ""
// when it does.
func (a *ask) mismatch(m *Meta) string {
	for i := range m.Vary {
		s := &m.Vary[i]
		if s.Name == "Accept-Encoding" {
			if !a.takesAsIs(m, s.Value) {
				return s.Name
			}
		} else if a.selector(s.Name) != s.Value {
			return s.Name
		}
	}
	if len(a.req.Header["Origin"]) > 0 && !m.facts().anyOrigin && !slices.ContainsFunc(m.Vary, isOrigin) {
		return "Origin"
	}
	return ""
}

// selector is the value of a field of the request as the origin would have it.
func (a *ask) selector(name string) string {
	if a.policy.ignores(name) {
		return ""
	}
	return selectorValue(a.req.Header, name)
}

// takesAsIs reports whether the request may have a body that stays in the form
// in which it came; asked is the Accept-Encoding that it came for.
func (a *ask) takesAsIs(m *Meta, asked string) bool {
	if selectorValue(a.req.Header, "Accept-Encoding") == asked {
		return true
	}
	if m.Coding != "" {
		return a.takes().quality(m.Coding) > 0
	}
	// Without a coding it is for all when the origin had every choice, or has none.
	return asked == squeeze(AcceptEncoding) || !m.facts().negotiated
}

// varies reports whether an answer's own Vary has a name.
func varies(h http.Header, name string) bool {
	for _, line := range h["Vary"] {
		for n := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.Trim(n, " \t"), name) {
				return true
			}
		}
	}
	return false
}

// variantID tells a variant and a part from others under the key. The values of
// the selectors are not in it: it is shown.
func variantID(list []Selector, span *Span) string {
	id := ""
	if len(list) > 0 {
		var b []byte
		for _, s := range list {
			b = appendPart(appendPart(b, s.Name), s.Value)
		}
		sum := sha256.Sum256(b)
		id = hex.EncodeToString(sum[:8])
	}
	if span != nil {
		id += fmt.Sprintf("@%d-%d/%d", span.From, span.To, span.Of)
	}
	return id
}
