package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// TestStorm has many clients of all manners at a cache that is purged meanwhile, for
// the race detector: each must get a whole answer, or the error that it must.
func TestStorm(t *testing.T) {
	cut := errors.New("cut")
	origin := originFunc(func(req *http.Request) (*http.Response, error) {
		n := rand.IntN(20)
		time.Sleep(time.Duration(rand.IntN(1000)) * time.Microsecond)
		body := strings.Repeat(req.URL.Path, 3000)
		switch {
		case n == 0:
			return nil, cut
		case n == 1:
			res := text(200, "", "Cache-Control: max-age=60")
			res.Body = io.NopCloser(io.MultiReader(strings.NewReader(body[:100]), failing{cut}))
			res.ContentLength = -1
			return res, nil
		case n == 2:
			return text(200, body, "Cache-Control: private"), nil
		case n < 6:
			return text(200, body, "Cache-Control: max-age=60", "Vary: X-A"), nil
		case n < 9 && req.Header.Get("If-None-Match") != "":
			return text(304, "", "Cache-Control: max-age=0"), nil
		}
		return text(200, body, "Cache-Control: max-age=0, stale-while-revalidate=1", `Etag: "1"`), nil
	})
	t.Cleanup(func() { goleak.VerifyNone(t) })
	r := newRig(t, Policy{}, origin)
	r.store.room = 50 << 20
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for k := range 100 {
				target := fmt.Sprintf("/%d", rand.IntN(4))
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rand.IntN(20))*time.Millisecond)
				res, err := r.RoundTrip(request("GET", target, "X-A: "+fmt.Sprint(k%3)).WithContext(ctx))
				if err == nil {
					var body []byte
					if rand.IntN(4) > 0 {
						body, err = io.ReadAll(res.Body)
						if err == nil && string(body) != strings.Repeat(target, 3000) {
							t.Errorf("%s: %d bytes", target, len(body))
						}
					}
					res.Body.Close()
				}
				if err != nil && err != cut && !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
					t.Errorf("%s: %v", target, err)
				}
				cancel()
				if i == 0 {
					r.Cache.Purge(Match{URL: "https://example.cn" + target}, k%2 == 0)
				}
			}
		})
	}
	wg.Wait()
}
