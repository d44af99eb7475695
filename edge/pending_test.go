package edge_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"causeway/config"
	"causeway/edge"
)

// TestPending holds what is seen of a site that is not open, over HTTP and HTTPS,
// at its public hosts and at its test host.
func TestPending(t *testing.T) {
	page := filepath.Join(t.TempDir(), "page.html")
	if err := os.WriteFile(page, []byte("<p>soon</p>"), 0o600); err != nil {
		t.Fatal(err)
	}
	d := newDoors(t, edge.Options{})
	d.cert = d.ca.issue(t, d.cert.Leaf.NotAfter, "a.cn", "b.cn", "c.cn", "d.cn")
	crossing := d.crossing(strings.ReplaceAll(`
listen: {http: "127.0.0.1:0", https: "127.0.0.1:1"}
sites:
  - {name: a, hosts: {a.cn: https://a.com, www.a.cn: https://www.a.com}, tls: {cert: a, key: a, hsts: {max_age: 1h}}, pending: {test_host: test.a.net}}
  - {name: b, hosts: {b.cn: https://b.com}, pending: {page: PAGE}}
  - {name: c, hosts: {c.cn: https://c.com}, tls: {cert: a, key: a}, http: off, pending: true}
  - {name: d, hosts: {d.cn: https://d.com}, tls: {cert: a, key: a}}
`, "PAGE", page), d.clients)
	node, err := crossing.Config.Node("")
	if err != nil {
		t.Fatal(err)
	}
	if crossing.Pages, err = edge.ReadPages(crossing.Config, node); err != nil {
		t.Fatal(err)
	}
	d.server.Swap(crossing)
	plain := d.server.HTTP(crossing.Config.Limits)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() { defer close(done); _ = plain.Serve(ln) }()
	t.Cleanup(func() { plain.Close(); <-done })
	for _, test := range []struct {
		url, says string
		status    int
	}{
		{"http://a.cn/x", "即将开放", 503},
		{"http://www.a.cn/", "not open yet", 503},
		{"https://a.cn/", "即将开放", 503},
		{"http://b.cn/", "<p>soon</p>", 503},
		{"http://c.cn/", "", 421},
		{"https://c.cn/", "即将开放", 503},
		{"http://d.cn/", "", 301},
		{"https://d.cn/", "Host: d.cn", 200},
		{"http://test.a.net/x", "Host: test.a.net", 200},
		{"http://www.test.a.net/x", "Host: www.test.a.net", 200},
		{"http://other.test.a.net/x", "", 421},
	} {
		scheme, rest, _ := strings.Cut(test.url, "://")
		host, _, _ := strings.Cut(rest, "/")
		transport := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.Dial("tcp", ln.Addr().String())
		}}
		var res *http.Response
		var body []byte
		if scheme == "https" {
			c, err := d.dial(host, nil)
			if err != nil {
				t.Fatal(err)
			}
			status, text, header, err := d.ask(c, host)
			if err != nil {
				t.Fatal(err)
			}
			res, body = &http.Response{StatusCode: status, Header: header}, []byte(text)
		} else {
			req, _ := http.NewRequest(http.MethodGet, test.url, nil)
			if res, err = transport.RoundTrip(req); err != nil {
				t.Fatal(err)
			}
			body, _ = io.ReadAll(res.Body)
			res.Body.Close()
			transport.CloseIdleConnections()
		}
		if res.StatusCode != test.status || !strings.Contains(string(body), test.says) {
			t.Errorf("%s: %d\n%s", test.url, res.StatusCode, body)
		}
		h := res.Header
		if test.status == 503 {
			if h.Get("Cache-Control") != "no-store" || h.Get("Retry-After") != "3600" || h.Get("Strict-Transport-Security") != "" || !strings.HasPrefix(h.Get("Content-Type"), "text/html") {
				t.Errorf("%s: %v", test.url, h)
			}
			if rec := d.recs.last(); rec.Kind != "" || rec.Status != 503 || rec.Site != host[strings.LastIndex(host, ".")-1:strings.LastIndex(host, ".")] {
				t.Errorf("%s: record %+v", test.url, rec)
			}
		}
		if robots := h.Get("X-Robots-Tag"); (robots != "") != (test.status == 200 && scheme == "http") {
			t.Errorf("%s: X-Robots-Tag %q", test.url, robots)
		}
	}
	c, err := d.dial("test.a.net", func(c *tls.Config) { c.InsecureSkipVerify = true })
	if err != nil {
		t.Fatal(err)
	}
	if status, _, _, err := d.ask(c, "test.a.net"); err != nil || status != 421 {
		t.Errorf("the test host over https: %d, %v", status, err)
	}
}

func TestReadPagesErrors(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.html")
	if err := os.WriteFile(large, make([]byte, config.MaxPage+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for page, want := range map[string]string{large: "larger than 1 MiB", filepath.Join(dir, "none.html"): "no such file"} {
		cfg, err := config.Parse("causeway.yaml", []byte("sites:\n  - {name: a, hosts: {a.cn: https://a.com}, pending: {page: "+page+"}}\n"))
		if err != nil {
			t.Fatal(err)
		}
		node, _ := cfg.Node("")
		if _, err := edge.ReadPages(cfg, node); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "pending.page of site a") {
			t.Errorf("%s: %v", page, err)
		}
	}
}
