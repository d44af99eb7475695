package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/quic-go/quic-go/http3"
)

// TestHTTP3 loads the demo over HTTP/3, with quic-go's client and with Chromium.
func TestHTTP3(t *testing.T) {
	dir, shop := startDemo(t, "--h3")
	authority := strings.TrimPrefix(shop, "https://")
	port := authority[strings.LastIndexByte(authority, ':'):]

	t.Run("quic-go", func(t *testing.T) {
		roots := x509.NewCertPool()
		pem, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
		if err != nil {
			t.Fatal(err)
		}
		roots.AppendCertsFromPEM(pem)
		transport := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
		defer transport.Close()
		// Chromium is what resolves names below localhost by itself.
		r, err := http.NewRequest(http.MethodGet, "https://127.0.0.1"+port+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Host = authority
		transport.TLSClientConfig.ServerName = "shop.localhost"
		answer, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		page, err := io.ReadAll(answer.Body)
		if err != nil || answer.StatusCode != 200 || answer.Proto != "HTTP/3.0" {
			t.Errorf("%s %d, %v", answer.Proto, answer.StatusCode, err)
		}
		if text := string(page); !strings.Contains(text, "shop.localhost"+port) || strings.Contains(text, "//example.com") {
			t.Errorf("the page is not that of the shop: %.300s", text)
		}
		if got := answer.Header.Get("Alt-Svc"); got != `h3="`+port+`"; ma=3600` {
			t.Errorf("Alt-Svc: %q", got)
		}
	})

	t.Run("Chromium", func(t *testing.T) {
		var forced []string // its authority is not one that Alt-Svc alone would do for
		for _, host := range []string{"shop", "www.shop", "api.shop", "login.shop", "static.shop"} {
			forced = append(forced, host+".localhost"+port)
		}
		b := startBrowserIn(t, "", filepath.Join(dir, "shop.pem"), "MAP *.com ~NOTFOUND, MAP *.localhost 127.0.0.1",
			chromedp.Flag("disable-quic", false), chromedp.Flag("enable-quic", true), chromedp.Flag("origin-to-force-quic-on", strings.Join(forced, ",")))
		b.follow(t, "open the shop", chromedp.Navigate(shop+"/"))
		for id, want := range map[string]string{
			"api":    "ok: 12 teas from api.shop.localhost" + port,
			"ws":     "ok: echoed 你好", // over TCP: there is none over HTTP/3
			"sse":    " from shop.localhost" + port,
			"cookie": "ok: visit known to the API",
		} {
			b.waitText(t, "#"+id, want)
		}
		b.follow(t, "look at a tea", chromedp.Navigate(shop+"/tea/longjing"))
		if at := b.follow(t, "buy it", chromedp.Click(chromedp.CSS("form.buy button"))); at != shop+"/cart" {
			t.Errorf("bought and came to %s", at)
		}
		b.waitText(t, "table", "Longjing")
		b.mu.Lock()
		defer b.mu.Unlock()
		for protocol, urls := range b.spoken {
			if protocol != "h3" && !strings.HasPrefix(urls[0], "data:") && !strings.HasPrefix(urls[0], "wss:") {
				t.Errorf("over %s: %q", protocol, urls)
			}
		}
		if len(b.spoken["h3"]) < 5 {
			t.Errorf("over HTTP/3: %q", b.spoken["h3"])
		}
		if len(b.failed) > 0 || len(b.errors) > 0 {
			t.Errorf("failed %q, console %q", b.failed, b.errors)
		}
	})
}
