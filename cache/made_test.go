package cache

import (
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestExplainStored shows that what is kept is explained by the policy under which it
// was stored, which is the one that it is given by.
func TestExplainStored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		policy := &Policy{Site: "shop", Made: "abc", TTL: 10 * time.Minute}
		r := newRig(t, Policy{}, func(*http.Request) (*http.Response, error) {
			return text(200, "x", "Cache-Control: max-age=1"), nil
		})
		defer r.Cache.Close()
		r.Policy = func(*http.Request) *Policy { return policy }
		r.get("/a")
		r.idle()
		said := func() (all string) {
			for _, s := range r.Explain(t.Context(), request("GET", "/a")) {
				all += s.About + ": " + s.Says + " [" + s.Section + "]\n"
			}
			return all
		}
		has := func(text string, want ...string) {
			t.Helper()
			for _, w := range want {
				if !strings.Contains(text, w) {
					t.Errorf("no %q in\n%s", w, text)
				}
			}
		}
		has(said(), "fresh for 10m0s by ttl, 0s old [policy ttl]", "[hosts, rewrite]")
		time.Sleep(time.Minute)
		for _, policy = range []*Policy{{Site: "shop", Made: "abc", TTL: 3 * time.Second}, {Site: "shop", Made: "abc"}} {
			text := said()
			has(text, "when it was stored, by ttl=600, it was fresh for 10m0s, and is 1m0s old", "answer: a hit")
			if strings.Contains(text, "fresh for 3s") || strings.Contains(text, "fresh for 1s") {
				t.Errorf("it contradicts itself:\n%s", text)
			}
		}
	})
}

// TestMade shows that what was made with another file is not found, and is let go of
// all the same.
func TestMade(t *testing.T) {
	o, policy := 0, &Policy{Site: "shop", Made: "a"}
	r := newRig(t, Policy{}, func(req *http.Request) (*http.Response, error) {
		o++
		return text(200, policy.Made, "Cache-Control: max-age=600", "Cache-Tag: tea"), nil
	})
	r.Policy = func(*http.Request) *Policy { return policy }
	get := func(want string, asked int) {
		t.Helper()
		_, body, _ := r.get("/a")
		if r.idle(); body != want || o != asked {
			t.Errorf("got %q, want %q; the origin was asked %d times, not %d", body, want, o, asked)
		}
	}
	get("a", 1)
	policy = &Policy{Site: "shop", Made: "b"}
	get("b", 2)
	policy = &Policy{Site: "shop", Made: "a"} // the old file again
	get("a", 2)
	for _, match := range []Match{{URL: "https://example.cn/a"}, {Prefix: "https://example.cn/"}, {Host: "example.cn"}, {Tag: "tea"}} {
		policy = &Policy{Site: "shop", Made: "a"}
		r.get("/a")
		policy = &Policy{Site: "shop", Made: "b"}
		r.get("/a")
		r.idle()
		if n := r.Cache.Purge(match, false); n != 2 {
			t.Errorf("%+v: %d are gone, of 2", match, n)
		}
	}
	// A request to a route with rules of its own changes what is kept by those of another.
	policy = &Policy{Site: "shop", Made: "a"}
	r.get("/a")
	r.idle()
	read, write := policy, &Policy{Site: "shop", Made: "of POST"}
	r.Policy = func(req *http.Request) *Policy {
		if req.Method == "POST" {
			return write
		}
		return read
	}
	asked := o
	r.do(request("POST", "/a"))
	if r.get("/a"); o != asked+2 {
		t.Error("it is kept after a POST")
	}
}
