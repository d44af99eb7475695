package rewrite

import (
	"bufio"
	"bytes"
	"mime"
	"net/http"
	"net/textproto"
	"strings"
)

// form is a multipart/form-data body (RFC 7578, RFC 2046 section 5.1) on its way to the origin.
// Nothing but the contents of text fields changes: parts that have no filename, and a text type or
// none. Files, part headers, boundaries, and what stands before and behind all parts pass byte for
// byte, and so does all from where the form is broken on.
//
//	preamble --boundary CRLF header CRLF CRLF content CRLF --boundary CRLF … CRLF --boundary-- epilogue
//
// It holds back what may be the start of a delimiter, a part's header, and in a text field what its
// Stream does: at most maxPartHead bytes.
type form struct {
	m         *Map
	delimiter []byte // CRLF, two hyphens and the boundary
	state     formState
	fresh     bool          // the content has just begun: a delimiter needs no CRLF
	rest      []byte        // has come and is not certain yet
	field     Stream        // of the text field under way
	exchanged int           // URLs in the fields before it
	lines     *bufio.Reader // reads the headers of parts; nil before the first
}

type formState int

const (
	inFile  formState = iota // content that is passed as it is; the preamble is some
	inField                  // content of a text field
	inHead                   // the header of a part
	isOver                   // what is behind the last part, or is broken
)

const (
	maxPartHead = 8 << 10 // PHP takes 4 KiB, Go 10 MiB in all
	maxPadding  = 256     // white space behind a boundary (RFC 2046 section 5.1.1)
)

func newForm(m *Map, boundary string) *form {
	return &form{m: m, delimiter: []byte("\r\n--" + boundary), fresh: true}
}

// passing says whether all is passed as it is for now.
func (f *form) passing() bool { return f.state == inFile || f.state == isOver }

func (f *form) count() int { return f.exchanged + f.field.count() }

// Append is the stage.
func (f *form) Append(dst, src []byte, final bool) []byte {
	b := src
	if len(f.rest) > 0 {
		f.rest = append(f.rest, src...)
		b = f.rest
	}
	for n, more := 0, true; more; b = b[n:] {
		switch f.state {
		case inFile, inField:
			dst, n, more = f.content(dst, b)
		case inHead:
			dst, n, more = f.head(dst, b)
		case isOver:
			dst, n, more = append(dst, b...), len(b), false
		}
	}
	if final {
		dst, b = f.pass(dst, b, true), nil
	}
	f.rest = append(f.rest[:0], b...)
	return dst
}

// content takes a part's content, and the delimiter behind it; more is false when b[n:] must wait.
func (f *form) content(dst, b []byte) (_ []byte, n int, more bool) {
	at, end, follows := f.delimiterIn(b)
	f.fresh = f.fresh && at == 0
	dst = f.pass(dst, b[:at], follows != unsure)
	switch follows {
	case unsure:
		return dst, at, false
	case aPart:
		f.state = inHead
		return append(dst, b[at:end]...), end, true
	}
	f.state = isOver
	return dst, at, true
}

// pass appends content to dst, a field's mapped.
func (f *form) pass(dst, content []byte, final bool) []byte {
	if f.state == inField {
		return f.field.Append(dst, content, final)
	}
	return append(dst, content...)
}

// following is what a delimiter says of what is behind it.
type following int

const (
	unsure  following = iota // it may go on in the next chunk
	content                  // it is no delimiter
	aPart
	theEnd // behind the last part, or what is no form any more
)

// delimiterIn is where the first delimiter in b, with the rest of its line, starts and ends. When
// it follows that it is unsure of that, one may start at b[at], which may be the end of b.
func (f *form) delimiterIn(b []byte) (at, end int, follows following) {
	for from := 0; ; from = at + 1 {
		at, end = f.boundaryIn(b, from)
		if at == end {
			return at, end, unsure
		}
		if end, follows = restOfLine(b, end); follows != content {
			return at, end, follows
		}
	}
}

// boundaryIn is where the first boundary in b[from:] starts, with its CRLF and hyphens, and ends;
// the same when all that is found is where one may start.
func (f *form) boundaryIn(b []byte, from int) (at, end int) {
	if bare := f.delimiter[2:]; f.fresh && from == 0 {
		if bytes.HasPrefix(b, bare) {
			return 0, len(bare)
		}
		if bytes.HasPrefix(bare, b) {
			return 0, 0
		}
	}
	if i := bytes.Index(b[from:], f.delimiter); i >= 0 {
		return from + i, from + i + len(f.delimiter)
	}
	at = max(from, len(b)-len(f.delimiter)+1)
	if i := bytes.LastIndexByte(b[at:], '\r'); i >= 0 && bytes.HasPrefix(f.delimiter, b[at+i:]) {
		return at + i, at + i
	}
	return len(b), len(b)
}

// restOfLine reads what stands behind a boundary that ends before b[i].
func restOfLine(b []byte, i int) (end int, follows following) {
	if bytes.HasPrefix(b[i:], []byte("--")) {
		return i, theEnd
	}
	end = i
	for end < len(b) && (b[end] == ' ' || b[end] == '\t') && end-i <= maxPadding {
		end++
	}
	switch rest := b[end:]; {
	case bytes.HasPrefix(rest, []byte("\r\n")):
		return end + 2, aPart
	case len(rest) == 0 || len(rest) == 1 && (rest[0] == '\r' || rest[0] == '-' && end == i):
		return end, unsure
	case end > i || rest[0] == '\r' || rest[0] == '\n':
		return end, theEnd
	}
	return end, content
}

// head takes the header of a part.
func (f *form) head(dst, b []byte) (_ []byte, n int, more bool) {
	if bytes.HasPrefix(b, []byte("\r\n")) {
		n = 2 // it is empty
	} else if i := bytes.Index(b, []byte("\r\n\r\n")); i >= 0 {
		n = i + 4
	}
	switch {
	case n > 0:
		f.begin(b[:n])
	case len(b) > maxPartHead:
		f.state = isOver
	default:
		return dst, 0, false
	}
	return append(dst, b[:n]...), n, true
}

// begin begins the content of a part with this header.
func (f *form) begin(head []byte) {
	f.state, f.fresh = inFile, true
	if f.lines == nil {
		f.lines = bufio.NewReaderSize(nil, 512)
	}
	f.lines.Reset(bytes.NewReader(head))
	h, err := textproto.NewReader(f.lines).ReadMIMEHeader()
	if err != nil || !f.m.isField(http.Header(h)) {
		return
	}
	f.state = inField
	f.exchanged = f.count()
	f.field.Reset(f.m.replacerFor(f.m.toOrigin, mediaType(http.Header(h))))
}

// isField says whether a part with this header is a text field.
func (m *Map) isField(h http.Header) bool {
	kind := mediaType(h)
	if kind != "" && !m.isText(kind) || isWide(h) || hasCoding(h) {
		return false
	}
	disposition := h.Get("Content-Disposition")
	name, params, err := mime.ParseMediaType(disposition)
	if err != nil { // browsers write names that it does not take
		disposition = strings.ToLower(disposition)
		return strings.HasPrefix(disposition, "form-data") && !strings.Contains(disposition, "filename")
	}
	_, file := params["filename"]
	file = file || strings.Contains(strings.ToLower(disposition), "filename*") // in a charset that it does not know
	return name == "form-data" && !file
}

// hasCoding says whether a part is written in a code (RFC 2045 section 6), as none should be any
// more (RFC 7578 section 4.7).
func hasCoding(h http.Header) bool {
	switch strings.ToLower(h.Get("Content-Transfer-Encoding")) {
	case "", "7bit", "8bit", "binary":
		return false
	}
	return true
}
