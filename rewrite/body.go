package rewrite

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Options is what Response has to know beside the answer.
type Options struct {
	// AcceptEncoding is the client's Accept-Encoding field (RFC 9110 section 12.5.3), its lines
	// joined by commas; "" is identity alone.
	AcceptEncoding string
}

const (
	chunkSize = 64 << 10 // one read of the origin
	aheadSize = 32 << 10 // the most that Response reads ahead
	smallText = 256 << 10
	freeTail  = 64 << 10 // bytes behind the end of a coded body that are read and let go
	passRoom  = 8 << 10  // a reader with less room is not worth passing text to without copying
)

// Response maps res from the origin's names to the public ones. It owns res from here on.
//
//  1. The header fields are mapped (Header).
//  2. plan decides what happens to the body: nothing for 1xx, 204, 206, 304, unknown codings and
//     what is not text; without a Content-Type the first bytes decide.
//  3. describe makes the header true of the body to come: coding, Vary, entity tag, no digests.
//  4. A body that came whole with the first read is rewritten at once and keeps a Content-Length;
//     any other is wrapped and has none.
//
// Response reads once at most, from bodies of known small length or without a type. The new
// res.Body reads the origin's once for each Read that has nothing to give yet, and hands on what
// that yields, flushed. It fails when the origin's body fails, when a coding is broken or cut
// short, or with ErrRatio: then what was read is not the whole. Closing it closes the origin's.
func (m *Map) Response(res *http.Response, opt Options) {
	m.Header(res.Header)
	if res.StatusCode == http.StatusNotModified {
		m.notModified(res)
		return
	}
	p, ok := m.plan(res, opt)
	if !ok {
		return
	}
	if p.head {
		m.describe(res, p)
		res.Header.Del("Content-Length")
		res.ContentLength = -1
		return
	}
	b := newBody(res, p)
	if p.sniff {
		b.readAhead(aheadSize)
		if !b.looksLikeText() {
			res.Body = b.untouched()
			return
		}
	}
	m.describe(res, p)
	b.start(m, res, p)
	res.Body = b
	if 0 <= res.ContentLength && res.ContentLength <= aheadSize && p.kind != eventStream && len(res.Trailer) == 0 {
		b.readAhead(int(res.ContentLength))
		if b.whole(res.ContentLength) {
			res.ContentLength = b.finish()
			setLength(res)
			return
		}
	}
	res.ContentLength = -1
	setLength(res)
}

func setLength(res *http.Response) {
	if res.ContentLength < 0 {
		res.Header.Del("Content-Length")
		return
	}
	res.Header["Content-Length"] = []string{strconv.FormatInt(res.ContentLength, 10)}
}

// plan is what becomes of a body.
type plan struct {
	kind   string   // media type
	came   []string // codings to open, innermost first
	coding string   // coding to close it with; "" is identity
	varies bool     // the coding depended on the client
	head   bool     // there is no body, but a GET has one
	sniff  bool     // the type is not known yet
}

// plan says ok when the body is text or may be.
func (m *Map) plan(res *http.Response, opt Options) (p plan, ok bool) {
	if res.StatusCode < 200 || res.StatusCode == http.StatusNoContent || res.StatusCode == http.StatusPartialContent {
		return p, false
	}
	if !m.Rewritable(res.Header) {
		return p, false
	}
	p.kind = mediaType(res.Header)
	p.came, _ = contentCodings(res.Header)
	p.head = res.Request != nil && res.Request.Method == http.MethodHead
	p.sniff = p.kind == ""
	if p.sniff && p.head || !p.head && (res.Body == nil || res.Body == http.NoBody) {
		return p, false
	}
	if noTransform(res.Header) {
		if n := len(p.came); n > 0 {
			p.coding = p.came[n-1]
		}
		return p, true
	}
	p.coding = chooseCoding(opt.AcceptEncoding, p.came, p.kind, res.ContentLength)
	p.varies = len(p.came) > 0 || p.kind != eventStream
	return p, true
}

// noTransform keeps the coding as it is (RFC 9110 section 7.7). The names are exchanged all the
// same: the site's owner asks for that.
func noTransform(h http.Header) bool {
	return slices.ContainsFunc(h["Cache-Control"], func(line string) bool {
		return strings.Contains(strings.ToLower(line), "no-transform")
	})
}

// describe makes the header true of the rewritten body.
func (m *Map) describe(res *http.Response, p plan) {
	h := res.Header
	if p.coding == "" {
		delete(h, "Content-Encoding")
	} else {
		h["Content-Encoding"] = []string{p.coding}
	}
	if p.varies {
		addVary(h)
	}
	if tag := h.Get("Etag"); tag != "" {
		h["Etag"] = []string{m.publicTag(tag)}
	}
	dropStale(h)
}

// digestFields speak of the origin's bytes (RFC 9530, RFC 3230, RFC 1864).
var digestFields = []string{"Content-Md5", "Digest", "Repr-Digest", "Content-Digest"}

func dropStale(h http.Header) {
	for _, name := range digestFields {
		delete(h, name)
	}
	delete(h, "Accept-Ranges")
}

func addVary(h http.Header) {
	for _, line := range h["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name == "*" || strings.EqualFold(name, "Accept-Encoding") {
				return
			}
		}
	}
	h["Vary"] = append(h["Vary"], "Accept-Encoding")
}

// stage is a step of a text on its way to the Stream: it sees what the origin says, opened, in
// UTF-8 or another charset that holds ASCII. Append appends to dst what is certain once src has
// come, and after the final chunk all of it; however the text is cut, what comes out is the same.
// It holds a bounded part back. Append may be called with an empty src.
type stage interface {
	Append(dst, src []byte, final bool) []byte
}

// stages are what a body goes through before the Stream: none for most.
func (m *Map) stages(_ *http.Response, _ plan) []stage { return nil }

// body reads the origin's body, opens it, exchanges the names and closes it again:
//
//	origin -> source -> decoder -> chunk -> stages -> stream -> encoder -> out -> Read
//
// A text in UTF-16 is UTF-8 from the first stage to the Stream (wide.go).
//
// mu guards everything below it: a server may close a body while another goroutine reads it.
type body struct {
	origin  io.ReadCloser
	trailer *http.Header // of the answer, filled by reading origin to its end

	mu      sync.Mutex
	source  source
	coding  string // of enc
	came    []string
	dec     *decoder // nil for identity
	enc     encoder  // nil for identity
	stages  []stage  // nil for most
	wide    *wide    // nil for all charsets but UTF-16
	header  http.Header
	begun   bool  // the first text has come
	work    *work // nil once everything has been given out
	given   int   // work.out[:given] has been read
	err     error // comes when work.out has been read
	busy    bool  // there was something to exchange in the last chunk
	stopped bool  // Close was called
}

// work is the memory of one body, pooled.
type work struct {
	stream Stream
	chunk  [chunkSize]byte // text as the origin has it
	ahead  [aheadSize]byte // what Response read
	text   []byte          // rewritten, for the encoder
	staged [2][]byte       // between the stages
	out    []byte          // for Read
}

var works = sync.Pool{New: func() any { return &work{out: make([]byte, 0, chunkSize+chunkSize/4)} }}

// maxKept is how much memory for output goes back to the pool.
const maxKept = 2 * chunkSize

func (w *work) Write(p []byte) (int, error) {
	w.out = append(w.out, p...)
	return len(p), nil
}

// source counts what comes from the origin. What was read ahead comes first.
type source struct {
	origin io.Reader
	ahead  []byte
	err    error // comes behind ahead
	bytes  int64
	ready  bool // the next read will not wait: this one got all it asked for, or the end is known
}

func (s *source) Read(p []byte) (n int, err error) {
	switch {
	case len(s.ahead) > 0:
		n = copy(p, s.ahead)
		s.ahead = s.ahead[n:]
		s.ready = len(s.ahead) > 0 || s.err != nil
	case s.err != nil:
		return 0, s.err
	default:
		n, err = s.origin.Read(p)
		s.err, s.ready = err, n == len(p) || err != nil
	}
	s.bytes += int64(n)
	return n, err
}

func newBody(res *http.Response, p plan) *body {
	b := &body{origin: res.Body, trailer: &res.Trailer, source: source{origin: res.Body}, came: p.came, coding: p.coding}
	b.work = works.Get().(*work)
	b.work.out = b.work.out[:0]
	return b
}

// readAhead reads once, up to n bytes.
func (b *body) readAhead(n int) {
	s := &b.source
	if len(s.ahead) > 0 || s.err != nil || n == 0 {
		return
	}
	n, s.err = s.origin.Read(b.work.ahead[:n])
	s.ahead = b.work.ahead[:n]
}

// whole says whether what was read ahead is all there is of a body so long.
func (b *body) whole(length int64) bool {
	s := &b.source
	if int64(len(s.ahead)) != length || s.err != nil && s.err != io.EOF {
		return false
	}
	s.err = io.EOF
	return true
}

// looksLikeText opens as much of what was read ahead as there is.
func (b *body) looksLikeText() bool {
	first := b.source.ahead
	if len(b.came) > 0 {
		probe := source{ahead: first, err: io.EOF}
		dec := newDecoder(b.came, &probe)
		n, _ := dec.Read(b.work.chunk[:512])
		dec.free()
		first = b.work.chunk[:n]
	}
	return looksLikeText(first)
}

// untouched is the origin's body, with what was read ahead in front of it.
func (b *body) untouched() io.ReadCloser {
	u := &untouched{source: source{origin: b.origin, ahead: slices.Clone(b.source.ahead), err: b.source.err}, Closer: b.origin}
	b.release()
	return u
}

type untouched struct {
	source
	io.Closer
}

func (b *body) start(m *Map, res *http.Response, p plan) {
	b.work.stream.Reset(m.replacerFor(m.toPublic, p.kind))
	b.stages, b.header = m.stages(res, p), res.Header
	if b.dec = newDecoder(b.came, &b.source); b.coding != "" {
		b.enc = newEncoder(b.coding, b.work)
	}
}

// finish rewrites a whole body at once and gives its length, -1 when that fails or is too long to
// be kept: then Read goes on with it.
func (b *body) finish() int64 {
	for b.err == nil && len(b.work.out) < smallText {
		b.step(nil)
	}
	if b.err != io.EOF {
		return -1
	}
	return int64(len(b.work.out))
}

// Read gives rewritten bytes.
func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.stopped {
		return 0, http.ErrBodyReadAfterClose
	}
	if len(p) == 0 {
		return 0, nil
	}
	n := 0
	for b.err == nil && n == 0 && b.given == len(b.work.out) {
		b.work.out, b.given = b.work.out[:0], 0
		n = b.step(p)
	}
	if b.work == nil {
		return 0, b.err
	}
	more := copy(p[n:], b.work.out[b.given:])
	b.given += more
	n += more
	if b.err == nil || b.given < len(b.work.out) {
		return n, nil
	}
	b.release()
	if n > 0 && b.err != io.EOF {
		return n, nil
	}
	return n, b.err
}

// step reads text once and appends what it becomes to out. Text that goes on as it came stays where
// it was read, in room, and step says how much that is. It flushes unless more is there.
func (b *body) step(room []byte) (passed int) {
	text, held := b.work.chunk[:], 0
	inRoom := b.enc == nil && len(b.stages) == 0 && !b.busy && len(room) >= passRoom
	if inRoom {
		held = b.work.stream.CopyHeld(room)
		text = room[held:min(len(room), held+chunkSize)]
	}
	n, err := b.readText(text)
	if !b.begun {
		n, err = b.begin(text, n, err)
		if inRoom && b.wide != nil {
			inRoom, text = false, b.work.chunk[:copy(b.work.chunk[:], text)]
		}
	}
	if err == io.EOF {
		err = b.drain()
	}
	b.err = err
	if inRoom {
		passed = b.pass(room[:held+n], held)
	} else {
		b.write(text[:n])
	}
	switch {
	case err == io.EOF:
		b.end()
	case err != nil || n < len(text) && !b.source.ready:
		b.flush()
	}
	return passed
}

// begin looks at the first n bytes of a text for its charset. It reads on where they are too few.
func (b *body) begin(text []byte, n int, err error) (int, error) {
	for n < wideLead && err == nil && mayBeWide(text[:n]) {
		var more int
		more, err = b.readText(text[n:])
		n += more
	}
	if b.begun = n > 0 || err != nil; b.begun {
		b.wide = wideOf(text[:min(n, wideLead)], b.header)
	}
	return n, err
}

// pass leaves text, which begins with what was held back, where it is if nothing in it is to be
// exchanged.
func (b *body) pass(text []byte, held int) int {
	if done, ok := b.work.stream.Pass(text, b.err == io.EOF); ok {
		return done
	}
	b.write(b.work.chunk[:copy(b.work.chunk[:], text[held:])])
	return 0
}

func (b *body) readText(p []byte) (int, error) {
	if b.dec != nil {
		return b.dec.Read(p)
	}
	return b.source.Read(p)
}

// end is the end of a whole body. Digests may have come in the trailer.
func (b *body) end() {
	if b.enc != nil {
		b.fail(b.enc.Close())
	}
	for _, name := range digestFields {
		delete(*b.trailer, name)
	}
}

// drain reads the origin's body to its end when a coding ended before that, so that an origin that
// was cut short is noticed and its connection can be used again.
func (b *body) drain() error {
	for range freeTail / 512 {
		if b.dec == nil {
			break
		}
		if _, err := b.source.Read(b.work.ahead[:512]); err != nil {
			return err
		}
	}
	return io.EOF
}

// write puts a chunk, the last one when b.err is io.EOF, through the stream and into the encoder if
// there is one.
func (b *body) write(chunk []byte) {
	w, before, final := b.work, b.work.stream.exchanged, b.err == io.EOF
	if b.wide != nil {
		chunk = b.wide.toNarrow(chunk, final)
	}
	for i, s := range b.stages {
		staged := &w.staged[i%len(w.staged)]
		*staged = s.Append((*staged)[:0], chunk, final)
		chunk = *staged
	}
	if b.enc == nil && b.wide == nil {
		w.out = w.stream.Append(w.out, chunk, final)
	} else {
		w.text = w.stream.Append(w.text[:0], chunk, final)
		b.encode(w.text, final)
	}
	b.busy = w.stream.exchanged > before
}

// encode puts rewritten text into the charset it came in, and into the encoder.
func (b *body) encode(text []byte, final bool) {
	if b.wide != nil {
		text = b.wide.toWide(text, final)
	}
	switch {
	case b.enc == nil:
		b.work.out = append(b.work.out, text...)
	case len(text) > 0:
		_, err := b.enc.Write(text)
		b.fail(err)
	}
}

func (b *body) flush() {
	if b.enc != nil {
		b.fail(b.enc.Flush())
	}
}

// fail keeps the first real error.
func (b *body) fail(err error) {
	if err != nil && (b.err == nil || b.err == io.EOF) {
		b.err = err
	}
}

// release gives all memory back. Only b.err remains.
func (b *body) release() {
	if b.work == nil {
		return
	}
	if b.dec != nil {
		b.dec.free()
	}
	if b.enc != nil {
		freeEncoder(b.coding, b.enc)
	}
	for i := range b.work.staged {
		if cap(b.work.staged[i]) > maxKept {
			b.work.staged[i] = nil
		}
	}
	if cap(b.work.out) <= maxKept && cap(b.work.text) <= maxKept {
		works.Put(b.work)
	}
	b.work, b.dec, b.enc, b.stages, b.wide, b.source = nil, nil, nil, nil, nil, source{}
}

// Close closes the origin's body.
func (b *body) Close() error {
	err := b.origin.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.stopped {
		b.stopped = true
		b.release()
	}
	return err
}
