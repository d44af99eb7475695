package keypair

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"

	"github.com/youmark/pkcs8"
	"software.sslmate.com/src/go-pkcs12"
)

// Extend puts the chain of c in order again, with what more has of it. What does
// not belong to it is left out, as by Read.
func Extend(c *tls.Certificate, more []*x509.Certificate) {
	chain, ok := inOrder(append(Chain(c), more...), c.Leaf.PublicKey)
	if !ok {
		return // the leaf is in it, and has that key
	}
	c.Leaf, c.Certificate = chain[0], nil
	for _, one := range chain {
		c.Certificate = append(c.Certificate, one.Raw)
	}
}

// EncodeChain is the chain of c in PEM, the leaf first.
func EncodeChain(c *tls.Certificate) []byte {
	var text bytes.Buffer
	for _, der := range c.Certificate {
		_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // into memory
	}
	return text.Bytes()
}

// lock is how a key is locked: PBES2 with AES-256-CBC (RFC 8018 section 6.2), which
// every OpenSSL since 1.1 opens. A node opens a key at its start and when it
// changes: the rounds take it some tens of milliseconds.
var lock = &pkcs8.Opts{Cipher: pkcs8.AES256CBC, KDFOpts: pkcs8.PBKDF2Opts{SaltSize: 16, IterationCount: 100_000, HMACHash: crypto.SHA256}}

// EncodeKey is a private key in PEM: PKCS#8, behind secret where that is not
// empty.
func EncodeKey(key any, secret []byte) ([]byte, error) {
	kind, der, err := "PRIVATE KEY", []byte(nil), error(nil)
	if len(secret) > 0 {
		kind = "ENCRYPTED PRIVATE KEY"
		der, err = pkcs8.MarshalPrivateKey(key, secret, lock)
	} else {
		der, err = x509.MarshalPKCS8PrivateKey(key)
	}
	if err != nil {
		return nil, fmt.Errorf("encode private key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), nil
}

// EncodePKCS12 is a pair as PKCS#12, behind secret, which may be empty.
func EncodePKCS12(c *tls.Certificate, secret []byte) ([]byte, error) {
	data, err := pkcs12.Modern.Encode(c.PrivateKey, c.Leaf, Chain(c)[1:], string(secret))
	if err != nil {
		return nil, fmt.Errorf("encode PKCS#12: %w", err)
	}
	return data, nil
}
