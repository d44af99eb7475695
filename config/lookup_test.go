package config

import (
	"strings"
	"testing"
)

const lookupFile = `
sites:
  - name: main
    tls: {cert: a.pem, key: a.key}
    hosts:
      example.cn: https://example.com
      "*.example.cn": https://*.example.com
      例子.中国: https://idn.example.com
      "[2001:db8::1]": https://six.example.com
      192.0.2.1: https://four.example.com
  - name: deep
    tls: {cert: a.pem, key: a.key}
    hosts:
      "*.shop.example.cn": https://*.example.org
      www.example.cn: https://www.example.org
  - name: ports
    tls: {cert: a.pem, key: a.key}
    hosts:
      localhost:8443: https://l.example.net
      localhost:9443: https://m.example.net
      "*.example.cn:8443": https://*.example.net
      "[2001:db8::1]:8443": https://six.example.net
      split.test:8443: https://s.example.net
  - name: plain
    http: serve
    hosts:
      split.test: http://split.example.net
`

func TestLookup(t *testing.T) {
	c, err := Parse("f.yaml", []byte(lookupFile))
	if err != nil {
		t.Fatal(err)
	}
	for authority, want := range map[string]string{
		"example.cn":                             "main",
		"Example.CN":                             "main",
		"example.cn.":                            "main",
		"example.cn:443":                         "main",
		"example.cn:80":                          "main",
		"example.cn:":                            "main",
		"example.cn:8443":                        "",
		"a.example.cn":                           "main",
		"a.b.example.cn":                         "main",
		"a.example.cn:443":                       "main",
		"a.example.cn:8443":                      "ports",
		"shop.example.cn":                        "main",
		"a.shop.example.cn":                      "deep",
		"a.b.shop.example.cn":                    "deep",
		"a.shop.example.cn:8443":                 "ports",
		"www.example.cn":                         "deep",
		"www.example.cn:8443":                    "ports",
		"a.www.example.cn":                       "main",
		"xn--fsqu00a.xn--fiqs8s":                 "main",
		"XN--FSQU00A.xn--fiqs8s:443":             "main",
		"[2001:db8::1]":                          "main",
		"[2001:DB8:0::1]:443":                    "main",
		"[2001:db8::1]:8443":                     "ports",
		"192.0.2.1":                              "main",
		"192.0.2.1:443":                          "main",
		"localhost:8443":                         "ports",
		"localhost":                              "",
		"split.test":                             "plain",
		"split.test:8443":                        "ports",
		"example.com":                            "",
		"evil-example.cn":                        "",
		".example.cn":                            "",
		"cn":                                     "",
		"":                                       "",
		":443":                                   "",
		"[2001:db8::1":                           "",
		"example.cn:443:443":                     "",
		"*.example.cn":                           "", // a wildcard stands for names, not for whatever a client may send
		"a;for=192.0.2.9.example.cn":             "",
		"a,b.example.cn":                         "",
		"a%2f.example.cn":                        "",
		"a/.example.cn":                          "",
		"a b.example.cn":                         "",
		"é.example.cn":                           "",
		"a_b-c.example.cn":                       "main",
		"a..example.cn":                          "",
		"a.example.cn:8443;x":                    "",
		"a.example.cn:,x":                        "",
		strings.Repeat("a.", 130) + "example.cn": "",
		strings.Repeat("a.", 200) + "x":          "",
	} {
		got := ""
		if s, ok := c.Lookup(authority); ok {
			got = s.Name
		}
		if got != want {
			t.Errorf("Lookup(%q) = %q, want %q", authority, got, want)
		}
	}
}

func TestAuthority(t *testing.T) {
	for written, want := range map[string]string{
		"example.cn": "example.cn", "EXAMPLE.cn.:80": "example.cn", "example.cn:443": "example.cn", "example.cn:": "example.cn",
		"Example.cn:8443": "example.cn:8443", "[2001:DB8::1]:80": "[2001:db8::1]", "[2001:db8::1]:81": "[2001:db8::1]:81",
		"": "", "a:b:c": "a:b:c",
	} {
		if got := Authority(written); got != want {
			t.Errorf("%q: %q, not %q", written, got, want)
		}
	}
}

func TestLookupName(t *testing.T) {
	c, err := Parse("f.yaml", []byte(lookupFile))
	if err != nil {
		t.Fatal(err)
	}
	for host, want := range map[string]string{
		"example.cn":        "main example.cn",
		"EXAMPLE.cn.":       "main example.cn",
		"localhost":         "ports localhost:8443",
		"split.test":        "", // plain or ports: the port tells
		"a.example.cn":      "", // main or ports: the port tells
		"a.shop.example.cn": "deep *.shop.example.cn",
		"www.example.cn":    "deep www.example.cn",
		"2001:db8::1":       "",
		"192.0.2.1":         "main 192.0.2.1",
		"other.test":        "",
		"":                  "",
	} {
		got := ""
		if s, h, ok := c.LookupName(host); ok {
			got = s.Name + " " + h.Public.Authority()
		}
		if got != want {
			t.Errorf("LookupName(%q) = %q, want %q", host, got, want)
		}
	}
}

func TestLookupAllocatesNothing(t *testing.T) {
	c, err := Parse("f.yaml", []byte(lookupFile))
	if err != nil {
		t.Fatal(err)
	}
	for _, authority := range []string{"example.cn", "a.b.example.cn:443", "nothing.test"} {
		if n := testing.AllocsPerRun(100, func() { c.Lookup(authority) }); n != 0 {
			t.Errorf("Lookup(%q) allocates %v times", authority, n)
		}
	}
}

func TestRoute(t *testing.T) {
	c := parse(t, "valid-everything.yaml")
	s := c.Sites[0]
	for request, want := range map[string]string{
		"GET /a/":     "/a/*",
		"HEAD /a/x/y": "/a/*",
		"GET /a/b":    "/a/*",
		"POST /a/b":   "/a/b",
		"POST /a/b/c": "/*",
		"GET /a":      "/*",
		"PUT /":       "/*",
		"OPTIONS *":   "",

		// as an origin may understand them
		"POST //a//b":       "/a/b",
		"POST /x/../a/b":    "/a/b",
		"POST /a/./b":       "/a/b",
		"POST /a;v=1/b;w=2": "/a/b",
		"GET /a/b/..":       "/a/*",
		"GET /a/..":         "/*",
		"POST /../../a/b":   "/a/b",
	} {
		method, path, _ := strings.Cut(request, " ")
		got := ""
		if r := s.Route(method, path); r != nil {
			got = r.Path
		}
		if got != want {
			t.Errorf("%s: %q, want %q", request, got, want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(lookupFile))
	for _, file := range everyFile(f) {
		f.Add(file)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := Parse("f.yaml", data)
		if err != nil {
			if errs, ok := err.(Errors); !ok || len(errs) == 0 || errs.Error() == "" {
				t.Fatalf("not Errors: %v", err)
			}
			return
		}
		for _, n := range c.Nodes {
			if got, err := c.Node(n.Name); err != nil || got.Name != n.Name {
				t.Fatalf("node %q: %v", n.Name, err)
			}
		}
		for _, s := range c.Sites {
			if s.Map == nil {
				t.Fatalf("site %s has no map", s.Name)
			}
			for _, h := range s.Hosts {
				authority := strings.Replace(h.Public.Authority(), "*", "any", 1)
				if strings.HasPrefix(h.Public.Host, "*.") {
					if _, ok := c.Lookup(authority); !ok {
						t.Fatalf("%s is not found", authority)
					}
					continue
				}
				if got, ok := c.Lookup(authority); !ok || got != s {
					t.Fatalf("%s is not found", authority)
				}
				c.LookupName(h.Public.Host)
				s.Route("GET", "/"+authority)
			}
		}
	})
}
