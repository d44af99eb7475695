package edge

import (
	"net/http"
	"strings"

	"causeway/hop"
)

// clientClaims are the request fields in which a client could pretend to be
// another, or to have asked for something else, because origins commonly
// believe them. They are dropped; the first group is then made anew.
var clientClaims = map[string]bool{
	"Forwarded":         true, // RFC 7239
	"X-Forwarded-For":   true,
	"X-Forwarded-Host":  true,
	"X-Forwarded-Proto": true,
	"X-Real-Ip":         true,

	"X-Forwarded-Base":         true,
	"X-Forwarded-By":           true,
	"X-Forwarded-Port":         true,
	"X-Forwarded-Prefix":       true,
	"X-Forwarded-Scheme":       true,
	"X-Forwarded-Script-Name":  true,
	"X-Forwarded-Server":       true,
	"X-Forwarded-Ssl":          true,
	"X-Forwarded-Uri":          true,
	"X-Scheme":                 true,
	"X-Url-Scheme":             true,
	"Front-End-Https":          true,
	"X-Host":                   true,
	"X-Http-Host-Override":     true,
	"X-Original-Host":          true,
	"X-Original-Url":           true, // IIS, Symfony: another path
	"X-Rewrite-Url":            true,
	"X-Client-Ip":              true,
	"X-Cluster-Client-Ip":      true,
	"X-Originating-Ip":         true,
	"X-Original-Forwarded-For": true,
	"X-Remote-Addr":            true,
	"X-Remote-Ip":              true,
	"X-Envoy-External-Address": true,
	"Client-Ip":                true,
	"True-Client-Ip":           true, // Akamai, Cloudflare
	"Cf-Connecting-Ip":         true, // Cloudflare
	"Fastly-Client-Ip":         true,
	"Ali-Cdn-Real-Ip":          true, // Alibaba Cloud CDN
	"Client-Cert":              true, // RFC 9440 section 2.4, as the next
	"Client-Cert-Chain":        true,
	"X-Client-Cert":            true,
	"X-Client-Verify":          true,
	"X-Forwarded-Client-Cert":  true, // Envoy
	"X-Ssl-Cert":               true,
	"X-Ssl-Client-Cert":        true, // nginx, HAProxy, by custom, as those that follow
	"X-Ssl-Client-Cn":          true,
	"X-Ssl-Client-Dn":          true,
	"X-Ssl-Client-S-Dn":        true,
	"X-Ssl-Client-Verify":      true,
	"Ssl-Client-Cert":          true,
	"Ssl-Client-Verify":        true,
	"Proxy":                    true, // httpoxy: becomes HTTP_PROXY in CGI
}

// forwarded drops a client's own claims from h and says who it is: client is
// its address, host the public host, scheme how it came.
func forwarded(h http.Header, client, host, scheme string) {
	dropClaims(h)
	hop.SetForwarded(h, client, host, scheme)
}

// dropClaims drops a client's own claims from h.
func dropClaims(h http.Header) {
	for name := range h {
		if isClaim(name) {
			delete(h, name)
		}
	}
}

// isClaim reports whether a field is one of clientClaims.
func isClaim(name string) bool {
	return clientClaims[name] || strings.IndexByte(name, '_') >= 0 && clientClaims[underscored(name)]
}

// cleanTrailer drops what a client must not say in a trailer: its claims there
// too.
func cleanTrailer(trailer http.Header) {
	hop.RemoveFromTrailer(trailer)
	dropClaims(trailer)
}

// underscored is name with the dashes that CGI-like origins see in place of
// underscores.
func underscored(name string) string {
	return http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
}

// loopID is this site's name in CDN-Loop (RFC 8586): the same on every node of
// the crossing, another for another crossing.
func loopID(mapVersion string) string { return "causeway-" + mapVersion }

// looped reports whether the request passed this site before.
func looped(h http.Header, mapVersion string) bool {
	for _, value := range h["Cdn-Loop"] {
		for id := range strings.SplitSeq(value, ",") {
			id, _, _ = strings.Cut(id, ";")
			if strings.TrimSpace(id) == loopID(mapVersion) {
				return true
			}
		}
	}
	return false
}
