package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPending(t *testing.T) {
	c := parse(t, "valid-pending.yaml")
	shop := c.Sites[0]
	if p := shop.Pending; p != (Pending{On: true, Page: "/etc/causeway/holding.html", TestHost: "preview.example.net:8080"}) {
		t.Errorf("%+v", p)
	}
	if shop.HTTP != HTTPServe || c.Sites[1].HTTP != HTTPRedirect || !c.Sites[1].Pending.On || c.Sites[2].Pending.On {
		t.Errorf("http %q, %q", shop.HTTP, c.Sites[1].HTTP)
	}
	if len(c.Sites) != 3 || len(c.Served()) != 4 || c.Sites[1].Test != nil {
		t.Errorf("%d sites, %d served", len(c.Sites), len(c.Served()))
	}
	for host, want := range map[string]string{
		"preview.example.net:8080":       "https://example.com",
		"www.preview.example.net:8080":   "https://www.example.com",
		"a.img.preview.example.net:8080": "https://a.img.example.com",
	} {
		site, ok := c.Lookup(host)
		if !ok || site != shop.Test || !site.Tests || site.Pending.On || site.HTTP != HTTPServe || site.TLS != nil {
			t.Errorf("%s: %v, %+v", host, ok, site)
			continue
		}
		if origin, ok := site.Map.OriginOf(host); !ok || origin.String() != want {
			t.Errorf("%s is %s, want %s", host, origin, want)
		}
		if route := site.Route("GET", "/api/x"); route == nil || !site.Caching(route).Off {
			t.Errorf("%s: its routes are not the site's, or are kept", host)
		}
	}
	if site, ok := c.Lookup("example.cn"); !ok || site != shop {
		t.Error("the public host is lost")
	}
	if _, ok := c.Lookup("fonts.preview.example.net:8080"); ok {
		t.Error("a host that is elsewhere has a test host")
	}
	if shop.Routes[0].Cache == nil {
		t.Error("the site's own route lost its cache")
	}
}

func TestPendingFiles(t *testing.T) {
	dir := t.TempDir()
	large := filepath.Join(dir, "large.html")
	if err := os.WriteFile(large, make([]byte, MaxPage+1), 0o600); err != nil {
		t.Fatal(err)
	}
	for page, want := range map[string]string{
		large:                                   "sites[0].pending.page: " + large + " is larger than 1 MiB; make it smaller",
		filepath.Join(dir, "no-such-page.html"): "no-such-page.html does not exist; put the file there, or change the path",
	} {
		c, err := Parse("causeway.yaml", []byte("sites:\n  - {name: a, hosts: {a.cn: https://a.com}, pending: {page: "+page+"}}\n"))
		if err != nil {
			t.Fatal(err)
		}
		node, _ := c.Node("")
		if err := c.CheckFiles(node); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
