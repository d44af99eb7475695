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
