package e2e

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// What the page's scripts and styles do: each leaves a word that shows that it ran.
const (
	ranScript = `document.documentElement.dataset.script = "https://example.com/s";`
	ranInline = `document.documentElement.dataset.inline = "https://example.com/i";`
	ranStyle  = `html { --style: "https://example.com/c"; }`
	ranClick  = `document.documentElement.dataset.click = 'https://example.com/k'`
)

func csp256(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

func sri384(text string) string {
	sum := sha512.Sum384([]byte(text))
	return "sha384-" + base64.StdEncoding.EncodeToString(sum[:])
}

// strictOrigin has a page with a policy by hashes, in the header or, as /meta, in the page, and a
// script with integrity metadata. All of them name the origin.
func strictOrigin(w http.ResponseWriter, r *http.Request) {
	policy := "default-src 'none'; img-src data:; script-src example.com 'unsafe-hashes' " + csp256(ranInline) + " " + csp256(ranClick) + "; style-src " + csp256(ranStyle)
	w.Header().Set("Cache-Control", "no-store")
	meta := ""
	switch r.URL.Path {
	case "/script.js":
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprint(w, ranScript)
		return
	case "/meta":
		meta = fmt.Sprintf(`<meta http-equiv="Content-Security-Policy" content="%s">`, policy)
	case "/header":
		w.Header().Set("Content-Security-Policy", policy)
	default:
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	fmt.Fprintf(w, `<!DOCTYPE html><html><head><base href="https://example.com/">%s<link rel=icon href="data:,"><title>Strict</title>
<style>%s</style>
<script src="script.js" integrity="%s" crossorigin="anonymous"></script>
<script>%s</script></head>
<body><button onclick="%s">Click</button></body></html>`, meta, ranStyle, sri384(ranScript), ranInline, ranClick)
}

// ranModule is the module that mapOrigin's import map leads to.
const ranModule = `document.documentElement.dataset.module = "https://example.com/m"`

// mapOrigin has a page whose import map says what its module hashes to, and whose policy what the
// import map does.
func mapOrigin(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Cache-Control", "no-store")
	switch r.URL.Path {
	case "/module.js":
		w.Header().Set("Content-Type", "text/javascript")
		fmt.Fprint(w, ranModule)
	case "/":
		importMap := fmt.Sprintf(`{"imports": {"m": "https://example.com/module.js"}, "integrity": {"https://example.com/module.js": "%s"}}`, sri384(ranModule))
		start := `import "m"`
		w.Header().Set("Content-Security-Policy", "default-src 'none'; img-src data:; script-src example.com "+csp256(importMap)+" "+csp256(start))
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, `<!DOCTYPE html><html><head><link rel=icon href="data:,"><script type="importmap">%s</script><script type="module">%s</script></head></html>`, importMap, start)
	default:
		http.NotFound(w, r)
	}
}

// TestBrowserWithImportMap: a module whose hash is in an import map runs, at first without that and
// then with the one it has under the public name.
func TestBrowserWithImportMap(t *testing.T) {
	ca := newAuthority(t)
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(newOrigin(t, ca, http.HandlerFunc(mapOrigin)))})
	b := startBrowser(t, filepath.Join(ca.dir, "site.pem"), "MAP example.cn "+c.https+", MAP * ~NOTFOUND")
	for round := range 3 {
		b.follow(t, "the page", chromedp.Navigate("https://example.cn/"))
		did := read(t, b, "what the page did", chromedp.Evaluate[map[string]string](`({...document.documentElement.dataset,
			integrity: Object.values(JSON.parse(document.querySelector("script").text).integrity).join()})`))
		want := map[string]string{"module": "https://example.cn/m", "integrity": ""}
		if round > 0 {
			want["integrity"] = sri384(strings.ReplaceAll(ranModule, "example.com", "example.cn"))
		}
		if fmt.Sprint(did) != fmt.Sprint(want) {
			t.Errorf("visit %d: got %v, want %v", round+1, did, want)
		}
	}
	if len(b.failed) > 0 || len(b.errors) > 0 {
		t.Errorf("failed: %q\nconsole: %q", b.failed, b.errors)
	}
}

// TestBrowserWithStrictPolicy: a page that says by hashes what may run runs under the public name,
// its script at first without a hash and then with the one it has there.
func TestBrowserWithStrictPolicy(t *testing.T) {
	ca := newAuthority(t)
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(newOrigin(t, ca, http.HandlerFunc(strictOrigin)))})
	b := startBrowser(t, filepath.Join(ca.dir, "site.pem"), "MAP example.cn "+c.https+", MAP * ~NOTFOUND")
	public := func(text string) string { return strings.ReplaceAll(text, "example.com", "example.cn") }
	for round, path := range []string{"/header", "/header", "/meta", "/meta"} {
		b.follow(t, path, chromedp.Navigate("https://example.cn"+path))
		read(t, b, "click", chromedp.Click(chromedp.CSS("button")))
		did := read(t, b, "what the page did", chromedp.Evaluate[map[string]string](`({...document.documentElement.dataset,
			style: getComputedStyle(document.documentElement).getPropertyValue("--style").trim(),
			integrity: document.querySelector("script[src]").integrity})`))
		want := map[string]string{
			"script": "https://example.cn/s", "inline": "https://example.cn/i", "click": "https://example.cn/k",
			"style": `"https://example.cn/c"`, "integrity": "",
		}
		if round > 0 {
			want["integrity"] = sri384(public(ranScript))
		}
		if fmt.Sprint(did) != fmt.Sprint(want) {
			t.Errorf("visit %d, %s: got %v, want %v", round+1, path, did, want)
		}
	}
	if len(b.failed) > 0 || len(b.errors) > 0 {
		t.Errorf("failed: %q\nconsole: %q", b.failed, b.errors)
	}
	if hosts := b.hosts(); fmt.Sprint(hosts) != "[example.cn]" {
		t.Errorf("requests went to %v", hosts)
	}
}
