package cert

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
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

	"causeway/keypair"
)

func newIdentity(t *testing.T, dir, node string) *LinkIdentity {
	t.Helper()
	l, err := LinkTLS(dir, node)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// issueExpired writes the certificate of a node that ended a day ago.
func issueExpired(t *testing.T, a *Authority, dir, node string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: node},
		DNSNames:     []string{NodeHost(node)},
		NotBefore:    time.Now().Add(-48 * time.Hour),
		NotAfter:     time.Now().Add(-24 * time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &key.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	text, err := keypair.EncodeKey(key, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		replaceFile(filepath.Join(dir, node+".pem"), certPEM(der), certMode),
		replaceFile(filepath.Join(dir, node+".key"), text, keyMode))
	if err != nil {
		t.Fatal(err)
	}
}

func TestLink(t *testing.T) {
	ours, theirs := t.TempDir(), t.TempDir()
	a, foreign := newAuthority(t, ours), newAuthority(t, theirs)
	for _, node := range []string{"shanghai-1", "virginia-1", "tokyo-1"} {
		issue(t, a, ours, node)
		issue(t, foreign, theirs, node)
	}
	issueExpired(t, a, ours, "old-1")
	site := issue(t, a, ours, "example.cn", "example.cn")
	sitePair, err := tls.LoadX509KeyPair(site.Cert, site.Key)
	if err != nil {
		t.Fatal(err)
	}
	relay := newIdentity(t, ours, "virginia-1")

	bare := newIdentity(t, ours, "shanghai-1").Client("virginia-1")
	bare.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return new(tls.Certificate), nil }
	asSite := newIdentity(t, ours, "shanghai-1").Client("virginia-1")
	asSite.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &sitePair, nil }
	noALPN := trusting(newIdentity(t, ours, "shanghai-1").Client("virginia-1"))
	noALPN.NextProtos = nil
	old := newIdentity(t, ours, "shanghai-1").Client("virginia-1")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12

	for _, test := range []struct {
		name       string
		allowed    []string
		client     *tls.Config
		serverWant string // in the server's error, "" = none
		clientWant string
	}{
		{"right peer", []string{"tokyo-1", "shanghai-1"}, newIdentity(t, ours, "shanghai-1").Client("virginia-1"), "", ""},
		{"case does not matter", []string{"Shanghai-1"}, newIdentity(t, ours, "shanghai-1").Client("VIRGINIA-1"), "", ""},
		{"client of another name", []string{"shanghai-1", "beijing-1"}, newIdentity(t, ours, "tokyo-1").Client("virginia-1"),
			"it is node tokyo-1, expected node shanghai-1 or beijing-1", "bad certificate"},
		{"nobody allowed", nil, newIdentity(t, ours, "shanghai-1").Client("virginia-1"),
			"it is node shanghai-1, no node is allowed", "bad certificate"},
		{"server of another name", []string{"shanghai-1"}, newIdentity(t, ours, "shanghai-1").Client("tokyo-1"),
			"bad certificate", "it is node virginia-1, expected node tokyo-1"},
		{"client of another authority", []string{"shanghai-1"}, trusting(newIdentity(t, theirs, "shanghai-1").Client("virginia-1")),
			"it says it is node shanghai-1, expected node shanghai-1: its certificate is signed by another authority (CN=Causeway test CA)", "bad certificate"},
		{"server of another authority", []string{"shanghai-1"}, newIdentity(t, theirs, "shanghai-1").Client("virginia-1"),
			"bad certificate", "it says it is node virginia-1, expected node virginia-1: its certificate is signed by another authority"},
		{"no client certificate", []string{"shanghai-1"}, bare, "client didn't provide a certificate", "certificate required"},
		{"a site's certificate", []string{"shanghai-1", "example.cn"}, asSite,
			`it is no node (subject "CN=example.cn", hosts ["example.cn"])`, "bad certificate"},
		{"expired", []string{"old-1"}, newIdentity(t, ours, "old-1").Client("virginia-1"),
			"it says it is node old-1, expected node old-1: x509: certificate has expired", "bad certificate"},
		{"no ALPN", []string{"shanghai-1"}, noALPN, `it agreed to protocol "" instead of "h2"`, "bad certificate"},
		{"TLS 1.2", []string{"shanghai-1"}, old, "unsupported versions", "protocol version not supported"},
	} {
		t.Run(test.name, func(t *testing.T) {
			state, serverErr, clientErr := handshake(t, relay.Server(test.allowed), test.client)
			wantError(t, "server", serverErr, test.serverWant)
			wantError(t, "client", clientErr, test.clientWant)
			if test.serverWant == "" && PeerNode(state) != "virginia-1" {
				t.Errorf("PeerNode = %q", PeerNode(state))
			}
			var peer *PeerError
			if strings.Contains(test.serverWant, "expected node") && !errors.As(serverErr, &peer) {
				t.Errorf("server error is a %T", serverErr)
			}
		})
	}
}

// trusting makes a client that verifies nothing, to reach the server's check.
func trusting(c *tls.Config) *tls.Config {
	c.VerifyConnection = nil
	return c
}

func wantError(t *testing.T, side string, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("%s: %v", side, err)
	case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
		t.Errorf("%s: error %v, want %q", side, err, want)
	}
}

// A client with a session cache is not let past the check by a ticket.
func TestLinkNeverResumes(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t, dir)
	issue(t, a, dir, "shanghai-1")
	issue(t, a, dir, "virginia-1")
	server := newIdentity(t, dir, "virginia-1").Server([]string{"shanghai-1"})
	client := newIdentity(t, dir, "shanghai-1").Client("virginia-1")
	client.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	client.ServerName = "virginia-1"
	for range 2 {
		state, serverErr, clientErr := handshake(t, server, client)
		if err := errors.Join(serverErr, clientErr); err != nil || state.DidResume {
			t.Fatalf("resumed %v, error %v", state.DidResume, err)
		}
	}
}

func TestLinkOverPipe(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t, dir)
	issue(t, a, dir, "shanghai-1")
	issue(t, a, dir, "virginia-1")
	here, there := net.Pipe()
	server := tls.Server(there, newIdentity(t, dir, "virginia-1").Server([]string{"shanghai-1"}))
	client := tls.Client(here, newIdentity(t, dir, "shanghai-1").Client("virginia-1"))
	var serverErr error
	var served sync.WaitGroup
	served.Go(func() { serverErr = server.Handshake() })
	if err := client.Handshake(); err != nil {
		t.Fatal(err)
	}
	served.Wait()
	if serverErr != nil {
		t.Fatal(serverErr)
	}
	if got := PeerNode(server.ConnectionState()); got != "shanghai-1" {
		t.Errorf("PeerNode = %q", got)
	}
}

func TestLinkRotates(t *testing.T) {
	dir := t.TempDir()
	a := newAuthority(t, dir)
	issue(t, a, dir, "shanghai-1")
	issue(t, a, dir, "virginia-1")
	server := newIdentity(t, dir, "virginia-1").Server([]string{"shanghai-1"})
	client := newIdentity(t, dir, "shanghai-1").Client("virginia-1")
	serial := func() string {
		t.Helper()
		state, serverErr, clientErr := handshake(t, server, client)
		if err := errors.Join(serverErr, clientErr); err != nil {
			t.Fatal(err)
		}
		return state.PeerCertificates[0].SerialNumber.String()
	}
	first := serial()
	issue(t, a, dir, "virginia-1")
	issue(t, a, dir, "shanghai-1")
	second := serial()
	if first == second {
		t.Error("the renewed certificate is not in use")
	}

	// Half replaced: the key is another's. The one before stays, one warning.
	var log bytes.Buffer
	defer slog.SetDefault(slog.Default())
	slog.SetDefault(slog.New(slog.NewTextHandler(&log, nil)))
	elsewhere := t.TempDir()
	issue(t, a, elsewhere, "virginia-1")
	for _, ext := range []string{".key", ".pem"} {
		for range 2 {
			if serial() != second {
				t.Error("a half replaced certificate is in use")
			}
		}
		name := "virginia-1" + ext
		if err := os.Rename(filepath.Join(elsewhere, name), filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if serial() == second {
		t.Error("the wholly replaced certificate is not in use")
	}
	if got := strings.Count(log.String(), "keeping the one before"); got != 1 {
		t.Errorf("%d warnings:\n%s", got, log.String())
	}

	// A new authority: first both are trusted, then the new one alone.
	next := newAuthority(t, elsewhere)
	old, err := os.ReadFile(a.CertFile())
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := os.ReadFile(next.CertFile())
	if err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(a.CertFile(), append(old, fresh...), certMode); err != nil {
		t.Fatal(err)
	}
	third := serial()
	issue(t, next, dir, "virginia-1")
	if serial() == third {
		t.Error("the certificate of the new authority is not in use")
	}
	issue(t, next, dir, "shanghai-1")
	if err := replaceFile(a.CertFile(), fresh, certMode); err != nil {
		t.Fatal(err)
	}
	serial()
}

func TestLinkTLSRefuses(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	a, foreign := newAuthority(t, dir), newAuthority(t, other)
	issue(t, a, dir, "site", "example.cn")
	issue(t, foreign, other, "tokyo-1")
	for _, ext := range []string{".pem", ".key"} {
		if err := os.Rename(filepath.Join(other, "tokyo-1"+ext), filepath.Join(dir, "tokyo-1"+ext)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ node, want string }{
		{"nobody", "nobody.pem"},
		{"site", "not of node site: make one with `causeway link-ca`"},
		{"tokyo-1", "tokyo-1.pem against"},
		{"../tokyo-1", "letters, digits"},
	} {
		_, err := LinkTLS(dir, test.node)
		wantError(t, test.node, err, test.want)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.pem"), []byte("nothing"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := LinkTLS(dir, "tokyo-1")
	wantError(t, "tokyo-1", err, "no certificate in it")
}

// OpenSSL's client comes in with a node's files, and not without.
func TestOpenSSLConnects(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	dir := t.TempDir()
	a := newAuthority(t, dir)
	edge := issue(t, a, dir, "shanghai-1")
	issue(t, a, dir, "virginia-1")
	config := newIdentity(t, dir, "virginia-1").Server([]string{"shanghai-1"})
	for _, withCert := range []bool{true, false} {
		listener, err := tls.Listen("tcp", "127.0.0.1:0", config)
		if err != nil {
			t.Fatal(err)
		}
		var serverErr error
		var served sync.WaitGroup
		served.Go(func() {
			conn, err := listener.Accept()
			if err != nil {
				serverErr = err
				return
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			serverErr = conn.(*tls.Conn).Handshake()
		})
		args := []string{"s_client", "-connect", listener.Addr().String(), "-alpn", "h2", "-CAfile", a.CertFile(),
			"-verify_return_error", "-verify_hostname", NodeHost("virginia-1")}
		if withCert {
			args = append(args, "-cert", edge.Cert, "-key", edge.Key)
		}
		out, err := exec.Command(openssl, args...).CombinedOutput()
		served.Wait()
		listener.Close()
		if withCert && (err != nil || serverErr != nil || !strings.Contains(string(out), "Verify return code: 0 (ok)")) {
			t.Errorf("with a certificate: %v, server %v\n%s", err, serverErr, out)
		}
		if !withCert && serverErr == nil {
			t.Errorf("let in without a certificate\n%s", out)
		}
	}
}
