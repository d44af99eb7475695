package edge_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"causeway/cache"
	"causeway/config"
	"causeway/edge"
)

// Nobody is given an answer that was made with another file; one that changes nothing
// of how answers are made leaves them where they are.
func TestReloadedCache(t *testing.T) {
	file := func(hosts, more string) *config.Config {
		t.Helper()
		cfg, err := config.Parse("causeway.yaml", []byte("sites:\n  - name: shop\n    hosts: {"+hosts+"}\n    http: serve\n"+more))
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	const usual = "example.cn: https://example.com"
	store, err := cache.OpenTiers(cache.TiersOptions{Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	keeps := cache.New(cache.Options{Store: store, Codings: edge.Codings{}})
	t.Cleanup(func() { keeps.Close(); _ = store.Close() })
	crossing := func(cfg *config.Config) edge.Crossing {
		return edge.Crossing{Config: cfg, Over: shelf{}, Cache: keeps}
	}
	server := edge.New(crossing(file(usual, "")), edge.Options{Sink: &records{}, Log: slog.New(slog.DiscardHandler)})
	front := server.HTTP(config.Limits{})
	ask := func(method, path string) string {
		w := httptest.NewRecorder()
		front.Handler.ServeHTTP(w, httptest.NewRequest(method, "http://example.cn"+path, nil))
		_, _ = io.Copy(io.Discard, w.Result().Body)
		return w.Header().Get("Cache-Status")
	}
	kept := func(what string) {
		t.Helper()
		for range 200 { // it is kept when all of it came
			if strings.Contains(ask("GET", "/a"), "causeway; hit") {
				return
			}
		}
		t.Errorf("%s: never a hit", what)
	}
	kept("the first file")
	for _, cfg := range []*config.Config{file(usual, ""), file(usual, "    cache: {default_ttl: 1m}\n")} {
		server.Swap(crossing(cfg))
		if said := ask("GET", "/a"); !strings.Contains(said, "causeway; hit") {
			t.Errorf("a file that changes nothing of it: %s", said)
		}
	}
	for what, cfg := range map[string]*config.Config{
		"another origin":    file("example.cn: https://example.org", ""),
		"one host more":     file(usual+", other.cn: https://other.example.org", ""),
		"rewriting":         file(usual, "    rewrite: {bodies: false}\n"),
		"a route's origin":  file(usual, "    routes: [{path: /a, origin: \"https://a.example.com\"}]\n"),
		"a route's rewrite": file(usual, "    routes: [{path: /a, rewrite: {types: [text/x]}, cache: {ttl: 1m}}]\n"),
	} {
		server.Swap(crossing(cfg))
		if said := ask("GET", "/a"); !strings.Contains(said, "fwd=uri-miss") {
			t.Errorf("%s: %s", what, said)
		}
		kept(what)
	}
	if n := keeps.Purge(cache.Match{URL: server.KeptURLs("http://example.cn/a")[0]}, false); n != 6 {
		t.Errorf("%d are purged", n)
	}
	server.Swap(crossing(file(usual, "    routes: [{path: /a, methods: [POST], rewrite: {bodies: false}}]\n")))
	kept("a route for POST")
	ask(http.MethodPost, "/a")
	if said := ask("GET", "/a"); !strings.Contains(said, "fwd=uri-miss") {
		t.Errorf("after a POST: %s", said)
	}
	kept("after a POST")
	server.Swap(crossing(file("example.cn: https://example.org", "")))
	ask(http.MethodPost, "/a")
	server.Swap(crossing(file(usual, "    routes: [{path: /a, methods: [POST], rewrite: {bodies: false}}]\n")))
	if said := ask("GET", "/a"); !strings.Contains(said, "fwd=uri-miss") {
		t.Errorf("after a POST under another file, and back: %s", said)
	}
}
