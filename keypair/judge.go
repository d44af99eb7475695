package keypair

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
)

// leastRSA is what browsers take (CA/Browser Forum Baseline Requirements §6.1.5).
const leastRSA = 2048

// Want is what an owner wants of a pair.
type Want struct {
	Hosts    []string // the names it must be for: DNS names, *.names, IP addresses
	Some     bool     // one of them will do: other certificates are for the rest
	Approved []string // who may have signed it; nil for anybody
	Refuse   bool     // a pair of somebody else is not served
	// Roots are what the chain should end in; nil is not looked at.
	Roots *x509.CertPool
}

// Judge says what clients or its owner will not like about a pair that was read.
// file is for the messages.
func Judge(c *tls.Certificate, file string, want Want, now time.Time) (problems []*Problem) {
	leaf, chain := c.Leaf, Chain(c)
	say := func(level Level, mend, format string, args ...any) {
		problems = append(problems, &Problem{Part: Cert, What: fmt.Sprintf(format, args...), Mend: mend, Level: level})
	}
	switch {
	case now.After(leaf.NotAfter):
		say(Wrong, "renew it", "%s expired on %s", file, leaf.NotAfter.UTC().Format(time.DateTime))
	case now.Before(leaf.NotBefore):
		say(Wrong, "check the clock of this machine, or wait", "%s is not valid before %s", file, leaf.NotBefore.UTC().Format(time.DateTime))
	}
	if mark := Mark(leaf.NotAfter, now); mark > 0 {
		say(Warning, "renew it", "%s expires on %s: %s", file, leaf.NotAfter.UTC().Format(time.DateOnly), Left(leaf.NotAfter, now))
		problems[len(problems)-1].Expiry = true
	}
	for _, one := range chain[1:] {
		if now.After(one.NotAfter) {
			say(Wrong, "get the chain anew from who issued it", "an intermediate certificate in %s, %q, expired on %s", file, one.Subject.CommonName, one.NotAfter.UTC().Format(time.DateTime))
		} else if !selfSigned(one) && one.NotAfter.Before(leaf.NotAfter) && Mark(one.NotAfter, now) > 0 {
			say(Warning, "get the chain anew from who issued it", "an intermediate certificate in %s, %q, expires on %s, before the first: %s", file, one.Subject.CommonName, one.NotAfter.UTC().Format(time.DateOnly), Left(one.NotAfter, now))
			problems[len(problems)-1].Expiry = true
		}
		if weak := weakness(one); weak != "" && !selfSigned(one) {
			say(Fatal, "have it issued again", "%s has an intermediate certificate, %q, with %s, which browsers refuse", file, one.Subject.CommonName, weak)
		}
	}
	if weak := weakness(leaf); weak != "" {
		say(Fatal, "have a certificate issued for another key: causeway cert request", "%s has %s, which browsers refuse", file, weak)
	}
	for i, one := range chain {
		if weak := weakSignature(one); weak != "" && (i == 0 || !selfSigned(one)) {
			say(Fatal, "have it issued again", "%s has a certificate, %q, signed with %s, which browsers refuse", file, one.Subject.CommonName, weak)
		}
	}
	if len(leaf.DNSNames) == 0 && len(leaf.IPAddresses) == 0 {
		say(Fatal, "have it issued with its DNS names", "%s names no host (no subjectAltName): browsers refuse it", file)
	} else if missing := Missing(leaf, want.Hosts); len(missing) > 0 && (!want.Some || len(missing) == len(want.Hosts)) {
		say(Fatal, "get a certificate with every public host of the site, or take the host out of it",
			"%s does not cover %s: it is for %s", file, list(missing), list(Names(leaf)))
	}
	if uses := leaf.ExtKeyUsage; len(uses)+len(leaf.UnknownExtKeyUsage) > 0 && !slices.Contains(uses, x509.ExtKeyUsageServerAuth) && !slices.Contains(uses, x509.ExtKeyUsageAny) {
		say(Fatal, "have it issued for servers: extendedKeyUsage serverAuth", "%s is for other uses than a server's, and browsers refuse it", file)
	}
	if want.Approved != nil && !SignedBy(chain, want.Approved) {
		level := Warning
		if want.Refuse {
			level = Fatal
		}
		say(level, "have it issued by one of them, or change approved_issuers",
			"%s was issued by %s, which approved_issuers does not name: %s", file, Issuer(leaf), list(want.Approved))
	}
	if want.Roots != nil {
		if err := Untrusted(c, want.Roots, now); err != nil {
			mend := "put the intermediate certificates behind it, or, if the authority is your own, give its root to the clients"
			if at := chain[len(chain)-1].IssuingCertificateURL; len(at) > 0 { // RFC 5280 §4.2.2.1
				mend = fmt.Sprintf("put it behind the others: who issued the last has it at %s", at[0])
			}
			say(Warning, mend, "%s: %v", file, err)
		}
	}
	return problems
}

// End is when the first certificate of a chain ends.
func End(c *tls.Certificate) time.Time {
	end := c.Leaf.NotAfter
	for _, one := range Chain(c)[1:] {
		if one.NotAfter.Before(end) {
			end = one.NotAfter
		}
	}
	return end
}

// Untrusted is why the chain of a pair leads to none of roots; nil when it does.
func Untrusted(c *tls.Certificate, roots *x509.CertPool, now time.Time) error {
	chain := Chain(c)
	between := x509.NewCertPool()
	for _, one := range chain[1:] {
		between.AddCert(one)
	}
	at := now
	switch leaf := chain[0]; { // dates are spoken of elsewhere
	case at.After(leaf.NotAfter):
		at = leaf.NotAfter
	case at.Before(leaf.NotBefore):
		at = leaf.NotBefore
	}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch last := chain[len(chain)-1]; {
	case err == nil, errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return nil
	case errors.As(err, &unknown) && selfSigned(last):
		return fmt.Errorf("it was signed by itself, and no client trusts that")
	case errors.As(err, &unknown):
		return fmt.Errorf("the chain ends with what %s signed, and that is no root that this system knows: an intermediate certificate is missing, or the authority is a private one", Issuer(last))
	default:
		return fmt.Errorf("clients will not verify it: %w", err)
	}
}

func weakness(leaf *x509.Certificate) string {
	switch key := leaf.PublicKey.(type) {
	case *rsa.PublicKey:
		if key.N.BitLen() < leastRSA {
			return fmt.Sprintf("an RSA key of %d bits", key.N.BitLen())
		}
	case *ecdsa.PublicKey:
		if key.Curve.Params().BitSize < 256 {
			return "an ECDSA key on " + key.Curve.Params().Name
		}
	}
	return ""
}

func weakSignature(c *x509.Certificate) string {
	switch c.SignatureAlgorithm {
	case x509.MD2WithRSA, x509.MD5WithRSA, x509.SHA1WithRSA, x509.DSAWithSHA1, x509.ECDSAWithSHA1:
		return c.SignatureAlgorithm.String()
	}
	return ""
}

func typeOf(key any) string {
	switch key := key.(type) {
	case *rsa.PublicKey:
		return fmt.Sprintf("RSA %d", key.N.BitLen())
	case *ecdsa.PublicKey:
		return "ECDSA " + key.Curve.Params().Name
	case ed25519.PublicKey:
		return "Ed25519"
	}
	return fmt.Sprintf("%T", key)
}

// Missing are the hosts that a certificate is not for. For a wildcard it must be
// for the names one label below (RFC 9525 section 6.3: the star of a certificate
// is one label).
func Missing(leaf *x509.Certificate, hosts []string) (missing []string) {
	names := make(map[string]bool, len(leaf.DNSNames))
	for _, name := range leaf.DNSNames {
		names[strings.ToLower(name)] = true
	}
	for _, host := range hosts {
		name := host
		if suffix, wild := strings.CutPrefix(host, "*"); wild {
			name = "any-name-below" + suffix
		}
		if !mayBeFor(names, name) && len(leaf.IPAddresses) == 0 || leaf.VerifyHostname(name) != nil {
			missing = append(missing, host)
		}
	}
	return missing
}

// mayBeFor is no where VerifyHostname says no of a certificate for some DNS names,
// and costs little: a site may have thousands of hosts, and as many certificates.
func mayBeFor(names map[string]bool, host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	_, parent, _ := strings.Cut(host, ".")
	return names[host] || names[host+"."] || names["*."+parent] || names["*."+parent+"."]
}

// Names are what a certificate is for.
func Names(leaf *x509.Certificate) []string {
	names := slices.Clone(leaf.DNSNames)
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	return names
}

// Issuer is who signed a certificate, for people.
func Issuer(c *x509.Certificate) string {
	organization := strings.Join(c.Issuer.Organization, ", ")
	switch common := c.Issuer.CommonName; {
	case common == "" && organization == "":
		return c.Issuer.String()
	case common == "" || strings.EqualFold(common, organization):
		return organization
	case organization == "":
		return common
	default:
		return organization + ", " + common
	}
}

// SignedBy reports whether one of names signed a certificate of the chain: it is
// the common name or the organization of the issuer, or whole words of it,
// whatever its case.
func SignedBy(chain []*x509.Certificate, names []string) bool {
	for _, c := range chain {
		for _, name := range names {
			if hasWords(c.Issuer.CommonName, name) || slices.ContainsFunc(c.Issuer.Organization, func(o string) bool { return hasWords(o, name) }) {
				return true
			}
		}
	}
	return false
}

// hasWords reports whether name is in text with nothing of a word before or behind
// it.
func hasWords(text, name string) bool {
	words := func(s string) string {
		return " " + strings.Join(strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }), " ") + " "
	}
	return strings.TrimSpace(words(name)) != "" && strings.Contains(words(text), words(name))
}
