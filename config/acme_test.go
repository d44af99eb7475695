package config

import (
	"slices"
	"testing"
)

// TestUsualChallenges: what a file names no challenge for is tried first by one that
// several nodes can be asked at once, where several order, and only there.
func TestUsualChallenges(t *testing.T) {
	const (
		edges  = "pki: pki\nnodes:\n  - {name: a, role: edge, listen: {http: \":80\", https: \":443\"}}\n"
		second = "  - {name: b, role: edge, listen: {http: \":80\", https: \":443\"}}\n"
		relays = "  - {name: r, role: relay, listen: {link: \":7443\"}, address: \"10.0.0.1:7443\"}\n"
		other  = "  - {name: s, role: relay, listen: {link: \":7443\"}, address: \"10.0.0.2:7443\"}\n"
	)
	shop := func(more string) string {
		return "sites: [{name: shop, hosts: {example.cn: https://example.com}, tls: {acme: {}}" + more + "}]\n"
	}
	hello, plain := []string{ChallengeTLSALPN, ChallengeHTTP}, []string{ChallengeHTTP, ChallengeTLSALPN}
	for _, c := range []struct {
		file string
		want []string
	}{
		{"listen: {http: \":80\", https: \":443\"}\n" + shop(""), hello},
		{"listen: {https: \":443\"}\n" + shop(", http: off"), []string{ChallengeTLSALPN}},
		{shop("") + edges + relays + other, hello}, // the one edge orders
		{shop("") + edges + second + relays, plain},
		{shop(", entry: passthrough") + edges + second + relays, hello}, // the one relay does
		{shop(", entry: passthrough") + edges + relays + other, plain},
		{"acme: {challenges: [tls-alpn-01]}\n" + shop("") + edges + second + relays, []string{ChallengeTLSALPN}},
	} {
		cfg, err := Parse("causeway.yaml", []byte(c.file))
		if err != nil {
			t.Fatalf("%s%v", c.file, err)
		}
		if of, _ := cfg.ACMEOf(cfg.Sites[0]); !slices.Equal(of.Challenges, c.want) {
			t.Errorf("%s%v, not %v", c.file, of.Challenges, c.want)
		}
	}
}
