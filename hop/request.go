package hop

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Outgoing makes the request to send on from r, a request of an http.Server.
// It takes over r's header and body: the caller must not change them any more.
// scheme and authority say where it goes; the path and the query are those of
// r's request line, byte for byte.
func Outgoing(ctx context.Context, r *http.Request, scheme, authority string) *http.Request {
	out := r.WithContext(ctx)
	upgrade := UpgradeOf(r.Header)
	if r.ContentLength != 0 || isHTTP(upgrade) {
		upgrade = "" // a server may ignore it (RFC 9110 §7.8)
	}
	trailers := httpguts.HeaderValuesContainsToken(r.Header["Te"], "trailers")
	RemoveHopByHop(out.Header)
	if trailers {
		out.Header.Set("Te", "trailers") // RFC 9110 §10.1.4: says that trailers may be sent back
	}
	if upgrade != "" {
		setUpgrade(out.Header, upgrade)
	}
	if _, named := out.Header["User-Agent"]; !named {
		out.Header["User-Agent"] = nil // net/http's client would add its own
	}
	out.URL = TargetURL(r.RequestURI, r.URL, scheme, authority)
	out.Host = authority
	out.RequestURI = ""
	out.Close = false
	if r.ContentLength == 0 {
		out.Body = nil // so that a transport may send it again on a fresh connection
	}
	return out
}

// isHTTP reports whether protocols, an Upgrade field, names HTTP or TLS: requests
// over such a connection would pass this node unseen.
func isHTTP(protocols string) bool {
	for protocol := range strings.SplitSeq(strings.ToLower(protocols), ",") {
		name, _, _ := strings.Cut(strings.TrimSpace(protocol), "/")
		if name == "h2c" || name == "h2" || name == "http" || name == "tls" {
			return true
		}
	}
	return false
}

// TargetURL is a URL whose RequestURI is path and query of requestURI, the
// request line's target as received (origin-form or absolute-form, RFC 9112
// §3.2), whatever characters it holds. parsed is what net/http made of it.
func TargetURL(requestURI string, parsed *url.URL, scheme, authority string) *url.URL {
	target := new(url.URL)
	SetTargetURL(target, requestURI, parsed, scheme, authority)
	return target
}

// SetTargetURL makes target what TargetURL gives.
func SetTargetURL(target *url.URL, requestURI string, parsed *url.URL, scheme, authority string) {
	*target = url.URL{
		Scheme: scheme, Host: authority,
		Path: parsed.Path, RawPath: parsed.RawPath,
		RawQuery: parsed.RawQuery, ForceQuery: parsed.ForceQuery,
	}
	path, query, found := strings.Cut(requestURI, "?")
	switch {
	case strings.HasPrefix(path, "/") && !strings.HasPrefix(path, "//"):
		if found {
			target.RawQuery, target.ForceQuery = query, query == ""
		}
		if target.EscapedPath() != path {
			target.Opaque = path // net/url would escape it its own way
		}
	case parsed.Path == "" && !strings.HasPrefix(path, "*"):
		target.Path = "/" // absolute-form without a path, RFC 9112 §3.2.1
	}
}

// expectAsk says between nodes what Expect says: net/http's HTTP/2 server takes
// that field off before a handler sees it.
const expectAsk = Prefix + "Expect"

// SendExpect notes on a request between nodes that its client waits for the
// origin's word before it sends the body (RFC 9110 §10.1.1).
func SendExpect(h http.Header) {
	if httpguts.HeaderValuesContainsToken(h["Expect"], "100-continue") {
		h[expectAsk] = []string{"100-continue"}
	}
}

// AcceptExpect restores the Expect field of a request that another node sent.
func AcceptExpect(h http.Header) {
	if httpguts.HeaderValuesContainsToken(h[expectAsk], "100-continue") {
		h["Expect"] = []string{"100-continue"}
		delete(h, expectAsk)
	}
}

// earlyKey is the context key of WithEarly's function.
type earlyKey struct{}

// EarlyFunc passes an informational response (1xx but 101) on to the client.
// It takes h over. It may be called until the final response is there.
type EarlyFunc func(status int, h http.Header)

// WithEarly gives the round trips made with the context a way to pass 1xx
// responses on.
func WithEarly(ctx context.Context, early EarlyFunc) context.Context {
	return context.WithValue(ctx, earlyKey{}, early)
}

// EarlyOf is the function that WithEarly put into ctx, or one that drops the
// response.
func EarlyOf(ctx context.Context) EarlyFunc {
	if early, ok := ctx.Value(earlyKey{}).(EarlyFunc); ok {
		return early
	}
	return func(int, http.Header) {}
}

// Exchange sends req through send. Closing the body of the response ends the
// exchange at once, though the client may still be sending: net/http's HTTP/2
// transport would wait for the next bytes of the request's body.
func Exchange(req *http.Request, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	if req.Body == nil || req.Body == http.NoBody {
		return send(req)
	}
	ctx, cancel := context.WithCancel(req.Context())
	res, err := send(req.WithContext(ctx))
	if err != nil {
		cancel()
		return nil, err
	}
	if res.ProtoMajor == 2 {
		res.Body = &ending{res.Body, cancel}
	} else {
		res.Body = &canceling{res.Body, cancel} // a connection of HTTP/1.1 whose exchange is over is kept
	}
	return res, nil
}

// ending cancels an exchange when its body is closed, and then closes it.
type ending struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (e *ending) Close() error {
	e.cancel()
	return e.ReadCloser.Close()
}
