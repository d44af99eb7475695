package audit_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"causeway/audit"
)

// site is an edge whose answers say what its cache did.
type site struct {
	*httptest.Server

	mu    sync.Mutex // guards asked
	asked []string   // "path coding"
}

func newSite(t *testing.T, pages map[string]func(w http.ResponseWriter)) *site {
	s := &site{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.asked = append(s.asked, r.URL.Path+" "+r.Header.Get("Accept-Encoding"))
		s.mu.Unlock()
		page := pages[r.URL.Path]
		if page == nil {
			http.NotFound(w, r)
			return
		}
		page(w)
	}))
	t.Cleanup(s.Close)
	return s
}

// says answers with a body of three bytes and a Cache-Status.
func says(status string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Cache-Status", status)
		_, _ = io.WriteString(w, "tea")
	}
}

func TestWarm(t *testing.T) {
	s := newSite(t, map[string]func(http.ResponseWriter){
		"/new":     says("causeway; fwd=uri-miss; fwd-status=200; stored"),
		"/there":   says("origin-cache; fwd=miss, causeway; hit; ttl=3"),
		"/keyed":   says(`causeway; fwd=uri-miss; key="https://example.cn/;hit, causeway; hit\"; stored"; detail="private"`),
		"/private": says(`causeway; fwd=uri-miss; fwd-status=200; detail="private"`),
		"/none":    func(http.ResponseWriter) {},
		"/other":   func(w http.ResponseWriter) { w.WriteHeader(http.StatusMisdirectedRequest) }, // the edge has no such site
		"/gone": func(w http.ResponseWriter) {
			w.Header().Set("Cache-Status", "causeway; fwd=uri-miss; stored")
			w.WriteHeader(http.StatusNotFound)
		},
		"/broken": func(w http.ResponseWriter) { w.WriteHeader(http.StatusBadGateway) },
		"/cut": func(w http.ResponseWriter) {
			w.Header().Set("Content-Length", "9")
			_, _ = io.WriteString(w, "tea")
		},
	})
	var list strings.Builder
	list.WriteString("# pages\n\n")
	for _, path := range []string{"/new", "/there", "/private", "/keyed", "/none", "/other", "/gone", "/never", "/broken", "/cut"} {
		fmt.Fprintf(&list, " %s%s \n", s.URL, path)
	}
	var told []string
	got, err := audit.Warm(t.Context(), http.DefaultClient, audit.List(strings.NewReader(list.String())), 1, func(done, known int, all bool) {
		if done == 0 || done == 10 {
			told = append(told, fmt.Sprint(done, known, all))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	missed := func(path string, status int, why string) audit.Missed {
		return audit.Missed{URL: s.URL + path, Status: status, Why: why}
	}
	want := audit.Warming{URLs: 10, Kept: 1, Were: 1, NotKept: map[string]int{"private": 2, "no cache": 1}, Bytes: 7*3 + int64(len("404 page not found\n")),
		Unkept: []audit.Missed{missed("/private", 200, "private"), missed("/keyed", 200, "private"), missed("/none", 200, "no cache")},
		Failed: []audit.Missed{missed("/other", 421, "not kept: no cache"), missed("/gone", 404, "kept"), missed("/never", 404, "not kept: no cache"),
			missed("/broken", 502, "not kept: no cache"), missed("/cut", 200, "unexpected EOF")}, Took: got.Took}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%+v\nwant %+v", got, want)
	}
	if told[0] != "0 10 false" || told[len(told)-1] != "10 10 true" {
		t.Errorf("told %q", told)
	}
	if text := want.Failed[1].String(); text != s.URL+"/gone: 404 Not Found: kept" {
		t.Error(text)
	}
	if want := []string{"/new br, zstd, gzip", "/new gzip", "/there br, zstd, gzip", "/there gzip", "/private br, zstd, gzip", "/keyed br, zstd, gzip", "/none br, zstd, gzip", "/other br, zstd, gzip", "/gone br, zstd, gzip", "/never br, zstd, gzip", "/broken br, zstd, gzip", "/cut br, zstd, gzip"}; !slices.Equal(s.asked, want) {
		t.Errorf("asked %q", s.asked)
	}
}

// TestWarmNames shows that of many which fail or are not kept some are named, and
// that all are counted.
func TestWarmNames(t *testing.T) {
	s := newSite(t, nil)
	var list strings.Builder
	for i := range 25 {
		fmt.Fprintf(&list, "%s/%d\n", s.URL, i)
	}
	got, err := audit.Warm(t.Context(), http.DefaultClient, audit.List(strings.NewReader(list.String())), 3, nil)
	if err != nil || len(got.Failed) != 20 || got.More != 5 || got.URLs != 25 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestWarmAhead shows that the sitemaps of an index are read before the pages of the
// first have been asked for, so that it is known how many there are.
func TestWarmAhead(t *testing.T) {
	var s *site
	known := make(chan struct{})
	sitemap := func(text string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { _, _ = io.WriteString(w, strings.ReplaceAll(text, "HERE", s.URL)) }
	}
	page := func(w http.ResponseWriter) {
		select {
		case <-known:
		case <-time.After(10 * time.Second):
			w.WriteHeader(http.StatusGatewayTimeout)
		}
	}
	s = newSite(t, map[string]func(http.ResponseWriter){
		"/index.xml": sitemap(`<sitemapindex><sitemap><loc>HERE/one.xml</loc></sitemap><sitemap><loc>HERE/two.xml</loc></sitemap></sitemapindex>`),
		"/one.xml":   sitemap(`<urlset><url><loc>HERE/a</loc></url><url><loc>HERE/b</loc></url></urlset>`),
		"/two.xml":   sitemap(`<urlset><url><loc>HERE/c</loc></url></urlset>`),
		"/a":         page, "/b": page, "/c": page,
	})
	got, err := audit.Warm(t.Context(), http.DefaultClient, audit.Sitemap(t.Context(), http.DefaultClient, s.URL+"/index.xml", nil), 1, func(done, n int, all bool) {
		if done == 0 && n == 3 && all {
			close(known)
		}
	})
	if err != nil || got.URLs != 3 || len(got.Failed) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestWarmBadList shows that lines of a list which are no URL are named, with their
// numbers, and have failed, and that the others are asked for.
func TestWarmBadList(t *testing.T) {
	stored := says("causeway; fwd=uri-miss; stored")
	s := newSite(t, map[string]func(http.ResponseWriter){"/tea": stored, "/rice": stored})
	long := strings.Repeat("a", 200<<10)
	got, err := audit.Warm(t.Context(), http.DefaultClient, audit.List(strings.NewReader(s.URL+"/tea\n\n/tea\n"+long+"\n# "+long+"\nftp://example.cn/\r\n"+s.URL+"/rice")), 1, nil)
	noURL := "it is no URL: write it whole, as in https://example.cn/tea"
	want := []audit.Missed{{URL: "/tea", Line: 3, Why: noURL}, {URL: long[:200], Line: 4, Why: "it is longer than 64 KB"}, {URL: "ftp://example.cn/", Line: 6, Why: noURL}}
	if err != nil || got.URLs != 2 || got.Kept != 2 || !slices.Equal(got.Failed, want) || got.More != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if text := want[2].String(); text != `line 6: "ftp://example.cn/": `+noURL {
		t.Error(text)
	}
	if got, err := audit.Warm(t.Context(), http.DefaultClient, audit.List(strings.NewReader(strings.Repeat("tea\n", 30))), 1, nil); err != nil || len(got.Failed) != 20 || got.More != 10 {
		t.Errorf("%+v, %v", got, err)
	}
	broken := errors.New("input/output error")
	got, err = audit.Warm(t.Context(), http.DefaultClient, audit.List(io.MultiReader(strings.NewReader(s.URL+"/tea\n"), iotest.ErrReader(broken))), 1, nil)
	if !errors.Is(err, broken) || got.URLs != 1 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestWarmSlowList shows that what has come of a list is asked for while the rest has
// not, also where that has begun; and what is told meanwhile.
func TestWarmSlowList(t *testing.T) {
	asked := make(chan string)
	s := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked <- r.URL.Path }))
	defer s.Close()
	read, write := io.Pipe()
	var mu sync.Mutex // guards told
	var told []string
	ended := make(chan error)
	go func() {
		got, err := audit.Warm(t.Context(), http.DefaultClient, audit.List(read), 1, func(done, known int, all bool) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, fmt.Sprint(done, known, all))
		})
		if got.URLs != 3 {
			t.Errorf("%+v", got)
		}
		ended <- err
	}()
	for _, text := range []string{s.URL + "/1\n" + s.URL, "/2\n", s.URL + "/3\n"} {
		_, _ = io.WriteString(write, text)
		<-asked
	}
	write.Close()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if told[0] != "0 1 false" || told[len(told)-1] != "3 3 true" {
		t.Errorf("%q", told)
	}
}

// TestWarmForms shows that each coding of what is kept is asked for until it is there,
// what does not come is named, and it is not waited for what is not made.
func TestWarmForms(t *testing.T) {
	page := strings.Repeat("<p>", 1000)
	var mu sync.Mutex // guards looks
	looks := map[string]int{}
	serve := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		coding, status := r.Header.Get("Accept-Encoding"), "causeway; hit"
		mu.Lock()
		looks[r.Method+" "+r.URL.Path+" "+coding]++
		look := looks["HEAD "+r.URL.Path+" "+coding]
		mu.Unlock()
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Vary", "Accept-Encoding")
		switch path := r.URL.Path; {
		case path == "/image":
			w.Header().Set("Content-Type", "image/png")
		case path == "/there", path == "/slow" && look > 2:
			w.Header().Set("Content-Encoding", strings.Fields(strings.ReplaceAll(coding, ",", " "))[0])
		case path == "/gone" && r.Method == http.MethodHead:
			status = "causeway; fwd=uri-miss"
		}
		w.Header().Set("Cache-Status", status)
		_, _ = io.WriteString(w, page)
	})
	s := httptest.NewServer(serve)
	defer s.Close()
	var list strings.Builder
	for _, path := range []string{"/there", "/slow", "/image", "/gone"} {
		fmt.Fprintln(&list, s.URL+path)
	}
	client := &http.Client{Transport: &http.Transport{DisableCompression: true}}
	defer client.CloseIdleConnections()
	got, err := audit.Warm(t.Context(), client, audit.List(strings.NewReader(list.String())), 2, nil)
	if err != nil || got.URLs != 4 || got.Were != 4 || !slices.Equal(got.Plain, []string{s.URL + "/gone"}) || got.Plainer != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	want := map[string]int{}
	for _, coding := range []string{"br, zstd, gzip", "gzip"} {
		for path, heads := range map[string]int{"/there": 0, "/slow": 3, "/image": 0, "/gone": 4} {
			want["GET "+path+" "+coding] = 1
			if heads > 0 {
				want["HEAD "+path+" "+coding] = heads
			}
		}
	}
	if !reflect.DeepEqual(looks, want) {
		t.Errorf("%v\nwant %v", looks, want)
	}
}

func TestWarmEnds(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := audit.Warm(ctx, http.DefaultClient, audit.List(strings.NewReader("http://127.0.0.1:1/a\nhttp://127.0.0.1:1/b\n")), 1, nil); !errors.Is(err, context.Canceled) || len(got.Failed) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
}

// urlsOf is what a sitemap has.
func urlsOf(t *testing.T, at string) (urls, others []string, missed []audit.Missed) {
	for some, err := range audit.Sitemap(t.Context(), http.DefaultClient, at, func(of string) { others = append(others, of) }) {
		if err != nil {
			t.Fatal(err)
		}
		urls, missed = append(urls, some.URLs...), append(missed, some.Missed...)
	}
	return urls, others, missed
}

func TestSitemap(t *testing.T) {
	var s *site
	text := func(format string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { _, _ = io.WriteString(w, strings.ReplaceAll(format, "HERE", s.URL)) }
	}
	var packed bytes.Buffer
	zip := gzip.NewWriter(&packed)
	_, _ = io.WriteString(zip, `<urlset><url><loc>PLACE/zipped</loc></url></urlset>`)
	_ = zip.Close()
	s = newSite(t, map[string]func(http.ResponseWriter){
		"/index.xml": text(`<?xml version="1.0"?><sitemapindex xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">
			<sitemap><loc> HERE/one.xml </loc><lastmod>2026-11-01</lastmod></sitemap><sitemap><loc>http://elsewhere.example/two.xml</loc></sitemap></sitemapindex>`),
		"/one.xml": text(`<urlset><url><loc>HERE/a?x=1&amp;y=2</loc><image><loc>HERE/a.png</loc></image></url><url><loc>http://elsewhere.example/b</loc></url><url><loc>HERE/c</loc></url></urlset>`),
		"/zip":     func(w http.ResponseWriter) { _, _ = w.Write(packed.Bytes()) },
	})
	got, others, missed := urlsOf(t, s.URL+"/index.xml")
	if want := []string{s.URL + "/a?x=1&y=2", s.URL + "/c"}; len(missed) > 0 || len(got) < 2 || got[0] != want[0] || got[len(got)-1] != want[1] {
		t.Errorf("%q, %v", got, missed)
	}
	if want := []string{"http://elsewhere.example/two.xml", "http://elsewhere.example/b"}; !slices.Equal(others, want) {
		t.Errorf("left out: %q", others)
	}
	if got, others, missed := urlsOf(t, s.URL+"/zip"); len(missed) > 0 || len(got) != 0 || !slices.Equal(others, []string{"PLACE/zipped"}) { // of another host
		t.Errorf("%q, %v", got, missed)
	}
}

// TestWarmBrokenSitemaps shows that the sitemaps of an index which can't be read are
// named and have failed, that what came of one that is cut is asked for, and that those
// behind them are read.
func TestWarmBrokenSitemaps(t *testing.T) {
	var s *site
	text := func(format string) func(http.ResponseWriter) {
		return func(w http.ResponseWriter) { _, _ = io.WriteString(w, strings.ReplaceAll(format, "HERE", s.URL)) }
	}
	zipped := func(broken func([]byte) []byte) func(http.ResponseWriter) {
		var packed bytes.Buffer
		zip := gzip.NewWriter(&packed)
		_, _ = io.WriteString(zip, `<urlset>`+strings.Repeat(" ", 100_000)+`</urlset>`)
		_ = zip.Close()
		return func(w http.ResponseWriter) { _, _ = w.Write(broken(packed.Bytes())) }
	}
	stored := says("causeway; fwd=uri-miss; stored")
	paths := []string{"/none", "/page", "/empty", "/cut", "/zip", "/zipcut", "/large", "/nested", "/away", "/last"}
	s = newSite(t, map[string]func(http.ResponseWriter){
		"/index.xml": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, "<sitemapindex>")
			for _, path := range paths {
				_, _ = fmt.Fprintf(w, "<sitemap><loc>%s%s</loc></sitemap>", s.URL, path)
			}
			_, _ = io.WriteString(w, "</sitemapindex>")
		},
		"/page":   text(`<html><a href="/">no</a></html>`),
		"/empty":  text(``),
		"/cut":    text(`<urlset><url><loc>HERE/a</loc>`),
		"/zip":    zipped(func(b []byte) []byte { return b[:5] }),
		"/zipcut": zipped(func(b []byte) []byte { return b[:len(b)/2] }),
		"/large":  text(`<urlset>` + strings.Repeat(" ", 50<<20) + `</urlset>`),
		"/nested": text(`<sitemapindex><sitemap><loc>HERE/deep</loc></sitemap></sitemapindex>`),
		"/away":   func(w http.ResponseWriter) { panic(http.ErrAbortHandler) },
		"/last":   text(`<urlset><url><loc>HERE/b</loc></url></urlset>`),
		"/a":      stored, "/b": stored,
	})
	got, err := audit.Warm(t.Context(), http.DefaultClient, audit.Sitemap(t.Context(), http.DefaultClient, s.URL+"/index.xml", nil), 1, nil)
	if err != nil || got.URLs != 2 || got.Kept != 2 {
		t.Errorf("%+v, %v", got, err)
	}
	var failed strings.Builder
	for _, one := range got.Failed {
		fmt.Fprintln(&failed, strings.TrimPrefix(one.String(), s.URL))
	}
	if want := `/none: 404 Not Found: read the sitemap: it is none
/page: 200 OK: read the sitemap: it is none, but begins with <html>
/empty: 200 OK: read the sitemap: it is none
/cut: 200 OK: read the sitemap: XML syntax error on line 1: unexpected EOF
/zip: 200 OK: read the sitemap: unexpected EOF
/zipcut: 200 OK: read the sitemap: unexpected EOF
/large: 200 OK: read the sitemap: it is longer than 50 MB
/deep: read the sitemap: an index lists no other index, and no more than 50 000
/away: read the sitemap: EOF
`; failed.String() != want {
		t.Errorf("%s\nwant\n%s", failed.String(), want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if got, err := audit.Warm(ctx, http.DefaultClient, audit.Sitemap(ctx, http.DefaultClient, s.URL+"/index.xml", nil), 1, nil); !errors.Is(err, context.Canceled) || len(got.Failed) > 0 {
		t.Errorf("%+v, %v", got, err)
	}
}
