package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// originFunc answers as an origin.
type originFunc func(*http.Request) (*http.Response, error)

func (f originFunc) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// rig is a cache before an origin.
type rig struct {
	*Transport
	t     *testing.T
	store *mapStore
}

func newRig(t *testing.T, policy Policy, origin originFunc) *rig {
	store := newMapStore()
	c := New(Options{Store: store, Codings: gzipOnly{}, MostBytes: 1 << 20})
	t.Cleanup(func() {
		c.Close()
		if n := store.open(); n != 0 {
			t.Errorf("%d drafts were left open", n)
		}
	})
	return &rig{&Transport{Cache: c, Next: origin, Policy: func(*http.Request) *Policy { return &policy }}, t, store}
}

// request makes one for https://example.cn, with header lines.
func request(method, target string, lines ...string) *http.Request {
	req := httptest.NewRequest(method, "https://example.cn"+target, nil)
	req.RequestURI, req.Body = "", nil
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		req.Header.Add(name, value)
	}
	return req
}

// get gives the answer to a GET, its body, and what became of it.
func (r *rig) get(target string, lines ...string) (*http.Response, string, Trace) {
	r.t.Helper()
	return r.do(request("GET", target, lines...))
}

func (r *rig) do(req *http.Request) (*http.Response, string, Trace) {
	r.t.Helper()
	var trace Trace
	res, err := r.RoundTrip(req.WithContext(WithTrace(req.Context(), &trace)))
	if err != nil {
		r.t.Fatalf("%s %s: %v", req.Method, req.URL, err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil {
		r.t.Fatalf("%s %s: read the body: %v", req.Method, req.URL, err)
	}
	return res, string(body), trace
}

// text is an answer with a body and header lines.
func text(status int, body string, lines ...string) *http.Response {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	return &http.Response{StatusCode: status, Header: h, Body: io.NopCloser(strings.NewReader(body)), ContentLength: int64(len(body)), ProtoMajor: 1, ProtoMinor: 1}
}

// TestHit shows that what is kept is given again without asking.
func TestHit(t *testing.T) {
	asked := 0
	r := newRig(t, Policy{}, func(*http.Request) (*http.Response, error) {
		asked++
		return text(200, "hello", "Cache-Control: max-age=60", "Causeway-Relay: virginia-1"), nil
	})
	res, body, trace := r.get("/a")
	if body != "hello" || trace.Result != Miss || res.Header.Get("Causeway-Relay") == "" {
		t.Fatalf("first: %q %+v %v", body, trace, res.Header)
	}
	r.idle()
	res, body, trace = r.get("/a")
	if body != "hello" || trace.Result != Hit || asked != 1 || res.Header.Get("Causeway-Relay") != "" {
		t.Fatalf("second: %q %+v %v, asked %d times", body, trace, res.Header, asked)
	}
	if status := res.Header.Get("Cache-Status"); !strings.HasPrefix(status, "causeway; hit; ttl=") {
		t.Errorf("Cache-Status %q", status)
	}
}

// idle waits for the fetches that are under way.
func (r *rig) idle() { r.Cache.work.Wait() }

// gzipOnly are codings that only mark what they do.
type gzipOnly struct{}

type marker struct {
	dst    io.Writer
	coding string
	begun  bool
}

func (m *marker) Write(p []byte) (int, error) {
	if !m.begun {
		m.begun = true
		_, _ = io.WriteString(m.dst, m.coding+"<")
	}
	return m.dst.Write(p)
}
func (m *marker) Flush() error { return nil }
func (m *marker) Free()        {}
func (m *marker) Close() error {
	_, err := m.Write(nil)
	_, _ = io.WriteString(m.dst, ">")
	return err
}

func (gzipOnly) Encode(coding string, dst io.Writer) Encoder {
	return &marker{dst: dst, coding: coding}
}

func (gzipOnly) Decode(coding string, src io.ReadCloser) io.ReadCloser {
	return &unmarker{src: src, coding: coding}
}

// unmarker opens what marker closed.
type unmarker struct {
	src    io.ReadCloser
	coding string
	rest   *strings.Reader
}

func (u *unmarker) Read(p []byte) (int, error) {
	if u.rest == nil {
		all, err := io.ReadAll(u.src)
		if err != nil {
			return 0, err
		}
		body, ok1 := strings.CutPrefix(string(all), u.coding+"<")
		body, ok2 := strings.CutSuffix(body, ">")
		if !ok1 || !ok2 {
			return 0, context.Canceled
		}
		u.rest = strings.NewReader(body)
	}
	return u.rest.Read(p)
}
func (u *unmarker) Close() error { return u.src.Close() }

// TestClock shows that what a wrong clock received in the future is validated, not
// fresh for years.
func TestClock(t *testing.T) {
	asked := 0
	r := newRig(t, Policy{}, func(*http.Request) (*http.Response, error) {
		asked++
		return text(200, "hello", "Cache-Control: max-age=60"), nil
	})
	r.get("/a")
	r.idle()
	kept := r.store.Find(r.keyOf("/a"))[0]
	meta := kept.Meta.with(kept.Meta.Header)
	meta.Received, meta.Until = meta.Received.AddDate(1, 0, 0).Round(0), meta.Until.AddDate(1, 0, 0).Round(0)
	r.store.Renew(kept, meta.settled())
	if _, _, trace := r.get("/a"); trace.Result != Miss || asked != 2 {
		t.Errorf("%+v, asked %d times", trace, asked)
	}
}

// TestStaleIfErrorIsNamed shows that each answer that a rule lets be given stale
// says so, also while the origin is not waited for.
func TestStaleIfErrorIsNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		down := false
		r := newRig(t, Policy{StaleIfError: time.Hour}, func(*http.Request) (*http.Response, error) {
			if down {
				return nil, errors.New("down")
			}
			return text(200, "a", "Cache-Control: max-age=1"), nil
		})
		defer r.Cache.Close()
		r.get("/a")
		r.idle()
		down = true
		time.Sleep(2 * time.Second)
		for i := range 3 {
			res, body, trace := r.get("/a")
			if said := res.Header.Get("Cache-Status"); body != "a" || trace.Result != Stale || !strings.Contains(said, `detail="stale_if_error=3600"`) {
				t.Errorf("%d: %q %q %+v", i, body, said, trace)
			}
		}
	})
}

// TestCovered shows that a failure that no visitor sees is in the log once a minute
// for a site, without the query, and counted: whether the origin can't be reached or
// answers with an error, whether a visitor waits or nobody does.
func TestCovered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said strings.Builder
		down := 0
		policy := Policy{Site: "shop", StaleIfError: time.Hour}
		r := newRig(t, policy, func(*http.Request) (*http.Response, error) {
			switch down {
			case 1:
				return nil, errors.New("dial: refused")
			case 2:
				return text(503, "down"), nil
			}
			return text(200, "a", "Cache-Control: max-age=1"), nil
		})
		defer r.Cache.Close()
		r.Cache.options.Log = slog.New(slog.NewTextHandler(&said, nil))
		lines := func(n int, counted uint64, with string) {
			t.Helper()
			synctest.Wait()
			if text := said.String(); strings.Count(text, "the origin fails") != n || !strings.Contains(text, with) || r.Cache.Covered()["shop"] != counted || strings.Contains(text, "secret") {
				t.Errorf("want %d lines, counted %v:\n%s", n, r.Cache.Covered(), text)
			}
		}
		r.get("/a?secret=1")
		r.idle()
		down = 1
		time.Sleep(2 * time.Second)
		for range 3 {
			r.get("/a?secret=1")
			time.Sleep(retryAfter + time.Second)
		}
		lines(1, 3, `level=WARN msg="the origin fails: what is kept is given, stale" site=shop url=https://example.cn/a failures=1 err="dial: refused"`)
		down = 2
		time.Sleep(time.Minute)
		r.get("/a?secret=1")
		lines(2, 4, `failures=3 status=503`)
		time.Sleep(2 * time.Minute)
		r.do(request("HEAD", "/a?secret=1"))
		lines(3, 5, `failures=1 status=503`)
		policy.StaleIfError, policy.StaleWhileRevalidate = 0, time.Hour // and where the error is not what it is given for
		time.Sleep(2 * time.Minute)
		r.get("/a?secret=1")
		lines(4, 6, `failures=1 status=503`)
		down = 0
		r.get("/b")
		lines(4, 6, "")
	})
}

// TestTooLargeFor shows that Cache-Status names the key of the file by which an answer is
// not kept, and none where the cache's own limit says so.
func TestTooLargeFor(t *testing.T) {
	for most, want := range map[int64]string{0: "too-large", 1 << 10: "object_bytes", 8 << 20: "too-large"} {
		r := newRig(t, Policy{MostBytes: most}, func(*http.Request) (*http.Response, error) {
			return text(200, strings.Repeat("x", 2<<20), "Cache-Control: max-age=60"), nil
		})
		res, _, trace := r.get("/a")
		if status := res.Header.Get("Cache-Status"); status != `causeway; fwd=uri-miss; fwd-status=200; detail="`+want+`"` || trace.Kept != "too-large" {
			t.Errorf("%d: %s, %+v", most, status, trace)
		}
	}
}

// TestTurnsOutTooLarge shows that an answer whose length nobody says is told of as too large
// once the last one was, and as kept again once one is.
func TestTurnsOutTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		size := 2 << 20
		r := newRig(t, Policy{MostBytes: 1 << 10}, func(*http.Request) (*http.Response, error) {
			res := text(200, strings.Repeat("x", size), "Cache-Control: max-age=60")
			res.ContentLength = -1
			return res, nil
		})
		visit := func(want, kept string) {
			t.Helper()
			res, _, trace := r.get("/a")
			r.idle()
			if status := res.Header.Get("Cache-Status"); status != want || trace.Kept != kept {
				t.Errorf("%s, %+v", status, trace)
			}
		}
		visit("causeway; fwd=uri-miss; fwd-status=200; ttl=60; stored", "") // nobody knows yet
		large := `causeway; fwd=uri-miss; fwd-status=200; ttl=60; detail="object_bytes"`
		visit(large, "too-large")
		said := fmt.Sprint(r.Explain(t.Context(), request("GET", "/a")))
		if !strings.Contains(said, "the last one was larger than 1024 bytes") || strings.Contains(said, "given without asking") {
			t.Errorf("explained: %s", said)
		}
		size = 100
		visit(large, "too-large") // it is kept all the same
		visit("causeway; hit; ttl=60", "")
	})
}
