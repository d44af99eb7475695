package config

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"maps"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"causeway/keypair"
)

// CheckFiles looks at the files that the part of node n needs, and no others:
// an edge has the certificates of the sites, a relay those of the sites that pass
// through and the authorities of the origins, and both, in a file with nodes, their part of the pki. They must be
// readable, keys must fit, certificates must cover the public hosts and be such
// as clients take. The error is Errors.
//
// What a client would not like, and its user would be told, is no error here: a
// node that starts again when a certificate has expired serves its other sites,
// and this one to those who will have it. Check says it.
func (c *Config) CheckFiles(n *Node) error {
	f := c.newFilesCheck(time.Now())
	f.serving = true
	return c.lookAtFiles(n, f).errs.orNil()
}

// checkFiles also takes a Config of which a part could not be decoded.
func (c *Config) checkFiles(n *Node, now time.Time) *filesCheck {
	return c.lookAtFiles(n, c.newFilesCheck(now))
}

func (c *Config) newFilesCheck(now time.Time) *filesCheck {
	return &filesCheck{report: report{file: c.Path, places: c.places, bad: map[string]bool{}}, now: now}
}

// lookAtFiles has f look at the files of node n.
func (c *Config) lookAtFiles(n *Node, f *filesCheck) *filesCheck {
	f.readPairs(c, n)
	for i, s := range c.Sites {
		path := fmt.Sprintf("sites[%d]", i)
		if s.EndsTLS(n) {
			f.site(path+".tls", s, c.ApprovedIssuers)
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
	f.acmeFiles(c, n)
	for i, forward := range c.Forwards {
		if forward.Health.CA != "" && slices.Contains(c.ForwardsOf(n), forward) {
			f.authorities(forwardPath(i)+".health.ca", forward.Health.CA, "write the authorities as PEM: -----BEGIN CERTIFICATE-----")
		}
	}
	if n.Role != RoleBoth && c.PKI != "" {
		f.pki(c.PKI, n.Name)
	}
	return f
}

// placed is path when the file has it, else what stands for it.
func (f *filesCheck) placed(path, other string) string {
	if _, ok := f.places[path]; ok {
		return path
	}
	return other
}

// filesCheck collects what is wrong with the files of one node.
type filesCheck struct {
	report          // what keeps the node from serving
	wrong    Errors // what clients will not like
	warnings Errors // what some may not like
	now      time.Time
	pairs    map[keypair.Files]readPair
	serving  bool           // a node starts: where chains end takes time, and is for warnings alone
	roots    *x509.CertPool // of the system, once it was asked for
}

// say notes a problem of a file at path.
func (f *filesCheck) say(path string, p *keypair.Problem) {
	before := f.errs
	f.value(path, p.Mend, "%s", p.What)
	said := f.errs[len(before):]
	switch p.Level {
	case keypair.Wrong:
		f.errs, f.wrong = before, append(f.wrong, said...)
	case keypair.Warning:
		said[0].Warning = true
		f.errs, f.warnings = before, append(f.warnings, said...)
	}
}

// read is the content of a file.
func (f *filesCheck) read(path, file, mend string) ([]byte, bool) {
	data, problem := keypair.Content(keypair.Cert, file, mend)
	if problem != nil {
		f.say(path, problem)
	}
	return data, problem == nil
}

// Want is what is wanted of the certificates of a site.
func (c *Config) Want(s *Site) keypair.Want { return ofSite(s, c.ApprovedIssuers) }

func ofSite(s *Site, approved *ApprovedIssuers) keypair.Want {
	var want keypair.Want
	for _, h := range s.Hosts {
		if h.Public.Host != "" {
			want.Hosts = append(want.Hosts, h.Public.Host)
		}
	}
	want.Some = len(s.TLS.Files()) > 1
	if approved != nil {
		want.Approved, want.Refuse = approved.Names, approved.Otherwise == "refuse"
	}
	return want
}

// suites reports tls.suites of which none is for a key of the site's certificates:
// no client of TLS 1.2 would get in.
func (f *filesCheck) suites(path string, s *Site, leaves []*x509.Certificate) {
	if len(s.TLS.Suites) == 0 || len(leaves) == 0 {
		return
	}
	for _, leaf := range leaves {
		kind := "_ECDSA_" // Ed25519 too (RFC 8422 section 5.10)
		if leaf.PublicKeyAlgorithm == x509.RSA {
			kind = "_RSA_"
		}
		if slices.ContainsFunc(s.TLS.Suites, func(name string) bool { return strings.Contains(name, kind) }) {
			return
		}
	}
	f.value(path+".suites", "add a suite for its key, or leave suites out", "no suite is for the %s key of %s", leaves[0].PublicKeyAlgorithm, s.TLS.Files()[0].Cert)
}

// readPair is a certificate as its files have it.
type readPair struct {
	cert     *tls.Certificate
	problems []*keypair.Problem
}

// readPairs reads the certificates that node n needs, each once, several at a time:
// thousands take their time.
func (f *filesCheck) readPairs(c *Config, n *Node) {
	f.pairs = make(map[keypair.Files]readPair)
	for _, s := range c.Sites {
		if s.EndsTLS(n) {
			for _, files := range s.TLS.Files() {
				f.pairs[files.Pair()] = readPair{}
			}
		}
	}
	var mu sync.Mutex // guards pairs
	var reading sync.WaitGroup
	places := make(chan struct{}, runtime.GOMAXPROCS(0))
	for _, files := range slices.Collect(maps.Keys(f.pairs)) {
		if files.Cert == "" || files.Key == "" && !IsPKCS12(files.Cert) {
			continue // that is said already
		}
		places <- struct{}{}
		reading.Go(func() {
			cert, problems := keypair.Read(files)
			mu.Lock()
			f.pairs[files] = readPair{cert, problems}
			mu.Unlock()
			<-places
		})
	}
	reading.Wait()
}

// pair is one of readPairs.
func (f *filesCheck) pair(files keypair.Files) (*tls.Certificate, []*keypair.Problem) {
	of := f.pairs[files]
	return of.cert, slices.Clip(of.problems)
}

// site looks at the certificates of a site, whose tls is at path.
func (f *filesCheck) site(path string, s *Site, approved *ApprovedIssuers) {
	want := ofSite(s, approved)
	if !f.serving {
		want.Roots = f.system()
	}
	var leaves []*x509.Certificate
	rest, all := want.Hosts, true // hosts without a certificate yet, if all could be read
	for n, files := range s.TLS.Files() {
		if files.Cert == "" || files.Key == "" && !IsPKCS12(files.Cert) {
			all = false
			continue // that is said already
		}
		at := s.TLS.filesPath(path, n)
		c, problems := f.pair(files.Pair())
		if c != nil {
			leaves = append(leaves, c.Leaf)
			problems = append(problems, keypair.Judge(c, files.Cert, want, f.now)...)
			rest = keypair.Missing(c.Leaf, rest)
		}
		all = all && c != nil
		for _, p := range problems {
			f.say(at+"."+string(p.Part), p)
		}
	}
	f.suites(path, s, leaves)
	if want.Some && all && len(rest) > 0 {
		f.value(path+".certs", "get a certificate with it, or take the host out of the site", "no certificate is for %s", strings.Join(rest[:min(len(rest), 8)], ", "))
	}
}

// system are the roots that this machine knows; nil where it has none.
func (f *filesCheck) system() *x509.CertPool {
	if f.roots == nil {
		if roots, err := x509.SystemCertPool(); err == nil && !roots.Equal(x509.NewCertPool()) {
			f.roots = roots
		}
	}
	return f.roots
}

// certificates are those of a PEM file, at least one.
func (f *filesCheck) certificates(path, file string, data []byte, mend string) ([]*x509.Certificate, bool) {
	all, problem := keypair.Certificates(keypair.Cert, file, data, mend)
	if problem != nil {
		f.say(path, problem)
	}
	return all, problem == nil
}

// inForce reports an authority that is not valid now.
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
	c, problems := keypair.Read(keypair.Files{Cert: certFile, Key: keyFile})
	for _, p := range problems {
		if strings.HasSuffix(p.What, "does not exist") {
			p.Mend = mend
		}
		f.say("pki", p)
	}
	if c == nil {
		return
	}
	leaf := c.Leaf
	f.inForce("pki", certFile, leaf)
	if authority == nil {
		return
	}
	for _, ca := range authority {
		if leaf.CheckSignatureFrom(ca) == nil {
			return
		}
	}
	f.value("pki", mend, "%s was not signed by %s", certFile, caFile)
}
