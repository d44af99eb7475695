package e2e

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser is a Chromium with a fresh profile and what it did.
type browser struct {
	ctx   context.Context
	close func() // in peace, so that its folder can be removed; more than once is well

	mu       sync.Mutex          // guards the rest
	requests []string            // URLs
	failed   []string            // "status URL" and "error URL"
	errors   []string            // of the console
	told     map[string][]string // Cache-Status of what came over the network, by URL
	spoken   map[string][]string // URLs that came over each protocol
}

// startBrowser runs Chromium. It trusts the certificate in certFile, resolves
// names by rules (--host-resolver-rules), and ends with the test.
func startBrowser(t testing.TB, certFile, rules string) *browser {
	t.Helper()
	return startBrowserIn(t, "", certFile, rules)
}

// startBrowserIn is startBrowser in a place.
func startBrowserIn(t testing.TB, p place, certFile, rules string, more ...chromedp.ExecAllocatorOption) *browser {
	t.Helper()
	require(t, "chromium")
	folder, err := os.MkdirTemp("", "chromium-") // not t.TempDir: its sockets need a short path
	if err != nil {
		t.Fatal(err)
	}
	program := "chromium"
	if p != "" { // a program and no command is what the allocator wants
		program = writeFile(t, folder, "chromium-there", fmt.Sprintf("#!/bin/sh\nexec %s \"$@\"\n", strings.Join(inside(string(p), program), " ")))
		if err := os.Chmod(program, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(program),
		chromedp.NoSandbox,
		chromedp.Flag("disable-gpu", true),
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
		chromedp.Flag("ignore-certificate-errors-spki-list", keyHash(t, certFile)),
		chromedp.Flag("host-resolver-rules", rules),
		chromedp.Flag("no-proxy-server", true),
		chromedp.UserDataDir(filepath.Join(folder, "profile")),
		chromedp.Env("TMPDIR="+folder),
	)
	options = append(options, more...)
	b := &browser{}
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, closeTab := chromedp.NewContext(allocator, chromedp.WithListener(b.note))
	b.ctx = ctx
	b.close = sync.OnceFunc(func() {
		_ = chromedp.Cancel(ctx)
		closeTab()
		stop()
		os.RemoveAll(folder)
	})
	t.Cleanup(b.close)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start chromium: %v", err)
	}
	return b
}

// keyHash names a certificate's key for --ignore-certificate-errors-spki-list.
func keyHash(t testing.TB, certFile string) string {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(certFile, strings.TrimSuffix(certFile, ".pem")+".key")
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(pair.Leaf.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

// note keeps what the browser tells.
func (b *browser) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		b.requests = append(b.requests, e.Request.URL)
	case *network.EventResponseReceived:
		if status, ok := e.Response.Headers["cache-status"].(string); ok && !e.Response.FromDiskCache {
			if b.told == nil {
				b.told = map[string][]string{}
			}
			b.told[e.Response.URL] = append(b.told[e.Response.URL], status)
		}
		if b.spoken == nil {
			b.spoken = map[string][]string{}
		}
		b.spoken[e.Response.Protocol] = append(b.spoken[e.Response.Protocol], e.Response.URL)
		if s := e.Response.Status; s >= 400 {
			b.failed = append(b.failed, fmt.Sprint(s, " ", e.Response.URL))
		}
	case *network.EventLoadingFailed:
		if !e.Canceled {
			b.failed = append(b.failed, e.ErrorText)
		}
	case *runtime.EventExceptionThrown:
		b.errors = append(b.errors, fmt.Sprintf("%s %s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.URL, e.ExceptionDetails.Exception))
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError {
			b.errors = append(b.errors, string(e.Args[0].Value))
		}
	case *log.EventEntryAdded:
		if e.Entry.Level == log.EntryLevelError {
			b.errors = append(b.errors, e.Entry.Text+" "+e.Entry.URL)
		}
	}
}

// said is what the caches on the way said of a URL, each time that it was asked for.
func (b *browser) said(url string) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.told[url])
}

// hosts are the hosts that it asked, sorted.
func (b *browser) hosts() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var hosts []string
	for _, request := range b.requests {
		if u, err := url.Parse(request); err == nil && u.Host != "" {
			hosts = append(hosts, u.Host)
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// read gives what an action reads in the page.
func read[T any](t testing.TB, b *browser, what string, action chromedp.Action[T]) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 2*patience)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		t.Fatalf("%s: %v\nfailed: %q\nconsole: %q", what, err, b.failed, b.errors)
	}
	return value
}

// follow does what leads to another page, waits until that is loaded, and gives
// its address.
func (b *browser) follow(t testing.TB, what string, action chromedp.Action[chromedp.Void]) (address string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 2*patience)
	defer cancel()
	if _, err := chromedp.RunResponse(ctx, action); err != nil {
		t.Fatalf("%s: %v\nfailed: %q\nconsole: %q", what, err, b.failed, b.errors)
	}
	return read(t, b, what, chromedp.Location())
}

// walk opens start and then follows links to pages of the same host, each page
// once, until it has seen so many. It gives the paths.
func (b *browser) walk(t *testing.T, start string, pages int) []string {
	t.Helper()
	at := b.follow(t, start, chromedp.Navigate(start))
	home, err := url.Parse(at)
	if err != nil {
		t.Fatal(err)
	}
	visited := []string{home.Path}
	for len(visited) < pages {
		links := read(t, b, "read the links of "+at, chromedp.Evaluate[[]string](`Array.from(document.links, a => a.href)`))
		next := slices.IndexFunc(links, func(link string) bool {
			u, err := url.Parse(link)
			return err == nil && u.Host == home.Host && u.Scheme == home.Scheme && strings.HasSuffix(u.Path, ".html") && !slices.Contains(visited, u.Path)
		})
		if next < 0 {
			t.Fatalf("%s has no link to a page of %s that was not visited", at, home.Host)
		}
		at = b.follow(t, links[next], chromedp.Evaluate[chromedp.Void](fmt.Sprintf(`document.links[%d].click()`, next)))
		u, err := url.Parse(at)
		if err != nil || u.Host != home.Host {
			t.Fatalf("the link %s led to %s", links[next], at)
		}
		visited = append(visited, u.Path)
	}
	return visited
}

// pythonDocs is nginx with Debian's Python documentation as
// https://docs.python.org/3/, and with a base element on every page, so that
// each relative link is one to the origin host.
func pythonDocs(t *testing.T, ca *authority) (address, certFile string) {
	t.Helper()
	indexes, err := filepath.Glob("/usr/share/doc/python3.[0-9]*/html/index.html")
	if err != nil || len(indexes) == 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("python3-doc is not installed: make deps")
		}
		t.Skip("python3-doc is not installed: make deps")
	}
	tree := filepath.Dir(indexes[0]) + "/"
	address = freeAddress(t)
	certFile, key := ca.issue(t, "docs", "docs.python.org")
	startNginx(t, address, fmt.Sprintf(`server {
		listen %s ssl http2; server_name docs.python.org;
		ssl_certificate %s; ssl_certificate_key %s;
		gzip on; gzip_types *;
		location /3/ {
			alias %s;
			sub_filter '<head>' '<head><base href="https://docs.python.org$uri">';
		}
	}`, address, certFile, key, tree))
	return address, certFile
}

// TestBrowserWalksTheDocumentation: 20 pages of a real tree under the public
// name, as they are under their own.
func TestBrowserWalksTheDocumentation(t *testing.T) {
	const pages = 24
	ca := newAuthority(t)
	origin, originCert := pythonDocs(t, ca)
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, hosts: []string{"docs.python.cn"}, sites: fmt.Sprintf(`
  - name: docs
    hosts: {docs.python.cn: https://docs.python.org}
    origin: {connect: [%q], tls: {ca: CA}}
    tls: {cert: CERT, key: KEY}
`, origin)})

	direct := startBrowser(t, originCert, "MAP docs.python.org "+origin+", MAP * ~NOTFOUND")
	wanted := direct.walk(t, "https://docs.python.org/3/index.html", pages)

	through := startBrowser(t, filepath.Join(ca.dir, "site.pem"), "MAP docs.python.cn "+c.https+", MAP * ~NOTFOUND")
	visited := through.walk(t, "https://docs.python.cn/3/index.html", pages)
	t.Logf("%d pages, %d requests: %v", len(visited), len(through.requests), visited)

	if !slices.Equal(visited, wanted) {
		t.Errorf("the same links led to\n%v, and straight from the origin to\n%v", visited, wanted)
	}
	if hosts := through.hosts(); !slices.Equal(hosts, []string{"docs.python.cn"}) {
		t.Errorf("requests went to %v", hosts)
	}
	if len(through.failed) > 0 {
		t.Errorf("not answered well: %q", through.failed)
	}
	for _, complaint := range through.errors {
		if !slices.Contains(direct.errors, strings.ReplaceAll(complaint, "docs.python.cn", "docs.python.org")) {
			t.Errorf("the console has an error that the direct page does not have: %s", complaint)
		}
	}
	for _, straight := range direct.requests { // how often is the browser's to say, by what it has at hand in time
		if !slices.Contains(through.requests, strings.ReplaceAll(straight, "docs.python.org", "docs.python.cn")) {
			t.Errorf("nothing asked for %s, which was asked for straight", straight)
		}
	}
	for _, n := range c.nodes() {
		for _, r := range n.records(t) {
			if r.Status != 200 && r.Status != 304 || r.Kind != "" {
				t.Errorf("record %+v", r)
			}
		}
	}
}

// startDemo runs the demo and gives its folder and the shop's address.
func startDemo(t *testing.T, more ...string) (dir, shop string) {
	t.Helper()
	dir = t.TempDir()
	admin := freeAddress(t)
	demo := startNode(t, admin, append([]string{"demo", "--dir", dir, "--https", "127.0.0.1:0", "--http", "127.0.0.1:0", "--admin", admin, "--rtt", "20ms"}, more...)...)
	eventually(t, "the demo says what to open", func() bool {
		shop = regexp.MustCompile(`Open +(https://shop\.localhost:\d+)/`).FindStringSubmatch(demo.stdoutText() + "\nOpen https://shop.localhost:0/")[1]
		return !strings.HasSuffix(shop, ":0")
	})
	return dir, shop
}

// TestBrowserInTheDemo: what a page does besides being read works under the
// public names: API with CORS, WebSocket, events, a cookie of the whole domain,
// a login on another subdomain.
func TestBrowserInTheDemo(t *testing.T) {
	dir, shop := startDemo(t)
	b := startBrowser(t, filepath.Join(dir, "shop.pem"), "MAP *.com ~NOTFOUND")
	port := strings.TrimPrefix(shop, "https://shop.localhost")

	b.follow(t, "open the shop", chromedp.Navigate(shop+"/"))
	for id, want := range map[string]string{
		"api":    "ok: 12 teas from api.shop.localhost" + port,
		"ws":     "ok: echoed 你好",
		"sse":    " from shop.localhost" + port,
		"cookie": "ok: visit known to the API",
	} {
		b.waitText(t, "#"+id, want)
	}

	at := b.follow(t, "ask for the account", chromedp.Navigate(shop+"/account"))
	if !strings.HasPrefix(at, "https://login.shop.localhost"+port+"/?return=") || strings.Contains(at, "example.com") {
		t.Errorf("asked for the account and came to %s", at)
	}
	read(t, b, "fill the form", chromedp.SetValue(chromedp.CSS("input[name=name]"), "林"))
	if at := b.follow(t, "sign in", chromedp.Click(chromedp.CSS("form.login button"))); at != shop+"/account" {
		t.Errorf("signed in and came to %s", at)
	}
	b.waitText(t, "#user", "林")
	b.follow(t, "back to the shop", chromedp.Navigate(shop+"/"))
	b.waitText(t, "#cookie", "signed in as 林")

	b.follow(t, "look at a tea", chromedp.Navigate(shop+"/tea/longjing"))
	if at := b.follow(t, "buy it", chromedp.Click(chromedp.CSS("form.buy button"))); at != shop+"/cart" {
		t.Errorf("bought and came to %s", at)
	}
	b.waitText(t, "table", "Longjing")
	b.follow(t, "back to the account", chromedp.Navigate(shop+"/account"))
	if at := b.follow(t, "sign out", chromedp.Click(chromedp.CSS("form[action$=logout] button"))); at != shop+"/" {
		t.Errorf("signed out and came to %s", at)
	}
	b.waitText(t, "#cookie", "not signed in")

	for _, host := range b.hosts() {
		if !strings.HasSuffix(host, "shop.localhost"+port) {
			t.Errorf("a request went to %s", host)
		}
	}
	if len(b.failed) > 0 || len(b.errors) > 0 {
		t.Errorf("failed: %q\nconsole: %q", b.failed, b.errors)
	}
}

// waitText waits until an element holds a text.
func (b *browser) waitText(t *testing.T, selector, want string) {
	t.Helper()
	var text string
	for end := time.Now().Add(patience); !strings.Contains(text, want); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("%s says %q, want %q", selector, text, want)
			return
		}
		text = read(t, b, "read "+selector, chromedp.Text(chromedp.CSS(selector)))
	}
}
