package cert

// runStaples → due → askOCSP → a copy of the certificate with the answer, swapped
// in. A handshake never waits for it.

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ocsp"

	"causeway/keypair"
)

const (
	ocspTimeout = 10 * time.Second
	ocspBytes   = 64 << 10
	ocspAtOnce  = 4 // requests under way
	ocspEvery   = time.Second
	// ocspAgain is the pause after a failure, doubled up to ocspMost; answers are
	// valid for days.
	ocspAgain = time.Minute
	ocspMost  = time.Hour
)

// staple is what is known of a certificate's OCSP answer (RFC 6960, RFC 6066 §8).
type staple struct {
	next  time.Time // when to ask; zero for at once
	until time.Time // the answer in use ends
	pause time.Duration
	err   string
}

// mustStaple is the TLS feature extension, for status_request (RFC 7633).
var mustStaple = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}

// asksStaple reports whether a certificate names a responder, and whether its
// clients insist on an answer.
func asksStaple(leaf *x509.Certificate) (asks, must bool) {
	must = slices.ContainsFunc(leaf.Extensions, func(e pkix.Extension) bool {
		return e.Id.Equal(mustStaple) && bytes.HasSuffix(e.Value, []byte{0x02, 0x01, 0x05})
	})
	return len(leaf.OCSPServer) > 0, must
}

// runStaples keeps the answers fresh until ctx ends.
func (s *Store) runStaples(ctx context.Context) {
	ticker := time.NewTicker(ocspEvery)
	defer ticker.Stop()
	client := &http.Client{Timeout: ocspTimeout}
	defer client.CloseIdleConnections()
	for {
		s.dueStaples(ctx, client, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// dueStaples asks for the answers that are due, some at a time.
func (s *Store) dueStaples(ctx context.Context, client *http.Client, now time.Time) {
	var asking sync.WaitGroup
	places := make(chan struct{}, ocspAtOnce)
	changed := false
	var mu sync.Mutex // guards changed
	for _, e := range s.entries {
		s.mu.Lock()
		c, due := e.cert, !now.Before(e.staple.next)
		s.mu.Unlock()
		if asks, must := asksStaple(c.Leaf); !asks || !due {
			if must && !asks && due {
				s.stapleFailed(e, c, errors.New("the certificate insists on an OCSP answer, and names nobody to ask for one"), now)
			}
			continue
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			asking.Wait()
			return
		}
		asking.Go(func() {
			defer func() { <-places }()
			if s.askStaple(ctx, client, e, c, now) {
				mu.Lock()
				changed = true
				mu.Unlock()
			}
		})
	}
	asking.Wait()
	if changed {
		s.mu.Lock()
		s.swap()
		s.mu.Unlock()
	}
}

// askStaple asks for one answer, and reports whether it is another now.
func (s *Store) askStaple(ctx context.Context, client *http.Client, e *entry, c *tls.Certificate, now time.Time) bool {
	answer, raw, err := askOCSP(ctx, client, c, e.source.Files)
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		return s.stapleFailed(e, c, err, now)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.cert != c { // the file changed meanwhile
		return false
	}
	stapled := *c
	stapled.OCSPStaple = raw
	e.cert = &stapled
	e.staple = staple{until: answer.NextUpdate, next: now.Add(min(max(answer.NextUpdate.Sub(now)/2, ocspAgain), answer.NextUpdate.Sub(now)))}
	return true
}

// stapleFailed notes that there is no new answer; one that is over is taken off.
func (s *Store) stapleFailed(e *entry, c *tls.Certificate, err error, now time.Time) (changed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.cert != c {
		return false
	}
	e.staple.pause = min(max(2*e.staple.pause, ocspAgain), ocspMost)
	e.staple.next = now.Add(e.staple.pause)
	over := len(c.OCSPStaple) > 0 && !now.Before(e.staple.until)
	if len(c.OCSPStaple) > 0 && !over && e.staple.next.After(e.staple.until) {
		e.staple.next = e.staple.until // clients refuse one that is over
	}
	if over {
		bare := *c
		bare.OCSPStaple = nil
		e.cert = &bare
	}
	_, must := asksStaple(c.Leaf)
	said := e.staple.err
	if e.staple.err = fmt.Sprintf("no OCSP answer: %v", err); said != e.staple.err {
		if must && (over || len(c.OCSPStaple) == 0) {
			s.log.Error("certificate insists on an OCSP answer and has none: its clients will refuse it", "site", e.source.Site, "file", e.source.Files.Cert, "err", err)
		} else {
			s.log.Warn("no OCSP answer for a certificate", "site", e.source.Site, "file", e.source.Files.Cert, "err", err)
		}
	}
	return over
}

// askOCSP asks the responder that the certificate names. The issuer must be in
// the chain, or else in files or among the roots of this system.
func askOCSP(ctx context.Context, client *http.Client, c *tls.Certificate, files Files) (*ocsp.Response, []byte, error) {
	issuer := issuerOf(c, files)
	if issuer == nil {
		return nil, nil, errors.New("the chain lacks the issuer, whose name the question has")
	}
	question, err := ocsp.CreateRequest(c.Leaf, issuer, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("make the question: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Leaf.OCSPServer[0], bytes.NewReader(question))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/ocsp-request")
	res, err := client.Do(req)
	if err != nil {
		return nil, nil, err
	}
	defer res.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(res.Body, ocspBytes+1))
	switch {
	case err != nil:
		return nil, nil, err
	case res.StatusCode != http.StatusOK:
		return nil, nil, fmt.Errorf("%s answers %s", c.Leaf.OCSPServer[0], res.Status)
	case len(raw) > ocspBytes:
		return nil, nil, fmt.Errorf("%s answers with more than %d bytes", c.Leaf.OCSPServer[0], ocspBytes)
	}
	answer, err := parseOCSP(raw, c.Leaf, issuer)
	now := time.Now()
	switch {
	case err != nil:
		return nil, nil, fmt.Errorf("read the answer of %s: %w", c.Leaf.OCSPServer[0], err)
	case answer.Status == ocsp.Revoked:
		return nil, nil, fmt.Errorf("the certificate was revoked on %s", answer.RevokedAt.UTC().Format(time.DateTime))
	case answer.Status != ocsp.Good:
		return nil, nil, fmt.Errorf("%s does not know the certificate", c.Leaf.OCSPServer[0])
	case answer.NextUpdate.IsZero() || !answer.NextUpdate.After(now):
		return nil, nil, fmt.Errorf("the answer of %s is over", c.Leaf.OCSPServer[0])
	case answer.ThisUpdate.After(now.Add(clockSkew)):
		return nil, nil, fmt.Errorf("the answer of %s is of the future: check the clock of this machine", c.Leaf.OCSPServer[0])
	}
	return answer, raw, nil
}

// issuerOf is who signed a certificate, nil when it cannot be had. A root is never
// in the chain that is served.
func issuerOf(c *tls.Certificate, files Files) *x509.Certificate {
	if chain := keypair.Chain(c); len(chain) > 1 {
		return chain[1]
	}
	if signer := keypair.SignerIn(files, c.Leaf); signer != nil {
		return signer
	}
	chains, err := c.Leaf.Verify(x509.VerifyOptions{CurrentTime: c.Leaf.NotBefore.Add(time.Second), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil || len(chains[0]) < 2 {
		return nil
	}
	return chains[0][1]
}

// parseOCSP reads an answer and verifies that the issuer gave it, or somebody
// whom the issuer has do so (RFC 6960 section 4.2.2.2).
func parseOCSP(raw []byte, leaf, issuer *x509.Certificate) (*ocsp.Response, error) {
	answer, err := ocsp.ParseResponseForCert(raw, leaf, nil)
	if err != nil {
		return nil, err
	}
	// The library takes a certificate that comes along for somebody else's; an
	// issuer's own, which it may send, would have to be signed by itself.
	if answer.Certificate == nil || answer.Certificate.Equal(issuer) {
		return answer, answer.CheckSignatureFrom(issuer)
	}
	if err := answer.CheckSignatureFrom(answer.Certificate); err != nil {
		return nil, err
	}
	if err := answer.Certificate.CheckSignatureFrom(issuer); err != nil {
		return nil, fmt.Errorf("the issuer did not sign the responder's certificate: %w", err)
	}
	if !slices.Contains(answer.Certificate.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) {
		return nil, errors.New("the responder's certificate is not for OCSP")
	}
	return answer, nil
}
