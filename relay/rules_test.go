package relay_test

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"causeway/config"
	"causeway/hop"
	"causeway/outcome"
	"causeway/relay"
)

// ruledRelay makes a relay for a plain origin that says what it heard: shop is
// its own, fonts.example.net a third party, pay.example.net one that is let.
func ruledRelay(t *testing.T, handler http.HandlerFunc, rules string) *relay.Server {
	t.Helper()
	origin := httptest.NewServer(handler)
	t.Cleanup(origin.Close)
	cfg, err := config.Parse("causeway.yaml", fmt.Appendf(nil, `
listen: {http: "127.0.0.1:0"}
sites:
  - name: shop
    hosts:
      example.cn: http://example.com
      fonts.example.cn: http://fonts.example.net
      pay.example.cn: {to: http://pay.example.org, cookies: true}
    origin: {connect: [%q]}
    http: serve
%s`, origin.Listener.Addr(), rules))
	if err != nil {
		t.Fatal(err)
	}
	server, err := relay.New(cfg, relay.Options{Sink: outcome.Sinks{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

// What is excluded stays as it is but for the header: a redirect must lead to
// the public host.
func TestExcluded(t *testing.T) {
	const text = `{"u":"http://example.com/a"}`
	r := ruledRelay(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Link", "<http://example.com/next>; rel=next")
		w.Header().Set("Heard", r.URL.RawQuery+" "+string(body)+" "+r.Header.Get("Origin"))
		_, _ = io.WriteString(w, text)
	}, `
    rewrite: {exclude: [/signed/*, "?sign"]}
    routes:
      - {path: /raw, rewrite: {bodies: false}}
      - {path: /own/*, origin: "http://127.0.0.9:1", rewrite: {}}
`)
	const mapped = `{"u":"http://example.cn/a"}`
	for path, untouched := range map[string]bool{"/": false, "/signed/x": true, "/x?sign=1": true, "/raw": true, "/other": false} {
		separator := "?"
		if strings.Contains(path, "?") {
			separator = "&"
		}
		req := request(t, "POST", "http://example.cn"+path+separator+"back=http%3A%2F%2Fexample.cn", strings.NewReader(`{"at":"http://example.cn/b"}`))
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Origin", "http://example.cn")
		res, body := fetch(t, r, req)
		want, heard := mapped, "http%3A%2F%2Fexample.com"
		if untouched {
			want, heard = text, "http%3A%2F%2Fexample.cn"
		}
		if body != want || !strings.Contains(res.Header.Get("Heard"), heard) {
			t.Errorf("%s: %s, the origin heard %q", path, body, res.Header.Get("Heard"))
		}
		if res.Header.Get("Link") != "<http://example.cn/next>; rel=next" || !strings.HasSuffix(res.Header.Get("Heard"), " http://example.com") {
			t.Errorf("%s: header fields %q", path, res.Header)
		}
	}
}

func TestThirdParty(t *testing.T) {
	r := ruledRelay(t, func(w http.ResponseWriter, r *http.Request) {
		for name := range r.Header {
			w.Header().Add("Heard", name)
		}
		hints := w.Header()
		hints.Set("Set-Cookie", "theirs=1; Path=/")
		hints.Set("Link", "</a.js>; integrity=sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=; rel=preload; as=script")
		hints.Set("Clear-Site-Data", `"cookies"`)
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Set("Content-Type", "text/css")
		_, _ = io.WriteString(w, "@import url(http://fonts.example.net/a.css)")
	}, "")
	for host, third := range map[string]bool{"example.cn": false, "fonts.example.cn": true, "pay.example.cn": false} {
		req := request(t, "GET", "http://"+host+"/", nil)
		for name, value := range map[string]string{
			"Cookie": "ours=1", "X-Forwarded-For": "192.0.2.1", "Forwarded": "for=192.0.2.1", "X-Real-Ip": "192.0.2.1",
			"X-Forwarded-Host": host, "X-Forwarded-Proto": "http", "Referer": "http://example.cn/",
		} {
			req.Header.Set(name, value)
		}
		early := 0
		req = req.WithContext(hop.WithEarly(req.Context(), func(_ int, h http.Header) {
			early++
			if third == (h.Get("Set-Cookie") != "") || h.Get("Link") != "</a.js>; rel=preload; as=script" {
				t.Errorf("%s: early hints %q", host, h)
			}
		}))
		res, body := fetch(t, r, req)
		heard := strings.Join(res.Header["Heard"], " ")
		for _, name := range []string{"Cookie", "X-Forwarded-For", "Forwarded", "X-Real-Ip", "X-Forwarded-Host", "X-Forwarded-Proto"} {
			if strings.Contains(heard+" ", name+" ") == third {
				t.Errorf("%s heard %s", host, heard)
			}
		}
		if !strings.Contains(heard, "Referer") || early != 1 {
			t.Errorf("%s heard %s, early hints %d", host, heard, early)
		}
		if third == (res.Header.Get("Set-Cookie") != "") || third == (res.Header.Get("Clear-Site-Data") != "") {
			t.Errorf("%s said %q", host, res.Header)
		}
		if body != "@import url(http://fonts.example.cn/a.css)" {
			t.Errorf("%s: %s", host, body)
		}
	}
}
