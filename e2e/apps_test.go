package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/cdproto/network"
	cdppage "github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/storage"
	"github.com/chromedp/chromedp"
)

// shortDir is a folder for sockets, whose paths may have about a hundred bytes.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "app-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// asRoot are flags that only root needs.
func asRoot(flags ...string) []string {
	if os.Geteuid() == 0 {
		return flags
	}
	return nil
}

// startPHP runs PHP's FastCGI server with its settings and gives its socket.
func startPHP(t *testing.T, settings string) (socket string) {
	t.Helper()
	servers, err := filepath.Glob("/usr/sbin/php-fpm*")
	if err != nil || len(servers) == 0 {
		missing(t, "php-fpm")
	}
	dir := shortDir(t)
	socket = filepath.Join(dir, "php.sock")
	user := strings.Join(asRoot("user = root"), "\n")
	conf := writeFile(t, dir, "php.conf", fmt.Sprintf(`[global]
error_log = /dev/stderr
[app]
%s
listen = %s
pm = static
pm.max_children = 4
catch_workers_output = yes
%s
`, user, socket, settings))
	p := startProcess(t, servers[0], append(asRoot("--allow-to-run-as-root"), "--nodaemonize", "--fpm-config", conf)...)
	// Only in peace does it take its workers along.
	t.Cleanup(func() { _ = p.cmd.Process.Signal(syscall.SIGTERM); <-p.done })
	eventually(t, "PHP listens on "+socket, func() bool {
		if p.ended() {
			t.Fatalf("php-fpm ended:\n%s", p.stderrText())
		}
		_, err := os.Stat(socket)
		return err == nil
	})
	return socket
}

// startMariaDB runs a MariaDB with an empty database called name and gives its
// socket. Its user is root, without a password.
func startMariaDB(t *testing.T, name string) (socket string) {
	t.Helper()
	require(t, "mariadb-install-db", "mariadbd", "mariadb")
	dir := shortDir(t)
	data := filepath.Join(dir, "data")
	mustRun(t, "mariadb-install-db", append([]string{"--no-defaults", "--datadir=" + data, "--skip-test-db", "--auth-root-authentication-method=normal", "--skip-name-resolve"}, asRoot("--user=root")...)...)
	socket = filepath.Join(dir, "db.sock")
	p := startProcess(t, "mariadbd", append([]string{"--no-defaults", "--datadir=" + data, "--socket=" + socket, "--pid-file=" + filepath.Join(dir, "pid"),
		"--skip-networking", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=32M"}, asRoot("--user=root")...)...)
	eventually(t, "MariaDB takes a query", func() bool {
		if p.ended() {
			t.Fatalf("mariadbd ended:\n%s", p.stderrText())
		}
		return runProgram(t, "mariadb", "--no-defaults", "--socket="+socket, "-uroot", "-e", "CREATE DATABASE IF NOT EXISTS "+name).code == 0
	})
	return socket
}

// application is a real application as an origin: https://HOST.example.com.
type application struct {
	ca       *authority
	host     string // its first label
	address  string
	certFile string
}

// serveApplication runs nginx in front of it; locations are the text of its
// server block.
func serveApplication(t *testing.T, host, locations string) *application {
	t.Helper()
	a := &application{ca: newAuthority(t), host: host, address: freeAddress(t)}
	name := host + ".example.com"
	var key string
	a.certFile, key = a.ca.issue(t, host, name)
	startNginx(t, a.address, fmt.Sprintf(`
	gzip on; gzip_types *; gzip_vary on; client_max_body_size 32m;
	server {
		listen %s ssl http2; server_name %s;
		ssl_certificate %s; ssl_certificate_key %s;
		%s
	}`, a.address, name, a.certFile, key, locations))
	return a
}

// fastCGI is the nginx location that runs PHP.
func fastCGI(socket string) string {
	return fmt.Sprintf(`fastcgi_pass unix:%s; include /etc/nginx/fastcgi_params; fastcgi_param SCRIPT_FILENAME $document_root$fastcgi_script_name; fastcgi_buffers 64 16k; fastcgi_read_timeout 60s;`, socket)
}

// crossed is the application behind causeway, with what its site says of
// rewriting; certFile is for newVisit.
func (a *application) crossed(t *testing.T, l layout, rewrite string) (c *crossing, certFile string) {
	t.Helper()
	site := strings.Replace(siteOf(a.address), "CA", a.ca.file(), 1) + "    rewrite: " + rewrite + "\n"
	c = newCrossing(t, spec{layout: l, sites: site})
	return c, filepath.Join(c.ca.dir, "site.pem")
}

// filtered is the application behind nginx, with all that nginx has for it. The
// bare name is what finds most.
func (a *application) filtered(t *testing.T) (address, certFile string) {
	t.Helper()
	address = freeAddress(t)
	certFile, key := a.ca.issue(t, "filtered", a.host+".example.cn")
	startNginx(t, address, strings.NewReplacer("ADDRESS", address, "ORIGIN", a.address, "HOST", a.host, "CERT", certFile, "KEY", key, "CA", a.ca.file()).Replace(`
	client_max_body_size 32m;
	server {
		listen ADDRESS ssl http2; server_name HOST.example.cn;
		ssl_certificate CERT; ssl_certificate_key KEY;
		location / {
			proxy_pass https://ORIGIN;
			proxy_http_version 1.1;
			proxy_ssl_server_name on; proxy_ssl_name HOST.example.com;
			proxy_ssl_verify on; proxy_ssl_trusted_certificate CA;
			proxy_set_header Host HOST.example.com;
			proxy_set_header Accept-Encoding "";
			proxy_redirect https://HOST.example.com/ https://HOST.example.cn/;
			proxy_cookie_domain example.com example.cn;
			sub_filter HOST.example.com HOST.example.cn;
			sub_filter //example.com //example.cn;
			sub_filter //www.example.com //www.example.cn;
			sub_filter_once off; sub_filter_types *;
		}
	}`))
	return address, certFile
}

// visit is a person with a browser at an application.
type visit struct {
	*browser
	t      *testing.T
	base   string // https://blog.example.cn
	seen   *census
	steps  int
	broken []string                 // steps that did not work, and why
	took   map[string]time.Duration // by step
	like   *visit                   // where steps may not work: one where all do

	mu  sync.Mutex                   // guards the rest
	url map[network.RequestID]string // of the requests under way
}

// newVisit starts a browser for which base is at the address. Straight at the
// origin there are no names to count.
func newVisit(t *testing.T, base, address, certFile string) *visit {
	t.Helper()
	v := &visit{t: t, base: base, seen: newCensus("example.com"), took: map[string]time.Duration{}, url: map[network.RequestID]string{}}
	v.browser = startBrowser(t, certFile, "MAP "+strings.TrimPrefix(base, "https://")+" "+address+", MAP * ~NOTFOUND")
	if err := chromedp.Listen(v.ctx, v.inspect); err != nil {
		t.Fatalf("listen to chromium: %v", err)
	}
	if strings.HasSuffix(base, ".example.com") {
		return v
	}
	patterns := []*fetch.RequestPattern{{URLPattern: "http*", RequestStage: fetch.RequestStageResponse}}
	if _, err := chromedp.Call(v.ctx, fetch.Enable, fetch.EnableParams{Patterns: patterns}); err != nil {
		t.Fatalf("see the answers that chromium gets: %v", err)
	}
	return v
}

// inspect counts in each request, in the header of each answer as it came, and
// in each body before the page has it.
func (v *visit) inspect(event any) {
	switch e := event.(type) {
	case *network.EventRequestWillBeSent:
		v.seen.request(e.Request.URL)
		v.mu.Lock()
		v.url[e.RequestID] = e.Request.URL
		v.mu.Unlock()
	case *network.EventResponseReceivedExtraInfo:
		v.mu.Lock()
		defer v.mu.Unlock()
		for name, value := range e.Headers {
			v.seen.header(v.url[e.RequestID], name, fmt.Sprint(value))
		}
	case *fetch.EventRequestPaused:
		go v.paused(e)
	case *cdppage.EventJavascriptDialogOpening: // "Leave this page?"
		go func() {
			_, _ = chromedp.Call(v.ctx, cdppage.HandleJavaScriptDialog, cdppage.HandleJavaScriptDialogParams{Accept: true})
		}()
	}
}

// paused counts in the body of an answer and lets the page have it. A redirect
// has none, and that of a page that is gone is gone.
func (v *visit) paused(e *fetch.EventRequestPaused) {
	if e.ResponseErrorReason == "" && (e.ResponseStatusCode < 300 || e.ResponseStatusCode >= 400) {
		body, err := chromedp.Call(v.ctx, fetch.GetResponseBody, fetch.GetResponseBodyParams{RequestID: e.RequestID})
		if err == nil || !strings.Contains(err.Error(), "Invalid InterceptionId") {
			v.seen.body(e.Request.URL, body.Body, err)
		}
	}
	_, _ = chromedp.Call(v.ctx, fetch.ContinueRequest, fetch.ContinueRequestParams{RequestID: e.RequestID})
}

// step does what a person does on a page. What fails is kept in v.broken.
func (v *visit) step(name string, actions ...chromedp.Action[chromedp.Void]) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.ctx, v.bound(name))
	defer cancel()
	v.steps++
	began := time.Now()
	for i, action := range actions {
		if err := chromedp.Do(ctx, action); err != nil {
			v.broken = append(v.broken, fmt.Sprintf("%s, action %d, at %s: %v", name, i+1, v.where(), err))
			return
		}
	}
	html, err := chromedp.Run(ctx, chromedp.Evaluate[string](`document.documentElement.outerHTML`))
	v.seen.page(name, html, err)
	v.took[name] = time.Since(began)
}

// bound is how long a step may take. With a peer whose steps need not work it is
// twice what the step took straight at the origin, and more.
func (v *visit) bound(step string) time.Duration {
	if v.like == nil {
		return 2 * patience
	}
	return 2*v.like.took[step] + 5*time.Second
}

// where is the page's address and the beginning of what it says.
func (v *visit) where() string {
	ctx, cancel := context.WithTimeout(v.ctx, time.Second)
	defer cancel()
	at, err := chromedp.Run(ctx, chromedp.Evaluate[string](`location.href + ", which says: " + document.body.innerText.replace(/\s+/g, " ").slice(0, 300)`))
	if err != nil {
		return fmt.Sprintf("a page that does not answer (%v)", err)
	}
	return at
}

// cookies counts in what the browser keeps of them.
func (v *visit) cookies() {
	kept, err := chromedp.CallBrowser(v.ctx, storage.GetCookies, storage.GetCookiesParams{})
	if err != nil {
		v.t.Fatalf("read the cookies of chromium: %v", err)
	}
	for _, c := range kept.Cookies {
		v.seen.cookie(c.Name, c.Domain, c.Value)
	}
}

// open goes to a path of the application.
func (v *visit) open(path string) chromedp.Action[chromedp.Void] {
	return chromedp.Navigate(v.base + path)
}

// press clicks on an element once it is there and stays where it is: scripts
// that still put things on the page would move it away from under the mouse.
func press(selector string) chromedp.Action[chromedp.Void] {
	still := fmt.Sprintf(`(() => {
		const e = document.querySelector(%q), r = e && e.getBoundingClientRect(), at = r && [r.x, r.y, r.width, r.height].join();
		const before = window.causewayWasAt;
		window.causewayWasAt = at;
		return document.readyState == "complete" && at && at == before;
	})()`, selector)
	return chromedp.Steps(chromedp.WaitVisible(chromedp.CSS(selector)), holds(still), chromedp.Click(chromedp.CSS(selector)))
}

// write types into an element.
func write(selector, text string) chromedp.Action[chromedp.Void] {
	return chromedp.SendKeys(chromedp.CSS(selector), text)
}

// holds waits until an expression of JavaScript is true in the page, also after
// the page has gone to another one.
func holds(expression string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		var last error
		for {
			ok, err := chromedp.Evaluate[bool]("!!("+expression+")")(ctx, t)
			if err == nil && ok {
				return nil
			}
			if ctx.Err() == nil {
				last = err
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("never held: %s (%v)", expression, last)
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
}

// says waits until an element holds a text.
func says(selector, text string) chromedp.Action[chromedp.Void] {
	return holds(fmt.Sprintf("document.readyState == 'complete' && [...document.querySelectorAll(%q)].some(e => e.textContent.includes(%q))", selector, text))
}

// isAt waits until the page is this one.
func (v *visit) isAt(path string) chromedp.Action[chromedp.Void] {
	return holds(fmt.Sprintf("document.readyState == 'complete' && location.href.startsWith(%q)", v.base+path))
}

// evaluate runs JavaScript in the page.
func evaluate(script string) chromedp.Action[chromedp.Void] {
	return chromedp.Evaluate[chromedp.Void](script)
}

// answers fetches a path in the page, with its cookies, and waits for an answer
// with a status and a text in it.
func (v *visit) answers(path string, status int, text string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, t *chromedp.Target) error {
		got, err := chromedp.Evaluate[string](fmt.Sprintf(`fetch(%q).then(async r => r.status + " " + await r.text())`, path), chromedp.EvalAwaitPromise)(ctx, t)
		if err == nil && (!strings.HasPrefix(got, fmt.Sprint(status, " ")) || !strings.Contains(got, text)) {
			err = fmt.Errorf("GET %s: want %d with %q, got %.2000s", path, status, text, got)
		}
		return err
	})
}

// complaints are the errors of the console, without what differs from visit to
// visit.
func (v *visit) complaints() []string {
	v.browser.mu.Lock()
	defer v.browser.mu.Unlock()
	var all []string
	for _, text := range append(slices.Clone(v.errors), v.failed...) {
		text = strings.ReplaceAll(text, "example.cn", "example.com")
		all = append(all, numbers.ReplaceAllString(text, "N"))
	}
	slices.Sort(all)
	return slices.Compact(all)
}

var numbers = regexp.MustCompile(`\d+`)

// mail are the addresses of mail that were seen.
func (v *visit) mail() []string {
	found := mailAddress.FindAllString(strings.Join(v.seen.list(inMail), " "), -1)
	slices.Sort(found)
	return slices.Compact(found)
}

var mailAddress = regexp.MustCompile(`\w+@[\w.]+\w`)

// mustBeLike fails the test for all that is not as it is without a crossing.
func (v *visit) mustBeLike(direct *visit) {
	v.t.Helper()
	for _, broken := range v.broken {
		v.t.Errorf("does not work: %s", broken)
	}
	known := direct.complaints()
	for _, complaint := range v.complaints() {
		if !slices.Contains(known, complaint) {
			v.t.Errorf("the console has an error that it does not have straight at the origin: %s", complaint)
		}
	}
}
