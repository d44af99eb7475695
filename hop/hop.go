// Package hop is what every node that forwards HTTP must do with a message it
// passes on (RFC 9110 §7.6), and nothing else.
//
// The path of a request through a node:
//
//  1. Outgoing turns the server's request into the one to send on: hop-by-hop
//     fields gone, the target byte for byte, an upgrade kept on purpose,
//  2. the node's http.RoundTripper carries it (the link, the relay, the
//     origin), through Exchange where it has a body; a 1xx on the way back goes
//     through the function that WithEarly put in the context,
//  3. Answer passes the response on: header, body as it comes (body.go),
//     trailers; or, after a 101, joins the two connections. Below TLS what it
//     writes at once leaves at once (burst.go).
//
// Ahead lets a node answer what it has at hand before the server has read the
// request: on plain HTTP/1.1 (ahead.go, ordinary.go), and over HTTP/2 between the
// frames of the server's (strict.go, frames.go, block.go, answers.go).
//
// Between nodes an upgraded connection travels as one HTTP/2 stream: OpenTunnel
// wraps the sending side, AcceptTunnel and Answer the receiving side (tunnel.go).
//
// It refuses to decide anything: no routing, no limits of its own, no log. It
// never passes on a body that was cut short as if it were whole: Answer
// returns an error, and the caller aborts the connection.
package hop

import (
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Prefix begins the names of the fields that nodes say to each other. A client's
// or an origin's own are dropped at the door.
const Prefix = "Causeway-"

// hopByHop are the fields that concern one connection only: RFC 9110 §7.6.1,
// and the older ones that proxies still meet.
var hopByHop = []string{
	"Connection",
	"Proxy-Connection", // RFC 9110 §7.6.1, non-standard but sent by clients
	"Keep-Alive",
	"Proxy-Authenticate",
	"Proxy-Authorization",
	"Te",
	"Trailer",
	"Transfer-Encoding",
	"Upgrade",
}

// RemoveHopByHop deletes what Connection names and the connection's own fields
// from h (RFC 9110 §7.6.1).
func RemoveHopByHop(h http.Header) {
	for _, value := range h["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			if name = textproto.TrimString(name); name != "" {
				h.Del(name)
			}
		}
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// RemoveOwn deletes the fields that nodes say to each other from h: nobody else
// may say them.
func RemoveOwn(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, Prefix) {
			delete(h, name)
		}
	}
}

// notInTrailer are fields that a trailer must not bring, besides those that
// httpguts knows: what routes, authenticates or steers (RFC 9110 §6.5.1).
var notInTrailer = map[string]bool{"Cookie": true, "Set-Cookie": true, "Location": true, "Upgrade": true}

// RemoveFromTrailer deletes what no trailer may hold (RFC 9110 §6.5.1): a
// receiver that merges it into the header would take it for what this node
// said.
func RemoveFromTrailer(trailer http.Header) {
	for name := range trailer {
		if !httpguts.ValidTrailerHeader(name) || notInTrailer[name] {
			delete(trailer, name)
		}
	}
	RemoveOwn(trailer)
}

// ValidStatus reports whether status is one of a final response, or a 101
// (RFC 9110 §15). net/http reads others, and panics when it shall write them.
func ValidStatus(status int) bool {
	return status >= 200 && status <= 999 || status == http.StatusSwitchingProtocols
}

// IsEventStream reports whether a response is made of server-sent events.
func IsEventStream(h http.Header) bool {
	mediaType, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	return strings.EqualFold(strings.TrimSpace(mediaType), "text/event-stream")
}

// UpgradeOf is the protocol a message asks or agrees to switch to (RFC 9110
// §7.8), "" for none.
func UpgradeOf(h http.Header) string {
	if !httpguts.HeaderValuesContainsToken(h["Connection"], "Upgrade") {
		return ""
	}
	return h.Get("Upgrade")
}

// setUpgrade writes the two fields of a switch to protocol.
func setUpgrade(h http.Header, protocol string) {
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", protocol)
}

// legsField carries what the relay measured: two numbers of microseconds.
const legsField = Prefix + "Legs"

// SetLegs notes on a response how long the relay waited for a connection to
// the origin, and for the origin's header, since the request came to it.
func SetLegs(h http.Header, connect, origin time.Duration) {
	buffer := make([]byte, 0, 24)
	buffer = strconv.AppendInt(buffer, connect.Microseconds(), 10)
	buffer = append(buffer, ' ')
	buffer = strconv.AppendInt(buffer, origin.Microseconds(), 10)
	h[legsField] = []string{string(buffer)}
}

// TakeLegs reads what SetLegs noted and takes it off; zeros when there is
// nothing.
func TakeLegs(h http.Header) (connect, origin time.Duration) {
	first, second, _ := strings.Cut(h.Get(legsField), " ")
	delete(h, legsField)
	microseconds := func(text string) time.Duration {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil || n < 0 || n > int64(24*time.Hour/time.Microsecond) {
			return 0
		}
		return time.Duration(n) * time.Microsecond
	}
	return microseconds(first), microseconds(second)
}
