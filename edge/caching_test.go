package edge_test

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"causeway/cache"
	"causeway/config"
	"causeway/edge"
	"causeway/outcome"
)

// newCaching is an edge with a cache before over, and an empty one.
func newCaching(t *testing.T, over http.RoundTripper) (*edge.Server, *records) {
	t.Helper()
	cfg, err := config.Parse("causeway.yaml", []byte(`
listen: {http: "127.0.0.1:0", https: "127.0.0.1:1"}
sites:
  - name: shop
    hosts: {example.cn: https://example.com}
    tls: {cert: a.pem, key: a.key}
    http: serve
    cache: {bypass_cookies: [session]}
    routes: [{path: /live/*, cache: off}]
`))
	if err != nil {
		t.Fatal(err)
	}
	store, err := cache.OpenTiers(cache.TiersOptions{Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	keeps, recs := cache.New(cache.Options{Store: store, Codings: edge.Codings{}}), &records{}
	t.Cleanup(func() { keeps.Close(); _ = store.Close() })
	return edge.New(edge.Crossing{Config: cfg, Over: over, Cache: keeps}, edge.Options{Sink: recs, Log: slog.New(slog.DiscardHandler)}), recs
}

// The cache says of each answer what it did, also of those that the edge makes
// itself when none could be had (RFC 9211 §2).
func TestCacheStatus(t *testing.T) {
	down := roundTrip(func(*http.Request) (*http.Response, error) {
		return nil, outcome.Errorf(outcome.LinkDown, "dial relay: refused")
	})
	slow := roundTrip(func(*http.Request) (*http.Response, error) {
		return nil, outcome.Errorf(outcome.OriginSlow, "no answer")
	})
	for _, c := range []struct {
		name, method, path, cookie string
		over                       http.RoundTripper
		status                     int
		want, cache, why           string
	}{
		{"off", "GET", "/live/1", "", shelf{}, 200, `causeway; fwd=bypass; detail="cache: off"`, "bypass", "off"},
		{"off, down", "GET", "/live/1", "", down, 502, `causeway; fwd=bypass; detail="cache: off"`, "bypass", "off"},
		{"a cookie", "GET", "/", "session=1", shelf{}, 200, `causeway; fwd=bypass; detail="bypass_cookies"`, "bypass", "cookie"},
		{"down", "GET", "/", "", down, 502, `causeway; fwd=uri-miss; detail="error"`, "failed", "error"},
		{"down, HEAD", "HEAD", "/", "", down, 502, `causeway; fwd=uri-miss; detail="error"`, "failed", "error"},
		{"slow", "GET", "/", "", slow, 504, `causeway; fwd=uri-miss; detail="error"`, "failed", "error"},
		{"down, POST", "POST", "/", "", down, 502, `causeway; fwd=method; detail="error"`, "bypass", "method"},
	} {
		t.Run(c.name, func(t *testing.T) {
			server, recs := newCaching(t, c.over)
			front := server.HTTP(config.Limits{})
			req := httptest.NewRequest(c.method, "http://example.cn"+c.path, nil)
			if c.cookie != "" {
				req.Header.Set("Cookie", c.cookie)
			}
			w := httptest.NewRecorder()
			front.Handler.ServeHTTP(w, req)
			if got := strings.Join(w.Header()["Cache-Status"], ", "); w.Code != c.status || got != c.want {
				t.Errorf("%d, Cache-Status: %s", w.Code, got)
			}
			if rec := recs.last(); rec.Cache != c.cache || !strings.HasPrefix(rec.CacheWhy, c.why) {
				t.Errorf("the record has %s %s", rec.Cache, rec.CacheWhy)
			}
		})
	}
}

// Tags are for caches alone: no visitor gets them, whatever way the answer took.
func TestNoTags(t *testing.T) {
	tagged := roundTrip(func(req *http.Request) (*http.Response, error) {
		res, err := shelf{}.RoundTrip(req)
		res.Header["Cache-Tag"], res.Header["Surrogate-Key"] = []string{"tea"}, []string{"tea cup"}
		res.Header["Cdn-Cache-Control"], res.Header["Surrogate-Control"] = []string{"max-age=60"}, []string{"max-age=60"}
		return res, err
	})
	const file = `
sites:
  - name: shop
    hosts: {example.cn: https://example.com}
    http: serve
    routes:
      - {path: /off, cache: off}
      - {path: /stays, stay: cn, origin: "http://10.0.1.5:3000"}
`
	cfg, err := config.Parse("causeway.yaml", []byte(file))
	if err != nil {
		t.Fatal(err)
	}
	store, err := cache.OpenTiers(cache.TiersOptions{Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	keeps := cache.New(cache.Options{Store: store, Codings: edge.Codings{}})
	t.Cleanup(func() { keeps.Close(); _ = store.Close() })
	for _, with := range []*cache.Cache{keeps, nil} {
		server := edge.New(edge.Crossing{Config: cfg, Over: tagged, Stay: tagged, Cache: with}, edge.Options{Sink: &records{}, Log: slog.New(slog.DiscardHandler)})
		for _, path := range []string{"/", "/", "/off", "/stays", "/private"} {
			w := httptest.NewRecorder()
			server.HTTP(config.Limits{}).Handler.ServeHTTP(w, httptest.NewRequest("GET", "http://example.cn"+path, nil))
			h := w.Header()
			if w.Code != 200 || h["Cache-Tag"] != nil || h["Surrogate-Key"] != nil {
				t.Errorf("a cache %t, %s: %d %v", with != nil, path, w.Code, h)
			}
			if h.Get("Cdn-Cache-Control") == "" || h.Get("Surrogate-Control") == "" {
				t.Errorf("a cache %t, %s: what goes on is gone: %v", with != nil, path, h)
			}
		}
	}
}

// What the edge drops is explained too.
func TestExplainDropped(t *testing.T) {
	server, _ := newCaching(t, shelf{})
	r := httptest.NewRequest("GET", "https://example.cn/a", nil)
	for _, name := range []string{"X-Forwarded-Host", "X-Original-Url", "X_host", "X-Mine"} {
		r.Header[name] = []string{"/admin"}
	}
	steps, err := server.Explain(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	said := ""
	for _, s := range steps {
		said += s.About + ": " + s.Says + " [" + s.Section + "]\n"
	}
	for _, want := range []string{"request: X-Forwarded-Host is dropped: ", "request: X-Original-Url is dropped: ", "request: X_host is dropped: ", "[RFC 7239 §8.1]"} {
		if !strings.Contains(said, want) {
			t.Errorf("no %q in\n%s", want, said)
		}
	}
	if strings.Count(said, "dropped") != 3 {
		t.Errorf("more is dropped:\n%s", said)
	}
}

// TestKeptURLs shows that a URL is purged by what visitors wrote, whatever net/url makes
// of that, and by what it makes of it.
func TestKeptURLs(t *testing.T) {
	server, _ := newCaching(t, shelf{})
	for written, want := range map[string]string{
		"http://example.cn/a":              "http://example.cn/a",
		"http://EXAMPLE.cn/a?b=|#c":        "http://example.cn/a?b=|",
		"http://example.cn":                "http://example.cn/",
		"http://example.cn?b=/c":           "http://example.cn/?b=/c",
		"http://example.cn/a|b?c":          "http://example.cn/a%7Cb?c http://example.cn/a|b?c",
		"http://example.cn/茶":              "http://example.cn/%E8%8C%B6 http://example.cn/茶",
		"http://strange.cn/a^b":            "http://strange.cn/a%5Eb http://strange.cn/a^b",
		"http://example.cn/a%7cb/../c?d=%": "http://example.cn/a%7cb/../c?d=%",
	} {
		if got := strings.Join(server.KeptURLs(written), " "); got != want {
			t.Errorf("%s: %s", written, got)
		}
	}
	front := server.HTTP(config.Limits{})
	req := httptest.NewRequest("GET", "/a|b", nil) // as Chromium sends it
	req.Host = "example.cn"
	front.Handler.ServeHTTP(httptest.NewRecorder(), req)
	if steps, err := server.Explain(t.Context(), req); err != nil || !strings.Contains(fmt.Sprint(steps), server.KeptURLs("http://example.cn/a|b")[1]) {
		t.Errorf("%v, %v", steps, err)
	}
}
