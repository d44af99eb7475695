package cert

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"causeway/keypair"
)

// signedBy is a certificate of the test, and its key.
type signedBy struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// signFor makes a certificate; by nil signs itself.
func signFor(t *testing.T, by *signedBy, name string, change func(*x509.Certificate)) *signedBy {
	t.Helper()
	c := &x509.Certificate{Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(240 * time.Hour), BasicConstraintsValid: true}
	change(c)
	var parent *x509.Certificate
	var parentKey crypto.Signer
	if by != nil {
		parent, parentKey = by.cert, by.key
	}
	key, der, err := sign(c, parent, parentKey)
	if err != nil {
		t.Fatal(err)
	}
	made, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &signedBy{made, key}
}

func isAuthority(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign }

// TestOCSPSigners: an answer is the issuer's, or of somebody whom the issuer has
// give answers, whatever comes along with it; and the issuer is found where it is.
func TestOCSPSigners(t *testing.T) {
	root := signFor(t, nil, "Root", isAuthority)
	between := signFor(t, root, "Between", isAuthority)
	for _, test := range []struct {
		what   string
		issuer *signedBy
		signer func(issuer *signedBy) *signedBy
		along  bool // the signer's certificate
		says   string
	}{
		{"the issuer", between, nil, false, ""},
		{"the issuer, whose certificate comes along", between, nil, true, ""},
		{"a root, which is not in the chain", root, nil, true, ""},
		{"who may", between, func(issuer *signedBy) *signedBy {
			return signFor(t, issuer, "Responder", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} })
		}, true, ""},
		{"another site of the issuer's", between, func(issuer *signedBy) *signedBy {
			return signFor(t, issuer, "example.org", func(c *x509.Certificate) { c.DNSNames = []string{"example.org"} })
		}, true, "is not for OCSP"},
		{"somebody else", between, func(*signedBy) *signedBy {
			return signFor(t, root, "Responder", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning} })
		}, true, "the issuer did not sign the responder's certificate"},
		{"somebody else, without a certificate", between, func(*signedBy) *signedBy { return signFor(t, nil, "Between", isAuthority) }, false, "verification failure"},
	} {
		signer := test.issuer
		if test.signer != nil {
			signer = test.signer(test.issuer)
		}
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
			question := make([]byte, 1<<10)
			n, _ := req.Body.Read(question)
			asked, err := ocsp.ParseRequest(question[:n])
			if err != nil {
				t.Error(err)
				return
			}
			template := ocsp.Response{Status: ocsp.Good, SerialNumber: asked.SerialNumber, ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}
			if test.along {
				template.Certificate = signer.cert
			}
			answer, err := ocsp.CreateResponse(test.issuer.cert, signer.cert, template, signer.key)
			if err != nil {
				t.Error(err)
				return
			}
			_, _ = w.Write(answer)
		}))
		leaf := signFor(t, test.issuer, "example.cn", func(c *x509.Certificate) {
			c.DNSNames, c.OCSPServer = []string{"example.cn"}, []string{server.URL}
		})
		dir := t.TempDir()
		files := Files{Cert: filepath.Join(dir, "a.pem"), Key: filepath.Join(dir, "a.key")}
		key, err := keypair.EncodeKey(leaf.key, nil)
		if err != nil {
			t.Fatal(err)
		}
		for file, text := range map[string][]byte{files.Cert: append(certPEM(leaf.cert.Raw), certPEM(test.issuer.cert.Raw)...), files.Key: key} {
			if err := os.WriteFile(file, text, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Load([]Source{{Site: "shop", Files: files}}, nil, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		s.dueStaples(context.Background(), server.Client(), time.Now())
		c, _ := s.GetCertificate(&tls.ClientHelloInfo{ServerName: "example.cn"})
		if got := s.State()[0].Err; len(c.OCSPStaple) > 0 != (test.says == "") || !strings.Contains(got, test.says) || test.says == "" && got != "" {
			t.Errorf("signed by %s: a staple of %d bytes, the state says %q, want %q", test.what, len(c.OCSPStaple), got, test.says)
		}
		server.Close()
	}
}

// TestStapleEnds: however long the pause after failures, an answer is let go when
// it is over.
func TestStapleEnds(t *testing.T) {
	root := signFor(t, nil, "Root", isAuthority)
	leaf := signFor(t, root, "example.cn", func(c *x509.Certificate) { c.DNSNames = []string{"example.cn"} })
	at := time.Now()
	c := &tls.Certificate{Leaf: leaf.cert, Certificate: [][]byte{leaf.cert.Raw}, OCSPStaple: []byte("answer")}
	e := &entry{cert: c, staple: staple{until: at.Add(20 * time.Minute), pause: 30 * time.Minute}}
	s := &Store{log: slog.New(slog.DiscardHandler), entries: []*entry{e}}
	if s.stapleFailed(e, c, context.DeadlineExceeded, at) || !e.staple.next.Equal(e.staple.until) {
		t.Errorf("is asked for again at %v, the answer in use ends at %v", e.staple.next, e.staple.until)
	}
	if !s.stapleFailed(e, c, context.DeadlineExceeded, e.staple.until) || e.cert.OCSPStaple != nil {
		t.Error("an answer that is over is stapled")
	}
}
