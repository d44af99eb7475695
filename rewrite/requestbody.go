package rewrite

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// The body of a request goes to the origin with the origin's names in it:
//
//  1. textIn says whether it is one text, a form of several parts (form.go), or none of ours.
//  2. wholeBody: one of known length up to Rules.BodyBytes is read whole and has its new length.
//  3. longForm: a longer form that is inside a file by then keeps its length. The fields before
//     are mapped; the file, and what is behind it, is passed as it is. Origins that count on the
//     length of an upload (411, or PHP behind Apache) are many, and forms with text behind a file
//     are few.
//  4. textBody: any other is mapped as it is read, and has no length.
//
// A body that has a coding (Content-Encoding), is a part of another (Content-Range), or has no type
// passes as it is.

// requestBody maps r's body, in place. A body that can't be read fails when the new one is read,
// with the same error.
func (m *Map) requestBody(r *http.Request) {
	if r.Body == nil || r.Body == http.NoBody || m.rules.Untouched {
		return
	}
	text := m.textIn(r.Header)
	if text == nil {
		return
	}
	limit := m.rules.BodyBytes
	if limit == 0 {
		limit = DefaultBodyBytes
	}
	if 0 < r.ContentLength && r.ContentLength <= limit {
		wholeBody(r, text())
		return
	}
	if f, ok := text().(*form); ok && r.ContentLength > limit {
		longForm(r, f, limit)
		return
	}
	streamBody(r, text)
}

// requestText is the stage of a request's body. It counts the URLs it exchanged.
type requestText interface {
	stage
	count() int
}

func (s *Stream) count() int { return s.exchanged }

// textIn makes the stage for a request's body; nil when nothing in it is to be exchanged.
func (m *Map) textIn(h http.Header) func() requestText {
	if codings, ok := contentCodings(h); !ok || len(codings) > 0 || h.Get("Content-Range") != "" {
		return nil
	}
	kind := mediaType(h)
	if kind == "multipart/form-data" {
		_, params, err := mime.ParseMediaType(h.Get("Content-Type"))
		if err != nil || params["boundary"] == "" {
			return nil
		}
		return func() requestText { return newForm(m, params["boundary"]) }
	}
	if !m.isText(kind) || isWide(h) {
		return nil
	}
	return func() requestText { return m.replacerFor(m.toOrigin, kind).NewStream() }
}

// isWide says whether the Content-Type names a charset in which ASCII takes more than a byte.
func isWide(h http.Header) bool {
	kind := strings.ToLower(h.Get("Content-Type"))
	return strings.Contains(kind, "utf-16") || strings.Contains(kind, "utf-32") || strings.Contains(kind, "ucs-2")
}

// wholeBody reads r's body and maps it.
func wholeBody(r *http.Request, text requestText) {
	mapped, n, err := readThrough(r.Body, text, r.ContentLength+1, true)
	switch {
	case err == nil && n < r.ContentLength:
		err = io.ErrUnexpectedEOF
	case err == nil && n > r.ContentLength:
		err = fmt.Errorf("request body is longer than its Content-Length, %d", r.ContentLength)
	}
	if err != nil {
		giveBody(r, nil, failing{err})
		return
	}
	if text.count() > 0 {
		digestAnew(r.Header, mapped)
		dropDigests(r.Trailer)
	}
	setRequestLength(r, int64(len(mapped)))
	giveBody(r, mapped, nil)
}

// longForm reads so much of r's body and maps it; the rest is passed as it is when it begins
// inside a file.
func longForm(r *http.Request, f *form, limit int64) {
	src := r.Body
	mapped, n, err := readThrough(src, f, limit, false)
	if err == nil && n < limit {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		giveBody(r, nil, failing{err})
		return
	}
	if !f.passing() {
		dropDigests(r.Header)
		setRequestLength(r, -1)
		giveBody(r, mapped, newTextBody(src, f, r.Trailer))
		return
	}
	if f.count() > 0 {
		dropDigests(r.Header)
		dropDigests(r.Trailer)
	}
	mapped = append(mapped, f.rest...)
	setRequestLength(r, r.ContentLength+int64(len(mapped))-n)
	giveBody(r, mapped, src)
}

// readThrough maps at most so much of src, all there is of a whole body, and says how much it read.
func readThrough(src io.Reader, text stage, most int64, whole bool) (mapped []byte, n int64, err error) {
	w := requestWorks.Get().(*work)
	defer requestWorks.Put(w)
	for src = io.LimitReader(src, most); err == nil; {
		var came int
		came, err = src.Read(w.chunk)
		n += int64(came)
		if room := came + came/8; cap(mapped)-len(mapped) < room {
			mapped = append(make([]byte, 0, 2*len(mapped)+room), mapped...)
		}
		mapped = text.Append(mapped, w.chunk[:came], whole && err == io.EOF)
	}
	if err == io.EOF {
		err = nil
	}
	return mapped, n, err
}

// streamBody maps r's body as it is read.
func streamBody(r *http.Request, text func() requestText) {
	again, trailer := r.GetBody, r.Trailer
	r.Body = newTextBody(r.Body, text(), trailer)
	if again != nil {
		r.GetBody = func() (io.ReadCloser, error) {
			src, err := again()
			if err != nil {
				return nil, err
			}
			return newTextBody(src, text(), trailer), nil
		}
	}
	dropDigests(r.Header)
	setRequestLength(r, -1)
}

func setRequestLength(r *http.Request, n int64) {
	r.ContentLength = n
	switch _, said := r.Header["Content-Length"]; {
	case n < 0:
		delete(r.Header, "Content-Length")
	case said:
		r.Header["Content-Length"] = []string{strconv.FormatInt(n, 10)}
	}
}

func dropDigests(h http.Header) {
	for _, name := range digestFields {
		delete(h, name)
	}
}

// digestAnew makes the digests of a request true of its new body: those of RFC 9530 in the
// algorithms it recommends. Others are removed.
func digestAnew(h http.Header, body []byte) {
	content, repr := h["Content-Digest"], h["Repr-Digest"]
	dropDigests(h)
	for name, lines := range map[string][]string{"Content-Digest": content, "Repr-Digest": repr} {
		if value := digests(strings.ToLower(strings.Join(lines, ",")), body); value != "" {
			h[name] = []string{value}
		}
	}
}

// digests is body's value of a field that was old (RFC 9530 section 2).
func digests(old string, body []byte) string {
	var members []string
	if strings.Contains(old, "sha-256=") {
		sum := sha256.Sum256(body)
		members = append(members, "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
	}
	if strings.Contains(old, "sha-512=") {
		sum := sha512.Sum512(body)
		members = append(members, "sha-512=:"+base64.StdEncoding.EncodeToString(sum[:])+":")
	}
	return strings.Join(members, ", ")
}

// failing is a body that can't be read.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// giveBody makes r's body what was read ahead of the old one, and rest behind it if that is not
// nil. It can be sent again as long as rest was not read.
func giveBody(r *http.Request, ahead []byte, rest io.Reader) {
	g := &givenBody{src: r.Body, ahead: ahead, rest: rest}
	r.Body = g.attempt()
	r.GetBody = func() (io.ReadCloser, error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.begun {
			return nil, fmt.Errorf("send the body again: over %d bytes were sent already", len(ahead))
		}
		return g.attempt(), nil
	}
}

type givenBody struct {
	src   io.Closer
	ahead []byte
	rest  io.Reader

	mu    sync.Mutex // guards the others
	begun bool       // rest was read
	last  *attempt   // the one that may read rest
}

// attempt is the body for one attempt at sending it. The one before reads no more of rest.
type attempt struct {
	body  *givenBody
	given int // of ahead
}

func (g *givenBody) attempt() *attempt {
	g.last = &attempt{body: g}
	return g.last
}

func (a *attempt) Read(p []byte) (int, error) {
	g := a.body
	if a.given < len(g.ahead) {
		n := copy(p, g.ahead[a.given:])
		a.given += n
		return n, nil
	}
	if g.rest == nil {
		return 0, io.EOF
	}
	if !g.begin(a) {
		return 0, http.ErrBodyReadAfterClose
	}
	return g.rest.Read(p)
}

// begin says whether a may read the rest.
func (g *givenBody) begin(a *attempt) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.begun = g.begun || g.last == a
	return g.last == a
}

// Close closes the old body, but for an attempt that another has followed.
func (a *attempt) Close() error {
	g := a.body
	g.mu.Lock()
	last := g.last == a
	g.mu.Unlock()
	if !last {
		return nil
	}
	return g.src.Close()
}

// textBody maps a body as it is read. One goroutine reads it; Close may come from another and does
// not wait for it.
type textBody struct {
	src     io.ReadCloser
	text    stage
	trailer http.Header // of the request, filled by reading src to its end; it may hold digests
	closed  atomic.Bool

	work  *work // nil before the first read, and after the last
	given int   // work.out[:given] has been read
	err   error // comes when work.out has been read
}

func newTextBody(src io.ReadCloser, text stage, trailer http.Header) *textBody {
	return &textBody{src: src, text: text, trailer: trailer}
}

// requestWork is one read of a client's text: forms and JSON are short, and a client may take its
// time over them.
const requestWork = 16 << 10

var requestWorks = sync.Pool{New: func() any { return newWork(requestWork, 0) }}

func (b *textBody) Read(p []byte) (int, error) {
	if b.closed.Load() {
		return 0, http.ErrBodyReadAfterClose
	}
	if b.work == nil {
		if b.err != nil {
			return 0, b.err
		}
		b.work = requestWorks.Get().(*work)
		b.work.out, b.given = b.work.out[:0], 0
	}
	for b.err == nil && b.given == len(b.work.out) {
		b.step()
	}
	n := copy(p, b.work.out[b.given:])
	b.given += n
	if b.err == nil || b.given < len(b.work.out) {
		return n, nil
	}
	if cap(b.work.out) <= 2*requestWork {
		requestWorks.Put(b.work)
	}
	b.work = nil
	return n, b.err
}

// step reads once, and maps what came.
func (b *textBody) step() {
	w := b.work
	n, err := b.src.Read(w.chunk)
	w.out, b.given = b.text.Append(w.out[:0], w.chunk[:n], err == io.EOF), 0
	if b.err = err; err == io.EOF {
		dropDigests(b.trailer)
	}
}

func (b *textBody) Close() error {
	b.closed.Store(true)
	return b.src.Close()
}
