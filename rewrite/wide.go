package rewrite

import (
	"net/http"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// UTF-16 is the one charset in use that does not hold ASCII byte for byte. A text in it goes through
// the stages and the Stream as UTF-8 and becomes UTF-16 again.
//
//  1. wideOf tells it by its first bytes, as browsers do (WHATWG Encoding section 6.1): a byte order
//     mark, or the "<?" of XML (XML 1.0 appendix F); else by the charset of Content-Type.
//  2. Where the bytes are plainly of the other kind (misnamed) nothing is found in the text: it goes
//     by as it came, as in the browser, and Body.Unmapped says so, for the record.
//  3. What is not well-formed comes out as it came: a lone surrogate goes through in three bytes, as
//     WTF-8 has it, and an odd last byte is put behind the rest.
type wide struct {
	big    bool   // big-endian
	came   []byte // for narrow, the beginning of a character: up to three bytes
	narrow []byte // for widen, the same
	odd    []byte // the last byte of a text of odd length
	in     []byte // what narrow made
	out    []byte // what widen made
}

// wideLead is how many first bytes wideOf wants.
const wideLead = 4

// mayBeWide says whether a text that begins so may be UTF-16, once more of it has come.
func mayBeWide(first []byte) bool {
	for _, lead := range []string{"\xff\xfe", "\xfe\xff", "<\x00?\x00", "\x00<\x00?"} {
		if len(first) < len(lead) && strings.HasPrefix(lead, string(first)) {
			return true
		}
	}
	return false
}

// wideOf is what a text that begins so takes; nil for any other charset.
func wideOf(first []byte, h http.Header) *wide {
	text := string(first)
	switch {
	case strings.HasPrefix(text, "\xef\xbb\xbf"):
		return nil
	case strings.HasPrefix(text, "\xff\xfe"), strings.HasPrefix(text, "<\x00?\x00"):
		return &wide{}
	case strings.HasPrefix(text, "\xfe\xff"), strings.HasPrefix(text, "\x00<\x00?"):
		return &wide{big: true}
	}
	switch charset(h) {
	case "utf-16", "utf-16le": // the first is the second to browsers (WHATWG Encoding section 4.2)
		return &wide{}
	case "utf-16be":
		return &wide{big: true}
	}
	return nil
}

const (
	// manyBytes is how much text misnamed wants, and mostBytes how much it looks at.
	manyBytes = 16
	mostBytes = 256
)

// misnamed says what is wrong with the charset of a text that begins so, which wideOf took to be
// UTF-16 or not; "" when nothing is.
func misnamed(first []byte, isWide bool) string {
	first = first[:min(len(first), mostBytes)&^1]
	if len(first) < manyBytes {
		return ""
	}
	var nuls [2]int
	controls := 0
	for i, c := range first {
		switch {
		case c == 0:
			nuls[i%2]++
		case c < ' ' && !isSpace(c):
			controls++
		}
	}
	most, least := max(nuls[0], nuls[1]), min(nuls[0], nuls[1])
	switch {
	case isWide && most == 0 && controls == 0: // UTF-16 has a NUL in each space and line's end
		return "the text says that it is in UTF-16, and is not"
	case !isWide && least == 0 && most > len(first)/2*3/4: // ASCII for the most part
		return "the text is in UTF-16, and does not say so"
	}
	return ""
}

func (w *wide) read(b []byte) uint16 {
	if w.big {
		return uint16(b[0])<<8 | uint16(b[1])
	}
	return uint16(b[1])<<8 | uint16(b[0])
}

func (w *wide) append(dst []byte, unit uint16) []byte {
	if w.big {
		return append(dst, byte(unit>>8), byte(unit))
	}
	return append(dst, byte(unit), byte(unit>>8))
}

// toNarrow is the UTF-8 of what src, behind what came before, is certain to be. It is good until
// the next call.
func (w *wide) toNarrow(src []byte, final bool) []byte {
	w.came = append(w.came, src...)
	w.in = w.in[:0]
	i := 0
	for ; i+2 <= len(w.came); i += 2 {
		unit := w.read(w.came[i:])
		if unit < utf8.RuneSelf {
			w.in = append(w.in, byte(unit))
			continue
		}
		r := rune(unit)
		if high := 0xd800 <= unit && unit < 0xdc00; high {
			if i+4 > len(w.came) && !final {
				break
			}
			if i+4 <= len(w.came) {
				if pair := utf16.DecodeRune(r, rune(w.read(w.came[i+2:]))); pair != utf8.RuneError {
					r = pair
					i += 2
				}
			}
		}
		if utf16.IsSurrogate(r) {
			w.in = append(w.in, 0xe0|byte(r>>12), 0x80|byte(r>>6)&0x3f, 0x80|byte(r)&0x3f)
		} else {
			w.in = utf8.AppendRune(w.in, r)
		}
	}
	if final {
		w.odd = append(w.odd, w.came[i:]...)
		i = len(w.came)
	}
	w.came = w.came[:copy(w.came, w.came[i:])]
	return w.in
}

// toWide is the UTF-16 of src. It is good until the next call.
func (w *wide) toWide(src []byte, final bool) []byte {
	w.narrow = append(w.narrow, src...)
	w.out = w.out[:0]
	b := w.narrow
	for len(b) > 0 {
		c, n := b[0], 1
		switch {
		case c >= 0xf0:
			n = 4
		case c >= 0xe0:
			n = 3
		case c >= 0xc0:
			n = 2
		}
		if len(b) < n {
			break
		}
		r := rune(c)
		if n > 1 {
			r = rune(c & (0x7f >> n))
		}
		for _, more := range b[1:n] {
			r = r<<6 | rune(more&0x3f)
		}
		if r >= 0x10000 {
			high, low := utf16.EncodeRune(r)
			w.out = w.append(w.append(w.out, uint16(high)), uint16(low))
		} else {
			w.out = w.append(w.out, uint16(r))
		}
		b = b[n:]
	}
	w.narrow = w.narrow[:copy(w.narrow, b)]
	if final {
		w.out = append(w.out, w.odd...)
	}
	return w.out
}
