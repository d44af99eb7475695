package demo

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// newVisitor runs a shop and returns a client for which all its hosts are on
// loopback; it follows no redirect, and has no cookies unless a jar is given.
func newVisitor(t *testing.T) *http.Client {
	t.Helper()
	server := httptest.NewTLSServer(NewShop())
	t.Cleanup(server.Close)
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
		},
		TLSClientConfig:    &tls.Config{InsecureSkipVerify: true}, // httptest's certificate is for example.com alone
		DisableCompression: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// do sends a request with header lines "Name: value" and reads the whole answer.
func do(t *testing.T, c *http.Client, method, address, body string, header ...string) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range header {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Set(name, value)
	}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(text)
}

func TestShopAnswers(t *testing.T) {
	c := newVisitor(t)
	const form = "Content-Type: application/x-www-form-urlencoded"
	for _, test := range []struct {
		method, address, body string
		header                []string
		status                int
		want                  string // "Name: value" of the answer, else part of the body
	}{
		{"GET", "https://example.com/", "", nil, 200, "Tea from the places"},
		{"HEAD", "https://example.com/", "", nil, 200, "Content-Type: text/html; charset=utf-8"},
		{"GET", "https://example.com/tea/longjing", "", nil, 200, `"url":"https:\/\/example.com\/tea\/longjing"`},
		{"GET", "https://example.com/tea/coffee", "", nil, 404, "no such page"},
		{"GET", "https://example.com/nowhere", "", nil, 404, "no such page"},
		{"GET", "https://example.com/sitemap.xml", "", nil, 200, "<loc>https://example.com/tea/jasmine</loc>"},
		{"GET", "https://example.org/", "", nil, 421, "no such host here"},
		{"GET", "https://evil.example.com/", "", nil, 421, "no such host here"},

		{"GET", "https://example.com/cart", "", nil, 200, "It is empty"},
		{"GET", "https://example.com/cart", "", []string{"Cookie: cart=longjing:2.keemun:1.nothing:3.longjing:9"}, 200, "$66"},
		{"POST", "https://example.com/cart", "tea=longjing&quantity=2", []string{form}, 303, "Location: https://example.com/cart"},
		{"POST", "https://example.com/cart", "tea=longjing&quantity=2", []string{form, "Cookie: cart=keemun:1.longjing:5"}, 303, "Set-Cookie: cart=keemun:1.longjing:2; Path=/; HttpOnly; Secure; SameSite=Lax"},
		{"POST", "https://example.com/cart", "tea=longjing&quantity=99", []string{form}, 400, "between 0 and 20"},
		{"POST", "https://example.com/cart", "tea=longjing&quantity=1", []string{form, "Origin: https://evil.test"}, 403, "another site"},
		{"POST", "https://example.com/cart", "tea=" + strings.Repeat("x", maxForm), []string{form}, 400, "cannot be read"},

		{"GET", "https://example.com/account", "", nil, 303, "Location: https://login.example.com/?return=https%3A%2F%2Fexample.com%2Faccount"},
		{"GET", "https://example.com/account", "", []string{"Cookie: session=bGlu.AAAA"}, 303, "Location: https://login.example.com/?return=https%3A%2F%2Fexample.com%2Faccount"},
		{"GET", "https://login.example.com/", "", nil, 200, `action="https://login.example.com/?return=https%3A%2F%2Fexample.com%2Faccount"`},
		{"GET", "https://login.example.com/?return=https%3A%2F%2Fexample.com%2Ftea%2Fkeemun", "", nil, 200, `?return=https%3A%2F%2Fexample.com%2Ftea%2Fkeemun"`},
		{"GET", "https://login.example.com/?return=https%3A%2F%2Fevil.test", "", nil, 400, "not of this shop"},
		{"POST", "https://login.example.com/", "name=lin&password=tea", []string{form}, 303, "Location: https://example.com/account"},
		{"POST", "https://login.example.com/?return=https%3A%2F%2Fexample.com%2Fcart", "name=lin&password=tea", []string{form}, 303, "Location: https://example.com/cart"},
		{"POST", "https://login.example.com/", "name=&password=tea", []string{form}, 422, "A name and a password"},
		{"POST", "https://login.example.com/", "name=lin&password=tea", []string{form, "Origin: https://evil.test"}, 403, "another site"},
		{"POST", "https://login.example.com/?return=//evil.test", "name=lin&password=tea", []string{form}, 400, "not of this shop"},
		{"POST", "https://example.com/logout", "", []string{form}, 303, "Set-Cookie: session=; Path=/; Domain=example.com; Max-Age=0; HttpOnly; Secure; SameSite=Lax"},

		{"GET", "https://api.example.com/v1/products", "", nil, 200, `https:\/\/example.com\/tea\/longjing`},
		{"GET", "https://api.example.com/v1/products", "", nil, 200, `Link: <https://api.example.com/v1/products?page=2>; rel="next", <https://example.com/>; rel="alternate"`},
		{"GET", "https://api.example.com/v1/products/keemun", "", nil, 200, "祁门红茶"},
		{"GET", "https://api.example.com/v1/products/coffee", "", nil, 404, "no such thing"},
		{"GET", "https://api.example.com/v1/products", "", []string{"Origin: https://example.com"}, 200, "Access-Control-Allow-Origin: https://example.com"},
		{"GET", "https://api.example.com/v1/products", "", []string{"Origin: https://example.com"}, 200, "Access-Control-Allow-Credentials: true"},
		{"GET", "https://api.example.com/v1/products", "", []string{"Origin: https://evil.test"}, 200, "Access-Control-Allow-Origin: "},
		{"OPTIONS", "https://api.example.com/v1/echo", "", []string{"Origin: https://example.com", "Access-Control-Request-Method: POST"}, 204, "Access-Control-Allow-Headers: Content-Type"},
		{"OPTIONS", "https://api.example.com/v1/echo", "", []string{"Origin: https://evil.test"}, 204, "Access-Control-Allow-Headers: "},
		{"POST", "https://api.example.com/v1/echo", `{"said": "http://"}`, []string{"Content-Type: application/json"}, 200, `{"said":"http:\/\/"}`},
		{"POST", "https://api.example.com/v1/echo", `{`, []string{"Content-Type: application/json"}, 400, "not JSON"},
		{"POST", "https://api.example.com/v1/echo", `{}`, nil, 415, `send application\/json`},
		{"GET", "https://api.example.com/v1/share?url=https%3A%2F%2Fexample.com%2Ftea%2Fkeemun", "", nil, 303, "Location: https://example.com/tea/keemun"},
		{"GET", "https://api.example.com/v1/share?url=https%3A%2F%2Fevil.test", "", nil, 400, "not of this shop"},
		{"GET", "https://api.example.com/v1/me", "", []string{"Cookie: visit=x", "X-Forwarded-For: 198.51.100.1"}, 200, `"for":"198.51.100.1"`},
		{"GET", "https://api.example.com/", "", nil, 404, "no such thing"},

		{"GET", "https://static.example.com/shop.css", "", nil, 200, "Content-Type: text/css; charset=utf-8"},
		{"GET", "https://static.example.com/shop.js", "", nil, 200, "Content-Type: text/javascript; charset=utf-8"},
		{"GET", "https://static.example.com/img/hero.png?d=2", "", nil, 200, "Content-Type: image/png"},
		{"GET", "https://static.example.com/img/none.png", "", nil, 404, "no such file"},
		{"GET", "https://static.example.com/doc.go", "", nil, 404, "no such file"},
		{"POST", "https://static.example.com/shop.css", "", nil, 405, "Allow: GET, HEAD"},

		{"GET", "https://example.com/live", "", nil, 403, "is not this shop"},
		{"GET", "https://example.com/live", "", []string{"Origin: https://example.com"}, 426, "WebSocket"},
		{"GET", "https://example.com/download/harvest-0mb.bin", "", nil, 404, "no such page"},
		{"GET", "https://example.com/download/harvest-01mb.bin", "", nil, 404, "no such page"},
		{"GET", "https://example.com/download/harvest-1mb.exe", "", nil, 404, "no such page"},
		{"PUT", "https://example.com/upload", "x", []string{"Origin: https://evil.test"}, 403, "own pages"},
	} {
		res, body := do(t, c, test.method, test.address, test.body, test.header...)
		if res.StatusCode != test.status {
			t.Errorf("%s %s: status %d, want %d", test.method, test.address, res.StatusCode, test.status)
		}
		name, value, isHeader := strings.Cut(test.want, ": ")
		if isHeader && textproto.CanonicalMIMEHeaderKey(name) == name && !strings.Contains(name, " ") && !strings.HasPrefix(name, "<") {
			if got := res.Header.Get(name); got != value {
				t.Errorf("%s %s: %s: %q, want %q", test.method, test.address, name, got, value)
			}
			continue
		}
		if !strings.Contains(body, test.want) {
			t.Errorf("%s %s: body lacks %q:\n%.400s", test.method, test.address, test.want, body)
		}
	}
}

// Everything the shop's pages are there to show is in them.
func TestHomeNamesItsHostsInEveryForm(t *testing.T) {
	c := newVisitor(t)
	res, body := do(t, c, "GET", "https://example.com/", "")
	for _, want := range []string{
		`href="https://example.com/tea/longjing"`,
		`src="//static.example.com/img/keemun.svg"`,
		`"live":"wss:\/\/example.com\/live"`,
		`"home":"https:\/\/example.com\/"`,
		`?return=https%3A%2F%2Fexample.com%2Faccount"`,
		`srcset="https://static.example.com/img/fujian.png?d=1 1x, //static.example.com/img/fujian.png?d=2 2x"`,
		`url("https://static.example.com/img/hero.png")`,
		`<link rel="preload" href="https://static.example.com/shop.css"`,
		`<link rel="canonical" href="https://example.com/">`,
		`<meta property="og:url" content="https://example.com/">`,
		`<link rel="preconnect" href="https://api.example.com"`,
		`id="api"`, `id="ws"`, `id="sse"`, `id="cookie"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("the page lacks %s", want)
		}
	}
	csp := res.Header.Get("Content-Security-Policy")
	for _, want := range []string{"connect-src 'self' https://api.example.com wss://example.com;", "script-src https://static.example.com;", "font-src static.example.com;"} {
		if !strings.Contains(csp, want) {
			t.Errorf("the policy lacks %q: %s", want, csp)
		}
	}
	if got := res.Header.Values("Set-Cookie"); len(got) != 1 || !strings.HasPrefix(got[0], "visit=") || !strings.HasSuffix(got[0], "; Path=/; Domain=example.com; Max-Age=86400; Secure; SameSite=Lax") {
		t.Errorf("Set-Cookie %q", got)
	}

	// Nothing but the shop's four hosts, and every file it names is there.
	names := regexp.MustCompile(`(?:https?:|wss:|src="|href=")//([a-z.]+)`)
	files := map[string]bool{}
	for _, found := range regexp.MustCompile(`//static\.example\.com(/[a-z/.]+)`).FindAllStringSubmatch(body, -1) {
		files[found[1]] = true
	}
	_, css := do(t, c, "GET", "https://static.example.com/shop.css", "")
	_, script := do(t, c, "GET", "https://static.example.com/status.js", "")
	for _, found := range names.FindAllStringSubmatch(body+css+script, -1) {
		switch found[1] {
		case "example.com", "login.example.com", "api.example.com", "static.example.com":
		default:
			t.Errorf("a foreign host: %s", found[0])
		}
	}
	if !strings.Contains(css, `url("https://static.example.com/img/paper.svg")`) {
		t.Error("the style sheet has no url()")
	}
	files["/img/paper.svg"] = true
	if len(files) != 24 {
		t.Errorf("the page has %d files, want 24: %v", len(files), files)
	}
	total := 0
	for file := range files {
		res, body := do(t, c, "GET", "https://static.example.com"+file, "")
		if res.StatusCode != http.StatusOK {
			t.Errorf("%s: status %d", file, res.StatusCode)
		}
		total += len(body)
	}
	if total < 300<<10 || total > 800<<10 {
		t.Errorf("the files have %d bytes", total)
	}
}

func TestEarlyHints(t *testing.T) {
	c := newVisitor(t)
	var hints []string
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			hints = append(hints, fmt.Sprint(code, header["Link"]))
			return nil
		},
	})
	r, err := http.NewRequestWithContext(ctx, "GET", "https://example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	want := "103 [<https://static.example.com/shop.css>; rel=preload; as=style <https://static.example.com/shop.js>; rel=preload; as=script]"
	if got := strings.Join(hints, "\n"); got != want {
		t.Errorf("hints %s, want %s", got, want)
	}
	if got := res.Header.Values("Link"); len(got) != 3 {
		t.Errorf("Link of the page: %q", got)
	}
}

func TestGzipAndTags(t *testing.T) {
	c := newVisitor(t)
	for _, address := range []string{"https://example.com/tea/keemun", "https://static.example.com/shop.css", "https://api.example.com/v1/products"} {
		plain, text := do(t, c, "GET", address, "")
		zipped, packed := do(t, c, "GET", address, "", "Accept-Encoding: br, GZIP;q=0.5")
		if got := zipped.Header.Get("Content-Encoding"); got != "gzip" {
			t.Fatalf("%s: Content-Encoding %q", address, got)
		}
		z, err := gzip.NewReader(strings.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		if unpacked, err := io.ReadAll(z); err != nil || string(unpacked) != text {
			t.Errorf("%s: gzip is of another text, %v", address, err)
		}
		if !strings.Contains(strings.Join(zipped.Header.Values("Vary"), ","), "Accept-Encoding") {
			t.Errorf("%s: Vary %q", address, zipped.Header.Values("Vary"))
		}
		if plain.Header.Get("ETag") == zipped.Header.Get("ETag") {
			t.Errorf("%s: one tag for two codings", address)
		}
		for coding, tag := range map[string]string{"identity": plain.Header.Get("ETag"), "gzip": zipped.Header.Get("ETag")} {
			same, body := do(t, c, "GET", address, "", "Accept-Encoding: "+coding, `If-None-Match: "other", W/`+tag)
			if same.StatusCode != http.StatusNotModified || body != "" || same.Header.Get("ETag") != tag {
				t.Errorf("%s %s: status %d, %d bytes, tag %s", address, coding, same.StatusCode, len(body), same.Header.Get("ETag"))
			}
		}
	}
	if res, _ := do(t, c, "GET", "https://example.com/", "", "Accept-Encoding: gzip;q=0"); res.Header.Get("Content-Encoding") != "" {
		t.Error("gzip for a client that refuses it")
	}
	if res, _ := do(t, c, "GET", "https://static.example.com/img/hero.png", "", "Accept-Encoding: gzip"); res.Header.Get("Content-Encoding") != "" {
		t.Error("a picture gzipped")
	}
}

func TestReturnStaysOnTheShop(t *testing.T) {
	for address, want := range map[string]bool{
		"https://example.com":                   true,
		"https://example.com/account?a=b":       true,
		"https://example.com/?u=https://evil":   true,
		"http://example.com/":                   false,
		"https://example.com.evil.test/":        false,
		"https://example.com@evil.test/":        false,
		"https://evil.test@example.com/":        false,
		"https://example.com:444/":              false,
		"https://login.example.com/":            false,
		"//evil.test/":                          false,
		"/account":                              false,
		"javascript:alert(1)":                   false,
		`https://example.com\@evil.test/`:       false,
		"https://example.com\r\nSet-Cookie: a=": false,
		"https:example.com":                     false,
		"":                                      false,
	} {
		if got := onHome(address); got != want {
			t.Errorf("onHome(%q) = %v", address, got)
		}
	}
}

// A visitor signs in on one host, is known on two others, and signs out.
func TestSession(t *testing.T) {
	c := newVisitor(t)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	c.Jar, c.CheckRedirect = jar, nil
	do(t, c, "GET", "https://example.com/", "")
	res, body := do(t, c, "GET", "https://example.com/account", "")
	if got := res.Request.URL.String(); got != "https://login.example.com/?return=https%3A%2F%2Fexample.com%2Faccount" {
		t.Fatalf("the account of nobody leads to %s", got)
	}
	action := regexp.MustCompile(`class="login" method="post" action="([^"]+)"`).FindStringSubmatch(body)
	if action == nil {
		t.Fatal("no form")
	}
	res, body = do(t, c, "POST", action[1], url.Values{"name": {"林 <Lin>"}, "password": {"tea"}}.Encode(),
		"Content-Type: application/x-www-form-urlencoded", "Origin: https://login.example.com")
	if got := res.Request.URL.String(); got != "https://example.com/account" || !strings.Contains(body, `<span id="user">林 &lt;Lin&gt;</span>`) {
		t.Errorf("signed in, at %s:\n%.900s", got, body)
	}
	var me struct {
		User  string
		Visit bool
	}
	_, body = do(t, c, "GET", "https://api.example.com/v1/me", "")
	if err := json.Unmarshal([]byte(body), &me); err != nil || me.User != "林 <Lin>" || !me.Visit {
		t.Errorf("the API sees %s, %v", body, err)
	}
	do(t, c, "POST", "https://example.com/logout", "")
	if _, body = do(t, c, "GET", "https://api.example.com/v1/me", ""); !strings.Contains(body, `"user":""`) {
		t.Errorf("signed out, the API sees %s", body)
	}

	// Another shop's signature is worth nothing.
	other := &shop{key: []byte("other")}
	if _, body := do(t, newVisitor(t), "GET", "https://api.example.com/v1/me", "", "Cookie: session="+other.session("lin")); !strings.Contains(body, `"user":""`) {
		t.Errorf("a forged session is %s", body)
	}
}

func TestLive(t *testing.T) {
	c := newVisitor(t)
	c.CheckRedirect = nil
	dial := func(origin string) (*websocket.Conn, *http.Response, error) {
		return websocket.Dial(t.Context(), "wss://example.com/live", &websocket.DialOptions{
			HTTPClient: c, HTTPHeader: http.Header{"Origin": {origin}},
		})
	}
	if _, res, err := dial("https://evil.test"); err == nil || res == nil || res.StatusCode != http.StatusForbidden {
		t.Errorf("a foreign origin: %v", err)
	}
	conn, _, err := dial("https://example.com")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if err := conn.Write(t.Context(), websocket.MessageText, []byte("你好")); err != nil {
		t.Fatal(err)
	}
	seen := ""
	for !strings.Contains(seen, "echo") || !strings.Contains(seen, "pours") {
		_, text, err := conn.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seen += string(text)
	}
	if !strings.Contains(seen, `{"echo":"你好"}`) || !strings.Contains(seen, `{"pours":1}`) {
		t.Errorf("messages %s", seen)
	}
	if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
}

func TestEvents(t *testing.T) {
	c := newVisitor(t)
	res, err := c.Get("https://example.com/events")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got := res.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type %q", got)
	}
	want := "id: 1\nevent: steam\ndata: " + `{"cup":1,"tea":"https:\/\/example.com\/tea\/biluochun"}` + "\n\n"
	got := make([]byte, len(want))
	if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != want { // the stream does not end
		t.Errorf("first event %q, %v", got, err)
	}
}

func TestDownload(t *testing.T) {
	c := newVisitor(t)
	for _, kind := range []string{"bin", "txt"} {
		address := "https://example.com/download/harvest-1mb." + kind
		res, whole := do(t, c, "GET", address, "")
		if len(whole) != 1<<20 || res.Header.Get("Content-Length") != strconv.Itoa(1<<20) {
			t.Fatalf("%s has %d bytes", address, len(whole))
		}
		for _, test := range []struct {
			spec, want string
		}{
			{"bytes=0-99", whole[:100]},
			{"bytes=1000-4321", whole[1000:4322]},
			{"bytes=-77", whole[1<<20-77:]},
		} {
			res, part := do(t, c, "GET", address, "", "Range: "+test.spec)
			if res.StatusCode != http.StatusPartialContent || part != test.want {
				t.Errorf("%s %s: status %d, %d bytes", address, test.spec, res.StatusCode, len(part))
			}
		}
		if res, _ := do(t, c, "GET", address, "", "If-None-Match: "+res.Header.Get("ETag")); res.StatusCode != http.StatusNotModified {
			t.Errorf("%s with its tag: status %d", address, res.StatusCode)
		}
		if res, _ := do(t, c, "GET", address, "", "Range: bytes=2000000-"); res.StatusCode != http.StatusRequestedRangeNotSatisfiable {
			t.Errorf("%s beyond its end: status %d", address, res.StatusCode)
		}
		if kind == "txt" && !strings.HasPrefix(whole, "000000000000 https://example.com/tea/longjing?harvest=0 ") {
			t.Errorf("text begins %.80q", whole)
		}
	}
	if res, _ := do(t, c, "HEAD", "https://example.com/download/harvest-5000mb.bin", ""); res.ContentLength != 5000<<20 {
		t.Errorf("5000 MB are %d bytes", res.ContentLength)
	}
}

func TestUpload(t *testing.T) {
	c := newVisitor(t)
	body := bytes.Repeat([]byte("leaf "), 1<<20)
	sum := sha256.Sum256(body)
	want := fmt.Sprintf(`{"bytes":%d,"sha256":"%s"}`+"\n", len(body), hex.EncodeToString(sum[:]))
	for _, method := range []string{"POST", "PUT"} {
		if _, got := do(t, c, method, "https://example.com/upload", string(body)); got != want {
			t.Errorf("%s: %s, want %s", method, got, want)
		}
	}
}
