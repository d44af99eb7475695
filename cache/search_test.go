package cache

import (
	"net/http"
	"strings"
	"testing"
)

// TestSearchAfterRestart shows that what an answer says of its query is known after a
// restart, and is no object of its own for those who list and purge.
func TestSearchAfterRestart(t *testing.T) {
	o := TiersOptions{Memory: 8 << 20, Disk: 64 << 20, Dir: t.TempDir()}
	s := open(t, o)
	asked := 0
	begin := func(s *Tiers) *rig {
		policy := Policy{Site: "shop", Search: true}
		c := New(Options{Store: s})
		return &rig{&Transport{Cache: c, Policy: func(*http.Request) *Policy { return &policy }, Next: originFunc(func(*http.Request) (*http.Response, error) {
			asked++
			return text(200, "hello", "Cache-Control: max-age=60", `No-Vary-Search: params=("utm")`, "Cache-Tag: tea"), nil
		})}, t, nil}
	}
	r := begin(s)
	if _, _, trace := r.get("/a?id=1&utm=1"); trace.Result != Miss {
		t.Errorf("%+v", trace)
	}
	r.Cache.Close()
	s = reopen(t, s, o)
	r = begin(s)
	if _, body, trace := r.get("/a?utm=2&id=1"); trace.Result != Hit || body != "hello" || asked != 1 {
		t.Errorf("%+v %q, asked %d times", trace, body, asked)
	}
	if _, _, trace := r.get("/a?id=2&utm=2"); trace.Result != Miss || asked != 2 {
		t.Errorf("%+v, asked %d times", trace, asked)
	}
	r.idle()
	listed := 0
	s.List(Match{}, func(Listed) bool { listed++; return true })
	if n := s.Purge(Match{Tag: "tea"}, false); n != 2 || listed != 2 {
		t.Errorf("purged %d, listed %d", n, listed)
	}
	if _, _, trace := r.get("/a?id=1"); trace.Result != Miss {
		t.Errorf("%+v", trace)
	}
	r.idle()
	if n := s.Purge(Match{}, false); n != 1 || s.Stats().Objects != 0 {
		t.Errorf("purged %d, %+v", n, s.Stats())
	}
	r.Cache.Close()
}

// TestSearchIsNamed shows that the rule is named also where the header is given as
// lines.
func TestSearchIsNamed(t *testing.T) {
	policy := Policy{Search: true}
	r := newRig(t, policy, func(*http.Request) (*http.Response, error) {
		return text(200, "hello", "Cache-Control: max-age=60", "Date: Sun, 06 Nov 1994 08:49:37 GMT", "Age: 0", "CDN-Cache-Control: max-age=3153600000", `No-Vary-Search: params=("utm")`), nil
	})
	r.get("/a?utm=1&id=1")
	r.idle()
	var trace Trace
	var lines Lines
	res := r.Kept(request("GET", "/a?id=1&utm=2"), &policy, func(string) bool { return true }, &trace, &lines)
	if res == nil || lines.Fixed == nil || !strings.HasSuffix(lines.Status, `detail="no_vary_search"`) {
		t.Errorf("%+v, %+v", res, lines)
	}
}
