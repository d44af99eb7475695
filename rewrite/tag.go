package rewrite

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/html"
)

// A tag is read as browsers read it (HTML section 13.2.5, tokenization), with two limits that keep
// it cheap to find in a text that is not read as a whole: it is no longer than maxTag, and no "<"
// stands in it outside of quotes.

// maxTag is the longest tag that is looked into. A longer one passes as it is.
const maxTag = 16 << 10

// tagScan looks for the end of a tag that may still be coming. The zero value starts behind "<".
type tagScan struct {
	at    int // the text before it has been looked at
	state tagState
}

type tagState uint8

const (
	tagName     tagState = iota
	beforeName           // of an attribute
	inName               // of an attribute
	afterName            // of an attribute, before "=" or the next
	beforeValue          // behind "="
	inDouble
	inSingle
	inUnquoted
	tagClosed
	tagBroken
)

// run goes on over a text that starts behind "<" until the tag is closed or broken, or the text ends.
func (s *tagScan) run(text []byte) tagState {
	for s.at < len(text) && s.state < tagClosed {
		switch s.state {
		case inDouble, inSingle:
			quote := byte('"')
			if s.state == inSingle {
				quote = '\''
			}
			end := bytes.IndexByte(text[s.at:], quote)
			if end < 0 {
				s.at = len(text)
				return s.state
			}
			s.at, s.state = s.at+end+1, beforeName
			continue
		}
		s.state = s.state.after(text[s.at])
		s.at++
	}
	return s.state
}

// after is the state behind c, outside of quotes.
func (s tagState) after(c byte) tagState {
	switch {
	case c == '>':
		return tagClosed
	case c == '<':
		return tagBroken
	case s == beforeValue:
		switch {
		case isSpace(c):
			return s
		case c == '"':
			return inDouble
		case c == '\'':
			return inSingle
		}
		return inUnquoted
	case isSpace(c):
		switch s {
		case inName:
			return afterName
		case afterName:
			return s
		}
		return beforeName
	case s == inUnquoted:
		return s
	case c == '/':
		return beforeName
	case s == tagName:
		return s
	case c == '=' && s != beforeName:
		return beforeValue
	}
	return inName
}

// attribute is one of a tag, by its places there.
type attribute struct {
	name, nameEnd   int
	value, valueEnd int  // without quotes; both are nameEnd when there is none
	quote           byte // 0 when there is none
}

// end is where the attribute ends, with its closing quote.
func (a attribute) end() int {
	if a.quote != 0 {
		return a.valueEnd + 1
	}
	return a.valueEnd
}

// attributes appends those of a whole tag, from "<" to ">".
func attributes(list []attribute, tag []byte) []attribute {
	i := 1
	for i < len(tag) && !isSpace(tag[i]) && tag[i] != '/' && tag[i] != '>' {
		i++
	}
	for {
		for isSpace(tag[i]) || tag[i] == '/' {
			i++
		}
		if tag[i] == '>' {
			return list
		}
		a := attribute{name: i}
		for i++; !isSpace(tag[i]) && tag[i] != '/' && tag[i] != '>' && tag[i] != '='; {
			i++
		}
		a.nameEnd, a.value, a.valueEnd = i, i, i
		equals := i
		for isSpace(tag[equals]) {
			equals++
		}
		if tag[equals] == '=' {
			a.readValue(tag, equals+1)
			i = a.end()
		}
		list = append(list, a)
	}
}

// readValue reads what stands behind "=".
func (a *attribute) readValue(tag []byte, i int) {
	for isSpace(tag[i]) {
		i++
	}
	if tag[i] == '"' || tag[i] == '\'' {
		a.quote = tag[i]
		a.value = i + 1
		a.valueEnd = a.value + bytes.IndexByte(tag[a.value:], a.quote)
		return
	}
	for a.value = i; !isSpace(tag[i]) && tag[i] != '>'; {
		i++
	}
	a.valueEnd = i
}

// attributeOf is the first attribute of a name, which is the one that counts.
func attributeOf(list []attribute, tag []byte, name string) (a attribute, ok bool) {
	for _, a := range list {
		if equalFold(tag[a.name:a.nameEnd], name) {
			return a, true
		}
	}
	return a, false
}

// text is the value of an attribute.
func (a attribute) text(tag []byte) string { return unescape(string(tag[a.value:a.valueEnd])) }

// unescape decodes the character references in an attribute's value.
func unescape(value string) string {
	if strings.IndexByte(value, '&') < 0 {
		return value
	}
	var out strings.Builder
	for {
		i := strings.IndexByte(value, '&')
		if i < 0 {
			return out.String() + value
		}
		end := i + 1
		for end < len(value) && (isAlnum(value[end]) || value[end] == '#' && end == i+1) {
			end++
		}
		if end < len(value) && value[end] == ';' {
			end++
		}
		out.WriteString(value[:i] + decoded(value[i:end], value[end:]))
		value = value[end:]
	}
}

// decoded is what a character reference stands for. A name without a semicolon counts where neither
// a letter nor "=" follows, as in ?a=1&copy=2 (HTML section 13.2.5.73).
func decoded(reference, rest string) string {
	c := html.UnescapeString(reference)
	switch {
	case strings.HasPrefix(reference, "&#"):
		return c
	case strings.HasSuffix(reference, ";"):
		if len(c) > 1 && strings.HasSuffix(c, ";") { // of the beginning of the name
			return reference
		}
		return c
	case utf8.RuneCountInString(c) == 1 && !strings.HasPrefix(rest, "="):
		return c
	}
	return reference
}

// written is a value as it stands in the place of a's: in its quotes, or in new ones where it needs
// some.
func (a attribute) written(value string) string {
	value = strings.ReplaceAll(value, "&", "&amp;")
	if a.quote == '\'' {
		return strings.ReplaceAll(value, "'", "&#39;")
	}
	if a.quote == 0 && value != "" && !strings.ContainsAny(value, " \t\n\f\r\"'`<>") {
		return value
	}
	value = strings.ReplaceAll(value, `"`, "&quot;")
	if a.quote == 0 {
		return `"` + value + `"`
	}
	return value
}

// without is what of a tag has to go for an attribute to be gone: with the space before it, unless
// that is all that parts its neighbours.
func (a attribute) without(tag []byte) (from, to int) {
	from, to = a.name, a.end()
	if next := tag[to]; isSpace(next) || next == '>' {
		for from > 0 && isSpace(tag[from-1]) {
			from--
		}
	}
	return from, to
}

// isSpace is ASCII whitespace (WHATWG Infra section 4.6).
func isSpace(c byte) bool {
	return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == '\f'
}
