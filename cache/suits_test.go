package cache

import (
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestJoinDirectives shows that who waits for another's fetch gets what its own
// directives want (RFC 9111 §5.2.1).
func TestJoinDirectives(t *testing.T) {
	for _, c := range []struct {
		what  string
		line  string
		age   string
		late  bool // it comes when the header is there
		asked int32
	}{
		{"nothing", "Accept: */*", "Age: 20", false, 1},
		{"max-age that is more than the age", "Cache-Control: max-age=30", "Age: 20", false, 1},
		{"max-age that is less", "Cache-Control: max-age=5", "Age: 20", false, 2},
		{"max-age and max-stale", "Cache-Control: max-age=5, max-stale=30", "Age: 20", false, 1},
		{"min-fresh that is left", "Cache-Control: min-fresh=30", "Age: 20", false, 1},
		{"min-fresh that is not", "Cache-Control: min-fresh=50", "Age: 20", false, 2},
		{"no-cache, before the answer", "Cache-Control: no-cache", "Age: 0", false, 1},
		{"no-cache, after its header", "Cache-Control: no-cache", "Age: 0", true, 2},
		{"Pragma, after its header", "Pragma: no-cache", "Age: 0", true, 2},
	} {
		t.Run(c.what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asked atomic.Int32
				r := newRig(t, Policy{}, func(req *http.Request) (*http.Response, error) {
					asked.Add(1)
					time.Sleep(time.Second)
					res := text(200, "hello", "Cache-Control: max-age=60", c.age)
					body := res.Body
					slow, w := io.Pipe()
					go func() {
						time.Sleep(time.Second)
						_, err := io.Copy(w, body)
						w.CloseWithError(err)
					}()
					res.Body = slow
					return res, nil
				})
				defer r.Cache.Close() // in the bubble
				go func() { _, _, _ = r.get("/a") }()
				time.Sleep(500 * time.Millisecond)
				if c.late {
					time.Sleep(time.Second)
				}
				if _, body, _ := r.get("/a", c.line); body != "hello" {
					t.Errorf("got %q", body)
				}
				synctest.Wait()
				if asked.Load() != c.asked {
					t.Errorf("the origin was asked %d times, want %d", asked.Load(), c.asked)
				}
			})
		})
	}
}
