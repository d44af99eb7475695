package cache

import (
	"context"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// What became of a request is told twice: to the caller in a Trace, with fixed
// words for metrics, and to the client in Cache-Status (RFC 9211).

// Result is what became of a request.
type Result string

const (
	Hit         Result = "hit"         // from the store, fresh
	Stale       Result = "stale"       // from the store, beyond its freshness, as is allowed
	Revalidated Result = "revalidated" // from the store, after the origin said that it is still so
	Miss        Result = "miss"        // fetched, and kept if all of it comes
	Collapsed   Result = "collapsed"   // from a fetch that another request began
	Uncacheable Result = "uncacheable" // fetched, and not kept
	Bypass      Result = "bypass"      // not looked up
	Failed      Result = "failed"      // not to be had: the fetch failed, or none was wanted (only-if-cached)
)

// Reason is why something is not from the store, or not kept: a fixed label.
type Reason string

// Why a request is not looked up.
const (
	whyOff          Reason = "off"
	whyMethod       Reason = "method"
	whyBody         Reason = "body"
	whyUpgrade      Reason = "upgrade"
	whyOverride     Reason = "override"
	whyPrecondition Reason = "precondition"
	whyBypassCookie Reason = "cookie"
	whyClosed       Reason = "closed"
)

// Why a request that is looked up is not answered from the store.
const (
	whyAbsent         Reason = "absent"  // nothing is kept under its key
	whyVaryMiss       Reason = "vary"    // nothing that it selects
	whyPartial        Reason = "partial" // not the bytes that it wants
	whyExpired        Reason = "expired"
	whyPurged         Reason = "purged"
	whyNoCache        Reason = "no-cache" // the answer's
	whyRequestControl Reason = "request"  // the request's no-cache, max-age or min-fresh
	whyOnlyIfCached   Reason = "only-if-cached"
	whyError          Reason = "error"
)

// Why an answer is not kept.
const (
	whyRequestNoStore Reason = "request-no-store"
	whyNoStore        Reason = "no-store"
	whyMustUnderstand Reason = "must-understand"
	whyPrivate        Reason = "private"
	whyAuthorization  Reason = "authorization"
	whySetCookie      Reason = "set-cookie"
	whyStatus         Reason = "status"
	whyVaryAny        Reason = "vary-any"
	whyTrailers       Reason = "trailers"
	whyCoding         Reason = "coding"
	whyTooLarge       Reason = "too-large"
	whyBadHeader      Reason = "header"
	whyExtension      Reason = "extension"
	whyBadRange       Reason = "range"
	whyNoFreshness    Reason = "no-freshness"
	whyNoRoom         Reason = "no-room"
	whyHead           Reason = "head"
	whyExpected       Reason = "uncacheable" // the last one was not, a while ago
)

// Trace is what became of one request.
type Trace struct {
	Result Result
	Reason string        // why it is no hit: one of the Reasons; "" for a hit
	Kept   string        // why the answer is not kept: one of the Reasons; "" when it is, or was not fetched
	Age    time.Duration // of what came from the store
	Tier   string        // where what is kept of it was: "memory" or "disk"; "" for what is fetched
	Fetch  bool          // this request began a fetch
	Status string        // our member of Cache-Status, for the answer that the caller makes of an error; "" with any other
}

type traceKey struct{}

// WithTrace has the RoundTrip of a request with the context fill trace before it
// returns. It does not touch it afterwards.
func WithTrace(ctx context.Context, trace *Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, trace)
}

func traceOf(ctx context.Context) *Trace {
	if trace, ok := ctx.Value(traceKey{}).(*Trace); ok {
		return trace
	}
	return &Trace{}
}

// status is our member of Cache-Status.
type status struct {
	hit       bool
	fwd       string // RFC 9211 §2.2
	fwdStatus int    // §2.3
	stored    bool   // §2.5
	collapsed bool   // §2.6
	timed     bool
	ttl       time.Duration // §2.4
	key       string        // §2.7; "" is not to be said
	detail    Reason        // §2.8, and
	note      string        // the rules of the policy, by which it is as it is,
	rules     string        // and by which the request is like others
}

// ourName is in Cache-Status.
const ourName = "causeway"

// anew forgets what became of the request so far.
func (s *status) anew() { *s = status{key: s.key, rules: s.rules} }

// forward notes why a request goes on (RFC 9211 §2.2).
func (s *status) forward(reason Reason) {
	s.hit = false
	switch reason {
	case whyAbsent:
		s.fwd = "uri-miss"
	case whyVaryMiss:
		s.fwd = "vary-miss"
	case whyPartial:
		s.fwd = "partial"
	case whyExpired, whyPurged, whyNoCache:
		s.fwd = "stale"
	case whyRequestControl:
		s.fwd = "request"
	case whyMethod:
		s.fwd = "method"
	case whyOff, whyBody, whyUpgrade, whyOverride, whyPrecondition, whyBypassCookie, whyClosed:
		s.fwd, s.detail = "bypass", reason
	default:
		s.fwd = "miss"
	}
}

// appendText appends a String of RFC 9651 (§3.3.3); what that can't hold is written as
// in a URL.
func appendText(b []byte, text string) []byte {
	b = append(b, '"')
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"' || c == '\\':
			b = append(b, '\\', c)
		case c < ' ' || c > '~':
			b = fmt.Appendf(b, "%%%02X", c)
		default:
			b = append(b, c)
		}
	}
	return append(b, '"')
}

// set adds the member to those of the caches nearer to the origin.
func (s *status) set(h http.Header) {
	lines := h["Cache-Status"]
	h["Cache-Status"] = append(lines[:len(lines):len(lines)], s.String())
}

func (s *status) String() string {
	var room [128]byte
	b := append(room[:0], ourName...)
	if s.hit {
		b = append(b, "; hit"...)
	} else if s.fwd != "" {
		b = append(append(b, "; fwd="...), s.fwd...)
	}
	if s.fwdStatus != 0 {
		b = strconv.AppendInt(append(b, "; fwd-status="...), int64(s.fwdStatus), 10)
	}
	if s.timed {
		b = strconv.AppendInt(append(b, "; ttl="...), int64(s.ttl/time.Second), 10)
	}
	if s.stored {
		b = append(b, "; stored"...)
	}
	if s.collapsed {
		b = append(b, "; collapsed"...)
	}
	if s.key != "" {
		b = append(b, "; key="...)
		b = appendText(b, s.key)
	}
	detail := joined(s.note, s.rules)
	if s.detail != "" {
		detail = joined(s.detail.detail(), detail)
	}
	if detail != "" {
		b = append(append(append(b, `; detail="`...), strings.ReplaceAll(detail, `"`, "'")...), '"')
	}
	return string(b)
}
