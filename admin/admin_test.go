package admin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"

	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"causeway/cert"
)

// fake is a Node beside its interface.
type fake struct {
	ready, reload error
	reloads       int
	drained       bool
}

func (f *fake) Ready() error { return f.ready }
func (f *fake) Drain(yes bool) string {
	f.drained = yes
	return fmt.Sprintf("drained: %v", yes)
}
func (f *fake) Reload() error { f.reloads++; return f.reload }
func (f *fake) OrderCertificates(_ context.Context, order Order) ([]Ordered, error) {
	if order.Site != "shop" {
		return nil, fmt.Errorf("%w for site %s", ErrNoOrders, order.Site)
	}
	return []Ordered{{Site: order.Site, Name: "example.cn", CA: order.CA, Issuer: "R1"}}, nil
}

func (f *fake) Certificates() Certificates {
	return Certificates{Node: "edge-1", Certificates: []cert.State{{Site: "shop", Names: []string{"example.cn"}, Source: cert.SourceFile}}}
}
func (f *fake) Links() Links {
	return Links{Node: "edge-1", Paths: []Path{{Relay: "relay-1", State: "up", Connections: []Connection{{Slot: 0}}}}}
}

func (f *fake) Forwards() Forwards {
	return Forwards{Node: "edge-1", Forwards: []Forward{{Name: "app", Targets: []Target{{Target: "192.0.2.1:1", Addresses: []TargetAddress{{State: "up", Open: new(int64)}}}}}}}
}

func (f *fake) Cache(match CacheMatch, top int, byHits bool) (Cache, error) {
	if f.ready != nil {
		return Cache{}, ErrNoCache
	}
	return Cache{Node: fmt.Sprint(match, top, byHits), Objects: []CachedObject{}}, nil
}

func (f *fake) Purge(order CachePurge) (CachePurged, error) {
	if f.ready != nil {
		return CachePurged{}, ErrNoCache
	}
	return CachePurged{Purged: len(order.Match)}, nil
}

func (f *fake) Explain(_ context.Context, question CacheQuestion) ([]CacheStep, error) {
	if question.URL == "" {
		return nil, errors.New("no URL")
	}
	return []CacheStep{{About: question.Method, Says: "kept", Section: "RFC 9111 §3"}}, nil
}

func TestCache(t *testing.T) {
	for _, c := range []struct {
		what, method, path, body string
		bare                     bool // without the field
		node                     fake
		status                   int
		says                     string
	}{
		{what: "list", method: "GET", path: "/cache?top=3&by=hits&host=example.cn&tag=a%20b", status: 200, says: `"node":"{  example.cn a b} 3 true"`},
		{what: "too many", method: "GET", path: "/cache?top=10001", status: 400, says: "top must be 0 to 10000"},
		{what: "no number", method: "GET", path: "/cache?top=many", status: 400},
		{what: "no cache", method: "GET", path: "/cache", node: fake{ready: errors.New("x")}, status: 404, says: "this node has no cache"},
		{what: "purge", method: "POST", path: "/cache/purge", body: `{"match":[{"url":"https://example.cn/"},{"tag":"a"}],"soft":true}`, status: 200, says: `{"purged":2}`},
		{what: "purge nothing", method: "POST", path: "/cache/purge", body: `{}`, status: 400, says: "match names nothing"},
		{what: "purge what?", method: "POST", path: "/cache/purge", body: `{"match":[{"urls":"a"}]}`, status: 400, says: "unknown field"},
		{what: "purge twice", method: "POST", path: "/cache/purge", body: `{"match":[{}]} {}`, status: 400, says: "more follows it"},
		{what: "purge by a page", method: "POST", path: "/cache/purge", body: `{"match":[{}]}`, bare: true, status: 403},
		{what: "purge by GET", method: "GET", path: "/cache/purge", status: 405},
		{what: "purge no cache", method: "POST", path: "/cache/purge", body: `{"match":[{}]}`, node: fake{ready: errors.New("x")}, status: 404},
		{what: "a long order", method: "POST", path: "/cache/purge", body: `{"match":[{"url":"` + strings.Repeat("a", 1<<20) + `"}]}`, status: 400, says: "too large"},
		{what: "explain", method: "POST", path: "/cache/explain", body: `{"method":"GET","url":"https://example.cn/","header":{"Cookie":["a=1"]}}`, status: 200, says: `"section":"RFC 9111 §3"`},
		{what: "explain nothing", method: "POST", path: "/cache/explain", body: `{}`, status: 422, says: "no URL"},
	} {
		r := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		r.Host = "127.0.0.1:9900"
		if !c.bare {
			r.Header.Set(Field, "test")
		}
		w := httptest.NewRecorder()
		NewServer(&c.node, prometheus.NewRegistry(), slog.New(slog.DiscardHandler)).Handler.ServeHTTP(w, r)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) {
			t.Errorf("%s: %d %s", c.what, w.Code, w.Body)
		}
	}
}

func TestAdmin(t *testing.T) {
	for _, c := range []struct {
		what, method, path, host, field string
		node                            fake
		status                          int
		says                            string
		reloads                         int
	}{
		{what: "alive", method: "GET", path: "/healthz", host: "127.0.0.1:9900", status: 200, says: "ok"},
		{what: "ready", method: "GET", path: "/readyz", host: "[::1]:9900", status: 200},
		{what: "not ready", method: "GET", path: "/readyz", host: "localhost", node: fake{ready: errors.New("no relay")}, status: 503, says: "no relay"},
		{what: "metrics", method: "GET", path: "/metrics", host: "127.0.0.1", status: 200},
		{what: "links", method: "GET", path: "/links", host: "127.0.0.1", status: 200, says: `{"relay":"relay-1","state":"up",`},
		{what: "certificates", method: "GET", path: "/certificates", host: "127.0.0.1", status: 200, says: `"site":"shop","names":["example.cn"]`},
		{what: "forwards", method: "GET", path: "/forwards", host: "127.0.0.1", status: 200, says: `"targets":[{"target":"192.0.2.1:1",`},
		{what: "forwards for a web page's name", method: "GET", path: "/forwards", host: "evil.example", status: 421},
		{what: "forwards are not changed here", method: "POST", path: "/forwards", host: "127.0.0.1", field: "x", status: 405},
		{what: "links for a web page's name", method: "GET", path: "/links", host: "evil.example", status: 421},
		{what: "reload", method: "POST", path: "/reload", host: "127.0.0.1", field: "1", status: 200, reloads: 1},
		{what: "a bad file", method: "POST", path: "/reload", host: "127.0.0.1", field: "1", node: fake{reload: errors.New("line 3")}, status: 422, says: "line 3", reloads: 1},
		{what: "a web page's POST", method: "POST", path: "/reload", host: "127.0.0.1", status: 403},
		{what: "drain", method: "POST", path: "/drain", host: "127.0.0.1", field: "1", status: 200, says: "drained: true"},
		{what: "undrain", method: "POST", path: "/undrain", host: "127.0.0.1", field: "1", status: 200, says: "drained: false"},
		{what: "a web page drains", method: "POST", path: "/drain", host: "127.0.0.1", status: 403},
		{what: "a web page's name for us", method: "GET", path: "/metrics", host: "evil.example", status: 421},
		{what: "GET does not reload", method: "GET", path: "/reload", host: "127.0.0.1", field: "1", status: 405},
	} {
		req := httptest.NewRequest(c.method, c.path, nil)
		req.Host = c.host
		if c.field != "" {
			req.Header.Set(Field, c.field)
		}
		w := httptest.NewRecorder()
		node := c.node
		NewServer(&node, prometheus.NewRegistry(), slog.New(slog.DiscardHandler)).Handler.ServeHTTP(w, req)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.says) || node.reloads != c.reloads {
			t.Errorf("%s: %d %q, %d reloads", c.what, w.Code, w.Body, node.reloads)
		}
	}
}

func TestOrders(t *testing.T) {
	server := NewServer(&fake{}, prometheus.NewRegistry(), slog.New(slog.DiscardHandler))
	for _, c := range []struct {
		body   string
		status int
		want   string
	}{
		{`{"site": "shop", "test": true, "ca": "https://ca.example/"}`, http.StatusOK, `[{"site":"shop","name":"example.cn","ca":"https://ca.example/","issuer":"R1"}]`},
		{`{"site": "other"}`, http.StatusNotFound, "no certificates are ordered for site other"},
		{`{"sites": ["shop"]}`, http.StatusBadRequest, "unknown field"},
		{``, http.StatusBadRequest, "read the order"},
	} {
		r := httptest.NewRequest(http.MethodPost, "http://127.0.0.1/certificates/order", strings.NewReader(c.body))
		r.Header.Set(Field, "test")
		w := httptest.NewRecorder()
		server.Handler.ServeHTTP(w, r)
		if w.Code != c.status || !strings.Contains(w.Body.String(), c.want) {
			t.Errorf("%s: %d %s", c.body, w.Code, w.Body)
		}
	}
}
