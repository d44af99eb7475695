package config

import "testing"

func TestPrice(t *testing.T) {
	c, err := Parse("causeway.yaml", []byte(`
sites: [{name: shop, hosts: {example.cn: https://example.com}, http: serve}]
pki: pki
nodes:
  - {name: shanghai-1, role: edge, listen: {http: ":80"}}
  - {name: virginia-1, role: relay, listen: {link: ":7443"}, address: "10.1.0.5:7443"}
links:
  - {from: shanghai-1, to: virginia-1, price: {per_mbps_month: 120}}
  - {from: shanghai-1, to: virginia-1, via: "10.1.0.6:7443", price: {per_gb: 0.8, currency: USD}}
  - {from: shanghai-1, to: virginia-1, via: "10.1.0.7:7443"}
`))
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []struct {
		known           bool
		byRate, byBytes float64
		currency        string
	}{{true, 600, 0, "CNY"}, {true, 0, 2.4, "USD"}, {}} {
		p := c.Links[i].Price
		if p.Known() != want.known {
			t.Errorf("links[%d]: %+v", i, p)
		}
		if p.Known() && (p.ByRate(5e6) != want.byRate || p.ByBytes(3e9) < want.byBytes-1e-9 || p.ByBytes(3e9) > want.byBytes+1e-9 || p.Currency != want.currency) {
			t.Errorf("links[%d]: %v, %v, %+v", i, p.ByRate(5e6), p.ByBytes(3e9), p)
		}
	}
}
