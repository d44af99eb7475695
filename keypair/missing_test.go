package keypair

import (
	"crypto/x509"
	"net"
	"slices"
	"strings"
	"testing"
)

// TestMissing: it says what VerifyHostname alone says, for names that no careful
// authority writes too.
func TestMissing(t *testing.T) {
	names := []string{"shop.example.cn", "Shop.Example.CN", "*.example.cn", "*.EXAMPLE.cn", "shop.example.cn.", "*.example.cn.", "*", "*.*.cn", "s*.example.cn", "a.*.cn", "bad name.cn", "_dmarc.example.cn", "", ".", "cn", "*.cn", "127.0.0.1", "xn--fiqs8s.example.cn"}
	hosts := []string{"shop.example.cn", "SHOP.example.cn", "shop.example.cn.", "*.example.cn", "*.shop.example.cn", "*.cn", "*", "a.b.example.cn", "example.cn", "cn", "a.x.cn", "bad name.cn", "_dmarc.example.cn", "127.0.0.1", "::1", "[::1]", "", ".", "xn--fiqs8s.example.cn", "s1.example.cn"}
	for _, addresses := range [][]net.IP{nil, {net.IPv4(127, 0, 0, 1)}, {net.IPv6loopback}} {
		for _, first := range names {
			for _, second := range names {
				leaf := &x509.Certificate{DNSNames: []string{first, second}, IPAddresses: addresses}
				var want []string
				for _, host := range hosts {
					if leaf.VerifyHostname(strings.Replace(host, "*", "any-name-below", min(1, strings.Count(host[:min(1, len(host))], "*")))) != nil {
						want = append(want, host)
					}
				}
				if got := Missing(leaf, hosts); !slices.Equal(got, want) {
					t.Errorf("%q %v: %q, not %q", leaf.DNSNames, addresses, got, want)
				}
			}
		}
	}
}
