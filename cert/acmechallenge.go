package cert

// What an authority asks this node, or another that shares the storage, to prove:
// Present keeps it and tells of it, and the listeners' questions find it. A key
// names a challenge: its token for HTTP-01, HelloKey for TLS-ALPN-01.

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"
)

// challenges are those that wait for the authority.
type challenges struct {
	storage acmeStorage
	tell    Tell

	mu    sync.Mutex             // guards the rest
	here  map[string]*acmeAnswer // by key
	asked map[string]bool        // names whose challenge somebody fetched here
}

// acmeAnswer proves a name.
type acmeAnswer struct {
	name, proof string
	shown       *tls.Certificate // for TLS-ALPN-01
}

// Tell has other nodes answer an authority in the place of this one: that the proof
// of a challenge for a name is such, and with "" that it is over.
type Tell func(ctx context.Context, name, key, proof string)

// token is what a token may look like (RFC 8555 section 8.3: base64url); it
// becomes the name of a file.
var token = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// solver is an acmez.Solver for one kind of challenge.
type solver struct {
	of   *challenges
	kind string
}

// HelloKey is the key of a challenge by TLS-ALPN-01.
func HelloKey(name string) string { return helloKey + normalName(name) }

const helloKey = ChallengeTLSALPN + " "

// key names the challenge.
func (s solver) key(c acme.Challenge) string {
	if s.kind == ChallengeHTTP {
		return c.Token
	}
	return HelloKey(c.Identifier.Value)
}

// place is where the storage has a challenge.
func place(key string) (path string, ok bool) {
	if name, hello := strings.CutPrefix(key, helloKey); hello {
		return "challenges/" + ChallengeTLSALPN + "/" + certmagic.StorageKeys.Safe(name), true
	}
	return "challenges/" + ChallengeHTTP + "/" + key, token.MatchString(key)
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
	key := s.key(c)
	at, _ := place(key)
	if err := s.of.storage.Store(ctx, at, data); err != nil {
		return fmt.Errorf("keep the challenge: %w", err)
	}
	s.of.mu.Lock()
	if s.of.here == nil {
		s.of.here, s.of.asked = map[string]*acmeAnswer{}, map[string]bool{}
	}
	delete(s.of.asked, c.Identifier.Value)
	s.of.here[key] = &acmeAnswer{c.Identifier.Value, c.KeyAuthorization, shown}
	s.of.mu.Unlock()
	s.of.tell(ctx, c.Identifier.Value, key, c.KeyAuthorization)
	return nil
}

// CleanUp forgets it.
func (s solver) CleanUp(ctx context.Context, c acme.Challenge) error {
	ctx = context.WithoutCancel(ctx)
	key := s.key(c)
	s.of.mu.Lock()
	delete(s.of.here, key)
	s.of.mu.Unlock()
	s.of.tell(ctx, c.Identifier.Value, key, "")
	at, _ := place(key)
	return s.of.storage.Delete(ctx, at)
}

// wasAsked reports whether anybody fetched the last challenge for name here.
func (c *challenges) wasAsked(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.asked[name]
}

// answer is what this node, or one that shares the storage, has for a key.
func (c *challenges) answer(ctx context.Context, key string) (*acmeAnswer, bool) {
	at, ok := place(key)
	if !ok {
		return nil, false
	}
	c.mu.Lock()
	here := c.here[key]
	if here != nil {
		c.asked[here.name] = true
	}
	c.mu.Unlock()
	if here != nil {
		return here, true
	}
	data, err := c.storage.Load(ctx, at)
	var there acme.Challenge
	if err != nil || json.Unmarshal(data, &there) != nil || there.Token != key && HelloKey(there.Identifier.Value) != key {
		return nil, false
	}
	return &acmeAnswer{name: there.Identifier.Value, proof: there.KeyAuthorization}, true
}

// errNoChallenge ends the handshake of one who asks for a challenge that there is
// not.
var errNoChallenge = errors.New("no challenge waits for this name")

// certificate is the answer to TLS-ALPN-01.
func (c *challenges) certificate(ctx context.Context, name string) (*tls.Certificate, error) {
	answer, ok := c.answer(ctx, HelloKey(name))
	switch {
	case !ok:
		return nil, errNoChallenge
	case answer.shown != nil:
		return answer.shown, nil
	}
	return ChallengeCertificate(answer.name, answer.proof)
}

// ChallengeCertificate is what shows the proof of a name to an authority that asks
// by TLS-ALPN-01 (RFC 8737 section 3).
func ChallengeCertificate(name, proof string) (*tls.Certificate, error) {
	return acmez.TLSALPN01ChallengeCert(acme.Challenge{Identifier: acme.Identifier{Type: "dns", Value: name}, KeyAuthorization: proof})
}
