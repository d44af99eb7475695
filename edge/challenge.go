package edge

import (
	"context"
	"io"
	"net/http"
	"strconv"
	"strings"

	"causeway/config"
	"causeway/conn"
)

// challengePath is where an authority asks for the proof that a name is ours (RFC
// 8555 section 8.3).
const challengePath = "/.well-known/acme-challenge/"

// proved answers an authority. Any other request, and one for a token that nobody
// of ours gave out, goes its usual way: origins have authorities of their own.
func (x *exchange) proved() bool {
	token, ok := strings.CutPrefix(x.r.URL.Path, challengePath)
	if !ok || x.Proof == nil || !isToken(token) || x.r.Method != http.MethodGet && x.r.Method != http.MethodHead {
		return false
	}
	site, _, ok := x.Config.LookupName(hostName(x.r.Host))
	if !ok {
		return false
	}
	proof, ok := x.Proof(x.r.Context(), site, token)
	if !ok {
		return false
	}
	x.rec.Site, x.rec.Status = site.Name, http.StatusOK
	header := x.w.Header()
	header.Set("Content-Type", "application/octet-stream")
	header.Set("Content-Length", strconv.Itoa(len(proof)))
	header.Set("Cache-Control", "no-store")
	x.w.WriteHeader(http.StatusOK)
	if x.r.Method == http.MethodGet {
		n, _ := io.WriteString(x.w, proof) // it may have left
		x.rec.BytesOut = int64(n)
	}
	return true
}

// provesHello says whether a hello for a site that passes through is an authority's
// that this edge answers.
func (c *Crossing) provesHello(ctx context.Context, site *config.Site, hello *conn.Hello) bool {
	return len(hello.ALPN) == 1 && hello.ALPN[0] == acmeALPN && c.Proves != nil && c.Proves(ctx, site, hello.ServerName)
}

// isToken says whether a text may be a token (RFC 8555 section 8.3).
func isToken(s string) bool {
	return s != "" && len(s) <= 128 && !strings.ContainsFunc(s, func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_'
	})
}
