package cache

import (
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestPurgeWhileFetching shows that what was asked for before a purge is given to
// who waits, and not kept; or kept stale.
func TestPurgeWhileFetching(t *testing.T) {
	for _, soft := range []bool{false, true} {
		o := newSlow("Cache-Control: max-age=60", "Cache-Tag: x")
		bubble(t, Policy{}, o, func(r *rig) {
			before, done := r.begin(3, request("GET", "/a"), nil)
			time.Sleep(500 * time.Millisecond)
			r.Cache.Purge(Match{Tag: "x"}, soft)
			after, doneAfter := r.begin(3, request("GET", "/a"), nil)
			writeBody(<-o.bodies, []byte("old"), nil)
			done()
			synctest.Wait()
			kept := r.store.Find(r.keyOf("/a"))
			if soft && (len(kept) != 1 || !kept[0].Meta.Stale) || !soft && len(kept) != 0 {
				t.Errorf("soft %v: kept %v", soft, kept)
			}
			writeBody(<-o.bodies, []byte("new"), nil)
			doneAfter()
			for _, c := range before {
				if string(c.body) != "old" {
					t.Errorf("before: %q", c.body)
				}
			}
			for _, c := range after {
				if string(c.body) != "new" {
					t.Errorf("after: %q", c.body)
				}
			}
			if o.asked.Load() != 2 {
				t.Errorf("asked %d times", o.asked.Load())
			}
			synctest.Wait()
			if _, body, trace := r.get("/a"); body != "new" || trace.Result != Hit {
				t.Errorf("then %q %+v", body, trace)
			}
		})
	}
}

func (r *rig) keyOf(target string) Key {
	req := request("GET", target)
	policy := r.Policy(req)
	return keyOf(req, policy, []byte(URL(req, policy)), policy.strangers(req.Header, nil))
}

// TestPurgeWhileValidating shows that a purge is not undone by an origin that said
// before it that what is kept is still valid.
func TestPurgeWhileValidating(t *testing.T) {
	for _, soft := range []bool{false, true} {
		var asked atomic.Int32
		origin := originFunc(func(req *http.Request) (*http.Response, error) {
			n := asked.Add(1)
			time.Sleep(time.Second)
			if n == 2 && req.Header.Get("If-None-Match") != "" {
				return text(304, "", `Etag: "a"`, "Cache-Control: max-age=60, stale-while-revalidate=60", "Cache-Tag: x"), nil
			}
			return text(200, fmt.Sprint(n), fmt.Sprintf("Etag: \"%c\"", 'a'+n-1), "Cache-Control: max-age=60, stale-while-revalidate=60", "Cache-Tag: x"), nil
		})
		bubble(t, Policy{}, origin, func(r *rig) {
			r.get("/a")
			time.Sleep(61 * time.Second)
			if _, body, _ := r.get("/a"); body != "1" { // stale: it is validated in the background
				t.Errorf("soft %v: first %q", soft, body)
			}
			time.Sleep(500 * time.Millisecond)
			r.Cache.Purge(Match{Tag: "x"}, soft)
			time.Sleep(2 * time.Second)
			kept := r.store.Find(r.keyOf("/a"))
			if soft && (len(kept) != 1 || !kept[0].Meta.Stale) || !soft && len(kept) != 0 {
				t.Errorf("soft %v: kept %v", soft, kept)
			}
			r.get("/a")
			time.Sleep(2 * time.Second)
			if _, body, trace := r.get("/a"); body != "3" || trace.Result != Hit {
				t.Errorf("soft %v: then %q %+v, asked %d times", soft, body, trace, asked.Load())
			}
		})
	}
}

// TestPurgeOfTheHot shows that what everybody asks for is fetched once after a
// purge; and that a soft one has nobody wait.
func TestPurgeOfTheHot(t *testing.T) {
	for _, soft := range []bool{false, true} {
		var asked atomic.Int32
		origin := originFunc(func(*http.Request) (*http.Response, error) {
			n := asked.Add(1)
			time.Sleep(time.Second)
			return text(200, fmt.Sprint(n), "Cache-Control: max-age=60"), nil
		})
		bubble(t, Policy{}, origin, func(r *rig) {
			r.get("/a")
			synctest.Wait()
			if n := r.Cache.Purge(Match{URL: "https://example.cn/a"}, soft); n != 1 {
				t.Errorf("%d were purged", n)
			}
			begun := time.Now()
			all, done := r.begin(100, request("GET", "/a"), nil)
			done()
			want, took := "2", time.Second
			if soft {
				want, took = "1", 0
			}
			if time.Since(begun) != took {
				t.Errorf("soft %v: after %v", soft, time.Since(begun))
			}
			for _, c := range all {
				if c.err != nil || string(c.body) != want {
					t.Errorf("soft %v: %v %q", soft, c.err, c.body)
				}
			}
			time.Sleep(2 * time.Second)
			if _, body, trace := r.get("/a"); body != "2" || trace.Result != Hit || asked.Load() != 2 {
				t.Errorf("soft %v: then %q %+v, asked %d times", soft, body, trace, asked.Load())
			}
		})
	}
}
