package rewrite

import (
	"math/bits"
	"strings"
)

// Stream exchanges URLs in a text that comes in chunks. Its output is the same however the text
// is cut, and it holds back only what may be the start of a match: at most maxHeld bytes. It
// keeps a copy of the last maxSeen bytes it has let go, for a match may depend on what stands
// before it. Nothing is allocated; the whole state is its 2 KiB.
//
//  1. Append puts a small chunk behind what is kept and runs over both.
//  2. Of a large chunk only the first maxSeam bytes go there; the rest is read where it lies.
//  3. keep stores what the next chunk needs.
//  4. Pass spares the copying where nothing matches.
//
// A Stream is for one goroutine. The zero value is ready after Reset.
type Stream struct {
	replacer *Replacer
	kept     [maxSeen + maxHeld + maxSeam]byte
	seen     int // kept[:seen] has been let go
	held     int // kept[seen:held] is held back

	exchanged int // URLs so far
}

const (
	// maxSlash: a slash and, before it, backslashes in the same spelling.
	maxSlash = maxUnit + maxBackslash + maxUnit
	// maxHeld: a scheme, its colon, two slashes, a host, a dot, and either a third slash or the colon
	// and five digits of a port with the unit behind them, which is less.
	maxHeld = 5 + maxUnit + 2*maxSlash + maxHost + maxUnit + maxSlash
	// maxSeen: what leadBefore reads before a host: two slashes, a colon, a scheme, one unit more
	// and the byte before that.
	maxSeen = 2*maxSlash + maxUnit + 5 + maxUnit + 1
	// maxSeam leaves, after the longest hold, maxSeen bytes of the chunk behind the seam.
	maxSeam = maxHeld + maxSeen
)

// NewStream is a stream at its start.
func (r *Replacer) NewStream() *Stream { return &Stream{replacer: r} }

// Reset makes s a stream of r at its start.
func (s *Stream) Reset(r *Replacer) { s.replacer, s.seen, s.held, s.exchanged = r, 0, 0, 0 }

// Held is how many bytes s holds back.
func (s *Stream) Held() int { return s.held - s.seen }

// Append appends to dst what is certain once src has come; after the final chunk all of it.
func (s *Stream) Append(dst, src []byte, final bool) []byte {
	var done, exchanged int
	if len(src) <= maxSeam {
		s.held += copy(s.kept[s.held:], src)
		dst, done, exchanged = s.replacer.run(dst, s.kept[:s.held], s.seen, final)
		s.exchanged += exchanged
		s.keep(s.kept[:s.held], done)
		return dst
	}
	start := 0
	if s.held > 0 {
		before := s.held
		n := copy(s.kept[before:], src[:maxSeam])
		dst, start, exchanged = s.replacer.run(dst, s.kept[:before+n], s.seen, false)
		s.exchanged += exchanged
		start -= before
	}
	dst, done, exchanged = s.replacer.run(dst, src, start, final)
	s.exchanged += exchanged
	s.keep(src, done)
	return dst
}

// Pass is Append where nothing is to be exchanged, and copies nothing: b begins with the Held bytes
// (CopyHeld), and what has come stands behind them. It says ok when b[:done] is to be let go as it
// is; otherwise s has not changed and awaits an Append of what has come.
func (s *Stream) Pass(b []byte, final bool) (done int, ok bool) {
	seam := s.kept[:s.held+copy(s.kept[s.held:], b[s.Held():][:min(maxSeam, len(b)-s.Held())])]
	short := len(seam)-s.seen == len(b)
	end, ok := s.replacer.skim(seam, s.seen, final && short)
	if !ok {
		return 0, false
	}
	if done = end - s.seen; short {
		s.keep(seam, end)
		return done, true
	}
	if done, ok = s.replacer.skim(b, done, final); ok {
		s.keep(b, done)
	}
	return done, ok
}

// CopyHeld copies what s holds back to b, which has room for maxHeld bytes.
func (s *Stream) CopyHeld(b []byte) int { return copy(b, s.kept[s.seen:s.held]) }

// keep stores b from maxSeen before done.
func (s *Stream) keep(b []byte, done int) {
	s.seen = min(done, maxSeen)
	s.held = copy(s.kept[:], b[done-s.seen:])
}

// run appends b[start:] to dst with its URLs exchanged, up to done: the end when b is final, else
// where something starts that may become a match. b[:start] is what came before.
func (r *Replacer) run(dst, b []byte, start int, final bool) (out []byte, done, replaced int) {
	limit := len(b)
	if !final {
		limit = r.undecided(b, start)
	}
	done = start
	var m match
	for i := start; r.next(&m, b, &i, done, limit); i += r.search.stride {
		dst = r.append(append(dst, b[done:m.start()]...), b, &m)
		done = m.end
		replaced++
	}
	if done < limit {
		dst = append(dst, b[done:limit]...)
		done = limit
	}
	return dst, done, replaced
}

// skim is run as far as it would only copy; ok is false when there is a match.
func (r *Replacer) skim(b []byte, start int, final bool) (done int, ok bool) {
	limit := len(b)
	if !final {
		limit = r.undecided(b, start)
	}
	var m match
	i := start
	return limit, !r.next(&m, b, &i, start, limit)
}

// next finds the next match that the search comes upon from b[i] on, and moves i there. Its host
// starts between done, where the match before ended, and limit.
func (r *Replacer) next(m *match, b []byte, i *int, done, limit int) (found bool) {
	for *i = r.search.next(b, *i); *i < len(b); *i = r.search.next(b, *i+r.search.stride) {
		for ends := r.search.endsAt(b, *i); ends != 0; ends &= ends - 1 {
			end := *i + bits.TrailingZeros32(ends)
			if end <= len(b) && r.verify(m, b, end) && m.host < limit && m.start() >= done {
				return true
			}
		}
	}
	return false
}

// undecided is where, at the end of b, something starts that may become a match: somewhere in the
// last run of bytes that URLs up to their port are spelled with.
func (r *Replacer) undecided(b []byte, start int) int {
	run, least := len(b), max(start, len(b)-maxHeld)
	for run > least && r.spells[b[run-1]] {
		run--
	}
	for i := run; i < len(b); i++ {
		if r.bare && startsBare(b, i, r.host) {
			return i
		}
		switch b[i] {
		case '/', '\\', '%', '&', 'h', 'H', 'w', 'W':
			if startsMatch(b, i, r.host) {
				return i
			}
		}
	}
	return len(b)
}

// spellsURL are the bytes that what startsMatch takes is made of.
var spellsURL = func() (table [256]bool) {
	for c := range table {
		table[c] = isHostByte(byte(c)) || strings.IndexByte(`.*:[]/\%&#;`, byte(c)) >= 0
	}
	return table
}()

// match is one URL to exchange.
type match struct {
	lead
	tailing
	rule     *rule
	recent   *rule // rule, when it is of one host: the next match is often of the same
	host     int   // the whole host starts here
	labels   int   // and this many bytes of it are the wildcard's
	exchange bool
	secure   bool // the scheme to write is the one with TLS
}

// start is where the exchange begins.
func (m *match) start() int {
	if m.exchange {
		return m.schemeStart
	}
	return m.host
}

// verify says whether a URL's host that has a rule ends before b[end], and describes that in m.
func (r *Replacer) verify(m *match, b []byte, end int) (ok bool) {
	if m.again(b, end) {
		return true
	}
	if m.tailing = hostEnd(b, end); !m.tailing.ok {
		return false
	}
	if r.host != ofHost && goesOn(b, end) {
		return false
	}
	if m.host, ok = hostStart(b, end, r.host); m.host == end || end-m.host > maxHost {
		return false
	}
	if ok {
		m.lead, ok = leadBefore(b, m.host)
	}
	if !ok && !r.verifyBare(m, b) {
		return false
	}
	port := ""
	if m.tailing.colon > 0 {
		port = string(b[m.digits:m.end])
	}
	if m.recent == nil || string(b[m.host:end]) != m.recent.from.Host || !m.recent.accepts(m.scheme, port) {
		rule, labels := r.findFolded(b[m.host:end], m.scheme, port)
		if rule == nil {
			return false
		}
		m.rule, m.labels, m.recent = rule, labels, nil
		if labels == 0 {
			m.recent = rule
		}
	}
	m.chooseScheme()
	return true
}

// again is verify for what most matches are: the host of the match before, behind "https://" and
// before what ends a host in any spelling.
func (m *match) again(b []byte, end int) bool {
	if m.recent == nil || end >= len(b) || !endsHost[b[end]] {
		return false
	}
	host := end - len(m.recent.from.Host)
	if host < len(mostly) || string(b[host-len(mostly):host]) != mostly || string(b[host:end]) != m.recent.from.Host || !m.recent.accepts("https", "") {
		return false
	}
	m.tailing, m.host, m.lead = tailing{ok: true, end: end}, host, leadOfMostly(host)
	m.chooseScheme()
	return true
}

// endsHost are bytes that end a host and begin no other spelling of one that goes on.
var endsHost = [256]bool{'/': true, '"': true, '\'': true, '`': true, ' ': true, '\n': true, '<': true, '>': true, ')': true, '?': true, '#': true, ',': true, ';': true}

// verifyBare says whether m's host is alone in quotes, if r takes such.
func (r *Replacer) verifyBare(m *match, b []byte) bool {
	if !r.bare || !bareStart(b, m.host) {
		return false
	}
	if ok, _ := bareEnd(b, m.host, m.tailing.end); !ok {
		return false
	}
	m.lead = lead{schemeStart: m.host, colon: m.host, slashes: m.host, bare: m.host, spelling: plain}
	return true
}

// findFolded is find for a host, or an address in brackets, in any case.
func (r *Replacer) findFolded(host []byte, scheme, port string) (*rule, int) {
	var space [maxHost]byte
	folded := space[:len(host)]
	for i, c := range host {
		folded[i] = lower(c)
	}
	if folded[0] == '[' {
		folded = folded[1 : len(folded)-1]
	}
	return r.find(folded, scheme, port)
}

// chooseScheme: a URL with the scheme of its side gets the scheme of the other, and whatever
// leads to an explicit port gets the one scheme that is served there.
func (m *match) chooseScheme() {
	if m.exchange = false; m.scheme == "" {
		return
	}
	to, secure := m.rule.to, m.scheme == "https" || m.scheme == "wss"
	own := secure == (m.rule.from.Scheme == "https")
	m.secure = to.Scheme == "https"
	m.exchange = m.secure != secure && (own || to.Port != "")
}

// append appends the URL's new scheme, host and port in the spelling of the old.
func (r *Replacer) append(dst, b []byte, m *match) []byte {
	if m.exchange {
		dst = append(dst, webScheme(m.scheme[0] == 'w', m.secure)...)
		dst = append(dst, b[m.lead.colon:m.host]...)
	}
	if m.labels > 0 {
		dst = append(append(dst, b[m.host:m.host+m.labels]...), '.')
	}
	dst = append(dst, m.rule.tail...)
	if m.rule.to.Port == "" {
		return dst
	}
	switch {
	case m.tailing.colon > 0:
		dst = append(dst, b[m.tailing.colon:m.digits]...)
	case m.lead.colon < m.slashes:
		dst = append(dst, b[m.lead.colon:m.slashes]...)
	default:
		dst = appendColon(dst, b[m.bare:m.host], m.spelling)
	}
	return append(dst, m.rule.to.Port...)
}

func webScheme(socket, secure bool) string {
	switch {
	case socket && secure:
		return "wss"
	case socket:
		return "ws"
	case secure:
		return "https"
	}
	return "http"
}
