package relay_test

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"causeway/outcome"
)

// An origin that closes a connection when it has read the second request on it: what
// is idempotent is sent once more, an order never is, whatever its fields promise.
func TestReplay(t *testing.T) {
	pair := newOrigin(t, func(http.ResponseWriter, *http.Request) {})
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: pair.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	came := map[string]int{}
	var serving sync.WaitGroup
	serve := func(conn net.Conn) {
		defer conn.Close()
		in := bufio.NewReader(conn)
		for first := true; ; first = false {
			req, err := http.ReadRequest(in)
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, req.Body)
			mu.Lock()
			came[req.Method+" "+req.URL.Path]++
			if key := req.Header.Get("Idempotency-Key"); req.URL.Path == "/key" && key != "7" {
				t.Errorf("the key is %q", key)
			}
			mu.Unlock()
			if !first {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		}
	}
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serve(conn) })
		}
	})
	t.Cleanup(func() { ln.Close(); serving.Wait() })

	for _, c := range []struct {
		method, path, body string
		times              int
	}{
		{"GET", "/", "", 2},
		{"PUT", "/", "", 2},
		{"DELETE", "/", "", 2},
		{"DELETE", "/body", "a=1", 1},
		{"POST", "/", "", 1},
		{"POST", "/body", "a=1", 1},
		{"POST", "/key", "", 1},
		{"PATCH", "/key", "a=1", 1},
	} {
		t.Run(c.method+c.path, func(t *testing.T) {
			r := newRelay(t, fmt.Sprintf("connect: [%q], tls: {ca: %q}", ln.Addr().String(), pair.ca), "")
			fetch(t, r, request(t, "GET", "https://example.cn/first", nil))
			req := request(t, c.method, "https://example.cn"+c.path, strings.NewReader(c.body))
			if c.body == "" {
				req.Body, req.GetBody = nil, nil
			}
			if c.path == "/key" {
				req.Header.Set("Idempotency-Key", "7")
			}
			res, err := r.RoundTrip(req)
			if err == nil {
				res.Body.Close()
			}
			r.Close() // the origin's connection with it
			mu.Lock()
			defer mu.Unlock()
			if got := came[c.method+" "+c.path]; got != c.times || (err == nil) != (c.times == 2) || err != nil && outcome.KindOf(err) != outcome.OriginCut {
				t.Errorf("it came %d times, want %d: %v", got, c.times, err)
			}
		})
	}
}
