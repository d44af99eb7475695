package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

// cachedSite is a crossing with a cache on a disk, to an origin that counts who
// asks it.
func cachedSite(t *testing.T, l layout) (c *crossing, asked *atomic.Int32, stopOrigin func()) {
	t.Helper()
	ca := newAuthority(t)
	asked = new(atomic.Int32)
	var down atomic.Bool
	address := freeAddress(t)
	origin := newOriginAt(t, ca, address, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if down.Load() { // on a connection from before
			panic(http.ErrAbortHandler)
		}
		asked.Add(1)
		w.Header().Set("Content-Type", "text/html")
		switch r.URL.Path {
		case "/old":
			w.Header().Set("Cache-Control", "max-age=0, stale-if-error=3600")
		case "/private":
			w.Header().Set("Cache-Control", "private, max-age=600")
		case "/cookie":
			w.Header().Set("Cache-Control", "max-age=600")
			w.Header().Set("Set-Cookie", fmt.Sprintf("visitor=%d", asked.Load()))
		default:
			w.Header().Set("Cache-Control", "max-age=600")
			w.Header().Set("Cache-Tag", "tea")
		}
		_, _ = fmt.Fprint(w, strings.Repeat(page+"\n", 20))
	}))
	return newCrossing(t, spec{layout: l, ca: ca, sites: siteOf(address), more: "cache: {memory: 32MiB, disk: 64MiB, dir: kept}"}), asked, func() { down.Store(true); origin.Close() }
}

// TestCache: what the edge keeps is mapped, in the coding that each visitor takes,
// and asked for once; it does not cross again, nor after a restart.
func TestCache(t *testing.T) {
	for _, l := range layouts {
		t.Run(string(l), func(t *testing.T) {
			c, asked, _ := cachedSite(t, l)
			want := strings.Repeat(publicPage+"\n", 20)
			first := get(t, c.client(t, 2), "https://example.cn/tea")
			if string(first.body) != want || !strings.Contains(first.Header.Get("Cache-Status"), "stored") {
				t.Fatalf("%s %q %.200q", first.Status, first.Header.Get("Cache-Status"), first.body)
			}
			eventually(t, "it is kept", func() bool {
				return strings.Contains(get(t, c.client(t, 1), "https://example.cn/tea").Header.Get("Cache-Status"), "hit")
			})
			for _, major := range []int{1, 2} {
				for _, coding := range []string{"", "gzip", "br", "zstd", "gzip, deflate, br, zstd"} {
					a := get(t, c.client(t, major), "https://example.cn/tea", "Accept-Encoding: "+coding)
					text := decode(t, a.Header.Get("Content-Encoding"), a.body)
					if !strings.Contains(a.Header.Get("Cache-Status"), "hit") || text != want || !strings.Contains(coding, a.Header.Get("Content-Encoding")) {
						t.Errorf("HTTP/%d, %q: %s in %q, %q", major, coding, a.Status, a.Header.Get("Content-Encoding"), a.Header.Get("Cache-Status"))
					}
				}
			}
			if asked.Load() != 1 {
				t.Errorf("the origin was asked %d times", asked.Load())
			}
			for _, r := range c.edge.records(t) {
				if r.Cache == "hit" && (r.Link.Out != 0 || r.Relay != "") {
					t.Errorf("a hit crossed: %+v", r)
				}
			}
			for _, path := range []string{"/private", "/cookie"} {
				before := asked.Load()
				one, two := get(t, c.client(t, 1), "https://example.cn"+path), get(t, c.client(t, 1), "https://example.cn"+path)
				if asked.Load() != before+2 || path == "/cookie" && one.Header.Get("Set-Cookie") == two.Header.Get("Set-Cookie") {
					t.Errorf("%s was given to another: %v %v", path, one.Header, two.Header)
				}
			}

			c.edge.kill()
			restartEdge(t, c)
			before := asked.Load()
			if a := get(t, c.client(t, 1), "https://example.cn/tea"); string(a.body) != want || asked.Load() != before || !strings.Contains(a.Header.Get("Cache-Status"), "hit") {
				t.Errorf("after a kill: %s %q, the origin was asked %d times", a.Status, a.Header.Get("Cache-Status"), asked.Load()-before)
			}
			if out := mustRun(t, binary, "purge", "--tag", "tea", "--admin", c.edge.admin); !strings.Contains(out.stdout, "purged 1 object") {
				t.Errorf("purge: %q", out.stdout)
			}
			if get(t, c.client(t, 1), "https://example.cn/tea"); asked.Load() != before+1 {
				t.Errorf("after a purge the origin was asked %d times", asked.Load()-before)
			}
		})
	}
}

// TestCacheWithoutTheOrigin: what may be given when the origin fails is, whether
// that, or the relay, is gone; what may not is 502.
func TestCacheWithoutTheOrigin(t *testing.T) {
	for _, l := range layouts {
		t.Run(string(l), func(t *testing.T) {
			c, _, stop := cachedSite(t, l)
			want := strings.Repeat(publicPage+"\n", 20)
			for _, path := range []string{"/old", "/tea"} {
				get(t, c.client(t, 1), "https://example.cn"+path)
			}
			eventually(t, "it is kept", func() bool {
				return strings.Contains(get(t, c.client(t, 1), "https://example.cn/tea").Header.Get("Cache-Status"), "hit")
			})
			check := func(gone string) {
				t.Helper()
				if a := get(t, c.client(t, 2), "https://example.cn/old"); a.StatusCode != 200 || string(a.body) != want {
					t.Errorf("%s is gone: /old is %s %q", gone, a.Status, a.Header.Get("Cache-Status"))
				}
				if a := get(t, c.client(t, 2), "https://example.cn/tea"); a.StatusCode != 200 || string(a.body) != want {
					t.Errorf("%s is gone: /tea is %s", gone, a.Status)
				}
				if a := get(t, c.client(t, 2), "https://example.cn/never/"+strings.ReplaceAll(gone, " ", "-")); a.StatusCode != 502 {
					t.Errorf("%s is gone: what is not kept is %s", gone, a.Status)
				}
			}
			stop()
			check("the origin")
			if l == edgeAndRelay {
				c.relays["relay-1"].kill()
				check("the relay")
			}
		})
	}
}

// restartEdge runs an edge again that has ended.
func restartEdge(t *testing.T, c *crossing) {
	t.Helper()
	name := "edge-1"
	if len(c.relays) == 0 {
		name = ""
	}
	c.edge = launchNodeIn(t, c.china, c.edge.admin, c.args[name]...)
	c.edge.ready(t)
}
