package rewrite

import (
	"net/http"
	"strings"
	"testing"
)

// TestLinkHashes: the hash of what a Link field has loaded ahead, once it is known, and none before.
func TestLinkHashes(t *testing.T) {
	hash := func(text string) string { return sha384Hash.of([]byte(text)).String() }
	own, public, other := hash(ownScript), hash(publicScript), hash("x")
	request, err := http.NewRequest("GET", "https://example.com/dir/page", nil)
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string][2]string{ // before and after
		`</a.js>; rel=modulepreload; integrity="OWN"`: {
			`</a.js>; rel=modulepreload`, `</a.js>; rel=modulepreload; integrity="PUBLIC"`},
		`<../a.js> ;INTEGRITY=OWN;as=script , <https://example.com/a.js>; integrity = "md5-x OWN?o" ; as="script"`: {
			`<../a.js> ;as=script , <https://example.cn/a.js> ; as="script"`,
			`<../a.js> ;INTEGRITY="PUBLIC";as=script , <https://example.cn/a.js>; integrity = "md5-x PUBLIC?o" ; as="script"`},
		`</a,b.js>; title="a;b, <c>\"; integrity=OWN"; x; integrity="OTHER"; integrity="OWN", </a.js>; rel=preload; integrity="OTHER"`: {
			`</a,b.js>; title="a;b, <c>\"; integrity=OWN"; x, </a.js>; rel=preload`,
			`</a,b.js>; title="a;b, <c>\"; integrity=OWN"; x, </a.js>; rel=preload`},
		`<https://other.net/a.js>; integrity="OWN"`:                   {},
		`</a.woff2>; rel=preload; as=font; integrity="OWN"`:           {},
		`</a.js>; rel=preload; data-integrity="OWN"; integrity="md5"`: {},
		`<https://other.net/integrity`:                                {},
		`integrity`:                                                   {},
		`</a.js>; integrity`:                                          {},
		`</a.js>; integrity=`:                                         {},
		`</a.js>; integrity="`:                                        {},
		`<https://other.net/%zz>; integrity="OWN"`:                    {}, // no URL to net/url
		`</%zz>; integrity="OWN"`:                                     {`</%zz>`, `</%zz>`},
		`<https://example.com/%zz>; integrity="OWN"`:                  {`<https://example.cn/%zz>`, `<https://example.cn/%zz>`},
	} {
		for known, want := range want {
			fill := strings.NewReplacer("OWN", own, "PUBLIC", public, "OTHER", other).Replace
			if want == "" {
				want = line
			}
			m := parseMap(t, fuzzMaps[0])
			if known == 1 {
				fetch(t, m, "https://example.com/", "text/html", withHash(ownScript), 0)
				fetch(t, m, "https://example.com/a.js", "text/javascript", ownScript, 0)
			}
			h := http.Header{"Link": {fill(line)}}
			if m.Early(h, request); h.Get("Link") != fill(want) {
				t.Errorf("%s, known %d, became\n%s, want\n%s", fill(line), known, h.Get("Link"), fill(want))
			}
		}
	}
}

// TestLinkTeaches: what a Link field names is learned as what a page names is; of an answer too.
func TestLinkTeaches(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	link := "</a.js>; rel=preload; as=script; integrity=" + sha256Hash.of([]byte(ownScript)).String()
	ask := func(want string) {
		t.Helper()
		if _, h := fetch(t, m, "https://example.com/", "text/html", "", 0, "Link: "+link); h.Get("Link") != want {
			t.Errorf("got %s, want %s", h.Get("Link"), want)
		}
	}
	ask("</a.js>; rel=preload; as=script")
	fetch(t, m, "https://example.com/a.js", "text/javascript", ownScript, 0)
	ask(`</a.js>; rel=preload; as=script; integrity="` + sha256Hash.of([]byte(publicScript)).String() + `"`)
}
