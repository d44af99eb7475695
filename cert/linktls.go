package cert

// LinkTLS → Server or Client → at each handshake: current (the files, read
// again when they changed) → verify (chain, then name, then protocol).

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// nodeSuffix ends the DNS name a node's certificate carries. The top-level
// domain "internal" is set aside for private use (ICANN board, 2024-07-29), so
// no public authority signs such a name and no site has it.
const nodeSuffix = ".node.causeway.internal"

// linkProtocol is the one application protocol of the link (RFC 9113 section
// 3.2).
const linkProtocol = "h2"

// NodeHost is the DNS name that stands for the node called name in its
// certificate, lower-case: "virginia-1.node.causeway.internal".
func NodeHost(name string) string { return strings.ToLower(name) + nodeSuffix }

// LinkIdentity is what a node shows on the link and whom it trusts. It looks
// at its files at every handshake and reads them again when they changed, so
// that a renewed certificate or a new ca.pem (which may hold an old and a new
// authority) is in use without a restart. Files that cannot be used leave the
// ones before in place, with one warning. Safe for use by several goroutines.
type LinkIdentity struct {
	node  string
	paths [3]string // ca.pem, NAME.pem, NAME.key

	// mu guards what follows.
	mu     sync.Mutex
	loaded *material
	seen   [3]fs.FileInfo // of the files loaded came from
	warned string         // the last warning since loaded
}

// material is one reading of the files; it never changes.
type material struct {
	pool *x509.CertPool
	cert *tls.Certificate
}

// PeerError is the refusal of a link's peer by its certificate.
type PeerError struct {
	Expected  []string // names of the nodes that were allowed
	Presented string   // what the peer says it is: a node's name, else the certificate's subject and hosts
	Err       error    // why the certificate is refused; nil when it is good but another node's
}

func (e *PeerError) Error() string {
	expected := "no node is allowed"
	if len(e.Expected) > 0 {
		expected = "expected node " + strings.Join(e.Expected, " or ")
	}
	if e.Err == nil {
		return fmt.Sprintf("link peer refused: it is %s, %s", e.Presented, expected)
	}
	return fmt.Sprintf("link peer refused: it says it is %s, %s: %v", e.Presented, expected, e.Err)
}

func (e *PeerError) Unwrap() error { return e.Err }

// LinkTLS reads dir/ca.pem, dir/NODE.pem and dir/NODE.key. The certificate
// must be signed by ca.pem and name this node.
func LinkTLS(dir, node string) (*LinkIdentity, error) {
	if err := checkName(node); err != nil {
		return nil, fmt.Errorf("read link identity %q: %w", node, err)
	}
	l := &LinkIdentity{node: node, paths: [3]string{
		filepath.Join(dir, caCertName),
		filepath.Join(dir, node+".pem"),
		filepath.Join(dir, node+".key"),
	}}
	if _, err := l.current(); err != nil {
		return nil, fmt.Errorf("read link identity %s: %w", node, err)
	}
	return l, nil
}

// Server is the TLS side of a link's listener: TLS 1.3, "h2", and a client
// certificate of one of the allowed nodes. An empty allowed refuses everyone.
// A refusal is a *PeerError from the handshake.
func (l *LinkIdentity) Server(allowed []string) *tls.Config {
	allowed = slices.Clone(allowed)
	c := l.config()
	c.ClientAuth = tls.RequireAnyClientCert // verify does the verifying
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		return l.verify(cs, allowed, x509.ExtKeyUsageClientAuth)
	}
	return c
}

// Client is the TLS side of a link's dialler: TLS 1.3, "h2", and a peer that
// is the node called peer, whatever address it was dialled at. No server name
// is sent. A refusal is a *PeerError from the handshake; a server that refuses
// this node says so only at the first read (RFC 8446 section 4.4.2.4).
func (l *LinkIdentity) Client(peer string) *tls.Config {
	c := l.config()
	c.InsecureSkipVerify = true // of host names against the default roots; verify does the verifying
	c.VerifyConnection = func(cs tls.ConnectionState) error {
		return l.verify(cs, []string{peer}, x509.ExtKeyUsageServerAuth)
	}
	return c
}

// PeerNode is the name of the node at the other end of a verified link
// connection, "" when it has none.
func PeerNode(cs tls.ConnectionState) string {
	if len(cs.PeerCertificates) == 0 {
		return ""
	}
	if names := nodeNames(cs.PeerCertificates[0]); len(names) > 0 {
		return names[0]
	}
	return ""
}

func (l *LinkIdentity) config() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{linkProtocol},
		SessionTicketsDisabled: true, // each connection proves itself anew; links live long
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return l.certificate()
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			return l.certificate()
		},
	}
}

func (l *LinkIdentity) certificate() (*tls.Certificate, error) {
	m, err := l.current()
	if err != nil {
		return nil, err
	}
	return m.cert, nil
}

// verify runs in VerifyConnection, which crypto/tls calls for resumed
// connections too.
func (l *LinkIdentity) verify(cs tls.ConnectionState, allowed []string, usage x509.ExtKeyUsage) error {
	if len(cs.PeerCertificates) == 0 {
		return &PeerError{Expected: allowed, Presented: "nobody", Err: errors.New("it sent no certificate")}
	}
	leaf := cs.PeerCertificates[0]
	refuse := func(err error) error {
		return &PeerError{Expected: allowed, Presented: presented(leaf), Err: err}
	}
	m, err := l.current()
	if err != nil {
		return refuse(err)
	}
	if err := verifyChain(m.pool, cs.PeerCertificates, usage); err != nil {
		return refuse(err)
	}
	is := func(node string) bool { return slices.Contains(leaf.DNSNames, NodeHost(node)) }
	if !slices.ContainsFunc(allowed, is) {
		return refuse(nil)
	}
	if cs.NegotiatedProtocol != linkProtocol {
		return refuse(fmt.Errorf("it agreed to protocol %q instead of %q", cs.NegotiatedProtocol, linkProtocol))
	}
	return nil
}

func verifyChain(pool *x509.CertPool, chain []*x509.Certificate, usage x509.ExtKeyUsage) error {
	opts := x509.VerifyOptions{
		Roots:         pool,
		Intermediates: x509.NewCertPool(),
		KeyUsages:     []x509.ExtKeyUsage{usage},
		CurrentTime:   time.Now(),
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	_, err := chain[0].Verify(opts)
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Errorf("its certificate is signed by another authority (%s): %w", chain[0].Issuer, err)
	}
	return err
}

// presented words what a certificate says of its holder; it is not believed.
func presented(leaf *x509.Certificate) string {
	if names := nodeNames(leaf); len(names) > 0 {
		return "node " + strings.Join(names, ", ")
	}
	return fmt.Sprintf("no node (subject %q, hosts %q)", leaf.Subject, leaf.DNSNames)
}

func nodeNames(leaf *x509.Certificate) []string {
	var names []string
	for _, host := range leaf.DNSNames {
		if name, ok := strings.CutSuffix(host, nodeSuffix); ok {
			names = append(names, name)
		}
	}
	return names
}

// current is the material of the files as they are now, or the last good one.
func (l *LinkIdentity) current() (*material, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	stamp, err := l.stat()
	if err == nil && l.loaded != nil && same(stamp, l.seen) {
		return l.loaded, nil
	}
	var m *material
	if err == nil {
		m, err = l.read()
	}
	if err == nil {
		l.loaded, l.seen, l.warned = m, stamp, ""
		return m, nil
	}
	if l.loaded == nil {
		return nil, err
	}
	// The files may be in the midst of being replaced: try again at the next
	// handshake, and say it once.
	if err.Error() != l.warned {
		l.warned = err.Error()
		slog.Warn("link identity changed but cannot be used, keeping the one before", "node", l.node, "error", err)
	}
	return l.loaded, nil
}

func (l *LinkIdentity) stat() (stamp [3]fs.FileInfo, err error) {
	for i, path := range l.paths {
		info, statErr := os.Stat(path)
		if statErr != nil {
			err = errors.Join(err, statErr)
			continue
		}
		stamp[i] = info
	}
	return stamp, err
}

func same(a, b [3]fs.FileInfo) bool {
	return slices.EqualFunc(a[:], b[:], func(a, b fs.FileInfo) bool {
		return os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
	})
}

func (l *LinkIdentity) read() (*material, error) {
	caPath, certPath, keyPath := l.paths[0], l.paths[1], l.paths[2]
	caText, err := os.ReadFile(caPath)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(caText) {
		return nil, fmt.Errorf("read %s: no certificate in it", caPath)
	}
	pair, err := tls.LoadX509KeyPair(certPath, keyPath)
	if err != nil {
		return nil, fmt.Errorf("load %s with %s: %w", certPath, keyPath, err)
	}
	if !slices.Contains(pair.Leaf.DNSNames, NodeHost(l.node)) {
		return nil, fmt.Errorf("%s is the certificate of %s, not of node %s: make one with `causeway link-ca`", certPath, presented(pair.Leaf), l.node)
	}
	if err := verifyOwn(pool, pair.Leaf); err != nil {
		return nil, fmt.Errorf("verify %s against %s: %w", certPath, caPath, err)
	}
	return &material{pool: pool, cert: &pair}, nil
}

// verifyOwn checks our own certificate against the authority. One that has
// expired passes here: the peers decide, and their refusal names the date.
func verifyOwn(pool *x509.CertPool, leaf *x509.Certificate) error {
	_, err := leaf.Verify(x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired {
		return nil
	}
	return err
}
