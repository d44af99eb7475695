package e2e

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"

	"causeway/rewrite"
)

// What the rule `runtime` is for: https://shop.example.com is a page whose
// scripts know their host by parts only, so that no text of it names a URL. In
// the browser every host of the origin leads to a stranger, who notes who comes.

// heard are the requests that a server got, as "METHOD host/path".
type heard struct {
	mu   sync.Mutex // guards list
	list []string
}

func (h *heard) note(r *http.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.list = append(h.list, r.Method+" "+r.Host+r.URL.Path)
}

func (h *heard) all() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.list)
}

func (h *heard) has(request string) bool { return slices.Contains(h.all(), request) }

// stranger is whoever has the origin's names in the browser's world: it notes
// requests and answers nothing of use. It shows the crossing's certificate,
// which the browser takes.
func stranger(t *testing.T, ca *authority) (address string, h *heard) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(ca.dir, "site.pem"), filepath.Join(ca.dir, "site.key"))
	if err != nil {
		t.Fatal(err)
	}
	h = &heard{}
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			h.note(r)
			w.Header().Set("Access-Control-Allow-Origin", "*")
			http.Error(w, "stranger", http.StatusNotFound)
		}),
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{pair}},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.ServeTLS(ln, "", "") }()
	t.Cleanup(func() { server.Close(); <-done })
	return ln.Addr().String(), h
}

// runtimeShop is the origin.
func runtimeShop(h *heard) http.Handler {
	mux := http.NewServeMux()
	page := func(w http.ResponseWriter, head, body string) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		fmt.Fprintf(w, "<!doctype html>\n<html lang=en>\n<head>\n<meta charset=utf-8><title>shop</title>\n%s</head>\n<body>%s</body></html>\n", head, body)
	}
	const parts = `const host = ["shop", "example", "com"].join("."), base = "https://" + host;`
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		page(w, `<script>`+parts+`
			const text = (promise) => promise.then((answer) => answer.text());
			const early = text(fetch(base + "/early"));
			</script>`, `<a id=link>on</a><form id=form method=post><input name=tea value=longjing><button id=button>send</button></form>`)
	})
	for path, answer := range map[string]string{
		"early": "", "fetch": "", "request": "", "xhr": "", "beacon": "", "in-worker": "", "scheme": "",
		"worker.js":  `text/javascript self.onmessage = (e) => fetch(e.data).then((r) => r.text()).then(postMessage)`,
		"module.js":  `text/javascript export default "module"`,
		"script.js":  `text/javascript window.scripted = "script"`,
		"style.css":  `text/css :root { --styled: yes }`,
		"image.svg":  `image/svg+xml <svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>`,
		"set.svg":    `image/svg+xml <svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>`,
		"srcset.svg": `image/svg+xml <svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>`,
		"css.svg":    `image/svg+xml <svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>`,
		"html.svg":   `image/svg+xml <svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>`,
	} {
		kind, body, _ := strings.Cut(answer, " ")
		if answer == "" {
			kind, body = "text/plain", path
		}
		mux.HandleFunc("/"+path, text(kind, body))
	}
	mux.HandleFunc("/favicon.ico", text("image/png", ""))
	mux.HandleFunc("/post", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		page(w, "", "<p id=got>"+r.Method+" "+string(body)+" from "+strings.TrimPrefix(r.Header.Get("Origin"), "https://"))
	})
	mux.HandleFunc("/cors", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") == "https://shop.example.com" {
			w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
			w.Header().Set("Access-Control-Allow-Credentials", "true")
		}
		fmt.Fprint(w, "api")
	})
	mux.HandleFunc("/events", text("text/event-stream", "data: event\n\n"))
	mux.HandleFunc("/socket", func(w http.ResponseWriter, r *http.Request) {
		conn, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		_ = conn.Write(r.Context(), websocket.MessageText, []byte("socket"))
		conn.Close(websocket.StatusNormalClosure, "")
	})
	mux.HandleFunc("/landed", func(w http.ResponseWriter, r *http.Request) { page(w, "", "<p id=landed>"+r.URL.RawQuery) })
	mux.HandleFunc("/policy", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", r.FormValue("policy"))
		page(w, `<script nonce="bm9uY2U" src="/policy.js"></script>`, "")
	})
	mux.HandleFunc("/policy.js", text("text/javascript", parts+`const early = fetch(base + "/early").then((answer) => answer.text());`))
	mux.HandleFunc("/own.js", text("text/javascript", `
		oninstall = () => skipWaiting();
		onactivate = (e) => e.waitUntil(clients.claim());
		onfetch = (e) => e.respondWith(fetch(e.request));`))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.note(r)
		mux.ServeHTTP(w, r)
	})
}

// runtimeCase is what a script does with an address it has put together. do is
// an expression for what must come of it.
type runtimeCase struct {
	name, do, want string
	path           string // what is asked for, "" for nothing
	worker         bool   // the service worker is needed
}

const onceLoaded = `new Promise((done, failed) => { it.onload = () => done("loaded"); it.onerror = () => failed(new Error("not loaded")); %s })`

var runtimeCases = []runtimeCase{
	{name: "while the page loads", do: `early`, want: "early", path: "/early"},
	{name: "fetch", do: `text(fetch(base + "/fetch"))`, want: "fetch", path: "/fetch"},
	{name: "fetch without a scheme", do: `text(fetch("//" + host + "/scheme"))`, want: "scheme", path: "/scheme"},
	{name: "Request", do: `text(fetch(new Request(new URL("/request", base), {headers: {a: "b"}})))`, want: "request", path: "/request"},
	{name: "another subdomain", do: `text(fetch(base.replace("shop", "api") + "/cors", {credentials: "include"}))`, want: "api", path: "/cors"},
	{name: "XMLHttpRequest", do: `new Promise((done) => { const x = new XMLHttpRequest(); x.onloadend = () => done(x.responseText); x.open("GET", base + "/xhr"); x.send() })`, want: "xhr", path: "/xhr"},
	{name: "sendBeacon", do: `String(navigator.sendBeacon(base + "/beacon", "x"))`, want: "true", path: "/beacon"},
	{name: "WebSocket", do: `new Promise((done) => { const s = new WebSocket("wss://" + host + "/socket"); s.onmessage = (e) => done(e.data); s.onerror = () => done("failed") })`, want: "socket", path: "/socket"},
	{name: "EventSource", do: `new Promise((done) => { const s = new EventSource(base + "/events"); s.onmessage = (e) => { s.close(); done(e.data) }; s.onerror = () => done("failed") })`, want: "event", path: "/events"},
	{name: "img.src", do: `(() => { const it = new Image(); return ` + fmt.Sprintf(onceLoaded, `it.src = base + "/image.svg"`) + ` })()`, want: "loaded", path: "/image.svg"},
	{name: "img.setAttribute", do: `(() => { const it = new Image(); return ` + fmt.Sprintf(onceLoaded, `it.setAttribute("SRC", base + "/set.svg")`) + ` })()`, want: "loaded", path: "/set.svg"},
	{name: "img.srcset", do: `(() => { const it = new Image(); return ` + fmt.Sprintf(onceLoaded, "it.srcset = `${base}/srcset.svg 1x, ${base}/srcset.svg 2x`") + ` })()`, want: "loaded", path: "/srcset.svg"},
	{name: "script.src", do: `(() => { const it = document.createElement("script"); document.head.append(it); return ` + fmt.Sprintf(onceLoaded, `it.src = base + "/script.js"`) + `.then(() => scripted) })()`, want: "script", path: "/script.js"},
	{name: "link.href", do: `(() => { const it = document.createElement("link"); it.rel = "stylesheet"; document.head.append(it); return ` + fmt.Sprintf(onceLoaded, `it.href = base + "/style.css"`) + ` })()`, want: "loaded", path: "/style.css"},
	{name: "Worker", do: `new Promise((done) => { const w = new Worker(base + "/worker.js"); w.onmessage = (e) => { w.terminate(); done(e.data) }; w.postMessage("/in-worker") })`, want: "in-worker", path: "/worker.js"},
	{name: "pushState", do: `(history.pushState(null, "", base + "/pushed"), location.href)`, want: "https://shop.example.cn/pushed"},
	{name: "postMessage", do: `new Promise((done) => { onmessage = (e) => done(e.data); postMessage("message", base) })`, want: "message"},
	{name: "a frame", do: `(() => { const it = document.createElement("iframe"); document.body.append(it); return ` + fmt.Sprintf(onceLoaded, `it.src = base + "/landed?frame"`) + `.then(() => it.contentDocument.querySelector("#landed").textContent.trim()) })()`, want: "frame", path: "/landed"},
	{name: "a frame in a sandbox", do: `(() => { const it = document.createElement("iframe"); it.sandbox = "allow-scripts"; document.body.append(it); return ` + fmt.Sprintf(onceLoaded, `it.src = base + "/landed?sandbox"`) + ` })()`, want: "loaded"},
	{name: "a URL that is none", do: `(() => { try { new WebSocket("wss://" + host + ":x") } catch (e) { return e.name } })()`, want: "SyntaxError"},
	{name: "what natives say of themselves", do: `[fetch.name, XMLHttpRequest.prototype.open.length, /native code/.test(fetch), new Request("/").constructor === Request, new Image().constructor === HTMLImageElement].join()`, want: "fetch,2,true,true,true"},

	{name: "url() in CSS", do: `(document.body.style.background = "url(" + base + "/css.svg)", "set")`, want: "set", path: "/css.svg", worker: true},
	{name: "HTML as text", do: `(document.body.insertAdjacentHTML("beforeend", "<img src='" + base + "/html.svg'>"), "set")`, want: "set", path: "/html.svg", worker: true},
	{name: "import()", do: `import(base + "/module.js").then((m) => m.default)`, want: "module", path: "/module.js", worker: true},
	{name: "fetch in a worker", do: `new Promise((done) => { const w = new Worker("/worker.js"); w.onmessage = (e) => { w.terminate(); done(e.data) }; w.postMessage(base + "/fetch") })`, want: "fetch", path: "/fetch", worker: true},
}

// runtimeCrossing is a crossing of shop.example.cn with or without the rule, and
// a browser for which the origin's hosts are strange.
func runtimeCrossing(t *testing.T, rule string) (c *crossing, b *browser, origin, strange *heard) {
	t.Helper()
	ca := newAuthority(t)
	origin = &heard{}
	site := siteOf(newOrigin(t, ca, runtimeShop(origin))) + "    rewrite: {" + rule + "}\n"
	if rule == plainRuntime {
		site = strings.Replace(site, "tls: {cert: CERT, key: KEY}", "http: serve", 1)
	}
	c = newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: site})
	address, strange := stranger(t, ca)
	edge := c.https
	if rule == plainRuntime {
		edge = c.http
	}
	b = startBrowser(t, filepath.Join(ca.dir, "site.pem"), "MAP *.example.cn "+edge+", MAP *.example.com "+address+", MAP * ~NOTFOUND")
	return c, b, origin, strange
}

// plainRuntime is the rule of a site without TLS.
const plainRuntime = "runtime: true, bare: false"

// say evaluates an expression in the page and gives what it says, also when that
// is an error.
func (b *browser) say(t *testing.T, expression string) string {
	t.Helper()
	return read(t, b, expression, chromedp.Evaluate[string](`(async () => { try { return String(await Promise.race([(`+expression+
		`), new Promise((done) => setTimeout(done, 10000, "nothing for 10 s"))])) } catch (e) { return String(e) } })()`, chromedp.EvalAwaitPromise))
}

// controlled waits until a service worker controls the page, and gives its path.
func (b *browser) controlled(t *testing.T) string {
	t.Helper()
	return b.say(t, `(async () => { const c = navigator.serviceWorker; while (!c.controller) await new Promise((done) => setTimeout(done, 20)); return new URL(c.controller.scriptURL).pathname })()`)
}

// TestRuntime: whatever a script asks for by an address it has put together goes
// to the public host and works.
func TestRuntime(t *testing.T) {
	const home = "https://shop.example.cn/"
	_, b, origin, strange := runtimeCrossing(t, "runtime: true")
	b.follow(t, "open the shop", chromedp.Navigate(home))
	workers := false
	for _, c := range runtimeCases {
		if c.worker && !workers {
			workers = true
			if script := b.controlled(t); !strings.HasPrefix(script, "/.causeway/worker-") {
				t.Fatalf("the page is controlled by %s", script)
			}
		}
		if got := b.say(t, c.do); got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
		if c.path != "" {
			eventually(t, c.name+" came to the origin as "+c.path, func() bool {
				return slices.ContainsFunc(origin.all(), func(r string) bool { return strings.HasSuffix(r, ".example.com"+c.path) })
			})
		}
	}
	t.Run("navigations", func(t *testing.T) { runtimeNavigations(t, b, home) })
	if came := strange.all(); len(came) > 0 {
		t.Errorf("requests left for the origin's hosts: %q", came)
	}
	if len(b.failed) > 0 || len(b.errors) > 0 {
		t.Errorf("failed: %q\nconsole: %q", b.failed, b.errors)
	}
	for _, request := range origin.all() {
		if strings.Contains(request, "/.causeway/") {
			t.Errorf("the origin was asked for %s", request)
		}
	}
}

// TestRuntimeWithoutWorker: over plain http there is no service worker, and the
// origin's https becomes the site's http.
func TestRuntimeWithoutWorker(t *testing.T) {
	const home = "http://shop.example.cn/"
	_, b, origin, strange := runtimeCrossing(t, plainRuntime)
	b.follow(t, "open the shop", chromedp.Navigate(home))
	for _, c := range runtimeCases {
		if c.worker {
			continue
		}
		if got, want := b.say(t, c.do), strings.Replace(c.want, "https:", "http:", 1); got != want {
			t.Errorf("%s: %s, want %s", c.name, got, want)
		}
		if c.path != "" {
			eventually(t, c.name+" came to the origin as "+c.path, func() bool {
				return slices.ContainsFunc(origin.all(), func(r string) bool { return strings.HasSuffix(r, ".example.com"+c.path) })
			})
		}
	}
	t.Run("navigations", func(t *testing.T) { runtimeNavigations(t, b, home) })
	if came := strange.all(); len(came) > 0 {
		t.Errorf("requests left for the origin's hosts: %q", came)
	}
	if len(b.failed) > 0 || len(b.errors) > 0 {
		t.Errorf("failed: %q\nconsole: %q", b.failed, b.errors)
	}
}

// TestRuntimeMapsAsTheEngine: an address that a script puts together becomes
// what the same address in a page does.
func TestRuntimeMapsAsTheEngine(t *testing.T) {
	ca := newAuthority(t)
	certFile, _ := ca.issue(t, "site", "example.cn")
	b := startBrowser(t, certFile, "MAP * ~NOTFOUND")
	base := func(scheme, host, port string) rewrite.Base {
		return rewrite.Base{Scheme: scheme, Host: host, Port: port}
	}
	for i, pairs := range [][]rewrite.Pair{
		{
			{Public: base("https", "example.cn", ""), Origin: base("https", "example.com", "")},
			{Public: base("https", "*.example.cn", ""), Origin: base("https", "*.example.com", "")},
			{Public: base("https", "fonts.example.cn", ""), Origin: base("https", "fonts.googleapis.com", "")},
			{Public: base("https", "api.shop.example.cn", ""), Origin: base("https", "api.example.com", "8443")},
		},
		{
			{Public: base("https", "localhost", "8443"), Origin: base("https", "example.com", "")},
			{Public: base("https", "*.localhost", "8443"), Origin: base("https", "*.example.com", "")},
			{Public: base("https", "a.localhost", "9443"), Origin: base("http", "xn--bcher-kva.example", "3000")},
		},
		{
			{Public: base("http", "example.cn", ""), Origin: base("https", "example.com", "")},
			{Public: base("http", "*.shop.cn", "8080"), Origin: base("http", "*.shop.example.com", "")},
			{Public: base("https", "fonts.shop.cn", ""), Origin: base("https", "2001:db8::1", "")},
		},
	} {
		m, err := rewrite.NewMap(pairs)
		if err != nil {
			t.Fatal(err)
		}
		var urls, want []string
		for _, scheme := range []string{"https:", "http:", "wss:", "WS:", "", "ftp:", "data:"} {
			for _, host := range []string{
				"example.com", "EXAMPLE.com", "a.example.com", "a.b.example.com", "fonts.example.com", "api.example.com", "x.api.example.com",
				"shop.example.com", "x.shop.example.com", "fonts.shop.example.com", "fonts.googleapis.com", "xn--bcher-kva.example", "[2001:db8::1]",
				"example.com.evil.net", "notexample.com", "example.community", "me@example.com", "example.cn", "a.localhost", "localhost", "com", "example.com.",
			} {
				for _, port := range []string{"", ":443", ":80", ":8443", ":3000", ":9"} {
					if scheme == "" && (port == ":443" || port == ":80") {
						continue // whose default that is the page's scheme says, and in a text there is no page
					}
					for _, path := range []string{"", "/", "/a%20b?c=d#e", "?q", "#f"} {
						if strings.HasSuffix(host+port, ".") && !strings.HasPrefix(path, "/") && pairs[0].Public.Port != "" {
							continue // in a page that dot ends a sentence
						}
						url := scheme + "//" + host + port + path
						urls, want = append(urls, url), append(want, m.ToPublic().String(url))
					}
				}
			}
		}
		for _, other := range []string{"", "/a", "a//example.com", "https:example.com", "mailto:me@example.com", "about:blank", "https://"} {
			urls, want = append(urls, other), append(want, other)
		}
		req := newRequest(t, http.MethodGet, "https://example.cn/.causeway/runtime-aaaaaaaa.js", nil)
		script, err := io.ReadAll(m.Own(req, true).Body)
		if err != nil {
			t.Fatal(err)
		}
		b.follow(t, "an empty page", chromedp.Navigate("about:blank"))
		b.say(t, "eval("+inScript(t, string(script))+")")
		said := read(t, b, "map the addresses", chromedp.Evaluate[[]string](`(() => { const a = document.createElement("a"); return `+inScript(t, urls)+
			`.map((url) => { a.setAttribute("href", url); return a.getAttribute("href") }) })()`))
		if len(said) != len(want) {
			t.Fatalf("map %d: %d addresses, and %d came back", i, len(want), len(said))
		}
		for k := range said {
			if said[k] != want[k] {
				t.Errorf("map %d: %s becomes %s in the browser, and %s in a page", i, urls[k], said[k], want[k])
			}
		}
	}
}

// inScript is a text, or a list of them, as JavaScript has it.
func inScript(t *testing.T, value any) string {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// runtimeJumps are ways to another page.
var runtimeJumps = map[string]string{
	"a link made by a script":         `(link.href = base + "/landed?a", link.click())`,
	"a link in HTML":                  `(link.innerHTML = "<a href='" + base + "/landed?a'>x</a>", link.firstChild.click())`,
	"location.href":                   `location.href = base + "/landed?a"`,
	"location.assign":                 `location.assign(base + "/landed?a")`,
	"location.replace":                `location.replace(base + "/landed?a")`,
	"a form":                          `(form.method = "get", form.innerHTML = "<input name=a>", form.action = base + "/landed", form.requestSubmit())`,
	"form.submit":                     `(form.method = "get", form.innerHTML = "<input name=a>", form.setAttribute("action", base + "/landed"), form.submit())`,
	"a form in HTML":                  "(link.innerHTML = `<form action='${base}/landed'><input name=a></form>`, link.firstChild.submit())",
	"a button that has its own place": "(form.method = 'get', form.innerHTML = `<button name=a formaction='${base}/landed'>`, form.firstChild.click())",
	"window.open":                     `void open(base + "/landed?a", "_self")`,
}

// runtimeNavigations follows every way, and a form that is posted.
func runtimeNavigations(t *testing.T, b *browser, home string) {
	for name, do := range runtimeJumps {
		b.follow(t, "back home", chromedp.Navigate(home))
		if at := b.follow(t, name, chromedp.Evaluate[chromedp.Void](do)); strings.TrimSuffix(at, "=") != home+"landed?a" {
			t.Errorf("%s led to %s", name, at)
		}
	}
	b.follow(t, "back home", chromedp.Navigate(home))
	if at := b.follow(t, "post the form", chromedp.Evaluate[chromedp.Void](`(form.setAttribute("action", base + "/post"), button.click())`)); at != home+"post" {
		t.Errorf("posting led to %s", at)
	}
	b.waitText(t, "#got", "POST tea=longjing from shop.example.com")
}

// TestRuntimeOff: without the rule the same addresses lead to the origin's
// hosts, whatever the page is served as.
func TestRuntimeOff(t *testing.T) {
	const home = "https://shop.example.cn/"
	_, b, _, strange := runtimeCrossing(t, "")
	b.follow(t, "open the shop", chromedp.Navigate(home))
	for _, c := range runtimeCases {
		if c.path == "" || c.name == "Worker" { // a browser has no worker of another origin
			continue
		}
		got := b.say(t, c.do)
		if got == c.want && got != "set" && got != "true" {
			t.Errorf("%s: %s, and the rule is off", c.name, got)
		}
		eventually(t, c.name+" left for the origin's host", func() bool {
			return slices.ContainsFunc(strange.all(), func(r string) bool { return strings.HasSuffix(r, ".example.com"+c.path) })
		})
	}
	for name, do := range runtimeJumps {
		b.follow(t, "back home", chromedp.Navigate(home))
		if at := b.follow(t, name, chromedp.Evaluate[chromedp.Void](do)); strings.TrimSuffix(at, "=") != "https://shop.example.com/landed?a" {
			t.Errorf("%s led to %s, and the rule is off", name, at)
		}
	}
}

// TestRuntimePolicies: the script and its worker run under the policies that
// sites have, and on a page without scripts there is none.
func TestRuntimePolicies(t *testing.T) {
	_, b, _, strange := runtimeCrossing(t, "runtime: true")
	for _, policy := range []string{
		"",
		"script-src 'self'",
		"default-src 'self'; object-src 'none'",
		"default-src 'none'; script-src 'nonce-bm9uY2U'; connect-src https://shop.example.com",
		"script-src 'nonce-bm9uY2U' 'strict-dynamic'",
		"script-src 'nonce-bm9uY2U' 'strict-dynamic'; worker-src 'none'",
		"default-src 'none'; script-src https://shop.example.com/policy.js; connect-src *",
		"default-src *; script-src 'self', script-src 'nonce-bm9uY2U'; child-src 'none'",
		"script-src 'nonce-bm9uY2U'; require-trusted-types-for 'script'; trusted-types shop",
		"script-src 'sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=' 'strict-dynamic'",
	} {
		b.mu.Lock()
		b.errors = nil
		b.mu.Unlock()
		b.follow(t, policy, chromedp.Navigate("about:blank"))
		b.follow(t, policy, chromedp.Navigate("https://shop.example.cn/policy?policy="+strings.NewReplacer(";", "%3B", " ", "+", "*", "%2A", "'", "%27", "=", "%3D").Replace(policy)))
		if got := b.say(t, `Symbol.for("causeway.runtime") in window`); got != "true" {
			t.Errorf("%s: no script", policy)
		}
		if got := b.controlled(t); !strings.HasPrefix(got, "/.causeway/worker-") {
			t.Errorf("%s: no worker: %s", policy, got)
		}
		own := !strings.Contains(policy, "AAAA") // that page's own script is not let in at home either
		if got := b.say(t, `early`); (got == "early") != own {
			t.Errorf("%s: early is %s", policy, got)
		}
		if own && len(b.errors) > 0 {
			t.Errorf("%s: console: %q", policy, b.errors)
		}
		if got := b.say(t, `navigator.serviceWorker.getRegistrations().then((all) => Promise.all(all.map((r) => r.unregister())))`); got != "true" {
			t.Errorf("%s: unregister: %s", policy, got)
		}
	}
	b.follow(t, "a page without scripts", chromedp.Navigate("https://shop.example.cn/policy?policy=script-src+%27none%27"))
	if got := b.say(t, `document.scripts.length`); got != "1" {
		t.Errorf("a page without scripts has %s of them, its own and another", got)
	}
	if came := strange.all(); len(came) > 0 {
		t.Errorf("requests left for the origin's hosts: %q", came)
	}
}

// TestRuntimeBesideAnotherWorker: a site that has a service worker of its own
// keeps it, and its pages have the script all the same.
func TestRuntimeBesideAnotherWorker(t *testing.T) {
	const home = "https://shop.example.cn/"
	_, b, _, strange := runtimeCrossing(t, "runtime: true")
	b.follow(t, "open the shop", chromedp.Navigate(home))
	if script := b.controlled(t); !strings.HasPrefix(script, "/.causeway/worker-") {
		t.Fatalf("the page is controlled by %s", script)
	}
	b.say(t, `navigator.serviceWorker.register(base + "/own.js", {scope: base + "/"})`)
	eventually(t, "the site's own worker is in charge", func() bool { return b.controlled(t) == "/own.js" })
	for range 3 {
		b.follow(t, "open the shop again", chromedp.Navigate(home))
		if got := b.say(t, `early`); got != "early" {
			t.Errorf("early is %s", got)
		}
		if got := b.say(t, `navigator.serviceWorker.getRegistrations().then((all) => all.map((r) => new URL((r.waiting || r.installing || r.active).scriptURL).pathname))`); got != "/own.js" {
			t.Errorf("registered is %s", got)
		}
	}
	if came := strange.all(); len(came) > 0 {
		t.Errorf("requests left for the origin's hosts: %q", came)
	}
}

// TestRuntimeIsChanged: another map has another worker, and when the rule is
// turned off browsers that were there before lose theirs.
func TestRuntimeIsChanged(t *testing.T) {
	const home = "https://shop.example.cn/"
	c, b, _, strange := runtimeCrossing(t, "runtime: true")
	b.follow(t, "open the shop", chromedp.Navigate(home))
	first := b.controlled(t)
	if got := b.say(t, `fetch("/").then((r) => r.text()).then((text) => text.includes("/.causeway/"))`); got != "false" {
		t.Errorf("a page that a script fetched has the script too: %s", got)
	}
	change := func(from, to string) {
		c.write(t, strings.Replace(c.text(t), from, to, 1))
		for _, n := range c.nodes() {
			if !n.reload(t) {
				t.Fatal("the file was not taken")
			}
		}
	}
	change("hosts: {", "hosts: {cdn.example.cn: https://cdn.example.net, ")
	b.follow(t, "open the shop again", chromedp.Navigate(home))
	eventually(t, "the new worker is in charge", func() bool { return b.controlled(t) != first })
	if got := b.say(t, `new Request("https://cdn." + ["example", "net"].join(".") + "/a").url`); got != "https://cdn.example.cn/a" {
		t.Errorf("the new host becomes %s", got)
	}

	change("rewrite: {runtime: true}", "rewrite: {}")
	// A browser looks for a newer worker a second after a page was opened.
	eventually(t, "the worker has gone", func() bool {
		b.follow(t, "open the shop again", chromedp.Navigate(home))
		return b.say(t, `new Promise((done) => setTimeout(done, 3000)).then(() => navigator.serviceWorker.getRegistrations()).then((all) => all.length)`) == "0"
	})
	b.follow(t, "open the shop again", chromedp.Navigate(home))
	if got := b.say(t, `navigator.serviceWorker.controller`); got != "null" {
		t.Errorf("the page is controlled by %s", got)
	}
	if got := b.say(t, `Symbol.for("causeway.runtime") in window`); got != "false" {
		t.Error("the page has the script")
	}
	b.say(t, `fetch(base + "/fetch")`)
	if !strange.has("GET shop.example.com/fetch") {
		t.Errorf("the rule is off and does still map: the origin's hosts got %q", strange.all())
	}
}
