package cert

import (
	"crypto/dsa"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"time"
)

// State is one certificate as it is shown now, for people: `causeway cert
// list`, the admin address, the metrics.
type State struct {
	Site   string   `json:"site"`
	Names  []string `json:"names"`
	Issuer string   `json:"issuer"` // the authority's name
	Serial string   `json:"serial"` // hexadecimal
	Source string   `json:"source"` // SourceFile or SourceACME
	Where  string   `json:"where"`  // the path of the file, or the CA
	Key    string   `json:"key"`    // "ECDSA P-256", "RSA 2048"

	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`

	// Err is what is wrong with it now: why a changed file is not in use, why it
	// could not be renewed. "" when all is well. Where there is no certificate
	// at all the times are zero.
	Err string `json:"error,omitempty"`
}

// The values of State.Source.
const (
	SourceFile = "file"
	SourceACME = "acme"
)

// StateOf is what a leaf says of itself.
func StateOf(leaf *x509.Certificate) State {
	return State{
		Names: namesIn(leaf), Issuer: NameOf(leaf.Issuer.CommonName, leaf.Issuer.Organization, leaf.Issuer.String()),
		Serial: fmt.Sprintf("%x", leaf.SerialNumber), Key: KeyName(leaf.PublicKey),
		NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
	}
}

// Left is how long the certificate is in force yet; less than 0 when it has
// expired.
func (s *State) Left(now time.Time) time.Duration { return s.NotAfter.Sub(now) }

// NameOf is the shortest that names an authority for people: its common name, with
// its organisation where that says more.
func NameOf(common string, organisations []string, whole string) string {
	switch {
	case common != "" && len(organisations) > 0 && organisations[0] != common:
		return common + ", " + organisations[0]
	case common != "":
		return common
	}
	return whole
}

// KeyName is the kind and the size of a public key.
func KeyName(public any) string {
	switch key := public.(type) {
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case ed25519.PublicKey:
		return "Ed25519"
	case *dsa.PublicKey:
		return fmt.Sprintf("DSA %d", key.P.BitLen())
	}
	return fmt.Sprintf("%T", public)
}

// namesIn are the names a certificate is for.
func namesIn(leaf *x509.Certificate) []string {
	names := append([]string(nil), leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}
