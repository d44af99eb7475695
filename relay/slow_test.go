package relay_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"causeway/config"
	"causeway/outcome"
	"causeway/relay"
)

// A body that stops ends its read, over a connection of its own too, and the
// next request is none the worse.
func TestBodyThatStopsOverHTTP1(t *testing.T) {
	release := make(chan struct{})
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		if r.URL.Path == "/long" {
			w.Header().Set("Content-Length", "1000")
		}
		fmt.Fprint(w, "half")
		if r.URL.Path == "/whole" {
			return
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}))
	defer origin.Close()
	defer close(release)
	cfg, err := config.Parse("causeway.yaml", fmt.Appendf(nil, `
listen: {http: "127.0.0.1:0"}
sites:
  - {name: shop, hosts: {example.cn: "http://example.com"}, origin: {connect: [%q]}, http: serve}
limits: {origin_idle_timeout: 200ms}`, origin.Listener.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	r, err := relay.New(cfg, relay.Options{Sink: outcome.Sinks{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, path := range []string{"/long", "/whole", "/chunked", "/whole"} {
		res, err := r.RoundTrip(request(t, "GET", "http://example.cn"+path, nil))
		if err != nil {
			t.Fatal(path, err)
		}
		begun := time.Now()
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		want := outcome.OriginSlow
		if strings.HasPrefix(path, "/whole") {
			want = outcome.OK
		}
		if got := outcome.KindOf(err); got != want || string(body) != "half" || time.Since(begun) > 10*time.Second {
			t.Errorf("%s: %q, %v after %v, want kind %q", path, body, err, time.Since(begun), want)
		}
	}
}
