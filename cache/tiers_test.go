package cache

import (
	"net/http"
	"testing"

	"go.uber.org/goleak"
)

// open opens a store until the end of the test, when it leaves no goroutine.
func open(t testing.TB, o TiersOptions) *Tiers {
	t.Helper()
	before := goleak.IgnoreCurrent()
	s, err := OpenTiers(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		goleak.VerifyNone(t, before)
	})
	return s
}

func TestStore(t *testing.T) {
	for name, o := range map[string]TiersOptions{
		"memory":              {Memory: 64 << 20},
		"memory and disk":     {Memory: 64 << 20, Disk: 64 << 20},
		"disk with no memory": {Disk: 64 << 20},
		"disk, little memory": {Memory: 1 << 20, Disk: 64 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			storeConformance(t, func(t *testing.T) Store {
				o := o
				if o.Disk > 0 {
					o.Dir = t.TempDir()
				}
				return open(t, o)
			})
		})
	}
}

// TestTierOfHits shows that each hit says where what it is made of was, also where
// none of that is sent.
func TestTierOfHits(t *testing.T) {
	for tier, o := range map[string]TiersOptions{
		"memory": {Memory: 64 << 20},
		"disk":   {Disk: 64 << 20, Dir: t.TempDir()},
	} {
		t.Run(tier, func(t *testing.T) {
			policy := Policy{}
			c := New(Options{Store: open(t, o)})
			defer c.Close()
			r := &rig{&Transport{Cache: c, Policy: func(*http.Request) *Policy { return &policy }, Next: originFunc(func(req *http.Request) (*http.Response, error) {
				if req.URL.Path == "/part" {
					return text(206, "01234", "Cache-Control: max-age=60", `Etag: "1"`, "Content-Range: bytes 0-4/10"), nil
				}
				return text(200, "0123456789", "Cache-Control: max-age=60", `Etag: "1"`), nil
			})}, t, nil}
			if _, _, trace := r.get("/a"); trace.Tier != "" {
				t.Errorf("what was fetched was in %q", trace.Tier)
			}
			r.get("/part", "Range: bytes=0-4")
			r.idle()
			for status, req := range map[int]*http.Request{
				200: request("GET", "/a"), 206: request("GET", "/a", "Range: bytes=0-1"), 304: request("GET", "/a", `If-None-Match: "1"`),
				416: request("GET", "/a", "Range: bytes=20-"), 1200: request("HEAD", "/a"), 1206: request("GET", "/part", "Range: bytes=1-2"),
			} {
				if res, _, trace := r.do(req); res.StatusCode != status%1000 || trace.Result != Hit || trace.Tier != tier {
					t.Errorf("%s %v: %d, %+v", req.Method, req.Header, res.StatusCode, trace)
				}
			}
		})
	}
}

// TestCrowdedURL shows that there is an end to how many answers of one URL are kept, and
// that what is asked for stays.
func TestCrowdedURL(t *testing.T) {
	s := open(t, TiersOptions{Memory: 64 << 20, Disk: 64 << 20, Dir: t.TempDir()})
	keyOf := func(n int) Key {
		key := testKey(1)
		key[len(key)-1], key[len(key)-2] = byte(n), byte(n>>8)
		return key
	}
	keep(t, s, metaOf(2, "a"), bodyOf(2, 10))
	for i := range mostOfURL + 100 {
		meta := metaOf(1, "a")
		meta.Key = keyOf(i)
		keep(t, s, meta, bodyOf(1, 10))
		one(t, s, keyOf(min(i, 7)))
	}
	if n := s.Stats().Objects; n != mostOfURL+1 {
		t.Errorf("%d objects", n)
	}
	for n, want := range map[int]int{0: 0, 6: 0, 7: 1, 8: 0, 102: 1, mostOfURL + 99: 1} {
		if got := len(s.Find(keyOf(n))); got != want {
			t.Errorf("%d: %d are found", n, got)
		}
	}
	one(t, s, testKey(2))
}

// TestPurgeOfURL shows that all of a URL is purged by its list, and where an answer is
// kept under another than its own all the same.
func TestPurgeOfURL(t *testing.T) {
	s := open(t, TiersOptions{Memory: 64 << 20})
	of := func(head Head, n byte, url string) *Meta {
		meta := metaOf(int(n), "a")
		meta.URL = url
		copy(meta.Key[:], head[:])
		return meta
	}
	a, b := "https://a.cn/a", "https://a.cn/b"
	for i, meta := range []*Meta{of(headOf(a), 1, a), of(headOf(a), 2, a), of(headOf(b), 3, b)} {
		keep(t, s, meta, bodyOf(i, 10))
	}
	if _, ok := s.index.listOf(Match{URL: a}); !ok {
		t.Error("all is looked through")
	}
	if n := s.Purge(Match{URL: a, Tag: "t2"}, false); n != 1 {
		t.Errorf("%d of 1 were purged", n)
	}
	stray := keep(t, s, of(headOf("a rule"), 4, a), bodyOf(4, 10))
	if n := s.Purge(Match{URL: a}, true); n != 2 {
		t.Errorf("%d of 2 were purged", n)
	}
	s.Remove(s.Find(stray.Meta.Key)[0])
	if _, ok := s.index.listOf(Match{URL: a}); !ok {
		t.Error("all is looked through yet")
	}
	if n := s.Purge(Match{URL: a}, false); n != 1 || len(s.Find(of(headOf(b), 3, b).Key)) != 1 {
		t.Errorf("%d of 1 were purged", n)
	}
}
