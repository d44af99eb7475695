package rewrite

import (
	"net/http"
	"strings"
)

// pageAim is what a request for a page is for. It tells apart answers that differ in nothing but the
// script element, and is part of their entity tags: a page that a script fetched must not stand for
// the one that is opened.
type pageAim string

const (
	aimOpen    pageAim = "d" // a page or a frame
	aimUse     pageAim = ""  // a piece of text for a script, a preview, anything else
	aimUnknown pageAim = "n" // an old browser, or plain http, where browsers say nothing of it
)

// aimOf reads what the browser says (Fetch Metadata, sections 2.1 and 2.2). A site's own service
// worker asks for pages in mode navigate without a destination.
func aimOf(r *http.Request) pageAim {
	if r == nil {
		return aimUnknown
	}
	switch r.Header.Get("Sec-Fetch-Dest") {
	case "document", "iframe", "frame", "embed", "object":
		return aimOpen
	case "":
		if r.Header.Get("Sec-Fetch-Mode") == "" {
			return aimUnknown
		}
	}
	if r.Header.Get("Sec-Fetch-Mode") == "navigate" {
		return aimOpen
	}
	return aimUse
}

// aimFields are what aimOf reads.
var aimFields = []string{"Sec-Fetch-Dest", "Sec-Fetch-Mode"}

const (
	htmlType  = "text/html"
	xhtmlType = "application/xhtml+xml"
)

// runtimeTag is the script element for an answer of a media type, "" when it gets none. The page's
// policies have to admit it before they go out.
func (m *Map) runtimeTag(res *http.Response, kind string) string {
	if !m.rules.Runtime || m.rules.Untouched || kind != htmlType && kind != xhtmlType {
		return ""
	}
	for _, name := range aimFields {
		addVary(res.Header, name)
	}
	disposition := strings.ToLower(strings.TrimSpace(res.Header.Get("Content-Disposition")))
	if aimOf(res.Request) == aimUse || strings.HasPrefix(disposition, "attachment") {
		return ""
	}
	return m.admit(res, res.Header.Clone())
}

// sniffedTag is runtimeTag for an answer whose first bytes tell its type, where they tell browsers too.
func (m *Map) sniffedTag(res *http.Response, kind string) string {
	if mediaType(res.Header) != "" || strings.EqualFold(strings.TrimSpace(res.Header.Get("X-Content-Type-Options")), "nosniff") {
		return ""
	}
	return m.runtimeTag(res, kind)
}

// runtimeNotModified gives a 304 the header fields of the page that the client has: they take the
// place of those. Of its type a 304 says nothing as a rule.
func (m *Map) runtimeNotModified(res *http.Response) {
	kind := mediaType(res.Header)
	if kind == "" {
		kind = htmlType
	}
	if aimOf(res.Request) != aimUse && m.runtimeTag(res, kind) != "" {
		m.admit(res, res.Header)
	}
}

// admit lets the policies in h, the header of an answer, admit the files, and gives the script
// element that they admit; "" when no script may run there.
func (m *Map) admit(res *http.Response, h http.Header) string {
	files := m.runtime()
	source := runtimeSource{script: "'self'", worker: "'self'", hash: files.integrity}
	if r := res.Request; r != nil && r.URL != nil {
		if public, ok := m.PublicOf(r.URL.Scheme, r.URL.Host); ok {
			source.host = public.Authority()
			source.script, source.worker = source.host+files.scriptPath(), source.host+files.workerPath()
		}
	}
	nonce, hashed, ok := source.admit(h)
	if !ok {
		return ""
	}
	tag := `<script src="` + files.scriptPath() + `"`
	if nonce != "" {
		tag += ` nonce="` + nonce + `"`
	}
	if hashed {
		tag += ` integrity="` + source.hash + `"`
	}
	return tag + "></script>"
}

// inserter puts a tag into a page, once: behind <head …>; without one before the first thing that
// is neither white space, comment, doctype nor <html …>, which is where browsers begin the head.
// Nothing but a tag that has begun is held back, six bytes of it at most.
type inserter struct {
	tag   string
	needs pageSign // without these it puts none

	state inserterState
	came  pageSign
	at    int     // bytes so far, as far as the byte order mark goes
	held  [6]byte // held[:n]: "<" and as much of what it begins as is needed to tell
	n     int

	head    bool // the tag being read is <head …>
	quote   byte // the attribute value being read ends with it, 0 for none
	before  byte // the last byte that is no white space
	dashes  int  // "-" before this byte of a comment
	bang    bool // "--!" before it
	bracket bool // inside a doctype's "[…]"
}

// pageSign is what shows that a text is a page.
type pageSign int

const (
	signNone    pageSign = iota // any text, or none yet
	signDoctype                 // a doctype
	signHTML                    // <html>
)

type inserterState int

const (
	stateBetween     inserterState = iota // tags
	stateOpened                           // after "<"
	stateElement                          // in <html …> or <head …>
	stateComment                          // in <!-- … -->
	stateDeclaration                      // in <!…> or <?…>
	statePlaced                           // or given up: the rest passes
)

// newInserter makes the stage for one answer. A fragment must stay one when nobody says what it is
// for, and XML has one place for a script only.
func newInserter(tag, kind string, a pageAim) *inserter {
	s := &inserter{tag: tag}
	switch {
	case kind == xhtmlType:
		s.needs = signHTML
	case a == aimUnknown:
		s.needs = signDoctype
	}
	return s
}

// Append is stage.Append.
func (s *inserter) Append(dst, src []byte, final bool) []byte {
	for i, c := range src {
		if s.state == statePlaced {
			return append(dst, src[i:]...)
		}
		dst = s.next(dst, c)
	}
	if final {
		dst = s.release(dst)
	}
	return dst
}

// pass is passer.pass.
func (s *inserter) pass(text []byte, _ bool) (n int, ok bool) {
	return len(text), s.state == statePlaced
}

// release lets go of what is held back.
func (s *inserter) release(dst []byte) []byte {
	dst = append(dst, s.held[:s.n]...)
	s.n = 0
	return dst
}

// place writes the tag.
func (s *inserter) place(dst []byte) []byte {
	s.state = statePlaced
	if s.came < s.needs {
		return dst
	}
	return append(dst, s.tag...)
}

const byteOrderMark = "\ufeff"

func (s *inserter) next(dst []byte, c byte) []byte {
	switch s.state {
	case stateOpened:
		s.held[s.n] = c
		s.n++
		return s.tell(dst)
	case stateElement:
		return s.inElement(append(dst, c), c)
	case stateComment:
		s.inComment(c)
	case stateDeclaration:
		s.inDeclaration(c)
	default:
		mark := s.at < len(byteOrderMark) && c == byteOrderMark[s.at]
		s.at++
		switch {
		case c == '<':
			s.held[0], s.n, s.state = c, 1, stateOpened
			return dst
		case !mark && !isHTMLSpace(c):
			dst = s.place(dst)
		}
	}
	return append(dst, c)
}

// tell goes on when it is clear what held begins.
func (s *inserter) tell(dst []byte) []byte {
	begun := string(s.held[1:s.n])
	last := begun[len(begun)-1]
	name := strings.ToLower(begun[:len(begun)-1])
	switch {
	case begun == "!" || begun == "!-":
		return dst
	case begun == "!--":
		s.state, s.dashes, s.bang = stateComment, 2, false
	case begun[0] == '!' || begun[0] == '?':
		s.state, s.bracket = stateDeclaration, false
		if begun[0] == '!' && begun[1]|0x20 == 'd' {
			s.came = max(s.came, signDoctype)
		}
		s.inDeclaration(last)
	case (name == "html" || name == "head") && (isHTMLSpace(last) || last == '/' || last == '>'):
		s.state, s.head, s.quote, s.before = stateElement, name == "head", 0, 0
		s.came = signHTML
		return s.inElement(s.release(dst), last)
	case len(name) < 4 && strings.HasPrefix("html", strings.ToLower(begun)), len(name) < 4 && strings.HasPrefix("head", strings.ToLower(begun)):
		return dst
	default:
		dst = s.place(dst)
	}
	return s.release(dst)
}

// inElement has written c of <html …> or <head …>.
func (s *inserter) inElement(dst []byte, c byte) []byte {
	switch {
	case s.quote != 0:
		if c == s.quote {
			s.quote = 0
		}
	case (c == '"' || c == '\'') && s.before == '=':
		s.quote = c
	case c == '>' && s.head:
		return s.place(dst)
	case c == '>':
		s.state = stateBetween
	}
	if !isHTMLSpace(c) {
		s.before = c
	}
	return dst
}

// inComment: it ends with "-->", "--!>", and at once with ">" or "->" (HTML section 13.2.5.43).
func (s *inserter) inComment(c byte) {
	switch {
	case c == '>' && (s.dashes >= 2 || s.bang):
		s.state = stateBetween
	case c == '-':
		s.dashes++
		s.bang = false
		return
	}
	s.bang = c == '!' && s.dashes >= 2
	s.dashes = 0
}

func (s *inserter) inDeclaration(c byte) {
	switch {
	case c == '[':
		s.bracket = s.needs == signHTML // in XML
	case c == ']':
		s.bracket = false
	case c == '>' && !s.bracket:
		s.state = stateBetween
	}
}

func isHTMLSpace(c byte) bool { return c == ' ' || '\t' <= c && c <= '\r' && c != '\v' }
