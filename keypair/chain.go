package keypair

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
)

// inOrder is the chain of the certificate that key belongs to, leaf first, each
// signed by the next (RFC 8446 §4.4.2), without a root, which every client has or
// does not trust, and without what does not belong to it. It is false when none
// belongs to key.
func inOrder(all []*x509.Certificate, key crypto.PublicKey) ([]*x509.Certificate, bool) {
	comparable, ok := key.(interface{ Equal(crypto.PublicKey) bool })
	if !ok {
		return nil, false
	}
	var chain []*x509.Certificate
	for _, c := range all {
		if comparable.Equal(c.PublicKey) {
			chain = append(chain, c)
			break
		}
	}
	if chain == nil {
		return nil, false
	}
	for {
		last := chain[len(chain)-1]
		next := signerOf(last, all)
		if next == nil || len(chain) > len(all) {
			return chain, true
		}
		if selfSigned(next) {
			return chain, true
		}
		chain = append(chain, next)
	}
}

// signerOf finds who signed c among all; nil for itself and for nobody.
func signerOf(c *x509.Certificate, all []*x509.Certificate) *x509.Certificate {
	if selfSigned(c) {
		return nil
	}
	for _, other := range all {
		if bytes.Equal(other.RawSubject, c.RawIssuer) && !bytes.Equal(other.Raw, c.Raw) && c.CheckSignatureFrom(other) == nil {
			return other
		}
	}
	return nil
}

// SignerIn is who signed a certificate, as the files of it have that; nil when
// they have not. Chain is without it when it is a root.
func SignerIn(files Files, leaf *x509.Certificate) *x509.Certificate {
	r := &reading{files: files}
	r.read()
	return signerOf(leaf, r.chain)
}

func selfSigned(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, c.RawIssuer) }

// Chain is the certificates of a pair, the leaf first.
func Chain(c *tls.Certificate) []*x509.Certificate {
	chain := []*x509.Certificate{c.Leaf}
	for _, der := range c.Certificate[1:] {
		if one, err := x509.ParseCertificate(der); err == nil {
			chain = append(chain, one)
		}
	}
	return chain
}

// LeafOf is the first of some certificates that is no authority's, the first of
// all where there is none. There must be one.
func LeafOf(all []*x509.Certificate) *x509.Certificate {
	for _, c := range all {
		if !c.IsCA {
			return c
		}
	}
	return all[0]
}
