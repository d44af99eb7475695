package cert

// NewRequest → hosts and subject as a certificate has them; Write → a new key →
// the request signed with it → NAME.key and NAME.csr.

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"golang.org/x/net/idna"

	"causeway/keypair"
)

// The kinds of keys that a Request may have made.
const (
	KeyEC      = "ec"      // ECDSA P-256
	KeyRSA     = "rsa"     // RSA 2048
	KeyRSA3072 = "rsa3072" // RSA 3072
)

// Subject says who asks for a certificate. What is empty is left out. Providers
// that look at the owner want it as the papers have it; others ignore it.
type Subject struct {
	Organization, Unit, Country, State, City, Email string
}

// emailAddress is the attribute of RFC 2985 section 5.2.1, an IA5String.
var emailAddress = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 9, 1}

// name is the subject with the common name of a host.
func (s Subject) name(host string) (pkix.Name, error) {
	var n pkix.Name
	for _, of := range []struct {
		what, value string
		to          *[]string
		most        int // characters, RFC 5280 appendix A.1
	}{
		{"organization", s.Organization, &n.Organization, 64},
		{"unit", s.Unit, &n.OrganizationalUnit, 64},
		{"state", s.State, &n.Province, 128},
		{"city", s.City, &n.Locality, 128},
	} {
		switch length := utf8.RuneCountInString(of.value); {
		case of.value == "":
			continue
		case !utf8.ValidString(of.value) || strings.ContainsFunc(of.value, func(r rune) bool { return r < ' ' || r == 0x7f }):
			return n, fmt.Errorf("%s %q has characters that are no text", of.what, of.value)
		case length > of.most:
			return n, fmt.Errorf("%s has %d characters: a certificate holds %d at most", of.what, length, of.most)
		}
		*of.to = []string{of.value}
	}
	if s.Country != "" {
		code := strings.ToUpper(s.Country)
		if len(code) != 2 || strings.Trim(code, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" {
			return n, fmt.Errorf("country %q: give its two letters (ISO 3166), as in CN", s.Country)
		}
		n.Country = []string{code}
	}
	if s.Email != "" {
		local, domain, ok := strings.Cut(s.Email, "@")
		if !ok || local == "" || domain == "" || len(s.Email) > 255 || strings.ContainsFunc(s.Email, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
			return n, fmt.Errorf("email %q is no address in ASCII, as in ops@example.cn", s.Email)
		}
		n.ExtraNames = append(n.ExtraNames, pkix.AttributeTypeAndValue{
			Type: emailAddress, Value: asn1.RawValue{Tag: asn1.TagIA5String, Bytes: []byte(s.Email)}})
	}
	if len(host) <= 64 { // ub-common-name; browsers read the subjectAltName alone
		n.CommonName = host
	}
	return n, nil
}

// Request is what a provider is asked for: a certificate for some hosts.
type Request struct {
	name     string
	key      string
	template x509.CertificateRequest
}

// NewRequest makes a request for hosts, DNS names, "*."+names or IP addresses;
// international names become A-labels (RFC 5890), repetitions are dropped. key is
// one of KeyEC, KeyRSA and KeyRSA3072. The error says what is wrong with what was
// given.
func NewRequest(hosts []string, key string, subject Subject) (*Request, error) {
	if !slices.Contains([]string{KeyEC, KeyRSA, KeyRSA3072}, key) {
		return nil, fmt.Errorf("key %q: give ec (ECDSA P-256), rsa (RSA 2048) or rsa3072", key)
	}
	if len(hosts) == 0 {
		return nil, errors.New("a certificate is for one host at least: name it")
	}
	r := &Request{key: key}
	for _, host := range hosts {
		if err := r.add(host); err != nil {
			return nil, err
		}
	}
	var err error
	r.template.Subject, err = subject.name(r.Hosts()[0])
	if err != nil {
		return nil, err
	}
	r.name = fileNameOf(r.Hosts()[0])
	return r, nil
}

// add takes a host in.
func (r *Request) add(host string) error {
	if ip := net.ParseIP(host); ip != nil {
		if !slices.ContainsFunc(r.template.IPAddresses, ip.Equal) {
			r.template.IPAddresses = append(r.template.IPAddresses, ip)
		}
		return nil
	}
	wild := ""
	name := host
	if rest, ok := strings.CutPrefix(host, "*."); ok {
		wild, name = "*.", rest
	}
	ascii, err := idna.Lookup.ToASCII(strings.TrimSuffix(name, "."))
	ascii = wild + strings.ToLower(ascii)
	last := ascii[strings.LastIndex(ascii, ".")+1:]
	switch {
	case err != nil || !dnsName.MatchString(ascii) || len(ascii) > 253 || strings.Trim(last, "0123456789") == "":
		return fmt.Errorf("host %q is neither a DNS name, perhaps with *. before it, nor an IP address: write it without https://, port and path, as in example.cn", host)
	case wild != "" && last == ascii[len(wild):]:
		return fmt.Errorf("host %q takes in a whole top-level domain: no provider issues that", host)
	}
	if !slices.Contains(r.template.DNSNames, ascii) {
		r.template.DNSNames = append(r.template.DNSNames, ascii)
	}
	return nil
}

// Hosts are what the certificate will be for, as A-labels and addresses.
func (r *Request) Hosts() []string {
	hosts := slices.Clone(r.template.DNSNames)
	for _, ip := range r.template.IPAddresses {
		hosts = append(hosts, ip.String())
	}
	return hosts
}

// KeyType names the kind of the key: "ECDSA P-256", "RSA 2048".
func (r *Request) KeyType() string {
	return map[string]string{KeyEC: "ECDSA P-256", KeyRSA: "RSA 2048", KeyRSA3072: "RSA 3072"}[r.key]
}

// fileNameOf is how the files for a host are called: no * and no : are in it.
func fileNameOf(host string) string {
	return strings.ReplaceAll(strings.Replace(host, "*", "wildcard", 1), ":", "-")
}

// Write makes a key and the request (PKCS#10, RFC 2986), and writes dir/HOST.key
// (PKCS#8, behind secret where that is not empty, mode 0600) and dir/HOST.csr, both PEM, HOST the first host with
// "wildcard" for its *. A folder that is not there is made. Nothing is
// overwritten, and neither file is left alone.
func (r *Request) Write(dir string, secret []byte) (keyFile, requestFile string, err error) {
	keyFile, requestFile = filepath.Join(dir, r.name+".key"), filepath.Join(dir, r.name+".csr")
	for _, file := range []string{keyFile, requestFile} {
		if _, err := os.Lstat(file); err == nil {
			return "", "", fmt.Errorf("%s exists, and is not overwritten: name another folder for the new key", file)
		}
	}
	key, err := r.newKey()
	if err != nil {
		return "", "", err
	}
	keyText, err := keypair.EncodeKey(key, secret)
	if err != nil {
		return "", "", err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &r.template, key)
	if err != nil {
		return "", "", fmt.Errorf("sign the request: %w", err)
	}
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return "", "", err
	}
	if err := createFile(keyFile, keyText, keyMode); err != nil {
		return "", "", alreadyThere(keyFile, err)
	}
	request := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	if err := createFile(requestFile, request, certMode); err != nil {
		return "", "", errors.Join(alreadyThere(requestFile, err), os.Remove(keyFile))
	}
	return keyFile, requestFile, nil
}

// alreadyThere words that of two who write one file, the other was first.
func alreadyThere(file string, err error) error {
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists, and is not overwritten: name another folder for the new key", file)
	}
	return err
}

func (r *Request) newKey() (crypto.Signer, error) {
	var key crypto.Signer
	var err error
	switch r.key {
	case KeyRSA:
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case KeyRSA3072:
		key, err = rsa.GenerateKey(rand.Reader, 3072)
	default:
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, fmt.Errorf("make key: %w", err)
	}
	return key, nil
}
