package edge_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/url"
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

// keptAt is where a site whose answers are kept is served.
type keptAt struct {
	address string
	over2   *http.Transport // over TLS and HTTP/2; nil for plain HTTP
}

// serveKept serves a site whose answers are kept, on two listeners: as the daemon
// does, and without hop.Ahead.
func serveKept(t *testing.T, options string, secure bool) (ahead, plain keptAt, recs *records, served *atomic.Int64) {
	t.Helper()
	cfg, err := config.Parse("causeway.yaml", []byte(`
listen: {http: "127.0.0.1:0", https: "127.0.0.1:1"}
sites:
  - {name: shop, hosts: {example.cn: https://example.com}, http: serve, tls: {cert: a.pem, key: a.key}`+options+`}
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
	ca := newIssuer(t, "public")
	cert := ca.issue(t, time.Now().Add(time.Hour), "example.cn", "other.cn")
	crossing := edge.Crossing{Config: cfg, Over: shelf{}, Cache: keeps, Certificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }}
	server := edge.New(crossing, edge.Options{Sink: recs, Log: slog.New(slog.DiscardHandler)})
	of := server.Ahead(cfg.Limits, secure)
	answer := of.Answer
	served = new(atomic.Int64)
	of.Answer = func(asked *hop.Asked) bool {
		ok := answer(asked)
		if ok {
			served.Add(1)
		}
		return ok
	}
	var at []keptAt
	for _, with := range []bool{true, false} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		one := keptAt{address: ln.Addr().String()}
		serves := server.HTTP(cfg.Limits)
		switch {
		case secure:
			serves = server.HTTPS(cfg.Limits)
			serves.ConnContext = hop.BurstContext
			strict := hop.StrictOptions{Header: serves.ReadHeaderTimeout, HeaderBytes: serves.MaxHeaderBytes}
			if with {
				strict.Ahead = of
			}
			ln = hop.Strict(tls.NewListener(hop.Bursts(ln), serves.TLSConfig.Clone()), strict)
			one.over2 = &http.Transport{ForceAttemptHTTP2: true, DisableCompression: true, TLSClientConfig: &tls.Config{RootCAs: ca.pool, ServerName: "example.cn"}, DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, network, one.address)
			}}
			t.Cleanup(one.over2.CloseIdleConnections)
		case with:
			serves.ConnState = of.State
			ln = of.Listen(ln)
		}
		at = append(at, one)
		done := make(chan struct{})
		go func() { defer close(done); _ = serves.Serve(ln) }()
		t.Cleanup(func() { serves.Close(); <-done })
	}
	t.Cleanup(func() { keeps.Close(); _ = store.Close() })
	return at[0], at[1], recs, served
}

var requestID = regexp.MustCompile(`[0-9a-f]{32}`)

// ask sends a request, by itself on a new connection over HTTP/1.1.
func (k keptAt) ask(t *testing.T, request string) (*http.Response, error) {
	t.Helper()
	lines := strings.Split(request, "\n")
	text := strings.Join(lines, "\r\n") + "\r\n\r\n"
	if k.over2 != nil {
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
		if err != nil {
			t.Fatal(err)
		}
		req.URL, err = url.Parse("https://example.cn" + req.RequestURI) // one connection, whatever the host
		if err != nil {
			t.Fatal(err)
		}
		req.RequestURI, req.Body, req.Close = "", nil, false
		return k.over2.RoundTrip(req)
	}
	conn, err := net.Dial("tcp", k.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	method, _, _ := strings.Cut(lines[0], " ")
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	return http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: method})
}

// exchanged is an answer as text, less what is never twice the same.
func exchanged(t *testing.T, at keptAt, request string) string {
	t.Helper()
	res, err := at.ask(t, request)
	if err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	defer res.Body.Close()
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
func (r *records) of(t *testing.T, at keptAt, request string) (answer, record string) {
	t.Helper()
	count := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.list)
	}
	before := count()
	answer = exchanged(t, at, request)
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
		for _, secure := range []bool{false, true} {
			t.Run(fmt.Sprint(options, secure), func(t *testing.T) { aheadIsTheSame(t, options, secure) })
		}
	}
}

func aheadIsTheSame(t *testing.T, options string, secure bool) {
	ahead, plain, recs, served := serveKept(t, options, secure)
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
