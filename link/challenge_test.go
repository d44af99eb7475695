package link_test

import (
	"context"
	"fmt"
	"net/http"
	"testing"

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
			link.Challenges(page, knows(relay)).ServeHTTP(w, r)
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
