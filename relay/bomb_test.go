package relay

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"causeway/config"
	"causeway/outcome"
)

// kept are the records that came.
type kept chan outcome.Record

func (k kept) Emit(rec *outcome.Record) { k <- *rec }

// recorded is a relay for example.cn that keeps its records, behind a server.
func recorded(t *testing.T, origin http.Handler) (url string, records kept) {
	t.Helper()
	at := httptest.NewServer(origin)
	t.Cleanup(at.Close)
	cfg, err := config.Parse("causeway.yaml", fmt.Appendf(nil, `
listen: {http: "127.0.0.1:0"}
sites:
  - {name: shop, hosts: {example.cn: "http://example.com"}, origin: {connect: [%q]}, http: serve}`, at.Listener.Addr()))
	if err != nil {
		t.Fatal(err)
	}
	records = make(kept, 10)
	s, err := New(cfg, Options{Sink: records, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return server.URL, records
}

// A bomb is a 502 with its record, and never the beginning of a page. These are
// so small that they come with the header: one that comes later than the
// patience of hop.Answer is cut off.
func TestBomb(t *testing.T) {
	closers := map[string]func(io.Writer) io.WriteCloser{
		"gzip": func(w io.Writer) io.WriteCloser { z, _ := gzip.NewWriterLevel(w, 1); return z },
		"br":   func(w io.Writer) io.WriteCloser { return brotli.NewWriterLevel(w, 2) },
		"zstd": func(w io.Writer) io.WriteCloser { z, _ := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1)); return z },
	}
	bombs := map[string][]byte{}
	for coding, closer := range closers {
		var out, again bytes.Buffer
		e := closer(&out)
		for range 66 {
			_, _ = e.Write(make([]byte, 1<<20))
		}
		_ = e.Close()
		e = closers["gzip"](&again)
		_, _ = e.Write(out.Bytes())
		_ = e.Close()
		bombs[coding] = again.Bytes()
	}
	url, records := recorded(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Content-Encoding", r.URL.Path[1:]+", gzip")
		_, _ = w.Write(bombs[r.URL.Path[1:]])
	}))
	for coding, bomb := range bombs {
		if len(bomb) > 2000 { // of which net/http's server makes one write, with its length
			t.Fatalf("%s: the bomb has %d bytes", coding, len(bomb))
		}
		req, err := http.NewRequestWithContext(t.Context(), "GET", url+"/"+coding, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = "example.cn"
		req.Header.Set("Accept-Encoding", coding)
		res, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if res.StatusCode != http.StatusBadGateway || len(body) > 100 || err != nil || res.Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: %s, %d bytes, %v", coding, res.Status, len(body), err)
		}
		if rec := <-records; rec.Kind != outcome.Unprocessed || rec.Status != http.StatusBadGateway || rec.BytesOut != 0 {
			t.Errorf("%s: recorded %+v", coding, rec)
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}
