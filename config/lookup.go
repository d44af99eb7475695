package config

import (
	"net"
	"net/netip"
	"strings"

	"causeway/rewrite"
)

// hostIndex finds sites by public host. A lookup costs one map access a label
// and allocates nothing when the name is in small letters already.
type hostIndex struct {
	exact, wild         map[string]entry   // by authority; wild without "*."
	exactName, wildName map[string][]entry // by host whatever the port
}

// entry is a public host and its site.
type entry struct {
	site *Site
	host *Host
}

func newHostIndex(sites []*Site) hostIndex {
	x := hostIndex{map[string]entry{}, map[string]entry{}, map[string][]entry{}, map[string][]entry{}}
	for _, s := range withTests(sites) {
		for i := range s.Hosts {
			e := entry{s, &s.Hosts[i]}
			authority := e.host.Public.Authority()
			if suffix, ok := strings.CutPrefix(authority, "*."); ok {
				x.wild[suffix] = e
				name := e.host.Public.Host[2:]
				x.wildName[name] = append(x.wildName[name], e)
				continue
			}
			x.exact[authority] = e
			x.exactName[e.host.Public.Host] = append(x.exactName[e.host.Public.Host], e)
		}
	}
	return x
}

// Lookup is the site of a Host header (`example.cn`, `localhost:8443`): exact
// before wildcard, the longest wildcard first, whatever the case. A port 80 or
// 443 counts as none. A wildcard stands for host names alone, so that whatever
// has a site can be written into another field as it is.
func (c *Config) Lookup(authority string) (*Site, bool) {
	key, ok := authorityKey(authority)
	if !ok {
		return nil, false
	}
	if e, ok := c.index.exact[key]; ok {
		return e.site, true
	}
	for rest, ok := belowWildcard(key); ok; rest, ok = afterDot(rest) {
		if e, found := c.index.wild[rest]; found {
			return e.site, true
		}
	}
	return nil, false
}

// LookupName is the site and the public host of a host name (a TLS server
// name) whatever the port: exact before wildcard, the longest wildcard first.
// False when there is none, or when it is the port that tells two sites apart.
// Of two public hosts of one site that differ by port, the first in the file.
func (c *Config) LookupName(host string) (*Site, Host, bool) {
	name := hostKey(host)
	if entries, ok := c.index.exactName[name]; ok {
		return oneSite(entries)
	}
	for rest, ok := belowWildcard(name); ok; rest, ok = afterDot(rest) {
		if entries, found := c.index.wildName[rest]; found {
			return oneSite(entries)
		}
	}
	return nil, Host{}, false
}

// LookupHello is LookupName for a TLS client: by the server name, without one by the
// address that it came to, of TCP or, for QUIC, of UDP.
func (c *Config) LookupHello(name string, local net.Addr) (*Site, bool) {
	if name == "" {
		if socket, ok := local.(interface{ AddrPort() netip.AddrPort }); ok {
			name = socket.AddrPort().Addr().Unmap().WithZone("").String()
		}
	}
	site, _, ok := c.LookupName(name)
	return site, ok
}

func oneSite(entries []entry) (*Site, Host, bool) {
	for _, e := range entries[1:] {
		if e.site != entries[0].site {
			return nil, Host{}, false
		}
	}
	return entries[0].site, *entries[0].host, true
}

// belowWildcard is what follows the first label of a host[:port] that a wildcard
// may stand for: a name of letters, digits, hyphens and underscores. A Host
// field may hold more (RFC 3986 section 3.2.2: "a;for=b", "a,b"), which other
// fields made of it would take for something else.
func belowWildcard(authority string) (string, bool) {
	name, _, _ := strings.Cut(authority, ":")
	if len(name) > 253 { // RFC 1035 section 2.3.4
		return "", false
	}
	for i := range len(name) {
		c := name[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' && c != '.' {
			return "", false
		}
	}
	return afterDot(authority)
}

// afterDot is what follows the first label.
func afterDot(name string) (string, bool) {
	if strings.HasPrefix(name, "[") || strings.HasPrefix(name, ".") {
		return "", false
	}
	_, rest, ok := strings.Cut(name, ".")
	return rest, ok
}

// authorityKey is an authority as the index has it: small letters, no final
// dot, no port 80 or 443, IPv6 in its canonical form.
func authorityKey(authority string) (string, bool) {
	if isKey(authority) {
		return authority, true
	}
	host, port, hasPort, ok := splitAuthority(authority)
	if !ok || host == "" {
		return "", false
	}
	if !hasPort || port == "" || port == "80" || port == "443" {
		port = ""
	}
	host = hostKey(host)
	if port == "" && !strings.Contains(host, ":") {
		return host, true
	}
	return rewrite.Base{Host: host, Port: port}.Authority(), true
}

// isKey reports whether a Host field, as nearly all are, has only letters in lower
// case, digits, dashes and dots, and no dot at its end: that is its key.
func isKey(authority string) bool {
	for i := 0; i < len(authority); i++ {
		if c := authority[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '.' {
			return false
		}
	}
	return authority != "" && authority[len(authority)-1] != '.'
}

// Authority is a Host field in the one form that the nodes say it in: in lower
// case, without a final dot or a default port. What is no host stays as it is.
func Authority(written string) string {
	if key, ok := authorityKey(written); ok {
		return key
	}
	return written
}

// hostKey is a host name as the index has it.
func hostKey(host string) string {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if strings.Contains(host, ":") {
		host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		if addr, err := netip.ParseAddr(host); err == nil {
			return addr.Unmap().String()
		}
	}
	return host
}
