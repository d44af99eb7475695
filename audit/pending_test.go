package audit

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"causeway/config"
)

const pendingFile = `
sites:
  - name: bare
    hosts: {a.cn: https://a.com, b.cn: https://b.com, "*.a.cn": https://*.a.com}
    pending: {test_host: test.a.net}
  - name: near
    hosts: {c.cn: https://c.com, d.cn: https://d.com, "e.cn:8443": https://e.com}
    tls: {cert: c.pem, key: c.key}
    pending: true
  - name: dark
    hosts: {f.cn: https://f.com}
    tls: {cert: c.pem, key: c.key}
    http: off
    pending: true
  - name: open
    hosts: {g.cn: https://g.com}
    http: serve
`

const orderedSite = `  - name: ordered
    hosts: {h.cn: https://h.com, i.cn: https://i.com}
    tls: {acme: {}}
    pending: true
`

func lines(findings []Finding) (all []string) {
	for _, f := range findings {
		all = append(all, f.String())
	}
	return all
}

func TestMissing(t *testing.T) {
	want := []string{
		"http://a.cn: note: site bare is pending, and has no certificate; write tls: {cert: example.cn.pem, key: example.cn.key}, or open it with http: serve",
		"http://a.cn: note: 1 of the hosts of site bare have no name under the test host: there they are the origin's; put them below a.cn, or do without them there",
		"https://c.cn: note: site near is pending, and lacks nothing that this file says; take pending out when it may be opened",
		"https://f.cn: note: site dark is pending, and lacks nothing that this file says; take pending out when it may be opened",
	}
	for _, c := range []struct {
		uncertified func(*config.Site) string
		want        string
	}{
		{nil, "https://h.cn: note: site ordered is pending, and lacks nothing but perhaps its certificate; see causeway cert list on the node that orders it, and take pending out when it may be opened"},
		{func(*config.Site) string { return "i.cn" }, "https://h.cn: note: site ordered is pending, and there is no certificate for i.cn yet; causeway cert list says what became of the order; a running node makes it"},
		{func(*config.Site) string { return "" }, "https://h.cn: note: site ordered is pending, and lacks nothing that this file says; take pending out when it may be opened"},
	} {
		want := append(slices.Clone(want), c.want)
		if got := lines(Missing(file(t, pendingFile+orderedSite), c.uncertified)); !slices.Equal(got, want) {
			t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
}

func TestPending(t *testing.T) {
	cfg := file(t, pendingFile)
	fake := world{
		lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
			switch host {
			case "b.cn":
				return nil, errors.New("no such host")
			case "e.cn":
				return nil, nil
			}
			return []netip.Addr{netip.MustParseAddr("198.51.100.7"), netip.MustParseAddr("2001:db8::7")}, nil
		},
		get: says(t, map[string]string{
			"a.cn": "HTTP/1.1 503 Service Unavailable\nRetry-After: 3600",
			"c.cn": "HTTP/1.1 403 Forbidden",
			"d.cn": "HTTP/1.1 301 Moved Permanently\nLocation: https://d.cn/",
		}),
	}
	report, err := pending(t.Context(), cfg, Options{Timeout: time.Minute}, fake)
	if err != nil || report.Asked != 6 {
		t.Fatalf("%+v, %v", report, err)
	}
	const both = "it leads to 198.51.100.7, 2001:db8::7"
	want := []string{
		"http://a.cn: note: " + both + ", which holds it",
		"http://b.cn: warning: the DNS has no address of it: no such host; let it lead to the edges",
		"https://c.cn: warning: " + both + ", and plain HTTP is answered with 403, as providers answer for a name whose ICP filing they do not know; wait until the filing (备案) is through",
		"https://d.cn: warning: " + both + ", which answers 301 Moved Permanently and not with the page of a site that is pending; let it lead to the edges, with this file",
		"https://e.cn:8443: warning: the DNS has no address of it; let it lead to the edges",
		"https://f.cn: note: " + both + "; plain HTTP was not asked, as the site has http: off",
	}
	if got := lines(report.Findings); !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	fake.get = fakeRelay(func(*http.Request) (*http.Response, error) { return nil, errors.New("connection refused") })
	report, err = pending(t.Context(), cfg, Options{Timeout: time.Minute}, fake)
	if err != nil || report.Findings[0].String() != "http://a.cn: warning: "+both+", and plain HTTP does not answer: connection refused; open port 80 of the edges, or let the DNS lead to them" {
		t.Errorf("%v, %v", report.Findings, err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if report, err := pending(ended, cfg, Options{Timeout: time.Minute}, fake); err == nil || report.Asked != 0 {
		t.Errorf("ended: %+v, %v", report, err)
	}
}
