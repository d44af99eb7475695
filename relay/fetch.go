package relay

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"causeway/config"
	"causeway/hop"
	"causeway/link"
	"causeway/outcome"
	"causeway/rewrite"
)

// RoundTrip fetches what req, a request to a public host, asks for, and gives
// the response with every name of the origin turned into its public one. The
// caller owns req.Header no longer. Failures are *outcome.Error.
func (s *Server) RoundTrip(req *http.Request) (*http.Response, error) {
	res, _, err := s.fetch(req, false)
	return res, err
}

// fetch is RoundTrip, and gives the map that the request came under, nil for
// what this node answered itself. Uncoded leaves texts without the coding that
// their header names (crossing.go).
func (s *Server) fetch(req *http.Request, uncoded bool) (*http.Response, *rewrite.Map, error) {
	now := s.state.Load()
	site, ok := now.config.Lookup(req.Host)
	if !ok {
		return nil, nil, outcome.Errorf(outcome.HostUnknown, "find a site for host %q: none in %s", req.Host, now.config.Path)
	}
	if res := site.Map.Own(req, hasRuntime(site)); res != nil {
		return res, nil, nil
	}
	f := &fetch{site: site, origin: now.sites[site], limits: &now.config.Limits, start: time.Now(), uncoded: uncoded}
	if err := f.aim(req, s.options.Local); err != nil {
		return nil, nil, err
	}
	res, err := f.run(req)
	return res, f.names, err
}

// hasRuntime reports whether pages of the site get the script of the rule
// runtime.
func hasRuntime(site *config.Site) bool {
	return site.Rewrite.Runtime || slices.ContainsFunc(site.Routes, func(route config.Route) bool {
		return route.Rewrite != nil && route.Rewrite.Runtime
	})
}

// fetch is one request on its way to the origin and back.
type fetch struct {
	site   *config.Site
	origin *origin
	limits *config.Limits
	start  time.Time

	target  rewrite.Base // where it goes
	third   bool         // that is a third party
	names   *rewrite.Map // what is mapped
	accept  string       // the client's Accept-Encoding
	uncoded bool         // texts leave without the coding that their header names
	upgrade string       // the protocols it asks to switch to, "" for none

	out       *http.Request            // what the origin is asked
	early     hop.EarlyFunc            // takes the origin's 1xx
	connected time.Duration            // written by the trace before the round trip returns
	conn      atomic.Pointer[net.Conn] // the origin connection in use
}

// aim decides where the request goes: the origin of its route, or the one that
// its public host is mapped to.
func (f *fetch) aim(req *http.Request, local bool) error {
	route := f.site.Route(req.Method, req.URL.Path)
	f.names = f.site.Names(route, req.URL.Path, req.URL.RawQuery)
	if route == nil || route.Origin == nil {
		target, ok := f.site.Map.OriginOf(req.Host)
		if !ok {
			return outcome.Errorf(outcome.HostUnknown, "find the origin of host %q: not in site %s", req.Host, f.site.Name)
		}
		f.target, f.third = target, f.site.ThirdParty(target)
		return nil
	}
	if route.Stay != "" && !local {
		return outcome.Errorf(outcome.Stays, "fetch %s: route %s of site %s stays in %s and must not cross", req.URL.Path, route.Path, f.site.Name, route.Stay)
	}
	f.target = *route.Origin
	f.names = f.origin.routeMap(f.names, route, req.Host)
	return nil
}

// run maps the request, sends it, and maps the response.
func (f *fetch) run(req *http.Request) (*http.Response, error) {
	f.early = hop.EarlyOf(req.Context())
	out := f.outgoing(req.WithContext(httptrace.WithClientTrace(req.Context(),
		&httptrace.ClientTrace{GotConn: f.gotConn, Got1xxResponse: f.got1xx})))
	f.out = out
	f.names.Request(out)
	hop.RemoveOwn(out.Header)
	if f.third {
		toThirdParty(out.Header)
	}
	res, err := f.send(out)
	if err != nil {
		return nil, f.named(out.Context(), err)
	}
	hop.RemoveOwn(res.Header)
	if f.third {
		fromThirdParty(res.Header)
	}
	if !hop.ValidStatus(res.StatusCode) {
		res.Body.Close()
		return nil, outcome.Errorf(outcome.OriginBad, "fetch from origin %s: status %d", f.target, res.StatusCode)
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		if protocol := hop.UpgradeOf(res.Header); !f.asked(protocol) {
			res.Body.Close()
			return nil, outcome.Errorf(outcome.OriginBad, "fetch from origin %s: it switched to protocol %q, asked for was %q", f.target, protocol, f.upgrade)
		}
		f.names.Header(res.Header)
		hop.SetLegs(res.Header, f.connected, time.Since(f.start))
		res.Body = f.switched(out.Header, res)
		return res, nil
	}
	res.Request = out
	f.mapResponse(res)
	res.Body = &mapped{res.Body}
	hop.SetLegs(res.Header, f.connected, time.Since(f.start))
	return res, nil
}

// mapResponse maps the header and the body of res. A 206 that came this far is
// no text, or one that is whole for itself (part.go).
func (f *fetch) mapResponse(res *http.Response) {
	status := res.StatusCode
	if status == http.StatusPartialContent {
		res.StatusCode = http.StatusOK
	}
	f.names.Response(res, rewrite.Options{AcceptEncoding: f.accept, Uncoded: f.uncoded})
	res.StatusCode = status
}

// asked reports whether the request asked for protocol: an origin may switch to
// no other (RFC 9110 §7.8), and a client that did not ask would take what
// follows for the answers to its next requests.
func (f *fetch) asked(protocol string) bool {
	for name := range strings.SplitSeq(f.upgrade, ",") {
		if protocol != "" && strings.EqualFold(strings.TrimSpace(name), protocol) {
			return true
		}
	}
	return false
}

// gotConn is the trace's: the round trip waits for it.
func (f *fetch) gotConn(info httptrace.GotConnInfo) {
	f.conn.Store(&info.Conn)
	if !info.Reused {
		f.connected = time.Since(f.start)
	}
}

// got1xx passes an informational response on.
func (f *fetch) got1xx(status int, h textproto.MIMEHeader) error {
	if f.third {
		fromThirdParty(http.Header(h))
	}
	f.names.Early(http.Header(h), f.out)
	f.early(status, http.Header(h))
	return nil
}

// breaker is what ends a read of res.Body that takes too long: the connection's
// end, or the stream's where others share the connection.
func (f *fetch) breaker(res *http.Response) func() error {
	if conn := f.conn.Load(); conn != nil && res.ProtoMajor == 1 {
		return (*conn).Close
	}
	return res.Body.Close
}

// outgoing makes out, a copy of the request, the one to the origin, before its
// names are mapped.
func (f *fetch) outgoing(out *http.Request) *http.Request {
	url := *out.URL
	url.Scheme, url.Host = f.target.Scheme, f.target.Authority()
	out.URL, out.Host = &url, url.Host
	if out.Header == nil {
		out.Header = make(http.Header)
	}
	f.upgrade = hop.UpgradeOf(out.Header)
	f.accept = out.Header.Get("Accept-Encoding")
	if codings := rewrite.Codings(f.accept); codings != "" {
		out.Header["Accept-Encoding"] = []string{codings}
	} else {
		delete(out.Header, "Accept-Encoding")
	}
	for _, field := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		if values, named := out.Header[field]; named { // net/http would send an order twice that has one
			delete(out.Header, field)
			out.Header[strings.ToLower(field)] = values
		}
	}
	if out.Body != nil && out.Body != http.NoBody {
		body := &replayable{src: out.Body}
		out.Body = body.reader()
		out.GetBody = body.again
	}
	return out
}

// send gets the answer. A part of a text that is rewritten (part.go) is asked
// for again without Range, for the whole; where that is no help, or may not be,
// the answer can't be used.
func (f *fetch) send(out *http.Request) (*http.Response, error) {
	for {
		res, err := f.try(out)
		if err != nil {
			return nil, err
		}
		asked := out.Header.Get("Range") != ""
		if asked && res.StatusCode == http.StatusRequestedRangeNotSatisfiable {
			return f.beyond(out, res), nil
		}
		if !partOfText(f.names, res, asked) {
			return res, nil
		}
		res.Body.Close()
		if !asked || !link.Repeatable(out) {
			return nil, outcome.Errorf(outcome.OriginBad, "it gave a part (206) of a text to a %s for the whole, and names can't be mapped in a part", out.Method)
		}
		out.Header.Del("Range")
		out.Header.Del("If-Range")
	}
}

// beyond is what answers a request whose range lies beyond the origin's end, as
// res (416) says. The text that the visitor knows may be longer, and its length
// is another: the whole answers in its place, as for every range of a text. Of
// what type the whole is only the whole says, the 416 has that of an error page.
func (f *fetch) beyond(out *http.Request, res *http.Response) *http.Response {
	if !strings.HasPrefix(out.Header.Get("Range"), "bytes=") || !f.names.Rewritable(res.Header) {
		return res
	}
	if link.Repeatable(out) {
		out.Header.Del("Range")
		out.Header.Del("If-Range")
		whole, err := f.try(out)
		switch {
		case err != nil:
		case whole.StatusCode == http.StatusOK && f.names.Rewritable(whole.Header):
			res.Body.Close()
			return whole
		default:
			whole.Body.Close()
			if whole.StatusCode == http.StatusOK {
				return res
			}
		}
	}
	res.Header.Del("Content-Range")
	return res
}

// try does the round trips: usually one; a second when the origin dropped a
// request that may be repeated.
func (f *fetch) try(out *http.Request) (*http.Response, error) {
	res, err := f.origin.send(out, hostPort(f.target), f.upgrade != "")
	if err != nil && out.Context().Err() == nil {
		switch kind := f.kind(err); {
		case kind == outcome.OriginCut && link.Repeatable(out):
			f.blame()
			res, err = f.origin.send(out, hostPort(f.target), f.upgrade != "")
		case kind == outcome.OriginCut || kind == outcome.OriginSlow || kind == outcome.OriginBad:
			f.blame() // any other is the client's: its body was too large, too slow, or none
		}
	}
	if err != nil || res.StatusCode == http.StatusSwitchingProtocols {
		return res, err
	}
	idle := f.limits.OriginIdleTimeout
	if hop.IsEventStream(res.Header) {
		idle = f.limits.StreamTimeout
	}
	res.Body = &watched{hop.Watched{ReadCloser: res.Body, Idle: idle, End: f.breaker(res)}}
	return res, nil
}

// blame tells the dialer that the address in use failed.
func (f *fetch) blame() {
	if conn := f.conn.Load(); conn != nil {
		f.origin.dialer.failed((*conn).RemoteAddr().String())
		f.origin.closeIdle()
	}
}

// named gives err its kind and its subject.
func (f *fetch) named(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return outcome.Errorf(outcome.KindOf(cause), "fetch from origin %s: %w", f.target, cause)
	}
	kind := f.kind(err)
	if kind == outcome.OriginBad {
		err = unquoted{err}
	}
	return outcome.Errorf(kind, "fetch from origin %s: %w", f.target, err)
}

// kind classifies an error of a round trip.
func (f *fetch) kind(err error) outcome.Kind {
	var known *outcome.Error
	if errors.As(err, &known) {
		return known.Kind
	}
	var timeout net.Error
	if errors.Is(err, os.ErrDeadlineExceeded) || (errors.As(err, &timeout) && timeout.Timeout()) {
		return outcome.OriginSlow
	}
	if isCut(err) {
		return outcome.OriginCut
	}
	return outcome.OriginBad
}
