package cert

// What an authority asks this node, or another that shares the storage, to prove:
// Present keeps it, and the listeners' questions find it.

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"sync"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// challenges are those that wait for the authority.
type challenges struct {
	storage acmeStorage

	mu    sync.Mutex                  // guards the rest
	http  map[string]*httpAnswer      // by token
	hello map[string]*tls.Certificate // by name
	asked map[string]bool             // names whose challenge somebody fetched here
}

// httpAnswer is an answer to HTTP-01.
type httpAnswer struct{ name, keyAuthorization string }

// token is what a token may look like (RFC 8555 section 8.3: base64url); it
// becomes the name of a file.
var token = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// solver is an acmez.Solver for one kind of challenge.
type solver struct {
	of   *challenges
	kind string
}

func (s solver) key(c acme.Challenge) string {
	if s.kind == ChallengeHTTP {
		return "challenges/" + s.kind + "/" + c.Token
	}
	return "challenges/" + s.kind + "/" + certmagic.StorageKeys.Safe(c.Identifier.Value)
}

// Present keeps what is to be answered, for this node and for others.
func (s solver) Present(ctx context.Context, c acme.Challenge) error {
	if !token.MatchString(c.Token) {
		return fmt.Errorf("the authority's token %q is none", c.Token)
	}
	var shown *tls.Certificate
	if s.kind == ChallengeTLSALPN {
		var err error
		if shown, err = acmez.TLSALPN01ChallengeCert(c); err != nil {
			return err
		}
	}
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	if err := s.of.storage.Store(ctx, s.key(c), data); err != nil {
		return fmt.Errorf("keep the challenge: %w", err)
	}
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	if s.of.http == nil {
		s.of.http, s.of.hello, s.of.asked = map[string]*httpAnswer{}, map[string]*tls.Certificate{}, map[string]bool{}
	}
	delete(s.of.asked, c.Identifier.Value)
	if s.kind == ChallengeHTTP {
		s.of.http[c.Token] = &httpAnswer{c.Identifier.Value, c.KeyAuthorization}
	} else {
		s.of.hello[c.Identifier.Value] = shown
	}
	return nil
}

// CleanUp forgets it.
func (s solver) CleanUp(ctx context.Context, c acme.Challenge) error {
	s.of.mu.Lock()
	if s.kind == ChallengeHTTP {
		delete(s.of.http, c.Token)
	} else {
		delete(s.of.hello, c.Identifier.Value)
	}
	s.of.mu.Unlock()
	return s.of.storage.Delete(context.WithoutCancel(ctx), s.key(c))
}

// wasAsked reports whether anybody fetched the last challenge for name here.
func (c *challenges) wasAsked(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[name]
}

// keyAuthorization is the answer to HTTP-01.
func (c *challenges) keyAuthorization(ctx context.Context, asked string) (string, bool) {
	if !token.MatchString(asked) {
		return "", false
	}
	c.mu.Lock()
	here := c.http[asked]
	if here != nil {
		c.asked[here.name] = true
	}
	c.mu.Unlock()
	if here != nil {
		return here.keyAuthorization, true
	}
	var there acme.Challenge
	if !c.load(ctx, "challenges/"+ChallengeHTTP+"/"+asked, &there) || there.Token != asked {
		return "", false
	}
	return there.KeyAuthorization, true
}

// errNoChallenge ends the handshake of one who asks for a challenge that there is
// not.
var errNoChallenge = errors.New("no challenge waits for this name")

// certificate is the answer to TLS-ALPN-01. ours: another node may have ordered.
func (c *challenges) certificate(ctx context.Context, name string, ours bool) (*tls.Certificate, error) {
	c.mu.Lock()
	here := c.hello[name]
	if here != nil {
		c.asked[name] = true
	}
	c.mu.Unlock()
	if here != nil {
		return here, nil
	}
	var there acme.Challenge
	if !ours || !c.load(ctx, "challenges/"+ChallengeTLSALPN+"/"+certmagic.StorageKeys.Safe(name), &there) || there.Identifier.Value != name {
		return nil, errNoChallenge
	}
	return acmez.TLSALPN01ChallengeCert(there)
}

// load reads a challenge that another node may have put there.
func (c *challenges) load(ctx context.Context, key string, into *acme.Challenge) bool {
	data, err := c.storage.Load(ctx, key)
	return err == nil && json.Unmarshal(data, into) == nil
}
