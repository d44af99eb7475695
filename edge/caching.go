package edge

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"causeway/cache"
	"causeway/config"
	"causeway/hop"
	"causeway/link"
	"causeway/outcome"
	"causeway/rewrite"
)

// A request that may be answered by the cache:
//
//  1. cached says whether it may: what stays and what is upgraded goes straight
//     over, and changed has the cache forget what it changed,
//  2. cache.Transport looks it up; a hit ends there,
//  3. what it must fetch, for this request, for several, or to have it fresh, goes
//     through fetching: over the link, as any request,
//  4. look notes what became of it, also for the page of a failure. What crossed is
//     counted where it is fetched, as that need not be for one request.

// asking is what fetching must know of the exchange that a fetch began with. The
// fetch may outlive that.
type asking struct {
	x       *exchange
	early   *hop.Early   // takes no more once the exchange has its answer
	crossed atomic.Int64 // body bytes that came over the link

	unmapped atomic.Pointer[string] // outcome.Record's, of the relay in this process, when the body has come
}

// askingKey is the context key of an *asking.
type askingKey struct{}

// cached is the way through the cache, nil when the request takes another.
func (x *exchange) cached() *cache.Transport {
	if hop.UpgradeOf(x.out.Header) != "" {
		return nil
	}
	return x.keeps
}

// policyOf is cache.Transport.Policy.
func policyOf(req *http.Request) *cache.Policy {
	ask, ok := req.Context().Value(askingKey{}).(*asking)
	if !ok {
		return &cache.Policy{Off: true}
	}
	site := ask.x.site
	return site.Caching(site.Route(req.Method, req.URL.Path))
}

// look asks the cache.
func (x *exchange) look(ctx context.Context, keeps *cache.Transport, early *hop.Early) (*http.Response, error) {
	var trace cache.Trace
	x.asked = &asking{x: x, early: early}
	res, err := keeps.RoundTrip(x.out.WithContext(cache.WithTrace(context.WithValue(ctx, askingKey{}, x.asked), &trace)))
	x.cacheStatus = trace.Status
	x.rec.Cache, x.rec.CacheTier = string(trace.Result), trace.Tier
	if x.rec.CacheWhy = trace.Reason; trace.Result == cache.Uncacheable {
		x.rec.CacheWhy = trace.Kept
	}
	return res, err
}

// changed has the cache forget what a request changed that did not go through it: what is
// kept of its URL may be another route's.
func (x *exchange) changed(res *http.Response) {
	x.keeps.Changed(x.out.WithContext(context.WithValue(x.r.Context(), askingKey{}, &asking{x: x})), res)
}

// Explain says what the cache does with r, a request as a visitor would send it,
// and why. It asks the other side where it must.
func (s *Server) Explain(ctx context.Context, r *http.Request) ([]cache.Step, error) {
	x := &exchange{Crossing: s.now.Load(), server: s, r: r}
	x.open(r.URL.Scheme == "https")
	site, ok := x.Config.Lookup(r.Host)
	if !ok {
		return nil, fmt.Errorf("no site has the host %s", r.Host)
	}
	x.site = site
	var dropped []cache.Step
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if isClaim(name) {
			dropped = append(dropped, cache.Step{About: "request", Says: name + " is dropped: in it a client may claim to be another, or to ask for something else", Section: "RFC 7239 §8.1"})
		}
	}
	x.out = x.outgoing(ctx)
	route := site.Route(r.Method, r.URL.Path)
	switch secure := r.URL.Scheme == "https"; {
	case r.Method == http.MethodConnect:
		return []cache.Step{{About: "request", Says: "CONNECT is refused", Section: "RFC 9110 §9.3.6"}}, nil
	case site.Pending.On:
		return []cache.Step{{About: "site " + site.Name, Says: "the site is not open yet: a page says so, and nothing is looked up", Section: "pending"}}, nil
	case !secure && site.HTTP == config.HTTPRedirect:
		return []cache.Step{{About: "site " + site.Name, Says: "plain HTTP is sent on to https, and not looked up", Section: "http: redirect"}}, nil
	case !secure && site.HTTP != config.HTTPServe:
		return []cache.Step{{About: "site " + site.Name, Says: "plain HTTP is not served", Section: "http: off"}}, nil
	case secure && site.TLS == nil:
		return []cache.Step{{About: "site " + site.Name, Says: "the site is served on plain HTTP alone", Section: "tls"}}, nil
	case route != nil && route.Stay != "":
		return []cache.Step{{About: "route " + route.Path, Says: "what stays is never kept", Section: "stay"}}, nil
	case x.keeps == nil:
		return []cache.Step{{About: "site " + site.Name, Says: "the node keeps nothing", Section: "cache: off"}}, nil
	}
	early := hop.NewEarly(nil, r, nil)
	early.Stop()
	ctx = context.WithValue(ctx, askingKey{}, &asking{x: x, early: early})
	return append(dropped, x.keeps.Explain(ctx, x.out.WithContext(ctx))...), nil
}

// KeptURLs are what a URL may be kept under: without the parameters that do not count, and
// as it is written, where they did when it was kept; each with its path as net/url escapes
// that, and byte for byte, as a client may have sent it: browsers leave a | be.
func (s *Server) KeptURLs(written string) []string {
	r, err := http.NewRequest(http.MethodGet, written, nil)
	if err != nil {
		return []string{written}
	}
	policies := []*cache.Policy{{}}
	if site, ok := s.now.Load().Config.Lookup(r.Host); ok {
		policies = []*cache.Policy{site.Caching(site.Route(r.Method, r.URL.Path)), {}}
	}
	r.Host = config.Authority(r.Host)
	target, _, _ := strings.Cut(written, "#")
	if _, target, _ = strings.Cut(target, "://"); strings.ContainsAny(target, "/?") {
		target = target[strings.IndexAny(target, "/?"):]
	}
	var urls []string
	for _, u := range []*url.URL{r.URL, hop.TargetURL(target, r.URL, r.URL.Scheme, r.Host)} {
		r.URL = u
		for _, policy := range policies {
			if at := cache.URL(r, policy); !slices.Contains(urls, at) {
				urls = append(urls, at)
			}
		}
	}
	return urls
}

// fetching is the round tripper under the cache.
type fetching struct {
	over   http.RoundTripper
	server *Server
}

// RoundTrip sends req over, and makes the answer what it is on the other side, in
// the coding in which it crossed.
func (f fetching) RoundTrip(req *http.Request) (*http.Response, error) {
	ask := req.Context().Value(askingKey{}).(*asking)
	res, err := f.over.RoundTrip(req.WithContext(link.WithLean(hop.WithEarly(req.Context(), ask.early.Send), ask.x.lean)))
	if err != nil {
		return nil, err
	}
	if res.Body != http.NoBody {
		res.Body = &fetched{ReadCloser: res.Body, asking: ask, site: ask.x.site.Name, relay: link.RelayIn(res.Header), via: link.ViaIn(res.Header), sink: f.server.options.Sink}
	}
	if cache.MayKeep(req.Context()) {
		recode(req, res)
	}
	return res, nil
}

// recode makes the header of an answer that may be kept true of its body, which
// crossed in a coding of its own: that coding is its Content-Encoding, where it was
// asked for, or else the body is opened.
func recode(req *http.Request, res *http.Response) {
	coding, length := hop.TakeCoding(res.Header)
	switch {
	case coding == "":
		return
	case !rewrite.IsCoding(coding):
		hop.SetCoding(res.Header, coding, length) // the cache refuses it, and so does openBody
		return
	}
	told := res.Header.Get("Content-Encoding")
	delete(res.Header, "Content-Length")
	if told == "" {
		res.Header.Add("Vary", "Accept-Encoding")
	}
	if req.Header.Get("Accept-Encoding") == cache.AcceptEncoding {
		if tag := res.Header.Get("Etag"); told == "" && tag != "" && tag[0] == '"' {
			res.Header["Etag"] = []string{"W/" + tag} // other bytes than those it is for (RFC 9110 §8.8.3)
		}
		res.Header["Content-Encoding"], res.ContentLength = []string{coding}, -1
		return
	}
	res.Body, res.ContentLength = rewrite.NewDecoder(coding, res.Body), -1
	if told != "" {
		delete(res.Header, "Content-Encoding")
	} else if length >= 0 {
		res.Header["Content-Length"], res.ContentLength = []string{strconv.FormatInt(length, 10)}, length
	}
}

// fetched is a body that comes over the link, counted.
type fetched struct {
	io.ReadCloser
	asking     *asking
	site       string
	relay, via string // "" in one process
	sink       outcome.Sink
	n          atomic.Int64
	told       atomic.Bool
}

func (b *fetched) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.n.Add(int64(n))
	b.asking.crossed.Add(int64(n))
	if text, ok := b.ReadCloser.(interface{ Unmapped() string }); ok && err != nil {
		b.asking.unmapped.Store(new(text.Unmapped()))
	}
	return n, err
}

func (b *fetched) Close() error {
	err := b.ReadCloser.Close()
	if sink, ok := b.sink.(outcome.FetchSink); ok && b.relay != "" && !b.told.Swap(true) {
		sink.EmitFetch(b.site, b.relay, b.via, b.n.Load())
	}
	return err
}

// Codings are those of the cache's forms.
type Codings struct{}

// Encode closes what is written in a coding.
func (Codings) Encode(coding string, dst io.Writer) cache.Encoder {
	return rewrite.NewEncoder(coding, dst)
}

// Decode opens a body.
func (Codings) Decode(coding string, body io.ReadCloser) io.ReadCloser {
	return rewrite.NewDecoder(coding, body)
}
