package rewrite

// A host name found by the search is part of a URL that is exchanged when all of this holds:
//
//  1. hostEnd: it ends there: no letter, dot and letter, "@" or unmapped port follows.
//  2. hostStart: the whole host around it starts right behind a slash.
//  3. Replacer.find: that whole host has a rule.
//  4. leadBefore: there are two slashes, and before them http:, https:, ws: or wss:, or a colon
//     alone ("://" put together by a script), or nothing that could make them part of a path.
//
// For a Replacer that takes bare hosts, the host may stand in quotes in the place of 2 and 4.
//
// Every step takes its characters through unit, so that each spelling is known everywhere.

// tailing is what follows a host.
type tailing struct {
	end        int // of host and port: where copying goes on
	colon      int // the port's colon starts here, 0 when there is none
	digits     int // and its digits here
	ok, unsure bool
}

// hostEnd looks at what follows a host that ends before b[i]. It is unsure when b ends before
// that is certain.
func hostEnd(b []byte, i int) tailing {
	unsure := tailing{unsure: true, ok: true, end: i}
	c, width := unit(b, i)
	switch {
	case width == 0:
		return unsure
	case isHostByte(c) || c == '@':
		return tailing{}
	case c == '.':
		return afterDot(b, i, i+width)
	case c == ':':
		return portAt(b, i, i+width)
	}
	return tailing{ok: true, end: i}
}

// afterDot: a dot is the end of a sentence, and stays, unless the host goes on. Before a slash or a
// port it makes the name absolute: it goes, for behind a port that is written it would be no URL.
func afterDot(b []byte, i, next int) tailing {
	c, width := unit(b, next)
	switch {
	case width == 0:
		return tailing{unsure: true, ok: true, end: i}
	case isHostByte(c) || c == '@':
		return tailing{}
	case c == ':':
		found := portAt(b, next, next+width)
		if found.colon == 0 {
			found.end = i
		}
		return found
	}
	_, slash, more := slashAt(b, next)
	if slash {
		return tailing{ok: true, end: next}
	}
	return tailing{ok: true, end: i, unsure: more}
}

// portAt: the digits of a port, or a colon alone, which belongs to the URL only before a slash.
func portAt(b []byte, colon, digits int) tailing {
	i := digits
	for i < len(b) && i-digits < 5 && '0' <= b[i] && b[i] <= '9' {
		i++
	}
	c, width := unit(b, i)
	found := tailing{end: i, colon: colon, digits: digits}
	if i == digits && c != '/' {
		found = tailing{end: colon}
	}
	found.unsure = width == 0
	found.ok = found.unsure || !isHostByte(c) && c != '@'
	return found
}

// hostStart is where the host that ends before b[i] starts, made of these bytes; ok is false when no
// slash stands before it.
func hostStart(b []byte, i int, of byte) (start int, ok bool) {
	start = i
	if i > 0 && b[i-1] == ']' {
		start = addressStart(b, i)
	}
	for start > 0 && i-start <= maxHost+2*maxPercent+6 && hostBytes[b[start-1]]&of != 0 {
		start--
	}
	if start == 0 {
		return 0, false
	}
	switch b[start-1] {
	case '/':
		return start, true
	case ';':
		c, _, _ := unitBefore(b, start)
		return start, c == '/'
	case '%', '\\':
		c, width := unit(b, start-1)
		return start - 1 + width, c == '/' && start-1+width <= i
	}
	return start, false
}

// addressStart is where the address in brackets that ends before b[i] starts; i when there is none.
func addressStart(b []byte, i int) int {
	for start := i - 1; start > 0 && i-start <= maxIPv6+1; start-- {
		if b[start-1] == '[' {
			return start - 1
		}
	}
	return i
}

// lead is what stands before a host.
type lead struct {
	scheme      string // http, https, ws, wss; "" when there is none
	schemeStart int
	colon       int // the colon starts here and ends at slashes; the same when there is none
	slashes     int
	bare        int // the second slash without its backslashes
	spelling    spelling
}

// mostly is what stands before most hosts.
const mostly = "https://"

// leadOfMostly is that of a host that starts at b[i].
func leadOfMostly(i int) lead {
	return lead{scheme: "https", schemeStart: i - 8, colon: i - 3, slashes: i - 2, bare: i - 1, spelling: plain}
}

// leadBefore reads the slashes and the scheme before the host that starts at b[i].
func leadBefore(b []byte, i int) (l lead, ok bool) {
	if i >= len(mostly) && string(b[i-len(mostly):i]) == mostly {
		return leadOfMostly(i), true
	}
	second, bare, s, ok := slashBefore(b, i)
	if !ok {
		return l, false
	}
	first, _, t, ok := slashBefore(b, second)
	if !ok || s != t {
		return l, false
	}
	l = lead{schemeStart: first, colon: first, slashes: first, bare: bare, spelling: s}
	if first == 0 {
		return l, true
	}
	c, start, t := unitBefore(b, first)
	if c == ':' {
		l.colon = start
		return l, l.readScheme(b)
	}
	return l, !isPathByte(c) && (t != percent || s == percent)
}

// schemes in the order in which a text's end is compared with them.
var schemes = [...]string{"https", "http", "wss", "ws"}

// readScheme reads the scheme before the colon; false when it is another one than ours. Nothing
// but http and https ends in these, so that whatever stands before them is no part of the scheme
// (GBK text, "\n", "git+", a missing space); "ws" ends many words.
func (l *lead) readScheme(b []byte) bool {
	for _, name := range schemes {
		start := l.colon - len(name)
		if start < 0 || !equalFold(b[start:l.colon], name) {
			continue
		}
		if name[0] == 'w' && continuesScheme(b, start) {
			return false
		}
		l.scheme, l.schemeStart = name, start
		return true
	}
	l.schemeStart = l.colon
	return !continuesScheme(b, l.colon)
}

// continuesScheme says whether the character before b[i] belongs to a scheme that goes on there.
// A letter behind a byte outside ASCII may be the second half of a GBK, Big5 or Shift_JIS
// character and does not.
func continuesScheme(b []byte, i int) bool {
	c, start, s := unitBefore(b, i)
	if !isSchemeByte(c) {
		return false
	}
	return s != plain || start == 0 || b[start-1] < beyond
}

func equalFold(b []byte, lowerCase string) bool {
	if len(b) != len(lowerCase) {
		return false
	}
	for i, c := range b {
		if lower(c) != lowerCase[i] {
			return false
		}
	}
	return true
}

// startsMatch says whether b, which may go on, ends within what may become a match that starts
// at b[i], with a host made of these bytes. It may say so of more than leadBefore and hostEnd accept,
// never of less.
func startsMatch(b []byte, i int, of byte) bool {
	if lower(b[i]) == 'h' || lower(b[i]) == 'w' {
		end, more := schemeAt(b, i)
		if more || end == i {
			return more
		}
		i = end
	}
	for range 2 {
		end, ok, more := slashAt(b, i)
		if !ok {
			return more
		}
		i = end
	}
	end := i
	if end < len(b) && b[end] == '[' {
		for end < len(b) && end-i <= maxIPv6 && b[end] != ']' {
			end++
		}
		if end == len(b) || end-i > maxIPv6 {
			return end == len(b)
		}
		end++
	}
	for end < len(b) && hostBytes[b[end]]&of != 0 {
		end++
	}
	switch {
	case end-i > maxHost+1:
		return false
	case end == len(b):
		return true
	case end > i && b[end-1] == '.':
		return afterDot(b, end-1, end).unsure
	}
	return hostEnd(b, end).unsure
}

// maxIPv6 is the longest IPv6 literal without the closing bracket.
const maxIPv6 = len("[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255")

// schemeAt is the end of one of our schemes and its colon at b[i], i when there is none.
func schemeAt(b []byte, i int) (end int, more bool) {
	for _, name := range schemes {
		rest := b[i:min(len(b), i+len(name))]
		if !equalFold(rest, name[:len(rest)]) {
			continue
		}
		end := i + len(rest)
		c, width := unit(b, end)
		if width == 0 {
			return i, true
		}
		if c == ':' {
			return end + width, false
		}
	}
	return i, false
}
