// Package keypair reads a certificate and its key as their owner has them, and
// says what is wrong with them.
//
// The path of a pair:
//
//  1. read.go: Read takes the files (PEM, PKCS#12, a key behind a password) as
//     they are at one moment,
//  2. chain.go: the chain is put in order, leaf first; what does not belong to it
//     is left out,
//  3. judge.go: what browsers or the owner would not take is said: dates, names,
//     strength, who signed it.
//
// It refuses what can't be served: no certificate, no key, the key of another, a
// wrong password, a key or a signature that browsers do not take. It serves
// nothing, follows nothing and asks nobody.
package keypair

import (
	"crypto/x509"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"
)

// Files name one certificate as its owner has it.
type Files struct {
	Cert   string // PEM: the leaf and the intermediate ones; or PKCS#12, with the key
	Key    string // PEM; "" where Cert has the key too
	Secret string // the file with the password of the key or of the PKCS#12; "" for none
}

// Part is a file of Files.
type Part string

// The parts, named as the keys of the file.
const (
	Cert   Part = "cert"
	Key    Part = "key"
	Secret Part = "secret"
)

// Problem is one thing that is wrong with a pair.
type Problem struct {
	Part   Part
	Level  Level
	What   string // what is wrong, with the name of the file
	Mend   string // what to do about it
	Expiry bool   // it is that the pair ends soon
}

// Level is how bad a Problem is.
type Level int

// The levels.
const (
	Fatal   Level = iota // the pair can't be served
	Wrong                // it can, and clients will not like it: it expired
	Warning              // some clients or the owner may not like it
)

// Error is what is wrong, and the mend.
func (p *Problem) Error() string { return p.What + "; " + p.Mend }

// Refused is the first problem that keeps a pair from being served, nil for none.
func Refused(problems []*Problem) error {
	for _, p := range problems {
		if p.Level == Fatal {
			return p
		}
	}
	return nil
}

// Stamp tells whether the files of a pair changed.
type Stamp [3]stamp

type stamp struct {
	info fs.FileInfo
	err  bool
}

// StampOf looks at the files, and reads none.
func StampOf(files Files) (s Stamp) {
	for i, path := range []string{files.Cert, files.Key, files.Secret} {
		if path != "" {
			info, err := os.Stat(path)
			s[i] = stamp{info, err != nil}
		}
	}
	return s
}

// Same reports whether nothing changed between the two.
func (s Stamp) Same(as Stamp) bool {
	for i, a := range s {
		b := as[i]
		switch {
		case a.err != b.err || (a.info == nil) != (b.info == nil):
			return false
		case a.info == nil:
		case !os.SameFile(a.info, b.info) || !a.info.ModTime().Equal(b.info.ModTime()) || a.info.Size() != b.info.Size():
			return false
		}
	}
	return true
}

// KeyType names the kind of a certificate's key, as people write it: "ECDSA P-256",
// "RSA 2048".
func KeyType(leaf *x509.Certificate) string { return typeOf(leaf.PublicKey) }

// expiryMarks are the days before the end at which an owner is told, the most
// urgent first.
var expiryMarks = []int{1, 7, 14, 30}

// Mark is the least of 30, 14, 7, 1 days in which a certificate ends, 0 for one
// that has ended, -1 for none of them.
func Mark(notAfter, now time.Time) int {
	left := notAfter.Sub(now)
	if left <= 0 {
		return 0
	}
	for _, days := range expiryMarks {
		if left <= time.Duration(days)*24*time.Hour {
			return days
		}
	}
	return -1
}

// Left words how long a certificate has yet.
func Left(notAfter, now time.Time) string {
	left := notAfter.Sub(now)
	switch days := int(left.Hours() / 24); {
	case left <= 0:
		return "it has expired"
	case days == 0:
		return fmt.Sprintf("%d hours are left", int(left.Hours()))
	case days == 1:
		return "1 day is left"
	default:
		return fmt.Sprintf("%d days are left", days)
	}
}

// list is some names for a message.
func list(names []string) string {
	const most = 8
	switch {
	case len(names) == 0:
		return "no name"
	case len(names) > most:
		return strings.Join(names[:most], ", ") + fmt.Sprintf(" and %d more", len(names)-most)
	}
	return strings.Join(names, ", ")
}
