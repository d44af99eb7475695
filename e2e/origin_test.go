package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"testing"
)

// newOrigin serves handler as https://example.com and its subdomains on
// loopback: HTTP/2 or HTTP/1.1 as the client likes, but HTTP/1.1 alone as
// h1.example.com. It gives the address.
func newOrigin(t testing.TB, ca *authority, handler http.Handler) string {
	t.Helper()
	return newOriginAt(t, ca, "127.0.0.1:0", handler).Addr().String()
}

// newOriginAt is newOrigin on an address; closing the listener ends it.
func newOriginAt(t testing.TB, ca *authority, address string, handler http.Handler) net.Listener {
	t.Helper()
	return newOriginIn(t, "", ca, address, handler)
}

// newOriginIn is newOriginAt in a place.
func newOriginIn(t testing.TB, p place, ca *authority, address string, handler http.Handler) net.Listener {
	t.Helper()
	settings := &tls.Config{Certificates: []tls.Certificate{ca.pair(t, "origin", "example.com", "*.example.com")}, NextProtos: []string{"h2", "http/1.1"}}
	old := settings.Clone()
	old.NextProtos = []string{"http/1.1"}
	settings.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if hello.ServerName == "h1.example.com" {
			return old, nil
		}
		return nil, nil
	}
	server := &http.Server{Handler: handler, TLSConfig: settings, ErrorLog: log.New(io.Discard, "", 0)}
	ln := p.listen(t, address)
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ServeTLS(ln, "", "") }()
	t.Cleanup(func() { server.Close(); <-done })
	return ln
}

// siteOf is the usual site: example.cn is example.com at the address.
func siteOf(origin string) string {
	return fmt.Sprintf(`
  - name: site
    hosts: {example.cn: https://example.com, "*.example.cn": https://*.example.com}
    origin: {connect: [%q], tls: {ca: CA}}
    tls: {cert: CERT, key: KEY}
`, origin)
}

// way is one way through: a layout, the client's protocol and the origin's.
type way struct {
	*crossing
	client *http.Client
	major  int    // of the client's HTTP
	public string // the public host
	origin string // the origin host
	h1     bool   // the origin speaks HTTP/1.1 alone
}

// url is a path at the public host.
func (w way) url(path string) string { return "https://" + w.public + path }

// everyWay runs test for each layout, each protocol of the client, and each of
// the origin, whose handler is the same for all.
func everyWay(t *testing.T, handler http.Handler, test func(*testing.T, way)) {
	t.Helper()
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			ca := newAuthority(t)
			c := newCrossing(t, spec{layout: layout, ca: ca, sites: siteOf(newOrigin(t, ca, handler))})
			for _, major := range []int{1, 2} {
				for _, label := range []string{"h1.", ""} {
					name := fmt.Sprintf("HTTP %d to origin with HTTP %s", major, map[string]string{"h1.": "1", "": "2"}[label])
					t.Run(name, func(t *testing.T) {
						test(t, way{crossing: c, client: c.client(t, major), major: major, public: label + "example.cn", origin: label + "example.com", h1: label != ""})
					})
				}
			}
		})
	}
}

// serve is a handler from the path of a request.
func serve(paths map[string]http.HandlerFunc) http.Handler {
	mux := http.NewServeMux()
	for path, handler := range paths {
		mux.HandleFunc(path, handler)
	}
	return mux
}

// text answers with a text type and a body.
func text(kind, body string, fields ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", kind)
		for _, field := range fields {
			name, value, _ := strings.Cut(field, ": ")
			w.Header().Add(name, value)
		}
		_, _ = io.WriteString(w, body)
	}
}
