package relay_test

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"causeway/outcome"
)

// A body that fails while it is read ahead fails the request as the client's
// fault, whatever the origin speaks, and the origin is none the worse.
func TestBodyThatFails(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	})
	r := newRelay(t, o.keys(), "")
	for _, kind := range []string{"application/json", "application/octet-stream"} {
		for _, length := range []int64{100, -1} {
			slow := outcome.Errorf(outcome.ClientSlow, "read the request body: nothing for a while")
			req := request(t, "POST", "https://example.cn/", io.MultiReader(strings.NewReader(`{"a":"https://example.cn/"`), iotest.ErrReader(slow)))
			req.Header.Set("Content-Type", kind)
			req.ContentLength = length
			res, err := r.RoundTrip(req)
			if err == nil { // the origin answers early
				_, err = io.ReadAll(res.Body)
				res.Body.Close()
			} else if got := outcome.KindOf(err); got != outcome.ClientSlow {
				t.Errorf("%s, length %d: %s, %v", kind, length, got, err)
			}
			if err == nil {
				t.Errorf("%s, length %d: answered as if it were whole", kind, length)
			}
		}
		req := request(t, "POST", "https://example.cn/", strings.NewReader("https://example.com/"))
		req.Header.Set("Content-Type", kind)
		if _, body := fetch(t, r, req); !strings.HasPrefix(body, "https://example.c") {
			t.Errorf("then: %q", body)
		}
	}
}
