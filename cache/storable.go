package cache

import (
	"net/http"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"
)

// Whether an answer is kept (RFC 9111 §3), by the first rule that says no:
//
//  1. forbidden: what the request and the answer say of it,
//  2. incomplete: what the cache can't keep, or would rather not,
//  3. lifeless: nothing says how long it is fresh, and it can't be validated.
//
// What is kept is the answer less the fields that are for one client or one
// connection (keptHeader).
//
// Set-Cookie: an answer that has it is kept only when the origin says explicitly
// that it is for shared caches: public, s-maxage, a lifetime in
// CDN-Cache-Control, or no-cache="Set-Cookie", private="Set-Cookie". The cookies
// themselves go to the one whose request fetched it, and are never kept. No TTL of
// a policy changes that.

// exchanged is an answer with the request that was sent for it.
type exchanged struct {
	policy    *Policy
	sent      *http.Request
	noStore   bool // the request's
	most      int64
	res       *http.Response
	tags      []string // that the answer had
	requested time.Time
	received  time.Time
}

// take takes the answer, nil for none.
func (x *exchanged) take(res *http.Response) {
	if x.res = res; res != nil {
		x.tags = takeTags(res.Header)
	}
}

// verdict is whether an answer is kept, and how.
type verdict struct {
	reason Reason // why not; "" when it is
	facts  *facts
	lifetimes
	header http.Header // as kept
	vary   []Selector
	span   *Span
	shared bool // it can be given to others as it is, without asking the origin first
}

// judge says whether the answer is kept.
func (x *exchanged) judge() verdict {
	h := x.res.Header
	v := verdict{facts: readFacts(h, x.requested, x.received)}
	v.lifetimes = x.policy.freshness(v.facts, x.res.StatusCode)
	if v.reason = x.forbidden(v.facts); v.reason != "" {
		return v
	}
	var any bool
	if v.vary, any = selectors(h, x.sent.Header); any {
		v.reason = whyVaryAny
		return v
	}
	if v.span, v.reason = x.incomplete(); v.reason != "" {
		return v
	}
	if v.reason = x.lifeless(&v); v.reason != "" {
		return v
	}
	v.header = keptHeader(h, v.facts)
	if _, dated := readTime(h["Date"]); !dated {
		v.header["Date"] = []string{x.received.UTC().Format(http.TimeFormat)}
	}
	validated := v.facts.noCache && !x.policy.overrides(x.res.StatusCode)
	v.shared = !validated && x.received.Before(v.until(v.facts, x.received))
	return v
}

// NeverKept are statuses of one condition, one client, one range.
var NeverKept = []int{http.StatusNotModified, http.StatusUnauthorized, http.StatusProxyAuthRequired, http.StatusRequestedRangeNotSatisfiable}

// forbidden is §3, but for its last rule.
func (x *exchanged) forbidden(f *facts) Reason {
	h, status := x.res.Header, x.res.StatusCode
	switch {
	case x.noStore:
		return whyRequestNoStore
	case f.noStore && !(f.mustUnderstand && understood(status)): // §5.2.2.3
		return whyNoStore
	case f.mustUnderstand && !understood(status):
		return whyMustUnderstand
	case f.private:
		return whyPrivate
	case authenticated(x.sent.Header) && !f.mustRevalidate && !f.public && f.sMaxAge == unsaid: // §3.5
		return whyAuthorization
	case len(h["Set-Cookie"]) > 0 && !f.sharesCookies():
		return whySetCookie
	case status < 200 || slices.Contains(NeverKept, status):
		return whyStatus
	}
	return ""
}

// sharesCookies reports whether an answer with Set-Cookie says that it is for
// shared caches nevertheless.
func (f *facts) sharesCookies() bool {
	if f.public || f.sMaxAge != unsaid || f.targeted && f.maxAge != unsaid {
		return true
	}
	for _, name := range append(f.noCacheFields, f.privateFields...) {
		if name == "Set-Cookie" {
			return true
		}
	}
	return false
}

// understood are the statuses whose rules for caches are known here (§5.2.2.3).
func understood(status int) bool {
	switch status {
	case 302, 303, 307, 400, 403, 500, 502, 503, 504:
		return true
	}
	return byDefault(status)
}

// crossing is the field that says that a body is in another coding than its
// header says.
const crossing = internal + "Coding"

// incomplete says why an answer that might be kept can't be, and which part of a
// body it is.
func (x *exchanged) incomplete() (*Span, Reason) {
	h := x.res.Header
	switch {
	case len(x.res.Trailer) > 0 || len(h["Trailer"]) > 0:
		return nil, whyTrailers
	case x.res.Uncompressed || len(h[crossing]) > 0:
		return nil, whyCoding
	case x.res.ContentLength > x.limit():
		return nil, whyTooLarge
	case !validHeader(h):
		return nil, whyBadHeader
	case x.policy.Extensions && !fitting(x.sent.URL.Path, h):
		return nil, whyExtension
	case x.res.StatusCode != http.StatusPartialContent:
		if len(h["Content-Range"]) > 0 {
			return nil, whyBadRange
		}
		return nil, ""
	}
	span, ok := readContentRange(h["Content-Range"])
	if !ok || len(h["Content-Encoding"]) > 0 || len(x.sent.Header["Range"]) == 0 ||
		x.res.ContentLength >= 0 && x.res.ContentLength != span.To-span.From {
		return nil, whyBadRange // several ranges, or of a form that another client may not take
	}
	return &span, ""
}

// limit is the length of the largest body that is kept.
func (x *exchanged) limit() int64 {
	if x.policy.MostBytes > 0 {
		return min(x.most, x.policy.MostBytes)
	}
	return x.most
}

// lifeless is the last rule of §3, and what makes keeping of no use.
func (x *exchanged) lifeless(v *verdict) Reason {
	status := x.res.StatusCode
	validator := v.facts.etag != "" || !v.facts.modified.IsZero()
	fresh := v.life != unsaid && v.until(v.facts, x.received).After(x.received)
	if v.span != nil && (!fresh || !strong(v.facts.etag)) {
		return whyBadRange // of no use beside other parts
	}
	switch {
	case fresh && !(v.facts.noCache && !x.policy.overrides(status) && !validator):
		return ""
	case v.life == unsaid && !v.facts.any && personal(x.sent.Header):
		return whyNoFreshness
	case validator && (v.life != unsaid || v.facts.any || byDefault(status)):
		return "" // it is validated each time: the body need not come again
	case v.facts.noCache:
		return whyNoCache
	case v.life == unsaid:
		return whyNoFreshness
	case v.facts.mustValidate() == "" && (v.facts.staleWhileRevalidate > 0 || v.facts.staleIfError > 0):
		return "" // it is of use as soon as it is stale
	}
	return whyExpired
}

// personal reports whether a request says who the client is.
func personal(h http.Header) bool { return len(h["Cookie"]) > 0 || authenticated(h) }

// authenticated reports whether a request proves who the client is: by itself, or,
// as the edge found, by the certificate of its connection (RFC 9440 section 3).
func authenticated(h http.Header) bool {
	return len(h["Authorization"]) > 0 || len(h["Client-Cert"]) > 0
}

// implicit reports whether a kept answer says nothing of caches: it is validated
// each time, and only for those who do not say who they are. Many origins answer
// 304 by the time of a file or a template alone.
func (m *Meta) implicit() bool {
	f := m.facts()
	return f.explicit == unsaid && !f.any && m.Note == ""
}

// internal begins the names of fields that the nodes say to each other.
const internal = "Causeway-"

// connection are the fields of one connection (RFC 9110 §7.6.1) or one proxy
// (RFC 9111 §3.1), and those that are for one client.
var connection = map[string]bool{
	"Connection": true, "Keep-Alive": true, "Proxy-Connection": true, "Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true,
	"Proxy-Authenticate": true, "Proxy-Authentication-Info": true, "Proxy-Authorization": true,
	"Set-Cookie": true, "Set-Cookie2": true,
}

// keptHeader is the part of a header that is kept (§3.1).
func keptHeader(h http.Header, f *facts) http.Header {
	kept := make(http.Header, len(h))
	for name, values := range h {
		if !connection[name] && !strings.HasPrefix(name, internal) {
			kept[name] = slices.Clip(values) // who adds to it makes another
		}
	}
	for name := range hopsOf(h["Connection"]) {
		delete(kept, name)
	}
	for _, name := range f.noCacheFields {
		delete(kept, name) // §5.2.2.4: not without validation, and that brings it
	}
	for _, name := range f.privateFields {
		delete(kept, name) // §5.2.2.7
	}
	return kept
}

// hopsOf are the fields that a Connection field names.
func hopsOf(lines []string) map[string]bool {
	if len(lines) == 0 {
		return nil
	}
	names := map[string]bool{}
	for _, line := range lines {
		for name := range strings.SplitSeq(line, ",") {
			names[http.CanonicalHeaderKey(strings.Trim(name, " \t"))] = true
		}
	}
	return names
}

// validHeader reports whether a header can be written without changing what the
// answer is.
func validHeader(h http.Header) bool {
	for name, values := range h {
		if !httpguts.ValidHeaderFieldName(name) {
			return false
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return false
			}
		}
	}
	return true
}

// readContentRange reads a Content-Range of one range whose whole is known (RFC
// 9110 §14.4).
func readContentRange(lines []string) (Span, bool) {
	if len(lines) != 1 {
		return Span{}, false
	}
	rest, ok := strings.CutPrefix(lines[0], "bytes ")
	from, rest, ok1 := strings.Cut(rest, "-")
	to, of, ok2 := strings.Cut(rest, "/")
	a, err1 := strconv.ParseUint(from, 10, 62)
	b, err2 := strconv.ParseUint(to, 10, 62)
	n, err3 := strconv.ParseUint(of, 10, 62)
	if !ok || !ok1 || !ok2 || err1 != nil || err2 != nil || err3 != nil || a > b || b >= n {
		return Span{}, false
	}
	return Span{int64(a), int64(b) + 1, int64(n)}, true
}

// extensions are those of files that are the same for everybody, with what the
// media type of one must begin with or hold.
var extensions = map[string]string{
	".css": "css", ".js": "script", ".mjs": "script", ".map": "json", ".json": "json", ".xml": "xml", ".txt": "text/plain", ".csv": "csv",
	".png": "image/", ".jpg": "image/", ".jpeg": "image/", ".gif": "image/", ".webp": "image/", ".avif": "image/", ".svg": "image/", ".ico": "image/", ".bmp": "image/",
	".woff": "font", ".woff2": "font", ".ttf": "font", ".otf": "font", ".eot": "font",
	".mp3": "audio/", ".ogg": "ogg", ".wav": "audio/", ".mp4": "video/", ".webm": "webm", ".pdf": "pdf", ".wasm": "wasm", ".zip": "zip", ".gz": "gz",
}

// fitting reports whether an answer's type goes with the extension of its path:
// an answer of bytes of no type does with any but those of texts.
func fitting(of string, h http.Header) bool {
	want, known := extensions[strings.ToLower(path.Ext(of))]
	kind := mediaType(h)
	return !known || strings.Contains(kind, want) || kind == "application/octet-stream" ||
		want == "script" && strings.Contains(kind, "ecmascript")
}

// mediaType is the type of an answer's body, without parameters, in lower case.
func mediaType(h http.Header) string {
	kind, _, _ := strings.Cut(first(h, "Content-Type"), ";")
	return strings.ToLower(strings.Trim(kind, " \t"))
}
