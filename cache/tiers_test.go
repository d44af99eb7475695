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
