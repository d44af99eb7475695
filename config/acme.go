package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"causeway/cache"
)

// ACME is how certificates are had from an authority that issues them by itself
// (RFC 8555), for the sites that have `tls: {acme: {}}`.
type ACME struct {
	// Where the authority may write to when something is wrong with an account or
	// a certificate.
	Email string `yaml:"email,omitempty" kind:"email" example:"ops@example.com"`

	// The authority: `letsencrypt`, `letsencrypt-staging`, whose certificates no
	// browser trusts and whose limits are wide, for trials, `zerossl`, or the URL
	// of an authority's directory. To name one is to agree to its terms.
	CA string `yaml:"ca,omitempty" kind:"acmeca" default:"letsencrypt" example:"letsencrypt-staging"`

	// A PEM file of the authorities to trust at the HTTPS of `ca` itself, in place
	// of the system's, where that is an authority of your own.
	Trust string `yaml:"trust,omitempty" kind:"path" example:"ca-root.pem"`

	// Folder of accounts, certificates with their keys, and locks. Left out, it is
	// `acme` beside the file. Nodes may share it: then one of them orders each
	// certificate, all show it, and each answers the authority for the others.
	Dir string `yaml:"dir,omitempty" kind:"path" example:"acme"`

	// Binds the account to one that you have with the authority (external account
	// binding), where it wants that.
	EAB *EAB `yaml:"eab,omitempty" example:"{id: kid-1, key: eab.key}"`

	// How the authority is shown that a name is yours, tried in this order:
	// `tls-alpn-01`, over port 443, `http-01`, over port 80, and `dns-01`, by a
	// record, which needs `dns` and is the only one for wildcards. Left out, it is
	// `dns-01` where there is a `dns`, and else the other two, as far as an edge
	// listens for them; `http-01` first where several nodes may order at once for
	// one name.
	Challenges []string `yaml:"challenges,omitempty" kind:"challenge" example:"[dns-01]"`

	// Who serves the domain, for `dns-01`.
	DNS *DNS `yaml:"dns,omitempty" example:"{provider: alidns, access_key_id: LTAI5t, access_key_secret: alidns.secret}"`

	// The profile of the certificates, where the authority has several, such as
	// `shortlived` of Let's Encrypt. Left out, its default.
	Profile string `yaml:"profile,omitempty" example:"shortlived"`
}

// SiteACME is the ACME of a site: what is left out is as in the `acme` of the
// file.
type SiteACME struct {
	// As in `acme`.
	Email string `yaml:"email,omitempty" kind:"email" example:"ops@example.com"`

	// As in `acme`. With a `ca` of its own a site takes `trust`, `eab` and
	// `profile` from there no more.
	CA string `yaml:"ca,omitempty" kind:"acmeca" example:"letsencrypt-staging"`

	// As in `acme`.
	Trust string `yaml:"trust,omitempty" kind:"path" example:"ca-root.pem"`

	// As in `acme`.
	EAB *EAB `yaml:"eab,omitempty" example:"{id: kid-1, key: eab.key}"`

	// As in `acme`.
	Challenges []string `yaml:"challenges,omitempty" kind:"challenge" example:"[dns-01]"`

	// As in `acme`.
	DNS *DNS `yaml:"dns,omitempty" example:"{provider: alidns, access_key_id: LTAI5t, access_key_secret: alidns.secret}"`

	// As in `acme`.
	Profile string `yaml:"profile,omitempty" example:"shortlived"`

	// The key of the certificates: `ec`, ECDSA P-256, or `rsa`, RSA 2048, which
	// some very old clients want.
	Key string `yaml:"key,omitempty" enum:"ec|rsa" default:"ec"`
}

// EAB is an external account binding.
type EAB struct {
	// The id of the key (`kid`) that the authority gave.
	ID string `yaml:"id" example:"kid-1"`

	// A file with the HMAC key, in base64url, as the authority gave it.
	Key string `yaml:"key" kind:"path" example:"eab.key"`
}

// Challenges of ACME.
const (
	ChallengeTLSALPN = "tls-alpn-01"
	ChallengeHTTP    = "http-01"
	ChallengeDNS     = "dns-01"
)

// acmeCAs are the authorities that are known by a name.
var acmeCAs = map[string]string{
	"letsencrypt":         "https://acme-v02.api.letsencrypt.org/directory",
	"letsencrypt-staging": "https://acme-staging-v02.api.letsencrypt.org/directory",
	"zerossl":             "https://acme.zerossl.com/v2/DV90",
}

// Directory is the URL of the authority's directory.
func (a *ACME) Directory() string {
	if known := acmeCAs[a.CA]; known != "" {
		return known
	}
	return a.CA
}

// StagingOf is the directory for trials beside that of a production one; false
// when none is known.
func StagingOf(directory string) (string, bool) {
	switch directory {
	case acmeCAs["letsencrypt"], acmeCAs["letsencrypt-staging"]:
		return acmeCAs["letsencrypt-staging"], true
	}
	return "", false
}

// ACMEOf is the ACME of a site that has one: what it says, and what the file does.
// rsa: its keys are RSA.
func (c *Config) ACMEOf(s *Site) (of ACME, rsa bool) {
	of = c.ACME
	own := s.TLS.ACME
	if own.CA != "" && own.CA != of.CA {
		of.CA, of.Trust, of.EAB, of.Profile = own.CA, "", nil, ""
	}
	if own.Email != "" {
		of.Email = own.Email
	}
	if own.Trust != "" {
		of.Trust = own.Trust
	}
	if own.EAB != nil {
		of.EAB = own.EAB
	}
	if own.Profile != "" {
		of.Profile = own.Profile
	}
	if own.DNS != nil {
		of.DNS, of.Challenges = own.DNS, nil
	}
	if own.Challenges != nil {
		of.Challenges = own.Challenges
	}
	if of.Challenges == nil {
		of.Challenges = c.usualChallenges(s, of.DNS)
	}
	return of, own.Key == "rsa"
}

// usualChallenges are those of a site for which the file names none.
func (c *Config) usualChallenges(s *Site, dns *DNS) []string {
	if dns != nil {
		return []string{ChallengeDNS}
	}
	if c.edgeListens(func(l Listen) string { return l.HTTP }) == "" {
		return []string{ChallengeTLSALPN}
	}
	order := 0
	for _, n := range c.Nodes {
		if s.EndsTLS(n) {
			order++
		}
	}
	if order > 1 { // of two challenges by tls-alpn-01 for a name, one can be shown
		return []string{ChallengeHTTP, ChallengeTLSALPN}
	}
	return []string{ChallengeTLSALPN, ChallengeHTTP}
}

// Edges is how many nodes visitors may come to.
func (c *Config) Edges() (number int) {
	for _, n := range c.Nodes {
		if n.IsEdge() {
			number++
		}
	}
	return number
}

// edgeListens is the address of the first edge that has a listener, "" for none.
func (c *Config) edgeListens(of func(Listen) string) string {
	for _, n := range c.Nodes {
		if address := of(n.Listen); n.IsEdge() && address != "" {
			return address
		}
	}
	return ""
}

// UsesACME says whether the certificates of a site are ordered. t may be nil.
func (t *TLS) UsesACME() bool { return t != nil && t.ACME != nil }

// parseACMECA reads acme.ca.
func parseACMECA(s string) (string, *fault) {
	if acmeCAs[s] != "" {
		return s, nil
	}
	mend := "write letsencrypt, letsencrypt-staging, zerossl, or the URL of its directory, https://…"
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http":
		return "", &fault{strconv.Quote(s) + " is no authority that this program knows, and no URL", mend}
	case u.Scheme == "http":
		return "", &fault{"the directory of an authority is read over https alone (RFC 8555 section 6.1)", "write https://" + u.Host + u.Path}
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", &fault{strconv.Quote(s) + " has more than a directory's URL has", mend}
	}
	return s, nil
}

// parseChallenge reads one of acme.challenges.
func parseChallenge(s string) (string, *fault) {
	switch s {
	case ChallengeTLSALPN, ChallengeHTTP, ChallengeDNS:
		return s, nil
	}
	return "", &fault{strconv.Quote(s) + " is no challenge", "write some of tls-alpn-01, http-01, dns-01"}
}

// parseEmail reads an address.
func parseEmail(s string) (string, *fault) {
	name, host, ok := strings.Cut(s, "@")
	if !ok || name == "" || !strings.Contains(host, ".") || strings.ContainsAny(s, " \t,;<>") || strings.Contains(host, "@") {
		return "", &fault{strconv.Quote(s) + " is no address", "write one, such as ops@example.com"}
	}
	return s, nil
}

// completeACME gives the folder its default.
func (c *Config) completeACME() {
	if c.ACME.Dir == "" {
		dir, err := filepath.Abs(filepath.Dir(c.Path))
		if err != nil {
			dir = filepath.Dir(c.Path)
		}
		c.ACME.Dir = filepath.Join(dir, "acme")
	}
}

// checkACME refuses what no certificate can be had by.
func (c *Config) checkACME(r *report) {
	c.completeACME()
	c.checkAccount(r, "acme", c.ACME.DNS, c.ACME.Challenges)
	for i, s := range c.Sites {
		path := fmt.Sprintf("sites[%d]", i)
		at := path + ".tls.acme"
		if !s.TLS.UsesACME() || !r.good(path+".tls") || !r.good(at) {
			continue
		}
		if r.good(at+".dns") && r.good(at+".challenges") {
			c.checkAccount(r, at, s.TLS.ACME.DNS, s.TLS.ACME.Challenges)
		}
		c.checkSiteACME(r, path, s)
	}
}

// checkAccount looks at the challenges and the dns at a place.
func (c *Config) checkAccount(r *report, at string, dns *DNS, challenges []string) {
	if _, written := r.places[at+".challenges"]; written && r.good(at+".challenges") {
		if len(challenges) == 0 {
			r.value(at+".challenges", "write some of tls-alpn-01, http-01, dns-01, or leave it out", "there is no challenge")
		}
		for i, one := range challenges {
			if slices.Contains(challenges[:i], one) {
				r.value(fmt.Sprintf("%s.challenges[%d]", at, i), "write it once", "%s is there already", one)
			}
		}
	}
	checkDNS(r, at+".dns", dns)
}

// checkSiteACME looks at what certificates a site wants, and how.
func (c *Config) checkSiteACME(r *report, path string, s *Site) {
	at := path + ".tls.acme"
	if !r.good("acme") || !r.good("acme.ca") || !r.good("acme.dns") || !r.good("acme.challenges") || !r.good(at+".ca") || !r.good(at+".dns") || !r.good(at+".challenges") || !r.good("nodes") || !r.good("listen") {
		return
	}
	of, _ := c.ACMEOf(s)
	byDNS := slices.Contains(of.Challenges, ChallengeDNS)
	switch {
	case byDNS && of.DNS == nil:
		r.key(at, "write acme: {dns: {provider: alidns, …}}", "dns-01 sets a record, and there is no dns that says who serves the domain")
	case slices.Equal(of.Challenges, []string{ChallengeHTTP}) && c.edgeListens(func(l Listen) string { return l.HTTP }) == "":
		r.key(at, "add http: \":80\" to the listen of an edge, or write tls-alpn-01 or dns-01", "http-01 is answered on plain HTTP, and no edge listens on http")
	}
	if of.CA == "zerossl" && of.EAB == nil {
		r.key(at, "write acme: {eab: {id: …, key: FILE}} with what ZeroSSL gives its customers", "zerossl takes only accounts that are bound to one with it")
	}
	for _, h := range s.Hosts {
		place := hostPath(path+".hosts", h.written)
		if h.Public.Host == "" || !r.good(place) {
			continue
		}
		name := h.Public.Host
		_, err := netip.ParseAddr(name)
		switch {
		case err == nil:
			r.key(place, "give it a name, or a certificate from a file", "%s is an address, for which no certificate is ordered", name)
		case isWild(name) && !byDNS:
			r.key(place, "write challenges: [dns-01] and a dns, or name the hosts", "a certificate for the wildcard %s is issued by dns-01 alone", name)
		case acmeCAs[of.CA] != "" && !isPublic(name):
			r.key(place, "name an authority of your own as acme.ca, or take a certificate from a file", "no public authority issues a certificate for %s", name)
		}
	}
}

// isPublic says whether a name may be in the public DNS (RFC 6761, 6762, 9476).
func isPublic(name string) bool {
	last := name[strings.LastIndexByte(name, '.')+1:]
	return strings.Contains(name, ".") && !slices.Contains([]string{"localhost", "local", "test", "invalid", "example", "internal", "onion", "alt", "lan", "home", "corp"}, last)
}

// checkACMEDir looks whether the node can keep what it orders.
func (c *Config) checkACMEDir(n *Node) Errors {
	r := &report{file: c.Path, places: c.places, bad: map[string]bool{}}
	for i, s := range c.Sites {
		if !s.TLS.UsesACME() || !s.EndsTLS(n) {
			continue
		}
		if err := cache.CheckDir(c.ACME.Dir); err != nil {
			at := fmt.Sprintf("sites[%d].tls.acme", i)
			if _, written := c.places["acme.dir"]; written {
				at = "acme.dir"
			}
			r.value(at, "let the user that runs causeway write there, or name another folder as acme.dir", "no certificate can be kept in %s: %v", c.ACME.Dir, err)
		}
		break
	}
	return r.errs
}

// acmeWarnings says what must be so outside of the file for certificates to be had.
func (c *Config) acmeWarnings() Errors {
	r := &report{file: c.Path, places: c.places, bad: map[string]bool{}}
	for i, s := range c.Sites {
		if !s.TLS.UsesACME() {
			continue
		}
		at := fmt.Sprintf("sites[%d].tls.acme", i)
		of, _ := c.ACMEOf(s)
		var ends []string
		for _, n := range c.Nodes {
			if s.EndsTLS(n) {
				ends = append(ends, n.Name)
			}
			if !n.IsEdge() {
				continue
			}
			c.portWarning(r, at, of.Challenges, ChallengeHTTP, n.Listen.HTTP, "80")
			c.portWarning(r, at, of.Challenges, ChallengeTLSALPN, n.Listen.HTTPS, "443")
		}
		if s.Entry != Passthrough && !slices.Equal(of.Challenges, []string{ChallengeDNS}) {
			if a, b, apart := c.apart(ends); apart {
				r.value(at, "link them to one relay, let them share the folder of acme.dir, or write challenges: [dns-01] and a dns",
					"%s and %s each order for site %s, and the CA comes to whichever the name leads to, which learns of the other's challenges from a relay of both or from a shared folder", a, b, s.Name)
			}
		}
	}
	for _, warning := range r.errs {
		warning.Warning = true
	}
	return r.errs
}

// apart gives two of the nodes that have no relay in common.
func (c *Config) apart(nodes []string) (a, b string, apart bool) {
	for i, a := range nodes {
		for _, b := range nodes[:i] {
			if !slices.ContainsFunc(c.Links, func(l *Link) bool { return l.From == a && c.linked(b, l.To) }) {
				return b, a, true
			}
		}
	}
	return "", "", false
}

// linked says whether an edge has a link to a relay.
func (c *Config) linked(edge, relay string) bool {
	return slices.ContainsFunc(c.Links, func(l *Link) bool { return l.From == edge && l.To == relay })
}

// ACMEWarning is a warning about what is ordered for a site.
func (c *Config) ACMEWarning(site *Site, mend, format string, args ...any) *Error {
	r := &report{file: c.Path, places: c.places, bad: map[string]bool{}}
	r.value(fmt.Sprintf("sites[%d].tls.acme", slices.Index(c.Sites, site)), mend, format, args...)
	r.errs[0].Warning = true
	return r.errs[0]
}

// portWarning says that an authority comes to the one port that the challenge has.
func (c *Config) portWarning(r *report, at string, challenges []string, kind, listen, port string) {
	if !slices.Contains(challenges, kind) || listen == "" || strings.HasSuffix(listen, ":"+port) {
		return
	}
	r.value(at, "forward port "+port+" of the address that the name has to it, or leave "+kind+" out of challenges",
		"%s: the CA comes to port %s alone, and the edge listens on %s", kind, port, listen)
}

// acmeFiles looks at the files of the ACME of the sites that n orders for.
func (f *filesCheck) acmeFiles(c *Config, n *Node) {
	seen := map[string]bool{}
	once := func(path string) bool {
		was := seen[path]
		seen[path] = true
		return !was
	}
	for i, s := range c.Sites {
		if !s.EndsTLS(n) || !s.TLS.UsesACME() {
			continue
		}
		of, _ := c.ACMEOf(s)
		own := fmt.Sprintf("sites[%d].tls.acme", i)
		for _, file := range of.secretFiles() {
			path := f.placed(own+"."+file.key, "acme."+file.key)
			if !once(path) {
				continue
			}
			if file.key == "trust" {
				f.authorities(path, file.path, "write the authorities as PEM: -----BEGIN CERTIFICATE-----")
			} else if data, ok := f.read(path, file.path, ""); ok && strings.TrimSpace(string(data)) == "" {
				f.value(path, "write what the file shall hold into it", "%s is empty", file.path)
			}
		}
		if path := f.placed(own+".dns", "acme.dns"); slices.Contains(of.Challenges, ChallengeDNS) && once(path) {
			f.dns(path, of.DNS)
		}
	}
}

// namedFile is a file and the key that names it.
type namedFile struct{ key, path string }

// secretFiles are the files that the account is made of.
func (a *ACME) secretFiles() (files []namedFile) {
	add := func(key, path string) {
		if path != "" {
			files = append(files, namedFile{key, path})
		}
	}
	add("trust", a.Trust)
	if a.EAB != nil {
		add("eab.key", a.EAB.Key)
	}
	return files
}
