package relay_test

import (
	"crypto/tls"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"

	"causeway/cert"
	"causeway/outcome"
)

// An address that has no certificate for one name, or wants to hear nothing of
// it, serves the other names as before.
func TestRefusedNameEjectsNothing(t *testing.T) {
	dir := t.TempDir()
	authority, err := cert.OpenAuthority(dir, "test origins")
	if err != nil {
		t.Fatal(err)
	}
	pair := func(name string, hosts ...string) *tls.Certificate {
		if err := authority.Issue(dir, name, hosts); err != nil {
			t.Fatal(err)
		}
		pair, err := tls.LoadX509KeyPair(filepath.Join(dir, name+".pem"), filepath.Join(dir, name+".key"))
		if err != nil {
			t.Fatal(err)
		}
		return &pair
	}
	start := func(name string, certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)) string {
		server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) }))
		server.TLS = &tls.Config{GetCertificate: certificate}
		server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		server.StartTLS()
		t.Cleanup(server.Close)
		return server.Listener.Addr().String()
	}
	one, both := pair("one", "example.com"), pair("both", "example.com", "*.example.com")
	whole := start("whole", func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return both, nil })
	for name, certificate := range map[string]func(*tls.ClientHelloInfo) (*tls.Certificate, error){
		"another name's certificate": func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return one, nil },
		"an alert": func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
			if hello.ServerName == "example.com" {
				return one, nil
			}
			return nil, nil // unrecognized_name
		},
	} {
		r := newRelay(t, fmt.Sprintf("connect: [%q, %q], tls: {ca: %q}", start("half", certificate), whole, authority.CertFile()), "")
		for range 4 {
			if _, body := fetch(t, r, request(t, "GET", "https://a.example.cn/", nil)); body != "whole" {
				t.Errorf("%s: a.example.cn: %q", name, body)
			}
		}
		var served []string
		for range 4 {
			_, body := fetch(t, r, request(t, "GET", "https://example.cn/", nil))
			served = append(served, body)
		}
		if all := strings.Join(served, " "); !strings.Contains(all, "half") || !strings.Contains(all, "whole") {
			t.Errorf("%s: example.cn was served by %s alone", name, all)
		}
		// With no address left for the name, it fails as it did.
		alone := newRelay(t, fmt.Sprintf("connect: [%q], tls: {ca: %q}", start("half", certificate), authority.CertFile()), "")
		if _, err := alone.RoundTrip(request(t, "GET", "https://a.example.cn/", nil)); outcome.KindOf(err) != outcome.OriginTLS {
			t.Errorf("%s: %v", name, err)
		}
	}
}
