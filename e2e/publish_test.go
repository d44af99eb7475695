package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
)

// TestNginx crosses to a real nginx with curl.
func TestNginx(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			c, _ := newShop(t, spec{layout: layout}, "<a href='https://example.com/next'>next</a>")
			got := curl(t, "--cacert", c.ca.file(), "--connect-to", "::"+c.https, "--compressed", "https://example.cn/")
			if got.stdout != "<a href='https://example.cn/next'>next</a>" {
				t.Errorf("got %q %s", got.stdout, got.stderr)
			}
			if r := c.edge.record(t, "/"); r.Status != 200 || r.Site != "site" || r.Host != "example.cn" || r.Proto != "HTTP/2.0" {
				t.Errorf("record %+v", r)
			}
			redirect := curl(t, "--connect-to", "::"+c.http, "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", "http://example.cn/a?b")
			if redirect.stdout != "301 https://example.cn/a?b" {
				t.Errorf("port 80: %q", redirect.stdout)
			}
		})
	}
}

// TestPublish puts a real nginx site under another name in one line.
func TestPublish(t *testing.T) {
	ca := newAuthority(t)
	cert, key := ca.issue(t, "origin", "docs.example.com")
	address := freeAddress(t)
	startNginx(t, address, fmt.Sprintf(`server {
		listen %s ssl http2; server_name docs.example.com;
		ssl_certificate %s; ssl_certificate_key %s; default_type text/html;
		location / { return 200 "<a href=https://docs.example.com/next>next</a>"; }
	}`, address, cert, key))
	public, dir := freeAddress(t), t.TempDir()
	_, port, _ := strings.Cut(public, ":")
	p := startProcess(t, binary, "publish", "https://docs.example.com", "--connect", address, "--ca", ca.file(), "--as", "docs.localhost:"+port, "--dir", dir)
	eventually(t, "publish says that it serves", func() bool { return strings.Contains(p.stdoutText(), "Stop with Ctrl-C") })
	got := curl(t, "--cacert", filepath.Join(dir, "ca.pem"), "https://docs.localhost:"+port+"/")
	if want := "<a href=https://docs.localhost:" + port + "/next>next</a>"; got.stdout != want {
		t.Errorf("got %q %s, want %q", got.stdout, got.stderr, want)
	}
	for _, other := range []string{"https://localhost:" + port, "https://docs.example.com:" + port} {
		if got := curl(t, "-k", "--connect-to", "::"+public, other); strings.Contains(got.stdout, "next") {
			t.Errorf("%s is served: %q", other, got.stdout)
		}
	}
}
