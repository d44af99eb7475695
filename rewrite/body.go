package rewrite

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// Options is what Response has to know beside the answer.
type Options struct {
	// AcceptEncoding is the client's Accept-Encoding field (RFC 9110 section 12.5.3), its lines
	// joined by commas; "" is identity alone.
	AcceptEncoding string
	// Uncoded leaves a text without the coding that its header names: whoever sends it on puts it
	// into that, or into another as far as the next node (crossing.go). The body says which, by its
	// method Uncoded.
	Uncoded bool
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
// Response reads once at most, from bodies of known small length or without a type, of which it
// needs the first bytes opened; and a page whose policy has hashes that are not known it reads up to
// maxPage (page.go). The new res.Body reads the origin's once for each Read that has nothing to give
// yet, and hands on what that yields, flushed. It fails when the origin's body fails, when a coding
// is broken or cut short, or with ErrRatio: then what was read is not the whole. Closing it closes
// the origin's.
func (m *Map) Response(res *http.Response, opt Options) {
	m.Header(res.Header)
	m.linkHashes(res.Header, res.Request)
	if res.StatusCode == http.StatusNotModified {
		m.notModified(res)
		dropPolicies(res.Header)
		return
	}
	p, ok := m.plan(res, opt)
	if !ok && p.sniff && p.head {
		describeUnknown(res, opt, p)
		return
	}
	if !ok {
		m.passed(res)
		return
	}
	if p.tag = m.runtimeTag(res, p.kind); p.tag != "" {
		defer m.admit(res, res.Header) // once the policies have their last hashes
	}
	if p.head {
		m.describe(res, p)
		mapPolicies(res.Header, m.inlineHash)
		res.Header.Del("Content-Length")
		res.ContentLength = -1
		return
	}
	b := newBody(res, p)
	if p.sniff {
		if len(b.came) > 0 && b.work.small {
			b.work.ahead = make([]byte, aheadSize) // a coding gives its first text late
		}
		b.readAhead(len(b.work.ahead))
		if p.kind = b.sniffed(); p.kind == "" {
			m.passed(res)
			res.Body = b.untouched()
			return
		}
		if p.tag = m.sniffedTag(res, p.kind); p.tag != "" {
			defer m.admit(res, res.Header)
		}
	}
	m.describe(res, p)
	b.start(m, res, p)
	res.Body = b
	if b.waitForPage(res.Header) {
		res.ContentLength = b.lengthAtEnd(res.Trailer)
		setLength(res)
		return
	}
	if 0 <= res.ContentLength && res.ContentLength <= int64(len(b.work.ahead)) && p.kind != eventStream && len(res.Trailer) == 0 {
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
	kind    string   // media type
	came    []string // codings to open, innermost first
	coding  string   // coding to close it with; "" is identity
	uncoded bool     // it is left to others to close it
	varies  bool     // the coding depended on the client
	head    bool     // there is no body, but a GET has one
	sniff   bool     // the type is not known yet
	tag     string   // to put into a page (Rules.Runtime); "" for none
}

// plan says ok when the body is text or may be.
func (m *Map) plan(res *http.Response, opt Options) (p plan, ok bool) {
	if res.StatusCode < 200 || res.StatusCode == http.StatusNoContent || res.StatusCode == http.StatusPartialContent {
		return p, false
	}
	p.kind = mediaType(res.Header)
	if !m.Rewritable(res.Header) {
		if !m.isSourceMap(res, p.kind) {
			return p, false
		}
		p.kind = "" // its first bytes decide
	}
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
	if opt.Uncoded {
		p.uncode(opt.AcceptEncoding)
	}
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
		addVary(h, "Accept-Encoding")
	}
	if tag := h.Get("Etag"); tag != "" {
		h["Etag"] = []string{m.publicTag(tag, res.Request)}
	} else if tag = m.datedTag(h.Get("Last-Modified"), res.Request); tag != "" {
		h["Etag"] = []string{tag}
	}
	dropStale(h)
}

// describeUnknown is describe for a HEAD of what only the bytes of a GET will tell to be text. What
// such a text has otherwise than the origin says is left out (RFC 9110 section 9.3.2).
func describeUnknown(res *http.Response, opt Options, p plan) {
	h := res.Header
	if n := len(p.came); n > 0 && !noTransform(h) && quality(opt.AcceptEncoding, p.came[n-1]) == 0 {
		delete(h, "Content-Encoding")
	}
	for _, name := range []string{"Content-Length", "Etag"} {
		delete(h, name)
	}
	res.ContentLength = -1
	dropStale(h)
	addVary(h, "Accept-Encoding")
}

// digestFields speak of the origin's bytes (RFC 9530, RFC 3230, RFC 1864).
var digestFields = []string{"Content-Md5", "Digest", "Repr-Digest", "Content-Digest"}

func dropStale(h http.Header) {
	for _, name := range digestFields {
		delete(h, name)
	}
	delete(h, "Accept-Ranges")
}

func addVary(h http.Header, field string) {
	for _, line := range h["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name == "*" || strings.EqualFold(name, field) {
				return
			}
		}
	}
	h["Vary"] = append(h["Vary"], field)
}

// stage is a step of a text on its way to the Stream: it sees what the origin says, opened, in
// UTF-8 or another charset that holds ASCII. Append appends to dst what is certain once src has
// come, and after the final chunk all of it; however the text is cut, what comes out is the same.
// It holds a bounded part back. Append may be called with an empty src.
type stage interface {
	Append(dst, src []byte, final bool) []byte
}

// passer is a stage that most texts pass. It says so of a chunk that it hands on as it is, up to n,
// where it holds nothing back from before; then that stands for Append, and the rest is held back.
type passer interface {
	pass(chunk []byte, final bool) (n int, ok bool)
}

// returner is a passer that may give back what it holds, if that fits into room: it comes again with
// what follows.
type returner interface {
	giveBack(room []byte) int
}

// maxReturned is as much as a returner gives back.
const maxReturned = 1 << 10

// freer is a stage whose memory is used again.
type freer interface{ free() }

// stages appends what a body goes through before the Stream: nothing for most.
func (m *Map) stages(list []stage, res *http.Response, p plan) []stage {
	if isHTML(p.kind) {
		list = append(list, m.newDocument(res, p.kind))
	}
	if p.tag != "" {
		list = append(list, newInserter(p.tag, p.kind, aimOf(res.Request)))
	}
	return list
}

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

	mu       sync.Mutex
	source   source
	coding   string // of enc
	uncoded  bool   // it is for others to close the text in coding
	came     []string
	dec      *decoder   // nil for identity
	enc      encoder    // nil for identity
	stages   []stage    // nil for most
	few      [2]stage   // memory for stages
	digests  *digesting // nil for most
	waiting  bool       // Response reads
	wide     *wide      // nil for all charsets but UTF-16
	header   http.Header
	fields   func(http.Header) // maps them
	begun    bool              // the first text has come
	misnamed string            // see Unmapped
	work     *work             // nil once everything has been given out
	given    int               // work.out[:given] has been read
	err      error             // comes when work.out has been read
	busy     bool              // there was something to exchange in the last chunk
	stopped  bool              // Close was called
	holding  atomic.Bool       // see Holding
	arrived  atomic.Bool       // so are both of these
	awaited  time.Time         // since when the first coded bytes are; zero when they are none
}

// source counts what comes from the origin. What was read ahead comes first.
type source struct {
	origin io.Reader
	ahead  []byte
	err    error // comes behind ahead
	bytes  int64
	ready  bool     // the next read will not wait: this one got all it asked for, or the end is known
	start  *opening // nil once the first text has come, and for what has no coding
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
		if n, err = s.read(p); err == errStillComing {
			return 0, err
		}
		s.err, s.ready = err, n == len(p) || err != nil
	}
	s.bytes += int64(n)
	return n, err
}

func newBody(res *http.Response, p plan) *body {
	b := &body{origin: res.Body, trailer: &res.Trailer, source: source{origin: res.Body}, came: p.came, coding: p.coding, uncoded: p.uncoded}
	b.work = takeWork(p.kind)
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
	if s.ahead = b.work.ahead[:n]; s.start != nil {
		s.start.kept = s.ahead
	}
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

// sniffed is the media type of what was read ahead, "" when that is no text. It reads on while that
// opens to nothing: many origins send the header of a gzip on its own.
func (b *body) sniffed() string {
	s := &b.source
	first := b.opened(s.ahead)
	for len(first) == 0 && s.err == nil && len(s.ahead) < len(b.work.ahead) {
		var n int
		n, s.err = s.origin.Read(b.work.ahead[len(s.ahead):])
		s.ahead = b.work.ahead[:len(s.ahead)+n]
		first = b.opened(s.ahead)
	}
	return sniffText(first)
}

// opened is the text at the beginning of a body that begins so.
func (b *body) opened(ahead []byte) []byte {
	if len(b.came) == 0 {
		return ahead
	}
	probe := source{ahead: ahead, err: io.EOF}
	dec := newDecoder(b.came, &probe)
	n, _ := dec.Read(b.work.chunk[:512])
	dec.free()
	return b.work.chunk[:n]
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
	b.stages, b.header, b.fields, b.digests = m.stages(b.few[:0], res, p), res.Header, m.Header, m.digesting(res)
	if b.dec = newDecoder(b.came, &b.source); b.dec != nil && p.kind != eventStream {
		b.source.start = &b.work.opening
		b.work.opening = opening{kept: b.work.ahead[:len(b.source.ahead)], holding: &b.holding, arrived: &b.arrived}
		b.awaited = time.Now()
	}
	if b.coding != "" && !b.uncoded {
		b.enc = newEncoder(b.coding, b.work)
	}
}

// finish rewrites a whole body at once and gives its length, -1 when that fails or is too long to
// be kept: then Read goes on with it.
func (b *body) finish() int64 {
	for b.err == nil && len(b.work.out) < smallText {
		b.step(nil)
	}
	if b.err != nil && b.err != io.EOF && len(b.work.out) == 0 {
		b.holding.Store(true) // until Read says so
	}
	return b.lengthAtEnd(nil)
}

// waitForPage reads on while a page has to be read before its header goes out, makes the header true
// of the page, and says whether it waited.
func (b *body) waitForPage(h http.Header) bool {
	for _, s := range b.stages {
		d, ok := s.(*document)
		if !ok {
			continue
		}
		for b.waiting = d.waits; d.waits && b.err == nil; {
			b.step(nil)
		}
		d.writeHeader(h, b.err == io.EOF)
	}
	if !b.waiting {
		return false
	}
	if b.waiting = false; b.err == nil {
		b.flush()
	}
	return true
}

// lengthAtEnd is the length of what Read is to give when that is known: at the end of a text that
// has no trailers.
func (b *body) lengthAtEnd(trailer http.Header) int64 {
	if b.err != io.EOF || len(trailer) > 0 {
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

// step reads text once and puts what it becomes into room, as far as that goes, and else into out;
// it says how much is in room. Text that goes on as it came stays there, where it was read. It
// flushes unless more is there.
func (b *body) step(room []byte) (passed int) {
	if b.enc != nil || b.wide != nil || b.digests != nil || b.source.start != nil || len(room) < passRoom {
		room = nil
	}
	b.work.grow()
	text, held, back, first := b.work.chunk, 0, 0, !b.begun
	if b.source.start != nil && b.work.small {
		text = make([]byte, chunkSize) // of a bomb so much shows what it is (bomb.go)
	}
	inRoom := room != nil && !b.busy
	if inRoom {
		held = b.work.stream.CopyHeld(room)
		back = b.giveBack(room[held:])
		text = room[held+back : min(len(room), held+len(b.work.chunk))] // chunk has room for back and it
	} else if room != nil {
		text = text[:min(len(text), len(room)-len(room)/8)] // the rest is for what grows
	}
	n, err := b.readText(text)
	b.work.full = n == len(text)
	if !b.begun {
		n, err = b.begin(text, n, err)
		if b.wide != nil && room != nil {
			inRoom, room, text = false, nil, b.work.chunk[:copy(b.work.chunk[:], text)]
		}
	}
	if err == io.EOF {
		err = b.drain()
	}
	b.err = err
	if inRoom {
		passed = b.pass(room, room[:held+back+n], held)
	} else {
		passed = b.write(text[:n], room)
	}
	switch {
	case err == io.EOF:
		b.end()
	case first && n == 0 && err != nil: // nothing goes out, so that the client can be told
	case err != nil || n < len(text) && !b.source.ready && !b.waiting:
		b.flush()
	}
	return passed
}

// begin looks at the first n bytes of a text for its charset, and at what they were opened from. It
// reads on where they are too few.
func (b *body) begin(text []byte, n int, err error) (int, error) {
	if b.source.start != nil && n > 0 {
		n, err = b.defuse(text, n, err)
	}
	for n < wideLead && err == nil && mayBeWide(text[:n]) {
		var more int
		more, err = b.readText(text[n:])
		n += more
	}
	if b.begun = n > 0 || err != nil; b.begun {
		b.wide = wideOf(text[:min(n, wideLead)], b.header)
		b.misnamed = misnamed(text[:n], b.wide != nil)
	}
	return n, err
}

// giveBack puts what the first stage holds back into room.
func (b *body) giveBack(room []byte) int {
	if len(b.stages) > 0 {
		if r, ok := b.stages[0].(returner); ok {
			return r.giveBack(room[:maxReturned])
		}
	}
	return 0
}

// pass leaves text, the beginning of room, which begins with what the stream held back, where it is
// if nothing in it is to be exchanged.
func (b *body) pass(room, text []byte, held int) int {
	chunk, same := b.staged(text[held:])
	if same {
		if done, ok := b.work.stream.Pass(text[:held+len(chunk)], b.err == io.EOF); ok {
			return done
		}
		chunk = b.work.chunk[:copy(b.work.chunk[:], chunk)]
	}
	return b.exchange(chunk, room)
}

// staged is a chunk behind the stages; same says that it has not changed, nor moved.
func (b *body) staged(chunk []byte) (out []byte, same bool) {
	final := b.err == io.EOF
	same = true
	for i, s := range b.stages {
		if p, ok := s.(passer); ok {
			if n, passed := p.pass(chunk, final); passed {
				chunk = chunk[:n]
				continue
			}
		}
		staged := &b.work.staged[i%len(b.work.staged)]
		*staged = s.Append((*staged)[:0], chunk, final)
		chunk, same = *staged, false
	}
	return chunk, same
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
	if b.digests != nil {
		b.digests.end()
	}
	for _, name := range digestFields {
		delete(*b.trailer, name)
	}
	b.fields(*b.trailer)
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

// write puts a chunk, the last one when b.err is io.EOF, through the stages and the stream. It says
// how much of what it becomes is in room.
func (b *body) write(chunk, room []byte) (passed int) {
	if b.digests != nil {
		write(&b.digests.came, chunk)
	}
	if b.wide != nil {
		chunk = b.wide.toNarrow(chunk, b.err == io.EOF)
	}
	chunk, _ = b.staged(chunk)
	return b.exchange(chunk, room)
}

// exchange puts a chunk through the stream into room, if there is one, or the encoder; what has no
// room goes into out.
func (b *body) exchange(chunk, room []byte) (passed int) {
	w, before, final := b.work, b.work.stream.exchanged, b.err == io.EOF
	switch {
	case room != nil && len(chunk)+maxHeld <= len(room):
		text := w.stream.Append(room[:0:len(room)], chunk, final)
		passed = copy(room, text)
		w.out = append(w.out, text[passed:]...)
	case b.enc == nil && b.wide == nil && b.digests == nil:
		w.out = w.stream.Append(w.out, chunk, final)
	default:
		w.text = w.stream.Append(w.text[:0], chunk, final)
		b.encode(w.text, final)
	}
	b.busy = w.stream.exchanged > before
	return passed
}

// encode puts rewritten text into the charset it came in, and into the encoder.
func (b *body) encode(text []byte, final bool) {
	if b.wide != nil {
		text = b.wide.toWide(text, final)
	}
	if b.digests != nil {
		write(&b.digests.leaves, text)
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
	for _, s := range b.stages {
		if f, ok := s.(freer); ok {
			f.free()
		}
	}
	b.work.give()
	b.work, b.dec, b.enc, b.stages, b.digests, b.wide, b.source = nil, nil, nil, nil, nil, nil, source{}
}

// Unmapped says why names in the text, as far as it has been read, were not found though it is one
// of those that are mapped; "" when nothing stood in the way.
func (b *body) Unmapped() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.misnamed
}

// Close closes the origin's body.
func (b *body) Close() error {
	err := b.origin.Close()
	b.mu.Lock()
	defer b.mu.Unlock()
	if o, ok := b.source.origin.(*patient); ok {
		o.end()
	}
	if !b.stopped {
		b.stopped = true
		b.release()
	}
	return err
}
