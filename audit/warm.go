package audit

import (
	"bufio"
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
)

// Warming asks an edge for pages so that its cache has them before visitors come:
//
//  1. Sitemap reads the URLs of a sitemap, and of those that it lists, or List
//     those of a text, a line each,
//  2. Warm asks for each, a few at a time, once for every coding that visitors
//     take,
//  3. what the edge says of it in Cache-Status (RFC 9211) is counted.

// Sitemap limits (https://www.sitemaps.org/protocol.html): 50 000 URLs and 50 MB
// a file, and an index lists no other index.
const (
	mostSitemapBytes = 50 << 20
	mostSitemaps     = 50_000
)

// warmCodings are what visitors take: browsers over TLS, those over plain HTTP.
var warmCodings = []string{"br, zstd, gzip", "gzip"}

// Warming is what came of it.
type Warming struct {
	URLs    int            `json:"urls"`
	Kept    int            `json:"kept"`               // that were not kept before
	Were    int            `json:"were_kept"`          // that were
	NotKept map[string]int `json:"not_kept,omitempty"` // why, as the edge says it
	Failed  []string       `json:"failed,omitempty"`   // "URL: why", the first mostFailed
	More    int            `json:"more_failed,omitempty"`
	Bytes   int64          `json:"bytes"` // of bodies, as they came
	Took    time.Duration  `json:"took"`
}

// mostFailed is how many failures are told one by one.
const mostFailed = 20

// Warm asks for each URL by client, so many at a time. progress, which may be nil,
// is told after each.
func Warm(ctx context.Context, client *http.Client, urls iter.Seq2[string, error], atOnce int, progress func(done int)) (Warming, error) {
	w := warmer{client: client, progress: progress, came: Warming{NotKept: make(map[string]int)}}
	begun := time.Now()
	places := make(chan struct{}, max(1, atOnce))
	var asking sync.WaitGroup
	var failed error
	for of, err := range urls {
		if err != nil {
			failed = err
			break
		}
		if ctx.Err() != nil {
			break
		}
		places <- struct{}{}
		asking.Go(func() {
			defer func() { <-places }()
			w.ask(ctx, of)
		})
	}
	asking.Wait()
	w.came.Took = time.Since(begun)
	return w.came, errors.Join(failed, ctx.Err())
}

// warmer is a Warm under way.
type warmer struct {
	client   *http.Client
	progress func(done int)

	mu   sync.Mutex // guards came
	came Warming
}

// ask asks for one URL in each coding; the first answer tells.
func (w *warmer) ask(ctx context.Context, of string) {
	for i, coding := range warmCodings {
		said, n, err := w.get(ctx, of, coding)
		w.mu.Lock()
		w.came.Bytes += n
		switch {
		case err != nil && ctx.Err() != nil:
		case err != nil:
			w.fail(of, err)
		case i > 0:
		case said.hit:
			w.came.Were++
		case said.stored:
			w.came.Kept++
		default:
			w.came.NotKept[said.why]++
		}
		if i == 0 {
			w.came.URLs++
		}
		done := w.came.URLs
		w.mu.Unlock()
		if i == 0 && w.progress != nil {
			w.progress(done)
		}
		if err != nil || !said.hit && !said.stored {
			return
		}
	}
}

// fail notes a failure. w.mu is held.
func (w *warmer) fail(of string, err error) {
	if len(w.came.Failed) == mostFailed {
		w.came.More++
		return
	}
	w.came.Failed = append(w.came.Failed, of+": "+err.Error())
}

// get asks once and reads the whole answer.
func (w *warmer) get(ctx context.Context, of, coding string) (said cacheSaid, n int64, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, of, nil)
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
	if err == nil && (res.StatusCode >= 500 || res.StatusCode == http.StatusMisdirectedRequest) { // 421: the edge has no such site
		err = errors.New(statusLine(res.StatusCode))
	}
	return readCacheStatus(strings.Join(res.Header["Cache-Status"], ", ")), n, err
}

// cacheSaid is what our own cache says in a Cache-Status field: the last member
// of the list is the cache nearest to us (RFC 9211 §2).
type cacheSaid struct {
	hit, stored bool
	why         string // it is not kept
}

func readCacheStatus(field string) (said cacheSaid) {
	said.why = "no cache"
	ours := false
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
		case name == "stored":
			said.stored = true
		case name == "detail":
			said.why = strings.Trim(value, `"`)
		}
	}
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

// mostList bounds a list, and mostBadLines how many of its lines are told that are
// no URL.
const (
	mostList     = 256 << 20
	mostBadLines = 20
)

// List gives the URLs of a text: a line each, without empty ones and those that
// begin with #. It reads all of it first: where a line is no URL it gives none, and
// the error names the lines.
func List(r io.Reader) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		all, err := readList(r)
		if err != nil {
			yield("", err)
			return
		}
		for _, of := range all {
			if !yield(of, nil) {
				return
			}
		}
	}
}

func readList(r io.Reader) (all []string, err error) {
	limited := &io.LimitedReader{R: r, N: mostList + 1}
	lines := bufio.NewScanner(limited)
	lines.Buffer(nil, 64<<10)
	var bad []error
	n := 0
	for more := 0; ; {
		n++
		if !lines.Scan() {
			if more > 0 {
				bad = append(bad, fmt.Errorf("and %d more lines", more))
			}
			break
		}
		of := strings.TrimSpace(lines.Text())
		if of == "" || of[0] == '#' {
			continue
		}
		switch err := whole(of); {
		case err == nil:
			all = append(all, of)
		case len(bad) < mostBadLines:
			bad = append(bad, fmt.Errorf("line %d: %w", n, err))
		default:
			more++
		}
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, fmt.Errorf("read the list: line %d is longer than 64 KB", n)
	case err != nil:
		return nil, fmt.Errorf("read the list: %w", err)
	case limited.N <= 0:
		return nil, errors.New("read the list: it is longer than 256 MB: give it in parts")
	}
	return all, errors.Join(bad...)
}

// whole refuses what is no absolute URL.
func whole(of string) error {
	u, err := url.Parse(of)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%.200q is no URL: write it whole, as in https://example.cn/tea", of)
	}
	return nil
}

// Sitemap gives the URLs of the sitemap at a URL, and of the sitemaps that it
// lists if it is an index, fetched by client. Those of other hosts than that of
// the sitemap are left out, as the protocol says.
func Sitemap(ctx context.Context, client *http.Client, at string) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		from, err := url.Parse(at)
		if err != nil {
			yield("", fmt.Errorf("read the sitemap: %w", err))
			return
		}
		var listed []string
		goOn := true
		err = readSitemap(ctx, client, at, func(kind, of string) bool {
			switch {
			case !sameHost(of, from.Host):
			case kind == "sitemap" && len(listed) < mostSitemaps:
				listed = append(listed, of)
			case kind == "url":
				goOn = yield(of, nil)
			}
			return goOn
		})
		for _, of := range listed {
			if err != nil || !goOn {
				break
			}
			err = readSitemap(ctx, client, of, func(kind, of string) bool {
				if kind == "url" && sameHost(of, from.Host) {
					goOn = yield(of, nil)
				}
				return goOn
			})
		}
		if err != nil && goOn {
			yield("", err)
		}
	}
}

func sameHost(of, host string) bool {
	u, err := url.Parse(of)
	return err == nil && (u.Scheme == "http" || u.Scheme == "https") && strings.EqualFold(u.Host, host)
}

// readSitemap fetches one and gives each <loc> in it with the element that it is
// in, "url" or "sitemap", until each says false.
func readSitemap(ctx context.Context, client *http.Client, at string, each func(kind, of string) bool) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return fmt.Errorf("read the sitemap: %w", err)
	}
	res, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("read the sitemap: %w", err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("read the sitemap %s: %s", at, statusLine(res.StatusCode))
	}
	text := bufio.NewReader(res.Body)
	var plain io.Reader = text
	if magic, _ := text.Peek(2); string(magic) == "\x1f\x8b" { // a .xml.gz
		if plain, err = gzip.NewReader(text); err != nil {
			return fmt.Errorf("read the sitemap %s: %w", at, err)
		}
	}
	limited := &io.LimitedReader{R: plain, N: mostSitemapBytes + 1}
	if err := locations(xml.NewDecoder(limited), each); err != nil {
		if limited.N <= 0 {
			err = errors.New("it is longer than 50 MB")
		}
		return fmt.Errorf("read the sitemap %s: %w", at, err)
	}
	return nil
}

// locations walks the elements.
func locations(decoder *xml.Decoder, each func(kind, of string) bool) error {
	kind, root := "", false
	for {
		token, err := decoder.Token()
		switch {
		case err == io.EOF && root:
			return nil
		case err == io.EOF:
			return errors.New("it is no sitemap")
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
			if kind != "" && !each(kind, strings.TrimSpace(of)) {
				return nil
			}
		default:
			if !root {
				return fmt.Errorf("it is no sitemap, but begins with <%s>", name)
			}
		}
	}
}
