package link

import (
	"context"
	"crypto/tls"
	"io"
	"iter"
	"net/http"
	"slices"
	"sync"
	"time"

	"causeway/hop"
)

// An authority that looks for a proof comes to whichever edge the name leads to,
// and another node may have ordered: a relay, for a site that passes through, or
// another edge. So the nodes tell each other, over the links that there are:
//
//  1. Group.TellChallenge has the relays note what an edge waits for, on the Board
//     of each,
//  2. Group.Challenge asks each relay in turn, until one knows: it may have ordered
//     itself, or be told by another edge,
//  3. Challenges takes both out of the requests of a relay's link. Its answer has
//     challengeField too: a relay that knows nothing of it would ask the origin.
//
// What is told and asked is a GET with fields that no client can send, so that a
// relay of an older version does no harm with it. What a challenge is called, its
// key, is the caller's to choose.

// challengeField names a challenge that is asked for or told of, and is in each
// answer. In what is told, proofField proves it, and is "" when it is over.
const (
	challengeField = hop.Prefix + "Challenge"
	proofField     = hop.Prefix + "Challenge-Proof"
)

const (
	// challengeTime is how long one relay may take; authorities wait ten seconds.
	challengeTime = 2 * time.Second

	// mostProof is more than a key authorization has (RFC 8555 section 8.1), and
	// than a challenge is called.
	mostProof = 1 << 10

	// mostTold are an edge's challenges on a board: more than it waits for at once.
	mostTold = 64

	// toldTime is longer than an order takes.
	toldTime = 30 * time.Minute
)

// Challenge asks the relays for what answers an authority that asks for a challenge
// of host.
func (g *Group) Challenge(ctx context.Context, host, key string) (proof string, ok bool) {
	for m, w := range g.eachRelay() {
		if proof, ok := m.challenge(ctx, w, host, http.Header{challengeField: {key}}); ok {
			return proof, true
		}
	}
	return "", false
}

// TellChallenge has the relays answer others for a challenge of host, and with an
// empty proof no more. It returns when all that are connected know it, or after
// challengeTime: one that knows nothing of it answers nobody.
func (g *Group) TellChallenge(ctx context.Context, host, key, proof string) {
	var told sync.WaitGroup
	for m, w := range g.eachRelay() {
		told.Go(func() { m.challenge(ctx, w, host, http.Header{challengeField: {key}, proofField: {proof}}) })
	}
	told.Wait()
}

// eachRelay gives each relay that is connected once, with a place on a connection
// that must be used.
func (g *Group) eachRelay() iter.Seq2[*member, *warm] {
	return func(yield func(*member, *warm) bool) {
		seen := make(map[string]bool)
		for _, m := range g.members {
			relay := m.Transport.peer.Name
			if seen[relay] {
				continue
			}
			w := m.Transport.reserve()
			if w == nil {
				continue // another path to it may be up
			}
			seen[relay] = true
			if !yield(m, w) {
				return
			}
		}
	}
}

// challenge asks or tells one relay, with fields.
func (m *member) challenge(ctx context.Context, w *warm, host string, fields http.Header) (string, bool) {
	ctx, cancel := context.WithTimeout(ctx, challengeTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/.well-known/acme-challenge/", nil)
	if err != nil {
		req, _ = http.NewRequestWithContext(ctx, http.MethodGet, "https://host.invalid/", nil) // the place is given back by sending
	}
	req.Header = fields
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

// Challenges answers what edges ask and tell of challenges in the requests of a
// link: with what own has, which gives what proves that a name is ours, and with
// what is on board.
func Challenges(next http.Handler, board *Board, own func(ctx context.Context, key string) (string, bool)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		key := r.Header.Get(challengeField)
		if key == "" {
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set(challengeField, "1")
		if told := r.Header[proofField]; told != nil {
			board.note(r, key, told[0])
			return
		}
		proof, ok := board.find(key)
		if !ok {
			proof, ok = own(r.Context(), key)
		}
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		_, _ = io.WriteString(w, proof) // the edge may be gone
	})
}

// Board is what a relay was told of the challenges that its edges wait for. It is
// bounded for each edge, and what is on it is forgotten after half an hour.
type Board struct {
	// Name gives the node that a connection is of.
	Name func(tls.ConnectionState) string

	mu   sync.Mutex // guards the rest
	told []told     // the newest last
}

// told is one challenge on a board.
type told struct {
	edge, key, proof string
	until            time.Time
}

// note puts what the edge that sent r tells on the board, in the place of what
// that edge told of it before.
func (b *Board) note(r *http.Request, key, proof string) {
	if r.TLS == nil || len(key) > mostProof || len(proof) > mostProof {
		return
	}
	edge, now := b.Name(*r.TLS), time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.told = slices.DeleteFunc(b.told, func(t told) bool { return now.After(t.until) || t.edge == edge && t.key == key })
	if proof == "" {
		return
	}
	b.told = append(b.told, told{edge, key, proof, now.Add(toldTime)})
	left := mostTold
	for i, t := range slices.Backward(b.told) { // the oldest of those that are too many goes
		if t.edge != edge {
			continue
		}
		if left--; left < 0 {
			b.told = slices.Delete(b.told, i, i+1)
			return
		}
	}
}

// find is the proof that was told last.
func (b *Board) find(key string) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, t := range slices.Backward(b.told) {
		if t.key == key && time.Now().Before(t.until) {
			return t.proof, true
		}
	}
	return "", false
}
