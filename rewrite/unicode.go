package rewrite

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
)

// An internationalized name (RFC 5890) stands in a map by its A-label, xn--r8jz45g.jp, and a page may
// have it in its own script: 例え.jp. Both are looked for; the public host is written by its A-label.
//
//  1. enterUnicode gives each rule of such a host a second one, with its Unicode spelling in UTF-8,
//     lower case, as IDNA 2008 has it. What is written otherwise, or by escapes, is not known.
//  2. Then hosts are made of bytes outside ASCII too (Replacer.host): the text before a slash, and
//     the whole of a name that goes on. Where the map has no such host nothing of this happens.
//  3. A name that ends in another script than ASCII goes on with each letter behind it (goesOn); one
//     that ends in ASCII, as all others, does not: a sentence may go on without a space.

// spellsUnicode is spellsURL with the bytes of UTF-8.
var spellsUnicode = func() (table [256]bool) {
	for c := range table {
		table[c] = spellsURL[c] || c >= beyond
	}
	return table
}()

// enterUnicode enters the rules of hosts with a Unicode spelling, and gives the literals to look for.
func (r *Replacer) enterUnicode() (literals []string) {
	r.host, r.spells = ofHost, &spellsURL
	r.unicode = nil
	for _, of := range r.rules {
		name := inUnicode(of.from.domain())
		if name == "" {
			continue
		}
		of.from.Host = strings.Replace(of.from.Host, of.from.domain(), name, 1)
		r.unicode = append(r.unicode, of)
		if !of.keep {
			literals = append(literals, strings.TrimPrefix(of.from.Host, "*"))
		}
	}
	for i := range r.unicode {
		r.enter(&r.unicode[i])
	}
	if len(r.unicode) > 0 {
		r.host, r.spells = ofHost|ofUnicode, &spellsUnicode
	}
	return literals
}

// inUnicode is the Unicode spelling of a name, "" when it has none.
func inUnicode(name string) string {
	if !strings.Contains(name, "xn--") {
		return ""
	}
	spelled, err := idna.Punycode.ToUnicode(name)
	if err != nil || spelled == name || len(spelled) > maxHost || !utf8.ValidString(spelled) {
		return ""
	}
	return spelled
}

// goesOn says whether the name before b[i] ends in a script of its own and a letter of one follows.
func goesOn(b []byte, i int) bool {
	if i == 0 || i >= len(b) || b[i-1] < beyond || b[i] < beyond {
		return false
	}
	c, _ := utf8.DecodeRune(b[i:])
	return c == utf8.RuneError || unicode.IsLetter(c) || unicode.IsMark(c) || unicode.IsDigit(c)
}
