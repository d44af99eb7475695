package edge

import (
	"net/http"
	"net/http/httptest"
	"testing"

	"causeway/outcome"
)

// TestAnnounce holds which port an answer says HTTP/3 has: the client's.
func TestAnnounce(t *testing.T) {
	for host, want := range map[string]string{
		"example.cn":      `h3=":443"; ma=3600`,
		"example.cn:8443": `h3=":8443"; ma=3600`,
		"[2001:db8::1]":   `h3=":443"; ma=3600`,
		"[2001:db8::1]:8": `h3=":8"; ma=3600`,
		"example.cn:\"x":  `h3=":443"; ma=3600`,
	} {
		s := &Server{}
		x := &exchange{server: s, r: httptest.NewRequest("GET", "/", nil), rec: outcome.Record{Scheme: "https"}}
		x.r.Host = host
		h := http.Header{}
		if x.announce(h); len(h) > 0 {
			t.Errorf("announced where there is none: %v", h)
		}
		s.Announce(true)
		if x.announce(h); h.Get("Alt-Svc") != want {
			t.Errorf("%s: %v, want %s", host, h, want)
		}
		x.rec.Scheme = "http"
		h = http.Header{}
		if x.announce(h); len(h) > 0 {
			t.Errorf("announced over plain HTTP: %v", h)
		}
	}
}
