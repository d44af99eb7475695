package cache

import (
	"strconv"
	"strings"
	"time"
)

// CDN-Cache-Control (RFC 9213), as No-Vary-Search, is a Dictionary of RFC 9651: it is
// read by that grammar or not at all. Of a member only the value counts, not its
// parameters.

// readTargeted reads the lines of the field; not ok is one that is malformed,
// and to be ignored (RFC 9213 §2.1).
func readTargeted(lines []string) (d directives, ok bool) {
	d = noDirectives()
	members, ok := readDictionary(lines)
	for name, value := range members {
		d.member(name, value)
	}
	return d, ok
}

// readDictionary reads the members of a Dictionary (RFC 9651 §4.2.2), without their
// parameters.
func readDictionary(lines []string) (members map[string]bareItem, ok bool) {
	p := structured{s: strings.Join(lines, ",")}
	members = map[string]bareItem{} // the last of a name counts
	p.skip(" ")
	for p.s != "" {
		name, ok := p.key()
		if !ok {
			return nil, false
		}
		value := bareItem{kind: 'b', text: "1"}
		if p.take('=') {
			if value, ok = p.value(); !ok {
				return nil, false
			}
		}
		if !p.parameters() {
			return nil, false
		}
		members[name] = value
		p.skip(" \t")
		if p.s == "" {
			break
		}
		if !p.take(',') {
			return nil, false
		}
		if p.skip(" \t"); p.s == "" {
			return nil, false // a trailing comma
		}
	}
	return members, true
}

// member notes one member. A directive that forbids is set by anything but false;
// one that takes a number, by an Integer alone, and public by true: any other value
// is as malformed (RFC 9213 §2.1).
func (d *directives) member(name string, value bareItem) {
	boolean, text := value.kind == 'b', value.text
	if boolean && text == "0" {
		return
	}
	d.any = true
	switch name {
	case "public":
		d.public = boolean
	case "no-cache", "private":
		if value.kind != 's' {
			text = "" // all of it
		}
		d.set(name, text, true)
	case "max-age", "s-maxage", "stale-while-revalidate", "stale-if-error":
		if value.kind != 'i' {
			text = ""
		}
		d.set(name, text, true)
	default:
		d.set(name, "", false)
	}
}

// bareItem is a value: kind is b for a Boolean, i for an Integer, s for a String, (
// for an Inner List, and another for all else, whose text nobody needs.
type bareItem struct {
	kind    byte
	text    string
	list    []string // of an Inner List
	strings bool     // and all in it are Strings
}

// structured is what is left of a field.
type structured struct{ s string }

func (p *structured) skip(set string) { p.s = strings.TrimLeft(p.s, set) }

func (p *structured) take(c byte) bool {
	if p.s == "" || p.s[0] != c {
		return false
	}
	p.s = p.s[1:]
	return true
}

// span takes the bytes that ok says yes to.
func (p *structured) span(ok func(c byte) bool) string {
	n := 0
	for n < len(p.s) && ok(p.s[n]) {
		n++
	}
	taken := p.s[:n]
	p.s = p.s[n:]
	return taken
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' }
func isDigit(c byte) bool { return c >= '0' && c <= '9' }
func isAlpha(c byte) bool { return isLower(c | 0x20) }

// key is RFC 9651 §4.2.3.3.
func (p *structured) key() (string, bool) {
	if p.s == "" || !isLower(p.s[0]) && p.s[0] != '*' {
		return "", false
	}
	return p.span(func(c byte) bool {
		return isLower(c) || isDigit(c) || c == '_' || c == '-' || c == '.' || c == '*'
	}), true
}

// value is an Item or an Inner List (§4.2.1.1), without its parameters.
func (p *structured) value() (bareItem, bool) {
	if !p.take('(') {
		return p.bare()
	}
	list := bareItem{kind: '(', strings: true}
	for {
		p.skip(" ")
		if p.take(')') {
			return list, true
		}
		one, ok := p.bare()
		if !ok || !p.parameters() {
			return bareItem{}, false
		}
		list.strings = list.strings && one.kind == 's'
		list.list = append(list.list, one.text)
		if p.s == "" || p.s[0] != ' ' && p.s[0] != ')' {
			return bareItem{}, false
		}
	}
}

// parameters is §4.2.3.2.
func (p *structured) parameters() bool {
	for p.take(';') {
		p.skip(" ")
		if _, ok := p.key(); !ok {
			return false
		}
		if p.take('=') {
			if _, ok := p.bare(); !ok {
				return false
			}
		}
	}
	return true
}

// bare is a Bare Item (§4.2.3.1).
func (p *structured) bare() (bareItem, bool) {
	if p.s == "" {
		return bareItem{}, false
	}
	switch c := p.s[0]; {
	case c == '-' || isDigit(c):
		return p.number()
	case c == '"':
		return p.quoted()
	case c == '*' || isAlpha(c):
		return bareItem{kind: 't', text: p.span(func(c byte) bool {
			return isAlpha(c) || isDigit(c) || strings.IndexByte("!#$%&'*+-.^_`|~:/", c) >= 0
		})}, true
	case c == '?' && len(p.s) > 1 && (p.s[1] == '0' || p.s[1] == '1'):
		value := bareItem{kind: 'b', text: p.s[1:2]}
		p.s = p.s[2:]
		return value, true
	case c == ':':
		p.take(':')
		p.span(func(c byte) bool { return isAlpha(c) || isDigit(c) || c == '+' || c == '/' || c == '=' })
		return bareItem{kind: ':'}, p.take(':')
	case c == '@': // a Date is an Integer behind a sign
		p.take('@')
		n, ok := p.number()
		return bareItem{kind: '@'}, ok && n.kind == 'i'
	}
	return bareItem{}, false // a Display String among them: no directive has one
}

// number is §4.2.4: an Integer of 15 digits at most, or a Decimal of 12 and 3.
func (p *structured) number() (bareItem, bool) {
	sign := ""
	if p.take('-') {
		sign = "-"
	}
	whole := p.span(isDigit)
	if whole == "" {
		return bareItem{}, false
	}
	if p.take('.') {
		part := p.span(isDigit)
		return bareItem{kind: 'd'}, len(whole) <= 12 && part != "" && len(part) <= 3
	}
	return bareItem{kind: 'i', text: sign + whole}, len(whole) <= 15
}

// quoted is a String (§4.2.5).
func (p *structured) quoted() (bareItem, bool) {
	var text strings.Builder
	for i := 1; i < len(p.s); i++ {
		switch c := p.s[i]; {
		case c == '"':
			p.s = p.s[i+1:]
			return bareItem{kind: 's', text: text.String()}, true
		case c == '\\':
			if i++; i == len(p.s) || p.s[i] != '"' && p.s[i] != '\\' {
				return bareItem{}, false
			}
			text.WriteByte(p.s[i])
		case c < ' ' || c > '~':
			return bareItem{}, false
		default:
			text.WriteByte(c)
		}
	}
	return bareItem{}, false
}

// secondsText is d as delta-seconds.
func secondsText(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }
