package link

import (
	"context"
	"io"
	"net/http"
	"time"

	"causeway/hop"
)

// A site that passes through has its certificate ordered by its relay, and the
// authority that looks for the proof by HTTP-01 comes to an edge. So the edge asks
// its relays, each in turn, until one knows the token:
//
//  1. Group.Challenge sends the authority's request with challengeField, which no
//     client can send,
//  2. Challenges takes it out of the requests of a relay's link, and its answer has
//     the field too: a relay that knows nothing of it would ask the origin.

// challengeField is in a question for a challenge, and in its answer.
const challengeField = hop.Prefix + "Challenge"

const (
	// challengeTime is how long one relay may take; authorities wait ten seconds.
	challengeTime = 2 * time.Second

	// mostProof is more than a key authorization has (RFC 8555 section 8.1).
	mostProof = 1 << 10
)

// Challenge asks the relays for what answers an authority that asks host for token.
func (g *Group) Challenge(ctx context.Context, host, token string) (proof string, ok bool) {
	asked := make(map[string]bool)
	for _, m := range g.members {
		relay := m.Transport.peer.Name
		if asked[relay] {
			continue
		}
		w := m.Transport.reserve()
		if w == nil {
			continue // another path to it may be up
		}
		asked[relay] = true
		if proof, ok := m.challenge(ctx, w, host, token); ok {
			return proof, true
		}
	}
	return "", false
}

// challenge asks one relay.
func (m *member) challenge(ctx context.Context, w *warm, host, token string) (string, bool) {
	ctx, cancel := context.WithTimeout(ctx, challengeTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/.well-known/acme-challenge/"+token, nil)
	if err != nil {
		req, _ = http.NewRequestWithContext(ctx, http.MethodGet, "https://host.invalid/", nil) // the place is given back by sending
	}
	req.Header.Set(challengeField, token)
	res, err := m.Transport.send(req, w, nil)
	if err != nil {
		return "", false
	}
	defer res.Body.Close()
	proof, err := io.ReadAll(io.LimitReader(res.Body, mostProof+1))
	if err != nil || res.StatusCode != http.StatusOK || res.Header.Get(challengeField) == "" || len(proof) > mostProof {
		return "", false
	}
	return string(proof), true
}

// Challenges answers the questions of edges for challenges in the requests of a
// link; answer gives what proves that a name is ours.
func Challenges(next http.Handler, answer func(ctx context.Context, token string) (string, bool)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := r.Header.Get(challengeField)
		if token == "" {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set(challengeField, "1")
		proof, ok := answer(r.Context(), token)
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, proof) // the edge may be gone
	})
}
