// Package edge is the side of the crossing that clients reach.
//
// The path of a request through it (edge.go, the steps in this order):
//
//  1. ServeHTTP takes the snapshot, opens the record,
//  2. admit finds the site by the Host and refuses what is not ours: another
//     host, or one that the connection is not for (421, doors.go), CONNECT, a
//     loop. On a plain listener it answers an authority (challenge.go) and
//     redirects (plain.go); of a site that is pending it shows the page
//     (pending.go). What the cache can answer as it stands goes on with 5 (kept.go),
//  3. outgoing says who the client is (forwarded.go) and bounds the body
//     (body.go),
//  4. cross hands the request to the crossing, an http.RoundTripper: the cache
//     (caching.go), and behind it the link to the relays, or the relay itself in
//     one process; a route that stays is fetched by this node,
//  5. answer passes the response on as it comes; one that was lost with its
//     connection before the client got anything of it is asked for once more,
//  6. the record is emitted once.
//
// It refuses to be a proxy: only hosts of the file are served, whatever form
// the request takes. It believes nothing a client says of itself: forwarding
// fields and fields of the nodes are dropped and made anew.
package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"log"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http/httpguts"

	"causeway/cache"
	"causeway/config"
	"causeway/hop"
	"causeway/link"
	"causeway/outcome"
	"causeway/rewrite"
)

// Crossing is what a snapshot of the file gives an edge. It is not changed
// after it was handed over.
type Crossing struct {
	Config *config.Config
	// Certificate chooses a site's certificate by the hello; nil, nil for a
	// name that is not ours, which crypto/tls answers with unrecognized_name.
	Certificate func(*tls.ClientHelloInfo) (*tls.Certificate, error)
	// Doors are the TLS settings of the sites; nil are those of no site.
	Doors *Doors
	// Pages are what the sites that are pending show; those without one show
	// Causeway's.
	Pages map[*config.Site][]byte
	// Proof is what answers an authority that asks a site's host for a token of
	// HTTP-01, over plain HTTP; false for a token that is not known. nil knows none.
	Proof func(ctx context.Context, site *config.Site, token string) (string, bool)
	// Proves says whether Certificate answers an authority that asks by TLS-ALPN-01
	// for a name of a site that passes through. nil: the other side does.
	Proves func(ctx context.Context, site *config.Site, name string) bool
	// Over carries a request to the other side.
	Over http.RoundTripper
	// Cache keeps what crossed; nil keeps nothing.
	Cache *cache.Cache
	// Stay fetches for the routes that must not cross; nil on a node that is not
	// where they must stay: such requests are refused.
	Stay http.RoundTripper

	keeps *cache.Transport // Over behind Cache
}

// Options are what a Server needs besides the file.
type Options struct {
	Node string // the node's name, for records
	Sink outcome.Sink
	Log  *slog.Logger
	// Passed is the server at a relay that ends the TLS of the sites whose
	// connections pass through the edges. It serves no others.
	Passed bool
	// Tickets are the secrets of session tickets; nil are random ones of this
	// Server's own, which a Swap keeps.
	Tickets TicketSecrets
}

// Server answers clients. Serve it with the http.Servers that HTTP and HTTPS
// make.
type Server struct {
	options Options
	now     atomic.Pointer[Crossing] // replaced whole by Swap
	http3   atomic.Bool              // HTTP/3 is there too
	serving atomic.Int64             // requests under way, upgraded connections among them, and connections that pass through
	answers atomic.Int64             // that cross, under way
	base    context.Context          // of connections that pass through
	cut     context.CancelFunc       // ends base

	passingMu sync.Mutex
	passing   map[string]int // connections that pass through now, by site; none that has none
}

// New makes a Server.
func New(crossing Crossing, options Options) *Server {
	s := &Server{options: options, passing: make(map[string]int)}
	if s.options.Tickets == nil {
		s.options.Tickets = &ownTickets{}
	}
	s.base, s.cut = context.WithCancel(context.Background())
	s.Swap(crossing)
	return s
}

// Swap makes new requests see another file; those under way finish as they
// began.
func (s *Server) Swap(crossing Crossing) {
	if crossing.Cache != nil {
		crossing.keeps = &cache.Transport{Cache: crossing.Cache, Next: fetching{crossing.Over, s}, Policy: policyOf}
	}
	if crossing.Doors == nil {
		crossing.Doors, _ = NewDoors(crossing.Config, func(*config.Site) bool { return false }) // no file is read
	}
	crossing.Doors.serve(func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return s.now.Load().Certificate(hello)
	})
	s.now.Store(&crossing)
}

// Wait returns when no request is under way any more, or when ctx ends. The
// listeners must be closed.
func (s *Server) Wait(ctx context.Context) {
	for s.serving.Load() > 0 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond) // once in a node's life
	}
}

// Close ends the connections that pass through, and waits for them.
func (s *Server) Close() {
	s.cut()
	limit, cancel := context.WithTimeout(context.Background(), time.Second) // requests are the http.Servers' to end
	defer cancel()
	s.Wait(limit)
}

// HTTPS is the server of a TLS listener, which is to have its TLSConfig.
func (s *Server) HTTPS(limits config.Limits) *http.Server {
	server := s.server(limits, true)
	server.TLSConfig = &tls.Config{
		MinVersion:         tls.VersionTLS12,
		NextProtos:         []string{"h2", "http/1.1"},
		GetConfigForClient: s.doorFor,
	}
	return server
}

// HTTP is the server of a plain listener.
func (s *Server) HTTP(limits config.Limits) *http.Server { return s.server(limits, false) }

func (s *Server) server(limits config.Limits, secure bool) *http.Server {
	return &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, secure) }),
		ReadHeaderTimeout: limits.HeaderTimeout,
		IdleTimeout:       limits.IdleTimeout,
		WriteTimeout:      limits.SendTimeout, // the beginning of hop.SendClock
		MaxHeaderBytes:    int(limits.HeaderBytes),
		HTTP2:             &http.HTTP2Config{WriteByteTimeout: limits.SendTimeout, MaxReadFrameSize: hop.MaxFrame, MaxConcurrentStreams: mostStreams},
		// What ends here is a stranger's broken handshake or request.
		ErrorLog: log.New(debugLines{s.options.Log}, "", 0),
	}
}

// mostStreams is how many requests a visitor may have under way on one connection
// of HTTP/2: as many as nginx lets it.
const mostStreams = 128

// What an answer that crosses has not been taken of yet is held for its visitor, and
// the link holds so much and no more (limits.link_window). While more than
// manyAnswers are under way one of whom nothing is taken has pressedSend, no longer.
const (
	manyAnswers = 256
	pressedSend = 10 * time.Second
)

// newClock starts the clock of an answer.
func (s *Server) newClock(w http.ResponseWriter, r *http.Request) *hop.SendClock {
	timeout := s.sendTimeout(r)
	if s.answers.Load() > manyAnswers && timeout > pressedSend {
		timeout = pressedSend
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(timeout)) // the server has set its own
	}
	return hop.NewSendClock(w, timeout)
}

// sendTimeout is that of the http.Server that serves r.
func (s *Server) sendTimeout(r *http.Request) time.Duration {
	if server, ok := r.Context().Value(http.ServerContextKey).(*http.Server); ok && server.WriteTimeout > 0 {
		return server.WriteTimeout
	}
	return s.now.Load().Config.Limits.SendTimeout
}

// debugLines takes what net/http has to say about connections.
type debugLines struct{ logger *slog.Logger }

func (d debugLines) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("panic serving")) { // and that is ours
		d.logger.Error("handler failed", "event", strings.TrimSpace(string(line)))
		return len(line), nil
	}
	d.logger.Debug("connection", "event", strings.TrimSpace(string(line)))
	return len(line), nil
}

// exchange is one request and its answer.
type exchange struct {
	*Crossing
	server *Server
	w      http.ResponseWriter
	r      *http.Request
	rec    outcome.Record
	site   *config.Site
	out    *http.Request   // as it crosses
	body   *limitedBody    // nil for a request without one
	asked  *asking         // of the cache; nil when it was not
	opened *rewrite.Opened // the answer's body, when it crosses in a coding of its own
	packed *rewrite.Closed // the request's body, likewise
	clock  *hop.SendClock

	cacheStatus string // the cache's member of Cache-Status, for the page of a failure
}

// serve is the whole path of a request.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, secure bool) {
	if r.TLS != nil && r.TLS.NegotiatedProtocol == acmeALPN { // no data is for it (RFC 8737 section 3)
		panic(http.ErrAbortHandler)
	}
	s.serving.Add(1)
	defer s.serving.Add(-1)
	x := &exchange{Crossing: s.now.Load(), server: s, w: w, r: r, clock: s.newClock(w, r)}
	defer x.end()
	x.open(secure)
	aborted := false
	if x.admit(secure) {
		var err error
		if res := x.kept(new(query)); res != nil {
			err = x.answer(res)
		} else {
			err = x.exchange(r.Context())
		}
		if x.lost(err) {
			err = x.exchange(link.Again(r.Context()))
		}
		aborted = x.settle(err)
	}
	if x.body != nil {
		x.rec.BytesIn = x.body.n.Load()
	}
	x.countCrossing()
	x.rec.Total = time.Since(x.rec.Start)
	s.options.Sink.Emit(&x.rec)
	if aborted {
		panic(http.ErrAbortHandler) // the client must see that the answer is cut
	}
}

// end lets go of the connection: the crossing may read on, and timers may fire.
func (x *exchange) end() {
	if x.body != nil {
		x.body.stop()
	}
	x.clock.Stop()
}

// open begins the record.
func (x *exchange) open(secure bool) {
	x.rec = outcome.Record{
		Start: time.Now(), Node: x.server.options.Node, Role: "edge", Cache: outcome.NoCache,
		RequestID: outcome.NewRequestID(), Client: clientOf(x.r),
		Method: x.r.Method, Scheme: "http", Host: x.r.Host, Path: x.r.URL.Path, Proto: x.r.Proto,
	}
	if secure {
		x.rec.Scheme = "https"
	}
}

// clientOf is the address the connection came from. The port is left out, and
// an IPv4 address in IPv6 clothes is an IPv4 address.
func clientOf(r *http.Request) string {
	if host, port, _ := strings.Cut(r.RemoteAddr, ":"); isDotted(host) && isDotted(port) {
		return host // as net/http writes those of IPv4
	}
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	return addr.Addr().Unmap().WithZone("").String()
}

// isDotted reports whether s has digits, or digits and dots.
func isDotted(s string) bool {
	for i := 0; i < len(s); i++ {
		if c := s[i]; c != '.' && (c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}

// admit finds the site and says whether the request goes on; otherwise it has
// been answered.
func (x *exchange) admit(secure bool) bool {
	if x.r.Method == http.MethodConnect {
		x.w.Header().Set("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
		return x.refuse(outcome.Errorf(outcome.Refused, "CONNECT to %q: this is no proxy", x.r.Host))
	}
	if x.r.URL.Opaque != "" || strings.ContainsAny(x.r.RequestURI, " #") || !httpguts.ValidHeaderFieldName(x.r.Method) { // a method is a token as a field name is (RFC 9110 §9.1)
		target, _, _ := strings.Cut(x.r.RequestURI, "?") // a query is not logged
		return x.refuse(outcome.Errorf(outcome.BadRequest, "the request line %q %q can't be passed on", x.r.Method, target))
	}
	if !secure {
		if x.proved() {
			return false
		}
		if goOn := x.admitPlain(); !goOn {
			return false
		}
	} else {
		site, ok := x.Config.Lookup(x.r.Host)
		if !ok {
			return x.refuse(outcome.Errorf(outcome.HostUnknown, "find a site for host %q: none in %s", x.r.Host, x.Config.Path))
		}
		if site.TLS == nil {
			return x.refuse(outcome.Errorf(outcome.HostUnknown, "host %q is served on plain HTTP alone", x.r.Host))
		}
		if (site.Entry == config.Passthrough) != x.server.options.Passed {
			return x.refuse(outcome.Errorf(outcome.HostUnknown, "host %q on a connection that was ended here: entry of site %s is %s", x.r.Host, site.Name, site.Entry))
		}
		if err := x.fits(site); err != nil {
			return x.refuse(err)
		}
		x.site = site
	}
	x.rec.Site = x.site.Name
	if x.site.Pending.On {
		x.hold()
		return false
	}
	if looped(x.r.Header, x.site.Map.Version()) {
		return x.refuse(outcome.Errorf(outcome.Loop, "the request passed here before: the origin of site %s leads back to it", x.site.Name))
	}
	if limit := int64(x.Config.Limits.BodyBytes); limit > 0 && x.r.ContentLength > limit {
		return x.refuse(outcome.Errorf(outcome.BodyTooBig, "a body of %d bytes is over limits.body_bytes, %d", x.r.ContentLength, limit))
	}
	return true
}

// refuse answers with the page of err's kind and notes it. It gives false, for
// admit.
func (x *exchange) refuse(err error) bool {
	if x.body != nil {
		if failed := x.body.failed(); failed != nil {
			err = failed
		}
	}
	x.rec.Fail(err)
	if x.rec.Kind == outcome.ClientGone {
		return false // nobody is there to read it
	}
	if (x.rec.Kind == outcome.ClientSlow || x.rec.Kind == outcome.BodyTooBig) && x.r.ProtoMajor == 1 {
		x.w.Header().Set("Connection", "close") // the rest of the body is not waited for
	}
	if x.site != nil {
		x.strictTransport(x.w.Header())
		x.announce(x.w.Header())
	}
	if x.cacheStatus != "" {
		x.w.Header()["Cache-Status"] = []string{x.cacheStatus} // RFC 9211 §2
	}
	x.rec.BytesOut = outcome.WritePage(x.w, x.r.Method, x.rec.Kind, x.rec.RequestID)
	return false
}

// exchange sends the request and passes its answer on. After an error that is no
// *hop.CopyError, or one that says Unsent, the client has been sent nothing.
func (x *exchange) exchange(ctx context.Context) error {
	res, err := x.cross(ctx)
	if err != nil {
		return err
	}
	x.server.answers.Add(1)
	defer x.server.answers.Add(-1)
	return x.answer(res)
}

// lost reports whether the answer was lost with its connection and the request
// may be sent again.
func (x *exchange) lost(err error) bool {
	return errors.Is(err, link.ErrLost) && unsent(err) && link.Repeatable(x.out) && x.r.Context().Err() == nil
}

// unsent reports whether err, of exchange, left the client with nothing.
func unsent(err error) bool {
	failed := (*hop.CopyError)(nil)
	return !errors.As(err, &failed) || failed.Unsent
}

// settle answers for what exchange could not, and notes it; aborted means that
// the client must see that its answer is cut.
func (x *exchange) settle(err error) (aborted bool) {
	switch {
	case err == nil:
		return false
	case unsent(err):
		x.refuse(named(err))
		return x.rec.Kind == outcome.ClientGone // else net/http would say 200
	}
	x.rec.Abort(named(err))
	return true
}

// cross sends the request to the other side and gives the answer.
func (x *exchange) cross(ctx context.Context) (*http.Response, error) {
	early := hop.NewEarly(x.w, x.r, x.clock)
	defer early.Stop()
	if x.out == nil {
		x.out = x.outgoing(ctx)
	}
	res, err := x.send(ctx, early)
	if err != nil {
		return nil, err
	}
	x.rec.Answered = time.Since(x.rec.Start)
	x.rec.Via = link.ViaIn(res.Header)
	x.rec.Relay = link.RelayOf(res)
	x.rec.Connect, x.rec.Origin = hop.TakeLegs(res.Header)
	if err := x.openBody(res); err != nil {
		return nil, err
	}
	cache.DropTags(res.Header) // the cache has taken them, where it was asked
	return res, nil
}

// send takes the request the way that is its: through the cache, over, or nowhere.
func (x *exchange) send(ctx context.Context, early *hop.Early) (*http.Response, error) {
	way, route := x.Over, x.site.Route(x.r.Method, x.r.URL.Path)
	if route != nil && route.Stay != "" {
		if way = x.Stay; way == nil {
			return nil, outcome.Errorf(outcome.Stays, "fetch %s: route %s of site %s stays in %s, and this edge is elsewhere", x.r.URL.Path, route.Path, x.site.Name, route.Stay)
		}
	} else if keeps := x.cached(); keeps != nil {
		return x.look(ctx, keeps, early)
	}
	res, err := way.RoundTrip(x.out.WithContext(link.WithLean(hop.WithEarly(ctx, early.Send), x.lean)))
	if err == nil && x.keeps != nil {
		x.changed(res)
	}
	return res, err
}

// outgoing is the request as it crosses: to the public host still, with what is
// known of the client. What the nodes say is set last, so that a client's
// Connection field can't name it away.
func (x *exchange) outgoing(ctx context.Context) *http.Request {
	r := x.r
	if r.Body != nil && r.Body != http.NoBody {
		cleanTrailer(r.Trailer) // what it announces; what comes, at the body's end
		x.body = limitBody(r, x.w, x.Config.Limits)
		r.Body = x.body
	}
	host := config.Authority(r.Host) // its spelling is in no key of the cache
	out := hop.Outgoing(ctx, r, x.rec.Scheme, host)
	hop.RemoveOwn(out.Header)
	forwarded(out.Header, x.rec.Client, host, x.rec.Scheme)
	out.Header["X-Request-Id"] = []string{x.rec.RequestID}
	out.Header.Add("Cdn-Loop", loopID(x.site.Map.Version()))
	if field := x.clientCert(); field != "" {
		out.Header["Client-Cert"] = []string{field}
	}
	return out
}

// answer passes the response on. An error means that the client got a part of
// it only.
func (x *exchange) answer(res *http.Response) error {
	x.dress(res)
	own := x.w.Header()
	limits := &x.Config.Limits
	if x.body != nil && x.body.unread() && x.r.ProtoMajor == 1 {
		own.Set("Connection", "close") // an early answer: the rest of the body is not waited for
	}
	err := hop.Answer(x.w, x.r, res, hop.Options{
		Clock:         x.clock,
		StreamTimeout: limits.StreamTimeout,
		Wrote:         func(n int) { x.rec.BytesOut += int64(n) },
		Encode:        x.encode(res),
	})
	if text, ok := res.Body.(interface{ Unmapped() string }); ok { // the relay in this process
		x.rec.Unmapped = text.Unmapped()
	} else if x.asked != nil {
		if unmapped := x.asked.unmapped.Load(); unmapped != nil {
			x.rec.Unmapped = *unmapped
		}
	}
	return err
}

// dress notes the status of the answer, and gives it the fields that are the edge's.
func (x *exchange) dress(res *http.Response) {
	x.rec.Status = res.StatusCode
	if x.site.Headers.RequestID {
		res.Header["X-Request-Id"] = []string{x.rec.RequestID}
	}
	if x.site.Headers.ServerTiming {
		res.Header.Add("Server-Timing", serverTiming(&x.rec))
	}
	x.strictTransport(res.Header)
	x.announce(res.Header)
	if x.site.Tests {
		res.Header["X-Robots-Tag"] = []string{"noindex, nofollow"}
	}
}

// named gives a failure while the answer was under way its kind.
func named(err error) error {
	var failed *hop.CopyError
	if !errors.As(err, &failed) {
		return err
	}
	if failed.FromClient && outcome.KindOf(err) != outcome.BadRequest {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return &outcome.Error{Kind: outcome.ClientSlow, Err: err}
		}
		return &outcome.Error{Kind: outcome.ClientGone, Err: err}
	}
	if outcome.KindOf(err) == outcome.Internal {
		return &outcome.Error{Kind: outcome.LinkCut, Err: err}
	}
	return err
}

// serverTiming is the field of that name (W3C Server Timing): milliseconds of
// each leg.
func serverTiming(rec *outcome.Record) string {
	metric := func(name string, d time.Duration) string {
		return name + ";dur=" + strconv.FormatFloat(float64(d.Microseconds())/1000, 'f', -1, 64)
	}
	return metric("connect", rec.Connect) + ", " + metric("origin", rec.Origin) + ", " +
		metric("link", rec.Answered-rec.Origin)
}
