package link_test

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"causeway/cert"
	"causeway/link"
)

// TestChallenge: each relay is asked in turn, until one knows the token; what one
// says that knows nothing of challenges is not taken for a proof.
func TestChallenge(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		knows := func(relay int) func(context.Context, string) (string, bool) {
			return func(_ context.Context, token string) (string, bool) {
				return token + ".proof", relay == 1 && token == "token-1"
			}
		}
		p := newPaths(t, pki, []link.Member{{}, {}}, func(relay int, w http.ResponseWriter, r *http.Request) {
			page := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "a page") })
			if relay == 0 {
				page(w, r) // an older one, and its origin
				return
			}
			link.Challenges(page, new(link.Board), knows(relay)).ServeHTTP(w, r)
		})
		defer p.close()
		if proof, ok := p.group.Challenge(t.Context(), "example.cn", "token-1"); !ok || proof != "token-1.proof" {
			t.Errorf("%q %v", proof, ok)
		}
		if proof, ok := p.group.Challenge(t.Context(), "example.cn", "token-2"); ok {
			t.Errorf("a token of nobody: %q", proof)
		}
		for i, came := range p.came {
			if got := came.Load(); got != 2 {
				t.Errorf("relay %d was asked %d times", i+1, got)
			}
		}
		if _, body, err := get(t, p.group, "/"); err != nil || body != "a page" {
			t.Errorf("another request: %q, %v", body, err)
		}
	})
}

// TestTellChallenge: what an edge tells is known at the relays that know of
// challenges, until the edge says that it is over or half an hour has passed; one
// that does not know of them asks its origin for a page that there is not, no more.
func TestTellChallenge(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		boards := []*link.Board{nil, {Name: cert.PeerNode}}
		nothing := func(context.Context, string) (string, bool) { return "", false }
		p := newPaths(t, pki, []link.Member{{}, {}}, func(relay int, w http.ResponseWriter, r *http.Request) {
			if boards[relay] == nil {
				if r.Method != http.MethodGet || r.URL.Path != "/.well-known/acme-challenge/" {
					t.Errorf("an older relay got %s %s", r.Method, r.URL)
				}
				http.NotFound(w, r)
				return
			}
			link.Challenges(http.NotFoundHandler(), boards[relay], nothing).ServeHTTP(w, r)
		})
		defer p.close()
		want := func(key, proof string) {
			t.Helper()
			if got, ok := p.group.Challenge(t.Context(), "example.cn", key); got != proof || ok != (proof != "") {
				t.Errorf("%s: %q, not %q", key, got, proof)
			}
		}
		tell := func(key, proof string) { p.group.TellChallenge(t.Context(), "example.cn", key, proof) }
		tell("token-1", "token-1.proof")
		tell("tls-alpn-01 example.cn", "token-2.proof")
		want("token-1", "token-1.proof")
		want("tls-alpn-01 example.cn", "token-2.proof")
		want("token-2", "")
		tell("token-1", "token-1.other")
		want("token-1", "token-1.other")
		tell("token-1", "")
		want("token-1", "")

		tell("long", strings.Repeat("a", 2000)) // more than a proof has
		want("long", "")
		for i := range 64 {
			tell(fmt.Sprintf("many-%d", i), "proof")
		}
		want("tls-alpn-01 example.cn", "") // the oldest of more than 64
		want("many-0", "proof")
		want("many-63", "proof")
		time.Sleep(31 * time.Minute)
		want("many-63", "")
	})
}
