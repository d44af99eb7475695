package edge_test

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"causeway/cache"
	"causeway/config"
	"causeway/edge"
	"causeway/hop"
)

// shelf is an origin of pages that may be kept.
type shelf struct{}

func (shelf) RoundTrip(req *http.Request) (*http.Response, error) {
	h := http.Header{"Content-Type": {"text/html"}, "Cache-Control": {"max-age=60"}, "Etag": {`"1"`}, "Date": {time.Now().UTC().Format(http.TimeFormat)}}
	body, status := strings.Repeat("tea of "+req.URL.Path+" ", 300), 200
	switch req.URL.Path {
	case "/forwarded":
		h["Vary"] = []string{"X-Forwarded-For"}
	case "/language":
		h["Vary"] = []string{"Accept-Language"}
		body += req.Header.Get("Accept-Language")
	case "/moved":
		h["Location"], status, body = []string{"/"}, 301, ""
	case "/odd":
		h["X-Request-Id"], h["Alt-Svc"], h["X-Robots-Tag"], h["Server-Timing"] = []string{"a"}, []string{"clear"}, []string{"all"}, []string{"db;dur=1"}
		h["Set-Cookie2"], h["X-Two"] = []string{"b"}, []string{"1", "2"}
	case "/gone":
		status, body = 410, "gone"
	case "/secure":
		h["Strict-Transport-Security"] = []string{"max-age=1"}
	case "/long":
		body = strings.Repeat(body, 300)
	case "/private":
		h["Cache-Control"] = []string{"private"}
	case "/shared":
		h["Cache-Control"] = []string{"public, max-age=60"}
	}
	h["Content-Length"] = []string{fmt.Sprint(len(body))}
	return &http.Response{StatusCode: status, ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(len(body)), Header: h, Body: io.NopCloser(strings.NewReader(body)), Request: req}, nil
}

// serveKept serves a site whose answers are kept, on two listeners: as the daemon
// does, and without hop.Ahead.
func serveKept(t *testing.T, options string) (ahead, plain string, recs *records, served *atomic.Int64) {
	t.Helper()
	cfg, err := config.Parse("causeway.yaml", []byte(`
listen: {http: "127.0.0.1:0", https: "127.0.0.1:1"}
sites:
  - {name: shop, hosts: {example.cn: https://example.com}, http: serve`+options+`}
  - {name: other, hosts: {other.cn: https://other.com}, http: redirect, tls: {cert: a.pem, key: a.key}}
`))
	if err != nil {
		t.Fatal(err)
	}
	store, err := cache.OpenTiers(cache.TiersOptions{Memory: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	keeps := cache.New(cache.Options{Store: store, Codings: edge.Codings{}})
	recs = &records{}
	server := edge.New(edge.Crossing{Config: cfg, Over: shelf{}, Cache: keeps}, edge.Options{Sink: recs, Log: slog.New(slog.DiscardHandler)})
	of := server.Ahead(cfg.Limits, false)
	answer := of.Answer
	served = new(atomic.Int64)
	of.Answer = func(asked *hop.Asked) bool {
		ok := answer(asked)
		if ok {
			served.Add(1)
		}
		return ok
	}
	var addresses []string
	for _, with := range []bool{true, false} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addresses = append(addresses, ln.Addr().String())
		serves := server.HTTP(cfg.Limits)
		if with {
			serves.ConnState = of.State
			ln = of.Listen(ln)
		}
		done := make(chan struct{})
		go func() { defer close(done); _ = serves.Serve(ln) }()
		t.Cleanup(func() { serves.Close(); <-done })
	}
	t.Cleanup(func() { keeps.Close(); _ = store.Close() })
	return addresses[0], addresses[1], recs, served
}

var requestID = regexp.MustCompile(`[0-9a-f]{32}`)

// exchanged is an answer as text, less what is never twice the same.
func exchanged(t *testing.T, address, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	lines := strings.Split(request, "\n")
	method, _, _ := strings.Cut(lines[0], " ")
	if _, err := io.WriteString(conn, strings.Join(lines, "\r\n")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
	if err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	var b strings.Builder
	fmt.Fprintln(&b, res.Status, res.Proto, res.ContentLength, res.TransferEncoding, res.Close)
	for _, name := range slices.Sorted(maps.Keys(res.Header)) {
		switch value := fmt.Sprint(res.Header[name]); name {
		case "Age", "X-Request-Id":
			fmt.Fprintln(&b, name, value != "")
		case "Cache-Status":
			before, _, _ := strings.Cut(value, "ttl=")
			fmt.Fprintln(&b, name, before)
		case "Server-Timing":
			fmt.Fprintln(&b, name)
		default:
			fmt.Fprintln(&b, name, value)
		}
	}
	fmt.Fprintf(&b, "\n%q", requestID.ReplaceAll(body, []byte("id")))
	return b.String()
}

// of sends a request, and gives the answer and its record, less what is never twice
// the same.
func (r *records) of(t *testing.T, address, request string) (answer, record string) {
	t.Helper()
	count := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.list)
	}
	before := count()
	answer = exchanged(t, address, request)
	for deadline := time.Now().Add(10 * time.Second); count() == before && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	if n := count() - before; n != 1 {
		t.Errorf("%s: %d records", request, n)
	}
	rec := r.last()
	rec.Start, rec.RequestID, rec.Answered, rec.Total = time.Time{}, "", min(rec.Answered, 1), min(rec.Total, 1)
	return answer, fmt.Sprintf("%+v", rec)
}

// An answer that is given ahead of net/http's server is that of the usual way, field
// by field, and so is its record.
func TestAheadIsTheSame(t *testing.T) {
	for _, options := range []string{"", ", headers: {request_id: true, server_timing: true}", ", cache: {key_headers: [X-Forwarded-Proto]}", ", cache: {query_ignore: [b]}", ", cache: off"} {
		ahead, plain, recs, served := serveKept(t, options)
		const host = " HTTP/1.1\nHost: example.cn"
		var requests []string
		for _, path := range []string{"/", "/?a=1&b=2", "/forwarded", "/language", "/moved", "/gone", "/secure", "/odd", "/long", "/private", "/shared", "/%C3%A4", "/a%2fb"} {
			requests = append(requests, "GET "+path+host)
		}
		for _, more := range []string{
			"Accept-Encoding: gzip", "Accept-Encoding: br, gzip;q=0.5", "If-None-Match: \"1\"", "If-None-Match: \"2\"", "Range: bytes=0-9", "Cookie: a=1", "X-Forwarded-For: 192.0.2.1",
			"Cache-Control: no-cache", "Cache-Control: max-age=0", "Cache-Control: only-if-cached", "Authorization: Basic eA==", "X-Odd: 1", "Connection: close", "Accept-Language: zh", "Cdn-Loop: a", "Content-Length: 0",
		} {
			requests = append(requests, "GET /"+host+"\n"+more, "HEAD /"+host+"\n"+more, "GET /language"+host+"\n"+more, "GET /shared"+host+"\n"+more)
		}
		requests = append(requests, "GET / HTTP/1.1\nHost: other.cn", "GET / HTTP/1.1\nHost: nobody.cn", "GET / HTTP/1.1\nHost: EXAMPLE.cn:80", "OPTIONS /"+host)
		for _, request := range requests {
			for range 2 { // now it is kept, with its forms
				exchanged(t, plain, request)
			}
		}
		for _, request := range requests {
			want, wantRecord := recs.of(t, plain, request)
			got, gotRecord := recs.of(t, ahead, request)
			for range 100 { // a form may have been made meanwhile
				if got == want && gotRecord == wantRecord {
					break
				}
				time.Sleep(10 * time.Millisecond)
				want, wantRecord = recs.of(t, plain, request)
				got, gotRecord = recs.of(t, ahead, request)
			}
			if got != want {
				t.Errorf("%s: %s\n got %.600s\nwant %.600s", options, request, got, want)
			}
			if gotRecord != wantRecord {
				t.Errorf("%s: %s\n got %s\nwant %s", options, request, gotRecord, wantRecord)
			}
		}
		if off := options == ", cache: off" || strings.Contains(options, "key_headers"); (served.Load() == 0) != off {
			t.Errorf("%s: %d answers were given ahead", options, served.Load())
		}
	}
}
