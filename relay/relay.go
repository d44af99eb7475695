// Package relay is the side of the crossing that reaches the origin.
//
// The path of a request through it (relay.go, fetch.go):
//
//  1. ServeHTTP takes it off the link and opens the record; in one process the
//     edge calls RoundTrip directly,
//  2. RoundTrip finds the site by the public host, in an immutable snapshot; the
//     two files of a site's rule runtime it answers itself,
//  3. the request is mapped: host, Origin, Referer, query,
//  4. the site's http.Transport sends it: a kept-alive connection to one of the
//     origin's addresses, always verified (reach.go, dial.go),
//  5. the response is mapped back: header first, then the body as it streams,
//  6. ServeHTTP passes it on over the link and emits the record.
//
// It refuses hosts that are not in the file, routes that must stay on the other
// side, and origins whose certificate does not verify. It never sends a
// request twice that may not be repeated.
package relay

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync/atomic"
	"time"

	"causeway/config"
	"causeway/hop"
	"causeway/link"
	"causeway/outcome"
	"causeway/resolve"
)

// Options are what a Server needs besides the file.
type Options struct {
	Node  string       // the node's name, for records
	Local bool         // it runs at an edge inside the country: routes that stay are its to serve
	Sink  outcome.Sink // takes the records of ServeHTTP; RoundTrip's caller emits its own
	Log   *slog.Logger
}

// Server fetches from the origins of a file. It is an http.RoundTripper for
// requests to public hosts, and an http.Handler for the link.
type Server struct {
	options  Options
	resolver *resolve.Resolver
	state    atomic.Pointer[state] // replaced whole by Swap
	serving  atomic.Int64          // requests under way
}

// state is one file's view, immutable.
type state struct {
	config *config.Config
	sites  map[*config.Site]*origin
}

// New makes a Server for cfg, whose origin.tls.ca files it reads.
func New(cfg *config.Config, options Options) (*Server, error) {
	s := &Server{options: options, resolver: resolve.New()}
	if err := s.Swap(cfg); err != nil {
		return nil, err
	}
	return s, nil
}

// Swap makes new requests see cfg; those under way finish as they began. Sites
// whose origin did not change keep their connections. On an error nothing
// changes.
func (s *Server) Swap(cfg *config.Config) error {
	old := s.state.Load()
	next := &state{config: cfg, sites: make(map[*config.Site]*origin, len(cfg.Sites))}
	kept := make(map[*origin]bool)
	for _, site := range cfg.Served() {
		o, err := newOrigin(site, cfg.Limits, s.resolver)
		if err != nil {
			return err
		}
		if same := old.originLike(o); same != nil {
			o = o.over(same)
			kept[same] = true
		}
		next.sites[site] = o
	}
	s.state.Store(next)
	if old != nil {
		for _, o := range old.sites {
			if !kept[o] {
				o.closeIdle()
			}
		}
	}
	return nil
}

// originLike finds an origin of the snapshot that dials and trusts as o does.
func (st *state) originLike(o *origin) *origin {
	if st == nil {
		return nil
	}
	for _, other := range st.sites {
		if other.fingerprint == o.fingerprint {
			return other
		}
	}
	return nil
}

// Close drops the idle connections to the origins and ends look-ups, and waits a
// second for requests that were cut, for their records. Requests may still come: they
// dial anew.
func (s *Server) Close() {
	s.resolver.Close()
	for _, o := range s.state.Load().sites {
		o.closeIdle()
	}
	for end := time.Now().Add(time.Second); s.serving.Load() > 0 && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond) // once in a node's life
	}
}

// ServeHTTP answers one request of the link.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.serving.Add(1)
	defer s.serving.Add(-1)
	rec := &outcome.Record{
		Start: time.Now(), Node: s.options.Node, Role: "relay", Cache: outcome.NoCache,
		RequestID: r.Header.Get("X-Request-Id"), Client: r.Header.Get("X-Real-Ip"),
		Method: r.Method, Scheme: r.Header.Get("X-Forwarded-Proto"), Host: r.Host, Path: r.URL.Path, Proto: r.Proto,
	}
	cfg := s.state.Load().config
	if site, ok := cfg.Lookup(r.Host); ok {
		rec.Site = site.Name
	}
	codings := hop.Codings(r.Header)
	tunnel := hop.AcceptTunnel(r)
	hop.AcceptExpect(r.Header)
	in := &counted{ReadCloser: r.Body}
	if r.Body != nil {
		r.Body = in
	}
	openRequest(r)
	hop.RemoveOwn(r.Header)
	hop.RestoreForwarded(r.Header, r.Host)
	early := hop.NewEarly(w, r, nil)
	res, names, err := s.fetch(hop.Outgoing(hop.WithEarly(r.Context(), early.Send), r, "https", r.Host), codings != "")
	early.Stop()
	if err != nil {
		rec.Fail(err)
		rec.BytesIn, rec.Total = in.n.Load(), time.Since(rec.Start)
		s.options.Sink.Emit(rec)
		link.WriteError(w, err)
		return
	}
	rec.Status, rec.Answered = res.StatusCode, time.Since(rec.Start)
	connect, answered := hop.TakeLegs(res.Header)
	rec.Connect, rec.Origin = connect, answered
	hop.SetLegs(res.Header, connect, answered)
	err = hop.Answer(w, r, res, hop.Options{
		WriteTimeout:  cfg.Limits.StreamTimeout, // the edge minds the client; this only ends what nobody minds
		StreamTimeout: cfg.Limits.StreamTimeout,
		Tunnel:        tunnel,
		Wrote:         func(n int) { rec.BytesOut += int64(n) },
		Encode:        encode(r, codings, names, res),
	})
	rec.Unmapped = unmapped(res.Body)
	var failed *hop.CopyError
	switch {
	case !errors.As(err, &failed):
	case failed.Unsent:
		err = named(err)
		rec.Fail(err)
	default:
		rec.Abort(named(err))
	}
	rec.BytesIn, rec.Total = in.n.Load(), time.Since(rec.Start)
	s.options.Sink.Emit(rec)
	switch {
	case err == nil:
	case failed.Unsent:
		link.WriteError(w, err)
	default:
		panic(http.ErrAbortHandler) // resets the stream: the edge sees that the body was cut
	}
}

// named gives a failure while the answer was under way its kind.
func named(err error) error {
	var failed *hop.CopyError
	if errors.As(err, &failed) && failed.FromClient && outcome.KindOf(err) != outcome.BadRequest {
		return &outcome.Error{Kind: outcome.ClientGone, Err: err}
	}
	return err
}

// counted adds up the bytes read from a body. The transport may read on when the
// answer is there.
type counted struct {
	io.ReadCloser
	n atomic.Int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n.Add(int64(n))
	return n, err
}
