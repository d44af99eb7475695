package cert

// OpenAuthority → readAuthority or createAuthority; Issue → leafTemplate →
// sign → NAME.key and NAME.pem.

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"causeway/keypair"
)

const (
	// authorityLife is how long a new CA certificate is valid.
	authorityLife = 10 * 365 * 24 * time.Hour

	// siteLife keeps a site certificate within what browsers accept of a CA a
	// user has installed (Apple: 825 days) and of any other before 2026 (398).
	siteLife = 397 * 24 * time.Hour

	// nodeLife is longer because nobody but our own nodes reads a node's
	// certificate: no browser rule applies, a node is taken out by leaving its
	// name out of the file, and a link that expires unseen takes the whole
	// crossing with it.
	nodeLife = 5 * 365 * 24 * time.Hour

	// clockSkew is how far a peer's clock may be behind the authority's.
	clockSkew = time.Hour

	caCertName = "ca.pem"
	caKeyName  = "ca.key"
)

// Authority is a private certificate authority kept in a folder as ca.pem and
// ca.key. It is safe for use by several goroutines.
type Authority struct {
	path string
	cert *x509.Certificate
	key  crypto.Signer
}

// OpenAuthority reads the authority of dir, or makes one when dir has neither
// ca.pem nor ca.key: ECDSA P-256, ten years, subject commonName, key file mode
// 0600, folder 0700. It never overwrites: one file without the other, an
// expired certificate or a key of another certificate is an error. An existing
// authority keeps its own common name.
func OpenAuthority(dir, commonName string) (*Authority, error) {
	certPath, keyPath := filepath.Join(dir, caCertName), filepath.Join(dir, caKeyName)
	hasCert, hasKey := exists(certPath), exists(keyPath)
	switch {
	case hasCert && hasKey:
		return readAuthority(certPath, keyPath)
	case hasCert:
		return nil, fmt.Errorf("open authority %s: %s is missing: a node's folder has no key of the authority, work in the folder where it was made", dir, caKeyName)
	case hasKey:
		return nil, fmt.Errorf("open authority %s: %s is missing: put it back, or remove %s to begin a new authority", dir, caCertName, caKeyName)
	}
	return createAuthority(dir, commonName)
}

// CertFile is the path of the authority's certificate, the file to trust.
func (a *Authority) CertFile() string { return a.path }

// Issue signs a new certificate for a fresh key and writes dir/NAME.key (0600)
// and dir/NAME.pem (the leaf; its issuer is the trusted ca.pem itself), each
// replaced whole. hosts are DNS names as A-labels, "*."+labels, or IP
// addresses. Such a certificate is a site's and valid for 397 days.
//
// Without hosts, or when hosts hold NodeHost(name), it is the certificate of
// the node called name on the link, valid for five years.
//
// The certificate may be used by a server and by a client. Its life never goes
// past the authority's own.
func (a *Authority) Issue(dir, name string, hosts []string) error {
	if err := a.issue(dir, name, hosts); err != nil {
		return fmt.Errorf("issue certificate %s: %w", name, err)
	}
	return nil
}

func (a *Authority) issue(dir, name string, hosts []string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if len(hosts) == 0 {
		hosts = []string{NodeHost(name)}
	}
	template, err := leafTemplate(name, hosts)
	if err != nil {
		return err
	}
	if template.NotAfter.After(a.cert.NotAfter) {
		template.NotAfter = a.cert.NotAfter
	}
	key, der, err := sign(template, a.cert, a.key)
	if err != nil {
		return err
	}
	keyText, err := keypair.EncodeKey(key, nil)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return err
	}
	if err := replaceFile(filepath.Join(dir, name+".key"), keyText, keyMode); err != nil {
		return err
	}
	return replaceFile(filepath.Join(dir, name+".pem"), certPEM(der), certMode)
}

func readAuthority(certPath, keyPath string) (*Authority, error) {
	pair, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		return nil, fmt.Errorf("open authority %s: %w", certPath, err)
	}
	key, ok := pair.PrivateKey.(crypto.Signer)
	if !ok || !pair.Leaf.IsCA {
		return nil, fmt.Errorf("open authority %s: it is not a certificate authority (basicConstraints CA)", certPath)
	}
	if time.Now().After(pair.Leaf.NotAfter) {
		return nil, fmt.Errorf("open authority %s: it expired on %s: move the folder away to begin a new authority, and issue every certificate again", certPath, pair.Leaf.NotAfter.Format(time.DateOnly))
	}
	return &Authority{path: certPath, cert: pair.Leaf, key: key}, nil
}

func createAuthority(dir, commonName string) (*Authority, error) {
	a, err := writeAuthority(dir, commonName)
	if err != nil {
		return nil, fmt.Errorf("create authority %s: %w", dir, err)
	}
	return a, nil
}

func writeAuthority(dir, commonName string) (*Authority, error) {
	now := time.Now()
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: commonName},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(authorityLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // leaves only, no authority under this one
	}
	key, der, err := sign(template, nil, nil)
	if err != nil {
		return nil, err
	}
	keyText, err := keypair.EncodeKey(key, nil)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, err
	}
	if err := createFile(filepath.Join(dir, caKeyName), keyText, keyMode); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, caCertName)
	if err := createFile(path, certPEM(der), certMode); err != nil {
		return nil, errors.Join(err, os.Remove(filepath.Join(dir, caKeyName)))
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &Authority{path: path, cert: cert, key: key}, nil
}

// sign makes a P-256 key and its certificate. parent nil signs with the new
// key itself. Serial numbers are 128 random bits (RFC 5280 section 4.1.2.2
// allows 20 octets), key identifiers 160 bits of SHA-256 (RFC 7093 section 2).
func sign(template, parent *x509.Certificate, parentKey crypto.Signer) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	public, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, nil, fmt.Errorf("encode public key: %w", err)
	}
	serial := make([]byte, 16)
	rand.Read(serial) // never fails (crypto/rand)
	id := sha256.Sum256(public)
	template.SerialNumber = new(big.Int).SetBytes(serial)
	template.SubjectKeyId = id[:20]
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		return nil, nil, fmt.Errorf("sign: %w", err)
	}
	return key, der, nil
}

func leafTemplate(name string, hosts []string) (*x509.Certificate, error) {
	now := time.Now()
	t := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		NotBefore:             now.Add(-clockSkew),
		NotAfter:              now.Add(siteLife),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
			continue
		}
		host = normalName(host)
		if !dnsName.MatchString(host) {
			return nil, fmt.Errorf("host %q is neither a DNS name (as A-labels, without a port) nor an IP address", host)
		}
		if strings.HasSuffix(host, nodeSuffix) {
			if host != NodeHost(name) {
				return nil, fmt.Errorf("host %q is the name of another node", host)
			}
			t.NotAfter = now.Add(nodeLife)
		}
		t.DNSNames = append(t.DNSNames, host)
	}
	return t, nil
}

var (
	dnsName  = regexp.MustCompile(`^(\*\.)?([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)(\.[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?)*$`)
	fileName = regexp.MustCompile(`^[a-zA-Z0-9_]([a-zA-Z0-9._-]{0,62})$`)
)

// checkName holds name to what is safe as a file's and fits a common name
// (RFC 5280 appendix A.1, ub-common-name 64).
func checkName(name string) error {
	if !fileName.MatchString(name) {
		return errors.New("the name must be 1 to 63 letters, digits, '-', '_' or '.', not beginning with '.' or '-'")
	}
	if strings.EqualFold(name, "ca") {
		return errors.New("the name belongs to the authority's own files: choose another")
	}
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
