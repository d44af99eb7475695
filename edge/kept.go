package edge

import (
	"fmt"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"causeway/cache"
	"causeway/config"
	"causeway/hop"
)

// What the cache has costs little to find; most of a request's path is for what
// crosses. So a request that crosses as it came (hop.Ordinary) is looked up before
// it is made ready for that:
//
//  1. kept asks the cache for what it may give without asking anybody; nil, and
//     the request takes the usual way, as if nothing had been,
//  2. on plain HTTP, and over HTTP/2, answerAhead does so before net/http's server
//     has heard of the request (hop.Ahead), and writes the answer itself.

// kept is the answer that the cache has, nil when it has none that it may give as it
// is, or the request is not for it. with is what the cache is asked with.
func (x *exchange) kept(with *query) *http.Response {
	r := x.r
	ahead := with.lines != nil // hop.Ahead hands on ordinary requests alone
	if x.keeps == nil || !ahead && (r.Method != http.MethodGet && r.Method != http.MethodHead || r.ContentLength != 0 || len(r.TransferEncoding) > 0 || !ordinary(r.Header)) {
		return nil
	}
	if x.site.TLS != nil && x.site.TLS.Clients != nil {
		return nil // the certificate is a field of the request that crosses
	}
	route := x.site.Route(r.Method, r.URL.Path)
	policy := x.site.Caching(route)
	if route != nil && route.Stay != "" || policy.Off {
		return nil
	}
	host := config.Authority(r.Host)
	hop.SetTargetURL(&with.target, r.RequestURI, r.URL, x.rec.Scheme, host)
	with.request = http.Request{
		Method: r.Method, URL: &with.target, Host: host, Header: r.Header,
		Proto: r.Proto, ProtoMajor: r.ProtoMajor, ProtoMinor: r.ProtoMinor,
	}
	res := x.keeps.Kept(&with.request, policy, hop.Ordinary, &with.trace, with.lines)
	if res == nil {
		return nil
	}
	x.rec.Cache, x.rec.CacheTier, x.rec.CacheWhy = string(with.trace.Result), with.trace.Tier, with.trace.Reason
	x.rec.Answered = time.Since(x.rec.Start)
	return res
}

// query is what the cache is asked with, for as long as its answer is in use.
type query struct {
	request http.Request
	target  url.URL
	trace   cache.Trace
	lines   *cache.Lines // for cache.Transport.Kept; not nil ahead of the server
}

// ordinary reports whether all fields of a request cross as they came.
func ordinary(h http.Header) bool {
	for name, values := range h {
		if !hop.Ordinary(name) && (name != "Connection" || len(values) != 1 || !strings.EqualFold(values[0], "keep-alive")) {
			return false
		}
	}
	return true
}

// Ahead is what the server of a listener, of TLS or plain, needs to have what is kept
// answered before it.
func (s *Server) Ahead(limits config.Limits, secure bool) *hop.Ahead {
	return &hop.Ahead{
		Answer: func(asked *hop.Asked) bool { return s.answerAhead(asked, secure) },
		Idle:   limits.IdleTimeout, Header: limits.HeaderTimeout, Send: limits.SendTimeout,
		Failed: func(failure any) {
			s.options.Log.Error("handler failed", "event", fmt.Sprintf("%v\n%s", failure, debug.Stack()))
		},
	}
}

// mostAhead is the longest body that is answered ahead; of longer ones what net/http
// costs is a small part, and the crossing of a slow client is its own affair.
const mostAhead = 1 << 20

// answerAhead is the path of a request that the cache can answer: steps 1, 2, 5 and 6
// of serve. It gives false for any other, of which nothing has been noted.
func (s *Server) answerAhead(asked *hop.Asked, secure bool) bool {
	s.serving.Add(1)
	defer s.serving.Add(-1)
	r := &asked.Request
	now := s.now.Load()
	if now.keeps == nil {
		return false
	}
	site, ok := now.Config.Lookup(r.Host)
	if !ok || !secure && site.HTTP != config.HTTPServe || site.Pending.On || strings.HasPrefix(r.URL.Path, challengePath) {
		return false // what admit would answer itself, perhaps after asking others
	}
	g := givings.Get().(*giving)
	defer g.free()
	x := &g.exchange
	x.Crossing, x.server, x.w, x.r = now, s, &g.refused, r
	x.open(secure)
	if !x.admit(secure) {
		return false
	}
	g.query.lines = &g.lines
	res := x.kept(&g.query)
	if res == nil {
		return false
	}
	defer res.Body.Close()
	body, ok := wholeOf(res)
	if !ok {
		return false
	}
	header, ok := g.header(res)
	if !ok {
		return false
	}
	n, err := asked.Write(header, body)
	if err == hop.ErrNotNow {
		return false
	}
	x.rec.BytesOut = n
	if err != nil {
		x.rec.Abort(named(&hop.CopyError{FromClient: true, Err: err}))
	}
	x.rec.Total = time.Since(x.rec.Start)
	s.options.Sink.Emit(&x.rec)
	return true
}

// giving is an exchange that ends ahead of the server, with what it needs.
type giving struct {
	exchange
	refused unwritten
	query   query
	lines   cache.Lines
	own     http.Header // what the edge puts beside lines
	buffer  []byte      // of the answer's header, and of a short body behind it
}

var givings = sync.Pool{New: func() any { return &giving{own: http.Header{}, buffer: make([]byte, 0, 1<<10)} }}

// free gives g back.
func (g *giving) free() {
	clear(g.own)
	*g = giving{own: g.own, buffer: g.buffer[:0]}
	if cap(g.buffer) <= 8<<10 {
		givings.Put(g)
	}
}

// header is the answer's as it is sent, with the fields that are the edge's; false
// when net/http's server would have changed it.
func (g *giving) header(res *http.Response) ([]byte, bool) {
	b := append(g.buffer, "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(res.StatusCode), 10)
	b = append(b, ' ')
	b = append(b, http.StatusText(res.StatusCode)...)
	b = append(b, "\r\n"...)
	if g.lines.Fixed == nil {
		g.dress(res)
		return appendFields(b, res.Header)
	}
	res.Header = g.own
	g.dress(res)
	b = append(b, g.lines.Fixed...)
	b = strconv.AppendInt(append(b, "Content-Length: "...), res.ContentLength, 10)
	b = append(append(b, "\r\nAge: "...), g.lines.Age...)
	b = append(append(b, "\r\nCache-Status: "...), g.lines.Status...)
	for name, values := range g.own {
		if !cache.Apart(name) || len(values) != 1 || strings.ContainsAny(values[0], "\r\n") {
			return nil, false // the answer may have another
		}
		b = append(append(append(append(b, "\r\n"...), name...), ": "...), values[0]...)
	}
	b = append(b, "\r\n\r\n"...)
	g.buffer = b
	return b, true
}

// unwritten is the http.ResponseWriter of a request whose refusal is another's to
// write.
type unwritten struct{ header http.Header }

func (w *unwritten) Header() http.Header {
	if w.header == nil {
		w.header = http.Header{}
	}
	return w.header
}
func (w *unwritten) Write(p []byte) (int, error) { return len(p), nil }
func (w *unwritten) WriteHeader(int)             {}

// wholeOf is the body of an answer, if it is at hand, whole and not too long.
func wholeOf(res *http.Response) ([]byte, bool) {
	switch res.StatusCode { // those whose message is framed by its length alone
	case http.StatusOK, http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect,
		http.StatusNotModified, http.StatusNotFound, http.StatusGone:
	default:
		return nil, false
	}
	if res.Body == http.NoBody {
		return nil, true
	}
	if res.ContentLength < 0 || res.ContentLength > mostAhead {
		return nil, false
	}
	in, ok := res.Body.(interface{ Bytes() []byte })
	if !ok {
		return nil, false
	}
	body := in.Bytes()
	return body, int64(len(body)) == res.ContentLength
}

// appendFields appends a header as net/http's server writes it, in the order of the
// names; false for one that it would have changed.
func appendFields(b []byte, h http.Header) ([]byte, bool) {
	hop.RemoveHopByHop(h)
	var room [32]string
	names := room[:0]
	for name := range h {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, value := range h[name] {
			if strings.ContainsAny(value, "\r\n") {
				return nil, false
			}
			b = append(append(append(append(b, name...), ": "...), value...), "\r\n"...)
		}
	}
	if len(h["Date"]) == 0 {
		b = append(b, "Date: "...)
		b = time.Now().UTC().AppendFormat(b, http.TimeFormat)
		b = append(b, "\r\n"...)
	}
	return append(b, "\r\n"...), true
}
