package cache

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// Random sequences of requests, answers of an origin, time, purges and failures,
// each of which is drawn from bytes; what clients get is held against the model.

// draws are the choices that a sequence is made of.
type draws struct{ bytes []byte }

func (d *draws) left() bool { return len(d.bytes) > 0 }

// of draws one of n.
func (d *draws) of(n int) int {
	if !d.left() {
		return 0
	}
	b := d.bytes[0]
	d.bytes = d.bytes[1:]
	return int(b) % n
}

// choose draws one of the choices: the first when nothing is left.
func choose[T any](d *draws, of ...T) T { return of[d.of(len(of))] }

// page is what the origin has at a URL at a time, and how it answers.
type page struct {
	version  int
	status   int
	control  []string // lines of Cache-Control
	fields   []string // others; + is an HTTP-date so many seconds from now
	etag     int      // none, strong, weak, weak and the same for two versions
	modified bool
	changed  time.Time
	vary     string
	coded    bool
	ranges   bool
	stubborn bool // it knows no conditions
	other    bool // its 304 is of another representation
	size     int
	latency  time.Duration
	fails    bool
	cut      bool
	short    bool // where it is cut, it just ends
	unsized  bool
}

// Themes of sequences: what is drawn more often.
const (
	anything = iota
	parts    // ranges, of what changes
	validity // validation, by GET and HEAD
)

// redraw changes how a page is answered.
func (p *page) redraw(d *draws, theme int) {
	p.vary, p.coded, p.ranges, p.stubborn, p.other, p.fails, p.cut, p.short = "", false, true, false, false, false, false, false
	p.status, p.fields, p.latency, p.unsized = 200, nil, 0, false
	switch theme {
	case parts:
		p.control = []string{choose(d, "max-age=60", "max-age=60", "max-age=20", "no-cache", "max-age=60, private")}
		p.etag, p.size = choose(d, 1, 1, 3, 2), choose(d, 100, 40, 100)
		p.vary = choose(d, "", "", "Accept-Language")
		p.cut, p.latency = d.of(8) == 1, choose(d, 0, 0, time.Second)
		p.short = p.cut && d.of(2) == 1
		return
	case validity:
		p.status = choose(d, 200, 200, 200, 200, 301, 410)
		p.control = []string{choose(d, "max-age=5", "max-age=5", "max-age=0", "no-cache", "public, max-age=5", "max-age=5, must-revalidate", "private, max-age=5", "no-store", `max-age=5, no-cache="X-Field"`)}
		p.fields = []string{choose(d, "X-Field: for you", "X-Field: for you", "Set-Cookie: user=", "Expires: +60", "Date: ", "Age: 3")}
		p.etag, p.modified, p.size = d.of(4), d.of(3) > 0, choose(d, 100, 40)
		p.vary = choose(d, "", "", "", "Accept-Language", "*")
		p.other = d.of(12) == 1
		return
	}
	p.status = choose(d, 200, 200, 200, 200, 200, 200, 404, 301, 500, 503, 302, 204, 410, 299)
	p.control = nil
	for range choose(d, 1, 1, 1, 2, 0, 3) {
		p.control = append(p.control, choose(d,
			"max-age=60", "max-age=60", "s-maxage=30", "max-age=5, s-maxage=100", "max-age=0", "no-cache", "no-store", "private", "public",
			"max-age=60, must-revalidate", "max-age=10, stale-while-revalidate=20", "s-maxage=10, stale-while-revalidate=20", "max-age=10, stale-if-error=60",
			"proxy-revalidate, max-age=20", `private="X-Field", max-age=60`, `no-cache="Set-Cookie, X-Field", max-age=60`, `max-age="60"`, "MAX-AGE=60", "max-age=60, max-age=5",
			"max-age=99999999999999999999", "max-age=-5", "max-age=1.5", "max-age", "max-age=", "max-age =60", "max-age= 60", "immutable, max-age=60",
			"must-understand, no-store, max-age=60", "no-transform, max-age=60", `foo="max-age=600, no-store", max-age=20`, `max-age=30, foo="`, "public, max-age=20, must-revalidate", "public, max-age=60", ",,max-age=60,,"))
	}
	p.fields = nil
	for range choose(d, 0, 0, 1, 2, 3) {
		p.fields = append(p.fields, choose(d,
			"Expires: +30", "Expires: -30", "Expires: 0", "Expires: tomorrow", "Age: 5", "Age: 50", "Age: -1", "Age: 5, 500", "Age: 99999999999999", "Age: x",
			"Date: +-20", "Date: +-100", "Date: +10", "Date: never", "Date: ", "CDN-Cache-Control: max-age=40", "CDN-Cache-Control: no-store", "CDN-Cache-Control: max-age=(", "CDN-Cache-Control: ",
			"Set-Cookie: user=", "Cache-Tag: a", "Cache-Tag: b", "X-Field: for you", "Pragma: no-cache", "Expires: +60"))
	}
	p.etag = d.of(4)
	p.modified = d.of(2) == 1
	p.vary = choose(d, "", "", "", "Accept-Language", "Accept-Encoding", "*", "Accept-Language, Cookie", "accept-language , Accept-Encoding")
	p.coded = d.of(4) == 1
	p.ranges = d.of(3) != 1
	p.stubborn = d.of(5) == 1
	p.other = d.of(12) == 1
	p.size = choose(d, 100, 40, 0, 1, 1000, 3000)
	p.latency = choose(d, 0, 0, 100*time.Millisecond, time.Second, 7*time.Second)
	p.fails = d.of(10) == 1
	p.cut = d.of(10) == 1
	p.short = p.cut && d.of(2) == 1
	p.unsized = d.of(3) == 1
}

// world is one sequence: a cache, its origin, and what happened.
type world struct {
	t      *testing.T
	policy *Policy
	theme  int
	cache  *Cache
	close  func() error // the store, if it needs that
	way    *Transport
	tick   atomic.Int64

	happened sync.Mutex // guards the rest
	history
	pages map[string]*page
	reps  map[string]*rep
}

const origin = "https://example.cn"

func newWorld(t *testing.T, d *draws) *world {
	w := &world{t: t, pages: map[string]*page{}, reps: map[string]*rep{}, policy: choose(d, &Policy{}, &Policy{},
		&Policy{StaleWhileRevalidate: 10 * time.Second, StaleIfError: time.Minute}, &Policy{Heuristic: true}, &Policy{DefaultTTL: 20 * time.Second, Negative: 10 * time.Second}, &Policy{TTL: 30 * time.Second})}
	var store Store = newMapStore()
	if d.of(4) == 1 { // the real one, in memory
		tiers, err := OpenTiers(TiersOptions{Memory: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		store, w.close = tiers, tiers.Close
	}
	w.cache = New(Options{Store: store, Codings: gzipOnly{}})
	w.way = &Transport{Cache: w.cache, Next: originFunc(w.answer), Policy: func(*http.Request) *Policy { return w.policy }}
	return w
}

func (w *world) page(url string) *page {
	p := w.pages[url]
	if p == nil {
		p = &page{status: 200, control: []string{"max-age=60"}, etag: 1, size: 100, changed: time.Now()}
		w.pages[url] = p
	}
	return p
}

// answer is the origin.
func (w *world) answer(req *http.Request) (*http.Response, error) {
	w.happened.Lock()
	url := req.URL.String()
	p := *w.page(url)
	x := &fetched{
		n: len(w.fetched) + 1, method: req.Method, url: url, request: req.Header.Clone(), sent: time.Now(), sentAt: w.tick.Add(1),
		noStoreAsked: readSays(req.Header["Cache-Control"]).has("no-store"), personal: len(req.Header["Authorization"]) > 0,
	}
	w.fetched = append(w.fetched, x)
	if req.Method == "POST" {
		w.page(url).version++
		w.page(url).changed = time.Now()
	}
	x.rep = w.representation(url, &p, req.Header)
	w.happened.Unlock()

	time.Sleep(p.latency)
	w.happened.Lock()
	defer w.happened.Unlock()
	x.answered, x.answeredAt = time.Now(), w.tick.Add(1)
	if x.failed = p.fails; p.fails {
		return nil, errors.New("the origin fails")
	}
	h := http.Header{"Content-Type": {"text/plain"}, "X-Answer": {strconv.Itoa(x.n)}, "X-Base": {strconv.Itoa(x.n)}, "Date": {x.answered.UTC().Format(http.TimeFormat)}}
	for _, line := range p.control {
		h.Add("Cache-Control", line)
	}
	if p.vary != "" {
		h.Set("Vary", p.vary)
	}
	for _, line := range p.fields {
		name, value, _ := strings.Cut(line, ": ")
		if offset, ok := strings.CutPrefix(value, "+"); ok {
			seconds, _ := strconv.Atoi(offset)
			value = x.answered.Add(time.Duration(seconds) * time.Second).UTC().Format(http.TimeFormat)
		}
		switch {
		case name == "Date" && value == "":
			h.Del("Date")
		case name == "Date":
			h.Set("Date", value)
		case name == "Set-Cookie":
			h.Add("Set-Cookie", value+strconv.Itoa(x.n))
		default:
			h.Add(name, value)
		}
	}
	tag := x.rep.name
	switch p.etag {
	case 0:
		tag = ""
	case 1:
		tag = `"` + tag + `"`
	case 2:
		tag = `W/"` + tag + `"`
	case 3:
		tag = `W/"half ` + strconv.Itoa(p.version/2) + `"`
	}
	if tag != "" {
		h.Set("ETag", tag)
	}
	if p.modified {
		h.Set("Last-Modified", p.changed.UTC().Format(http.TimeFormat))
	}
	x.status = p.status
	body := encoded(x.rep.bytes, x.rep.coding)
	if x.rep.coding != "" {
		h.Set("Content-Encoding", x.rep.coding)
	}
	x.to = len(body)
	look := &lineage{base: x, last: x, header: h}
	if req.Method == "GET" && p.status == 200 {
		unchanged, _ := look.unchanged(&visit{request: req.Header}, tag)
		span := spans(req.Header.Get("Range"), len(body))
		since := req.Header.Get("If-Range")
		switch {
		case unchanged && !p.stubborn:
			x.status, body = 304, nil
			h.Del("X-Base")
			h.Del("Content-Type")
			h.Del("Content-Encoding")
			if p.other {
				h.Set("ETag", `"another"`)
			}
		case p.ranges && len(span) == 1 && (since == "" || since == tag && p.etag == 1):
			x.status, x.from, x.to = 206, span[0][0], span[0][1]
			h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", x.from, x.to-1, len(body)))
			body = body[x.from:x.to]
		}
	}
	x.header = h
	if x.status == 204 {
		body = nil
	}
	res := &http.Response{StatusCode: x.status, Header: h.Clone(), ContentLength: int64(len(body)), Request: req, ProtoMajor: 1, ProtoMinor: 1}
	if req.Method == "HEAD" {
		h.Del("X-Base") // it may update what a GET brought
		res.Header = h.Clone()
	}
	if req.Method == "HEAD" || body == nil {
		res.Body, x.done, x.doneAt = http.NoBody, time.Now(), w.tick.Add(1)
		return res, nil
	}
	r := &comes{w: w, x: x, rest: body}
	if p.cut && len(body) > 0 {
		x.cut, r.rest, r.end = true, body[:len(body)/2], io.ErrUnexpectedEOF
	}
	if res.Body = r; p.unsized && !p.short {
		res.ContentLength = -1
	}
	if p.cut && p.short {
		r.end = io.EOF // though its length says otherwise
	}
	return res, nil
}

// comes is a body of the origin.
type comes struct {
	w    *world
	x    *fetched
	rest []byte
	end  error
}

func (c *comes) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		c.w.happened.Lock()
		if c.end != nil {
			c.x.cutAt = c.w.tick.Add(1)
			c.w.happened.Unlock()
			return 0, c.end
		}
		if c.x.doneAt == 0 {
			c.x.done, c.x.doneAt = time.Now(), c.w.tick.Add(1)
		}
		c.w.happened.Unlock()
		return 0, io.EOF
	}
	n := copy(p, c.rest[:min(len(c.rest), 1+len(c.rest)/2)])
	c.rest = c.rest[n:]
	return n, nil
}

func (c *comes) Close() error { return nil }

// representation is what the page has for a request; its bytes tell it from all
// others.
func (w *world) representation(url string, p *page, request http.Header) *rep {
	name := fmt.Sprintf("%s.%d.%d", url[len(url)-1:], p.version, p.size)
	if strings.Contains(strings.ToLower(p.vary), "language") {
		name += "." + strings.Join(request["Accept-Language"], "")
	}
	coding := ""
	if p.coded && len(request["Accept-Encoding"]) > 0 && takes(request, "gzip") {
		coding = "gzip"
		name += ".gz"
	}
	if w.reps[name] == nil {
		text := make([]byte, 0, p.size+40)
		for len(text) < p.size {
			text = fmt.Appendf(text, "%s@%d ", name, len(text))
		}
		w.reps[name] = &rep{name: name, bytes: text[:p.size], coding: coding}
	}
	return w.reps[name]
}

// visitor draws a request.
func (w *world) visitor(d *draws) *http.Request {
	w.happened.Lock()
	defer w.happened.Unlock()
	if w.theme == parts && d.of(4) > 0 {
		req := request("GET", "/a", "Range: "+choose(d, "bytes=0-19", "bytes=20-39", "bytes=40-", "bytes=0-49", "bytes=30-99", "bytes=10-29", "bytes=-60", "bytes=5-60"))
		if d.of(6) == 1 {
			req.Header.Set("Accept-Language", choose(d, "en", "de"))
		}
		return req
	}
	if w.theme == validity && d.of(3) > 0 {
		req := request(choose(d, "GET", "GET", "GET", "HEAD"), "/a")
		if d.of(3) == 1 {
			req.Header.Set(choose(d, "Accept-Language", "Accept-Language", "Cookie", "Authorization"), choose(d, "en", "de"))
		}
		return req
	}
	method := choose(d, "GET", "GET", "GET", "GET", "GET", "GET", "HEAD", "POST")
	req := request(method, choose(d, "/a", "/a", "/b"))
	for range choose(d, 0, 0, 1, 1, 2) {
		line := choose(d,
			"Accept-Language: en", "Accept-Language: de", "Accept-Language: en", "Accept-Encoding: gzip", "Accept-Encoding: br;q=0.5, gzip", "Accept-Encoding: identity", "Accept-Encoding: identity;q=0, gzip",
			"Cookie: user=1", "Cookie: user=2", "Authorization: one", "Authorization: two",
			"Cache-Control: no-cache", "Cache-Control: no-store", "Cache-Control: max-age=5", "Cache-Control: min-fresh=20", "Cache-Control: max-stale=15", "Cache-Control: max-stale", "Cache-Control: only-if-cached", "Pragma: no-cache", "Cache-Control: max-age=0", "Cache-Control: stale-if-error=40",
			"If-None-Match: ", "If-None-Match: ", `If-None-Match: "x", W/"y"`, "If-None-Match: *", "If-Modified-Since: ", "If-Modified-Since: ",
			"Range: bytes=0-9", "Range: bytes=5-", "Range: bytes=-7", "Range: bytes=50-70", "Range: bytes=10-49", "Range: bytes=5000-", "Range: bytes=0-", "Range: bytes=9-3", "Range: lines=1-2", "Range: bytes=0-4, 8-12", "If-Range: ", "If-Range: ")
		name, value, _ := strings.Cut(line, ": ")
		if value == "" { // as a client that has an answer of before
			from := "Etag"
			if name == "If-Modified-Since" || name == "If-Range" && d.of(3) == 0 {
				from = "Last-Modified"
			}
			back := d.of(3)
			for i := len(w.visits) - 1; i >= 0; i-- {
				if v := w.visits[i]; v.url == req.URL.String() && v.header.Get(from) != "" {
					if value = v.header.Get(from); back == 0 {
						break
					}
					back--
				}
			}
			if value == "" {
				continue
			}
		}
		if req.Header.Get(name) == "" {
			req.Header.Set(name, value)
		}
	}
	return req
}

var errLeft = errors.New("the client left")

// visit sends a request and notes what comes.
func (w *world) visit(req *http.Request, leaves bool) {
	v := &visit{method: req.Method, url: req.URL.String(), request: req.Header.Clone(), policy: w.policy, begun: time.Now()}
	w.happened.Lock()
	v.n = len(w.visits) + 1
	w.visits = append(w.visits, v)
	v.begunAt = w.tick.Add(1)
	w.happened.Unlock()
	res, err := w.way.RoundTrip(req)
	var body []byte
	var cut error
	if err == nil {
		if leaves {
			body = make([]byte, 1)
			n, _ := res.Body.Read(body)
			body, cut = body[:n], errLeft
		} else {
			body, cut = io.ReadAll(res.Body)
			if cut == nil && req.Method != "HEAD" && res.ContentLength > int64(len(body)) {
				cut = io.ErrUnexpectedEOF // a client sees that
			}
		}
		res.Body.Close()
	}
	w.happened.Lock()
	defer w.happened.Unlock()
	v.done, v.doneAt, v.err, v.body, v.cut = time.Now(), w.tick.Add(1), err, body, cut
	if err != nil {
		return
	}
	v.status, v.header, v.length = res.StatusCode, res.Header.Clone(), res.ContentLength
	if req.Method == "POST" && v.status < 400 {
		n, _ := strconv.Atoi(v.header.Get("X-Answer"))
		w.strikes = append(w.strikes, &struck{at: w.fetched[n-1].sentAt, over: v.doneAt, when: v.done, hits: func(url string, _ []string) bool { return url == v.url }})
	}
}

// step does one thing that is drawn.
func (w *world) step(d *draws) {
	synctest.Wait() // what begins in the background has begun
	switch d.of(12) {
	default:
		w.visit(w.visitor(d), d.of(20) == 1)
	case 5: // several at once
		var all sync.WaitGroup
		for range 2 + d.of(3) {
			req, leaves := w.visitor(d), d.of(10) == 1
			all.Go(func() { w.visit(req, leaves) })
			time.Sleep(choose(d, 0, 0, 50*time.Millisecond, 2*time.Second))
		}
		all.Wait()
	case 6, 7:
		w.happened.Lock()
		w.page(origin+choose(d, "/a", "/a", "/b")).redraw(d, w.theme)
		w.happened.Unlock()
	case 8:
		w.happened.Lock()
		p := w.page(origin + choose(d, "/a", "/a", "/b"))
		p.version++
		p.changed = time.Now()
		w.happened.Unlock()
	case 9, 10:
		time.Sleep(choose(d, time.Second, 4*time.Second, 11*time.Second, 29500*time.Millisecond, time.Minute, 300*time.Millisecond, time.Hour, 100*24*time.Hour))
	case 11:
		match := choose(d, Match{URL: origin + "/a"}, Match{Prefix: origin + "/"}, Match{Host: "example.cn"}, Match{Tag: "a"}, Match{URL: origin + "/b"})
		k := &struck{soft: d.of(2) == 1, hits: match.Of, at: w.tick.Add(1), when: time.Now()}
		w.cache.Purge(match, k.soft)
		k.over = w.tick.Add(1)
		w.happened.Lock()
		w.strikes = append(w.strikes, k)
		w.happened.Unlock()
	}
}

// tally is what a run went through, so that it is seen not to be idle.
type tally struct{ sequences, visits, hits, stale, validated, parts, unchanged int }

// sequence runs one and judges every answer in it: "" is that all is well.
func sequence(t *testing.T, bytes []byte, count *tally) string {
	d := &draws{bytes: bytes}
	w := newWorld(t, d)
	w.theme = choose(d, anything, anything, anything, parts, validity)
	w.page(origin+"/a").redraw(d, w.theme)
	for steps := 0; d.left() && steps < 60; steps++ {
		w.step(d)
	}
	synctest.Wait()
	w.cache.Close()
	if w.close != nil {
		if err := w.close(); err != nil {
			t.Error(err)
		}
	}
	for _, v := range w.visits {
		if wrong := w.judge(v); wrong != "" {
			return fmt.Sprintf("the answer to %d is wrong:\n\t%s\n%sbytes: %x", v.n, wrong, w.log(), bytes)
		}
		count.visits++
		if v.err == nil {
			status := v.header.Get("Cache-Status")
			if strings.Contains(status, "; hit") {
				count.hits++
				if strings.Contains(status, "ttl=-") {
					count.stale++
				}
			}
			if strings.Contains(status, "fwd-status=304") {
				count.validated++
			}
			if v.status == 206 {
				count.parts++
			}
			if v.status == 304 {
				count.unchanged++
			}
		}
	}
	count.sequences++
	return ""
}

// log is all that happened, in its order.
func (w *world) log() string {
	lines := map[int64]string{}
	for _, x := range w.fetched {
		lines[x.sentAt] = fmt.Sprintf("    o> %d %s %s %v", x.n, x.method, x.url, x.request)
		lines[x.answeredAt] = fmt.Sprintf("    o< %d at %v: %d %v, failed %v, cut %v", x.n, x.answered.Format("02T15:04:05.0"), x.status, x.header, x.failed, x.cut)
	}
	for _, v := range w.visits {
		lines[v.begunAt] = fmt.Sprintf("> %d at %v: %s %s %v", v.n, v.begun.Format("02T15:04:05.0"), v.method, v.url, v.request)
		lines[v.doneAt] = fmt.Sprintf("< %d: %d %v %.40q %v %v", v.n, v.status, v.header, v.body, v.err, v.cut)
	}
	for _, k := range w.strikes {
		lines[k.over] += fmt.Sprintf(" == struck, soft %v", k.soft)
	}
	var all strings.Builder
	for tick := range w.tick.Load() + 1 {
		if line := lines[tick]; line != "" {
			fmt.Fprintf(&all, "%s\n", line)
		}
	}
	return fmt.Sprintf("policy %+v\n%s", *w.policy, all.String())
}

// modelSequences is how many TestModel runs; fewSequences with the race detector.
const (
	modelSequences = 20_000
	fewSequences   = 2_000
)

// TestModel runs sequences, the same each time.
func TestModel(t *testing.T) {
	sequences := modelSequences
	if testing.Short() || raceEnabled {
		sequences = fewSequences
	}
	const shards = 4
	var counts [shards]tally
	t.Run("shards", func(t *testing.T) {
		for shard := range shards {
			t.Run(strconv.Itoa(shard), func(t *testing.T) {
				t.Parallel()
				random := rand.New(rand.NewPCG(9111, uint64(shard)))
				for range sequences / shards {
					bytes := make([]byte, 20+random.IntN(200))
					for i := range bytes {
						bytes[i] = byte(random.UintN(256))
					}
					var wrong string
					synctest.Test(t, func(t *testing.T) { wrong = sequence(t, bytes, &counts[shard]) })
					if wrong != "" {
						t.Error(wrong)
					}
				}
			})
		}
	})
	var sum tally
	for _, c := range counts {
		sum.sequences += c.sequences
		sum.visits += c.visits
		sum.hits += c.hits
		sum.stale += c.stale
		sum.validated += c.validated
		sum.parts += c.parts
		sum.unchanged += c.unchanged
	}
	t.Logf("%+v", sum)
}

// FuzzModel looks for a sequence that the model disagrees with.
func FuzzModel(f *testing.F) {
	random := rand.New(rand.NewPCG(9111, 9110))
	for range 50 {
		bytes := make([]byte, 150)
		for i := range bytes {
			bytes[i] = byte(random.UintN(256))
		}
		f.Add(bytes)
	}
	f.Fuzz(func(t *testing.T, bytes []byte) {
		synctest.Test(t, func(t *testing.T) {
			if wrong := sequence(t, bytes, new(tally)); wrong != "" {
				t.Error(wrong)
			}
		})
	})
}
