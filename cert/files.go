package cert

// A hello's way through the store: GetCertificate → find (by name or local
// address) → pick (the first certificate of that name the client can use).

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Files names one certificate: PEM files, the chain with the leaf first, and
// its private key.
type Files struct {
	Site      string // the name of its site, for State
	Cert, Key string
}

// Store is an immutable set of site certificates. All its methods may be
// called at once from any goroutine.
type Store struct {
	names     map[string][]*tls.Certificate // lower-case DNS names and "*."+labels
	addresses map[netip.Addr][]*tls.Certificate
	state     []State
}

// Load reads every certificate of files into a store. The error joins all the
// files that cannot be used, each named. No files make an empty store, which
// has a certificate for nobody. Several certificates may carry the same name
// (an ECDSA and an RSA one): the first in the order of files that the client
// supports is shown. Validity dates are not looked at: a client tells its user
// more than a missing certificate could.
func Load(files []Files) (*Store, error) {
	s := &Store{
		names:     make(map[string][]*tls.Certificate),
		addresses: make(map[netip.Addr][]*tls.Certificate),
	}
	var errs []error
	for _, f := range files {
		if err := s.add(f); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *Store) add(f Files) error {
	c, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	if err != nil {
		return fmt.Errorf("load certificate %s with key %s: %w", f.Cert, f.Key, err)
	}
	if len(c.Leaf.DNSNames) == 0 && len(c.Leaf.IPAddresses) == 0 {
		return fmt.Errorf("load certificate %s: it names no host (no subjectAltName): browsers refuse it, have it issued with its DNS names", f.Cert)
	}
	state := StateOf(c.Leaf)
	state.Site, state.Source, state.Where = f.Site, SourceFile, f.Cert
	s.state = append(s.state, state)
	for _, name := range c.Leaf.DNSNames {
		name = normalName(name)
		s.names[name] = append(s.names[name], &c)
	}
	for _, ip := range c.Leaf.IPAddresses {
		if a, ok := netip.AddrFromSlice(ip); ok {
			s.addresses[a.Unmap()] = append(s.addresses[a.Unmap()], &c)
		}
	}
	return nil
}

// GetCertificate is for tls.Config: the certificate for the server name of
// hello (RFC 6066 section 3), exact before a wildcard of one label (RFC 9525
// section 6.3), and for a hello without a name the one of the local IP
// address. It returns nil, nil when there is none; crypto/tls then ends the
// handshake with the alert unrecognized_name.
func (s *Store) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return pick(s.find(hello), hello), nil
}

// State is every certificate of the store, in the order of the files.
func (s *Store) State() []State { return slices.Clone(s.state) }

func (s *Store) find(hello *tls.ClientHelloInfo) []*tls.Certificate {
	name := normalName(hello.ServerName)
	if name == "" {
		return s.addresses[localAddr(hello.Conn)]
	}
	if found := s.names[name]; found != nil {
		return found
	}
	if _, parent, ok := strings.Cut(name, "."); ok {
		return s.names["*."+parent]
	}
	return nil
}

func pick(of []*tls.Certificate, hello *tls.ClientHelloInfo) *tls.Certificate {
	if len(of) == 0 {
		return nil
	}
	if len(of) == 1 {
		return of[0]
	}
	for _, c := range of {
		if hello.SupportsCertificate(c) == nil {
			return c
		}
	}
	return of[0]
}

func localAddr(conn net.Conn) netip.Addr {
	if conn == nil {
		return netip.Addr{}
	}
	ap, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

func normalName(name string) string {
	return strings.ToLower(strings.TrimSuffix(name, "."))
}
