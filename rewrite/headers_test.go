package rewrite

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// mapField puts one field through Header, or Request when the table goes back.
func mapField(c testCase, name, value string) string {
	if !c.back {
		h := http.Header{}
		h.Set(name, value)
		c.m.Header(h)
		return h.Get(name)
	}
	r := &http.Request{Header: http.Header{}, URL: &url.URL{Path: "/"}}
	if name == "Query" {
		r.URL.RawQuery = value
		c.m.Request(r)
		return r.URL.RawQuery
	}
	r.Header.Set(name, value)
	c.m.Request(r)
	return r.Header.Get(name)
}

func TestHeaderTables(t *testing.T) {
	for _, c := range tables(t, "headers") {
		name, value, _ := strings.Cut(c.in, ": ")
		_, want, _ := strings.Cut(c.want, ": ")
		if got := mapField(c, name, value); got != want {
			t.Errorf("%s: %s\n  in %s\n got %s\nwant %s", c.where, name, value, got, want)
		}
	}
}

// FuzzHeader: no value of any field breaks anything, and what has no mapped host stays.
func FuzzHeader(f *testing.F) {
	for _, c := range tables(f, "headers") {
		_, value, _ := strings.Cut(c.in, ": ")
		f.Add(value)
	}
	f.Add("<https://example.com/%zz>; integrity=" + sha256Hash.of(nil).String())
	var maps []*Map
	for _, text := range fuzzMaps {
		maps = append(maps, parseMap(f, text))
	}
	f.Fuzz(func(t *testing.T, value string) {
		for _, m := range maps {
			for name := range responseFields {
				h := http.Header{name: {value, value}}
				m.Header(h)
				m.linkHashes(h.Clone(), nil)
				if name == "Alt-Svc" || name == "Set-Cookie" || strings.Contains(strings.ToLower(value), "com") {
					continue
				}
				host := func(p Pair) bool { return strings.Contains(strings.ToLower(value), p.Origin.domain()) }
				mapped := false
				for _, p := range m.pairs {
					mapped = mapped || host(p)
				}
				if !mapped && (h[name][0] != value || h[name][1] != value) {
					t.Fatalf("%s: %q became %q", name, value, h[name])
				}
			}
			c := testCase{m: m, back: true}
			for _, name := range append(requestFields, "Query", "If-None-Match", "If-Match") {
				mapField(c, name, value)
			}
		}
	})
}

func TestAuthorities(t *testing.T) {
	m := parseMap(t, `https://example.cn https://example.com
		https://*.example.cn https://*.example.com
		https://fonts.example.cn https://fonts.googleapis.com
		https://localhost:8443 http://10.0.0.5:3000
		https://[2001:db8::1]:8443 https://[2001:db8::2]`)
	for authority, want := range map[string]string{
		"example.cn": "https://example.com", "EXAMPLE.cn:443": "https://example.com", "example.cn.": "https://example.com",
		"a.b.example.cn": "https://a.b.example.com", "fonts.example.cn": "https://fonts.googleapis.com",
		"localhost:8443": "http://10.0.0.5:3000", "[2001:db8::1]:8443": "https://[2001:db8::2]",
		"localhost": "", "example.cn:80": "", "example.com": "", "example.cn:8443": "", "": "", ":443": "", "*.example.cn": "", "[": "", ".example.cn": "",
	} {
		got, ok := m.OriginOf(authority)
		if text := ""; ok {
			if text = got.String(); text != want {
				t.Errorf("OriginOf(%q) = %s, want %s", authority, text, want)
			}
		} else if want != "" {
			t.Errorf("OriginOf(%q) is unknown, want %s", authority, want)
		}
	}
	for _, c := range [][3]string{
		{"https", "example.com", "https://example.cn"}, {"http", "example.com:80", "https://example.cn"}, {"https", "a.example.com:443", "https://a.example.cn"},
		{"http", "10.0.0.5:3000", "https://localhost:8443"}, {"", "10.0.0.5:3000", "https://localhost:8443"}, {"https", "[2001:db8::2]", "https://[2001:db8::1]:8443"},
		{"https", "example.com:80", ""}, {"https", "fonts.example.com", ""}, {"https", "fonts.googleapis.com", "https://fonts.example.cn"},
	} {
		got, ok := m.PublicOf(c[0], c[1])
		if ok != (c[2] != "") || ok && got.String() != c[2] {
			t.Errorf("PublicOf(%q, %q) = %v, %v, want %s", c[0], c[1], got, ok, c[2])
		}
	}
}

func TestNewMapRefuses(t *testing.T) {
	good := Pair{Base{"https", "example.cn", ""}, Base{"https", "example.com", ""}}
	for _, c := range []struct {
		pairs        []Pair
		index, other int
		reason       string
	}{
		{[]Pair{{Base{"ftp", "a.cn", ""}, good.Origin}}, 0, 0, `public: scheme "ftp" is neither http nor https`},
		{[]Pair{good, {Base{"https", "A.cn", ""}, Base{"https", "a.com", ""}}}, 1, 1, `public: host "A.cn" is not a lower-case host name, wildcard or IP address`},
		{[]Pair{{good.Public, Base{"https", "", ""}}}, 0, 0, "origin: the host is empty"},
		{[]Pair{{good.Public, Base{"https", "a..com", ""}}}, 0, 0, `origin: host "a..com" is not a lower-case host name, wildcard or IP address`},
		{[]Pair{{good.Public, Base{"https", "a.com", "0443"}}}, 0, 0, `origin: port "0443" is not a number from 1 to 65535`},
		{[]Pair{{Base{"https", "*.a.cn", ""}, good.Origin}}, 0, 0, "*.a.cn and example.com must both be wildcards or neither"},
		{[]Pair{good, {good.Public, Base{"https", "b.com", ""}}}, 1, 0, "public host example.cn is mapped twice"},
		{[]Pair{good, {Base{"https", "b.cn", ""}, Base{"https", "example.com", "443"}}}, 1, 0, "origin host example.com has two public hosts"},
		{[]Pair{good, {Base{"https", "example.com", ""}, Base{"https", "b.com", ""}}}, 1, 0, "public host example.com is an origin host too"},
	} {
		_, err := NewMap(c.pairs)
		fault, ok := err.(*PairError)
		if !ok || *fault != (PairError{c.index, c.other, c.reason}) {
			t.Errorf("got %v, want %d, %d: %s", err, c.index, c.other, c.reason)
		}
	}
}

func TestVersion(t *testing.T) {
	a := parseMap(t, "https://a.cn https://a.com\nhttps://b.cn https://b.com")
	b := parseMap(t, "https://b.cn https://b.com\nhttps://a.cn https://a.com:443")
	c := parseMap(t, "https://a.cn https://a.com")
	if a.Version() != b.Version() || a.Version() == c.Version() || len(a.Version()) != 8 {
		t.Errorf("versions %s, %s, %s", a.Version(), b.Version(), c.Version())
	}
}
