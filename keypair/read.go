package keypair

// Read → content of each file → readPEM or readPKCS12 → chain → fits.

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/youmark/pkcs8"
	"software.sslmate.com/src/go-pkcs12"
)

// mostBytes of a file are read: a chain of a hundred certificates, and a PKCS#12
// of them.
const mostBytes = 1 << 20

// reading is one pair that is being read.
type reading struct {
	files    Files
	problems []*Problem
	secret   []byte
	chain    []*x509.Certificate
	key      crypto.Signer
}

// Files that change while they are read are read again: whoever writes them needs
// less than changesMost pauses.
const (
	changesMost  = 4
	changesPause = 25 * time.Millisecond
)

// Read reads a pair, all its files as of one moment. It is nil when there is a
// problem that keeps it from being served (Refused). The problems of dates, names,
// strength and origin are Judge's.
func Read(files Files) (*tls.Certificate, []*Problem) { return readWhole(files, StampOf) }

// readWhole is Read; look is StampOf.
func readWhole(files Files, look func(Files) Stamp) (*tls.Certificate, []*Problem) {
	for try := 1; ; try++ {
		before := look(files)
		r := &reading{files: files}
		if r.read(); len(r.chain) > 0 && r.key != nil && Refused(r.problems) == nil {
			c, problems := r.pair()
			if look(files).Same(before) {
				return c, problems
			}
		} else if look(files).Same(before) {
			return nil, r.problems
		}
		if try == changesMost {
			return nil, []*Problem{{Part: Cert, What: fmt.Sprintf("%s, or what belongs to it, changed each time it was read", files.Cert),
				Mend: "have it written under another name, and renamed when it is whole"}}
		}
		time.Sleep(changesPause)
	}
}

// read reads what the files hold.
func (r *reading) read() {
	files := r.files
	data, okCert := r.content(Cert, files.Cert)
	var keyData []byte
	okKey := true
	if files.Key != "" {
		keyData, okKey = r.content(Key, files.Key)
	}
	if files.Secret != "" {
		secret, problem := ReadSecret(files.Secret)
		if problem != nil {
			r.problems = append(r.problems, problem)
			return
		}
		r.secret = secret
		defer clear(secret)
	}
	switch {
	case okCert && isPKCS12(files.Cert, data):
		r.readPKCS12(data)
	default:
		if okCert {
			r.certificates(data)
		}
		if files.Key == "" && okCert {
			keyData, okKey = data, true
		}
		if okKey && (files.Key != "" || okCert) {
			r.readKey(keyData)
		}
	}
}

func (r *reading) wrong(part Part, mend, format string, args ...any) {
	r.problems = append(r.problems, &Problem{Part: part, What: fmt.Sprintf(format, args...), Mend: mend})
}

// content is a file's.
func (r *reading) content(part Part, file string) ([]byte, bool) {
	data, problem := Content(part, file, "")
	if problem != nil {
		r.problems = append(r.problems, problem)
		return nil, false
	}
	if len(bytes.TrimSpace(data)) == 0 {
		r.wrong(part, "write the file again", "%s is empty", file)
		return nil, false
	}
	return data, true
}

// ReadSecret is the password in a file: its first line.
func ReadSecret(file string) ([]byte, *Problem) {
	data, problem := Content(Secret, file, "")
	if problem != nil {
		return nil, problem
	}
	line, _, _ := bytes.Cut(data, []byte("\n"))
	if line = bytes.TrimSuffix(line, []byte("\r")); len(line) == 0 {
		return nil, &Problem{Part: Secret, What: "the first line of " + file + " is empty", Mend: "write the password into it"}
	}
	return line, nil
}

// readTime is how long a file may take that is a pipe.
const readTime = 5 * time.Second

// Content is that of a file, or why it can't be had. mend is for one that is
// missing, "" the usual one.
func Content(part Part, file, mend string) ([]byte, *Problem) {
	f, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a pipe that nobody writes to is empty
	var data []byte
	if err == nil {
		_ = f.SetReadDeadline(time.Now().Add(readTime)) // of a pipe: other files have none
		data, err = io.ReadAll(io.LimitReader(f, mostBytes+1))
		f.Close()
	}
	wrong := func(mend, format string, args ...any) ([]byte, *Problem) {
		return nil, &Problem{Part: part, What: fmt.Sprintf(format, args...), Mend: mend}
	}
	var cause *fs.PathError
	switch {
	case err == nil && len(data) > mostBytes:
		return wrong("name the right file", "%s is longer than %d bytes: it is no certificate or key", file, mostBytes)
	case err == nil:
		return bytes.TrimPrefix(data, []byte("\xef\xbb\xbf")), nil // editors of Windows put it before the PEM
	case errors.Is(err, fs.ErrNotExist):
		if mend == "" {
			mend = "put the file there, or change the path"
		}
		return wrong(mend, "%s does not exist", file)
	case errors.Is(err, fs.ErrPermission):
		return wrong("let the user that runs causeway read it", "%s cannot be read: permission denied", file)
	case errors.As(err, &cause):
		return wrong("check the file", "%s cannot be read: %v", file, cause.Err)
	}
	return wrong("check the file", "%s cannot be read: %v", file, err)
}

// isPKCS12 goes by the name or by how DER begins: a SEQUENCE that is no
// certificate.
func isPKCS12(file string, data []byte) bool {
	if IsPKCS12(file) {
		return true
	}
	if len(data) < 3 || data[0] != 0x30 || bytes.Contains(data, []byte("-----BEGIN ")) {
		return false
	}
	_, err := x509.ParseCertificate(data)
	return err != nil
}

// IsPKCS12 reports whether a file is PKCS#12, by its name.
func IsPKCS12(file string) bool {
	switch strings.ToLower(filepath.Ext(file)) {
	case ".p12", ".pfx":
		return true
	}
	return false
}

// HoldsKey reports whether the file of a certificate, which has this content,
// holds its key too.
func HoldsKey(file string, data []byte) bool {
	return isPKCS12(file, data) || bytes.Contains(data, []byte("PRIVATE KEY-----"))
}

func (r *reading) readPKCS12(data []byte) {
	file := r.files.Cert
	if r.files.Key != "" {
		r.wrong(Key, "leave the key out", "%s has the key in it", file)
		return
	}
	key, leaf, chain, err := pkcs12.DecodeChain(data, string(r.secret))
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword) && r.files.Secret == "":
		r.wrong(Cert, "write its password into a file, and name that: secret: FILE", "%s is protected by a password", file)
	case errors.Is(err, pkcs12.ErrIncorrectPassword):
		r.wrong(Secret, "write the password with which it was made", "%s does not open %s", r.files.Secret, file)
	case err != nil:
		r.wrong(Cert, "get the file again, or write it as PEM: openssl pkcs12 -in FILE -out NEW", "%s is no PKCS#12: %v", file, err)
	default:
		if r.key, err = signer(key); err != nil {
			r.wrong(Cert, "have a certificate issued for an ECDSA or an RSA key", "the key in %s is %v", file, err)
		}
		r.chain = append([]*x509.Certificate{leaf}, chain...)
	}
}

// certificates are those of a PEM file.
func (r *reading) certificates(data []byte) {
	chain, problem := Certificates(Cert, r.files.Cert, data, "write the certificate as PEM: -----BEGIN CERTIFICATE-----")
	if problem != nil {
		r.problems = append(r.problems, problem)
	}
	r.chain = chain
}

// Certificates are those of a PEM file, at least one.
func Certificates(part Part, file string, data []byte, mend string) (all []*x509.Certificate, problem *Problem) {
	wrong := func(mend, format string, args ...any) ([]*x509.Certificate, *Problem) {
		return nil, &Problem{Part: part, What: fmt.Sprintf(format, args...), Mend: mend}
	}
	if one, err := x509.ParseCertificate(data); err == nil { // DER: some providers have it so
		return []*x509.Certificate{one}, nil
	}
	blocks := 0
	rest := data
	for {
		var block *pem.Block
		before := rest
		if block, rest = pem.Decode(rest); block == nil {
			if bytes.Contains(before, []byte("-----BEGIN ")) && len(all) > 0 {
				return wrong("get the file again", "%s ends in the midst of certificate %d", file, len(all)+1)
			}
			break
		}
		blocks++
		switch block.Type {
		case "PKCS7", "CMS":
			return wrong("take them out of it: openssl pkcs7 -print_certs -in FILE -out NEW", "%s has its certificates in PKCS#7", file)
		case "CERTIFICATE REQUEST", "NEW CERTIFICATE REQUEST":
			return wrong("give it to the provider, and name the file that comes back", "%s is the request for a certificate, not the certificate", file)
		}
		if block.Type != "CERTIFICATE" && block.Type != "X509 CERTIFICATE" && block.Type != "TRUSTED CERTIFICATE" {
			continue
		}
		one, err := x509.ParseCertificate(block.Bytes)
		if err != nil && strings.Contains(err.Error(), "unsupported elliptic curve") { // P-192, secp256k1, SM2
			return wrong("have a certificate issued for another key: causeway cert request", "%s has a key on an elliptic curve that TLS clients do not take", file)
		}
		if err != nil {
			return wrong("get the file again", "certificate %d of %s is broken: %v", len(all)+1, file, err)
		}
		all = append(all, one)
	}
	switch {
	case len(all) > 0:
		return all, nil
	case blocks > 0:
		return wrong(mend, "%s holds no certificate", file)
	}
	return wrong(mend, "%s is not PEM", file)
}

// readKey finds the private key in PEM.
func (r *reading) readKey(data []byte) {
	part, file := Key, r.files.Key
	if file == "" {
		part, file = Cert, r.files.Cert
	}
	blocks := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		blocks++
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		r.key = r.parseKey(part, file, block)
		return
	}
	mend := "write the key as PEM: -----BEGIN PRIVATE KEY-----"
	switch {
	case r.files.Key == "" && len(r.chain) > 0:
		r.wrong(Cert, "name the key's file: key: FILE", "%s holds no private key", file)
	case r.files.Key == "": // there is no certificate in it either
	case blocks == 0:
		r.wrong(part, mend, "%s is not PEM", file)
	default:
		r.wrong(part, mend, "%s holds no private key", file)
	}
}

// parseKey is nil when the key can't be had.
func (r *reading) parseKey(part Part, file string, block *pem.Block) crypto.Signer {
	der := block.Bytes
	legacy := block.Headers["DEK-Info"] != "" // RFC 1421 §4.6.1.3, as OpenSSL wrote keys before PKCS#8
	if locked := legacy || block.Type == "ENCRYPTED PRIVATE KEY"; locked && r.files.Secret == "" {
		r.wrong(part, "write the password into a file, and name that: secret: FILE", "%s is protected by a password", file)
		return nil
	} else if locked {
		opened, err := open(block, r.secret, legacy)
		if err != nil {
			r.wrong(Secret, "write the password with which the key was made", "%s does not open %s", r.files.Secret, file)
			return nil
		}
		return r.usable(part, file, opened)
	}
	for _, parse := range []func([]byte) (any, error){
		x509.ParsePKCS8PrivateKey,
		func(der []byte) (any, error) { return x509.ParsePKCS1PrivateKey(der) },
		func(der []byte) (any, error) { return x509.ParseECPrivateKey(der) },
	} {
		if key, err := parse(der); err == nil {
			return r.usable(part, file, key)
		}
	}
	if _, err := x509.ParseECPrivateKey(der); err != nil && strings.Contains(err.Error(), "unknown elliptic curve") {
		r.wrong(part, "make another: causeway cert request", "the private key in %s is on an elliptic curve that TLS clients do not take", file)
		return nil
	}
	r.wrong(part, "get the file again", "the private key in %s is broken", file)
	return nil
}

// open takes the password off a key.
func open(block *pem.Block, secret []byte, legacy bool) (any, error) {
	if !legacy {
		return openPKCS8(block.Bytes, secret)
	}
	//lint:ignore SA1019 weak, and what OpenSSL wrote for twenty years
	der, err := x509.DecryptPEMBlock(block, secret)
	if err != nil {
		return nil, err
	}
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	return x509.ParsePKCS8PrivateKey(der)
}

// openPKCS8 opens an encrypted PKCS#8 key. The library panics on what is not whole
// blocks.
func openPKCS8(der, secret []byte) (key any, err error) {
	defer func() {
		if recover() != nil {
			err = errors.New("its encryption is broken")
		}
	}()
	key, _, err = pkcs8.ParsePrivateKey(der, secret)
	return key, err
}

func (r *reading) usable(part Part, file string, key any) crypto.Signer {
	usable, err := signer(key)
	if err != nil {
		r.wrong(part, "have a certificate issued for an ECDSA or an RSA key", "the key in %s is %v", file, err)
	}
	return usable
}

// signer takes the kinds of keys that TLS servers have (RFC 8446 §4.2.3).
func signer(key any) (crypto.Signer, error) {
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		return key, nil
	case *rsa.PrivateKey:
		return key, nil
	case ed25519.PrivateKey:
		return key, nil
	}
	return nil, fmt.Errorf("of a kind that TLS has no use for (%T)", key)
}

// pair puts chain and key together.
func (r *reading) pair() (*tls.Certificate, []*Problem) {
	chain, ok := inOrder(r.chain, r.key.Public())
	if !ok {
		part, file := Key, r.files.Key
		if file == "" {
			part, file = Cert, r.files.Cert
		}
		if part == Key {
			r.wrong(part, "write the key with which the certificate was asked for", "%s is not the key of %s", file, r.files.Cert)
		} else {
			r.wrong(part, "put the key with which the certificate was asked for into it", "the key in %s is that of another certificate", file)
		}
		return nil, r.problems
	}
	c := &tls.Certificate{Leaf: chain[0], PrivateKey: r.key}
	for _, one := range chain {
		c.Certificate = append(c.Certificate, one.Raw)
	}
	return c, r.problems
}
