package cert

import (
	"crypto/x509"
	"fmt"
	"time"

	"causeway/keypair"
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
		Names: keypair.Names(leaf), Issuer: keypair.Issuer(leaf), Serial: fmt.Sprintf("%x", leaf.SerialNumber),
		Key: keypair.KeyType(leaf), NotBefore: leaf.NotBefore, NotAfter: leaf.NotAfter,
	}
}

// Left is how long the certificate is in force yet; less than 0 when it has
// expired.
func (s *State) Left(now time.Time) time.Duration { return s.NotAfter.Sub(now) }
