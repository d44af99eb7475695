package config

import (
	"crypto/tls"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Clients is who must show a certificate of their own to see a site.
type Clients struct {
	// A PEM file of the authorities that sign the visitors' certificates. The
	// system's are never taken for it. Read where TLS ends.
	CA string `yaml:"ca" kind:"path" example:"clients.pem"`

	// `false`: a visitor without a certificate is let in too, and the origin
	// decides. One whose certificate does not verify is refused either way.
	Require bool `yaml:"require,omitempty" default:"true"`
}

// HSTS is a Strict-Transport-Security field (RFC 6797).
type HSTS struct {
	// How long browsers shall keep to https from their last visit on, in whole
	// seconds. `0s` takes an earlier one back.
	MaxAge time.Duration `yaml:"max_age" example:"8760h" min:"0s" max:"87600h"`

	// Bind every host below the public hosts too, those of others and those
	// that are not in the file as well.
	IncludeSubdomains bool `yaml:"include_subdomains,omitempty" default:"false"`

	// Let the domain be put on the list that browsers come with. It takes
	// months to get off it. Needs `include_subdomains` and a `max_age` of at
	// least `8760h`.
	Preload bool `yaml:"preload,omitempty" default:"false"`
}

// leastPreload is what https://hstspreload.org wants of max-age: a year.
const leastPreload = 8760 * time.Hour

// Field is the value of the header field.
func (h *HSTS) Field() string {
	field := fmt.Sprintf("max-age=%d", int64(h.MaxAge/time.Second))
	if h.IncludeSubdomains {
		field += "; includeSubDomains"
	}
	if h.Preload {
		field += "; preload"
	}
	return field
}

// suites are those of TLS 1.2 that have forward secrecy and authenticate what
// they encrypt (AEAD), by their IANA names; those of TLS 1.3 all are such.
var suites = map[string]uint16{
	"TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256":       tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	"TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384":       tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	"TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	"TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256":         tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	"TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384":         tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	"TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256":   tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// opensslSuites are the names that nginx and HAProxy know them by.
var opensslSuites = map[string]string{
	"ECDHE-ECDSA-AES128-GCM-SHA256": "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
	"ECDHE-ECDSA-AES256-GCM-SHA384": "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
	"ECDHE-ECDSA-CHACHA20-POLY1305": "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
	"ECDHE-RSA-AES128-GCM-SHA256":   "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
	"ECDHE-RSA-AES256-GCM-SHA384":   "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
	"ECDHE-RSA-CHACHA20-POLY1305":   "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
}

// curves are the key exchanges, by the names of the IANA's TLS Supported Groups.
var curves = map[string]tls.CurveID{
	"X25519MLKEM768": tls.X25519MLKEM768,
	"X25519":         tls.X25519,
	"secp256r1":      tls.CurveP256,
	"secp384r1":      tls.CurveP384,
	"secp521r1":      tls.CurveP521,
}

// otherCurves are other names of theirs.
var otherCurves = map[string]string{
	"x25519mlkem768": "X25519MLKEM768", "x25519": "X25519",
	"p-256": "secp256r1", "p256": "secp256r1", "prime256v1": "secp256r1",
	"p-384": "secp384r1", "p384": "secp384r1", "p-521": "secp521r1", "p521": "secp521r1",
}

// parseSuite reads one of tls.suites.
func parseSuite(s string) (string, *fault) {
	name := strings.ToUpper(s)
	if iana, ok := opensslSuites[name]; ok {
		return iana, nil
	}
	if _, ok := suites[name]; ok {
		return name, nil
	}
	for _, modern := range tls.CipherSuites() {
		if modern.Name == name && !slices.Contains(modern.SupportedVersions, tls.VersionTLS12) {
			return "", &fault{name + " is a suite of TLS 1.3, whose suites are always on", `leave it out; min: "1.3" leaves TLS 1.3 alone`}
		}
	}
	return "", &fault{s + " is not a suite with forward secrecy and AEAD that this program knows", "write some of " + strings.Join(sortedNames(suites), ", ")}
}

// parseCurve reads one of tls.curves.
func parseCurve(s string) (string, *fault) {
	if name, ok := otherCurves[strings.ToLower(s)]; ok {
		s = name
	}
	if _, ok := curves[s]; ok {
		return s, nil
	}
	if name := strings.ToLower(s); curves[name] != 0 {
		return name, nil
	}
	return "", &fault{s + " is not a key exchange that this program knows", "write some of X25519MLKEM768, X25519, secp256r1, secp384r1, secp521r1"}
}

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Front is what a handshake for a site is made by. The zero Front is that of a
// name that no site has.
type Front struct {
	Min    uint16        // the lowest version, tls.VersionTLS12 or higher
	Suites []uint16      // of TLS 1.2, never empty
	Curves []tls.CurveID // nil is the library's own choice, hybrid post-quantum ones first
}

// defaultSuites are all of suites. Their order is the library's (by the speed
// of this machine and of the client's), whatever is written.
var defaultSuites = func() (all []uint16) {
	for _, name := range sortedNames(suites) {
		all = append(all, suites[name])
	}
	return all
}()

// Front is the TLS that the site speaks; t may be nil.
func (t *TLS) Front() Front {
	f := Front{Min: tls.VersionTLS12, Suites: defaultSuites}
	if t == nil {
		return f
	}
	if t.Min == "1.3" {
		f.Min = tls.VersionTLS13
	}
	if len(t.Suites) > 0 {
		f.Suites = nil
		for _, name := range t.Suites {
			f.Suites = append(f.Suites, suites[name])
		}
	}
	for _, name := range t.Curves {
		f.Curves = append(f.Curves, curves[name])
	}
	return f
}

// Strict says whether a connection that was made for another name, or for none,
// must not be used for the site: it asks for more than others do.
func (t *TLS) Strict() bool {
	return t != nil && (t.Min == "1.3" || len(t.Suites) > 0 || len(t.Curves) > 0 || t.Clients != nil)
}

// checkFront refuses what a site's TLS can't be.
func (c *Config) checkFront(r *report, path string, s *Site) {
	t := s.TLS
	if t == nil || !r.good(path+".tls") {
		return
	}
	at := path + ".tls"
	if t.Min == "1.3" && len(t.Suites) > 0 && r.good(at+".suites") {
		r.value(at+".suites", `leave it out, or write min: "1.2"`, "the suites are those of TLS 1.2, which min leaves out")
	}
	if t.Suites != nil && len(t.Suites) == 0 {
		r.value(at+".suites", "write some of "+strings.Join(sortedNames(suites), ", ")+", or leave it out", "there is no suite")
	}
	if t.Curves != nil && len(t.Curves) == 0 {
		r.value(at+".curves", "write some of X25519MLKEM768, X25519, secp256r1, or leave it out", "there is no key exchange")
	}
	if t.Clients != nil && t.Clients.Require && s.HTTP == HTTPServe && r.good(at+".clients") {
		r.value(at+".clients", "write http: redirect or http: off, or clients: {ca: …, require: false}", "nobody shows a certificate on plain HTTP, and the site has http: serve")
	}
	c.checkStrictNames(r, at, s)
	c.checkHSTS(r, at+".hsts", s)
}

// checkStrictNames refuses TLS of its own for a name that another site has on
// another port: a client says no port in its hello.
func (c *Config) checkStrictNames(r *report, at string, s *Site) {
	if !s.TLS.Strict() {
		return
	}
	for _, other := range c.Sites {
		if other == s || other.TLS == nil {
			continue
		}
		for _, h := range s.Hosts {
			if h.Public.Host != "" && slices.ContainsFunc(other.Hosts, func(o Host) bool { return o.Public.Host == h.Public.Host }) {
				r.key(at, "give one of the two another name",
					"min, suites, curves and clients go by the name that the client asks for, and site %s has %s too, on another port", other.Name, h.Public.Host)
				return
			}
		}
	}
}

// checkHSTS refuses a promise that the file does not keep.
func (c *Config) checkHSTS(r *report, at string, s *Site) {
	h := s.TLS.HSTS
	if h == nil || !r.good(at) {
		return
	}
	if h.MaxAge%time.Second != 0 && r.good(at+".max_age") {
		r.value(at+".max_age", "write whole seconds", "%v is not a whole number of seconds", h.MaxAge)
	}
	if h.Preload && (!h.IncludeSubdomains || h.MaxAge < leastPreload) && r.good(at+".preload") {
		r.value(at+".preload", "add include_subdomains: true and max_age: 8760h or more, or leave preload out", "the list takes a domain only with all its hosts and for a year (https://hstspreload.org)")
	}
	if s.HTTP == HTTPServe && h.MaxAge > 0 {
		r.key(at, "write http: redirect, or leave hsts out", "browsers that know it refuse plain HTTP, and the site has http: serve")
	}
	if !h.IncludeSubdomains || h.MaxAge == 0 || s.Pending.On {
		return
	}
	for _, other := range c.Served() {
		if other.TLS != nil && other.HTTP != HTTPServe {
			continue
		}
		for _, below := range other.Hosts {
			for _, above := range s.Hosts {
				if name := strings.TrimPrefix(above.Public.Host, "*."); name != "" && strings.HasSuffix(below.Public.Host, "."+name) {
					mend := "give site " + other.Name + " tls and http: redirect, or leave include_subdomains out"
					if other.Tests {
						mend = "try site " + other.Name + " under a host that is not below it, or leave include_subdomains out"
					}
					r.value(at+".include_subdomains", mend,
						"%s is below %s, and site %s serves it on plain HTTP", below.Public.Authority(), name, other.Name)
					return
				}
			}
		}
	}
}
