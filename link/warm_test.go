package link

import (
	"bytes"
	"io"
	"net/http"
	"sync"
	"testing"
)

// A body's silence ends it while it is read (Waits.watch): it is counted out
// once.
func TestCarriedEndsOnce(t *testing.T) {
	for range 2000 {
		w := &warm{spare: func() {}}
		body := newCarried(&http.Response{Body: io.NopCloser(new(bytes.Buffer)), ContentLength: longBody + 1}, w)
		var both sync.WaitGroup
		both.Go(func() { _, _ = body.Read(make([]byte, 1)) })
		both.Go(func() { _ = body.Close() })
		both.Wait()
		if n := w.bulk.Load(); n != 0 {
			t.Fatalf("%d long bodies are under way when all have ended", n)
		}
	}
}
