package rewrite

import "testing"

// TestCookiesByPrefix: a name with a "*" at its end stands for all that begin so.
func TestCookiesByPrefix(t *testing.T) {
	m := parseMap(t, fuzzMaps[0]).WithRules(Rules{Cookies: []string{"return_to", "author_url_*"}})
	for pair, want := range map[string]string{
		"author_url_4ecc=https%3A%2F%2Fexample.com": "author_url_4ecc=https%3A%2F%2Fexample.cn",
		"author_url_=//example.com":                 "author_url_=//example.cn",
		"return_to=//example.com":                   "return_to=//example.cn",
		"return_to_=//example.com":                  "return_to_=//example.com",
		"author_url=//example.com":                  "author_url=//example.com",
		"my_author_url_=//example.com":              "my_author_url_=//example.com",
	} {
		if got := m.cookie(pair + "; Path=/"); got != want+"; Path=/" {
			t.Errorf("%s became %s", pair, got)
		}
		lines := []string{"a=b; " + want}
		if m.requestCookies(lines); lines[0] != "a=b; "+pair {
			t.Errorf("%s came back as %s", want, lines[0])
		}
	}
}
