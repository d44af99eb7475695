package admin

import (
	"errors"
	"fmt"
	"log/slog"

	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
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
func (f *fake) Links() Links {
	return Links{Node: "edge-1", Paths: []Path{{Relay: "relay-1", State: "up", Connections: []Connection{{Slot: 0}}}}}
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
