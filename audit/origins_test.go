package audit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"causeway/config"
	"causeway/outcome"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fakeRelay answers for the origins.
type fakeRelay func(*http.Request) (*http.Response, error)

func (f fakeRelay) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// says answers each host with a response as text; the header's end may be left out.
func says(t *testing.T, answers map[string]string) fakeRelay {
	t.Helper()
	return func(req *http.Request) (*http.Response, error) {
		answer, known := answers[req.Host]
		if !known {
			answer = "HTTP/1.1 200 OK"
		}
		text := strings.ReplaceAll(strings.TrimSpace(answer), "\n", "\r\n") + "\r\n\r\n"
		return http.ReadResponse(bufio.NewReader(strings.NewReader(text)), req)
	}
}

// file parses a causeway.yaml; what is not about sites may be left out.
func file(t *testing.T, text string) *config.Config {
	t.Helper()
	cfg, err := config.Parse("causeway.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// shop is a site with TLS, another without, and wildcards.
const shop = `
sites:
  - name: shop
    hosts:
      example.cn: https://example.com
      www.example.cn: https://www.example.com
      "*.img.example.cn": https://*.img.example.com
    tls: {cert: a.pem, key: a.key}
  - name: old
    hosts: {old.example.cn: http://old.example.com}
    http: serve
`

// wide publishes all that is below example.cn over TLS, and plain HTTP too.
const wide = `
sites:
  - name: wide
    hosts: {example.cn: https://example.com, "*.example.cn": https://*.example.com}
    tls: {cert: a.pem, key: a.key}
    http: serve
`

// only is one host over TLS: %s.
const only = `
sites:
  - name: only
    hosts: {%q: %q}
    tls: {cert: a.pem, key: a.key}
`

func TestAnswers(t *testing.T) {
	const below = "https://example.cn: note: the origin's Strict-Transport-Security says %s, which is left out: here it would bind every host below example.cn, in this file or not (RFC 6797 section 6.1.2); its max-age is passed on; write tls: {hsts: {max_age: 8760h, include_subdomains: true}}, if every host below example.cn has TLS"
	const serve = "https://example.cn: note: the origin's Strict-Transport-Security is left out: browsers would refuse plain HTTP, and the site has http: serve; write http: redirect, if browsers are to keep to https"
	const clears = "%s: warning: Clear-Site-Data: %s clears the cookies of all of example.cn at each visit, those of its other hosts too (https://www.w3.org/TR/clear-site-data/); name other kinds at the origin, \"storage\" or \"cache\", or send it only where visitors sign out"
	const leaves = "https://example.cn: warning: GET / redirects to %s, which is no public host of the file: visitors leave for it; write it into hosts with a public host of its own, if visitors are to stay"
	const circle = "https://example.cn: warning: GET / redirects to itself: visitors go round in a circle; "
	for _, c := range []struct {
		what, file, host, answer string
		want                     []string // beside the notes on wildcards
	}{
		{"nothing to say", shop, "example.cn", "HTTP/1.1 200 OK", nil},
		{"not found is an answer", shop, "example.cn", "HTTP/1.1 404 Not Found", nil},
		{"a server's error", shop, "example.cn", "HTTP/1.1 503 Service Unavailable",
			[]string{"https://example.cn: error: status: the origin answers GET / with 503 Service Unavailable; look into the origin's log"}},
		{"a status without a name", shop, "example.cn", "HTTP/1.1 599 Whatever",
			[]string{"https://example.cn: error: status: the origin answers GET / with 599; look into the origin's log"}},

		{"the host alone", shop, "example.cn", "HTTP/1.1 200 OK\nStrict-Transport-Security: max-age=31536000", nil},
		{"hosts below", shop, "example.cn", "HTTP/1.1 200 OK\nStrict-Transport-Security: max-age=31536000; includeSubDomains",
			[]string{fmt.Sprintf(below, "includeSubDomains")}},
		{"in other letters", shop, "example.cn", "HTTP/1.1 200 OK\nstrict-transport-security: INCLUDESUBDOMAINS ; Max-Age=\"300\";",
			[]string{fmt.Sprintf(below, "includeSubDomains")}},
		{"preload", shop, "example.cn", "HTTP/1.1 200 OK\nStrict-Transport-Security: max-age=63072000; includeSubDomains; preload",
			[]string{fmt.Sprintf(below, "includeSubDomains and preload")}},
		{"preload alone", shop, "example.cn", "HTTP/1.1 200 OK\nStrict-Transport-Security: max-age=63072000; preload",
			[]string{fmt.Sprintf(below, "preload")}},
		{"the file has its own", strings.Replace(shop, "tls: {cert: a.pem, key: a.key", "tls: {cert: a.pem, key: a.key, hsts: {max_age: 1h}", 1), "example.cn", "HTTP/1.1 200 OK\nStrict-Transport-Security: max-age=63072000; includeSubDomains", nil},
		{"the first field counts", shop, "example.cn", "HTTP/1.1 200 OK\nStrict-Transport-Security: max-age=1\nStrict-Transport-Security: max-age=1; includeSubDomains", nil},
		{"it takes the policy back", shop, "example.cn", "HTTP/1.1 200 OK\nStrict-Transport-Security: max-age=0; includeSubDomains", nil},
		{"no age", shop, "example.cn", "HTTP/1.1 200 OK\nStrict-Transport-Security: includeSubDomains", nil},
		{"no number", shop, "example.cn", "HTTP/1.1 200 OK\nStrict-Transport-Security: max-age=-1; includeSubDomains", nil},
		{"twice", shop, "example.cn", "HTTP/1.1 200 OK\nStrict-Transport-Security: max-age=1; includeSubDomains; max-age=2", nil},
		{"over plain HTTP", shop, "old.example.cn", "HTTP/1.1 200 OK\nStrict-Transport-Security: max-age=1; includeSubDomains\nClear-Site-Data: \"*\"", nil},
		{"an address has no policy", fmt.Sprintf(only, "192.0.2.7", "https://example.com"), "192.0.2.7", "HTTP/1.1 200 OK\nStrict-Transport-Security: max-age=1; includeSubDomains\nClear-Site-Data: \"*\"", nil},
		{"plain HTTP is served", wide, "example.cn", "HTTP/1.1 200 OK\nStrict-Transport-Security: max-age=172800; includeSubDomains",
			[]string{serve}},
		{"longer than a browser counts", shop, "example.cn", "HTTP/1.1 200 OK\nStrict-Transport-Security: max-age=99999999999999999999; includeSubDomains",
			[]string{fmt.Sprintf(below, "includeSubDomains")}},

		{"cookies", shop, "www.example.cn", "HTTP/1.1 200 OK\nClear-Site-Data: \"cache\",\"cookies\"", []string{fmt.Sprintf(clears, "https://www.example.cn", `"cookies"`)}},
		{"everything", shop, "example.cn", "HTTP/1.1 200 OK\nClear-Site-Data: \"cache\"\nClear-Site-Data: \"*\"", []string{fmt.Sprintf(clears, "https://example.cn", `"*"`)}},
		{"what is the origin's own", shop, "example.cn", "HTTP/1.1 200 OK\nClear-Site-Data: \"cache\", \"storage\"", nil},
		{"without quotes", shop, "example.cn", "HTTP/1.1 200 OK\nClear-Site-Data: cookies, *", nil},
		{"no other host", fmt.Sprintf(only, "localhost:8443", "https://example.com"), "localhost:8443", "HTTP/1.1 200 OK\nClear-Site-Data: \"*\"", nil},

		{"to a path", shop, "example.cn", "HTTP/1.1 302 Found\nLocation: /zh/", nil},
		{"to a host of the file", shop, "example.cn", "HTTP/1.1 301 Moved Permanently\nLocation: https://www.example.cn/", nil},
		{"to a host below a wildcard", shop, "example.cn", "HTTP/1.1 301 Moved Permanently\nLocation: //a.b.img.example.cn/x", nil},
		{"away", shop, "example.cn", "HTTP/1.1 302 Found\nLocation: https://shop.example.org/in?token=1", []string{fmt.Sprintf(leaves, "https://shop.example.org")}},
		{"away, to the scheme of here", shop, "example.cn", "HTTP/1.1 307 Temporary Redirect\nLocation: //example.org", []string{fmt.Sprintf(leaves, "https://example.org")}},
		{"to a port that is not mapped", shop, "example.cn", "HTTP/1.1 308 Permanent Redirect\nLocation: https://example.com:8443/", []string{fmt.Sprintf(leaves, "https://example.com:8443")}},
		{"no redirect", shop, "example.cn", "HTTP/1.1 200 OK\nLocation: https://example.org/", nil},
		{"into an app", shop, "example.cn", "HTTP/1.1 302 Found\nLocation: weixin:open", nil},
		{"no URL", shop, "example.cn", "HTTP/1.1 302 Found\nLocation: https://exa mple/%", nil},
		{"to itself", shop, "example.cn", "HTTP/1.1 302 Found\nLocation: https://example.cn#top", []string{circle + "see by what the origin redirects"}},
		{"to itself, from plain HTTP", fmt.Sprintf(only, "example.cn", "http://example.com"), "example.cn", "HTTP/1.1 301 Moved Permanently\nLocation: https://example.cn/",
			[]string{circle + "write https://example.com in hosts, when the origin sends plain HTTP to HTTPS"}},

		{"several at once", shop, "example.cn", "HTTP/1.1 500 Internal Server Error\nClear-Site-Data: \"*\"",
			[]string{"https://example.cn: error: status: the origin answers GET / with 500 Internal Server Error; look into the origin's log", fmt.Sprintf(clears, "https://example.cn", `"*"`)}},
	} {
		t.Run(c.what, func(t *testing.T) {
			report, err := origins(t.Context(), file(t, c.file), says(t, map[string]string{c.host: c.answer}), Options{Timeout: time.Minute})
			if err != nil {
				t.Fatal(err)
			}
			if got := withoutNotes(report); !slices.Equal(got, c.want) {
				t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(c.want, "\n"))
			}
		})
	}
}

// withoutNotes are the lines of a report but for what was not asked.
func withoutNotes(report Report) (lines []string) {
	for _, f := range report.Findings {
		if f.Level != Note || f.Kind != kindNotAsked {
			lines = append(lines, f.String())
		}
	}
	return lines
}

// The request is a visitor's first, in the order of the file, and wildcards are
// named.
func TestAsked(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]string{}
	relay := fakeRelay(func(req *http.Request) (*http.Response, error) {
		mu.Lock()
		defer mu.Unlock()
		asked[req.URL.String()] = req.Method + " " + req.Header.Get("X-Forwarded-Proto") + " " + req.Header.Get("X-Forwarded-Host")
		return nil, outcome.Errorf(outcome.OriginDial, "one\ntwo")
	})
	progress := -1
	report, err := origins(t.Context(), file(t, shop), relay, Options{Timeout: time.Minute, Progress: func(asked, of int) {
		if progress++; asked != progress || of != 3 {
			t.Errorf("progress %d of %d, call %d", asked, of, progress)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"https://example.cn/":     "GET https example.cn",
		"https://www.example.cn/": "GET https www.example.cn",
		"http://old.example.cn/":  "GET http old.example.cn",
	}
	if len(asked) != len(want) || progress != 3 || report.Asked != 3 {
		t.Errorf("asked %v, progress %d, report %d", asked, progress, report.Asked)
	}
	for url, how := range want {
		if asked[url] != how {
			t.Errorf("%s asked by %q, want %q", url, asked[url], how)
		}
	}
	const dial = ": error: origin_dial: one | two; start the origin, let this machine through its firewall, or correct connect"
	lines := []string{"https://example.cn" + dial, "https://www.example.cn" + dial,
		"https://*.img.example.cn: note: not asked: a wildcard, which stands for any number of hosts", "http://old.example.cn" + dial}
	for i, f := range report.Findings {
		if i >= len(lines) || f.String() != lines[i] {
			t.Errorf("finding %d: %s", i, f)
		}
	}
	if report.Count(Error) != 3 || report.Count(Note) != 1 || report.Count(Warning) != 0 {
		t.Errorf("counted %d, %d, %d", report.Count(Error), report.Count(Note), report.Count(Warning))
	}
}

// Every kind that says something of an origin says where to look; a fault that
// has no kind asks to be reported.
func TestMends(t *testing.T) {
	for kind := range outcome.Table {
		_, mended := mends[kind]
		if want := strings.HasPrefix(string(kind), "origin_"); mended != want {
			t.Errorf("%q has a mend: %v, want %v", kind, mended, want)
		}
	}
	relay := fakeRelay(func(*http.Request) (*http.Response, error) { return nil, errors.New("oh") })
	report, err := origins(t.Context(), file(t, fmt.Sprintf(only, "example.cn", "https://example.com")), relay, Options{Timeout: time.Minute})
	if err != nil || len(report.Findings) != 1 || report.Findings[0].Kind != "internal" || !strings.Contains(report.Findings[0].Mend, "report") {
		t.Errorf("%v, %v", report, err)
	}
}

// Bodies are not read, and closed.
func TestBodiesAreClosed(t *testing.T) {
	body := &closing{}
	relay := fakeRelay(func(*http.Request) (*http.Response, error) { return &http.Response{StatusCode: 200, Body: body}, nil })
	report, err := origins(t.Context(), file(t, fmt.Sprintf(only, "example.cn", "https://example.com")), relay, Options{Timeout: time.Minute})
	if err != nil || len(report.Findings) != 0 || !body.closed {
		t.Errorf("%v, %v, closed %v", report, err, body.closed)
	}
}

// closing is a body that can be closed and nothing else.
type closing struct {
	io.Reader // nil: reading panics
	closed    bool
}

func (c *closing) Close() error {
	c.closed = true
	return nil
}

// A first page that stays in China is no fault of the origin's.
func TestStays(t *testing.T) {
	relay := fakeRelay(func(*http.Request) (*http.Response, error) { return nil, outcome.Errorf(outcome.Stays, "it stays") })
	report, err := origins(t.Context(), file(t, fmt.Sprintf(only, "example.cn", "https://example.com")), relay, Options{Timeout: time.Minute})
	if err != nil || len(report.Findings) != 1 || report.Findings[0].Level != Note {
		t.Errorf("%v, %v", report, err)
	}
}

// many is a file of n hosts.
func many(t *testing.T, n int, limits string) *config.Config {
	text := "limits: {" + limits + "}\nsites:\n  - name: many\n    tls: {cert: a.pem, key: a.key}\n    hosts:\n"
	for i := range n {
		text += fmt.Sprintf("      h%02d.example.cn: https://h%02d.example.com\n", i, i)
	}
	return file(t, text)
}

// hangs is a relay whose origins never answer, and which says so as a real one.
func hangs(req *http.Request) (*http.Response, error) {
	<-req.Context().Done()
	cause := context.Cause(req.Context())
	return nil, outcome.Errorf(outcome.KindOf(cause), "fetch: %w", cause)
}

// Four at a time, no more and no fewer.
func TestAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most := 0, 0
		relay := fakeRelay(func(req *http.Request) (*http.Response, error) {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			return says(t, nil)(req)
		})
		start := time.Now()
		report, err := origins(t.Context(), many(t, 12, ""), relay, Options{Timeout: time.Minute})
		if err != nil || report.Asked != 12 || len(report.Findings) != 0 {
			t.Errorf("%v, %v", report, err)
		}
		if took := time.Since(start); most != atOnce || took != 3*time.Second {
			t.Errorf("%d at once, took %v", most, took)
		}
	})
}

// An origin has as long as the file gives it, all together as long as the
// caller does; whoever has no turn is no success.
func TestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		report, err := origins(t.Context(), many(t, 6, "connect_timeout: 4s, origin_timeout: 6s"), fakeRelay(hangs), Options{Timeout: 15 * time.Second})
		if err != nil || report.Asked != 6 || report.Count(Error) != 6 {
			t.Fatalf("%v, %v", report, err)
		}
		if took := time.Since(start); took != 15*time.Second {
			t.Errorf("took %v", took)
		}
		for i, f := range report.Findings {
			want := "fetch: no answer within 10s"
			if i >= atOnce {
				want = "fetch: no answer within 15s"
			}
			if f.Kind != "origin_slow" || f.Msg != want {
				t.Errorf("%d: %s", i, f)
			}
		}
		report, err = origins(t.Context(), many(t, 6, ""), fakeRelay(hangs), Options{Timeout: time.Second})
		if err != nil || report.Asked != 4 || report.Count(Error) != 6 {
			t.Fatalf("%v, %v", report, err)
		}
		if f := report.Findings[5]; f.Kind != "not_asked" || f.Mend != "give more with --timeout" {
			t.Errorf("%s", f)
		}
	})
}

// Whoever ends it early gets what was found until then, and no failures that
// are of the end alone.
func TestEndedEarly(t *testing.T) {
	ctx, end := context.WithCancelCause(t.Context())
	relay := fakeRelay(func(req *http.Request) (*http.Response, error) {
		if req.Host == "h00.example.cn" {
			return nil, outcome.Errorf(outcome.OriginCut, "it was cut")
		}
		end(errors.New("enough"))
		return hangs(req)
	})
	progressed := -1
	report, err := origins(ctx, many(t, 9, ""), relay, Options{Timeout: time.Minute, Progress: func(int, int) { progressed++ }})
	if err == nil || err.Error() != fmt.Sprintf("ask the origins: ended with %d of 9 asked: enough", progressed) {
		t.Errorf("error %v", err)
	}
	for _, f := range report.Findings {
		if f.Host != "https://h00.example.cn" || f.Kind != "origin_cut" {
			t.Errorf("found %s", f)
		}
	}
}
