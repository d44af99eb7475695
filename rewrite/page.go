package rewrite

import (
	"bytes"
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/html"
)

// In a page there is more than URLs: it says what the scripts it names hash to, and a policy in it
// names hosts without a scheme. document is the stage that sees to it.
//
//  1. Nothing is parsed as long as nothing is there: pass and Append look for the words that matter,
//     "integrity", "security-policy" and "csp=" (cursor, words.go).
//  2. Around a word its tag is read (tag.go). With a script or link that names a resource of ours
//     (resource), or a meta element that holds a policy (meta), an edit is noted: the attribute goes
//     or gets another value. All other bytes go out as they came.
//  3. A tag that is still coming is held back, up to maxTag bytes, and so is an import map
//     (importmap.go), up to maxImportMap.
//  4. Where a policy, in the header or in a meta element, allows inline texts by hashes that the
//     memory does not know, the page is held back, up to maxPage and maxWait, and read with a tokenizer
//     (inline.go). Response waits for that, since the header goes out before. All pages of the
//     process that wait hold maxPages together; one too many goes on with what it has.
//
// A tag in a comment, a script or a textarea is treated as one too: a script that writes a tag
// means it. A refresh and the href of a base element are URLs and the Stream's.
//
// The entity tag of a page does not say what was known when it went out. It is weak: a page without
// an integrity attribute, and the same page with the hash that its script has now, are equivalent,
// and each keeps working as long as the map is the same, whose version is in the tag.
type document struct {
	m        *Map
	replacer *Replacer
	url      *url.URL // the page's own, with the origin's names; nil when it is not known

	policy  policyHashes
	pairs   map[textHash]textHash // of policy, what became of their texts in this page
	strict  bool                  // an Integrity-Policy: what has no integrity attribute may not run
	waits   bool                  // what comes is held until it is read as a whole
	since   time.Time             // it waits
	counted int64                 // its part of pagesHeld
	late    bool                  // no more is waited for
	removed bool                  // an integrity attribute had to go

	held []byte  // not yet handed on
	open tagScan // of the tag that held begins with
	read int     // held[:read] was there when it was last looked at

	seen      int      // bytes handed on
	head      []byte   // the page's beginning, headSize bytes at most
	base      *url.URL // what relative URLs are resolved against
	baseFound bool     // by a base element
	baseRead  int      // head[:baseRead] was looked at for one

	edits []edit // in order, of the text at hand
	metas []metaPolicy
	list  []attribute
}

const (
	// maxPage is how much of a page is read before any of it goes out, where a policy asks for it.
	// With its copies and the tokenizer's that is 4.4 MB.
	maxPage = 1 << 20
	// maxPages is how much of all pages is held so.
	maxPages = 32 << 20
	// maxWait is how long a page is waited for, looked at whenever a part of it has come: a page
	// that streams shows its beginning, with the policy as far as it is known by then.
	maxWait = time.Second
	// headSize is the beginning of a page in which a base element is looked for.
	headSize = 4 << 10
	// maxURL is the longest URL of a resource that is remembered.
	maxURL = 2 << 10
)

// edit puts text in the place of some bytes.
type edit struct {
	from, to int
	text     string
}

func sortEdits(edits []edit) {
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(a.from, b.from) })
}

var documents = sync.Pool{New: func() any { return &document{} }}

// newDocument is the stage of an answer that is HTML of a kind.
func (m *Map) newDocument(res *http.Response, kind string) *document {
	d := documents.Get().(*document)
	d.m, d.replacer = m, m.replacerFor(m.toPublic, kind)
	if res.Request != nil {
		d.url, d.base = res.Request.URL, res.Request.URL
	}
	d.readHeader(res)
	return d
}

// pagesHeld is how much of pages that wait has come, and has not been given out since.
var pagesHeld atomic.Int64

// wait begins to hold the page back.
func (d *document) wait() { d.waits, d.since = true, time.Now() }

// came counts n bytes that have come, and sees when the page has waited long enough.
func (d *document) came(n int) {
	if !d.waits {
		if d.counted > 0 { // what it held has been given out
			pagesHeld.Add(-d.counted)
			d.counted = 0
		}
		return
	}
	d.counted += int64(n)
	if pagesHeld.Add(int64(n)) > maxPages || time.Since(d.since) > maxWait {
		d.late = true
	}
}

// free gives d's memory back.
func (d *document) free() {
	d.waits = false
	d.came(0)
	clear(d.edits)
	clear(d.metas)
	d.m, d.replacer, d.url, d.base, d.pairs = nil, nil, nil, nil, nil
	d.policy, d.strict, d.waits, d.late, d.removed, d.baseFound = policyHashes{}, false, false, false, false, false
	d.seen, d.head, d.baseRead = 0, d.head[:0], 0
	d.held, d.edits, d.metas = d.held[:0], d.edits[:0], d.metas[:0]
	if cap(d.held) > 2*chunkSize {
		d.held = nil
	}
	documents.Put(d)
}

// pass says whether text goes on as it is up to n, with nothing held back before. Then it has.
func (d *document) pass(text []byte, final bool) (n int, ok bool) {
	if d.waits || len(d.held) > 0 {
		return 0, false
	}
	d.came(len(text))
	c := newCursor(text, final)
	if c.next() {
		return 0, false
	}
	n = c.hold()
	d.handOn(text[:n])
	d.held, d.open = append(d.held, text[n:]...), tagScan{}
	d.read = len(d.held)
	return n, true
}

// giveBack is a returner's.
func (d *document) giveBack(room []byte) int {
	if d.waits || len(d.held) > len(room) {
		return 0
	}
	n := copy(room, d.held)
	d.held, d.open, d.read = d.held[:0], tagScan{}, 0
	return n
}

// Append is the stage's.
func (d *document) Append(dst, src []byte, final bool) []byte {
	d.came(len(src))
	text := src
	if len(d.held) > 0 {
		d.held = append(d.held, src...)
		text = d.held
		if !final && d.stillWaits() {
			return dst
		}
	}
	for {
		n, whole := len(text), d.waits
		if whole {
			if n < maxPage && !final && !d.late {
				break
			}
			n, d.waits = min(n, maxPage), false
		}
		last := n == len(text)
		done := d.find(text[:n], final && last, whole)
		dst = d.edited(dst, text, 0, done)
		d.handOn(text[:done])
		if text = text[done:]; last && !d.waits {
			break
		}
	}
	d.held, d.open = append(d.held[:0], text...), tagScan{}
	d.read = len(d.held)
	return dst
}

// stillWaits says whether what is held has to wait for more: for the whole page, or for the end of a
// tag. It reads each byte once.
func (d *document) stillWaits() bool {
	if d.waits {
		return len(d.held) < maxPage && !d.late
	}
	name, more := tagOf(d.held)
	if more || name == otherTag {
		return more
	}
	if d.open.run(d.held[1:min(len(d.held), maxTag)]) < tagClosed {
		return len(d.held) < maxTag
	}
	// an import map, which ends with a tag
	from := d.read
	d.read = len(d.held)
	return from > d.open.at && d.read < maxImportMap && bytes.IndexByte(d.held[from:], '>') < 0
}

// handOn notes what has gone to the next step.
func (d *document) handOn(text []byte) {
	d.noteHead(text)
	d.seen += len(text)
}

// noteHead keeps what of text, which follows what was handed on, belongs to the page's beginning.
func (d *document) noteHead(text []byte) {
	if known := len(d.head) - d.seen; 0 <= known && known < len(text) {
		d.head = append(d.head, text[known:min(len(text), known+headSize-len(d.head))]...)
	}
}

// find notes the edits of text up to done; what stands behind has to wait for more. With whole, text
// is what was waited for; without, find may come upon what the page has to wait for.
func (d *document) find(text []byte, final, whole bool) (done int) {
	d.edits, d.metas = d.edits[:0], d.metas[:0]
	d.noteHead(text)
	c := newCursor(text, final)
	for c.next() {
		tag := text[c.start:c.end]
		d.list = attributes(d.list[:0], tag)
		switch {
		case c.textEnd > 0:
			d.importMap(text[c.end:c.textEnd], c.end)
		case c.tag == frameTag:
			d.frame(tag, c.start)
		case c.tag != metaTag:
			d.resource(tag, c.start, c.tag)
		case !d.meta(tag, c.start, whole):
			d.wait()
			return c.start
		}
	}
	if whole {
		d.readInline(text)
		d.finishMetas()
	}
	return c.hold()
}

// edited appends text[from:to] with its edits.
func (d *document) edited(dst, text []byte, from, to int) []byte {
	for _, e := range d.edits {
		if from <= e.from && e.to <= to {
			dst = append(append(dst, text[from:e.from]...), e.text...)
			from = e.to
		}
	}
	return append(dst, text[from:to]...)
}

// frame sees to the policy that a frame which stands at text[at:] asks of its page (CSP: Embedded
// Enforcement, section 3.1).
func (d *document) frame(tag []byte, at int) {
	if policy, ok := attributeOf(d.list, tag, "csp"); ok {
		value := policy.text(tag)
		if public := mapHashes(d.m.policy(value), d.published); public != value {
			d.edits = append(d.edits, edit{at + policy.value, at + policy.valueEnd, policy.written(public)})
		}
	}
}

// resource sees to the integrity attribute of a script or link that stands at text[at:].
func (d *document) resource(tag []byte, at int, kind tagKind) {
	metadata, ok := attributeOf(d.list, tag, "integrity")
	if !ok {
		return
	}
	name := "src"
	if kind == linkTag {
		name = "href"
		if as, _ := attributeOf(d.list, tag, "as"); isNeverText(as.text(tag)) {
			return
		}
	}
	target, ok := attributeOf(d.list, tag, name)
	if !ok {
		return
	}
	value := metadata.text(tag)
	public, goes, ours := d.metadata(value, target.text(tag), at)
	if !ours {
		return
	}
	if !goes {
		text := string(tag[metadata.value:metadata.valueEnd])
		if public != value {
			text = metadata.written(public)
		}
		d.edits = append(d.edits, edit{at + metadata.value, at + metadata.valueEnd, text})
		return
	}
	for _, a := range d.list { // all of them: without the first the second would count
		if equalFold(tag[a.name:a.nameEnd], "integrity") {
			from, to := a.without(tag)
			d.edits = append(d.edits, edit{at + from, at + to, ""})
		}
	}
}

// metadata is what becomes of the integrity metadata of a resource that is named at text[at:]; ours
// says that it is one whose hashes may change, with another page too.
func (d *document) metadata(value, target string, at int) (public string, goes, ours bool) {
	hashes := metadataHashes(value)
	if len(hashes) == 0 {
		return value, false, false // browsers take it for none
	}
	key, ours := d.key(target, at)
	// a policy may allow a script by the hash in its integrity attribute
	allowed := func(h textHash) bool { return d.policy.set[h] }
	if !ours {
		for _, h := range hashes {
			if allowed(h) {
				d.learn(h, h)
			}
		}
		return value, false, false
	}
	if known, stable := d.m.recomputed(key, hashes); known != nil {
		for came, leaves := range known {
			if allowed(came) && stable {
				d.learn(came, leaves)
			} else if allowed(came) {
				d.pair(came, leaves)
			}
		}
		return publicMetadata(value, known), false, true
	}
	if slices.ContainsFunc(hashes, allowed) {
		return value, false, true // without it the script would never be fetched, and its hash never known
	}
	d.removed = true
	return "", true, true
}

// publicMetadata has the hashes of what the public URL gives in the place of the origin's.
func publicMetadata(value string, known map[textHash]textHash) string {
	return mapTokens(value, spaces, func(token string) string {
		if h, options, ok := parseHash(token); ok && known[h] != h {
			return known[h].String() + options
		}
		return token
	})
}

// metadataHashes are the hashes in integrity metadata.
func metadataHashes(value string) (hashes []textHash) {
	for token := range strings.FieldsSeq(value) {
		if h, _, ok := parseHash(token); ok {
			hashes = append(hashes, h)
		}
	}
	return hashes
}

// isNeverText says whether what a link loads ahead is of a kind that is never rewritten.
func isNeverText(as string) bool {
	switch strings.ToLower(as) {
	case "audio", "font", "video":
		return true
	}
	return false
}

// key is the memory's name for the resource that a tag at text[at:] means; "" is one that can't be
// remembered.
func (d *document) key(target string, at int) (key string, ours bool) {
	target = strings.Trim(unwanted.Replace(target), " \f\x00")
	relative := isRelative(target)
	u, err := url.Parse(target)
	if err != nil {
		return "", relative && !d.baseFound || d.m.hasName(target)
	}
	if base := d.baseBefore(d.seen + at); base != nil {
		u = base.ResolveReference(u)
	}
	if key, ours = d.m.resourceKey(u); ours {
		if len(key) > maxURL {
			key = ""
		}
		return key, true
	}
	return "", relative && !d.baseFound
}

// unwanted is what browsers leave out of a URL (WHATWG URL section 4.4).
var unwanted = strings.NewReplacer("\t", "", "\n", "", "\r", "")

// isRelative says whether a URL has neither scheme nor host.
func isRelative(target string) bool {
	i := strings.IndexAny(target, ":/?#")
	return i < 0 || target[i] != ':' && !strings.HasPrefix(target, "//")
}

// baseBefore is what a relative URL so far into the page is resolved against (HTML section 4.2.3).
func (d *document) baseBefore(at int) *url.URL {
	end := min(at, len(d.head))
	if d.baseFound || end <= d.baseRead {
		return d.base
	}
	d.baseRead = end
	z := html.NewTokenizer(bytes.NewReader(d.head[:end]))
	for {
		switch z.Next() {
		case html.ErrorToken:
			return d.base
		case html.StartTagToken, html.SelfClosingTagToken:
			if d.takeBase(z) {
				return d.base
			}
		}
	}
}

// takeBase takes the tag that z is at for the base if it is one.
func (d *document) takeBase(z *html.Tokenizer) bool {
	name, more := z.TagName()
	if string(name) != "base" {
		return false
	}
	for more {
		var attr, value []byte
		if attr, value, more = z.TagAttr(); string(attr) != "href" {
			continue
		}
		u, err := url.Parse(strings.TrimSpace(string(value)))
		if err != nil {
			return false
		}
		if d.url != nil {
			u = d.url.ResolveReference(u)
		}
		d.base, d.baseFound = u, true
		return true
	}
	return false
}

// cursor goes from tag to tag in a text: those of script and link elements that have the word
// "integrity" in them, of meta elements with "security-policy", and of frames with "csp=". The tag of
// a word is what the last "<" before it begins.
type cursor struct {
	text  []byte
	final bool

	tag        tagKind
	start, end int // of the tag
	textEnd    int // of the import map behind the tag; 0 when it is the tag that has the word

	at     int // the search goes on here
	less   int // the last "<" before lessAt, not before the last tag's end; -1
	lessAt int
	open   int // where a tag starts that is still coming; -1
	passed int // where the last tag starts that has no such word; -1
}

func newCursor(text []byte, final bool) cursor {
	return cursor{text: text, final: final, less: -1, open: -1, passed: -1}
}

// next moves to the next tag.
func (c *cursor) next() bool {
	for {
		word, at := nextWord(c.text, c.at)
		if word == "" {
			return false
		}
		c.at = at
		start := c.lessBefore(at)
		if start < 0 || start == c.passed {
			continue
		}
		kind, _ := tagOf(c.text[start:])
		if kind == otherTag || kind.word() != word {
			continue
		}
		var scan tagScan
		state := scan.run(c.text[start+1 : min(len(c.text), start+maxTag)])
		end := start + 1 + scan.at
		switch {
		case state == tagClosed && end > at:
			c.found(kind, start, end, 0)
			return true
		case state == tagClosed && kind == scriptTag && isImportMap(c.text[start:end]):
			stop := scriptEnd(c.text, end)
			if 0 <= stop && stop-start <= maxImportMap {
				c.found(kind, start, end, stop)
				return true
			}
			if stop < 0 && c.mayEnd(start) {
				c.open = start
				return false
			}
		case state < tagClosed && !c.final && len(c.text)-start < maxTag:
			c.open = start
			return false
		}
		c.passed = start
	}
}

// found notes what next has come upon.
func (c *cursor) found(kind tagKind, start, end, textEnd int) {
	c.tag, c.start, c.end, c.textEnd = kind, start, end, textEnd
	c.at = max(end, textEnd)
	c.less, c.lessAt = -1, c.at
}

// mayEnd says whether an import map that starts at start may end in what is still coming.
func (c *cursor) mayEnd(start int) bool {
	return !c.final && len(c.text)-start < maxImportMap+len(scriptEndTag)+1
}

// hold is where something stands, when next has found no more, that may become a tag that matters
// when more comes.
func (c *cursor) hold() int {
	switch {
	case c.open >= 0:
		return c.open
	case c.final:
		return len(c.text)
	}
	start := c.lessBefore(len(c.text))
	if start < 0 {
		return len(c.text)
	}
	kind, more := tagOf(c.text[start:])
	var scan tagScan
	switch state := scan.run(c.text[start+1 : min(len(c.text), start+maxTag)]); {
	case more || kind != otherTag && state < tagClosed && len(c.text)-start < maxTag:
		return start
	case kind == scriptTag && state == tagClosed && c.mayEnd(start) && isImportMap(c.text[start:start+1+scan.at]):
		return start
	}
	return len(c.text)
}

// lessBefore is the last "<" before c.text[at], -1 when there is none that may begin its tag.
func (c *cursor) lessBefore(at int) int {
	from := max(c.lessAt, at-maxImportMap)
	if i := lastLess(c.text[from:at]); i >= 0 {
		c.less = from + i
	}
	c.lessAt = at
	return c.less
}

// lastLess is the last "<" in b. It looks at the end first, and further back only if it must.
func lastLess(b []byte) int {
	for window := 128; ; window *= 8 {
		from, last := max(0, len(b)-window), -1
		for i := from; ; i = last + 1 {
			n := bytes.IndexByte(b[i:], '<')
			if n < 0 {
				break
			}
			last = i + n
		}
		if last >= 0 || from == 0 {
			return last
		}
	}
}

// tagKind is an element whose tags matter.
type tagKind uint8

const (
	otherTag tagKind = iota
	scriptTag
	linkTag
	metaTag
	frameTag
)

var tagNames = [...]string{scriptTag: "<script", linkTag: "<link", metaTag: "<meta", frameTag: "<iframe"}

// word is what makes a tag matter.
func (k tagKind) word() string {
	switch k {
	case metaTag:
		return policyWord
	case frameTag:
		return frameWord
	}
	return integrityWord
}

// tagOf is whose tag b begins with; more says that b ends before that is certain.
func tagOf(b []byte) (kind tagKind, more bool) {
	for kind, name := range tagNames[1:] {
		n := min(len(b), len(name))
		if !equalFold(b[:n], name[:n]) {
			continue
		}
		if len(b) <= len(name) {
			return otherTag, true
		}
		if next := b[len(name)]; isSpace(next) || next == '/' {
			return tagKind(kind + 1), false
		}
	}
	return otherTag, false
}
