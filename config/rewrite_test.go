package config

import (
	"testing"

	"causeway/rewrite"
)

func TestNames(t *testing.T) {
	s := parse(t, "valid-rewrite.yaml").Sites[0]
	for _, c := range []struct {
		path, query     string
		untouched, bare bool
	}{
		{"/", "", false, false},
		{"/signed/a", "", true, false},
		{"//signed/./a", "", true, false},
		{"/signed", "", false, false},
		{"/a", "b=1&X-Amz-Signature=x", true, false},
		{"/a", "X-Amz-Signature", true, false},
		{"/a", "b=X-Amz-Signature", false, false},
		{"/files/a", "a=b&sig=x", true, false},
		{"/files/%61/./b", "sig", true, false},
		{"/files/a", "", false, false},
		{"/files/a", "sign=x", false, false},
		{"/file/a", "sig=x", false, false},
		{"/one", "sig=x", true, false},
		{"/one/a", "sig=x", false, false},
		{"/raw/a", "", true, false},
		{"/api/a", "", false, true},
		{"/api/a", "X-Amz-Signature=x", false, true}, // a route's rules stand in the place of the site's
		{"/api/keys", "", true, true},
	} {
		rules := s.Names(s.Route("GET", c.path), c.path, c.query).Rules()
		if rules.Untouched != c.untouched || rules.Bare != c.bare {
			t.Errorf("%s?%s: untouched %v, bare %v", c.path, c.query, rules.Untouched, rules.Bare)
		}
	}
	rules := s.Map.Rules()
	if len(rules.Types) != 2 || rules.Types[0] != "application/x-shop" || rules.Cookies[0] != "return_to" || rules.BodyBytes != 1<<20 || rules.Untouched {
		t.Errorf("rules %+v", rules)
	}
}

func TestThirdParty(t *testing.T) {
	s := parse(t, "valid-rewrite.yaml").Sites[0]
	for host, want := range map[string]bool{
		"www.example.com": false, "a.example.com": false,
		"10.0.0.5": false, "fonts.googleapis.com": true,
		"pay.example.org":   false, // cookies: true
		"a.cdn.example.net": true, "x.example.net": false,
	} {
		if got := s.ThirdParty(rewrite.Base{Scheme: "https", Host: host}); got != want {
			t.Errorf("%s: %v", host, got)
		}
	}
}

func TestRegistrable(t *testing.T) {
	for host, want := range map[string]string{
		"example.com": "example.com", "a.b.example.co.uk": "example.co.uk", "*.example.cn": "example.cn",
		"10.0.0.5": "", "::1": "", "localhost": "", "shop.com.cn": "shop.com.cn",
	} {
		if got := registrable(host); got != want {
			t.Errorf("%s: %s", host, got)
		}
	}
}
