package cert

// A hello's way through the store: Find → find (by site, and name or local
// address) → pick (the first that is in force and that the client can use).
//
// A change's way: Run → look, every few seconds → reread → use: another index,
// swapped whole.

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"causeway/keypair"
)

// Files names one certificate.
type Files = keypair.Files

// Source is one certificate of a site.
type Source struct {
	Site  string
	Files Files
	Want  keypair.Want
}

// Store is the certificates of sites, from files. All its methods may be called
// at once from any goroutine; Run follows the files.
type Store struct {
	log   *slog.Logger
	roots func() (*x509.CertPool, error) // whom this machine's clients trust
	now   atomic.Pointer[index]          // replaced whole

	mu      sync.Mutex // guards the entries, in turn with now
	entries []*entry
}

// entry is one certificate.
type entry struct {
	source Source
	cert   *tls.Certificate // as it is served; its staple is set in a copy
	seen   keypair.Stamp    // of the files that cert came from
	tried  keypair.Stamp    // of those that were looked at last
	failed keypair.Stamp    // of those that err is about
	err    error            // why they are not in use; nil when they are
	warned string           // what was told of cert that is no reason to refuse it
	sound  time.Time        // when the first of the chain of cert ends; zero before it was looked at
	mark   int              // the last of keypair.Mark that was told of
	staple staple
}

// index finds certificates; it never changes.
type index struct {
	names     map[string][]held // by lower-case DNS names and "*."+labels
	addresses map[netip.Addr][]held
}

// held is a certificate of a site.
type held struct {
	site string
	cert *tls.Certificate
}

// Load reads every certificate of sources into a store. What before has of the
// same files, unchanged since, is not read again; before may be nil. The error
// joins all the files that cannot be used, each named. No sources make an empty
// store, which has a certificate for nobody. Several certificates of a site may
// carry the same name (an ECDSA and an RSA one): the first in the order of sources
// that the client supports is shown, ECDSA before the others, which is what servers
// sign fastest with, and what is in force before what is not. When all have expired
// one is shown all the same: a client tells its user more than a missing
// certificate could.
func Load(sources []Source, before *Store, log *slog.Logger) (*Store, error) {
	s := &Store{log: log, roots: x509.SystemCertPool, entries: make([]*entry, len(sources))}
	known := before.known()
	var reading sync.WaitGroup
	places := make(chan struct{}, runtime.GOMAXPROCS(0))
	for i, source := range sources {
		e := &entry{source: source, mark: -1}
		s.entries[i] = e
		if old := known[source.Files]; old != nil && keypair.StampOf(source.Files).Same(old.seen) {
			e.cert, e.seen, e.staple, e.mark, e.warned = old.cert, old.seen, old.staple, old.mark, old.warned
			e.err = keypair.Refused(keypair.Judge(e.cert, source.Files.Cert, source.Want, time.Now()))
			continue
		}
		places <- struct{}{}
		reading.Go(func() {
			e.seen, e.cert, e.err = read(source)
			<-places
		})
	}
	reading.Wait()
	var errs []error
	for _, e := range s.entries {
		if e.err != nil {
			errs = append(errs, fmt.Errorf("load certificate of site %s: %w", e.source.Site, e.err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	for _, e := range s.entries {
		e.tried = e.seen
	}
	s.swap()
	return s, nil
}

// known are the entries by their files.
func (s *Store) known() map[Files]*entry {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	known := make(map[Files]*entry, len(s.entries))
	for _, e := range s.entries {
		copied := *e
		known[e.source.Files] = &copied
	}
	return known
}

// read reads one certificate as its files are at one moment.
func read(source Source) (keypair.Stamp, *tls.Certificate, error) {
	stamp := keypair.StampOf(source.Files)
	c, problems := keypair.Read(source.Files)
	if c == nil {
		return stamp, nil, keypair.Refused(problems)
	}
	if err := keypair.Refused(keypair.Judge(c, source.Files.Cert, source.Want, time.Now())); err != nil {
		return stamp, nil, err
	}
	return stamp, c, nil
}

// swap makes the entries what is served. s.mu is held, or nobody has s yet.
func (s *Store) swap() {
	x := &index{names: make(map[string][]held, len(s.entries)), addresses: make(map[netip.Addr][]held)}
	for _, e := range s.entries {
		one := held{e.source.Site, e.cert}
		for _, name := range e.cert.Leaf.DNSNames {
			name = normalName(name)
			x.names[name] = append(x.names[name], one)
		}
		for _, ip := range e.cert.Leaf.IPAddresses {
			if a, ok := netip.AddrFromSlice(ip); ok {
				x.addresses[a.Unmap()] = append(x.addresses[a.Unmap()], one)
			}
		}
	}
	for _, of := range x.names {
		slices.SortStableFunc(of, ecdsaFirst)
	}
	for _, of := range x.addresses {
		slices.SortStableFunc(of, ecdsaFirst)
	}
	s.now.Store(x)
}

func ecdsaFirst(a, b held) int {
	rank := func(of held) int {
		if of.cert.Leaf.PublicKeyAlgorithm == x509.ECDSA {
			return 0
		}
		return 1
	}
	return rank(a) - rank(b)
}

const (
	// lookEvery is how often files are looked at, and lookMost how long that takes
	// for many: two or three stats each.
	lookEvery = 2 * time.Second
	lookEach  = 2 * time.Millisecond
	// dayEvery is how often the days that are left are counted.
	dayEvery = time.Hour
)

// Run follows the files until ctx ends: one that changes is read again, and used
// if it may be; else the one before stays, and the log says why, once. It tells of
// certificates that end soon, and keeps their staples.
func (s *Store) Run(ctx context.Context) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { s.runStaples(ctx) })
	s.countDays(time.Now())
	s.warn(time.Now())
	look := time.NewTicker(max(lookEvery, time.Duration(len(s.entries))*lookEach))
	defer look.Stop()
	day := time.NewTicker(dayEvery)
	defer day.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			s.look()
		case now := <-day.C:
			s.countDays(now)
		}
	}
}

// look reads again what changed.
func (s *Store) look() {
	changed := false
	for _, e := range s.entries { // the slice never changes
		changed = s.reread(e) || changed
	}
	if changed {
		s.mu.Lock()
		s.swap()
		s.mu.Unlock()
		s.countDays(time.Now())
		s.warn(time.Now())
	}
}

// warn tells, once, what some clients or the owner may not like about what is in
// use; countDays tells of its end.
func (s *Store) warn(now time.Time) {
	for _, e := range s.entries {
		s.mu.Lock()
		c, before := e.cert, e.warned
		s.mu.Unlock()
		var said []string
		for _, p := range keypair.Judge(c, e.source.Files.Cert, e.source.Want, now) {
			if p.Level == keypair.Warning && !p.Expiry {
				said = append(said, p.Error())
			}
		}
		text := strings.Join(said, "\n")
		if text == before {
			continue
		}
		for _, one := range said {
			s.log.Warn("certificate", "site", e.source.Site, "err", one)
		}
		s.mu.Lock()
		if e.cert == c {
			e.warned = text
		}
		s.mu.Unlock()
	}
}

// reread looks at one certificate, and reports whether another is in use now.
// What can't be used is spoken of when it is still so at the next look: it may be
// in the midst of being written.
func (s *Store) reread(e *entry) bool {
	stamp := keypair.StampOf(e.source.Files)
	s.mu.Lock()
	same, said, settled := stamp.Same(e.seen), e.err != nil && stamp.Same(e.failed), stamp.Same(e.tried)
	e.tried = stamp
	if same { // or again what they were
		e.err = nil
	}
	s.mu.Unlock()
	if same || said {
		return false
	}
	at, c, err := read(e.source)
	if err == nil {
		s.mu.Lock()
		inUse := e.cert
		s.mu.Unlock()
		err = worse(inUse, c, e.source, time.Now())
	}
	switch {
	case !at.Same(keypair.StampOf(e.source.Files)): // changed while it was read
		return false
	case err == nil:
		return s.use(e, at, c)
	case !settled:
		return false
	}
	s.mu.Lock()
	e.err, e.failed = err, at
	s.mu.Unlock()
	s.log.Error("certificate changed and can't be used, the one before stays", "site", e.source.Site, "file", e.source.Files.Cert, "err", err)
	return false
}

// worse is why c must not take the place of the certificate in use: it is not in
// force, as an old one that was put there by mistake, and that is; or a host of the
// site would have none any more.
func worse(inUse, c *tls.Certificate, source Source, now time.Time) error {
	file := source.Files.Cert
	wrong := func(c *tls.Certificate) error {
		for _, p := range keypair.Judge(c, file, keypair.Want{}, now) {
			if p.Level == keypair.Wrong {
				return p
			}
		}
		return nil
	}
	has := slices.Clone(source.Want.Hosts)
	for _, lacks := range keypair.Missing(inUse.Leaf, has) {
		has = slices.DeleteFunc(has, func(host string) bool { return host == lacks })
	}
	if lost := keypair.Missing(c.Leaf, has); len(lost) > 0 {
		return fmt.Errorf("%s does not cover %s any more; get a certificate with that host, or change the file first", file, strings.Join(lost, ", "))
	}
	if wrong(inUse) != nil {
		return nil
	}
	return wrong(c)
}

// use puts a certificate in the place of the one before. It is served from the
// next swap on.
func (s *Store) use(e *entry, at keypair.Stamp, c *tls.Certificate) bool {
	s.mu.Lock()
	before := e.cert
	e.cert, e.seen, e.tried, e.err, e.mark = c, at, at, nil, -1
	e.staple, e.sound = staple{}, time.Time{}
	s.mu.Unlock()
	s.log.Info("certificate changed", "site", e.source.Site, "file", e.source.Files.Cert, "names", keypair.Names(c.Leaf), "until", c.Leaf.NotAfter.UTC().Format(time.DateOnly))
	if roots, err := s.roots(); err == nil && keypair.Untrusted(before, roots, time.Now()) == nil { // a private authority's never did
		if err := keypair.Untrusted(c, roots, time.Now()); err != nil {
			s.log.Warn("certificate changed, and clients may refuse it where they took the one before", "site", e.source.Site, "file", e.source.Files.Cert, "err", err)
		}
	}
	return true
}

// countDays tells of certificates that end soon, once at each mark.
func (s *Store) countDays(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.entries {
		end := e.end()
		mark := keypair.Mark(end, now)
		if mark == e.mark {
			continue
		}
		e.mark = mark
		level := slog.LevelWarn
		if mark <= 1 {
			level = slog.LevelError
		}
		if mark >= 0 {
			s.log.Log(context.Background(), level, "certificate ends", "site", e.source.Site, "file", e.source.Files.Cert,
				"until", end.UTC().Format(time.DateTime), "left", keypair.Left(end, now))
		}
	}
}

// Len is how many certificates there are.
func (s *Store) Len() int { return len(s.entries) }

// State is every certificate as it is now.
func (s *Store) State() []State {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	states := make([]State, 0, len(s.entries))
	for _, e := range s.entries {
		state := StateOf(e.cert.Leaf)
		state.Site, state.Source, state.Where = e.source.Site, SourceFile, e.source.Files.Cert
		if e.err != nil {
			state.Err = e.err.Error()
		} else if wrong := e.outOfForce(now); wrong != nil {
			state.Err = wrong.Error()
		} else if e.staple.err != "" {
			state.Err = e.staple.err
		}
		states = append(states, state)
	}
	return states
}

// end is when the first certificate of the chain ends. s.mu is held.
func (e *entry) end() time.Time {
	if e.sound.IsZero() {
		e.sound = keypair.End(e.cert)
	}
	return e.sound
}

// outOfForce is what is wrong with the certificate in use as time goes by: the rest
// was judged when it was read. s.mu is held.
func (e *entry) outOfForce(now time.Time) *keypair.Problem {
	if !now.After(e.end()) && !now.Before(e.cert.Leaf.NotBefore) {
		return nil
	}
	for _, p := range keypair.Judge(e.cert, e.source.Files.Cert, keypair.Want{}, now) {
		if p.Level < keypair.Warning {
			return p
		}
	}
	return nil
}

// Find is the certificate of a site, or with "" of any, for the server name of hello
// (RFC 6066 section 3), exact before a wildcard of one label (RFC 9525 section 6.3),
// and for a hello without a name the one of the local IP address. It is nil when
// there is none; crypto/tls then ends the handshake with the alert
// unrecognized_name.
func (s *Store) Find(site string, hello *tls.ClientHelloInfo) *tls.Certificate {
	return pick(s.now.Load().find(site, hello), hello, time.Now())
}

// GetCertificate is Find for whatever site, for tls.Config.
func (s *Store) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	return s.Find("", hello), nil
}

// find gives the certificates for a hello: those of its very name before those of a
// wildcard.
func (x *index) find(site string, hello *tls.ClientHelloInfo) []held {
	name := normalName(hello.ServerName)
	if name == "" {
		return of(site, x.addresses[localAddr(hello.Conn)])
	}
	found := of(site, x.names[name])
	if _, parent, ok := strings.Cut(name, "."); ok {
		if wild := of(site, x.names["*."+parent]); len(found) == 0 {
			found = wild
		} else if len(wild) > 0 {
			found = slices.Concat(found, wild)
		}
	}
	return found
}

// of are those of a site, of any with "".
func of(site string, all []held) []held {
	is := func(one held) bool { return site == "" || one.site == site }
	switch first := slices.IndexFunc(all, is); {
	case first < 0:
		return nil
	case !slices.ContainsFunc(all, func(one held) bool { return !is(one) }): // as nearly always
		return all
	case !slices.ContainsFunc(all[first+1:], is):
		return all[first : first+1]
	}
	return slices.DeleteFunc(slices.Clone(all), func(one held) bool { return !is(one) })
}

// pick chooses among them: what is in force and the client can use, then what it can
// use, then the first.
func pick(of []held, hello *tls.ClientHelloInfo, now time.Time) *tls.Certificate {
	if len(of) == 0 {
		return nil
	}
	if len(of) == 1 {
		return of[0].cert
	}
	var usable *tls.Certificate
	for _, one := range of {
		if hello.SupportsCertificate(one.cert) != nil {
			continue
		}
		if leaf := one.cert.Leaf; !now.After(leaf.NotAfter) && !now.Before(leaf.NotBefore) {
			return one.cert
		}
		if usable == nil {
			usable = one.cert
		}
	}
	if usable == nil {
		return of[0].cert
	}
	return usable
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
