package e2e

import (
	"fmt"
	"strings"
	"testing"
)

// TestNginx crosses to a real nginx with curl.
func TestNginx(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			ca := newAuthority(t)
			origin := freeAddress(t)
			cert, key := ca.issue(t, "origin", "example.com")
			n := startNginx(t, origin, fmt.Sprintf(`server {
				listen %s ssl http2; server_name example.com;
				ssl_certificate %s; ssl_certificate_key %s; root DIR/www;
			}`, origin, cert, key))
			writeFile(t, n.dir, "www/index.html", `<a href="https://example.com/next">next</a>`)
			c := newCrossing(t, spec{layout: layout, ca: ca, sites: fmt.Sprintf(`
  - name: site
    hosts: {example.cn: https://example.com}
    origin: {connect: [%q], tls: {ca: CA}}
    tls: {cert: CERT, key: KEY}`, origin)})
			got := curl(t, "--cacert", ca.file(), "--connect-to", "::"+c.https, "https://example.cn/")
			if want := `<a href="https://example.cn/next">next</a>`; got.stdout != want {
				t.Errorf("got %q %s, want %q", got.stdout, got.stderr, want)
			}
			if r := c.edge.record(t, "/"); r.Status != 200 || r.Site != "site" || r.Host != "example.cn" {
				t.Errorf("record %+v", r)
			}
			if strings.Contains(c.edge.stderrText(), "level=ERROR") {
				t.Error(c.edge.stderrText())
			}
		})
	}
}
