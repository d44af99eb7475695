package rewrite

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// reference is the slow and obvious matcher that the engine is compared with. It parts the whole
// text into characters, whatever their spelling, and tries at every one of them to read slashes and
// a host behind them.
func reference(r *Replacer, text string) string {
	chars := characters(text)
	var out strings.Builder
	copied := 0
	for i := 0; i < len(chars); i++ {
		found, ok := referenceMatch(r, text, chars, i)
		if !ok && r.bare {
			found, ok = referenceBare(r, text, chars, i)
		}
		if !ok {
			continue
		}
		out.WriteString(text[copied:found.start])
		out.WriteString(found.text)
		copied = found.end
		for i+1 < len(chars) && chars[i+1].start < found.end {
			i++
		}
	}
	return out.String() + text[copied:]
}

// character is one character in some spelling.
type character struct {
	c          byte
	start, end int
	s          spelling
}

var (
	percentForm = regexp.MustCompile(`^%(?:25){0,8}([0-9A-Fa-f]{2})`)
	escapeForm  = regexp.MustCompile(`^\\{1,32}(?:u([0-9A-Fa-f]{4})|x([0-9A-Fa-f]{2})|([nrtbfv]))`)
	entityForm  = regexp.MustCompile(`^&(?:#([0-9]{1,6})|#[xX]([0-9A-Fa-f]{1,5})|([a-zA-Z]{2,7}));`)
)

func characters(text string) (chars []character) {
	hex := func(s string, base int) byte {
		n, _ := strconv.ParseInt(s, base, 64)
		return byte(min(n, beyond))
	}
	for i := 0; i < len(text); {
		next := character{text[i], i, i + 1, plain}
		if m := percentForm.FindStringSubmatch(text[i:]); m != nil {
			next = character{hex(m[1], 16), i, i + len(m[0]), percent}
		} else if m := escapeForm.FindStringSubmatch(text[i:]); m != nil {
			next = character{hex(m[1]+m[2], 16), i, i + len(m[0]), escape}
			if m[3] != "" {
				next.c = '\n'
			}
		} else if m := entityForm.FindStringSubmatch(text[i:]); m != nil {
			named := slices.IndexFunc(entityNames, func(e struct {
				name string
				char byte
			}) bool {
				return e.name == m[3]
			})
			switch {
			case m[1] != "":
				next = character{hex(m[1], 10), i, i + len(m[0]), entity}
			case m[2] != "":
				next = character{hex(m[2], 16), i, i + len(m[0]), entity}
			case named >= 0:
				next = character{entityNames[named].char, i, i + len(m[0]), entity}
			}
		}
		chars, i = append(chars, next), next.end
	}
	return chars
}

type referenceFound struct {
	start, end int
	text       string
}

// referenceMatch reads \*/\*/host at chars[i].
func referenceMatch(r *Replacer, text string, chars []character, i int) (referenceFound, bool) {
	at := func(i int) character {
		if i < 0 || i >= len(chars) {
			return character{}
		}
		return chars[i]
	}
	if at(i).c != '/' {
		return referenceFound{}, false
	}
	second := i + 1
	for at(second).c == '\\' && at(second).s == at(i).s {
		second++
	}
	if at(second).c != '/' || at(second).s != at(i).s {
		return referenceFound{}, false
	}
	first := i
	for at(first-1).c == '\\' && at(first-1).s == at(i).s {
		first--
	}

	scheme, start, colon := "", at(first).start, ""
	before := at(first - 1)
	if first > 0 && before.c == ':' {
		colon = text[before.start:before.end]
		for _, name := range schemes {
			if strings.HasSuffix(strings.ToLower(text[:before.start]), name) {
				scheme, start = name, before.start-len(name)
				break
			}
		}
		k := first - 1 - len(scheme)
		ambiguous := k >= 2 && at(k-1).s == plain && at(k-2).end == at(k-1).start && text[at(k-1).start-1] >= beyond
		if (scheme == "" || scheme[0] == 'w') && isSchemeByte(at(k-1).c) && !ambiguous {
			return referenceFound{}, false
		}
	} else if first > 0 && (isPathByte(before.c) || before.s == percent && at(i).s != percent) {
		return referenceFound{}, false
	}

	host := second + 1
	for end := host; end < len(chars) && end-host < maxHost; end++ {
		c := at(end)
		if c.s != plain || !isHostByte(c.c) && c.c != '.' && c.c != '*' {
			break
		}
		found, ok := referenceURL(r, text, chars, host, end+1, scheme)
		if !ok {
			continue
		}
		rule := found.rule
		to := rule.to.fill(text[at(host).start : at(host).start+found.labels])
		from := at(host).start
		written := ""
		if scheme != "" {
			secure := scheme == "https" || scheme == "wss"
			own := rule.from.Scheme == "https" == secure
			if secure != (to.Scheme == "https") && (own || to.Port != "") {
				name := map[string]string{"http": "https", "https": "http", "ws": "wss", "wss": "ws"}[scheme]
				from, written = start, name+text[before.start:at(host).start]
			}
		}
		h := to
		h.Port = ""
		written += h.Authority()
		if to.Port != "" {
			slash := text[at(second).start:at(second).end]
			switch {
			case found.colon != "":
				written += found.colon
			case colon != "":
				written += colon
			case at(i).s == percent || at(i).s == escape:
				a := "A"
				if strings.HasSuffix(slash, "f") {
					a = "a"
				}
				written += slash[:len(slash)-2] + "3" + a
			default:
				written += ":"
			}
			written += to.Port
		}
		return referenceFound{from, found.end, written}, true
	}
	return referenceFound{}, false
}

var (
	openingQuote = regexp.MustCompile(`(\\*)(["'\x60])$`)
	bareHost     = regexp.MustCompile(`^([A-Za-z0-9_.*-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?`)
)

// referenceBare reads a host alone in quotes at chars[i].
func referenceBare(r *Replacer, text string, chars []character, i int) (referenceFound, bool) {
	start := chars[i].start
	host := bareHost.FindStringSubmatch(text[start:])
	if host == nil {
		return referenceFound{}, false
	}
	end := start + len(host[0])
	if opening := openingQuote.FindStringSubmatch(text[:start]); opening != nil {
		slashes := opening[1][max(0, len(opening[1])-maxBackslash):]
		if !strings.HasPrefix(text[end:], slashes+opening[2]) {
			return referenceFound{}, false
		}
	} else {
		after := slices.IndexFunc(chars, func(c character) bool { return c.start == end })
		if i == 0 || after < 0 || chars[i-1].s != entity || chars[after].s != entity ||
			!strings.Contains(`"'`, string(rune(chars[i-1].c))) || chars[after].c != chars[i-1].c ||
			chars[after].end-chars[after].start != chars[i-1].end-chars[i-1].start {
			return referenceFound{}, false
		}
	}
	name := strings.ToLower(strings.Trim(host[1], "[]"))
	if len(host[1]) > maxHost {
		return referenceFound{}, false
	}
	rule, labels := r.find([]byte(name), "", host[2])
	if rule == nil {
		return referenceFound{}, false
	}
	return referenceFound{start, end, rule.to.fill(host[1][:labels]).Authority()}, true
}

type referenceRule struct {
	rule   *rule
	labels int
	end    int
	colon  string
}

// referenceURL looks at the host chars[host:end] and what follows it.
func referenceURL(r *Replacer, text string, chars []character, host, end int, scheme string) (referenceRule, bool) {
	at := func(i int) byte {
		if i >= len(chars) {
			return 0
		}
		return chars[i].c
	}
	stops := func(i int) bool { return !isHostByte(at(i)) && at(i) != '@' }
	hostEnd := chars[end-1].end
	found := referenceRule{end: hostEnd}
	port, dotted := "", at(end) == '.'
	if dotted && !stops(end+1) {
		return found, false
	}
	if dotted { // the name is absolute before a slash or a port
		slash := end + 1
		for at(slash) == '\\' {
			slash++
		}
		if end++; at(slash) == '/' {
			found.end = chars[end-1].end
		}
	}
	switch {
	case at(end) == ':':
		digits := end + 1
		for digits < len(chars) && digits-end <= 5 && chars[digits].s == plain && '0' <= at(digits) && at(digits) <= '9' {
			digits++
		}
		if !stops(digits) {
			return found, false
		}
		if digits > end+1 || at(digits) == '/' {
			found.colon = text[chars[end].start:chars[end].end]
			found.end = chars[digits-1].end
			port = text[chars[end].end:found.end]
		}
	case !dotted && !stops(end):
		return found, false
	}
	name := strings.ToLower(text[chars[host].start:hostEnd])
	found.rule, found.labels = r.find([]byte(name), scheme, port)
	return found, found.rule != nil
}
