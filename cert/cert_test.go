package cert

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Pebble never ends it.
		goleak.IgnoreTopFunction("github.com/letsencrypt/pebble/v2/va.VAImpl.processTasks"),
		// It ends some seconds after its lock is gone: it looks whether the file is there.
		goleak.IgnoreAnyFunction("github.com/caddyserver/certmagic.keepLockfileFresh"))
}

func newAuthority(t *testing.T, dir string) *Authority {
	t.Helper()
	a, err := OpenAuthority(dir, "Causeway test CA")
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// load is Load of files that nobody wants anything of.
func load(files []Files) (*Store, error) {
	var sources []Source
	for _, f := range files {
		sources = append(sources, Source{Site: "site", Files: f})
	}
	return Load(sources, nil, slog.New(slog.DiscardHandler))
}

func issue(t *testing.T, a *Authority, dir, name string, hosts ...string) Files {
	t.Helper()
	if err := a.Issue(dir, name, hosts); err != nil {
		t.Fatal(err)
	}
	return Files{Cert: filepath.Join(dir, name+".pem"), Key: filepath.Join(dir, name+".key")}
}

func readCert(t *testing.T, path string) *x509.Certificate {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	block, rest := pem.Decode(text)
	if block == nil || len(rest) != 0 {
		t.Fatalf("%s is not one PEM block", path)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func wantMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := info.Mode().Perm(); got != want {
		t.Errorf("%s: mode %o, want %o", path, got, want)
	}
}

func TestStoreFindsByName(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t, dir)
	store, err := load([]Files{
		issue(t, a, dir, "exact", "example.cn", "api.example.cn"),
		issue(t, a, dir, "wild", "*.example.cn", "*.deep.example.cn"),
		issue(t, a, dir, "address", "127.0.0.1", "::1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ name, want string }{
		{"example.cn", "exact"},
		{"EXAMPLE.CN", "exact"},
		{"example.cn.", "exact"},
		{"api.example.cn", "exact"},
		{"www.example.cn", "wild"},
		{"a.deep.example.cn", "wild"},
		{"deep.example.cn", "wild"},
		{"a.b.example.cn", ""},
		{"example.cn.evil.test", ""},
		{"evilexample.cn", ""},
		{"cn", ""},
		{"*.example.cn", "wild"},
		{".example.cn", "wild"},
		{"127.0.0.1", ""}, // an address is never a server name (RFC 6066 section 3)
		{"", ""},
	} {
		got, err := store.GetCertificate(&tls.ClientHelloInfo{ServerName: test.name})
		if err != nil {
			t.Fatal(err)
		}
		if name := subject(got); name != test.want {
			t.Errorf("GetCertificate(%q) = %q, want %q", test.name, name, test.want)
		}
	}
}

func subject(c *tls.Certificate) string {
	if c == nil {
		return ""
	}
	return c.Leaf.Subject.CommonName
}

// A real client without a server name gets the certificate of the address it
// came to; one with a foreign name gets the alert.
func TestStoreHandshakes(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t, dir)
	store, err := load([]Files{
		issue(t, a, dir, "site", "example.cn"),
		issue(t, a, dir, "address", "127.0.0.1"),
	})
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(readCert(t, a.CertFile()))
	server := &tls.Config{GetCertificate: store.GetCertificate}
	for _, test := range []struct{ name, want, wantErr string }{
		{"example.cn", "site", ""},
		{"127.0.0.1", "address", ""}, // crypto/tls sends no server name, verifies the address
		{"example.org", "", "unrecognized name"},
	} {
		state, _, err := handshake(t, server, &tls.Config{ServerName: test.name, RootCAs: pool})
		if test.wantErr != "" {
			if err == nil || !strings.Contains(err.Error(), test.wantErr) {
				t.Errorf("%s: error %v, want %q", test.name, err, test.wantErr)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		if got := state.PeerCertificates[0].Subject.CommonName; got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

// handshake joins both sides over loopback, lets the client read one byte (a
// TLS 1.3 client learns of its refusal only then), and returns the client's
// state and error and the server's error.
func handshake(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var served sync.WaitGroup
	defer served.Wait()
	served.Go(func() {
		raw, err := listener.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer raw.Close()
		raw.SetDeadline(time.Now().Add(10 * time.Second))
		conn := tls.Server(raw, server)
		if serverErr = conn.Handshake(); serverErr == nil {
			conn.Write([]byte("."))
			io.Copy(io.Discard, conn)
		}
	})
	raw, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	raw.SetDeadline(time.Now().Add(10 * time.Second))
	conn := tls.Client(raw, client)
	clientErr = conn.Handshake()
	if clientErr == nil {
		_, clientErr = io.ReadFull(conn, make([]byte, 1))
	}
	state = conn.ConnectionState()
	raw.Close()
	served.Wait()
	return state, serverErr, clientErr
}

// A site shows its own certificates, whoever else's carry the name, and one that is
// in force before one that is not.
func TestStoreFindsBySite(t *testing.T) {
	at := func(from, until time.Duration, name string) *tls.Certificate {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name}, NotBefore: now.Add(from), NotAfter: now.Add(until)}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			t.Fatal(err)
		}
		leaf, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
	}
	const name, wild = "a.example.cn", "*.example.cn"
	day := 24 * time.Hour
	expired, early, good, wide := at(-2*day, -day, name), at(day, 2*day, name), at(-day, day, name), at(-day, day, wild)
	for _, c := range []struct {
		what    string
		entries []*entry
		want    *tls.Certificate
	}{
		{"another site's first", []*entry{{source: Source{Site: "b"}, cert: good}, {source: Source{Site: "a"}, cert: wide}}, wide},
		{"another site's alone", []*entry{{source: Source{Site: "b"}, cert: good}}, nil},
		{"expired first", []*entry{{source: Source{Site: "a"}, cert: expired}, {source: Source{Site: "b"}, cert: wide}, {source: Source{Site: "a"}, cert: good}}, good},
		{"not yet valid first", []*entry{{source: Source{Site: "a"}, cert: early}, {source: Source{Site: "a"}, cert: good}}, good},
		{"a wildcard in force", []*entry{{source: Source{Site: "a"}, cert: expired}, {source: Source{Site: "a"}, cert: wide}}, wide},
		{"the exact before the wildcard", []*entry{{source: Source{Site: "a"}, cert: wide}, {source: Source{Site: "a"}, cert: good}}, good},
		{"all expired", []*entry{{source: Source{Site: "a"}, cert: expired}, {source: Source{Site: "a"}, cert: at(-2*day, -day, wild)}}, expired},
	} {
		s := &Store{entries: c.entries}
		s.swap()
		hello := &tls.ClientHelloInfo{ServerName: name, SupportedVersions: []uint16{tls.VersionTLS13}, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, SupportedCurves: []tls.CurveID{tls.X25519, tls.CurveP256}}
		if got := s.Find("a", hello); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}

func TestStorePicksWhatTheClientSupports(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t, dir)
	store, err := load([]Files{
		issue(t, a, dir, "first", "example.cn"),
		issue(t, a, dir, "second", "example.cn"),
	})
	if err != nil {
		t.Fatal(err)
	}
	hello := &tls.ClientHelloInfo{
		ServerName:        "example.cn",
		SupportedVersions: []uint16{tls.VersionTLS13},
		SignatureSchemes:  []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256},
	}
	if got, _ := store.GetCertificate(hello); subject(got) != "first" {
		t.Errorf("got %q, want the first", subject(got))
	}
	hello.SignatureSchemes = []tls.SignatureScheme{tls.PSSWithSHA256}
	if got, _ := store.GetCertificate(hello); subject(got) != "first" {
		t.Errorf("got %q, want the first though the client supports none", subject(got))
	}
}

func TestLoadRefuses(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t, dir)
	one, two := issue(t, a, dir, "one", "one.cn"), issue(t, a, dir, "two", "two.cn")
	_, err := load([]Files{
		one,
		{Cert: one.Cert, Key: two.Key},
		{Cert: filepath.Join(dir, "none.pem"), Key: one.Key},
		{Cert: a.CertFile(), Key: filepath.Join(dir, "ca.key")},
	})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{"two.key is not the key of", "none.pem", "ca.pem names no host"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error lacks %q:\n%v", want, err)
		}
	}
	if store, err := load(nil); err != nil || store == nil {
		t.Errorf("load(nil) = %v, %v", store, err)
	}
}

func TestAuthorityFiles(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "pki")
	a := newAuthority(t, dir)
	wantMode(t, dir, 0o700)
	wantMode(t, filepath.Join(dir, "ca.key"), 0o600)
	wantMode(t, filepath.Join(dir, "ca.pem"), 0o644)
	ca := readCert(t, a.CertFile())
	if !ca.IsCA || !ca.MaxPathLenZero || len(ca.SubjectKeyId) != 20 || ca.KeyUsage != x509.KeyUsageCertSign|x509.KeyUsageCRLSign {
		t.Errorf("not a proper CA: %+v", ca)
	}
	if years := time.Until(ca.NotAfter).Hours() / 24 / 365; years < 9.99 || years > 10 {
		t.Errorf("CA lives %.2f years", years)
	}

	again, err := OpenAuthority(dir, "Another name")
	if err != nil {
		t.Fatal(err)
	}
	if !again.cert.Equal(ca) {
		t.Error("opening again made another authority")
	}
	if got := again.cert.Subject.CommonName; got != "Causeway test CA" {
		t.Errorf("common name %q", got)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v %v", entries, err)
	}
}

func TestAuthorityRefuses(t *testing.T) {
	for _, test := range []struct {
		name, want string
		spoil      func(dir string) error
	}{
		{"key gone", "ca.key is missing", func(dir string) error { return os.Remove(filepath.Join(dir, "ca.key")) }},
		{"certificate gone", "ca.pem is missing", func(dir string) error { return os.Remove(filepath.Join(dir, "ca.pem")) }},
		{"key of another", "does not match", func(dir string) error {
			other := filepath.Join(dir, "other")
			if _, err := OpenAuthority(other, "Other"); err != nil {
				return err
			}
			return os.Rename(filepath.Join(other, "ca.key"), filepath.Join(dir, "ca.key"))
		}},
		{"a leaf", "not a certificate authority", func(dir string) error {
			a, err := OpenAuthority(dir, "")
			if err != nil {
				return err
			}
			if err := a.Issue(dir, "leaf", []string{"example.cn"}); err != nil {
				return err
			}
			return errors.Join(
				os.Rename(filepath.Join(dir, "leaf.pem"), filepath.Join(dir, "ca.pem")),
				os.Rename(filepath.Join(dir, "leaf.key"), filepath.Join(dir, "ca.key")))
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			newAuthority(t, dir)
			if err := test.spoil(dir); err != nil {
				t.Fatal(err)
			}
			_, err := OpenAuthority(dir, "Again")
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestCreateFileNeverOverwrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "ca.key")
	if err := createFile(path, []byte("first"), keyMode); err != nil {
		t.Fatal(err)
	}
	if err := createFile(path, []byte("second"), keyMode); !errors.Is(err, os.ErrExist) {
		t.Errorf("error %v, want ErrExist", err)
	}
	if got, _ := os.ReadFile(path); string(got) != "first" {
		t.Errorf("content %q", got)
	}
}

func TestIssue(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t, dir)
	site := issue(t, a, dir, "example.cn", "Example.cn", "*.example.cn", "127.0.0.1", "::1")
	wantMode(t, site.Key, 0o600)
	wantMode(t, site.Cert, 0o644)
	leaf := readCert(t, site.Cert)
	if got := strings.Join(leaf.DNSNames, " "); got != "example.cn *.example.cn" || len(leaf.IPAddresses) != 2 {
		t.Errorf("names %q %v", got, leaf.IPAddresses)
	}
	if days := time.Until(leaf.NotAfter).Hours() / 24; days < 396.9 || days > 397 {
		t.Errorf("site certificate lives %.1f days", days)
	}
	if leaf.IsCA || leaf.SerialNumber.BitLen() < 64 || leaf.SerialNumber.BitLen() > 128 {
		t.Errorf("leaf: CA %v, serial of %d bits", leaf.IsCA, leaf.SerialNumber.BitLen())
	}

	for _, hosts := range [][]string{nil, {NodeHost("virginia-1"), "10.1.0.5"}} {
		node := readCert(t, issue(t, a, dir, "virginia-1", hosts...).Cert)
		if years := time.Until(node.NotAfter).Hours() / 24 / 365; years < 4.99 || years > 5 {
			t.Errorf("node certificate lives %.2f years", years)
		}
	}

	before := readCert(t, site.Cert)
	issue(t, a, dir, "example.cn", "example.cn")
	if readCert(t, site.Cert).Equal(before) {
		t.Error("issuing again did not replace the certificate")
	}
	if _, err := tls.LoadX509KeyPair(site.Cert, site.Key); err != nil {
		t.Error(err)
	}
}

func TestIssueRefuses(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t, dir)
	for _, test := range []struct{ name, host, want string }{
		{"ca", "example.cn", "belongs to the authority"},
		{"CA", "example.cn", "belongs to the authority"},
		{"../up", "example.cn", "letters, digits"},
		{"", "example.cn", "letters, digits"},
		{".hidden", "example.cn", "letters, digits"},
		{"site", "localhost:8443", "neither a DNS name"},
		{"site", "例子.cn", "neither a DNS name"},
		{"site", "a b", "neither a DNS name"},
		{"site", NodeHost("virginia-1"), "name of another node"},
	} {
		err := a.Issue(dir, test.name, []string{test.host})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("Issue(%q, %q): %v, want %q", test.name, test.host, err, test.want)
		}
	}
}

// OpenSSL judges what we sign.
func TestOpenSSLVerifies(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	dir := t.TempDir()
	a := newAuthority(t, dir)
	site := issue(t, a, dir, "site", "example.cn", "*.example.cn", "127.0.0.1")
	node := issue(t, a, dir, "virginia_1")
	for _, args := range [][]string{
		{"-x509_strict", "-check_ss_sig", a.CertFile()},
		{"-x509_strict", "-purpose", "sslserver", "-verify_hostname", "www.example.cn", site.Cert},
		{"-x509_strict", "-purpose", "sslserver", "-verify_ip", "127.0.0.1", site.Cert},
		{"-x509_strict", "-purpose", "sslclient", "-verify_hostname", "virginia_1.node.causeway.internal", node.Cert},
		{"-x509_strict", "-purpose", "sslserver", node.Cert},
	} {
		args = append([]string{"verify", "-CAfile", a.CertFile()}, args...)
		out, err := exec.Command(openssl, args...).CombinedOutput()
		if err != nil || !strings.HasSuffix(strings.TrimSpace(string(out)), ": OK") {
			t.Errorf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	out, err := exec.Command(openssl, "x509", "-in", a.CertFile(), "-noout", "-text").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, want := range []string{"CA:TRUE, pathlen:0", "Certificate Sign, CRL Sign", "X509v3 Subject Key Identifier"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("ca.pem lacks %q:\n%s", want, out)
		}
	}
}
