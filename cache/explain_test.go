package cache

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestExplain shows the decision of each kind of request, and that explaining
// changes nothing.
func TestExplain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Policy{Site: "shop", StaleIfError: time.Hour}, func(req *http.Request) (*http.Response, error) {
			now := "Date: " + time.Now().UTC().Format(http.TimeFormat)
			if req.Header.Get("If-None-Match") == `"1"` {
				return text(304, "", now), nil
			}
			switch req.URL.Path {
			case "/private":
				return text(200, "x", now, "Cache-Control: private"), nil
			case "/vary":
				return text(200, "x", now, "Cache-Control: max-age=60", "Vary: Accept-Language"), nil
			}
			return text(200, "hello", now, "Cache-Control: max-age=60", `Etag: "1"`), nil
		})
		defer r.Cache.Close()
		explain := func(req *http.Request, want ...string) {
			t.Helper()
			var b strings.Builder
			for _, s := range r.Explain(t.Context(), req) {
				b.WriteString(s.About + ": " + s.Says + " [" + s.Section + "]\n")
			}
			for _, w := range want {
				if !strings.Contains(b.String(), w) {
					t.Errorf("no %q in\n%s", w, &b)
				}
			}
		}
		explain(request("GET", "/a"),
			`key: https://example.cn/a of site "shop" []`,
			"lookup: nothing is kept under the key [RFC 9111 §4]",
			"fetch: the origin answers 200 in 0s",
			"fresh for 1m0s by max-age, 0s old already [RFC 9111 §4.2.1]",
			"store: kept until 2000-01-01T00:01:00Z")
		explain(request("GET", "/private"), "store: not kept: it says private: it is for one client [RFC 9111 §5.2.2.7]")
		explain(request("POST", "/a"), "passes by the cache: only GET and HEAD are looked up [RFC 9111 §3]", "RFC 9111 §4.4")
		r.get("/a")
		r.get("/vary", "Accept-Language: zh")
		synctest.Wait()
		explain(request("GET", "/a"), "fresh until", "answer: a hit, in no coding")
		explain(request("GET", "/vary", "Accept-Language: en"), `Accept-Language is "en", it was made for "zh" [RFC 9111 §4.1]`)
		explain(request("GET", "/a", "Cache-Control: no-cache"), "the origin is asked: the request wants it fresher, or validated [RFC 9111 §5.2.1]")
		time.Sleep(2 * time.Minute)
		explain(request("GET", "/a"), "stale since", "may be given for 1h0m0s when the origin fails", `If-None-Match: "1"`, "still so, and freshened [RFC 9111 §4.3.4]")
		if _, _, trace := r.get("/a"); trace.Result != Revalidated {
			t.Errorf("explaining changed something: %+v", trace)
		}
	})
}

// TestReasons holds that each reason is told in words.
func TestReasons(t *testing.T) {
	for reason := range sections {
		if explained[reason] == "" {
			t.Errorf("%s is not explained", reason)
		}
	}
}
