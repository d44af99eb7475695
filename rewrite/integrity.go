package rewrite

import (
	"container/list"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"hash"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// A page may say what the scripts and styles it names hash to (integrity=, Subresource Integrity),
// and its policy what its inline ones do ('sha256-…', CSP level 3 section 8.3). A text that is
// rewritten has another hash. What that is the memory knows:
//
//  1. A page names a resource of ours by a hash that is not known (page.go): the attribute goes,
//     for without it the script runs and with it none would; the resource's URL is wanted.
//  2. The next 200 that brings it whole is hashed on its way, as it comes and as it leaves
//     (digesting), and only that one: what nobody wants costs one load.
//  3. From then on pages get the hash of what the public URL gives. A hash is exchanged when it is,
//     bit for bit, that of the text that was hashed; a resource that has changed is wanted anew.
//  4. A resource that turns out to pass untouched keeps its hashes as they are.
//
// A policy's hashes are learned from the pages themselves: what their inline texts become, and the
// files that they name with such a hash. The memory is of one site and one
// process; it is bounded, and what is used least recently goes first.

// algorithm is a hash function of integrity metadata.
type algorithm uint8

const (
	sha256Hash algorithm = iota
	sha384Hash
	sha512Hash
	algorithms // how many there are
)

var algorithmNames = [algorithms]string{"sha256", "sha384", "sha512"}

func (a algorithm) new() hash.Hash {
	switch a {
	case sha256Hash:
		return sha256.New()
	case sha384Hash:
		return sha512.New384()
	}
	return sha512.New()
}

func (a algorithm) size() int { return 32 + 16*int(a) }

// of is the hash of a whole text.
func (a algorithm) of(text []byte) textHash {
	h := a.new()
	h.Write(text)
	return textHash{a, string(h.Sum(nil))}
}

// textHash is the hash of a text.
type textHash struct {
	algorithm algorithm
	sum       string // not encoded
}

// String is h as integrity metadata and policies have it.
func (h textHash) String() string {
	return algorithmNames[h.algorithm] + "-" + base64.StdEncoding.EncodeToString([]byte(h.sum))
}

// standard makes base64url base64 and drops the padding (CSP level 3, base64-value).
var standard = strings.NewReplacer("-", "+", "_", "/", "=", "")

// parseHash reads sha384-BASE64; options are what follows a "?" (SRI section 3.5).
func parseHash(expression string) (h textHash, options string, ok bool) {
	name, value, _ := strings.Cut(expression, "-")
	if i := strings.IndexByte(value, '?'); i >= 0 {
		value, options = value[:i], value[i:]
	}
	for a, known := range algorithmNames {
		if strings.EqualFold(name, known) {
			sum, err := base64.RawStdEncoding.DecodeString(standard.Replace(value))
			h = textHash{algorithm(a), string(sum)}
			return h, options, err == nil && len(sum) == h.algorithm.size()
		}
	}
	return h, "", false
}

// hashSet says for which hashes there is something.
type hashSet [algorithms]bool

// memory is what a site has learned about the hashes of texts that are rewritten.
type memory struct {
	watched atomic.Int64 // resources whose next fetch matters

	mu        sync.Mutex // guards the rest
	resources *recent[string, *resource]
	inline    *recent[inlineHash, textHash]
}

// resource is a script or style that pages name with its hashes.
type resource struct {
	wanted hashSet // to be learned
	passes bool    // its last 200 passed untouched
	came   [algorithms]string
	leaves [algorithms]string
}

// watched says whether the next fetch of r matters.
func (r *resource) watched() bool { return r.passes || r.wanted != hashSet{} }

// inlineHash is the hash of a text inside a page, as the origin has it.
type inlineHash struct {
	version string // of the map: routes have their own
	textHash
}

const (
	// memoryBytes bounds each half of a memory: some 1500 resources, 3000 inline texts.
	memoryBytes = 1 << 20
	// resourceBytes and inlineBytes are what one takes beside its URL, counted high.
	resourceBytes = 600
	inlineBytes   = 350
)

func newMemory() *memory {
	k := &memory{inline: newRecent[inlineHash, textHash](nil)}
	k.resources = newRecent[string](func(r *resource) {
		if r.watched() {
			k.watched.Add(-1)
		}
	})
	return k
}

// change calls f with the resource of a key, made when asked for, and keeps count of the watched.
func (k *memory) change(key string, make bool, f func(*resource)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	r, ok := k.resources.get(key)
	if !ok {
		if !make {
			return
		}
		r = &resource{}
		k.resources.put(key, r, len(key)+resourceBytes)
	}
	before := r.watched()
	f(r)
	switch after := r.watched(); {
	case after && !before:
		k.watched.Add(1)
	case before && !after:
		k.watched.Add(-1)
	}
}

// recomputed is what the hashes of a resource become, nil when not all are known: then they are
// wanted. It is stable unless the resource passes, which it may not always do.
func (m *Map) recomputed(key string, hashes []textHash) (public map[textHash]textHash, stable bool) {
	if key == "" {
		return nil, false
	}
	public = make(map[textHash]textHash, len(hashes))
	complete := false
	m.memory.change(key, true, func(r *resource) {
		stable = !r.passes
		for _, h := range hashes {
			switch {
			case r.passes:
				public[h] = h
			case r.came[h.algorithm] == h.sum:
				public[h] = textHash{h.algorithm, r.leaves[h.algorithm]}
			default:
				r.wanted[h.algorithm] = true
			}
		}
		complete = !slices.ContainsFunc(hashes, func(h textHash) bool { _, known := public[h]; return !known })
	})
	if !complete {
		return nil, false
	}
	return public, stable
}

// learnInline notes what a text inside a page becomes, unless some spelling of it has to be read.
func (k *memory) learnInline(version string, came, leaves textHash) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if old, ok := k.inline.get(inlineHash{version, came}); !ok || old != (textHash{}) {
		k.inline.put(inlineHash{version, came}, leaves, inlineBytes)
	}
}

func (k *memory) inlineOf(version string, came textHash) (leaves textHash, ok bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	leaves, ok = k.inline.get(inlineHash{version, came})
	return leaves, ok && leaves != textHash{}
}

// resourceKey is how the memory calls a URL with the origin's names, or the public ones: by its
// public host, so that it is one name whichever of the site's origins the relay asks. It is no
// resource of ours when the map has no such host.
func (m *Map) resourceKey(u *url.URL) (key string, ours bool) {
	public, ok := m.PublicOf(u.Scheme, u.Host)
	if !ok {
		origin, known := m.OriginOf(u.Host)
		if !known {
			return "", false
		}
		if public, ok = m.PublicOf(origin.Scheme, origin.Authority()); !ok {
			return "", false
		}
	}
	path := u.EscapedPath()
	if path == "" {
		path = "/"
	}
	return public.Authority() + path + "?" + u.RawQuery, true
}

// watchedKey is the key of what res answers, when that is a whole resource and some fetch matters.
// The relay has Response take some parts (206) for a 200.
func (m *Map) watchedKey(res *http.Response) (key string, ok bool) {
	if m.memory.watched.Load() == 0 || res.StatusCode != http.StatusOK || res.Header["Content-Range"] != nil ||
		res.Request == nil || res.Request.Method != http.MethodGet || res.Request.URL == nil {
		return "", false
	}
	return m.resourceKey(res.Request.URL)
}

// passed notes that what res answers passes as it is. That nothing passes says nothing.
func (m *Map) passed(res *http.Response) {
	if key, ok := m.watchedKey(res); ok && res.ContentLength != 0 {
		m.memory.change(key, false, func(r *resource) { r.wanted, r.passes = hashSet{}, true })
	}
}

// digesting hashes a resource on its way.
type digesting struct {
	memory *memory
	key    string
	came   [algorithms]hash.Hash
	leaves [algorithms]hash.Hash
}

// digesting is nil for what nobody wants.
func (m *Map) digesting(res *http.Response) *digesting {
	key, ok := m.watchedKey(res)
	if !ok {
		return nil
	}
	var wanted hashSet
	m.memory.change(key, false, func(r *resource) {
		if r.passes { // not any more
			r.passes = false
		}
		wanted = r.wanted
	})
	if wanted == (hashSet{}) {
		return nil
	}
	d := &digesting{memory: m.memory, key: key}
	for a := range algorithms {
		if wanted[a] {
			d.came[a], d.leaves[a] = a.new(), a.new()
		}
	}
	return d
}

// write hashes one side's next text.
func write(side *[algorithms]hash.Hash, text []byte) {
	for _, h := range side {
		if h != nil {
			h.Write(text)
		}
	}
}

// end notes the hashes of a resource that came whole.
func (d *digesting) end() {
	d.memory.change(d.key, true, func(r *resource) {
		r.passes = false
		for a := range algorithms {
			if d.came[a] != nil {
				r.wanted[a] = false
				r.came[a], r.leaves[a] = string(d.came[a].Sum(nil)), string(d.leaves[a].Sum(nil))
			}
		}
	})
}

// recent is a map that holds so many bytes of what was used last.
type recent[K comparable, V any] struct {
	entries map[K]*list.Element
	order   list.List // of *remembered[K, V], the last used in front
	bytes   int
	gone    func(V) // told of what is dropped; may be nil
}

type remembered[K comparable, V any] struct {
	key   K
	value V
	bytes int
}

func newRecent[K comparable, V any](gone func(V)) *recent[K, V] {
	return &recent[K, V]{entries: map[K]*list.Element{}, gone: gone}
}

func (r *recent[K, V]) get(key K) (value V, ok bool) {
	e := r.entries[key]
	if e == nil {
		return value, false
	}
	r.order.MoveToFront(e)
	return e.Value.(*remembered[K, V]).value, true
}

func (r *recent[K, V]) put(key K, value V, bytes int) {
	if e := r.entries[key]; e != nil {
		r.drop(e)
	}
	r.entries[key] = r.order.PushFront(&remembered[K, V]{key, value, bytes})
	for r.bytes += bytes; r.bytes > memoryBytes && r.order.Len() > 1; {
		e := r.order.Back()
		if r.gone != nil {
			r.gone(e.Value.(*remembered[K, V]).value)
		}
		r.drop(e)
	}
}

func (r *recent[K, V]) drop(e *list.Element) {
	old := e.Value.(*remembered[K, V])
	r.order.Remove(e)
	delete(r.entries, old.key)
	r.bytes -= old.bytes
}
