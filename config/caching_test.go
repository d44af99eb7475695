package config

import (
	"testing"
	"time"
)

// TestCaching holds what the cache is told of a request.
func TestCaching(t *testing.T) {
	c, err := Load("testdata/valid-cache.yaml")
	if err != nil {
		t.Fatal(err)
	}
	shop, bare := c.Sites[0], c.Sites[1]
	p := shop.Caching(shop.Route("GET", "/"))
	if p.Off || p.Site != "shop" || p.DefaultTTL != time.Minute || len(p.Statuses) != 3 || !p.Heuristic || p.Query.None || p.Query.Ignore[0] != "utm_*" ||
		p.KeyHeaders[0] != "Accept-Language" || !p.Extensions || !p.Search || p.StaleIfError != 24*time.Hour {
		t.Errorf("site: %+v", p)
	}
	p = shop.Caching(shop.Route("GET", "/assets/a.css"))
	if p.Off || p.TTL != 24*time.Hour || !p.Query.None || p.DefaultTTL != 0 || p.Site != "shop" {
		t.Errorf("route: %+v", p)
	}
	if !shop.Caching(shop.Route("GET", "/live/1")).Off || !bare.Caching(nil).Off {
		t.Error("cache: off is not off")
	}
	if c.Cache.MostBytes() != 64<<20 {
		t.Errorf("the largest body is %d", c.Cache.MostBytes())
	}
}

// TestMade holds what changes of the file leave nothing to be found of what was kept
// under the old one, and which do not.
func TestMade(t *testing.T) {
	const usual = `hosts: {example.cn: https://example.com, "*.example.cn": https://*.example.com}`
	made := func(rest, path string) string {
		t.Helper()
		c, err := Parse("causeway.yaml", []byte("sites:\n  - name: shop\n    http: serve\n    "+rest+"\n"))
		if err != nil {
			t.Fatal(err)
		}
		return c.Sites[0].Caching(c.Sites[0].Route("GET", path)).Made
	}
	was := made(usual, "/a")
	if was == "" || len(was) > 16 {
		t.Errorf("it is %q", was)
	}
	for rest, same := range map[string]bool{
		usual: true,
		`hosts: {"*.example.cn": https://*.example.com, example.cn: https://example.com}`:                                      true,
		`hosts: {example.cn: {to: https://example.com, connect: ["203.0.113.10:443"]}, "*.example.cn": https://*.example.com}`: true,
		usual + "\n    cache: {ttl: 1m}":                                                                                       true,
		usual + "\n    routes: [{path: /b, rewrite: {bodies: false}}]":                                                         true,
		usual + "\n    routes: [{path: /a, cache: {ttl: 1m}}]":                                                                 true,
		`hosts: {example.cn: https://example.org, "*.example.cn": https://*.example.com}`:                                      false,
		`hosts: {example.cn: "http://example.com", "*.example.cn": https://*.example.com}`:                                     false,
		`hosts: {example.cn: https://example.com, "*.example.cn": https://*.example.com, other.cn: https://other.example.org}`: false,
		`hosts: {example.cn: https://example.com}`:                                                                             false,
		usual + "\n    rewrite: {bodies: false}":                                                                               false,
		usual + "\n    rewrite: {exclude: [/a]}":                                                                               false,
		usual + "\n    rewrite: {types: [text/x]}":                                                                             false,
		usual + "\n    rewrite: {runtime: true}":                                                                               false,
		usual + "\n    routes: [{path: /a, rewrite: {bodies: false}}]":                                                         false,
		usual + "\n    routes: [{path: /a, rewrite: {exclude: [/a]}}]":                                                         false,
		usual + "\n    routes: [{path: /a, origin: \"https://new.example.com\"}]":                                              false,
		usual + "\n    routes: [{path: /a, cache: {ttl: 1m}, origin: \"https://new.example.com\"}]":                            false,
	} {
		if is := made(rest, "/a"); (is == was) != same {
			t.Errorf("%s: %s, was %s", rest, is, was)
		}
	}
	if one, two := made(usual+"\n    routes: [{path: /a, origin: \"https://a.example.com\"}]", "/a"), made(usual+"\n    routes: [{path: /a, origin: \"https://b.example.com\"}]", "/a"); one == two {
		t.Error("the origin of a route makes no difference")
	}
}

// TestCacheDefaults holds that a file without cache has one that obeys.
func TestCacheDefaults(t *testing.T) {
	for text, want := range map[string]struct {
		off  bool
		most int64
	}{
		"":                                 {false, 16 << 20},
		"cache: off\n":                     {true, 16 << 20},
		"cache: {memory: 32MiB}\n":         {false, 2 << 20},
		"cache: {disk: 1GiB, dir: kept}\n": {false, 64 << 20},
	} {
		c, err := Parse("causeway.yaml", []byte(text+"sites: [{name: shop, hosts: {example.cn: https://example.com}, http: serve}]\n"))
		if err != nil {
			t.Fatal(err)
		}
		p := c.Sites[0].Caching(nil)
		if p.Off != want.off || !want.off && c.Cache.MostBytes() != want.most || p.TTL != 0 || p.Query.None {
			t.Errorf("%q: %+v, the largest body is %d", text, p, c.Cache.MostBytes())
		}
	}
}
