package audit

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"causeway/config"
)

// link of a chain: a certificate and its key.
type chainLink struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// signChain makes a certificate that says, where at is not "", that its issuer's
// is to be had there; by nil signs itself.
func signChain(t *testing.T, by *chainLink, name, at string) *chainLink {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(2000 * time.Hour), BasicConstraintsValid: true}
	if strings.Contains(name, ".") {
		c.DNSNames = []string{name}
	} else {
		c.IsCA, c.KeyUsage = true, x509.KeyUsageCertSign
	}
	if at != "" {
		c.IssuingCertificateURL = []string{at}
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &chainLink{cert, key}
}

// TestChains: what is missing is found where the certificates say, in DER or in
// PEM, one or several; and it is said when it is not there, or another's.
func TestChains(t *testing.T) {
	answers := map[string][]byte{}
	asked := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked++
		if answers[r.URL.Path] == nil {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(answers[r.URL.Path])
	}))
	defer server.Close()
	root, private := signChain(t, nil, "Root", ""), signChain(t, nil, "Private", "")
	upper := signChain(t, root, "Upper", server.URL+"/root")
	lower := signChain(t, upper, "Lower", server.URL+"/upper.pem")
	answers["/root"] = root.cert.Raw
	answers["/upper.pem"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: upper.cert.Raw})
	answers["/lower"] = lower.cert.Raw
	answers["/other"] = upper.cert.Raw
	answers["/broken"] = []byte("<html>")
	roots := x509.NewCertPool()
	roots.AddCert(root.cert)
	for _, test := range []struct {
		what  string
		by    *chainLink
		at    string
		file  []*chainLink // behind the leaf
		asked int
		msg   string
		mend  string
	}{
		{"whole", lower, "/lower", []*chainLink{lower, upper}, 0, "", ""},
		{"one is missing", lower, "/lower", []*chainLink{lower}, 1, "an intermediate certificate is missing, that of Upper: clients that do not look for it themselves refuse the site", "put it behind the others: curl -s 'URL/upper.pem' | openssl x509 -inform der >>CERT"},
		{"all are", lower, "/lower", nil, 2, "an intermediate certificate is missing, that of Lower and of Upper: clients", "put it behind the others: curl -s 'URL/lower' | openssl x509 -inform der >>CERT; curl -s 'URL/upper.pem' |"},
		{"signed by the root", root, "", nil, 0, "", ""},
		{"a private authority's", private, "", nil, 0, "", ""},
		{"nobody is there", lower, "/nothing", nil, 1, "an intermediate certificate is missing, that of Lower, and could not be had from URL/nothing: it answers 404 Not Found", "put it into CERT, behind the others"},
		{"another's is there", lower, "/other", nil, 1, "an intermediate certificate is missing, that of Lower, and could not be had from URL/other: ", ""},
		{"something else is there", lower, "/broken", nil, 1, "an intermediate certificate is missing, that of Lower, and could not be had from URL/broken: x509: ", ""},
		{"it is not to be had over HTTP", lower, "ldap:", nil, 0, "could not be had from ldap://x/: ", ""},
	} {
		at := ""
		switch {
		case test.at == "ldap:":
			at = "ldap://x/"
		case test.at != "":
			at = server.URL + test.at
		}
		leaf := signChain(t, test.by, "example.cn", at)
		dir := t.TempDir()
		text := ""
		for _, of := range append([]*chainLink{leaf}, test.file...) {
			text += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: of.cert.Raw}))
		}
		der, err := x509.MarshalPKCS8PrivateKey(leaf.key)
		if err != nil {
			t.Fatal(err)
		}
		for name, text := range map[string]string{"a.pem": text, "b.pem": text, "a.key": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cfg, err := config.Parse(filepath.Join(dir, "causeway.yaml"), []byte("sites:\n- {name: shop, hosts: {example.cn: https://example.com}, tls: {certs: [{cert: a.pem, key: a.key}, {cert: b.pem, key: a.key}]}}\n"))
		if err != nil {
			t.Fatal(err)
		}
		asked = 0
		found := Chains(t.Context(), cfg, cfg.Nodes[0], roots)
		if asked != test.asked {
			t.Errorf("%s: asked %d times, want %d", test.what, asked, test.asked)
		}
		if test.msg == "" {
			if len(found) > 0 {
				t.Errorf("%s: %v", test.what, found)
			}
			continue
		}
		if len(found) != 2 {
			t.Errorf("%s: %v", test.what, found)
			continue
		}
		whole := strings.NewReplacer("URL", server.URL, "CERT", filepath.Join(dir, "a.pem"))
		if f := found[0]; f.Level != Warning || f.Host != "https://example.cn" || !strings.Contains(f.Msg, whole.Replace(test.msg)) || !strings.HasPrefix(f.Mend, whole.Replace(test.mend)) {
			t.Errorf("%s: %v", test.what, f)
		}
	}
}
