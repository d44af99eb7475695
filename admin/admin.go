// Package admin is what an operator's tools reach on the admin address:
//
//	GET  /healthz  200 while the process answers
//	GET  /readyz   200 when the node can do its part, else 503 and why
//	GET  /metrics  Prometheus
//	GET  /links    the links, their paths and connections, as JSON
//	GET  /forwards the forwards and their targets, as JSON
//	GET  /certificates  those that the node shows, as JSON
//	POST /certificates/order  has the certificates of an Order issued; what became of each
//	POST /reload   reads the file again; 200, or 422 and the errors
//	POST /drain    the node wants no more requests; 200 and what is under way
//	POST /undrain  it takes them again
//	GET  /cache    what is kept, as JSON: ?top=20&by=hits&host=example.cn…
//	POST /cache/purge    lets go of what a CachePurge names; how many those were
//	POST /cache/explain  what becomes of a CacheQuestion, step by step
//
// It refuses requests by a host name (only an address or localhost: a web page
// must not reach it through a name of its own, "DNS rebinding") and a POST
// without the Causeway-Admin field (a web page can't send one unasked). It has
// no password: listen on a loopback or private address.
package admin

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Field must be in every request that changes something.
const Field = "Causeway-Admin"

// Node is what the admin address shows and steers.
type Node interface {
	Ready() error  // nil when the node can do its part
	Reload() error // reads the file again; an error means that nothing changed
	Links() Links  // as they are now

	Forwards() Forwards         // as they are now
	Certificates() Certificates // as they are now

	// OrderCertificates has an authority issue certificates, now, and waits for
	// it. The error is ErrNoOrders, in words, when none are ordered for the site.
	OrderCertificates(context.Context, Order) ([]Ordered, error)

	// Drain asks those who send requests to the node to take others, or ends
	// that, and says what is so now.
	Drain(yes bool) string

	Cacher
}

// NewServer serves node and the metrics of registry.
func NewServer(node Node, registry *prometheus.Registry, logger *slog.Logger) *http.Server {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) { answer(w, node.Ready(), http.StatusServiceUnavailable) })
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /links", func(w http.ResponseWriter, _ *http.Request) { sayLinks(w, node.Links()) })
	mux.HandleFunc("GET /forwards", func(w http.ResponseWriter, _ *http.Request) { sayForwards(w, node.Forwards()) })
	mux.HandleFunc("GET /certificates", func(w http.ResponseWriter, _ *http.Request) { sayCertificates(w, node.Certificates()) })
	mux.HandleFunc("POST /reload", meant(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, node.Reload(), http.StatusUnprocessableEntity)
	}))
	mux.HandleFunc("POST /drain", meant(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, node.Drain(true)+"\n") }))
	mux.HandleFunc("POST /undrain", meant(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, node.Drain(false)+"\n") }))
	mux.HandleFunc("POST /certificates/order", meant(takeOrder(node)))
	serveCache(mux, node)
	return &http.Server{
		Handler:           onlyByAddress(mux),
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      time.Minute,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(logger.Handler(), slog.LevelDebug),
	}
}

// meant lets requests in that no web page sent.
func meant(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(Field) == "" {
			http.Error(w, "the request must carry the field "+Field, http.StatusForbidden)
			return
		}
		next(w, r)
	}
}

// answer says ok, or the error with a status.
func answer(w http.ResponseWriter, err error, status int) {
	if err != nil {
		http.Error(w, err.Error(), status)
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

// onlyByAddress lets requests in whose Host is an address or localhost.
func onlyByAddress(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if _, err := netip.ParseAddr(host); err != nil && host != "localhost" {
			http.Error(w, "ask by address", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}
