package rewrite

import (
	"net/http"
	"strings"
)

// A Link field may say what a script or style that is loaded ahead hashes to:
//
//	Link: </a.js>; rel=modulepreload; integrity="sha384-…"
//
// The parameter is treated as an integrity attribute is.

// Early maps the fields of an informational answer to r (Early Hints, RFC 8297), in place.
func (m *Map) Early(h http.Header, r *http.Request) {
	m.Header(h)
	m.linkHashes(h, r)
}

// linkHashes sees to the Link fields of an answer to r.
func (m *Map) linkHashes(h http.Header, r *http.Request) {
	for i, line := range h["Link"] {
		if strings.Contains(strings.ToLower(line), integrityWord) {
			d := document{m: m}
			if r != nil {
				d.base = r.URL
			}
			h["Link"][i] = d.linkField(line)
		}
	}
}

// linkField is a Link line with the hashes of what the public URLs give.
func (d *document) linkField(line string) string {
	for at := 0; at < len(line); {
		var l link
		l, at = readLink(line, at)
		if len(l.integrity) == 0 || isNeverText(l.as) {
			continue
		}
		first := l.integrity[0] // it counts
		public, goes, ours := d.metadata(first.value, l.target, 0)
		switch {
		case ours && goes: // all of them: without the first the second would count
			for _, p := range l.integrity {
				d.edits = append(d.edits, edit{p.start, p.end, ""})
			}
		case ours && public != first.value:
			d.edits = append(d.edits, edit{first.valueStart, first.end, `"` + public + `"`})
		}
	}
	return string(d.edited(nil, []byte(line), 0, len(line)))
}

// link is one of a Link field (RFC 8288 section 3), as far as it matters.
type link struct {
	target, as string
	integrity  []linkParameter
}

// linkParameter is one of a link, by its places in the line.
type linkParameter struct {
	value                  string
	start, valueStart, end int // start is that of the semicolon
}

// readLink reads the link at line[at:]; next is where the one behind it is.
func readLink(line string, at int) (l link, next int) {
	open := strings.IndexByte(line[at:], '<')
	if open < 0 {
		return l, len(line)
	}
	at += open + 1
	end := strings.IndexByte(line[at:], '>')
	if end < 0 {
		return l, len(line)
	}
	l.target = line[at : at+end]
	for at += end + 1; ; {
		at += len(line[at:]) - len(strings.TrimLeft(line[at:], " \t"))
		if at == len(line) || line[at] != ';' {
			return l, at
		}
		var name string
		var p linkParameter
		name, p = readParameter(line, at)
		at = p.end
		switch {
		case strings.EqualFold(name, integrityWord):
			l.integrity = append(l.integrity, p)
		case strings.EqualFold(name, "as") && l.as == "":
			l.as = p.value
		}
	}
}

// readParameter reads the parameter behind the semicolon at line[at].
func readParameter(line string, at int) (name string, p linkParameter) {
	p.start = at
	stop := func(at int, set string) int {
		if n := strings.IndexAny(line[at:], set); n >= 0 {
			return at + n
		}
		return len(line)
	}
	p.end = stop(at+1, "=;,")
	name = strings.Trim(line[at+1:p.end], " \t")
	if p.end == len(line) || line[p.end] != '=' {
		return name, p
	}
	p.valueStart = p.end + 1
	p.valueStart += len(line[p.valueStart:]) - len(strings.TrimLeft(line[p.valueStart:], " \t"))
	if p.valueStart == len(line) || line[p.valueStart] != '"' {
		p.end = stop(p.valueStart, ";,")
		p.value = strings.TrimRight(line[p.valueStart:p.end], " \t")
		return name, p
	}
	var value strings.Builder
	for p.end = p.valueStart + 1; p.end < len(line) && line[p.end] != '"'; p.end++ {
		if line[p.end] == '\\' && p.end+1 < len(line) {
			p.end++
		}
		value.WriteByte(line[p.end])
	}
	p.end = min(p.end+1, len(line))
	p.value = value.String()
	return name, p
}
