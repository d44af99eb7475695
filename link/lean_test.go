package link

import (
	"net/http"
	"testing"
)

// A request is made lean for a relay that knows of it, on a header of its own.
func TestLean(t *testing.T) {
	for version, want := range map[string]bool{"1": false, "2": true, "3": true, "": false, "two": false} {
		req, err := http.NewRequestWithContext(WithLean(t.Context(), func(out *http.Request) { out.Header.Set("Lean", "1") }), http.MethodGet, "https://example.cn/", nil)
		if err != nil {
			t.Fatal(err)
		}
		out := req.WithContext(req.Context())
		leaner(out, version)
		if got := out.Header.Get("Lean") != ""; got != want {
			t.Errorf("version %q: lean %v", version, got)
		}
		if req.Header.Get("Lean") != "" {
			t.Errorf("version %q: the next try has the lean header too", version)
		}
	}
	plain, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://example.cn/", nil)
	if err != nil {
		t.Fatal(err)
	}
	leaner(plain, "2") // nothing to do
}
