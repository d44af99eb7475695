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
	want := audit.Warming{URLs: 10, Kept: 1, Were: 1, NotKept: map[string]int{"private": 2, "no cache": 1}, Bytes: 7*3 + int64(len("404 page not found\n")),
		Unkept: []audit.Missed{{s.URL + "/private", 200, "private"}, {s.URL + "/keyed", 200, "private"}, {s.URL + "/none", 200, "no cache"}},
		Failed: []audit.Missed{{s.URL + "/other", 421, "not kept: no cache"}, {s.URL + "/gone", 404, "kept"}, {s.URL + "/never", 404, "not kept: no cache"},
			{s.URL + "/broken", 502, "not kept: no cache"}, {s.URL + "/cut", 200, "unexpected EOF"}}, Took: got.Took}
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

// TestWarmBadList shows that nothing is asked for of a list with lines that are no
// URL, and that all of them are named.
func TestWarmBadList(t *testing.T) {
	s := newSite(t, map[string]func(http.ResponseWriter){"/tea": says("causeway; fwd=uri-miss; stored")})
	got, err := audit.Warm(t.Context(), http.DefaultClient, audit.List(strings.NewReader(s.URL+"/tea\n\n/tea\nftp://example.cn/\n")), 1, nil)
	want := "line 3: \"/tea\" is no URL: write it whole, as in https://example.cn/tea\n" +
		"line 4: \"ftp://example.cn/\" is no URL: write it whole, as in https://example.cn/tea"
	if err == nil || err.Error() != want {
		t.Error(err)
	}
	if got.URLs != 0 || len(s.asked) > 0 {
		t.Errorf("asked for %q, %+v", s.asked, got)
	}
	many := strings.Repeat("tea\n", 30)
	if _, err := audit.Warm(t.Context(), http.DefaultClient, audit.List(strings.NewReader(many)), 1, nil); err == nil || !strings.HasSuffix(err.Error(), "and 10 more lines") {
		t.Error(err)
	}
	if _, err := audit.Warm(t.Context(), http.DefaultClient, audit.List(strings.NewReader("\n"+strings.Repeat("a", 1<<17))), 1, nil); err == nil || err.Error() != "read the list: line 2 is longer than 64 KB" {
		t.Error(err)
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

// urlsOf is a sitemap's, or the error.
func urlsOf(t *testing.T, at string) (urls, others []string, err error) {
	for some, err := range audit.Sitemap(t.Context(), http.DefaultClient, at, func(of string) { others = append(others, of) }) {
		if err != nil {
			return urls, others, err
		}
		urls = append(urls, some...)
	}
	return urls, others, nil
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
		"/page":    text(`<html><a href="/">no</a></html>`),
		"/empty":   text(``),
		"/cut":     text(`<urlset><url><loc>HERE/a</loc>`),
		"/zip":     func(w http.ResponseWriter) { _, _ = w.Write(packed.Bytes()) },
	})
	got, others, err := urlsOf(t, s.URL+"/index.xml")
	if want := []string{s.URL + "/a?x=1&y=2", s.URL + "/c"}; err != nil || len(got) < 2 || got[0] != want[0] || got[len(got)-1] != want[1] {
		t.Errorf("%q, %v", got, err)
	}
	if want := []string{"http://elsewhere.example/two.xml", "http://elsewhere.example/b"}; !slices.Equal(others, want) {
		t.Errorf("left out: %q", others)
	}
	for path, want := range map[string]string{
		"/page": "it is no sitemap, but begins with <html>", "/empty": "it is no sitemap", "/cut": "unexpected EOF", "/none": "404 Not Found",
	} {
		if _, _, err := urlsOf(t, s.URL+path); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	if got, others, err := urlsOf(t, s.URL+"/zip"); err != nil || len(got) != 0 || !slices.Equal(others, []string{"PLACE/zipped"}) { // of another host
		t.Errorf("%q, %v", got, err)
	}
}
