package edge_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"causeway/cache"
	"causeway/config"
	"causeway/edge"
)

// An edge that is not where a route must stay refuses it; it never crosses.
func TestStayElsewhere(t *testing.T) {
	address, recs, _ := newEdge(t, scriptFile, echo{"over"}, nil)
	exchange{
		what:   "a route that stays, at an edge elsewhere",
		sent:   "POST /api/entries/7 HTTP/1.1\r\nHost: example.cn\r\nContent-Length: 1\r\n\r\nx",
		expect: []string{"< 403", "= kind stays", "<|! way:"},
	}.run(t, address, recs)
}

// What a request changes that stays is forgotten by the cache, which may have it by
// another route; and what one changes that asks for another protocol, too.
func TestStayChangesWhatIsKept(t *testing.T) {
	for _, c := range []struct {
		method, upgrade string
		status          int
		kept            bool
	}{
		{"POST", "", 204, false},
		{"POST", "", 303, false},
		{"DELETE", "", 200, false},
		{"POST", "", 403, true},
		{"OPTIONS", "", 200, true},
		{"PUT", "chat", 200, false}, // another route's, that crosses
	} {
		t.Run(c.method+" "+http.StatusText(c.status), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				cfg, err := config.Parse("causeway.yaml", []byte(`
listen: {http: "127.0.0.1:0", https: "127.0.0.1:1"}
sites:
  - name: shop
    hosts: {example.cn: https://example.com}
    tls: {cert: a.pem, key: a.key}
    http: serve
    routes: [{path: /entries*, methods: [POST, DELETE, OPTIONS], stay: cn, origin: "http://10.0.1.5:3000"}]
`))
				if err != nil {
					t.Fatal(err)
				}
				store, err := cache.OpenTiers(cache.TiersOptions{Memory: 64 << 20})
				if err != nil {
					t.Fatal(err)
				}
				defer store.Close()
				keeps := cache.New(cache.Options{Store: store, Codings: edge.Codings{}})
				defer keeps.Close()
				var asked atomic.Int32
				answer := roundTrip(func(r *http.Request) (*http.Response, error) {
					if r.Method != "GET" {
						return &http.Response{StatusCode: c.status, Header: http.Header{}, Body: http.NoBody, Request: r}, nil
					}
					asked.Add(1)
					h := http.Header{"Cache-Control": {"max-age=60"}}
					return &http.Response{StatusCode: 200, Header: h, Body: io.NopCloser(strings.NewReader("x")), ContentLength: 1, Request: r}, nil
				})
				server := edge.New(edge.Crossing{Config: cfg, Over: answer, Stay: answer, Cache: keeps},
					edge.Options{Sink: &records{}, Log: slog.New(slog.DiscardHandler)}).HTTP(config.Limits{})
				do := func(method string) {
					r := httptest.NewRequest(method, "http://example.cn/entries", nil)
					if c.upgrade != "" && method != "GET" {
						r.Header.Set("Connection", "Upgrade")
						r.Header.Set("Upgrade", c.upgrade)
					}
					server.Handler.ServeHTTP(httptest.NewRecorder(), r)
					synctest.Wait()
				}
				do("GET")
				do(c.method)
				do("GET")
				if kept := asked.Load() == 1; kept != c.kept {
					t.Errorf("it is kept: %v", kept)
				}
			})
		})
	}
}
