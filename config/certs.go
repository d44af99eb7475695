package config

import (
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"causeway/keypair"
)

// CertFiles is one certificate of a site, and its key.
type CertFiles struct {
	// The certificate, as the `cert` of `tls`.
	Cert string `yaml:"cert" kind:"path" example:"example.cn.rsa.pem"`

	// Its private key. Left out for a PKCS#12 file.
	Key string `yaml:"key,omitempty" kind:"path" example:"example.cn.rsa.key"`

	// A file whose first line is the password of the key, or of the PKCS#12 file.
	Secret string `yaml:"secret,omitempty" kind:"path" example:"example.cn.pass"`
}

// Pair is the files as they are read.
func (f CertFiles) Pair() keypair.Files {
	return keypair.Files{Cert: f.Cert, Key: f.Key, Secret: f.Secret}
}

// ApprovedIssuers are the authorities whose certificates may be shown.
type ApprovedIssuers struct {
	// Names of authorities: the common name or the organisation, or whole words
	// of it, of whoever signed the certificate or stands above that one. `CFCA`
	// is that of `CFCA EV ROOT`. Capitals make no difference.
	Names []string `yaml:"names" example:"[CFCA, \"DigiCert Inc\"]"`

	// What to do with a certificate of another: `warn`, in the log and in
	// `check`, or `refuse` to show it.
	Otherwise string `yaml:"otherwise,omitempty" enum:"warn|refuse" default:"warn"`
}

// Refuse says whether certificates of others must not be shown.
func (a *ApprovedIssuers) Refuse() bool { return a != nil && a.Otherwise == "refuse" }

// Files are the certificates of the site that lie in files, in the order of the
// file. t may be nil.
func (t *TLS) Files() []CertFiles {
	switch {
	case t == nil:
		return nil
	case t.Cert != "":
		return []CertFiles{{Cert: t.Cert, Key: t.Key, Secret: t.Secret}}
	}
	return t.Certs
}

// filesPath is where the i-th of Files stands in the file, at is that of tls.
func (t *TLS) filesPath(at string, i int) string {
	if t.Cert != "" {
		return at
	}
	return at + ".certs[" + strconv.Itoa(i) + "]"
}

// IsPKCS12 says whether a certificate is in a file that holds its key too, by
// the ending of its name.
func IsPKCS12(file string) bool {
	switch strings.ToLower(filepath.Ext(file)) {
	case ".p12", ".pfx":
		return true
	}
	return false
}

// checkCerts refuses a tls without a certificate, with two ways to one, and with
// files that can't go together.
func (c *Config) checkCerts(r *report, path string, s *Site) {
	t, at := s.TLS, path+".tls"
	if t == nil || !r.good(at) || !r.good(at+".cert") || !r.good(at+".key") || !r.good(at+".certs") {
		return
	}
	_, written := r.places[at+".certs"]
	one := t.Cert != "" || t.Key != "" || t.Secret != ""
	switch {
	case t.ACME != nil && (written || one):
		r.key(at+".acme", "write acme, or the files of a certificate", "the certificate is written in two ways")
		return
	case t.ACME != nil:
		return
	case written && one:
		r.key(at+".certs", "write one certificate with cert and key, or all of them in certs", "the certificate is written in two ways")
		return
	case written && len(t.Certs) == 0:
		r.value(at+".certs", "write certs: [{cert: example.cn.pem, key: example.cn.key}]", "there is no certificate")
		return
	case t.Cert == "" && one:
		r.key(at, "write cert: example.cn.pem", `the key "cert" is missing`)
		return
	case !one && !written:
		r.key(at, "write cert: example.cn.pem and key: example.cn.key, or acme: {}", "the site has no certificate")
		return
	}
	seen := map[string]int{}
	for i, f := range t.Files() {
		at := t.filesPath(at, i)
		if f.Cert == "" || !r.good(at) || !r.good(at+".cert") {
			continue
		}
		if first, twice := seen[f.Cert]; twice {
			r.value(at+".cert", "take one of the two out", "certs[%d] is this file too", first)
		}
		seen[f.Cert] = i
		switch {
		case IsPKCS12(f.Cert) && f.Key != "":
			r.key(at+".key", "leave key out", "%s is PKCS#12, by its name, which holds the key too", filepath.Base(f.Cert))
		case !IsPKCS12(f.Cert) && f.Key == "":
			r.key(at, "write key: example.cn.key", `the key "key" is missing`)
		}
	}
}

// checkApproved refuses a list that approves of nothing.
func (c *Config) checkApproved(r *report) {
	a := c.ApprovedIssuers
	if a == nil || !r.good("approved_issuers") || !r.good("approved_issuers.names") {
		return
	}
	blank := func(name string) bool { return strings.TrimSpace(name) == "" }
	if _, written := r.places["approved_issuers.names"]; written && (len(a.Names) == 0 || slices.ContainsFunc(a.Names, blank)) {
		r.value("approved_issuers.names", "write names of authorities, as in [CFCA, DigiCert Inc], or leave approved_issuers out", "a name is empty, or there is none")
	}
}
