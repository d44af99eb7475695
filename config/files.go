package config

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// CheckFiles looks at the files that the part of node n needs, and no others:
// an edge has the certificates of the sites, a relay those of the sites that pass
// through and the authorities of the origins, and both, in a file with nodes, their part of the pki. They must be
// readable PEM, keys must fit, certificates must cover the public hosts and be
// in force now. The error is Errors.
func (c *Config) CheckFiles(n *Node) error { return c.checkFiles(n, time.Now()).orNil() }

// checkFiles also takes a Config of which a part could not be decoded.
func (c *Config) checkFiles(n *Node, now time.Time) Errors {
	f := &filesCheck{report: report{file: c.Path, places: c.places, bad: map[string]bool{}}, now: now}
	for i, s := range c.Sites {
		path := fmt.Sprintf("sites[%d]", i)
		if s.EndsTLS(n) && s.TLS.Cert != "" && s.TLS.Key != "" {
			f.site(path+".tls", s)
		}
		if s.EndsTLS(n) && s.TLS.Clients != nil && s.TLS.Clients.CA != "" {
			f.authorities(f.placed(path+".tls.clients.ca", path+".tls.clients"), s.TLS.Clients.CA, "write the authorities as PEM: -----BEGIN CERTIFICATE-----")
		}
		if s.Pending.Page != "" && (n.IsEdge() || s.EndsTLS(n)) {
			f.page(path+".pending.page", s.Pending.Page)
		}
		if n.IsRelay() && s.Origin.TLS.CA != "" {
			f.authorities(path+".origin.tls.ca", s.Origin.TLS.CA, "write the authorities as PEM: -----BEGIN CERTIFICATE-----")
		}
	}
	for i, forward := range c.Forwards {
		if forward.Health.CA != "" && slices.Contains(c.ForwardsOf(n), forward) {
			f.authorities(forwardPath(i)+".health.ca", forward.Health.CA, "write the authorities as PEM: -----BEGIN CERTIFICATE-----")
		}
	}
	if n.Role != RoleBoth && c.PKI != "" {
		f.pki(c.PKI, n.Name)
	}
	return f.errs
}

// placed is path when the file has it, else what stands for it.
func (f *filesCheck) placed(path, other string) string {
	if _, ok := f.places[path]; ok {
		return path
	}
	return other
}

// pemFile is a file and the path in the configuration that names it.
type pemFile struct{ path, file string }

// filesCheck collects what is wrong with the files of one node.
type filesCheck struct {
	report
	now time.Time
}

// read is the content of a file.
func (f *filesCheck) read(path, file, mend string) ([]byte, bool) {
	data, err := os.ReadFile(file)
	var cause *fs.PathError
	switch {
	case err == nil:
		return data, true
	case errors.Is(err, fs.ErrNotExist):
		if mend == "" {
			mend = "put the file there, or change the path"
		}
		f.value(path, mend, "%s does not exist", file)
	case errors.Is(err, fs.ErrPermission):
		f.value(path, "let the user that runs causeway read it", "%s cannot be read: permission denied", file)
	case errors.As(err, &cause):
		f.value(path, "check the file", "%s cannot be read: %v", file, cause.Err)
	default:
		f.value(path, "check the file", "%s cannot be read: %v", file, err)
	}
	return nil, false
}

// site looks at the certificate and key of a site, at path.
func (f *filesCheck) site(path string, s *Site) {
	leaf := f.pair(pemFile{path + ".cert", s.TLS.Cert}, pemFile{path + ".key", s.TLS.Key}, "")
	if leaf == nil {
		return
	}
	var missing []string
	for _, h := range s.Hosts {
		if h.Public.Host != "" && !covers(leaf, h.Public.Host) {
			missing = append(missing, h.Public.Host)
		}
	}
	if len(missing) > 0 {
		f.value(path+".cert", "get a certificate with every public host of the site, or take the host out of it",
			"%s does not cover %s: it is for %s", s.TLS.Cert, list(missing), list(namesIn(leaf)))
	}
}

// pair reads a certificate and its key, and returns the certificate when it
// can be read. mend is for a file that is missing, "" the usual one.
func (f *filesCheck) pair(cert, key pemFile, mend string) *x509.Certificate {
	certPEM, okCert := f.read(cert.path, cert.file, mend)
	keyPEM, okKey := f.read(key.path, key.file, mend)
	var chain []*x509.Certificate
	if okCert {
		chain, okCert = f.certificates(cert.path, cert.file, certPEM, "write the certificate as PEM: -----BEGIN CERTIFICATE-----")
	}
	if okKey {
		okKey = f.privateKey(key.path, key.file, keyPEM)
	}
	if !okCert {
		return nil
	}
	f.inForce(cert.path, cert.file, chain[0])
	if !okKey {
		return chain[0]
	}
	if _, err := tls.X509KeyPair(certPEM, keyPEM); err != nil {
		f.value(key.path, "write the key with which the certificate was asked for", "%s is not the key of %s", key.file, cert.file)
	}
	return chain[0]
}

// certificates are those of a PEM file, at least one.
func (f *filesCheck) certificates(path, file string, data []byte, mend string) ([]*x509.Certificate, bool) {
	var all []*x509.Certificate
	blocks := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		blocks++
		if block.Type != "CERTIFICATE" {
			continue
		}
		one, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			f.value(path, "get the file again", "certificate %d of %s is broken: %v", len(all)+1, file, err)
			return nil, false
		}
		all = append(all, one)
	}
	switch {
	case len(all) > 0:
		return all, true
	case blocks > 0:
		f.value(path, mend, "%s holds no certificate", file)
	default:
		f.value(path, mend, "%s is not PEM", file)
	}
	return nil, false
}

// privateKey says whether a file holds a private key, and reports it when not.
func (f *filesCheck) privateKey(path, file string, data []byte) bool {
	blocks := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		blocks++
		if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
			f.value(path, "take the password off: openssl pkey -in KEY -out NEW", "%s is protected by a password", file)
			return false
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return true
		}
	}
	if blocks == 0 {
		f.value(path, "write the key as PEM: -----BEGIN PRIVATE KEY-----", "%s is not PEM", file)
	} else {
		f.value(path, "write the key as PEM: -----BEGIN PRIVATE KEY-----", "%s holds no private key", file)
	}
	return false
}

// inForce reports a certificate that is not valid now.
func (f *filesCheck) inForce(path, file string, leaf *x509.Certificate) {
	switch {
	case f.now.After(leaf.NotAfter):
		f.value(path, "renew it", "%s expired on %s", file, leaf.NotAfter.UTC().Format(time.DateTime))
	case f.now.Before(leaf.NotBefore):
		f.value(path, "check the clock of this machine, or wait", "%s is not valid before %s", file, leaf.NotBefore.UTC().Format(time.DateTime))
	}
}

// authorities looks at a file of authorities.
func (f *filesCheck) authorities(path, file, mend string) []*x509.Certificate {
	data, ok := f.read(path, file, "")
	if !ok {
		return nil
	}
	all, _ := f.certificates(path, file, data, mend)
	return all
}

// pki looks at the node's part of the folder between nodes.
func (f *filesCheck) pki(dir, node string) {
	mend := fmt.Sprintf("make it with: causeway link-ca --dir %s %s", filepath.Base(dir), node)
	caFile := filepath.Join(dir, "ca.pem")
	caPEM, ok := f.read("pki", caFile, mend)
	var authority []*x509.Certificate
	if ok {
		authority, _ = f.certificates("pki", caFile, caPEM, mend)
	}
	for _, ca := range authority {
		f.inForce("pki", caFile, ca)
	}
	certFile, keyFile := filepath.Join(dir, node+".pem"), filepath.Join(dir, node+".key")
	leaf := f.pair(pemFile{"pki", certFile}, pemFile{"pki", keyFile}, mend)
	if leaf == nil || authority == nil {
		return
	}
	for _, ca := range authority {
		if leaf.CheckSignatureFrom(ca) == nil {
			return
		}
	}
	f.value("pki", mend, "%s was not signed by %s", certFile, caFile)
}

// covers says whether the certificate is for a public host. For a wildcard it
// must be for the names one label below (RFC 9525 section 6.3: the star of a
// certificate is one label).
func covers(leaf *x509.Certificate, host string) bool {
	if suffix, wild := strings.CutPrefix(host, "*"); wild {
		host = "any-name-below" + suffix
	}
	return leaf.VerifyHostname(host) == nil
}

// namesIn are the names a certificate is for.
func namesIn(leaf *x509.Certificate) []string {
	names := append([]string(nil), leaf.DNSNames...)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
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
