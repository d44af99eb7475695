package rewrite

import "slices"

// A URL on a page is spelled in many ways, and a host name always literally. What varies is the
// punctuation around it: a unit is one character in any of these spellings.
//
//	plain       /  :             (\/ is a backslash unit and a plain slash)
//	percent     %2F %3A          and again: %252F, %25252F … up to maxPercent times
//	escape      \u002f \x2f      behind any number of backslashes up to maxBackslash
//	entity      &#47; &#x2F; &sol;
//
// unit reads one forwards, unitBefore backwards. A new spelling is a case in both.
type spelling uint8

const (
	plain spelling = iota
	percent
	escape
	entity
)

const (
	maxPercent   = 8  // times a percent sign may itself be encoded
	maxBackslash = 32 // backslashes in front of one escape or slash: JSON in JSON, five deep
	maxEntity    = 10 // bytes of an entity, & and ; included
	maxUnit      = maxBackslash + 6
)

// entityNames are the named entities that stand for URL punctuation or for what stands around a
// URL (HTML section 13.5). Any other is not part of a URL.
var entityNames = []struct {
	name string
	char byte
}{
	{"amp", '&'}, {"quot", '"'}, {"apos", '\''}, {"lt", '<'}, {"gt", '>'}, {"sol", '/'}, {"colon", ':'},
	{"period", '.'}, {"commat", '@'}, {"bsol", '\\'}, {"lowbar", '_'}, {"hyphen", '-'}, {"equals", '='},
}

// beyond is what a unit for a character outside ASCII decodes to.
const beyond = 0x80

// unit is the character whose spelling starts at b[i], and its width in bytes. Width 0 says that
// b ends before that is certain.
func unit(b []byte, i int) (c byte, width int) {
	if i >= len(b) {
		return 0, 0
	}
	switch b[i] {
	case '%':
		return percentUnit(b, i)
	case '\\':
		return escapeUnit(b, i)
	case '&':
		return entityUnit(b, i)
	}
	return b[i], 1
}

func percentUnit(b []byte, i int) (c byte, width int) {
	j := i + 1
	for n := 0; n < maxPercent && j+2 <= len(b) && b[j] == '2' && b[j+1] == '5'; n++ {
		j += 2
	}
	for k := j; k < j+2; k++ {
		if k == len(b) {
			return 0, 0
		}
		if !isHex(b[k]) {
			return '%', max(1, j-i)
		}
	}
	return unhex(b[j])<<4 | unhex(b[j+1]), j + 2 - i
}

func escapeUnit(b []byte, i int) (c byte, width int) {
	j := i
	for j < len(b) && b[j] == '\\' && j-i < maxBackslash {
		j++
	}
	if j == len(b) {
		return 0, 0
	}
	digits := 0
	switch b[j] {
	case 'u':
		digits = 4
	case 'x':
		digits = 2
	case 'n', 'r', 't', 'b', 'f', 'v':
		return '\n', j + 1 - i
	}
	if digits == 0 {
		return '\\', j - i
	}
	code := 0
	for k := j + 1; k <= j+digits; k++ {
		if k == len(b) {
			return 0, 0
		}
		if !isHex(b[k]) {
			return '\\', j - i
		}
		code = code<<4 | int(unhex(b[k]))
	}
	return ascii(code), j + 1 + digits - i
}

func entityUnit(b []byte, i int) (c byte, width int) {
	for j := i + 1; j < i+maxEntity; j++ {
		if j == len(b) {
			return 0, 0
		}
		if b[j] == ';' {
			if c, ok := entityChar(b[i+1 : j]); ok {
				return c, j + 1 - i
			}
			break
		}
		if !isAlnum(b[j]) && b[j] != '#' {
			break
		}
	}
	return '&', 1
}

// entityChar is the character of an entity without & and ;.
func entityChar(name []byte) (c byte, ok bool) {
	if len(name) < 2 || name[0] != '#' {
		for _, e := range entityNames {
			if string(name) == e.name {
				return e.char, true
			}
		}
		return 0, false
	}
	digits, base := name[1:], 10
	if digits[0] == 'x' || digits[0] == 'X' {
		digits, base = digits[1:], 16
	}
	code := 0
	for _, d := range digits {
		if !isHex(d) || int(unhex(d)) >= base {
			return 0, false
		}
		code = code*base + int(unhex(d))
	}
	return ascii(code), len(digits) > 0
}

// unitBefore is the character whose spelling ends before b[i], where that starts, and the
// spelling. At the start of b it is a NUL.
func unitBefore(b []byte, i int) (c byte, start int, s spelling) {
	if i == 0 {
		return 0, 0, plain
	}
	c = b[i-1]
	switch {
	case c == ';':
		if c, start, ok := entityBefore(b, i); ok {
			return c, start, entity
		}
	case isHex(c):
		if c, start, ok := percentBefore(b, i); ok {
			return c, start, percent
		}
		for _, digits := range [...]int{4, 2} {
			if c, start, ok := escapeBefore(b, i, digits); ok {
				return c, start, escape
			}
		}
	}
	if i >= 2 && b[i-2] == '\\' && isControlLetter(c) {
		return '\n', backslashesBefore(b, i-1), escape
	}
	return c, i - 1, plain
}

func entityBefore(b []byte, i int) (c byte, start int, ok bool) {
	for j := i - 2; j >= 0 && j > i-1-maxEntity; j-- {
		if b[j] == '&' {
			c, width := entityUnit(b[:i], j)
			return c, j, width == i-j
		}
		if !isAlnum(b[j]) && b[j] != '#' {
			break
		}
	}
	return 0, 0, false
}

func percentBefore(b []byte, i int) (c byte, start int, ok bool) {
	if i < 3 || !isHex(b[i-2]) {
		return 0, 0, false
	}
	j := i - 2
	for n := 0; n < maxPercent && j >= 2 && b[j-2] == '2' && b[j-1] == '5'; n++ {
		j -= 2
	}
	if j == 0 || b[j-1] != '%' {
		return 0, 0, false
	}
	return unhex(b[i-2])<<4 | unhex(b[i-1]), j - 1, true
}

func escapeBefore(b []byte, i, digits int) (c byte, start int, ok bool) {
	letter := i - digits - 1
	if letter < 1 || b[letter-1] != '\\' || b[letter] != 'u' && digits == 4 || b[letter] != 'x' && digits == 2 {
		return 0, 0, false
	}
	code := 0
	for _, d := range b[letter+1 : i] {
		if !isHex(d) {
			return 0, 0, false
		}
		code = code<<4 | int(unhex(d))
	}
	return ascii(code), backslashesBefore(b, letter), true
}

// backslashesBefore is where the run of backslashes that ends before b[i] starts.
func backslashesBefore(b []byte, i int) int {
	for n := 0; n < maxBackslash && i > 0 && b[i-1] == '\\'; n++ {
		i--
	}
	return i
}

// slashAt is the end of the slash that starts at b[i], with the backslashes before it in any
// spelling. ok is false when there is none; more says that b ends before that is certain.
func slashAt(b []byte, i int) (end int, ok, more bool) {
	for start := i; i-start <= maxBackslash+maxUnit; {
		c, width := unit(b, i)
		if width == 0 {
			return 0, false, true
		}
		i += width
		if c == '/' {
			return i, true, false
		}
		if c != '\\' {
			break
		}
	}
	return 0, false, false
}

// slashBefore is the start of the slash that ends before b[i], with its backslashes; bare is the
// start without them.
func slashBefore(b []byte, i int) (start, bare int, s spelling, ok bool) {
	c, bare, s := unitBefore(b, i)
	if c != '/' {
		return 0, 0, s, false
	}
	start = bare
	for start > 0 && bare-start < maxBackslash {
		c, j, t := unitBefore(b, start)
		if c != '\\' || t != s {
			break
		}
		start = j
	}
	return start, bare, s, true
}

// appendColon appends a colon in the spelling of the slash given.
func appendColon(dst, slash []byte, s spelling) []byte {
	if s != percent && s != escape {
		return append(dst, ':')
	}
	n := len(slash)
	return append(append(dst, slash[:n-2]...), '3', slash[n-1]-'F'+'A')
}

// isPathByte says whether c before two slashes makes them part of a longer path or URL, so that
// what follows is not a host: RFC 3986 section 3.3, less the punctuation that HTML, CSS,
// JavaScript and prose put in front of a URL: ' ( ) * , ; =
func isPathByte(c byte) bool {
	return isAlnum(c) || c >= beyond || slices.Contains([]byte("/.-_~:@%+$!&"), c)
}

func isSchemeByte(c byte) bool { return isAlnum(c) || c == '+' || c == '-' || c == '.' }

func isAlnum(c byte) bool { return isHostByte(c) && c != '-' && c != '_' }

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c|0x20 && c|0x20 <= 'f'
}

func unhex(c byte) byte {
	if c <= '9' {
		return c - '0'
	}
	return c | 0x20 - 'a' + 10
}

func isControlLetter(c byte) bool {
	switch c {
	case 'n', 'r', 't', 'b', 'f', 'v':
		return true
	}
	return false
}

func ascii(code int) byte { return byte(min(code, beyond)) }

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}
