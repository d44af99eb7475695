package audit_test

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"causeway/audit"
	"causeway/cert"
	"causeway/config"
)

// newOrigin is a TLS origin with a certificate for example.com and those below
// it, and the authority to trust for it.
func newOrigin(t *testing.T, handler http.HandlerFunc) (address, ca string) {
	t.Helper()
	dir := t.TempDir()
	authority, err := cert.OpenAuthority(dir, "test origin")
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Issue(dir, "origin", []string{"example.com", "*.example.com"}); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "origin.pem"), filepath.Join(dir, "origin.key"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.EnableHTTP2 = true
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.Listener.Addr().String(), authority.CertFile()
}

// nobody is an address on which nobody listens.
func nobody(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// A relay dials, verifies and maps as in service.
func TestThroughARelay(t *testing.T) {
	origin, ca := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Host {
		case "example.com":
			w.Header().Set("Strict-Transport-Security", "max-age=31536000; includeSubDomains")
			http.Redirect(w, r, "https://www.example.com/", http.StatusFound)
		case "leaves.example.com":
			http.Redirect(w, r, "https://example.org/", http.StatusFound)
		case "ill.example.com":
			w.WriteHeader(http.StatusInternalServerError)
		case "cut.example.com":
			panic(http.ErrAbortHandler)
		}
	})
	_, otherCA := newOrigin(t, func(http.ResponseWriter, *http.Request) {})
	node, cfg := parse(t, "", fmt.Sprintf(`
sites:
  - name: shop
    hosts:
      example.cn: https://example.com
      www.example.cn: https://www.example.com
      leaves.example.cn: https://leaves.example.com
      ill.example.cn: https://ill.example.com
      cut.example.cn: https://cut.example.com
      gone.example.cn: {to: https://gone.example.com, connect: [%q]}
      name.example.cn: {to: https://name.example.com, connect: ["no-such-name.invalid:443"]}
      other.example.cn: https://a.other.example.com
    origin: {connect: [%q], tls: {ca: %q}}
    tls: {cert: example.cn.pem, key: example.cn.key}
    routes:
      - {path: /basket, stay: cn, origin: "http://127.0.0.9:1"}
  - name: distrusted
    hosts: {example.com.cn: https://b.example.com}
    origin: {connect: [%q], tls: {ca: %q}}
    http: serve
`, nobody(t), origin, ca, origin, otherCA))
	report, err := audit.Origins(t.Context(), cfg, node, audit.Options{Timeout: time.Minute})
	if err != nil || report.Asked != 9 {
		t.Fatalf("%+v, %v", report, err)
	}
	wants := []struct{ host, kind, has string }{
		{"https://example.cn", "hsts", "says includeSubDomains, which is left out"},
		{"https://leaves.example.cn", "redirect", "https://example.org"},
		{"https://ill.example.cn", "status", "500 Internal Server Error"},
		{"https://cut.example.cn", "origin_cut", "fetch from origin https://cut.example.com: "},
		{"https://gone.example.cn", "origin_dial", "connection refused"},
		{"https://name.example.cn", "origin_name", "no-such-name.invalid"},
		{"https://other.example.cn", "origin_tls", "a.other.example.com"},
		{"http://example.com.cn", "origin_tls", "unknown authority"},
	}
	for i, f := range report.Findings {
		if i >= len(wants) || f.Host != wants[i].host || f.Kind != wants[i].kind || !strings.Contains(f.String(), wants[i].has) {
			t.Errorf("finding %d: %s", i, f)
		}
	}
	if len(report.Findings) != len(wants) {
		t.Errorf("%d findings, want %d", len(report.Findings), len(wants))
	}
}

// Nothing stays open: an origin must not keep connections of a program that has
// what it wanted.
func TestConnectionsEnd(t *testing.T) {
	closed := make(chan struct{}, 1)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			closed <- struct{}{}
		}
	}
	server.Start()
	node, cfg := parse(t, "", fmt.Sprintf(`
sites:
  - name: shop
    hosts: {example.cn: %q}
    http: serve
`, server.URL))
	if report, err := audit.Origins(t.Context(), cfg, node, audit.Options{Timeout: time.Minute}); err != nil || len(report.Findings) != 0 {
		t.Errorf("%v, %v", report, err)
	}
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the connection is still open")
	}
	server.Close()
}

// nodes is a crossing of a file.
const nodes = `
pki: pki
nodes:
  - {name: shanghai-1, role: edge, region: cn, listen: {https: ":443"}}
  - {name: virginia-1, role: relay, region: us, listen: {link: ":7443"}, address: "203.0.113.7:7443"}
  - {name: virginia-2, role: relay, region: us, listen: {link: ":7443"}, address: "203.0.113.8:7443"}
`

// Relays are asked on; an edge says so. What stays is the edge's.
func TestNodes(t *testing.T) {
	text := fmt.Sprintf(`
sites:
  - name: shop
    hosts: {example.cn: https://example.com}
    origin: {connect: [%q]}
    tls: {cert: example.cn.pem, key: example.cn.key}
    routes: [{path: /*, methods: [GET], stay: cn, origin: "http://127.0.0.9:1"}]
`, nobody(t))
	const stays = "https://example.cn: note: not asked: its / stays in China, and is the edge's to ask for"
	const dials = "https://example.cn: error: origin_dial: fetch from origin http://127.0.0.9:1: "
	for _, c := range []struct {
		name, file, want string
	}{
		{"shanghai-1", nodes + text, "origins: note: not asked: shanghai-1 is an edge, and relays reach them; on a relay: causeway check --live --node virginia-1, or causeway check --live --node virginia-2"},
		{"virginia-1", nodes + text, stays},
		{"", text, dials}, // the one node is in the country
	} {
		node, cfg := parse(t, c.name, c.file)
		report, err := audit.Origins(t.Context(), cfg, node, audit.Options{Timeout: time.Minute})
		if err != nil || len(report.Findings) != 1 || !strings.HasPrefix(report.Findings[0].String(), c.want) {
			t.Errorf("%s: %v, %v", c.name, report, err)
		}
	}
}

// A relay that can't be made is no finding of an origin.
func TestNoRelay(t *testing.T) {
	node, cfg := parse(t, "", `
sites:
  - name: shop
    hosts: {example.cn: https://example.com}
    origin: {tls: {ca: nowhere.pem}}
    http: serve
`)
	report, err := audit.Origins(t.Context(), cfg, node, audit.Options{Timeout: time.Minute})
	if err == nil || !strings.Contains(err.Error(), "ask the origins: site shop: origin.tls.ca: ") || report.Findings == nil || report.Asked != 0 {
		t.Errorf("%+v, %v", report, err)
	}
}

func parse(t *testing.T, node, text string) (*config.Node, *config.Config) {
	t.Helper()
	cfg, err := config.Parse("causeway.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	found, err := cfg.Node(node)
	if err != nil {
		t.Fatal(err)
	}
	return found, cfg
}
