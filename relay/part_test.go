package relay

import (
	"net/http"
	"net/http/httptest"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"causeway/outcome"
)

// A range that ends a text at the origin's length would tell that length, and
// may lie within what the visitor gets: the whole answers it. What is not
// rewritten keeps its 416.
func TestRangeBeyondTheEnd(t *testing.T) {
	const page = `<a href="http://example.com/">`
	const mapped = `<a href="http://example.cn/">`
	var asked atomic.Int32
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		switch r.URL.Path {
		case "/gone.html":
			if r.Header.Get("Range") == "" {
				http.Error(w, "gone", http.StatusGone)
				return
			}
		case "/items.json":
			w.Header().Set("Content-Type", "application/json")
			if r.Header.Get("Range") != "" {
				w.Header().Set("Content-Range", "items */9")
				w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
				return
			}
		case "/post.html":
			w.Header().Set("Content-Range", "bytes */30")
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		http.ServeContent(w, r, path.Base(r.URL.Path), time.Time{}, strings.NewReader(page))
	}))
	defer origin.Close()
	s := relayTo(t, origin.Listener.Addr().String())
	for _, c := range []struct {
		method, path, ranges string
		status, asked        int
		contentRange, body   string
	}{
		{"GET", "/page.html", "bytes=30-", 200, 2, "", mapped},
		{"GET", "/page.html", "bytes=99-100", 200, 2, "", mapped},
		{"HEAD", "/page.html", "bytes=30-", 200, 2, "", ""},
		{"GET", "/page.png", "bytes=30-", 416, 2, "bytes */30", ""},
		{"GET", "/gone.html", "bytes=30-", 416, 2, "", ""},
		{"GET", "/items.json", "items=9-", 416, 1, "items */9", ""},
		{"POST", "/post.html", "bytes=30-", 416, 1, "", ""},
	} {
		asked.Store(0)
		res, body, err := ask(t, s, c.method, "http://example.cn"+c.path, nil, "Range: "+c.ranges)
		if outcome.KindOf(err) != outcome.OK {
			t.Errorf("%+v: %v", c, err)
			continue
		}
		if res.StatusCode != c.status || int(asked.Load()) != c.asked || res.Header.Get("Content-Range") != c.contentRange || c.body != "" && body != c.body {
			t.Errorf("%+v: %d, Content-Range %q, asked %d, %q", c, res.StatusCode, res.Header.Get("Content-Range"), asked.Load(), body)
		}
	}
}
