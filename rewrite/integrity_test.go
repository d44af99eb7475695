package rewrite

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
)

const (
	ownScript    = `fetch("https://example.com/x")`
	publicScript = `fetch("https://example.cn/x")`
)

// withHash is a page whose script has the hash of a text.
func withHash(text string) string {
	return `<script src="/a.js" integrity="` + sha384Hash.of([]byte(text)).String() + `"></script>`
}

const withoutHash = `<script src="/a.js"></script>`

// TestIntegrityRounds: a page without its hash, until the script has been fetched; and so again when
// the script has changed.
func TestIntegrityRounds(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	page := func(came, want string) {
		t.Helper()
		if got, _ := fetch(t, m, "https://example.com/", "text/html", came, 0); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	script := func(text string, fields ...string) {
		t.Helper()
		fetch(t, m, "https://example.com/a.js", "text/javascript", text, 7, fields...)
	}
	watched := func(want int64) {
		t.Helper()
		if n := m.memory.watched.Load(); n != want {
			t.Errorf("%d resources are watched, want %d", n, want)
		}
	}
	script(ownScript)
	page(withHash(ownScript), withoutHash) // nobody wanted the script when it came
	watched(1)
	page(withHash(ownScript), withoutHash)
	script(ownScript)
	watched(0)
	page(withHash(ownScript), withHash(publicScript))
	page(withHash(ownScript), withHash(publicScript))
	watched(0)

	changed, public := ownScript+"//2", publicScript+"//2"
	page(withHash(changed), withoutHash)
	script(ownScript) // an old one is not what the page means
	page(withHash(changed), withoutHash)
	script(changed)
	page(withHash(changed), withHash(public))
	page(withHash(ownScript), withoutHash)
	script("")
	page(withHash(ownScript), withoutHash)
	watched(1)
}

// TestIntegrityOfWhatPasses: what is not rewritten after all keeps its hash, until it is.
func TestIntegrityOfWhatPasses(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	page := func(want string) {
		t.Helper()
		if got, _ := fetch(t, m, "https://example.com/", "text/html", withHash(ownScript), 0); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	page(withoutHash)
	fetch(t, m, "https://example.com/a.js", "application/octet-stream", ownScript, 0)
	page(withHash(ownScript))
	page(withHash(ownScript))
	fetch(t, m, "https://example.com/a.js", "text/javascript", ownScript, 0)
	page(withoutHash)
	fetch(t, m, "https://example.com/a.js", "text/javascript", ownScript, 0)
	page(withHash(publicScript))

	// a route that leaves bodies as they are
	m = parseMap(t, fuzzMaps[0])
	untouched := m.WithRules(Rules{Untouched: true})
	page(withoutHash)
	fetch(t, untouched, "https://example.com/a.js", "text/javascript", ownScript, 0)
	page(withHash(ownScript))
	if got, _ := fetch(t, untouched, "https://example.com/", "text/html", withHash("x"), 0); got != withHash("x") {
		t.Errorf("an untouched page became %s", got)
	}
}

// TestIntegrityOfRoutes: a resource has one name, whichever of the site's origins it comes from.
func TestIntegrityOfRoutes(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	route, err := m.With(Pair{Base{"https", "example.cn", ""}, Base{"http", "10.0.1.5", "3000"}})
	if err != nil {
		t.Fatal(err)
	}
	fetch(t, m, "https://example.com/", "text/html", withHash(ownScript), 0)
	fetch(t, route, "http://10.0.1.5:3000/a.js", "text/javascript", ownScript, 0)
	if got, _ := fetch(t, m, "https://example.com/", "text/html", withHash(ownScript), 0); got != withHash(publicScript) {
		t.Errorf("got %s", got)
	}
	if got, _ := fetch(t, route, "http://10.0.1.5:3000/", "text/html", withHash(ownScript), 0); got != withHash(publicScript) {
		t.Errorf("a page of the route: %s", got)
	}
}

// TestWhatIsNoFetch: only a whole 200 to a GET teaches anything.
func TestWhatIsNoFetch(t *testing.T) {
	for name, change := range map[string]func(*http.Response){
		"404":         func(res *http.Response) { res.StatusCode = 404 },
		"POST":        func(res *http.Response) { res.Request.Method = "POST" },
		"no request":  func(res *http.Response) { res.Request = nil },
		"another":     func(res *http.Response) { res.Request.URL.RawQuery = "v=2" },
		"third party": func(res *http.Response) { res.Request.URL.Host = "other.net" },
		"part":        func(res *http.Response) { res.Header.Set("Content-Range", "items 0-9/99") },
		"binary part": func(res *http.Response) {
			res.Header = http.Header{"Content-Type": {"image/png"}, "Content-Range": {"bytes 0-9/99"}}
		},
		"nothing":   func(res *http.Response) { res.Body, res.ContentLength = http.NoBody, 0 },
		"cut short": func(res *http.Response) { res.Body = io.NopCloser(io.MultiReader(res.Body, brokenReader{})) },
	} {
		m := parseMap(t, fuzzMaps[0])
		fetch(t, m, "https://example.com/", "text/html", withHash(ownScript), 0)
		res := answer(strings.NewReader(ownScript), -1, "Content-Type: text/javascript")
		res.Request, _ = http.NewRequest("GET", "https://example.com/a.js", nil)
		change(res)
		m.Response(res, Options{})
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if got, _ := fetch(t, m, "https://example.com/", "text/html", withHash(ownScript), 0); got != withoutHash {
			t.Errorf("%s: got %s", name, got)
		}
	}
}

type brokenReader struct{}

func (brokenReader) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// TestIntegrityInEveryCoding: hashes are of the text, whatever coding it comes and leaves in.
func TestIntegrityInEveryCoding(t *testing.T) {
	for _, coding := range []string{"gzip", "br", "zstd"} {
		m := parseMap(t, fuzzMaps[0])
		fetch(t, m, "https://example.com/", "text/html", withHash(ownScript), 0)
		res := answer(strings.NewReader(closeIn(coding, ownScript)), -1, "Content-Type: text/javascript", "Content-Encoding: "+coding)
		res.Request, _ = http.NewRequest("GET", "https://example.com/a.js", nil)
		m.Response(res, Options{AcceptEncoding: "gzip"})
		if text, err := openFrom("gzip", res.Body); err != nil || text != publicScript {
			t.Fatalf("%q, %v", text, err)
		}
		res.Body.Close()
		if got, _ := fetch(t, m, "https://example.com/", "text/html", withHash(ownScript), 0); got != withHash(publicScript) {
			t.Errorf("%s: got %s", coding, got)
		}
	}
}

// TestMemoryIsBounded: however many resources pages name, and whatever their URLs.
func TestMemoryIsBounded(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	hash := sha256Hash.of(nil)
	for i := range 20_000 {
		m.recomputed(fmt.Sprintf("example.cn/%d.js?", i), []textHash{hash})
		m.memory.learnInline("v", sha256Hash.of(fmt.Append(nil, i)), hash)
	}
	fetch(t, m, "https://example.com/", "text/html", `<script src="/`+strings.Repeat("a", 10_000)+`" integrity=`+hash.String()+`>`, 0)
	k := m.memory
	if k.resources.bytes > memoryBytes || k.inline.bytes > memoryBytes || len(k.resources.entries) != k.resources.order.Len() {
		t.Errorf("%d bytes of resources, %d of texts, %d and %d entries", k.resources.bytes, k.inline.bytes, len(k.resources.entries), k.resources.order.Len())
	}
	if n := k.watched.Load(); n != int64(len(k.resources.entries)) || n < 1000 {
		t.Errorf("%d watched of %d", n, len(k.resources.entries))
	}
	if _, ok := k.resources.get("example.cn/19999.js?"); !ok {
		t.Error("the last one is gone")
	}
	if _, ok := k.resources.get("example.cn/0.js?"); ok {
		t.Error("the first one is still there")
	}
}

// TestMemoryIsShared: pages and scripts at once (for the race detector).
func TestMemoryIsShared(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for j := range 50 {
				script := fmt.Sprint(ownScript, "//", j)
				fetch(t, m, "https://example.com/", "text/html", withHash(script), i)
				fetch(t, m, "https://example.com/a.js", "text/javascript", script, i)
				fetch(t, m, "https://example.com/", "text/html", "<script>"+script+"</script>", i, "Content-Security-Policy: '"+sha256Hash.of([]byte(script)).String()+"'")
			}
		})
	}
	all.Wait()
	if n := m.memory.watched.Load(); n < 0 || n > 1 {
		t.Errorf("%d watched", n)
	}
}

func TestParseHash(t *testing.T) {
	want := sha256Hash.of([]byte("x"))
	text := want.String()
	for _, same := range []string{text, strings.ToUpper(text[:6]) + text[6:], strings.TrimRight(text, "="), strings.NewReplacer("+", "-", "/", "_").Replace(text)} {
		if h, _, ok := parseHash(same); !ok || h != want {
			t.Errorf("%s is %v, %v", same, h, ok)
		}
	}
	for _, not := range []string{"", "sha256", "sha256-", "sha384" + text[6:], "sha1" + text[6:], text[:len(text)-4], text + "AAAA", "sha256-!" + text[8:]} {
		if h, _, ok := parseHash(not); ok {
			t.Errorf("%s is %v", not, h)
		}
	}
}
