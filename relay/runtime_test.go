package relay_test

import (
	"io"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// The files of the rule runtime are the relay's on every public host, and the
// origin's where the site and its routes do not have the rule.
func TestRuntimeFiles(t *testing.T) {
	handler := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<!doctype html><head>")
	}
	script := regexp.MustCompile(`/\.causeway/runtime-[a-z2-7]{8}\.js`)
	for rules, on := range map[string]bool{
		"":                             false,
		"    rewrite: {runtime: true}": true,
		"    routes: [{path: /app/*, rewrite: {runtime: true}}]":                                 true,
		"    rewrite: {runtime: true}\n    routes: [{path: /*, origin: \"http://127.0.0.9:1\"}]": true,
	} {
		r := ruledRelay(t, handler, rules)
		path := "/.causeway/runtime-aaaaaaaa.js"
		if on && !strings.Contains(rules, "origin:") {
			_, page := fetch(t, r, request(t, "GET", "http://example.cn/app/", nil))
			if path = script.FindString(page); path == "" {
				t.Errorf("%q: the page is %s", rules, page)
				continue
			}
		}
		for _, host := range []string{"example.cn", "fonts.example.cn"} {
			res, body := fetch(t, r, request(t, "GET", "http://"+host+path, nil))
			if own := strings.Contains(body, `"host":"example.com"`); own != on || own != (res.Header.Get("Content-Type") == "text/javascript; charset=utf-8") {
				t.Errorf("%q: %s%s: %q %s", rules, host, path, res.Header, body)
			}
		}
		req := request(t, "GET", "http://example.cn/.causeway/worker-aaaaaaaa.js", nil)
		req.Header.Set("Service-Worker", "script")
		if _, body := fetch(t, r, req); strings.Contains(body, "registration.unregister()") == on {
			t.Errorf("%q: the worker is %s", rules, body)
		}
	}
}
