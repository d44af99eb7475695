package link_test

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"causeway/link"
	"causeway/outcome"
)

// An answer whose connection breaks under its body is said to be lost; one that
// its relay gave up is not.
func TestLost(t *testing.T) {
	for name, want := range map[string]bool{"/gone": true, "/aborted": false} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, pki string) {
				goOn := make(chan struct{})
				p := newPaths(t, pki, []link.Member{{}}, func(_ int, w http.ResponseWriter, r *http.Request) {
					w.Header().Set("Content-Length", "5")
					_ = http.NewResponseController(w).Flush()
					<-goOn
					if r.URL.Path == "/aborted" {
						panic(http.ErrAbortHandler)
					}
				})
				defer p.close()
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://example.cn"+name, nil)
				if err != nil {
					t.Fatal(err)
				}
				res, err := p.group.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				if want {
					p.pairs[0].line.Cut(true)
					time.Sleep(time.Minute)
				}
				close(goOn)
				_, err = io.ReadAll(res.Body)
				res.Body.Close()
				if errors.Is(err, link.ErrLost) != want {
					t.Errorf("%v, want lost %v", err, want)
				}
				synctest.Wait()
			})
		})
	}
}

// What is sent again after it was lost keeps the group's budget.
func TestLostBudget(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newPaths(t, pki, []link.Member{{}}, hello)
		defer p.close()
		var sent, refused atomic.Int32
		var asking sync.WaitGroup
		for range 1000 {
			asking.Go(func() {
				req, err := http.NewRequestWithContext(link.Again(t.Context()), http.MethodGet, "https://example.cn/", nil)
				if err != nil {
					t.Error(err)
					return
				}
				res, err := p.group.RoundTrip(req)
				switch {
				case err == nil:
					res.Body.Close()
					sent.Add(1)
				case outcome.KindOf(err) == outcome.LinkCut:
					refused.Add(1)
				default:
					t.Error(err)
				}
			})
		}
		asking.Wait()
		if sent.Load() < 500 || refused.Load() < 250 {
			t.Errorf("%d of 1000 were sent again, %d refused", sent.Load(), refused.Load())
		}
	})
}
