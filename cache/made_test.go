package cache

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
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

// TestForgetsWhateverItWasMadeWith shows that what a request changes is not found again by
// a file from before: not with what that had answers made with, under another name of
// the site, with other parts in the key, with the query as it is written, nor where the
// origin said that a part of that does not matter; nor is what was asked for before.
func TestForgetsWhateverItWasMadeWith(t *testing.T) {
	now := &Policy{Site: "shop", Made: "now", Query: Query{Ignore: []string{"utm"}}}
	for name, before := range map[string]*Policy{
		"made":    {Site: "shop", Made: "before"},
		"site":    {Site: "store"},
		"headers": {Site: "shop", KeyHeaders: []string{"Accept-Language"}},
		"cookies": {Site: "shop", KeyCookies: []string{"lang"}},
		"search":  {Site: "shop", Search: true},
	} {
		for _, under := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var policy atomic.Pointer[Policy]
					var asked atomic.Int64
					policy.Store(before)
					rule := `params=("x")`
					r := newRig(t, Policy{}, func(req *http.Request) (*http.Response, error) {
						if req.Method == "GET" {
							asked.Add(1)
							time.Sleep(time.Second)
						}
						res := text(200, "x", "Cache-Control: max-age=600")
						if policy.Load().Search {
							res.Header.Set("No-Vary-Search", rule)
						}
						return res, nil
					})
					defer r.Cache.Close()
					r.Policy = func(*http.Request) *Policy { return policy.Load() }
					get := func(target string) { r.get(target, "Accept-Language: de", "Cookie: lang=de") }
					if under {
						go get("/a?x=1&utm=1")
						time.Sleep(500 * time.Millisecond)
					} else {
						get("/a?x=1&utm=1")
						get("/b?utm=1")
						synctest.Wait()
						if before.Search { // another rule takes the place of the first
							rule = `params=("y")`
							get("/a?y=2")
							synctest.Wait()
							rule = `params=("x")`
						}
					}
					policy.Store(now)
					target := "/a?x=1&utm=1"
					if before.Search {
						target = "/a?x=2&utm=1"
					}
					r.do(request("POST", target))
					policy.Store(before)
					time.Sleep(time.Second)
					if before.Search {
						get("/a?x=3&y=3") // says the first rule again
						synctest.Wait()
					}
					was := asked.Load()
					if get("/a?x=1&utm=1"); asked.Load() != was+1 {
						t.Error("it is found again")
					}
					if was = asked.Load(); !under {
						if get("/b?utm=1"); asked.Load() != was {
							t.Error("another is gone too")
						}
					}
				})
			})
		}
	}
}

// TestForgetsOnDisk shows the same of what an earlier process left, before it is indexed.
func TestForgetsOnDisk(t *testing.T) {
	o := TiersOptions{Memory: 8 << 20, Disk: 64 << 20, Dir: t.TempDir()}
	policy, asked := &Policy{Made: "before"}, 0
	begin := func(s *Tiers) *rig {
		return &rig{&Transport{Cache: New(Options{Store: s}), Policy: func(*http.Request) *Policy { return policy }, Next: originFunc(func(*http.Request) (*http.Response, error) {
			asked++
			return text(200, "hello", "Cache-Control: max-age=600"), nil
		})}, t, nil}
	}
	s := open(t, o)
	r := begin(s)
	r.get("/a")
	r.get("/b")
	r.idle()
	r.Cache.Close()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, o) // and not waited for
	r = begin(s)
	policy = &Policy{Made: "now"}
	r.do(request("POST", "/a"))
	s = reopen(t, s, o)
	r = begin(s)
	policy = &Policy{Made: "before"}
	asked = 0
	if r.get("/b"); asked != 0 {
		t.Error("/b is gone too")
	}
	if r.get("/a"); asked != 1 {
		t.Error("/a is found again")
	}
	r.idle()
	r.Cache.Close()
}

// TestInventedOrigins shows that who invents values of a field that makes variants does not
// push out the one that others are given meanwhile.
func TestInventedOrigins(t *testing.T) {
	asked := atomic.Int64{}
	s := open(t, TiersOptions{Memory: 8 << 20})
	policy := &Policy{}
	r := &rig{&Transport{Cache: New(Options{Store: s}), Policy: func(*http.Request) *Policy { return policy }, Next: originFunc(func(req *http.Request) (*http.Response, error) {
		if req.Header.Get("Origin") == "" {
			asked.Add(1)
		}
		return text(200, "hello", "Cache-Control: max-age=600"), nil
	})}, t, nil}
	defer r.Cache.Close()
	r.get("/a")
	r.idle()
	for n := range 2 * mostVariants {
		r.get("/a", fmt.Sprintf("Origin: https://%d.evil", n))
		r.idle()
		r.get("/a")
		r.idle()
	}
	if n := asked.Load(); n > 1 {
		t.Errorf("asked %d times for the page itself", n)
	}
}
