package e2e

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The suites that others wrote for what stands before HTTP, on the way through
// to an origin. docs/CONFORMANCE.md has their scores.

// h2spec is the suite of HTTP/2, as the go command runs it.
const h2spec = "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"

// newFront is a crossing of two nodes to an nginx that answers everything, with
// the site's host an address, which needs no name in a client's hello; more is
// what its tls has besides.
func newFront(t *testing.T, more string) *crossing {
	t.Helper()
	address := freeAddress(t)
	startNginx(t, address, fmt.Sprintf(`
	server { listen %s; location / {
		default_type text/html; client_max_body_size 1m; return 200 "<html>hello</html>";
		add_header Content-Security-Policy "default-src 'self'"; add_header X-Frame-Options DENY; add_header X-Content-Type-Options nosniff;
	} }`, address))
	ca := newAuthority(t)
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, hosts: []string{"127.0.0.1", "example.cn"}, sites: fmt.Sprintf(`
  - name: front
    hosts: {example.cn: "http://example.com", "127.0.0.1": "http://www.example.com"}
    origin: {connect: [%q]}
    tls: {%s%s}`, address, frontCertificate(t, ca), more)})
	c.write(t, strings.Replace(c.text(t), `"127.0.0.1": "http`, fmt.Sprintf(`%q: "http`, c.https), 1)) // whose port is known by now
	for _, n := range c.nodes() {
		if !n.reload(t) {
			t.Fatal("the reload failed")
		}
	}
	return c
}

// frontCertificate is one as public authorities make them, which say where their
// list of revoked ones is: the members cert and key.
func frontCertificate(t *testing.T, ca *authority) string {
	t.Helper()
	signer, err := tls.LoadX509KeyPair(ca.file(), filepath.Join(ca.dir, "ca.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial := make([]byte, 16)
	_, _ = rand.Read(serial)
	template := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: "example.cn"},
		DNSNames: []string{"example.cn"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(90 * 24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		CRLDistributionPoints: []string{"http://crl.example.com/1.crl"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer.Leaf, key.Public(), signer.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	return fmt.Sprintf("cert: %s, key: %s",
		writeFile(t, dir, "front.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))),
		writeFile(t, dir, "front.key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}))))
}

// TestH2spec holds the score of HTTP/2 conformance.
func TestH2spec(t *testing.T) {
	require(t, "go")
	c := newFront(t, "")
	_, port, _ := net.SplitHostPort(c.https)
	report := filepath.Join(t.TempDir(), "junit.xml")
	run := exec.Command("go", "run", h2spec, "-h", "127.0.0.1", "-p", port, "-t", "-k", "-o", "5", "-j", report)
	run.Dir = t.TempDir() // not in this module
	run.Env = append(os.Environ(), "GOFLAGS=")
	out, err := run.CombinedOutput()
	sum := regexp.MustCompile(`(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed`).FindStringSubmatch(string(out))
	if sum == nil {
		t.Fatalf("h2spec: %v\n%s", err, tail(string(out), 4<<10))
	}
	t.Log(sum[0])
	served := 0
	for _, r := range c.edge.records(t) {
		if r.Status == 200 {
			served++
		}
	}
	if served < 20 {
		t.Errorf("%d requests came to the origin:\n%s", served, c.edge.failures())
	}
	// One case sends a body that is longer than it said, and may have its answer
	// before the server sees that.
	if passed, _ := strconv.Atoi(sum[2]); sum[1] != "145" || passed < 144 {
		t.Errorf("%s\n%s", sum[0], tail(string(out), 4<<10))
	}
}

// TestTestssl holds that testssl.sh finds nothing above LOW, and its grade, which
// it gives from version 3.2 on.
func TestTestssl(t *testing.T) {
	require(t, "testssl")
	c := newFront(t, ", hsts: {max_age: 8760h}")
	_, port, _ := net.SplitHostPort(c.https)
	found := filepath.Join(t.TempDir(), "testssl.json")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, failed := exec.CommandContext(ctx, "testssl", "--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none", "--add-ca", c.ca.file(),
		"--jsonfile", found, "--ip", "127.0.0.1", "example.cn:"+port).CombinedOutput() // its exit status counts findings
	data, err := os.ReadFile(found)
	if err != nil {
		t.Fatalf("testssl: %v, %v\n%s", failed, err, tail(string(out), 4<<10))
	}
	var findings []struct{ ID, Severity, Finding string }
	if err := json.Unmarshal(data, &findings); err != nil {
		t.Fatalf("testssl: %v, %v\n%s", failed, err, tail(string(out), 4<<10))
	}
	grade := ""
	for _, f := range findings {
		if f.ID == "overall_grade" {
			grade = f.Finding
		}
		if f.ID == "engine_problem" { // of the openssl that testssl runs
			continue
		}
		switch f.Severity {
		case "OK", "INFO", "LOW", "DEBUG":
		default:
			t.Errorf("%s: %s: %s", f.Severity, f.ID, f.Finding)
		}
	}
	t.Logf("testssl: %d findings, grade %s", len(findings), grade)
	if version := runProgram(t, "testssl", "--version").stdout; grade == "" && strings.Contains(version, "3.0.") {
		return
	}
	if grade != "A+" {
		t.Errorf("grade %q, want A+\n%s", grade, tail(string(out), 4<<10))
	}
}

// TestSslscan holds that no suite without forward secrecy is offered.
func TestSslscan(t *testing.T) {
	require(t, "sslscan")
	c := newFront(t, "")
	ran := mustRun(t, "sslscan", "--no-colour", "--sni-name=example.cn", c.https)
	suites := 0
	for line := range strings.Lines(ran.stdout) {
		fields := strings.Fields(line)
		if len(fields) < 5 || fields[0] != "Preferred" && fields[0] != "Accepted" {
			continue
		}
		suites++
		version, name := fields[1], fields[4]
		modern := version == "TLSv1.3" && strings.HasPrefix(name, "TLS_")
		if !modern && !(version == "TLSv1.2" && strings.HasPrefix(name, "ECDHE-") && (strings.Contains(name, "GCM") || strings.Contains(name, "CHACHA20"))) {
			t.Errorf("offered: %s", strings.TrimSpace(line))
		}
	}
	if suites < 4 {
		t.Errorf("%d suites:\n%s", suites, ran.stdout)
	}
	t.Logf("sslscan: %d suites", suites)
	for _, version := range []string{"SSLv2", "SSLv3", "TLSv1.0", "TLSv1.1"} {
		if !regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(version) + `\s+disabled$`).MatchString(ran.stdout) {
			t.Errorf("%s is not disabled", version)
		}
	}
}

// TestPending holds what visitors see before a site is open, and that it can be
// tried under its test host, and is as it was once it is open.
func TestPending(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			address := freeAddress(t)
			startNginx(t, address, fmt.Sprintf(`
	server { listen %s; location / { default_type text/html; return 200 '<a href="http://example.com/tea">$http_host</a> <a href="http://www.example.com/">www</a> <a href="http://other.example.org/">other</a>'; } }`, address))
			sites := fmt.Sprintf(`
  - name: shop
    hosts: {example.cn: "http://example.com", www.example.cn: "http://www.example.com", other.cn: "http://other.example.org"}
    origin: {connect: [%q]}
    tls: {cert: CERT, key: KEY}
    pending: {test_host: preview.example.net}`, address)
			c := newCrossing(t, spec{layout: layout, sites: sites, hosts: []string{"example.cn", "www.example.cn", "other.cn"}})
			client := c.client(t, 1)
			for _, url := range []string{"http://example.cn/tea", "https://example.cn/tea", "http://other.cn/"} {
				if a := get(t, client, url); a.StatusCode != 503 || a.Header.Get("Retry-After") == "" || !strings.Contains(string(a.body), "即将开放") {
					t.Errorf("%s: %s\n%s", url, a.Status, a.body)
				}
			}
			a := get(t, client, "http://preview.example.net/tea")
			if want := `<a href="http://preview.example.net/tea">example.com</a> <a href="http://www.preview.example.net/">www</a> <a href="http://other.example.org/">other</a>`; string(a.body) != want || a.Header.Get("X-Robots-Tag") == "" {
				t.Errorf("%s %v\n%s\nwant\n%s", a.Status, a.Header, a.body, want)
			}
			c.write(t, strings.Replace(c.text(t), "pending: {test_host: preview.example.net}", "pending: false", 1))
			for _, n := range c.nodes() {
				if !n.reload(t) {
					t.Fatal("the reload failed")
				}
			}
			if a := get(t, client, "https://example.cn/tea"); a.StatusCode != 200 || !strings.Contains(string(a.body), `href="https://example.cn/tea"`) {
				t.Errorf("open: %s\n%s", a.Status, a.body)
			}
			if a := get(t, client, "http://example.cn/tea"); a.StatusCode != 301 {
				t.Errorf("open, over plain HTTP: %s", a.Status)
			}
			if a := get(t, client, "http://preview.example.net/tea"); a.StatusCode != 421 {
				t.Errorf("the test host of a site that is open: %s", a.Status)
			}
		})
	}
}
