package edge_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"causeway/config"
	"causeway/edge"
	"causeway/outcome"
)

// A script is a text file of exchanges with an edge, each on a connection of
// its own, as bytes:
//
//	# what it shows
//	> GET / HTTP/1.1          a line sent (CRLF is added)
//	> Host: example.cn
//	>
//	>| a=1                    sent without the CRLF
//	< 200                     the status
//	< Content-Length: 5       a field that must be there, in any place
//	<! Set-Cookie             a field that must not
//	<| text                   a line that the body must hold
//	<|! text                  one that it must not
//	= kind host_unknown       what the record must say
//
// The crossing behind the edge answers 200 with the request as it would have
// crossed, one line a field.
type exchange struct {
	what   string
	line   int
	sent   string
	expect []string
}

func readScript(t *testing.T, file string) []exchange {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var all []exchange
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case line == "" || strings.HasPrefix(line, "##"):
		case strings.HasPrefix(line, "#"):
			all = append(all, exchange{what: strings.TrimSpace(line[1:]), line: i + 1})
		case len(all) == 0:
			t.Fatalf("%s:%d: begin with # and what the exchange shows", file, i+1)
		default:
			x := &all[len(all)-1]
			if raw, ok := strings.CutPrefix(line, ">| "); ok {
				x.sent += raw
			} else if sent, ok := strings.CutPrefix(line, ">"); ok {
				x.sent += strings.TrimPrefix(sent, " ") + "\r\n"
			} else {
				x.expect = append(x.expect, line)
			}
		}
	}
	return all
}

// echo answers with the request that crossed.
type echo struct{ way string }

func (e echo) RoundTrip(req *http.Request) (*http.Response, error) {
	var b bytes.Buffer
	fmt.Fprintf(&b, "way: %s\n%s %s\nHost: %s\n", e.way, req.Method, req.URL.RequestURI(), req.Host)
	names := make([]string, 0, len(req.Header))
	for name := range req.Header {
		if name != "X-Request-Id" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range req.Header[name] {
			fmt.Fprintf(&b, "%s: %s\n", name, value)
		}
	}
	if req.Body != nil {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, fmt.Errorf("echo: %w", err)
		}
		fmt.Fprintf(&b, "body: %s\n", body)
	}
	return &http.Response{
		StatusCode: 200, ProtoMajor: 1, ProtoMinor: 1, ContentLength: int64(b.Len()),
		Header: http.Header{"Content-Type": {"text/plain"}, "Content-Length": {fmt.Sprint(b.Len())}, "Keep-Alive": {"timeout=5"}},
		Body:   io.NopCloser(&b),
	}, nil
}

// records keeps what was emitted.
type records struct {
	mu   sync.Mutex
	list []outcome.Record
}

func (r *records) Emit(rec *outcome.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.list = append(r.list, *rec)
}

func (r *records) last() outcome.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.list) == 0 {
		return outcome.Record{}
	}
	return r.list[len(r.list)-1]
}

const scriptFile = `
listen: {http: "127.0.0.1:0"}
sites:
  - name: shop
    hosts: {example.cn: https://example.com, "*.example.cn": https://*.example.com, "example.cn:8081": https://other.example.org}
    http: serve
    headers: {request_id: true}
    routes:
      - {path: /api/entries*, methods: [POST], stay: cn, origin: "http://10.0.1.5:3000"}
  - name: secure
    hosts: {secure.cn: https://secure.example.com, "*.ported.cn:8443": https://*.ported.com}
    tls: {cert: a.pem, key: a.key}
  - name: dark
    hosts: {dark.cn: https://dark.example.com}
    tls: {cert: a.pem, key: a.key}
    http: off
limits: {body_bytes: 64, header_bytes: 4KiB, header_timeout: 500ms, body_timeout: 300ms}
`

// newEdge serves plain HTTP on loopback.
func newEdge(t *testing.T, file string, over, stay http.RoundTripper) (address string, recs *records, loop string) {
	t.Helper()
	if !strings.Contains(file, "https:") {
		t.Fatal("the file has no sites")
	}
	cfg, err := config.Parse("causeway.yaml", []byte(strings.Replace(file, `listen: {http: "127.0.0.1:0"}`, `listen: {http: "127.0.0.1:0", https: "127.0.0.1:1"}`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	recs = &records{}
	server := edge.New(edge.Crossing{Config: cfg, Over: over, Stay: stay}, edge.Options{Sink: recs, Log: slog.New(slog.DiscardHandler)}).HTTP(cfg.Limits)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(ln) }()
	t.Cleanup(func() { server.Close(); <-done })
	return ln.Addr().String(), recs, "causeway-" + cfg.Sites[0].Map.Version()
}

func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no scripts", err)
	}
	for _, file := range files {
		for _, x := range readScript(t, file) {
			t.Run(fmt.Sprintf("%s:%d", filepath.Base(file), x.line), func(t *testing.T) {
				address, recs, loop := newEdge(t, scriptFile, echo{"over"}, echo{"stay"})
				x.sent = strings.ReplaceAll(x.sent, "causeway-LOOP", loop)
				for i := range x.expect {
					x.expect[i] = strings.ReplaceAll(x.expect[i], "causeway-LOOP", loop)
				}
				x.run(t, address, recs)
			})
		}
	}
}

// run sends the bytes, reads one response, and holds it against the script.
func (x exchange) run(t *testing.T, address string, recs *records) {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, x.sent); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), &http.Request{Method: strings.Fields(x.sent)[0]})
	if err != nil {
		t.Fatalf("%s: read the answer: %v", x.what, err)
	}
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatalf("%s: read the body: %v", x.what, err)
	}
	lines := strings.Split(string(body), "\n")
	for _, expected := range x.expect {
		mark, want, _ := strings.Cut(expected, " ")
		ok := false
		switch mark {
		case "<":
			if name, value, isField := strings.Cut(want, ": "); isField {
				ok = slices.Contains(res.Header.Values(name), value)
			} else {
				ok = want == fmt.Sprint(res.StatusCode)
			}
		case "<!":
			ok = len(res.Header.Values(want)) == 0
		case "<|":
			ok = slices.Contains(lines, want)
		case "<|!":
			ok = !strings.Contains(string(body), want)
		case "=":
			rec := recs.last()
			said := map[string]string{"kind": string(rec.Kind), "site": rec.Site, "client": rec.Client, "status": fmt.Sprint(rec.Status), "path": rec.Path}
			name, value, _ := strings.Cut(want, " ")
			ok = said[name] == value
		}
		if !ok {
			t.Errorf("%s\nwant %s\ngot %s %v\n%s\nrecord %+v", x.what, expected, res.Status, res.Header, body, recs.last())
		}
	}
}
