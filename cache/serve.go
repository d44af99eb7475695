package cache

import (
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// An answer that is known is given:
//
//  1. pick chooses the form that the client takes (forms.go),
//  2. the header is that of the answer, made true of the form,
//  3. conditions first: 304 (condition.go), then the range: 206 or 416,
//  4. the body is read from the store, or from the fetch that it comes with.

// source is an answer that is known: kept, or coming.
type source struct {
	meta   *Meta
	forms  []Form      // those of an object; of a fetch one without a Body
	object *Object     // nil for a fetch
	seat   *seat       // of a fetch
	size   int64       // of a fetch; -1 is not known
	header http.Header // in place of the Meta's, for whose request fetched it
	aged   bool        // it is from before this request
	age    time.Duration
}

// give makes the answer to the request. An error is that the body can't be read.
func (a *ask) give(s *source) (*http.Response, error) {
	m, f := s.meta, s.meta.facts()
	form := a.pick(m, s.forms)
	if s.object != nil {
		a.trace.Tier = s.stored(form).Body.Tier()
	}
	etag := f.etag
	if form.coding != m.Coding {
		etag = weaken(etag)
	}
	if size := s.sizeOf(form); a.lines != nil && a.tellLines(s, form, etag, size) {
		body, err := a.body(s, form, 0, size)
		if err != nil {
			return nil, err
		}
		setResponse(&a.lines.answer, a.req, m.Status, nil, body, size)
		return &a.lines.answer, nil
	}
	h := a.header(s, form, etag)
	whole := m.Status == http.StatusOK && m.Span == nil
	if (whole || m.Span != nil) && conditional(a.req.Header) && unchanged(a.req.Header, etag, f.modified) {
		return a.notModified(s, h), nil
	}
	size := s.sizeOf(form)
	if whole && a.ranged != nil && form.form != nil && size >= 0 && rangeHolds(a.req.Header, etag, f.modified, f.date) {
		return a.part(s, form, h, size)
	}
	if size >= 0 {
		h["Content-Length"] = a.value(2, strconv.FormatInt(size, 10))
	} else {
		delete(h, "Content-Length")
	}
	body, err := a.body(s, form, 0, size)
	if err != nil {
		return nil, err
	}
	return response(a.req, m.Status, h, body, size), nil
}

// sizeOf is the length of a form; -1 is not known.
func (s *source) sizeOf(form chosen) int64 {
	switch {
	case form.form == nil:
		return -1
	case s.object != nil:
		return form.form.Body.Size()
	}
	return s.size
}

// stored is the form of an object that one is made of.
func (s *source) stored(form chosen) *Form {
	if form.form != nil {
		return form.form
	}
	return &s.forms[0]
}

// header is the header of the answer in a form.
func (a *ask) header(s *source, form chosen, etag string) http.Header {
	from, f := s.meta.Header, s.meta.facts()
	if s.header != nil {
		from = s.header
	}
	h := make(http.Header, len(from)+3)
	for name, values := range from {
		h[name] = values
	}
	if form.coding != s.meta.Coding {
		h["Content-Encoding"] = []string{form.coding}
		if form.coding == "" {
			delete(h, "Content-Encoding")
		}
		if etag != "" {
			h["Etag"] = []string{etag}
		}
		for _, name := range digests {
			delete(h, name)
		}
	}
	if !f.opaque && (f.squeezed || s.meta.Coding != "" || form.coding != "") && !f.negotiated && a.c.options.Codings != nil {
		lines := h["Vary"]
		h["Vary"] = append(lines[:len(lines):len(lines)], "Accept-Encoding")
	}
	if s.aged {
		h["Age"] = a.value(0, ageText(s.age))
	}
	a.noteSearch(s)
	if lines := h["Cache-Status"]; len(lines) == 0 {
		h["Cache-Status"] = a.value(1, a.status.String())
	} else {
		a.status.set(h)
	}
	return h
}

// noteSearch names the rule by which an answer under another key was found.
func (a *ask) noteSearch(s *source) {
	if s.object != nil && s.meta.Key != a.key {
		a.status.note = joined(a.status.note, "no_vary_search")
	}
}

// value is a field's only value.
func (a *ask) value(i int, text string) []string {
	a.values[i] = text
	return a.values[i : i+1 : i+1]
}

// digests are fields that are true of one form only (RFC 9530, RFC 3230, RFC
// 2616).
var digests = []string{"Content-Digest", "Repr-Digest", "Digest", "Content-Md5"}

// notModified is a 304 (RFC 9110 §15.4.5). Fields that describe the body are left
// out.
func (a *ask) notModified(s *source, h http.Header) *http.Response {
	for _, name := range []string{"Content-Length", "Content-Type", "Content-Encoding", "Content-Language", "Content-Range"} {
		delete(h, name)
	}
	s.leave()
	return response(a.req, http.StatusNotModified, h, http.NoBody, 0)
}

// leave lets go of the body, which is not read.
func (s *source) leave() {
	if s.seat != nil {
		s.seat.Close()
	}
}

// part is the answer to a range of a whole: 206 (RFC 9110 §15.3.7) or 416
// (§15.5.17).
func (a *ask) part(s *source, form chosen, h http.Header, size int64) (*http.Response, error) {
	from, to, ok := a.ranged.of(size)
	if !ok {
		for _, name := range []string{"Content-Type", "Content-Encoding", "Etag", "Last-Modified"} {
			delete(h, name)
		}
		h["Content-Range"] = []string{"bytes */" + strconv.FormatInt(size, 10)}
		h["Content-Length"] = []string{"0"}
		s.leave()
		return response(a.req, http.StatusRequestedRangeNotSatisfiable, h, http.NoBody, 0), nil
	}
	h["Content-Range"] = []string{contentRange(from, to, size)}
	h["Content-Length"] = []string{strconv.FormatInt(to-from, 10)}
	body, err := a.body(s, form, from, to)
	if err != nil {
		return nil, err
	}
	return response(a.req, http.StatusPartialContent, h, body, to-from), nil
}

// body opens the bytes from from up to to of a form; to is -1 for all of one that
// is made as it is read.
func (a *ask) body(s *source, form chosen, from, to int64) (io.ReadCloser, error) {
	if !a.asks && (form.wanted != form.coding || form.form == nil) {
		if most := a.c.mostOf(a.policy); s.seat != nil {
			s.seat.want(form.wanted, most)
		} else {
			a.c.form(s.object, form.wanted, most)
		}
	}
	if a.head {
		s.leave()
		return http.NoBody, nil
	}
	if s.seat != nil {
		if form.form == nil {
			return a.c.recoded(s.meta.Coding, form.coding, s.seat, true), nil
		}
		s.seat.limit(from, to)
		return s.seat, nil
	}
	of := s.stored(form)
	if form.form == nil {
		to = of.Body.Size()
	}
	r, err := of.Body.Open()
	if err != nil {
		a.trace.Tier = ""
		return nil, err
	}
	kept := &keptBody{reader: r, at: from, to: to}
	if form.form == nil {
		return a.c.recoded(s.meta.Coding, form.coding, kept, false), nil
	}
	return kept, nil
}

// inMemory is a Reader whose bytes are in memory: all of them, or nil where they are
// in several pieces.
type inMemory interface{ Bytes() []byte }

// inFile is a Reader of a file of its own, that begins at offset.
type inFile interface {
	File() (f *os.File, offset, size int64)
}

// response is an answer of ours.
func response(req *http.Request, code int, h http.Header, body io.ReadCloser, size int64) *http.Response {
	res := new(http.Response)
	setResponse(res, req, code, h, body, size)
	return res
}

func setResponse(res *http.Response, req *http.Request, code int, h http.Header, body io.ReadCloser, size int64) {
	*res = http.Response{
		Status: statusLine(code), StatusCode: code,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h, Body: body, ContentLength: size, Request: req,
	}
}

func statusLine(code int) string {
	switch code {
	case http.StatusOK:
		return "200 OK"
	case http.StatusNotModified:
		return "304 Not Modified"
	}
	return strconv.Itoa(code) + " " + http.StatusText(code)
}

// keptBody is bytes of a Body as an answer's body. One goroutine reads it.
type keptBody struct {
	reader Reader
	at, to int64 // what is left
}

var _ io.WriterTo = (*keptBody)(nil)

// Bytes are those that are left, nil where they are not in memory in one piece. Close
// ends the right to read them.
func (b *keptBody) Bytes() []byte {
	if in, ok := b.reader.(inMemory); ok {
		if bytes := in.Bytes(); bytes != nil {
			return bytes[b.at:b.to]
		}
	}
	return nil
}

// File is a file of the body's own that stands at what is left, nil where there is
// none. Close closes it.
func (b *keptBody) File() *os.File {
	if in, ok := b.reader.(inFile); ok {
		f, offset, _ := in.File()
		if _, err := f.Seek(offset+b.at, io.SeekStart); err == nil {
			return f
		}
	}
	return nil
}

// Len is how many bytes are left.
func (b *keptBody) Len() int64 { return b.to - b.at }

func (b *keptBody) Read(p []byte) (int, error) {
	if b.at >= b.to {
		return 0, io.EOF
	}
	if int64(len(p)) > b.to-b.at {
		p = p[:b.to-b.at]
	}
	n, err := b.reader.ReadAt(p, b.at)
	b.at += int64(n)
	if err == io.EOF {
		err = nil
		if n < len(p) {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// chunks are buffers for bodies that pass.
var chunks = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// WriteTo writes what is left: bytes in memory in one go, a file by sendfile where
// w can do that.
func (b *keptBody) WriteTo(w io.Writer) (int64, error) {
	if bytes := b.Bytes(); bytes != nil {
		n, err := w.Write(bytes)
		b.at += int64(n)
		return int64(n), err
	}
	if to, ok := w.(io.ReaderFrom); ok {
		if f := b.File(); f != nil {
			n, err := to.ReadFrom(io.LimitReader(f, b.to-b.at))
			if b.at += n; err == nil && b.at < b.to {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
	}
	buffer := chunks.Get().(*[]byte)
	defer chunks.Put(buffer)
	return io.CopyBuffer(w, struct{ io.Reader }{b}, *buffer)
}

func (b *keptBody) Close() error {
	b.to = b.at
	return b.reader.Close()
}
