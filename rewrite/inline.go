package rewrite

import (
	"bytes"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/html"
)

// A policy can allow the inline scripts and styles of a page by their hashes (CSP level 3 section
// 6.7.3.3). A text that is rewritten needs the hash it has then.
//
//  1. readHeader and meta collect the hashes of the policies. What became of the texts of most the
//     memory knows from earlier pages; then nothing has to be waited for.
//  2. Otherwise the whole page is read (readInline): script and style elements, and, where the
//     policy has 'unsafe-hashes', event handlers and style attributes. What hashes to one of the
//     policy's is rewritten and hashed again.
//  3. mapHashes puts the new hashes in the place of the old.
//
// Hashes are of the text as browsers hash it: newlines as LF, attributes without character
// references. They are of UTF-8: in a page in another charset an inline text with characters
// outside ASCII keeps its old hash, as do texts behind the first maxPage bytes that no page before
// had, those in foreign content (SVG) that a tokenizer takes for markup, and javascript: URLs.

// policyHashes are the hashes in the policies of a page.
type policyHashes struct {
	set      map[textHash]bool
	use      hashSet // the functions in use
	handlers bool    // attributes count
}

// maxHashes is how many hashes of the policies of one page are looked after: 600 KB.
const maxHashes = 4096

// add takes the hashes of a policy and says whether there are any.
func (p *policyHashes) add(policy string) (found bool) {
	if !mayHaveHash(policy) {
		return false
	}
	mapTokens(policy, policySeparators, func(token string) string {
		if h, ok := sourceHash(token); ok {
			if p.set == nil {
				p.set = map[textHash]bool{}
			}
			if p.use[h.algorithm], found = true, true; len(p.set) < maxHashes {
				p.set[h] = true
			}
		} else if strings.EqualFold(token, "'unsafe-hashes'") {
			p.handlers = true
		}
		return token
	})
	return found
}

// mayHaveHash is quick and may be mistaken one way.
func mayHaveHash(policy string) bool {
	return strings.Contains(policy, "'sha") || strings.Contains(strings.ToLower(policy), "'sha")
}

const (
	spaces           = " \t\n\f\r"
	policySeparators = spaces + ";,"
)

// sourceHash reads 'sha256-…' in its quotes.
func sourceHash(token string) (h textHash, ok bool) {
	if len(token) < 2 || token[0] != '\'' || token[len(token)-1] != '\'' {
		return h, false
	}
	h, options, ok := parseHash(token[1 : len(token)-1])
	return h, ok && options == ""
}

// mapTokens is a list with its tokens mapped by f, and what parts them as it was.
func mapTokens(list, separators string, f func(token string) string) string {
	var out strings.Builder
	for list != "" {
		n := strings.IndexAny(list, separators)
		if n < 0 {
			n = len(list)
		}
		if n > 0 {
			out.WriteString(f(list[:n]))
		}
		if n < len(list) {
			out.WriteByte(list[n])
			n++
		}
		list = list[n:]
	}
	return out.String()
}

// mapHashes exchanges the hashes in a policy that known knows.
func mapHashes(policy string, known func(textHash) (textHash, bool)) string {
	if !mayHaveHash(policy) {
		return policy
	}
	return mapTokens(policy, policySeparators, func(token string) string {
		if h, ok := sourceHash(token); ok {
			if public, ok := known(h); ok && public != h {
				return "'" + public.String() + "'"
			}
		}
		return token
	})
}

var policyNames = []string{"Content-Security-Policy", "Content-Security-Policy-Report-Only"}

const integrityPolicy = "Integrity-Policy"

// readHeader collects the hashes of the header's policies. The page waits when it has to be read
// before the header goes out: for a hash that is not known, and to know whether all integrity
// attributes stay where none may be missing.
func (d *document) readHeader(res *http.Response) {
	if res.StatusCode/100 == 3 {
		return // nobody sees it
	}
	for _, name := range policyNames {
		for _, line := range res.Header[name] {
			d.policy.add(line)
		}
	}
	d.strict = len(res.Header[integrityPolicy]) > 0
	if d.strict || !d.knows(d.policy) {
		d.wait()
	}
}

// knows says whether all hashes of a policy are known.
func (d *document) knows(policy policyHashes) bool {
	for h := range policy.set {
		if _, ok := d.published(h); !ok {
			return false
		}
	}
	return true
}

// published is the hash that an inline text has once it is rewritten.
func (d *document) published(came textHash) (leaves textHash, ok bool) {
	if leaves, ok = d.pairs[came]; ok {
		return leaves, true
	}
	return d.m.inlineHash(came)
}

func (m *Map) inlineHash(came textHash) (leaves textHash, ok bool) {
	return m.memory.inlineOf(m.version, came)
}

// writeHeader makes the header's policies true of the page, as far as it is known now; whole says
// that all of it is. A tag behind what is known may yet lose its integrity attribute.
func (d *document) writeHeader(h http.Header, whole bool) {
	if len(d.policy.set) > 0 {
		mapPolicies(h, d.published)
	}
	if d.strict && (d.removed || !whole) {
		delete(h, integrityPolicy)
	}
}

func mapPolicies(h http.Header, known func(textHash) (textHash, bool)) {
	for _, name := range policyNames {
		for i, line := range h[name] {
			h[name][i] = mapHashes(line, known)
		}
	}
}

// dropPolicies is for a 304: what it says of policies takes the place of what the client has kept
// (RFC 9111 section 3.2), and only that fits the page that the client has kept.
func dropPolicies(h http.Header) {
	for _, name := range policyNames {
		var found policyHashes
		for _, line := range h[name] {
			found.add(line)
		}
		if len(found.set) > 0 {
			delete(h, name)
		}
	}
	delete(h, integrityPolicy)
}

// metaPolicy is the policy of a meta element whose hashes are not known yet.
type metaPolicy struct {
	tag     []byte
	at      int // its place
	content attribute
	policy  string
}

// meta sees to a meta element that may hold a policy. It says false, and does nothing, when that
// has to be read together with the texts that follow, which whole says it is.
func (d *document) meta(tag []byte, at int, whole bool) bool {
	kind, _ := attributeOf(d.list, tag, "http-equiv")
	content, ok := attributeOf(d.list, tag, "content")
	if !ok || !strings.EqualFold(strings.TrimSpace(kind.text(tag)), "content-security-policy") {
		return true
	}
	p := metaPolicy{tag, at, content, content.text(tag)}
	var own policyHashes
	own.add(p.policy)
	d.policy.add(p.policy)
	switch {
	case d.knows(own):
		d.editMeta(p)
	case !whole:
		return false
	default:
		d.metas = append(d.metas, p)
	}
	return true
}

func (d *document) editMeta(p metaPolicy) {
	public := mapHashes(d.m.policy(p.policy), d.published)
	if public != p.policy {
		d.edits = append(d.edits, edit{p.at + p.content.value, p.at + p.content.valueEnd, p.content.written(public)})
	}
}

// finishMetas edits the policies that had to wait for the texts of the page.
func (d *document) finishMetas() {
	for _, p := range d.metas {
		d.editMeta(p)
	}
	sortEdits(d.edits)
}

// readInline learns what becomes of the texts in a page whose hashes its policies have.
func (d *document) readInline(text []byte) {
	if len(d.policy.set) == 0 {
		return
	}
	z := html.NewTokenizer(bytes.NewReader(text))
	inside := false
	for at := 0; ; {
		kind := z.Next()
		end := at + len(z.Raw())
		switch kind {
		case html.ErrorToken:
			return
		case html.StartTagToken, html.SelfClosingTagToken: // <script/> is a start tag too
			if d.policy.handlers {
				d.readHandlers(text[at:end], at)
			}
			name, _ := z.TagName()
			inside = string(name) == "script" || string(name) == "style"
		case html.TextToken:
			if inside {
				d.readElement(text, at, end)
			}
			inside = false
		default:
			inside = false
		}
		at = end
	}
}

// readElement is for the text of a script or style element, text[from:to].
func (d *document) readElement(text []byte, from, to int) {
	stable := !slices.ContainsFunc(d.edits, func(e edit) bool { return from <= e.from && e.to <= to })
	d.readText(withLF(text[from:to]), stable, func() []byte {
		// with what stands around it, which is never exchanged
		around := append(d.edited([]byte(">"), text, from, to), "</"...)
		public := d.replacer.Append(nil, around)
		return withLF(public[1 : len(public)-2])
	})
}

// readHandlers is for the event handlers and the style in a tag that stands at text[at:]. Browsers
// hash their values, which are spelled in many ways. Where the Stream would not know the spelling of
// a URL, the value is written anew, so that all with one hash become the same; a page with that hash
// is always read as a whole.
func (d *document) readHandlers(tag []byte, at int) {
	var scan tagScan
	if scan.run(tag[1:]) != tagClosed || 1+scan.at != len(tag) {
		return
	}
	for _, a := range attributes(nil, tag) {
		name := strings.ToLower(string(tag[a.name:a.nameEnd]))
		if name != "style" && !strings.HasPrefix(name, "on") || a.value == a.valueEnd {
			continue
		}
		value := unescape(string(withLF(tag[a.value:a.valueEnd])))
		plain := d.replacer.String(value)
		public := d.replacer.Append(nil, tag[a.value-1:a.valueEnd+1])
		known := unescape(string(withLF(public[1:len(public)-1]))) == plain
		leaves := func() []byte { return []byte(plain) }
		if d.readText([]byte(value), known, leaves) && !known {
			d.edits = append(d.edits, edit{at + a.value, at + a.valueEnd, a.written(plain)})
		}
	}
}

// readText notes what becomes of a text, with its newlines as LF, when its hash is one of the
// policy's, which it says; and for other pages too: that, when it is stable, the same in every page, or
// that they have to be read.
func (d *document) readText(text []byte, stable bool, rewritten func() []byte) (allowed bool) {
	var public []byte
	for a, used := range d.policy.use {
		if !used {
			continue
		}
		came := algorithm(a).of(text)
		if !d.policy.set[came] {
			continue
		}
		if public == nil {
			public = rewritten()
		}
		leaves := algorithm(a).of(public)
		allowed = true
		if d.learn(came, leaves); !stable {
			d.m.memory.learnInline(d.m.version, came, textHash{})
		}
	}
	return allowed
}

// learn notes, for this page and others, what a hash becomes.
func (d *document) learn(came, leaves textHash) {
	d.pair(came, leaves)
	d.m.memory.learnInline(d.m.version, came, leaves)
}

// pair notes, for this page, what a hash becomes.
func (d *document) pair(came, leaves textHash) {
	if d.pairs == nil {
		d.pairs = map[textHash]textHash{}
	}
	d.pairs[came] = leaves
}

// withLF is a text with its newlines as browsers have them (HTML section 13.2.3.5).
func withLF(text []byte) []byte {
	if bytes.IndexByte(text, '\r') < 0 {
		return text
	}
	return bytes.ReplaceAll(bytes.ReplaceAll(text, []byte("\r\n"), []byte("\n")), []byte("\r"), []byte("\n"))
}
