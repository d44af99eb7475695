package cache

import (
	"net/http"
	"slices"
	"strings"
)

// A request, as it is read:
//
//  1. read takes the policy, and says why the request passes by, if it does,
//  2. what it says of caches, and its key,
//  3. sent is the request as it goes on to be answered for everybody.
//
// Nothing that is not in the key, and by which a client could have another page
// made for everybody, goes on with a request that is looked up. A field of one is
//
//   - known (known): read here or made by the edge, or of those that browsers send of
//     themselves to every site, each visitor another, by which an origin chooses with
//     Vary or not at all; or of those that number requests;
//   - dropped: one that says of the request what it is not (poisonous), or that the owner
//     says does not matter (Policy.IgnoreHeaders);
//   - or else in the key by itself (Counts).

// ask is one request.
type ask struct {
	t      *Transport
	c      *Cache
	req    *http.Request
	trace  *Trace
	policy *Policy
	said   func(name string) bool // of which fields req has what is sent; nil is all
	lines  *Lines                 // where the header may go; nil is nowhere

	control directives
	head    bool
	asks    bool   // nobody is given the answer: nothing is made for it
	url     string // as the policy sees it; made when it is needed
	key     Key
	ranged  *ranged // nil for all of it
	coded   bool    // accept was read
	accept  codings
	status  status // for Cache-Status

	values [3]string // of fields of the answer, so that each needs no array of its own
}

// read notes what the request asks for under its policy, and why it passes by: ""
// when it is looked up.
func (a *ask) read() Reason {
	req := a.req
	if a.policy.Off {
		return whyOff
	}
	switch req.Method {
	case http.MethodGet, "":
	case http.MethodHead:
		a.head = true
	default:
		return whyMethod
	}
	reason, strange := passes(req)
	if reason != "" {
		return reason
	}
	if len(a.policy.BypassCookies) > 0 && a.bypassed() {
		return whyBypassCookie
	}
	a.control = requestControl(req.Header)
	var room [512]byte
	at := appendURL(room[:0], req, a.policy)
	var names [16]string
	strangers := names[:0]
	if strange {
		strangers = a.policy.strangers(req.Header, strangers)
	}
	a.key = keyOf(req, a.policy, at, strangers)
	a.status.rules = a.policy.rules(req)
	if a.policy.ShowKey {
		a.status.key = a.shownKey(string(at))
	}
	if ranges := req.Header["Range"]; len(ranges) > 0 && !a.head { // of GET alone (RFC 9110 §14.2)
		a.ranged = readRange(ranges)
	}
	return ""
}

// shownKey is the key in words: the URL as the policy sees it, and the fields and
// cookies that it has count.
func (a *ask) shownKey(at string) string {
	for _, name := range a.policy.KeyHeaders {
		at += " " + name + "=" + selectorValue(a.req.Header, name)
	}
	for _, name := range a.policy.strangers(a.req.Header, nil) {
		at += " " + name + "=" + strings.Join(a.req.Header[name], ", ")
	}
	for _, name := range a.policy.KeyCookies {
		if value, ok := cookie(a.req.Header, name); ok {
			at += " cookie " + name + "=" + value
		}
	}
	return at
}

// rules names what the policy has for the key, in place of the URL.
func (p *Policy) rules(req *http.Request) string {
	rules := ""
	if p.Query.drops(req.URL) {
		rules = p.Query.rule()
	}
	if len(p.IgnoreHeaders) > 0 && p.ignoresOneOf(req.Header) {
		rules = joined(rules, "ignore_headers")
	}
	if len(p.KeyHeaders) > 0 {
		rules = joined(rules, "key_headers")
	}
	if len(p.KeyCookies) > 0 {
		rules = joined(rules, "key_cookies")
	}
	return rules
}

// passes says why a GET or HEAD is not looked up, whatever the policy; strange is that it
// has fields that are not known.
func passes(req *http.Request) (reason Reason, strange bool) {
	if req.Body != nil && req.Body != http.NoBody || req.ContentLength != 0 || len(req.TransferEncoding) > 0 {
		return whyBody, false // a fat GET: the body is not in the key
	}
	for name, values := range req.Header {
		switch kindOf(name) {
		case loop:
			strange = strange || len(values) > 1
		case upgrade:
			return whyUpgrade, false
		case precondition:
			return whyPrecondition, false // the origin's alone to evaluate (RFC 9111 §4.3.2)
		case stranger:
			if overrides(name) {
				return whyOverride, false
			}
			strange = true
		}
	}
	return "", strange
}

// bypassed reports whether the request has a cookie of Policy.BypassCookies.
func (a *ask) bypassed() bool {
	for pair := range cookies(a.req.Header) {
		name, _, _ := strings.Cut(pair, "=")
		if named(a.policy.BypassCookies, cookieName(name)) {
			return true
		}
	}
	return false
}

// at is the URL as the policy sees it.
func (a *ask) at() string {
	if a.url == "" {
		a.url = URL(a.req, a.policy)
	}
	return a.url
}

// takes is what the client's Accept-Encoding says.
func (a *ask) takes() *codings {
	if !a.coded {
		a.accept, a.coded = readCodings(a.req.Header["Accept-Encoding"]), true
	}
	return &a.accept
}

// overridden are the fields that ask for another method than the request's.
var overridden = map[string]bool{
	"X-Http-Method-Override": true,
	"X-Http-Method":          true,
	"X-Method-Override":      true,
}

func overrides(name string) bool {
	return len(name) >= len("X-Http-Method") && name[0] == 'X' && overridden[dashed(name)]
}

// kind is what the cache knows of a request field.
type kind int

const (
	stranger     kind = iota
	common            // in no key by itself, and reaches the origin all the same
	precondition      // has the request pass by, as the next
	upgrade
	loop // the edge's own, which it adds to those that there are
)

func known(name string) bool { return kindOf(name) != stranger }

// kindOf is the kind of a field, by its canonical name. Of those that browsers send of
// themselves, these are not among the common ones, as an origin that answers by one
// without Vary is common, and they have few values: X-Requested-With (a part of a page in
// place of it), Purpose and Sec-Purpose (less, or nothing, for what may never be looked
// at), Service-Worker-Navigation-Preload, and Content-Type, which says nothing of a GET,
// but has some origins fail. The others would leave nothing to share: they have another
// value for each visitor. Origin has a rule of its own (vary.go).
func kindOf(name string) kind {
	switch name {
	case "Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "Authorization", "Cookie", "From", "Origin", "Referer", "User-Agent",
		"Dnt", "Save-Data", "Upgrade-Insecure-Requests", "Priority", "Alt-Used":
		return common
	case "Device-Memory", "Dpr", "Downlink", "Ect", "Rtt", "Viewport-Width", "Width": // client hints by their old names
		return common
	case "Available-Dictionary", "Dictionary-Id": // no fetch for everybody asks for what is made with one (RFC 9842)
		return common
	case "Q-Ua", "Q-Ua2", "Q-Guid", "Q-Qimei", "Q-Qimei36", "Q-Auth", "X-Playback-Session-Id": // the device, by the browser of QQ and WeChat; Apple's players
		return common
	case "Cache-Control", "Pragma", "If-None-Match", "If-Modified-Since", "If-Range", "Range": // read here
		return common
	case "Host", "Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Content-Length", "Proxy-Authorization": // of one connection or message
		return common
	case "Cdn-Loop":
		return loop
	case "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-Ip", "X-Request-Id", "Client-Cert": // made by the edge
		return common
	case "Traceparent", "Tracestate", "Request-Id", "X-Correlation-Id", "X-Trace-Id", "Sentry-Trace", "B3", "X-B3-Traceid", "X-B3-Spanid", "X-B3-Parentspanid",
		"X-B3-Sampled", "Uber-Trace-Id", "Newrelic", "Elastic-Apm-Traceparent", "Sw8", "Eagleeye-Traceid", "Eagleid", "X-Datadog-Trace-Id", "X-Datadog-Parent-Id",
		"X-Datadog-Sampling-Priority", "X-Datadog-Origin", "X-Amzn-Trace-Id", "X-Cloud-Trace-Context", "X-Amz-Cf-Id", "X-Azure-Ref", "Cf-Ray": // numbers of requests
		return common
	case "If-Match", "If-Unmodified-Since":
		return precondition
	case "Upgrade":
		return upgrade
	}
	if strings.HasPrefix(name, "Sec-") && name != "Sec-Purpose" { // no script may set one (Fetch §2.2.2)
		return common
	}
	return stranger
}

// Counts reports whether a request field, by its canonical name, is part of the key by
// itself.
func Counts(name string) bool { return !known(name) && !unkeyed(name) && !overrides(name) }

// strangers appends the names of the fields that count by themselves, sorted, to list.
func (p *Policy) strangers(h http.Header, list []string) []string {
	for name, values := range h {
		k := kindOf(name)
		if (k == stranger || k == loop && len(values) > 1) && !unkeyed(name) && !slices.Contains(p.KeyHeaders, name) && !named(p.IgnoreHeaders, name) {
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return list
}

// ignores reports whether a field that would count does not matter to the owner.
func (p *Policy) ignores(name string) bool {
	return len(p.IgnoreHeaders) > 0 && !known(name) && named(p.IgnoreHeaders, name)
}

func (p *Policy) ignoresOneOf(h http.Header) bool {
	for name := range h {
		if p.ignores(name) && !unkeyed(name) {
			return true
		}
	}
	return false
}

// poisonous are the fields by which origins commonly make another answer, and
// that no key has: another host, another path, another scheme, another version (Baggage,
// W3C, by which meshes choose where to send a request: no fetch for everybody is the
// visitor's own). Those that the edge makes itself, Forwarded and X-Forwarded-For, -Host
// and -Proto, are true.
var poisonous = map[string]bool{
	"Baggage":                    true,
	"X-Forwarded-Base":           true,
	"X-Forwarded-By":             true,
	"X-Forwarded-Path":           true,
	"X-Forwarded-Port":           true,
	"X-Forwarded-Prefix":         true,
	"X-Forwarded-Scheme":         true,
	"X-Forwarded-Script-Name":    true,
	"X-Forwarded-Server":         true,
	"X-Forwarded-Ssl":            true,
	"X-Forwarded-Uri":            true,
	"X-Forwarded-Url":            true,
	"X-Forward-Host":             true,
	"X-Host":                     true,
	"X-Http-Host-Override":       true,
	"X-Original-Host":            true,
	"X-Original-Uri":             true,
	"X-Original-Url":             true, // IIS, Symfony
	"X-Rewrite-Uri":              true,
	"X-Rewrite-Url":              true,
	"X-Override-Url":             true,
	"X-Request-Uri":              true,
	"X-Proxy-Url":                true,
	"X-Wap-Profile":              true,
	"X-Scheme":                   true,
	"X-Url-Scheme":               true,
	"Front-End-Https":            true,
	"Proxy":                      true, // httpoxy
	"Base-Url":                   true,
	"Http-Host":                  true,
	"Cf-Visitor":                 true, // Cloudflare
	"Cloudfront-Forwarded-Proto": true,
	"Forwarded-Host":             true,
	"Host-Override":              true,
	"Path-Info":                  true, // CGI, as the next
	"Script-Name":                true,
	"Request-Uri":                true,
	"X-Arr-Ssl":                  true, // IIS
	"X-Backend-Host":             true,
	"X-Envoy-Original-Host":      true,
	"X-Forward-Proto":            true,
	"X-Forwarded":                true,
	"X-Forwarded-Context":        true,
	"X-Forwarded-Protocol":       true, // Gunicorn
	"X-Host-Override":            true,
	"X-Http-Destinationurl":      true,
	"X-Ms-Original-Url":          true, // Azure
	"X-Original-Method":          true,
	"X-Proxycontextpath":         true, // Spring
	"X-Proxyhost":                true,
	"X-Script-Name":              true,
	"X-Url":                      true,
	"Destination":                true, // of WebDAV: of no use to a GET

	// What the parts of Next.js say among themselves: CVE-2023-46298, CVE-2025-29927.
	"X-Invoke-Error":          true,
	"X-Invoke-Output":         true,
	"X-Invoke-Path":           true,
	"X-Invoke-Query":          true,
	"X-Invoke-Status":         true,
	"X-Middleware-Invoke":     true,
	"X-Middleware-Prefetch":   true,
	"X-Middleware-Subrequest": true,
	"X-Now-Route-Matches":     true,

	// What a web server says to what is behind it: Rack (CVE-2025-61780), Envoy.
	"X-Accel-Mapping":               true,
	"X-Envoy-Original-Path":         true,
	"X-Sendfile-Type":               true,
	"X-Original-Forwarded-Host":     true,
	"X-Forwarded-Method":            true,
	"X-Original-Path":               true,
	"X-Original-Request-Uri":        true,
	"X-Ms-Original-Path":            true,
	"X-Http-Path-Override":          true,
	"X-Forwarded-Pathname":          true,
	"X-Hostname":                    true,
	"X-Matched-Path":                true,
	"X-Sveltekit-Pathname":          true,
	"X-React-Router-Prerender-Data": true,
	"X-React-Router-Spa-Mode":       true,
}

// unkeyed reports whether a field is dropped from requests that are looked up.
func unkeyed(name string) bool { return poisonous[dashed(name)] }

// dashed is a field name as origins behind CGI see it: _ is -.
func dashed(name string) string {
	if strings.IndexByte(name, '_') < 0 {
		return name
	}
	return http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
}

// safe are the methods that change nothing (RFC 9110 §9.2.1, and the IANA
// registry of methods).
func safe(method string) bool {
	switch method {
	case "", http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, "PROPFIND", "REPORT", "SEARCH", "QUERY", "PRI":
		return true
	}
	return false
}

// sent is the request as it goes on, less its context: for everybody, so without
// conditions of its own. own says that the answer is only for who asks for the
// same codings, and the codings are the client's.
func (a *ask) sent(own bool) *http.Request {
	out := *a.req
	out.Header = make(http.Header, len(a.req.Header)+3)
	for name, values := range a.req.Header {
		switch name {
		case "If-None-Match", "If-Modified-Since", "If-Range", "Range", "Accept-Encoding":
		default:
			if !unkeyed(name) && !a.policy.ignores(name) {
				out.Header[name] = values
			}
		}
	}
	if !own {
		out.Header["Accept-Encoding"] = []string{AcceptEncoding}
	} else if accept := a.req.Header["Accept-Encoding"]; len(accept) > 0 {
		out.Header["Accept-Encoding"] = accept
	}
	if !a.policy.Query.all() {
		u := *a.req.URL
		var has bool
		u.RawQuery, has = a.policy.Query.of(a.req.URL)
		u.ForceQuery = has && u.RawQuery == ""
		out.URL = &u
	}
	return &out
}
