package cache

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// trickle is an origin with one body of which so much comes each second. It knows
// ranges.
type trickle struct {
	bulk
	each  int           // bytes a second
	wait  time.Duration // before the header
	known bool          // the length of the whole

	mu   sync.Mutex // guards asks
	asks []string   // the ranges that were asked for, "" for all
}

func (o *trickle) RoundTrip(req *http.Request) (*http.Response, error) {
	o.mu.Lock()
	o.asks = append(o.asks, first(req.Header, "Range"))
	o.mu.Unlock()
	res, err := o.bulk.RoundTrip(req)
	if o.wait > 0 {
		time.Sleep(o.wait)
	}
	if err == nil && res.StatusCode == 200 && !o.known {
		res.ContentLength = -1
	}
	if err == nil && res.StatusCode == 200 {
		res.Body = io.NopCloser(&pacedBody{rest: o.body, each: o.each})
	}
	return res, err
}

type pacedBody struct {
	rest []byte
	each int
}

func (b *pacedBody) Read(p []byte) (int, error) {
	if len(b.rest) == 0 {
		return 0, io.EOF
	}
	time.Sleep(time.Second)
	n := copy(p, b.rest[:min(len(b.rest), b.each, len(p))])
	b.rest = b.rest[n:]
	return n, nil
}

// TestRangeJoinsTheWhole shows which ranges wait for a whole that is fetched already:
// those whose bytes come soon.
func TestRangeJoinsTheWhole(t *testing.T) {
	const size, each = 1 << 20, 10_000
	for _, test := range []struct {
		what   string
		after  time.Duration // the whole was asked for
		bytes  string
		known  bool
		wait   time.Duration
		joins  bool
		within time.Duration
	}{
		{"the beginning, before the header", 500 * time.Millisecond, "0-999", true, 0, true, 3 * time.Second},
		{"the beginning", 3 * time.Second, "0-999", true, 0, true, 0},
		{"near, before the header", 500 * time.Millisecond, "30000-30999", true, 0, true, 6 * time.Second},
		{"near", 3 * time.Second, "60000-60999", true, 0, true, 10 * time.Second},
		{"far", 3 * time.Second, "900000-900999", true, 0, false, 2 * time.Second},
		{"far, before the header", 500 * time.Millisecond, "900000-900999", true, 0, false, 2 * time.Second},
		{"the end", 3 * time.Second, "-500", true, 0, false, 2 * time.Second},
		{"the end, before the header", 500 * time.Millisecond, "-500", true, 0, false, 2 * time.Second},
		{"near, of no known length", 3 * time.Second, "30000-30999", false, 0, false, 2 * time.Second},
		{"near, of no known length, before the header", 500 * time.Millisecond, "30000-30999", false, 0, false, 3 * time.Second},
		{"beyond the end", 3 * time.Second, "2000000-", true, 0, true, 0},
	} {
		t.Run(test.what, func(t *testing.T) {
			o := &trickle{bulk: bulk{body: bytesOf(size), tag: `"1"`, known: true}, each: each, wait: test.wait, known: test.known}
			bubble(t, Policy{}, o, func(r *rig) {
				all, done := r.begin(1, request("GET", "/a"), nil)
				time.Sleep(test.after)
				begun := time.Now()
				res, body, trace := r.get("/a", "Range: bytes="+test.bytes)
				took := time.Since(begun)
				o.mu.Lock()
				asked := slices.Clone(o.asks)
				o.mu.Unlock()
				ranged := readRange([]string{"bytes=" + test.bytes})
				if from, to, ok := ranged.of(size); !ok {
					if res.StatusCode != 416 {
						t.Errorf("%d", res.StatusCode)
					}
				} else if res.StatusCode != 206 || body != string(o.body[from:to]) || res.Header.Get("Content-Range") != contentRange(from, to, size) {
					t.Errorf("%d %v, %d bytes", res.StatusCode, res.Header, len(body))
				}
				if test.joins != (len(asked) == 1) || test.joins != (trace.Result == Collapsed) || took > test.within {
					t.Errorf("asked for %q, %+v, took %v", asked, trace, took)
				}
				done()
				if c := all[0]; c.cut != nil || !bytes.Equal(c.body, o.body) {
					t.Errorf("the whole: %v, %d bytes", c.cut, len(c.body))
				}
			})
		})
	}
}

// TestRangeOfAWholeThatFails shows that a range that waits for a whole that is cut is
// cut too, and that one that waits for a header that does not come is fetched.
func TestRangeOfAWholeThatFails(t *testing.T) {
	o := newSlow("Cache-Control: max-age=60", "Content-Length: 1000", `Etag: "1"`)
	header := o.header
	bubble(t, Policy{}, originFunc(func(req *http.Request) (*http.Response, error) {
		if len(req.Header["Range"]) > 0 {
			return text(206, "0123456789", "Cache-Control: max-age=60", `Etag: "1"`, "Content-Range: bytes 100-109/1000"), nil
		}
		if req.URL.Path == "/fails" {
			time.Sleep(time.Second)
			return nil, fmt.Errorf("refused")
		}
		res := header()
		pr, pw := io.Pipe()
		go func() { _, _ = pw.Write(bytesOf(105)); pw.CloseWithError(io.ErrUnexpectedEOF) }()
		res.Body, res.ContentLength = pr, 1000
		return res, nil
	}), func(r *rig) {
		go func() {
			if res, err := r.RoundTrip(request("GET", "/a")); err == nil {
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		}()
		go func() { _, _ = r.RoundTrip(request("GET", "/fails")) }()
		synctest.Wait()
		if res, body, _ := r.get("/fails", "Range: bytes=100-109"); res.StatusCode != 206 || body != "0123456789" {
			t.Errorf("%d %q", res.StatusCode, body)
		}
		res, err := r.RoundTrip(request("GET", "/a", "Range: bytes=100-109"))
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if (err == nil) != (string(body) == "0123456789") {
			t.Errorf("%v after %d bytes", err, len(body))
		}
	})
}

// TestPartOnDiskAlone shows that a part stays that leaves memory as soon as it is
// kept.
func TestPartOnDiskAlone(t *testing.T) {
	c := New(Options{Store: open(t, TiersOptions{Disk: 64 << 20, Dir: t.TempDir()})})
	defer c.Close()
	policy := Policy{}
	r := &rig{&Transport{Cache: c, Policy: func(*http.Request) *Policy { return &policy }, Next: originFunc(func(req *http.Request) (*http.Response, error) {
		return text(206, "01234", "Cache-Control: max-age=60", `Etag: "1"`, "Content-Range: bytes 0-4/10"), nil
	})}, t, nil}
	r.get("/a", "Range: bytes=0-4")
	r.idle()
	if _, body, trace := r.get("/a", "Range: bytes=1-2"); trace.Result != Hit || body != "12" {
		t.Errorf("%q, %+v", body, trace)
	}
}
