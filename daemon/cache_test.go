package daemon_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"causeway/admin"
	"causeway/cert"
)

// A reload that turns the cache off, or gives it another folder, cuts nothing that
// is fetched at that moment; and the folder can be taken back meanwhile.
func TestReloadOfTheCacheCutsNothing(t *testing.T) {
	asked, finish := make(chan struct{}), make(chan struct{})
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		if r.URL.Path == "/late" {
			asked <- struct{}{}
			<-finish
		}
		fmt.Fprint(w, "begun, ")
		_ = http.NewResponseController(w).Flush()
		if r.URL.Path == "/slow" {
			asked <- struct{}{}
			<-finish
		}
		fmt.Fprint(w, "done")
	}))
	defer origin.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "causeway.yaml")
	address, adminAddress := freeAddress(t), freeAddress(t)
	with := func(cache string) {
		write(t, file, fmt.Sprintf(oneSite, address, adminAddress, origin.URL, "cache: "+cache))
	}
	a, b := "{disk: 16MiB, dir: "+dir+"/a}", "{disk: 16MiB, dir: "+dir+"/b}"
	with(a)
	n := start(t, file, "")
	get := client(t)
	answers := make(chan string, 2)
	for _, path := range []string{"/slow", "/late"} {
		go func() {
			_, body, err := get(address, "example.cn", path)
			answers <- fmt.Sprint(path, " ", body, " ", err)
		}()
		<-asked
	}
	for _, cache := range []string{"off", b, a} {
		with(cache)
		if err := n.Reload(); err != nil {
			t.Errorf("cache: %s: %v", cache, err)
		}
	}
	if _, body, err := get(address, "example.cn", "/other"); body != "begun, done" || err != nil {
		t.Errorf("another request meanwhile: %q %v", body, err)
	}
	close(finish)
	for range 2 {
		if got := <-answers; !strings.HasSuffix(got, " begun, done <nil>") {
			t.Errorf("the request under way got %q", got)
		}
	}
}

// What is kept is found by any URL that asks for it, by a list as by a purge.
func TestCacheByURL(t *testing.T) {
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "max-age=60")
		fmt.Fprint(w, "tea")
	}))
	defer origin.Close()
	file := filepath.Join(t.TempDir(), "causeway.yaml")
	address := freeAddress(t)
	text := fmt.Sprintf(oneSite, address, freeAddress(t), origin.URL, "")
	write(t, file, strings.Replace(text, "http: serve", "http: serve, cache: {query_ignore: ['utm_*']}", 1))
	n := start(t, file, "")
	if code, _, err := client(t)(address, "example.cn:80", "/tea?utm_source=a"); code != 200 || err != nil {
		t.Fatal(code, err)
	}
	of := admin.CacheMatch{URL: "http://example.cn/tea?utm_source=b"}
	kept, err := n.Cache(of, 10, false)
	for deadline := time.Now().Add(10 * time.Second); err == nil && len(kept.Objects) == 0 && time.Now().Before(deadline); { // it is kept in a moment
		kept, err = n.Cache(of, 10, false)
	}
	if err != nil || len(kept.Objects) != 1 || kept.Objects[0].URL != "http://example.cn/tea" {
		t.Errorf("listed %+v, %v", kept.Objects, err)
	}
	for _, strange := range []admin.CacheMatch{{URL: "https://example.test/tea"}, {Prefix: "https://example.test/"}, {Host: "example.test"}} {
		if _, err := n.Purge(admin.CachePurge{Match: []admin.CacheMatch{strange}}); err == nil || !strings.Contains(err.Error(), "example.test") {
			t.Errorf("%+v, of which no site is: %v", strange, err)
		}
	}
	if purged, err := n.Purge(admin.CachePurge{Match: []admin.CacheMatch{of}}); purged.Purged != 1 || err != nil {
		t.Errorf("purged %d, %v", purged.Purged, err)
	}
	// What was kept when another file had the query count is found as it is written.
	write(t, file, text)
	if err := n.Reload(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/tea?utm_source=b", "/tea"} {
		if code, _, err := client(t)(address, "example.cn:80", path); code != 200 || err != nil {
			t.Fatal(code, err)
		}
	}
	write(t, file, strings.Replace(text, "http: serve", "http: serve, cache: {query_ignore: ['utm_*']}", 1))
	if err := n.Reload(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(10 * time.Second); err == nil && len(kept.Objects) != 2 && time.Now().Before(deadline); {
		kept, err = n.Cache(of, 10, false)
	}
	if err != nil || len(kept.Objects) != 2 || kept.More != 0 {
		t.Errorf("listed %+v, %v", kept.Objects, err)
	}
	of.URL = "http://EXAMPLE.cn/tea?utm_source=b"
	if purged, err := n.Purge(admin.CachePurge{Match: []admin.CacheMatch{of}}); purged.Purged != 2 || err != nil {
		t.Errorf("purged %d of 2, %v", purged.Purged, err)
	}
}

// What an edge does not look up at all is not explained as if it did.
func TestExplainOfAScheme(t *testing.T) {
	dir := t.TempDir()
	authority, err := cert.OpenAuthority(filepath.Join(dir, "pki"), "test")
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Issue(dir, "other", []string{"other.cn", "none.cn"}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "causeway.yaml")
	write(t, file, fmt.Sprintf(`listen: {http: %q, https: %q}
sites:
  - {name: plain, hosts: {plain.cn: "http://origin.invalid"}, http: serve}
  - {name: other, hosts: {other.cn: "http://origin.invalid"}, tls: {cert: other.pem, key: other.key}}
  - {name: none, hosts: {none.cn: "http://origin.invalid"}, tls: {cert: other.pem, key: other.key}, http: off}
`, freeAddress(t), freeAddress(t)))
	n := start(t, file, "")
	for url, want := range map[string]string{
		"http://plain.cn/":  "GET is looked up",
		"https://plain.cn/": "the site is served on plain HTTP alone",
		"http://other.cn/":  "plain HTTP is sent on to https, and not looked up",
		"https://other.cn/": "GET is looked up",
		"http://none.cn/":   "plain HTTP is not served",
		"ftp://plain.cn/":   `explain: "ftp" is no scheme of a site`,

		"POST http://plain.cn/":    "POST http://plain.cn/ passes by the cache: only GET and HEAD are looked up",
		"CONNECT http://plain.cn/": "CONNECT is refused",
		"P(ST http://plain.cn/":    `explain: net/http: invalid method "P(ST"`,
	} {
		method, address, other := strings.Cut(url, " ")
		if !other {
			method, address = "GET", url
		}
		steps, err := n.Explain(t.Context(), admin.CacheQuestion{Method: method, URL: address})
		got := fmt.Sprint(err)
		if err == nil {
			got = steps[0].Says
		}
		if got != want {
			t.Errorf("%s: %q, not %q", url, got, want)
		}
	}
}

// A reload that gives the cache a folder that can't be made changes nothing.
func TestReloadOfTheCacheFails(t *testing.T) {
	origin := httptest.NewServer(http.NotFoundHandler())
	defer origin.Close()
	dir := t.TempDir()
	file := filepath.Join(dir, "causeway.yaml")
	address, adminAddress := freeAddress(t), freeAddress(t)
	with := func(cache string) {
		write(t, file, fmt.Sprintf(oneSite, address, adminAddress, origin.URL, "cache: "+cache))
	}
	with("{disk: 16MiB, dir: " + dir + "/a}")
	n := start(t, file, "")
	with("{disk: 16MiB, dir: " + file + "/b}")
	if err := n.Reload(); err == nil || !strings.Contains(err.Error(), "cache.dir: nothing can be kept in "+file+"/b: "+file+" is no folder") {
		t.Error(err)
	}
}
