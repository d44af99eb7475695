package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	cdpage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
)

// pageOrigin is an origin of two pages and what belongs to them. It notes who asks,
// as "path", or "path if" for a request with a condition.
type pageOrigin struct {
	mu    sync.Mutex // guards asked
	asked []string
}

// life is what it says of each path, whose tag is its path.
var life = map[string]string{
	"/one": "max-age=600", "/two": "max-age=600", "/style.css": "max-age=600", "/app.js": "max-age=31536000, immutable", "/logo.svg": "max-age=600",
}

func (o *pageOrigin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, kind := "", ""
	switch path := r.URL.Path; path {
	case "/one", "/two":
		body, kind = fmt.Sprintf(`<!doctype html><title>%s</title><link rel=stylesheet href=/style.css><link rel=icon href=data:,><script src=/app.js></script><img src=/logo.svg><p id=which>%s`, path, path), "text/html; charset=utf-8"
	case "/style.css":
		body, kind = "p{color:green}", "text/css"
	case "/app.js":
		body, kind = "window.loaded = true", "text/javascript"
	case "/logo.svg":
		body, kind = `<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>`, "image/svg+xml"
	default:
		http.NotFound(w, r)
		return
	}
	tag := `"` + r.URL.Path[1:] + `"`
	what := r.URL.Path
	if r.Header.Get("If-None-Match") != "" {
		what += " if"
	}
	o.mu.Lock()
	o.asked = append(o.asked, what)
	o.mu.Unlock()
	w.Header().Set("Cache-Control", life[r.URL.Path])
	w.Header().Set("Etag", tag)
	if strings.Contains(r.Header.Get("If-None-Match"), tag) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	w.Header().Set("Content-Type", kind)
	_, _ = io.WriteString(w, body)
}

// take is what was asked for since the last time, sorted.
func (o *pageOrigin) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	asked := slices.Sorted(slices.Values(o.asked))
	o.asked = nil
	return asked
}

// TestCacheAndBrowser: what Chromium asks for when a visitor opens, reloads, goes back
// and forward, and what of that reaches the edge and the origin: its own cache first,
// the edge's next. A reload has the page validated at the origin, whatever the edge
// keeps; back and forward ask for nothing.
func TestCacheAndBrowser(t *testing.T) {
	ca := newAuthority(t)
	o := &pageOrigin{}
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(newOrigin(t, ca, o))})
	seen := 0
	// reached are the requests that reached the edge since the last time, each with
	// its status and what the cache did: "path 200 hit".
	reached := func() (all []string) {
		t.Helper()
		time.Sleep(300 * time.Millisecond) // what still comes, and the lines of the log
		records := c.edge.records(t)
		for _, r := range records[seen:] {
			all = append(all, fmt.Sprintf("%s %d %s", r.Path, r.Status, r.Cache))
		}
		seen = len(records)
		slices.Sort(all)
		return all
	}
	expect := func(what string, edge, origin []string) {
		t.Helper()
		if got := reached(); !slices.Equal(got, edge) {
			t.Errorf("%s: the edge was asked for\n%q, want\n%q", what, got, edge)
		}
		if got := o.take(); !slices.Equal(got, origin) {
			t.Errorf("%s: the origin was asked for\n%q, want\n%q", what, got, origin)
		}
	}
	open := func() *browser {
		return startBrowser(t, filepath.Join(ca.dir, "site.pem"), "MAP example.cn "+c.https+", MAP * ~NOTFOUND")
	}
	const site = "https://example.cn"
	b := open()
	b.follow(t, "open", chromedp.Navigate(site+"/one"))
	expect("the first visit", []string{"/app.js 200 miss", "/logo.svg 200 miss", "/one 200 miss", "/style.css 200 miss"}, []string{"/app.js", "/logo.svg", "/one", "/style.css"})
	b.follow(t, "open the other", chromedp.Navigate(site+"/two"))
	expect("a page with the same assets", []string{"/two 200 miss"}, []string{"/two"})

	for _, step := range []string{"back", "forward"} {
		want := map[string]string{"back": "/one", "forward": "/two"}[step]
		read(t, b, step, chromedp.Evaluate[chromedp.Void](`setTimeout(() => history.`+step+`(), 0)`))
		eventually(t, "the browser went "+step, func() bool {
			ctx, cancel := context.WithTimeout(b.ctx, patience)
			defer cancel()
			at, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.readyState == "complete" && document.querySelector("#which")?.textContent || ""`))
			return err == nil && at == want // an error is one of a page that is being left
		})
		expect(step, nil, nil)
	}

	time.Sleep(1100 * time.Millisecond) // what is older than 0 s is too old for max-age=0
	b.follow(t, "reload", chromedp.Reload())
	expect("a reload", []string{"/two 304 revalidated"}, []string{"/two if"})

	b.follow(t, "reload without the browser's cache", chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, cdpage.Reload, cdpage.ReloadParams{IgnoreCache: new(true)})
		return err
	}))
	expect("a reload without the browser's cache", []string{"/app.js 200 revalidated", "/logo.svg 200 revalidated", "/style.css 200 revalidated", "/two 200 revalidated"},
		[]string{"/app.js if", "/logo.svg if", "/style.css if", "/two if"})

	other := open()
	other.follow(t, "open", chromedp.Navigate(site+"/one"))
	expect("another visitor", []string{"/app.js 200 hit", "/logo.svg 200 hit", "/one 200 hit", "/style.css 200 hit"}, nil)
	for path := range life {
		said := other.said(site + path)
		if path == "/two" {
			continue
		}
		if len(said) != 1 || !strings.HasPrefix(said[0], "causeway; hit; ttl=") {
			t.Errorf("%s: the browser was told %q", path, said)
		}
	}

	mustRun(t, binary, "purge", site+"/one", "--admin", c.edge.admin)
	other.follow(t, "open the other", chromedp.Navigate(site+"/two"))
	expect("after a purge, another page", []string{"/two 200 hit"}, nil)
	other.follow(t, "back to the one", chromedp.Navigate(site+"/one"))
	expect("after a purge, from the browser's own cache", nil, nil) // no purge reaches it: the origin's max-age does
	third := open()
	third.follow(t, "open", chromedp.Navigate(site+"/one"))
	expect("after a purge, another visitor", []string{"/app.js 200 hit", "/logo.svg 200 hit", "/one 200 miss", "/style.css 200 hit"}, []string{"/one"})
	for _, b := range []*browser{b, other, third} {
		if len(b.failed) > 0 || len(b.errors) > 0 {
			t.Errorf("failed: %q\nconsole: %q", b.failed, b.errors)
		}
	}
}
