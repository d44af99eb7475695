package rewrite

// Rules.Bare: a host is exchanged without slashes before it too where it is, with its port, a whole
// string: between two quotes of one kind, spelled alike.
//
//	"example.com"   'example.com'   `example.com`
//	\"example.com\" with any number of backslashes, JSON in JSON
//	&quot;example.com&quot;   &#39;example.com&#39;   in attributes
//
// It holds in the kinds of text where strings are written so (quotes), for a site that asks for it:
// a page may well mean its own name, and not a host, by such a string.

// bareKinds are the media types beside HTML, JSON and +json in which Bare holds.
var bareKinds = map[string]bool{
	"application/ecmascript": true, "application/javascript": true, "application/x-javascript": true,
	"application/jsonl": true, "application/ndjson": true, "application/x-ndjson": true, "application/json5": true,
	"application/jsonp": true, "application/x-json": true, "application/x-jsonlines": true, "application/json-seq": true,
	"text/ecmascript": true, "text/javascript": true, "text/x-javascript": true, "text/json": true,
	eventStream: true, // its data is JSON for the most part
}

// replacerFor is r as it is for a text of a kind.
func (m *Map) replacerFor(r *Replacer, kind string) *Replacer {
	if !m.rules.Bare || !bareKinds[kind] && !isHTML(kind) && !isJSON(kind) {
		return r
	}
	return r.withBare
}

// bareStart says whether the host that starts at b[i] follows an opening quote.
func bareStart(b []byte, i int) bool {
	if i == 0 {
		return false
	}
	switch b[i-1] {
	case '"', '\'', '`':
		return true
	case ';':
		c, _, s := unitBefore(b, i)
		return s == entity && (c == '"' || c == '\'')
	}
	return false
}

// bareEnd says whether what stands at b[end] closes the string whose quote is before b[start];
// unsure when b ends before that is certain.
func bareEnd(b []byte, start, end int) (ok, unsure bool) {
	if b[start-1] == ';' {
		quote, opening, _ := unitBefore(b, start)
		c, width := unit(b, end)
		return c == quote && width == start-opening && b[end] == '&', width == 0 // of \u0022 the width is that of &quot;
	}
	slashes := start - 1 - backslashesBefore(b, start-1)
	for n := range slashes + 1 {
		if end+n == len(b) {
			return false, true
		}
		if n < slashes && b[end+n] != '\\' {
			return false, false
		}
	}
	return b[end+slashes] == b[start-1], false
}

// startsBare says whether b, which may go on, ends within what may become a bare host that starts
// at b[i].
func startsBare(b []byte, i int, of byte) bool {
	if !bareStart(b, i) {
		return false
	}
	end := i
	if end < len(b) && b[end] == '[' {
		for end < len(b) && end-i <= maxIPv6 && b[end] != ']' {
			end++
		}
		end = min(end+1, len(b))
	}
	for end < len(b) && end-i <= maxHost && hostBytes[b[end]]&of != 0 {
		end++
	}
	if end == len(b) {
		return true
	}
	after := hostEnd(b, end)
	if !after.ok || after.unsure {
		return after.unsure
	}
	_, unsure := bareEnd(b, i, after.end)
	return unsure
}
