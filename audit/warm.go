package audit

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"causeway/cache"
)

// Warming asks an edge for pages so that its cache has them before visitors come:
//
//  1. Sitemap reads the URLs of a sitemap, and of those that it lists, or List
//     those of a text, a line each; what of them can't be read has failed, and the
//     rest goes on,
//  2. Warm reads them some way ahead, so that it knows how many there are, and asks
//     for each meanwhile, a few at a time, once for every coding that visitors take,
//  3. what is kept is asked for again, by HEAD, until the edge has made the form that
//     was wanted (await): so it is asked for no more than it makes,
//  4. what the edge says of it in Cache-Status (RFC 9211) is counted, and what is
//     not kept or failed is named.

// Sitemap limits (https://www.sitemaps.org/protocol.html): 50 000 URLs and 50 MB
// a file, and an index lists no other index.
const (
	mostSitemapBytes = 50 << 20
	mostSitemaps     = 50_000
)

// warmCodings are what visitors take: browsers over TLS, those over plain HTTP.
var warmCodings = []string{"br, zstd, gzip", "gzip"}

// Warming is what came of it. What failed is among neither those kept nor those not
// kept.
type Warming struct {
	URLs    int            `json:"urls"`
	Kept    int            `json:"kept"`               // that were not kept before
	Were    int            `json:"were_kept"`          // that were
	NotKept map[string]int `json:"not_kept,omitempty"` // why, as the edge says it
	Unkept  []Missed       `json:"not_kept_urls,omitempty"`
	Unnamed int            `json:"more_not_kept,omitempty"`
	Failed  []Missed       `json:"failed,omitempty"`
	More    int            `json:"more_failed,omitempty"`
	Plain   []string       `json:"not_compressed,omitempty"` // kept, but given in no coding to some who would rather have one
	Plainer int            `json:"more_not_compressed,omitempty"`
	Others  []string       `json:"left_out,omitempty"` // of other hosts than that of their sitemap
	Away    int            `json:"more_left_out,omitempty"`
	Bytes   int64          `json:"bytes"` // of bodies, as they came
	Took    time.Duration  `json:"took"`
}

// Missed is a URL that is not kept, or failed; a sitemap too, or a line of a list.
type Missed struct {
	URL    string `json:"url"`              // of a line that is none, how it begins
	Line   int    `json:"line,omitempty"`   // of the list, when it is that which is wrong
	Status int    `json:"status,omitempty"` // 0 is no answer
	Why    string `json:"why"`
}

func (m Missed) String() string {
	switch {
	case m.Line > 0:
		return fmt.Sprintf("line %d: %q: %s", m.Line, m.URL, m.Why)
	case m.Status == 0:
		return m.URL + ": " + m.Why
	}
	return m.URL + ": " + statusLine(m.Status) + ": " + m.Why
}

// Listed is some of the URLs that a list or a sitemap names, and what of it could not
// be read.
type Listed struct {
	URLs   []string
	Missed []Missed
}

// mostNamed is how many that failed, and that are not kept, and so on, are named.
const mostNamed = 20

// A form is waited for as long as a large one takes to be made behind some others;
// and where they don't come, as on an edge that has no room for them, the patience for
// all ends, and each is looked for once.
const (
	leastPause   = 5 * time.Millisecond
	mostPause    = 500 * time.Millisecond
	patience     = 10 * time.Second
	mostPatience = time.Minute
)

// mostAhead is how many URLs are read before the first of them has been asked for:
// eight sitemaps, of at most 50 000 each.
const mostAhead = 8 * 50_000

// Progress is told after each URL, and when more are known: how many were asked for,
// of how many known, and whether those are all. It is called by one goroutine at a
// time.
type Progress func(done, known int, all bool)

// Leave notes a URL that is left out.
func (w *Warming) Leave(of string) { name(&w.Others, &w.Away, of) }

// Warm asks for each URL of some lists by client, so many at a time, as they come.
// progress may be nil. What ends the lists is its error.
func Warm(ctx context.Context, client *http.Client, lists iter.Seq2[Listed, error], atOnce int, progress Progress) (Warming, error) {
	if progress == nil {
		progress = func(int, int, bool) {}
	}
	w := warmer{client: client, progress: progress, came: Warming{NotKept: make(map[string]int)}}
	begun := time.Now()
	ahead := make(chan string, mostAhead)
	var failed error // of the lists; who reads ahead has it until ahead is closed
	go func() {
		defer close(ahead)
		for some, err := range lists {
			if failed = err; err != nil {
				break
			}
			w.tell(some, false)
			for _, of := range some.URLs {
				select {
				case ahead <- of:
				case <-ctx.Done():
					return
				}
			}
		}
		w.tell(Listed{}, true)
	}()
	places := make(chan struct{}, max(1, atOnce))
	var asking sync.WaitGroup
	for of := range ahead {
		if ctx.Err() != nil {
			continue // who reads ahead ends
		}
		places <- struct{}{}
		asking.Go(func() {
			defer func() { <-places }()
			w.ask(ctx, of)
		})
	}
	asking.Wait()
	w.came.Took = time.Since(begun)
	if ctx.Err() != nil {
		return w.came, ctx.Err()
	}
	return w.came, failed
}

// warmer is a Warm under way.
type warmer struct {
	client   *http.Client
	progress Progress

	mu     sync.Mutex // guards the rest
	came   Warming
	known  int
	all    bool
	waited time.Duration // for forms that did not come
}

// tell notes that more are known, and what could not be read.
func (w *warmer) tell(more Listed, all bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, missed := range more.Missed {
		name(&w.came.Failed, &w.came.More, missed)
	}
	w.known, w.all = w.known+len(more.URLs), all
	w.progress(w.came.URLs, w.known, w.all)
}

// ask asks for one URL in each coding; the first answer tells.
func (w *warmer) ask(ctx context.Context, of string) {
	plain := false
	for i, coding := range warmCodings {
		said, n, err := w.get(ctx, http.MethodGet, of, coding)
		if err != nil && ctx.Err() != nil {
			return // nobody knows what it would have been
		}
		failed := err != nil || said.status >= 400
		kept := said.hit || said.stored
		w.mu.Lock()
		w.came.Bytes += n
		switch {
		case failed:
			name(&w.came.Failed, &w.came.More, Missed{URL: of, Status: said.status, Why: said.whyFailed(err)})
		case i > 0:
		case said.hit:
			w.came.Were++
		case said.stored:
			w.came.Kept++
		default:
			w.came.NotKept[said.why]++
			name(&w.came.Unkept, &w.came.Unnamed, Missed{URL: of, Status: said.status, Why: said.why})
		}
		if i == 0 {
			w.came.URLs++
			w.progress(w.came.URLs, w.known, w.all)
		}
		w.mu.Unlock()
		if failed || i == 0 && !kept {
			break
		}
		switch {
		case said.coded && said.hit:
		case said.coded: // it may have been compressed on its way, and be kept as it came
			plain = !w.await(ctx, of, coding, unknown) || plain
		case cache.Recodes(said.header, n):
			plain = !w.await(ctx, of, coding, n) || plain
		}
	}
	if plain {
		w.mu.Lock()
		defer w.mu.Unlock()
		name(&w.came.Plain, &w.came.Plainer, of)
	}
}

// unknown is the length of what has come in a coding alone.
const unknown = -1

// await asks for what is kept, of a length, until it comes in a coding, or is of those
// that don't. It says whether it does.
func (w *warmer) await(ctx context.Context, of, coding string, length int64) bool {
	begun := time.Now()
	for wait, looks := leastPause, 0; ; wait, looks = min(2*wait, mostPause), looks+1 {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
		method := http.MethodHead
		if length == unknown {
			method = http.MethodGet
		}
		said, n, err := w.get(ctx, method, of, coding)
		lost := err != nil || said.status >= 400 || looks >= mostMisses && !said.hit // the edge does not have it any more
		if err == nil && said.status < 400 && (said.hit || lost) {
			if length == unknown {
				length = n
			}
			if said.coded || !cache.Recodes(said.header, length) {
				return true
			}
		}
		w.mu.Lock()
		waited := time.Since(begun)
		over := lost || waited > patience || w.waited+waited > mostPatience && looks > 0
		if over {
			w.waited += waited
		}
		w.mu.Unlock()
		if over {
			return false
		}
	}
}

// mostMisses is how many of the first looks may be no hit: one that shares the fetch,
// one that validates.
const mostMisses = 3

// name adds one to those that are named, or to the number of the others.
func name[T any](named *[]T, more *int, one T) {
	if len(*named) == mostNamed {
		*more++
		return
	}
	*named = append(*named, one)
}

// get asks once and reads the whole answer.
func (w *warmer) get(ctx context.Context, method, of, coding string) (said cacheSaid, n int64, err error) {
	req, err := http.NewRequestWithContext(ctx, method, of, nil)
	if err != nil {
		return said, 0, err
	}
	req.Header.Set("Accept-Encoding", coding)
	req.Header.Set("User-Agent", "causeway-warm")
	res, err := w.client.Do(req)
	if err != nil {
		return said, 0, errors.Unwrap(err) // of a *url.Error, which says the URL again
	}
	defer res.Body.Close()
	n, err = io.Copy(io.Discard, res.Body)
	said = readCacheStatus(strings.Join(res.Header["Cache-Status"], ", "))
	said.status = res.StatusCode
	said.header, said.coded = res.Header, len(res.Header["Content-Encoding"]) > 0
	return said, n, err
}

// cacheSaid is what our own cache says in a Cache-Status field: the last member
// of the list is the cache nearest to us (RFC 9211 §2).
type cacheSaid struct {
	status      int // of the answer
	hit, stored bool
	why         string // it is not kept
	header      http.Header
	coded       bool // it has a Content-Encoding
}

// whyFailed is why an answer that failed did: the error, or what was done with one
// whose status is an error.
func (s cacheSaid) whyFailed(err error) string {
	switch {
	case err != nil:
		return err.Error()
	case s.hit || s.stored:
		return "kept"
	}
	return "not kept: " + s.why
}

func readCacheStatus(field string) (said cacheSaid) {
	said.why = "no cache"
	ours, collapsed := false, false
	for _, part := range statusParts(field) {
		name, value, _ := strings.Cut(strings.TrimSpace(part.text), "=")
		if part.first { // of a member of the list
			if ours = name == "causeway"; ours {
				said = cacheSaid{why: "not said"}
			}
			continue
		}
		switch {
		case !ours:
		case name == "hit":
			said.hit = true
		case name == "stored", name == "fwd-status" && value == "304":
			said.stored = true
		case name == "collapsed":
			collapsed = true
		case name == "detail":
			said.why = strings.Trim(value, `"`)
		}
	}
	said.stored = said.stored || collapsed && said.why == "not said" // by who came first
	return said
}

// statusPart is a member of a list, or a parameter of one.
type statusPart struct {
	text  string
	first bool
}

// statusParts takes a field apart at its commas and semicolons, but for those in
// strings (RFC 9651 §3.3.3).
func statusParts(field string) (parts []statusPart) {
	first, from, quoted := true, 0, false
	for i := 0; i <= len(field); i++ {
		switch {
		case i == len(field) || !quoted && (field[i] == ',' || field[i] == ';'):
			parts = append(parts, statusPart{field[from:i], first})
			first, from = i < len(field) && field[i] == ',', i+1
		case field[i] == '"':
			quoted = !quoted
		case quoted && field[i] == '\\':
			i = min(i+1, len(field)-1)
		}
	}
	return parts
}

// mostLine bounds a line of a list, and mostQuoted what is said of one that is no URL.
const (
	mostLine   = 64 << 10
	mostQuoted = 200
)

// List gives the URLs of a text: a line each, without empty ones and those that
// begin with #, as they come.
func List(r io.Reader) iter.Seq2[Listed, error] {
	return func(yield func(Listed, error) bool) {
		lines := bufio.NewReaderSize(r, mostLine)
		var some Listed
		for n := 1; ; n++ {
			line, err := lines.ReadSlice('\n')
			long := err == bufio.ErrBufferFull
			text := strings.TrimSpace(string(line))
			for err == bufio.ErrBufferFull {
				_, err = lines.ReadSlice('\n')
			}
			if wrong := badLine(text, long); wrong != "" {
				some.Missed = append(some.Missed, Missed{URL: text[:min(len(text), mostQuoted)], Line: n, Why: wrong})
			} else if text != "" && text[0] != '#' {
				some.URLs = append(some.URLs, text)
			}
			come, _ := lines.Peek(lines.Buffered())
			if err != nil || bytes.IndexByte(come, '\n') < 0 { // the next may take its time
				if !yield(some, nil) {
					return
				}
				some = Listed{}
			}
			switch {
			case err == io.EOF:
				return
			case err != nil:
				yield(Listed{}, fmt.Errorf("read the list: %w", err))
				return
			}
		}
	}
}

// badLine is what is wrong with a line of a list; "" for nothing.
func badLine(text string, long bool) string {
	if text == "" || text[0] == '#' {
		return ""
	}
	if long {
		return "it is longer than 64 KB"
	}
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "it is no URL: write it whole, as in https://example.cn/tea"
	}
	return ""
}

// Sitemap gives the URLs of the sitemap at a URL, and of the sitemaps that it
// lists if it is an index, fetched by client: those of each when it has been read. One
// that can't be read is named; of one that is cut off what came. Those of other hosts
// than that of the sitemap are left out, as the protocol says, and other is told of
// each.
func Sitemap(ctx context.Context, client *http.Client, at string, other func(of string)) iter.Seq2[Listed, error] {
	return func(yield func(Listed, error) bool) {
		from, err := url.Parse(at)
		if err != nil {
			yield(Listed{}, fmt.Errorf("read the sitemap: %w", err))
			return
		}
		next := []string{at}
		for first := true; len(next) > 0; first = false {
			var some Listed
			var listed []string
			status, err := readSitemap(ctx, client, next[0], func(kind, of string) {
				switch {
				case !sameHost(of, from.Host):
					other(of)
				case kind == "sitemap" && first && len(listed) < mostSitemaps:
					listed = append(listed, of)
				case kind == "sitemap":
					some.Missed = append(some.Missed, Missed{URL: of, Why: "read the sitemap: an index lists no other index, and no more than 50 000"})
				case kind == "url":
					some.URLs = append(some.URLs, of)
				}
			})
			switch {
			case ctx.Err() != nil:
				yield(Listed{}, ctx.Err())
				return
			case err != nil:
				some.Missed = append(some.Missed, Missed{URL: next[0], Status: status, Why: "read the sitemap: " + err.Error()})
			}
			next = append(next[1:], listed...)
			if !yield(some, nil) {
				return
			}
		}
	}
}

func sameHost(of, host string) bool {
	u, err := url.Parse(of)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && strings.EqualFold(u.Host, host)
}

// readSitemap fetches one and gives each <loc> in it with the element that it is
// in, "url" or "sitemap". status is that of the answer, 0 for none.
func readSitemap(ctx context.Context, client *http.Client, at string, each func(kind, of string)) (status int, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return 0, err
	}
	res, err := client.Do(req)
	if err != nil {
		return 0, errors.Unwrap(err) // of a *url.Error, which says the URL again
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return res.StatusCode, errNoSitemap
	}
	text := bufio.NewReader(res.Body)
	var plain io.Reader = text
	if magic, _ := text.Peek(2); string(magic) == "\x1f\x8b" { // a .xml.gz
		if plain, err = gzip.NewReader(text); err != nil {
			return res.StatusCode, err
		}
	}
	limited := &io.LimitedReader{R: plain, N: mostSitemapBytes + 1}
	if err = locations(xml.NewDecoder(limited), each); err != nil && limited.N <= 0 {
		err = errors.New("it is longer than 50 MB")
	}
	return res.StatusCode, err
}

var errNoSitemap = errors.New("it is none")

// locations walks the elements.
func locations(decoder *xml.Decoder, each func(kind, of string)) error {
	kind, root := "", false
	for {
		token, err := decoder.Token()
		switch {
		case err == io.EOF && root:
			return nil
		case err == io.EOF:
			return errNoSitemap
		case err != nil:
			return err
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		switch name := start.Name.Local; name {
		case "urlset", "sitemapindex":
			root = true
		case "url", "sitemap":
			kind = name
		case "loc":
			var of string
			if err := decoder.DecodeElement(&of, &start); err != nil {
				return err
			}
			if kind != "" {
				each(kind, strings.TrimSpace(of))
			}
		default:
			if !root {
				return fmt.Errorf("it is none, but begins with <%s>", name)
			}
		}
	}
}
