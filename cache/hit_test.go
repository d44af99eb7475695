package cache

import (
	"bytes"
	"io"
	"net/http"
	"testing"
)

// discard is a writer as a connection is: it takes what it is given.
type discard struct{ n int64 }

func (d *discard) Write(p []byte) (int, error) { d.n += int64(len(p)); return len(p), nil }

// BenchmarkHit is a hit from memory, header and body, without a server.
func BenchmarkHit(b *testing.B) {
	for _, size := range []int{1 << 10, 40 << 10} {
		b.Run(map[int]string{1 << 10: "1KB", 40 << 10: "40KB"}[size], func(b *testing.B) {
			body := bytes.Repeat([]byte("x"), size)
			store := newMapStore()
			c := New(Options{Store: store, Codings: gzipOnly{}})
			defer c.Close()
			transport := &Transport{Cache: c, Policy: func(*http.Request) *Policy { return &hitPolicy }, Next: originFunc(func(*http.Request) (*http.Response, error) {
				return text(200, string(body), "Date: Sun, 06 Nov 1994 08:49:37 GMT", "Content-Type: text/html; charset=utf-8", "Content-Encoding: br", "Cache-Control: public, max-age=3153600000",
					`Etag: "65f1b2c3-9c40"`, "Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT", "Server: nginx", "Vary: Accept-Encoding", "X-Content-Type-Options: nosniff", "Accept-Ranges: bytes"), nil
			})}
			req := request("GET", "/wiki/Special:Search?search=cache&go=1", "Accept: text/html,application/xhtml+xml", "Accept-Encoding: gzip, deflate, br, zstd", "Accept-Language: zh-CN,zh;q=0.9",
				"User-Agent: Mozilla/5.0 (X11; Linux x86_64)", "Cookie: a=1; b=2", "X-Forwarded-For: 192.0.2.1", "X-Request-Id: 0123456789abcdef", "Cdn-Loop: causeway-1")
			ask := func() (*http.Response, Trace) {
				var trace Trace
				res, err := transport.RoundTrip(req.WithContext(WithTrace(req.Context(), &trace)))
				if err != nil {
					b.Fatal(err)
				}
				return res, trace
			}
			res, _ := ask()
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			c.work.Wait()
			if _, trace := ask(); trace.Result != Hit {
				b.Fatalf("%+v", trace)
			}
			to := &discard{}
			b.ReportAllocs()
			for b.Loop() {
				res, _ := ask()
				_, _ = res.Body.(io.WriterTo).WriteTo(to)
				res.Body.Close()
			}
		})
	}
}

var hitPolicy = Policy{Site: "shop"}

// TestKeyTakesNoMemory shows that the key of a request is made without any.
func TestKeyTakesNoMemory(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector has memory of its own")
	}
	for _, lines := range [][]string{
		{"Accept: text/html", "Sec-Fetch-Mode: navigate", "Sec-Ch-Ua: x", "User-Agent: Mozilla/5.0", "Cookie: a=1; b=2", "X-Forwarded-For: 192.0.2.1", "Traceparent: 00-1"},
		{"Accept: text/html", "X-Foo: 1", "X-Bar: 2"},
	} {
		req, policy := request("GET", "/a?b=1", lines...), &Policy{Site: "shop", IgnoreHeaders: []string{"X-Client-*"}}
		a := &ask{req: req, policy: policy}
		if n := testing.AllocsPerRun(100, func() { a.read() }); n != 0 || a.key == (Key{}) {
			t.Errorf("%v allocations for %v", n, lines)
		}
	}
}
