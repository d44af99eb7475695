package cert

// The path of a name: Set starts an acmeName, whose run loads what the storage
// holds, orders when nothing does or it is due (acmeorder.go), and serves it.

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"

	"causeway/keypair"
)

// Directories of authorities that are known by a name.
const (
	LetsEncrypt        = certmagic.LetsEncryptProductionCA
	LetsEncryptStaging = certmagic.LetsEncryptStagingCA
	ZeroSSL            = certmagic.ZeroSSLProductionCA
)

// Challenges of RFC 8555 section 8 and RFC 8737.
const (
	ChallengeHTTP    = "http-01"
	ChallengeTLSALPN = "tls-alpn-01"
	ChallengeDNS     = "dns-01"
)

// ACMENames wants a certificate for each of some names.
type ACMENames struct {
	Site  string
	Names []string // A-labels, or "*."+labels
	ACMESettings

	// Ready is nil when the authority can reach this node for its challenges, or
	// says what is missing yet; nothing is ordered before. nil is always ready.
	// dns-01 needs nobody.
	Ready func() error
}

// ACMESettings are an authority and how it is convinced.
type ACMESettings struct {
	Directory  string   // URL
	Email      string   // "" gives none
	TrustPEM   []byte   // whom to trust at Directory; nil are the system's authorities
	EABKeyID   string   // external account binding (RFC 8555 section 7.3.4); "" for none
	EABKey     string   // its HMAC key in base64url
	Challenges []string // tried in this order
	DNS        certmagic.DNSProvider
	DNSText    string   // what DNS is made of: another text is another one
	Resolvers  []string // host:port, asked whether a record is there; nil are the system's
	RSA        bool     // an RSA key of 2048 bits in place of ECDSA P-256
	Profile    string   // of the authority's; "" is its default
	Approved   []string // who may have signed it; nil for anybody
	Refuse     bool     // what somebody else signed is not shown
}

// text is all that the settings say: who has another text may succeed where
// the other failed.
func (s *ACMESettings) text() string {
	return fmt.Sprintf("%s\x00%s\x00%s\x00%s\x00%s\x00%v\x00%s\x00%v\x00%v\x00%s\x00%q%v", s.Directory, s.Email, s.TrustPEM, s.EABKeyID, s.EABKey, s.Challenges, s.DNSText, s.Resolvers, s.RSA, s.Profile, s.Approved, s.Refuse)
}

// unapproved is what Approved has against a certificate.
func (s *ACMESettings) unapproved(c *acmeCertificate) error {
	if s.Approved == nil || keypair.SignedBy(keypair.Chain(&c.Certificate), s.Approved) {
		return nil
	}
	return fmt.Errorf("the certificate was issued by %s, which approved_issuers does not name: %s; order at one of them, or change approved_issuers", keypair.Issuer(c.Leaf), strings.Join(s.Approved, ", "))
}

const (
	// tick is the longest sleep of a name: clocks jump, and another node that
	// shares the storage may have renewed.
	tick = 10 * time.Minute

	// mostOrders are under way at a time.
	mostOrders = 4

	// mostAsks are the questions for a window at a time: a node that starts has one
	// for each name.
	mostAsks = 2

	// missedPause is how often the log tells of visitors without a certificate.
	missedPause = time.Minute
)

// ACME holds the certificates that it has authorities issue, one a name, and
// renews them. All its methods may be called at once from any goroutine.
type ACME struct {
	storage    acmeStorage
	log        *slog.Logger
	challenges challenges
	places     chan struct{} // one in it for each order under way
	asks       chan struct{} // one in it for each question for a window

	base  context.Context
	stop  context.CancelFunc
	tasks sync.WaitGroup

	names atomic.Pointer[map[string]*acmeName] // replaced whole

	mu    sync.Mutex           // guards holds, and Set
	holds map[string]time.Time // authorities that want to be left alone until then
}

// NewACME keeps account, certificates, locks and what the nodes that share them
// must know in storage. It does nothing before Set. tell may be nil: there is
// nobody to be told.
func NewACME(storage certmagic.Storage, log *slog.Logger, tell Tell) *ACME {
	a := &ACME{storage: acmeStorage{storage}, log: log, places: make(chan struct{}, mostOrders), asks: make(chan struct{}, mostAsks), holds: make(map[string]time.Time)}
	a.challenges.storage, a.challenges.tell = a.storage, tell
	if tell == nil {
		a.challenges.tell = func(context.Context, string, string, string) {}
	}
	a.base, a.stop = context.WithCancel(context.Background())
	a.names.Store(&map[string]*acmeName{})
	return a
}

// FileStorage is a folder as storage: files of mode 0600 in folders of 0700,
// which nodes may share.
func FileStorage(dir string) certmagic.Storage { return &certmagic.FileStorage{Path: dir} }

// Set has these names managed and no others. It waits for no authority: what the
// storage holds is served when Set returns, and the rest is ordered. A name that
// was there with the same settings goes on undisturbed.
func (a *ACME) Set(wanted []ACMENames) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old, names := *a.names.Load(), make(map[string]*acmeName)
	var fresh []*acmeName
	for _, w := range wanted {
		for _, name := range w.Names {
			name = normalName(name)
			if names[name] != nil {
				continue
			}
			n := old[name]
			if n == nil || n.site != w.Site || n.settings.text() != w.text() {
				n = newACMEName(a, w.Site, name, w.ACMESettings)
				if w.Ready != nil && !slices.Equal(w.Challenges, []string{ChallengeDNS}) {
					n.ready = w.Ready
				}
				if was := old[name]; was != nil { // better than none, until there is another
					if c := was.shown.Load(); c != nil {
						_ = n.show(c)
					}
				}
				fresh = append(fresh, n)
			}
			names[name] = n
		}
	}
	for _, n := range fresh {
		n.load(a.base)
	}
	a.names.Store(&names)
	for name, n := range old {
		if names[name] != n {
			n.stop()
		}
	}
	for _, n := range fresh {
		a.tasks.Go(n.run)
	}
}

// Close ends what is under way, and waits for it.
func (a *ACME) Close() {
	a.stop()
	a.tasks.Wait()
}

// GetCertificate is for tls.Config: the certificate for the server name of hello,
// exact before a wildcard of one label, or nil, nil when there is none, or none
// yet: no handshake waits for an authority. One who asks for acme-tls/1 alone is
// an authority (RFC 8737), and is shown what proves that the name is ours.
func (a *ACME) GetCertificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if IsChallenge(hello) {
		if !a.Manages(hello.ServerName) {
			return nil, errNoChallenge
		}
		return a.challenges.certificate(hello.Context(), hello.ServerName)
	}
	if n := a.find(hello.ServerName); n != nil {
		if shown := n.shown.Load(); shown != nil {
			return &shown.Certificate, nil
		}
		n.missed()
	}
	return nil, nil
}

// IsChallenge reports whether hello is an authority's that looks whether the name
// is ours, by TLS-ALPN-01.
func IsChallenge(hello *tls.ClientHelloInfo) bool {
	return len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == acmeTLS
}

// acmeTLS is the protocol of TLS-ALPN-01 (RFC 8737 section 6.2).
const acmeTLS = "acme-tls/1"

// find is the managed name for a server name, nil for none.
func (a *ACME) find(name string) *acmeName {
	names := *a.names.Load()
	name = normalName(name)
	if n := names[name]; n != nil {
		return n
	}
	if _, parent, ok := strings.Cut(name, "."); ok {
		return names["*."+parent]
	}
	return nil
}

// Manages reports whether certificates for exactly this name are ordered.
func (a *ACME) Manages(name string) bool { return (*a.names.Load())[normalName(name)] != nil }

// Proof is what proves to an authority that a name is ours. key: the token that it
// asks for at /.well-known/acme-challenge/ (RFC 8555 section 8.3), or HelloKey.
// false for one of nobody who shares the storage.
func (a *ACME) Proof(ctx context.Context, key string) (string, bool) {
	answer, ok := a.challenges.answer(ctx, key)
	if !ok {
		return "", false
	}
	return answer.proof, true
}

// State is what is known of each name, in the order of their sites and names.
func (a *ACME) State() []State {
	var all []State
	for _, n := range *a.names.Load() {
		all = append(all, n.state())
	}
	slices.SortFunc(all, func(x, y State) int {
		return strings.Compare(x.Site+"\x00"+x.Names[0], y.Site+"\x00"+y.Names[0])
	})
	return all
}

// acmeName is one name with its certificate.
type acmeName struct {
	acme     *ACME
	site     string
	name     string
	settings ACMESettings
	ready    func() error
	ctx      context.Context
	stop     context.CancelFunc
	forced   chan chan<- error // from those who want it renewed now

	shown atomic.Pointer[acmeCertificate]
	err   atomic.Pointer[string] // of the last order; nil when it succeeded
	told  atomic.Int64           // when the log told of a visitor that got none, Unix seconds

	// The rest is run's.
	ari     acme.RenewalInfo
	ordered time.Time // when it was last issued to this process
	mark    int       // the last of keypair.Mark that was told of
}

func newACMEName(a *ACME, site, name string, settings ACMESettings) *acmeName {
	n := &acmeName{acme: a, site: site, name: name, settings: settings, ready: func() error { return nil }, forced: make(chan chan<- error), mark: -1}
	n.ctx, n.stop = context.WithCancel(a.base)
	return n
}

func (n *acmeName) log() *slog.Logger { return n.acme.log.With("site", n.site, "name", n.name) }

// missed tells of a visitor for whom there is no certificate yet.
func (n *acmeName) missed() {
	now, told := time.Now(), n.told.Load()
	if now.Sub(time.Unix(told, 0)) < missedPause || !n.told.CompareAndSwap(told, now.Unix()) {
		return
	}
	why := "it is being ordered"
	if err := n.err.Load(); err != nil {
		why = *err
	}
	n.log().Warn("visitors are refused: there is no certificate for the name yet", "why", why)
}

func (n *acmeName) fail(err error) {
	if err == nil {
		n.err.Store(nil)
		return
	}
	n.err.Store(new(err.Error()))
}

func (n *acmeName) state() State {
	s := State{Names: []string{n.name}}
	if shown := n.shown.Load(); shown != nil {
		s = StateOf(shown.Leaf)
	}
	s.Site, s.Source, s.Where = n.site, SourceACME, n.settings.Directory
	if err := n.err.Load(); err != nil {
		s.Err = *err
	}
	return s
}

// load shows what the storage has, when it is another certificate.
func (n *acmeName) load(ctx context.Context) {
	stored, err := n.acme.storage.certificate(ctx, n.settings.Directory, n.name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		n.fail(err)
	default:
		if err := n.show(stored); err != nil {
			n.fail(err)
		}
	}
}

// show has visitors see a certificate. The error is why they must not.
func (n *acmeName) show(c *acmeCertificate) error {
	shown := n.shown.Load()
	if shown != nil && shown.Leaf.Equal(c.Leaf) {
		return nil
	}
	if err := n.settings.unapproved(c); err != nil && n.settings.Refuse {
		return err
	} else if err != nil {
		n.log().Warn("certificate of an issuer who is not approved", "err", err)
	}
	n.shown.Store(c)
	n.ari, n.mark = acme.RenewalInfo{}, -1
	return nil
}

// tellEnd tells, once at each of keypair.Mark, of a certificate that ends though it
// should have been renewed.
func (n *acmeName) tellEnd(now time.Time) {
	shown := n.shown.Load()
	if shown == nil || now.Before(n.due(shown)) {
		return
	}
	mark := keypair.Mark(shown.Leaf.NotAfter, now)
	if mark == n.mark || mark < 0 {
		return
	}
	n.mark = mark
	level := slog.LevelWarn
	if mark <= 1 {
		level = slog.LevelError
	}
	n.log().Log(context.Background(), level, "certificate ends, and could not be renewed", "ca", n.settings.Directory,
		"until", shown.Leaf.NotAfter.UTC().Format(time.DateTime), "left", keypair.Left(shown.Leaf.NotAfter, now))
}

// run keeps the certificate until the name is managed no more.
func (n *acmeName) run() {
	for n.ctx.Err() == nil {
		n.load(n.ctx)
		wait := n.keep()
		n.tellEnd(time.Now())
		timer := time.NewTimer(min(max(wait, time.Second), tick))
		select {
		case <-timer.C:
		case <-n.ctx.Done():
		case done := <-n.forced:
			done <- n.order(true)
		}
		timer.Stop()
	}
}

// keep orders when it is time, and says how long it is until it looks again.
func (n *acmeName) keep() time.Duration {
	shown := n.shown.Load()
	if shown != nil && shown.of(&n.settings) {
		n.askARI(shown)
		if wait := time.Until(n.due(shown)); wait > 0 {
			return wait
		}
	}
	if wait := n.held(); wait > 0 {
		n.fail(n.heldFor(wait))
		return wait
	}
	if err := n.ready(); err != nil {
		n.fail(err)
		return time.Second
	}
	if n.order(false) != nil {
		return n.held()
	}
	return 0 // how long it lasts is looked at next
}

// due is when a certificate is to be renewed: the time within the window that the
// authority suggests (RFC 9773), and with none, or a late one, when a third of
// its life is left.
func (n *acmeName) due(c *acmeCertificate) time.Time {
	life := c.Leaf.NotAfter.Sub(c.Leaf.NotBefore)
	if n.ari.HasWindow() {
		at := n.ari.SelectedTime
		if soonest := n.ordered.Add(ariPause); at.Before(soonest) {
			at = soonest
		}
		if at.Before(c.Leaf.NotAfter.Add(-life / 10)) {
			return at
		}
	}
	return c.Leaf.NotAfter.Add(-life / 3)
}

// How often the authority is asked for its window, when it doesn't say itself or
// says something strange (RFC 9773 section 4.3.2 and 4.3.3).
const (
	ariLeast   = time.Minute
	ariUsual   = 6 * time.Hour
	ariLongest = 24 * time.Hour

	// ariPause is the least between two orders, whatever the window says.
	ariPause = time.Hour
)

// askARI asks for the window, when it is time.
func (n *acmeName) askARI(c *acmeCertificate) {
	if n.ari.RetryAfter != nil && time.Now().Before(*n.ari.RetryAfter) || n.holding() > 0 {
		return
	}
	select {
	case n.acme.asks <- struct{}{}:
		defer func() { <-n.acme.asks }()
	case <-n.ctx.Done():
		return
	}
	ctx, cancel := context.WithTimeout(n.ctx, 30*time.Second)
	defer cancel()
	window, err := n.renewalInfo(ctx, c.Leaf)
	if err != nil { // it has none, or can't be reached: the third will do
		n.ari.RetryAfter = new(time.Now().Add(ariUsual))
		return
	}
	again := ariUsual
	if window.RetryAfter != nil {
		again = min(max(time.Until(*window.RetryAfter), ariLeast), ariLongest)
	}
	window.RetryAfter = new(time.Now().Add(again))
	if n.ari.HasWindow() && n.ari.SameWindow(window) {
		window.SelectedTime = n.ari.SelectedTime
	}
	n.ari = window
}

// holding is how long the authority is left alone for everybody.
func (n *acmeName) holding() time.Duration {
	n.acme.mu.Lock()
	defer n.acme.mu.Unlock()
	return time.Until(n.acme.holds[n.settings.Directory])
}

// held is how long no order is made for the name: failures are kept in the
// storage, so that a restart asks no sooner.
func (n *acmeName) held() time.Duration {
	wait := max(n.holding(), n.acme.storage.hold(n.ctx, n.settings.Directory))
	last := n.acme.storage.attempt(n.ctx, n.settings.Directory, n.name)
	if last.Failures > 0 && last.Settings == digest(n.settings.text()) {
		if n.err.Load() == nil {
			n.err.Store(&last.Err)
		}
		wait = max(wait, time.Until(last.Next))
	}
	if wait > mostHeld { // the clock was wrong
		return 0
	}
	return wait
}

// asked is when the authority itself wants to be asked again, which counts for
// people too; in the past when it has said nothing.
func (n *acmeName) asked(ctx context.Context) time.Time {
	wait := max(n.holding(), n.acme.storage.hold(ctx, n.settings.Directory))
	last := n.acme.storage.attempt(ctx, n.settings.Directory, n.name)
	if last.Asked && last.Settings == digest(n.settings.text()) {
		n.err.Store(&last.Err)
		wait = max(wait, time.Until(last.Next))
	}
	if wait > mostHeld { // the clock was wrong
		wait = 0
	}
	return time.Now().Add(wait)
}

// heldFor is why no order is made: what failed last, or that nothing did and the
// authority wants to be left alone all the same.
func (n *acmeName) heldFor(wait time.Duration) error {
	if err := n.err.Load(); err != nil {
		return errors.New(*err)
	}
	return fmt.Errorf("the CA %s wants to be left alone until %s: see the other names", hostOf(n.settings.Directory), time.Now().Add(wait).Format(time.DateTime))
}

// Pauses after failures.
var (
	// Of the authority that can't be reached or does not work: nothing is
	// counted against us then.
	unreachedPauses = []time.Duration{2 * time.Second, 3 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second, time.Minute, 2 * time.Minute, 5 * time.Minute}

	// Of a challenge: Let's Encrypt takes five an hour for a name, and an order
	// here may fail two.
	refusedPauses = []time.Duration{10 * time.Minute, 50 * time.Minute, 2 * time.Hour, 4 * time.Hour, 6 * time.Hour}
)

// mostHeld is longer than any pause that an authority asks for.
const mostHeld = 8 * 24 * time.Hour

// pause is how long to wait after so many failures in a row.
func pause(pauses []time.Duration, failures int) time.Duration {
	d := pauses[min(failures, len(pauses))-1]
	return d*7/8 + rand.N(d/4) // nodes and names apart
}

// order has a certificate issued, or finds one that another node had issued.
// forced: even if it is not due, or failed a moment ago.
func (n *acmeName) order(forced bool) error {
	select {
	case n.acme.places <- struct{}{}:
		defer func() { <-n.acme.places }()
	case <-n.ctx.Done():
		return n.ctx.Err()
	}
	ctx, cancel := context.WithTimeout(n.ctx, orderTime)
	defer cancel()
	err := n.orderLocked(ctx, forced)
	if n.ctx.Err() != nil {
		return n.ctx.Err()
	}
	n.fail(err)
	return err
}

// orderTime is the longest that an order may take, the wait for another node's
// included.
const orderTime = 15 * time.Minute

func (n *acmeName) orderLocked(ctx context.Context, forced bool) error {
	storage, ca := n.acme.storage, n.settings.Directory
	had := n.shown.Load()
	unlock, err := storage.lock(ctx, ca, n.name)
	if err != nil {
		return n.failed(ctx, fmt.Errorf("take the lock for %s: %w", n.name, err))
	}
	defer unlock()
	if stored, err := storage.certificate(ctx, ca, n.name); err == nil && stored.of(&n.settings) {
		refused := n.show(stored)
		switch {
		case refused != nil && !forced && time.Until(n.due(stored)) > 0: // the next would be another of the same
			return n.failed(ctx, &ACMEError{Refused: true, Err: refused})
		case refused != nil:
		case had != nil && !had.Leaf.Equal(stored.Leaf) || had == nil && !forced:
			return nil // another node was sooner
		}
	}
	if wait := n.held(); !forced && wait > 0 { // another node, or another name, has failed meanwhile
		return n.heldFor(wait)
	}
	if until := n.asked(ctx); forced && time.Until(until) > 0 {
		return fmt.Errorf("the CA %s wants to be asked again at %s, and no sooner: %w", hostOf(ca), until.Format(time.DateTime), n.heldFor(time.Until(until)))
	}
	start := time.Now()
	var replaces *acmeCertificate
	if had != nil && had.of(&n.settings) {
		replaces = had
	}
	issued, err := n.acme.issue(ctx, n.name, &n.settings, replaces)
	if err != nil {
		return n.failed(ctx, err)
	}
	if err := storage.putCertificate(ctx, ca, n.name, issued); err != nil {
		_ = n.show(issued) // it is good all the same
		return n.failed(ctx, fmt.Errorf("keep the certificate of %s: %w", n.name, err))
	}
	if err := n.show(issued); err != nil {
		return n.failed(ctx, &ACMEError{Refused: true, Err: err})
	}
	n.ordered = time.Now()
	if due := n.due(issued); time.Until(due) <= 0 { // it would be ordered again and again
		return n.failed(ctx, &ACMEError{Refused: true, Words: "the certificate that came is to be renewed already by this machine's clock: set the clock by NTP",
			Err: fmt.Errorf("it is in force from %s until %s", issued.Leaf.NotBefore.Format(time.DateTime), issued.Leaf.NotAfter.Format(time.DateTime))})
	}
	storage.forget(ctx, ca, n.name)
	n.log().Info("certificate obtained", "ca", ca, "issuer", StateOf(issued.Leaf).Issuer, "not_after", issued.Leaf.NotAfter, "took", time.Since(start).Round(time.Millisecond))
	if behind := time.Until(issued.Leaf.NotBefore); behind > 0 {
		n.log().Warn("the certificate is not valid yet by this machine's clock, which is behind: set it by NTP", "behind", behind.Round(time.Second))
	}
	return nil
}

// failed writes down a failure and when the next order may be made.
func (n *acmeName) failed(ctx context.Context, err error) error {
	if n.ctx.Err() != nil {
		return err // we stop
	}
	storage, ca := n.acme.storage, n.settings.Directory
	last := storage.attempt(ctx, ca, n.name)
	if last.Settings != digest(n.settings.text()) {
		last = attempt{Settings: digest(n.settings.text())}
	}
	last.Failures++
	var of *ACMEError
	pauses := unreachedPauses
	if errors.As(err, &of) && of.Refused {
		pauses = refusedPauses
	}
	last.Next, last.Asked = time.Now().Add(pause(pauses, last.Failures)), false
	if of != nil && of.RetryAfter.After(time.Now()) {
		last.Asked = true
		if of.RetryAfter.After(last.Next) {
			last.Next = of.RetryAfter
		}
	}
	if of != nil && of.everybody {
		n.acme.hold(ctx, ca, of.RetryAfter)
	}
	last.Err = err.Error()
	keep := storage.putAttempt(context.WithoutCancel(ctx), ca, n.name, last)
	n.log().Warn("no certificate could be had", "ca", ca, "err", err, "again", last.Next.Round(time.Second))
	if keep != nil { // then nothing is remembered
		n.acme.hold(ctx, ca, last.Next)
		return fmt.Errorf("%w (and the storage can't be written: %w)", err, keep)
	}
	return err
}

// hold leaves an authority alone until a time.
func (a *ACME) hold(ctx context.Context, ca string, until time.Time) {
	a.mu.Lock()
	if a.holds[ca].Before(until) {
		a.holds[ca] = until
	}
	a.mu.Unlock()
	_ = a.storage.putHold(context.WithoutCancel(ctx), ca, until) // then a restart knows nothing of it
}

// Outcome is what became of one name.
type Outcome struct {
	Site, Name, Directory, Issuer string
	NotAfter                      time.Time
	Err                           error
}

// Renew has the certificates of a site renewed now, of every site with "".
func (a *ACME) Renew(ctx context.Context, site string) []Outcome {
	return a.each(site, func(n *acmeName) Outcome {
		done := make(chan error, 1)
		select {
		case n.forced <- done:
		case <-n.ctx.Done():
			return Outcome{Err: errors.New("the name is managed no more")}
		case <-ctx.Done():
			return Outcome{Err: fmt.Errorf("wait for the order that is under way: %w", context.Cause(ctx))}
		}
		select {
		case err := <-done:
			out := Outcome{Err: err}
			if shown := n.shown.Load(); shown != nil {
				out.Issuer, out.NotAfter = StateOf(shown.Leaf).Issuer, shown.Leaf.NotAfter
			}
			return out
		case <-ctx.Done():
			return Outcome{Err: fmt.Errorf("wait for the order: %w", context.Cause(ctx))}
		}
	})
}

// Test orders certificates for a site, for every site with "", at the directory
// that staging gives for that of its settings, and throws them away. What is
// served, kept and counted stays as it is.
func (a *ACME) Test(ctx context.Context, site string, staging func(directory string) (string, error)) []Outcome {
	return a.each(site, func(n *acmeName) Outcome {
		settings := n.settings
		directory, err := staging(settings.Directory)
		if err != nil {
			return Outcome{Err: err}
		}
		if directory != settings.Directory {
			settings.Directory, settings.EABKeyID, settings.EABKey, settings.Profile = directory, "", "", ""
		}
		unlock, err := a.storage.lock(ctx, n.settings.Directory, n.name) // one order answers for a name at a time
		if err != nil {
			return Outcome{Directory: directory, Err: fmt.Errorf("wait for another order for %s: %w", n.name, err)}
		}
		defer unlock()
		issued, err := a.issue(ctx, n.name, &settings, nil)
		if err != nil {
			return Outcome{Directory: directory, Err: err}
		}
		return Outcome{Directory: directory, Issuer: StateOf(issued.Leaf).Issuer, NotAfter: issued.Leaf.NotAfter}
	})
}

// each does something for the names of a site, a few at a time.
func (a *ACME) each(site string, do func(*acmeName) Outcome) []Outcome {
	var names []*acmeName
	for _, n := range *a.names.Load() {
		if site == "" || n.site == site {
			names = append(names, n)
		}
	}
	slices.SortFunc(names, func(x, y *acmeName) int { return strings.Compare(x.name, y.name) })
	outcomes, places := make([]Outcome, len(names)), make(chan struct{}, mostOrders)
	var doing sync.WaitGroup
	for i, n := range names {
		places <- struct{}{}
		doing.Go(func() {
			defer func() { <-places }()
			outcomes[i] = do(n)
			outcomes[i].Site, outcomes[i].Name = n.site, n.name
			if outcomes[i].Directory == "" {
				outcomes[i].Directory = n.settings.Directory
			}
		})
	}
	doing.Wait()
	return outcomes
}
