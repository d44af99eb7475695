package edge_test

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"causeway/config"
	"causeway/edge"
)

// hasty answers at once and reads the body when the request is over.
type hasty struct {
	over <-chan struct{}
	read chan error // what reading then gave
}

func (h hasty) RoundTrip(req *http.Request) (*http.Response, error) {
	go func() {
		<-h.over
		_, err := req.Body.Read(make([]byte, 1))
		h.read <- err
	}()
	return &http.Response{StatusCode: 200, ContentLength: 0, Header: http.Header{}, Body: http.NoBody}, nil
}

// newHandler is the plain listener's, for a server of the test's own.
func newHandler(t *testing.T, over http.RoundTripper) (http.Handler, *records) {
	t.Helper()
	cfg, err := config.Parse("causeway.yaml", []byte(strings.Replace(scriptFile, `listen: {http: "127.0.0.1:0"}`, `listen: {http: "127.0.0.1:0", https: "127.0.0.1:1"}`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	recs := &records{}
	return edge.New(edge.Crossing{Config: cfg, Over: over}, edge.Options{Sink: recs, Log: slog.New(slog.DiscardHandler)}).HTTP(cfg.Limits).Handler, recs
}

// A crossing that reads a body when its request is over gets nothing, and does
// not touch the connection, which over HTTP/2 net/http would panic at.
func TestBodyIsReadTooLate(t *testing.T) {
	over := make(chan struct{})
	h := hasty{over, make(chan error)}
	handler, recs := newHandler(t, h)
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	body, send := io.Pipe()
	go func() { _, _ = io.WriteString(send, "begun") }()
	req, err := http.NewRequestWithContext(t.Context(), "POST", server.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "example.cn"
	res, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err, recs.last())
	}
	res.Body.Close()
	send.Close()
	if res.StatusCode != 200 || res.ProtoMajor != 2 {
		t.Errorf("%s %s", res.Proto, res.Status)
	}
	if err := server.Config.Shutdown(t.Context()); err != nil { // the handler has returned
		t.Fatal(err)
	}
	close(over)
	if err := <-h.read; err == nil {
		t.Error("a body without its request was read")
	}
}
