package cert

// One order: issue finds the account (acme.go's storage), then tries one
// challenge after the other (try), until one gives a certificate.

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
	"go.uber.org/zap"
)

// client is what one order talks to the authority with.
type client struct {
	*acmez.Client
	transport *http.Transport
	retry     *retryAfter
}

// newClient makes a client, whose connections close ends.
func newClient(settings *ACMESettings) (*client, error) {
	transport := &http.Transport{
		DialContext:           (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		ForceAttemptHTTP2:     true,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
	}
	if settings.TrustPEM != nil {
		transport.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !transport.TLSClientConfig.RootCAs.AppendCertsFromPEM(settings.TrustPEM) {
			return nil, errors.New("read acme.trust: it holds no certificate")
		}
	}
	retry := &retryAfter{next: transport}
	return &client{transport: transport, retry: retry, Client: &acmez.Client{Client: &acme.Client{
		Directory:    settings.Directory,
		UserAgent:    "causeway",
		HTTPClient:   &http.Client{Transport: retry, Timeout: time.Minute},
		PollInterval: 250 * time.Millisecond, // until the authority says otherwise
		PollTimeout:  5 * time.Minute,
	}}}, nil
}

func (c *client) close() { c.transport.CloseIdleConnections() }

// mostAnswer is more than any answer of an authority has.
const mostAnswer = 4 << 20

// retryAfter is a RoundTripper that bounds answers, and notes when the authority
// that refuses one says to come back (RFC 8555 section 6.6, RFC 9110 section
// 10.2.3).
type retryAfter struct {
	next http.RoundTripper

	mu        sync.Mutex // guards the rest
	until     time.Time
	everybody bool // it was not for one order
}

func (r *retryAfter) RoundTrip(req *http.Request) (*http.Response, error) {
	res, err := r.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	res.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(res.Body, mostAnswer), res.Body}
	if res.StatusCode != http.StatusTooManyRequests && res.StatusCode != http.StatusServiceUnavailable {
		return res, nil
	}
	field := res.Header.Get("Retry-After")
	until, dateErr := http.ParseTime(field)
	if seconds, err := strconv.Atoi(field); err == nil && seconds >= 0 {
		until, dateErr = time.Now().Add(time.Duration(min(seconds, 1<<31))*time.Second), nil
	}
	if dateErr == nil {
		r.mu.Lock()
		if until.After(r.until) {
			r.until = until
		}
		r.everybody = r.everybody || res.StatusCode == http.StatusServiceUnavailable
		r.mu.Unlock()
	}
	return res, nil
}

func (r *retryAfter) noted() (until time.Time, everybody bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.until, r.everybody
}

// renewalInfo asks when a certificate is to be renewed (RFC 9773).
func (n *acmeName) renewalInfo(ctx context.Context, leaf *x509.Certificate) (acme.RenewalInfo, error) {
	c, err := newClient(&n.settings)
	if err != nil {
		return acme.RenewalInfo{}, err
	}
	defer c.close()
	return c.GetRenewalInfo(ctx, leaf)
}

// issue has a certificate issued for name. The error, when the authority or the
// world is to blame, is an *ACMEError.
func (a *ACME) issue(ctx context.Context, name string, settings *ACMESettings, replaces *acmeCertificate) (*acmeCertificate, error) {
	c, err := newClient(settings)
	if err != nil {
		return nil, err
	}
	defer c.close()
	account, err := a.account(ctx, c, settings, false)
	if err == nil {
		var issued *acmeCertificate
		issued, err = a.tryAll(ctx, c, account, name, settings, replaces)
		if problemOf(err) == acme.ProblemTypeAccountDoesNotExist { // the authority was made anew
			if account, err = a.account(ctx, c, settings, true); err == nil {
				issued, err = a.tryAll(ctx, c, account, name, settings, replaces)
			}
		}
		if err == nil {
			return issued, nil
		}
	}
	failed := explain(err, name, settings)
	failed.RetryAfter, failed.everybody = c.retry.noted()
	return nil, failed
}

// account finds the account with the authority, or makes one. anew: the one that
// there is is of no use.
func (a *ACME) account(ctx context.Context, c *client, settings *ACMESettings, anew bool) (acme.Account, error) {
	key := accountKey(settings)
	contact := []string{}
	if settings.Email != "" {
		contact = []string{"mailto:" + settings.Email}
	}
	if account, err := a.storage.account(ctx, key); err == nil && !anew && slices.Equal(account.Contact, contact) {
		return account, nil // as nearly always: nobody waits for a lock
	}
	unlock, err := a.storage.lockKey(ctx, key)
	if err != nil {
		return acme.Account{}, fmt.Errorf("take the lock for the account: %w", err)
	}
	defer unlock()
	account, err := a.storage.account(ctx, key)
	switch {
	case err == nil && !anew && slices.Equal(account.Contact, contact):
		return account, nil
	case err == nil && !anew:
		account.Contact = contact
		if updated, err := c.UpdateAccount(ctx, account); err == nil {
			updated.Contact, updated.PrivateKey = contact, account.PrivateKey
			return updated, a.storage.putAccount(ctx, key, updated)
		} else if problemOf(err) != acme.ProblemTypeAccountDoesNotExist {
			return acme.Account{}, fmt.Errorf("change the account's address: %w", err)
		}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return acme.Account{}, fmt.Errorf("read the account: %w", err)
	}
	signer, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return acme.Account{}, fmt.Errorf("make the account's key: %w", err)
	}
	account = acme.Account{Contact: contact, TermsOfServiceAgreed: true, PrivateKey: signer}
	if settings.EABKeyID != "" {
		if err := account.SetExternalAccountBinding(ctx, c.Client.Client, acme.EAB{KeyID: settings.EABKeyID, MACKey: settings.EABKey}); err != nil {
			return acme.Account{}, fmt.Errorf("bind the account (acme.eab): %w", err)
		}
	}
	if account, err = c.NewAccount(ctx, account); err != nil {
		return acme.Account{}, fmt.Errorf("make an account: %w", err)
	}
	account.Contact = contact // as it was asked for: some say it otherwise
	return account, a.storage.putAccount(ctx, key, account)
}

// challengeError is a challenge that failed.
type challengeError struct {
	kind  string
	asked bool // this node was
	err   error
}

func (e *challengeError) Error() string { return e.kind + ": " + e.err.Error() }
func (e *challengeError) Unwrap() error { return e.err }

// tryAll orders by one challenge after the other, as long as it is the challenge
// that fails.
func (a *ACME) tryAll(ctx context.Context, c *client, account acme.Account, name string, settings *ACMESettings, replaces *acmeCertificate) (*acmeCertificate, error) {
	var errs []error
	for _, kind := range settings.Challenges {
		if kind != ChallengeDNS && strings.HasPrefix(name, "*.") {
			continue // RFC 8555 section 7.1.3 knows wildcards; who issues one by them?
		}
		c.ChallengeSolvers = map[string]acmez.Solver{kind: a.solver(kind, settings)}
		issued, err := a.try(ctx, c, account, name, settings, replaces)
		if err == nil {
			return issued, nil
		}
		var problem acme.Problem
		failed := errors.As(err, &problem) && ofChallenge(&problem) || notOffered(err)
		if !failed || ctx.Err() != nil {
			return nil, errors.Join(append(errs, err)...)
		}
		errs = append(errs, &challengeError{kind, a.challenges.wasAsked(name), err})
	}
	if errs == nil {
		return nil, fmt.Errorf("there is no challenge by which a certificate for %s can be had: %v", name, settings.Challenges)
	}
	return nil, errors.Join(errs...)
}

// notOffered says whether the authority does not look at names by the challenge,
// as ZeroSSL does not by tls-alpn-01. acmez has no other word for it.
func notOffered(err error) bool {
	return strings.Contains(err.Error(), "no solvers available for remaining challenges")
}

// solver is what answers a kind of challenge.
func (a *ACME) solver(kind string, settings *ACMESettings) acmez.Solver {
	if kind == ChallengeDNS {
		return &certmagic.DNS01Solver{DNSManager: certmagic.DNSManager{
			DNSProvider: settings.DNS, Resolvers: settings.Resolvers, TTL: time.Minute,
			PropagationTimeout: 5 * time.Minute, Logger: zap.NewNop(),
		}}
	}
	return solver{of: &a.challenges, kind: kind}
}

// try orders with the client's one challenge.
func (a *ACME) try(ctx context.Context, c *client, account acme.Account, name string, settings *ACMESettings, replaces *acmeCertificate) (*acmeCertificate, error) {
	var key crypto.Signer
	var err error
	if settings.RSA {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{DNSNames: []string{name}}, key)
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	params, err := acmez.OrderParametersFromCSR(account, request)
	if err != nil {
		return nil, fmt.Errorf("make a request: %w", err)
	}
	params.Profile = settings.Profile
	if replaces != nil {
		params.Replaces = replaces.Leaf
	}
	chains, err := c.ObtainCertificate(ctx, params)
	if replaces != nil && (problemOf(err) == acme.ProblemTypeMalformed || problemOf(err) == acme.ProblemTypeServerInternal) {
		params.Replaces = nil // it does not know the one before, or knows no replacement
		chains, err = c.ObtainCertificate(ctx, params)
	}
	switch {
	case err != nil:
		return nil, err
	case len(chains) == 0:
		return nil, errors.New("the authority gave no certificate")
	}
	text, err := certmagic.PEMEncodePrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode the key: %w", err)
	}
	var issued *acmeCertificate
	for _, chain := range chains { // the first is the authority's choice (RFC 8555 section 7.4.2)
		one, err := readACMECertificate(slices.Concat(text, bytes.TrimSpace(chain.ChainPEM), []byte("\n")))
		if err != nil {
			return nil, fmt.Errorf("read what the authority gave: %w", err)
		}
		if issued == nil || settings.unapproved(issued) != nil && settings.unapproved(one) == nil {
			issued = one
		}
	}
	issued.directory = settings.Directory
	if err := issued.Leaf.VerifyHostname(strings.Replace(name, "*", "any-name", 1)); err != nil {
		return nil, fmt.Errorf("read what the authority gave: %w", err)
	}
	return issued, nil
}

// problemOf is the type of the authority's problem in err, "" for none.
func problemOf(err error) string {
	var problem acme.Problem
	if errors.As(err, &problem) {
		return problem.Type
	}
	return ""
}
