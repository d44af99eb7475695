package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"causeway/conn"
	"causeway/hop"
	"causeway/mux"
	"causeway/outcome"
)

// A raw stream carries a client's connection as it is, TLS and all:
//
//  1. the edge opens it with OpenStream, and says at once who the client is, in a PROXY
//     header, and what the client has said; then it joins the two,
//  2. the raw streams of a connection share one stream of its HTTP/2, a tunnel
//     (hop/tunnel.go) with streamField, which no client can send: an edge drops the nodes'
//     own fields of what clients say. In it package mux carries them, for a few hundred
//     bytes each and no round trip; the first of a connection opens it,
//  3. Streams.Handler takes the tunnel off the link, reads the PROXY header of each stream,
//     and gives it to whoever accepts: the TLS server of the relay.

// streamField is in the request that opens the tunnel of raw streams.
const streamField = hop.Prefix + "Streams"

// streamProtocol is what the tunnel is called as an upgrade. A relay that knows nothing of
// it asks the origin for it, which refuses.
const streamProtocol = "causeway-streams"

// mostRawStreams is how many raw streams one connection may have at a relay.
const mostRawStreams = 1 << 16

// firstKey is the context key of what a raw stream begins with.
type firstKey struct{}

// firstOf is what the raw stream that req asks for begins with, nil when it asks for none.
func firstOf(req *http.Request) []byte {
	first, _ := req.Context().Value(firstKey{}).([]byte)
	return first
}

// OpenStream opens a raw stream over a Group or a Transport, for a client of host, a public
// host. It sends first, which must begin with a PROXY header of version 2, and waits until
// the relay has something to say to that, which is left to be read: until then it may go
// over another path, as a request may that has no body and changes nothing. relay is the
// one that answered. The caller closes the connection.
func OpenStream(ctx context.Context, over http.RoundTripper, host string, first []byte) (stream net.Conn, relay string, err error) {
	req, err := http.NewRequestWithContext(context.WithValue(ctx, firstKey{}, first), http.MethodGet, "https://"+host+"/", nil)
	if err != nil {
		return nil, "", outcome.Errorf(outcome.BadRequest, "open a stream for %q: %w", host, err)
	}
	res, err := over.RoundTrip(req)
	if err != nil {
		return nil, "", fmt.Errorf("open a stream for %s: %w", host, err)
	}
	relay = RelayOf(res)
	stream, ok := res.Body.(net.Conn)
	if !ok {
		res.Body.Close()
		return nil, relay, outcome.Errorf(outcome.LinkDown, "open a stream for %s: %s", host, res.Status)
	}
	return stream, relay, nil
}

// tunnelled is the session of a connection's raw streams, at the edge.
type tunnelled struct {
	cut     context.CancelFunc // ends its opening
	opened  chan struct{}      // closed when the rest is there
	session *mux.Session
	err     error
}

// end ends the tunnel; one that is opened this moment, the next time.
func (in *tunnelled) end() {
	select {
	case <-in.opened:
		if in.session != nil {
			in.session.Close()
		}
	default:
		in.cut()
	}
}

// openStream is send's for a raw stream.
func (t *Transport) openStream(req *http.Request, w *warm, first []byte) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	defer cancel()
	go func() {
		select {
		//lint:ignore SA1019 see listen
		case <-req.Cancel:
			cancel()
		case <-ctx.Done():
		}
	}()
	over := w.raw()
	in, err := t.tunnelled(ctx, w)
	if err != nil {
		over()
		return nil, err
	}
	opened, err := in.session.Open()
	if err != nil {
		over()
		w.leaveTunnel(in)
		return nil, fmt.Errorf("%w: %w", errNotSent, err)
	}
	stream := &rawStream{Stream: opened, over: over}
	stop := context.AfterFunc(ctx, func() { _ = stream.Reset() })
	_ = stream.SetDeadline(time.Now().Add(t.peer.ConnectTimeout))
	if _, err = stream.Write(first); err == nil {
		_, err = stream.Read(nil)
	}
	_ = stream.SetDeadline(time.Time{})
	if stop(); err == nil {
		err = ctx.Err()
	}
	switch {
	case err == nil:
		return &http.Response{StatusCode: http.StatusSwitchingProtocols, Header: http.Header{}, Body: stream}, nil
	case err == io.EOF || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, syscall.ECONNRESET):
		err = fmt.Errorf("%w: it ended the stream", errNotTaken)
	case errors.Is(err, os.ErrDeadlineExceeded):
		err = fmt.Errorf("it said nothing for %v", t.peer.ConnectTimeout)
	}
	_ = stream.Reset()
	return nil, err
}

// tunnelled is that of w. A place on w is reserved, for the tunnel, should it have to be
// opened.
func (t *Transport) tunnelled(ctx context.Context, w *warm) (*tunnelled, error) {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		w.Release()
		return nil, errNotSent
	}
	in := w.tunnel
	first := in == nil
	if first {
		ctx, cancel := context.WithCancel(context.Background())
		in = &tunnelled{cut: cancel, opened: make(chan struct{})}
		w.tunnel = in
		w.tunnels.Add(1)
		w.carrying.Go(func() { t.carryStreams(ctx, w, in) })
	}
	w.mu.Unlock()
	if !first {
		w.Release()
	}
	select {
	case <-in.opened:
		return in, in.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// carryStreams opens the tunnel of w's raw streams, and carries them until w ends.
func (t *Transport) carryStreams(ctx context.Context, w *warm, in *tunnelled) {
	defer in.cut()
	far, err := t.openTunnel(ctx, w, in.cut)
	if err == nil {
		in.session = mux.New(far, mux.Options{Window: t.peer.BodyWindow, Buffer: max(t.peer.Window, leastBodies*t.peer.BodyWindow)})
	} else {
		in.err = fmt.Errorf("%w: %w", errNotSent, err)
		w.leaveTunnel(in) // who tries again at once opens another
	}
	close(in.opened)
	if err == nil {
		err = in.session.Run()
	}
	w.leaveTunnel(in)
	w.tunnels.Add(-1)
	if errors.Is(err, mux.ErrProtocol) {
		t.peer.Log.Warn("link relay broke the protocol of streams", "relay", t.peer.Name, "via", t.peer.Via, "err", err)
	}
}

// leaveTunnel makes the next raw stream open another tunnel than in.
func (w *warm) leaveTunnel(in *tunnelled) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.tunnel == in {
		w.tunnel = nil
	}
}

// openTunnel opens it, on the place that is reserved. cancel is that of ctx.
func (t *Transport) openTunnel(ctx context.Context, w *warm, cancel context.CancelFunc) (io.ReadWriteCloser, error) {
	late := time.AfterFunc(t.peer.ConnectTimeout, cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+t.peer.Name+"/", nil)
	if err != nil {
		w.Release()
		return nil, err
	}
	req.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {streamProtocol}, streamField: {"1"}, "User-Agent": nil}
	res, err := hop.OpenTunnel(req, w.RoundTrip)
	if !late.Stop() && err == nil {
		res.Body.Close()
		err = ctx.Err()
	}
	if err != nil {
		return nil, fmt.Errorf("open the tunnel of streams: %w", err)
	}
	t.drains(res.Header)
	far, ok := res.Body.(io.ReadWriteCloser)
	if !ok || hop.UpgradeOf(res.Header) != streamProtocol {
		hop.Canceling(res, cancel).Body.Close()
		return nil, fmt.Errorf("open the tunnel of streams: it answered %s; is it of this version, and has it the file?", res.Status)
	}
	return &tunnelEnd{far, cancel}, nil
}

// tunnelEnd is the end of a tunnel whose Close also ends a Write that waits.
type tunnelEnd struct {
	io.ReadWriteCloser
	cut func()
}

func (e *tunnelEnd) Close() error {
	defer e.cut()
	return e.ReadWriteCloser.Close()
}

// rawStream is an end of a raw stream that tells when it is over.
type rawStream struct {
	*mux.Stream
	once sync.Once
	over func()
}

func (s *rawStream) Close() error {
	s.once.Do(s.over)
	return s.Stream.Close()
}

// Reset closes it so that the other end sees that it broke off.
func (s *rawStream) Reset() error {
	s.once.Do(s.over)
	return s.Stream.Reset()
}

// Streams is a listener of the raw streams that edges open.
type Streams struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once

	mu   sync.Mutex    // guards late
	late chan struct{} // closed while the deadline of Accept is over
}

// NewStreams makes a listener without a stream.
func NewStreams() *Streams {
	return &Streams{conns: make(chan net.Conn), closed: make(chan struct{}), late: make(chan struct{})}
}

// Accept gives the next stream. Its addresses are those that the edge says: the
// client's, and the one that it reached.
func (s *Streams) Accept() (net.Conn, error) {
	s.mu.Lock()
	late := s.late
	s.mu.Unlock()
	select {
	case c := <-s.conns:
		return c, nil
	case <-late:
		return nil, os.ErrDeadlineExceeded
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// SetDeadline ends a waiting Accept, and those to come, when t is in the past,
// and lets them wait again when it is zero, as a socket's does for one server to
// hand it to the next. It knows no others.
func (s *Streams) SetDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	over := false
	select {
	case <-s.late:
		over = true
	default:
	}
	switch {
	case t.IsZero() && over:
		s.late = make(chan struct{})
	case !t.IsZero() && !over && time.Until(t) <= 0:
		close(s.late)
	}
	return nil
}

// Close refuses streams from now on; those that were accepted go on.
func (s *Streams) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// Addr is none: streams come over the link.
func (s *Streams) Addr() net.Addr { return streamAddr{} }

type streamAddr struct{}

func (streamAddr) Network() string { return "link" }
func (streamAddr) String() string  { return "link" }

// Handler takes the raw streams out of the requests of a link. window is how many bytes of
// one may be here unread, log is told of edges that break the protocol.
func (s *Streams) Handler(next http.Handler, window int, log *slog.Logger) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(streamField) == "" {
			next.ServeHTTP(w, r)
			return
		}
		select {
		case <-s.closed:
			WriteError(w, outcome.Errorf(outcome.LinkDown, "take streams: this relay stops"))
			return
		default:
		}
		far, ok := hop.TunnelEnd(w, r)
		if !ok {
			WriteError(w, outcome.Errorf(outcome.BadRequest, "take streams: it is no tunnel"))
			return
		}
		from := socketOf(r.Context())
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		cut := func() {
			cancel()
			_ = http.NewResponseController(w).SetWriteDeadline(time.Unix(1, 0)) // resets the tunnel
		}
		err := mux.New(&tunnelEnd{far, cut}, mux.Options{
			Window: window, Buffer: leastBodies * window, Streams: mostRawStreams,
			Accept: func(stream *mux.Stream) { s.offer(ctx, &rawStream{Stream: stream, over: from.carries()}) },
		}).Run()
		if errors.Is(err, mux.ErrProtocol) {
			log.Warn("link node broke the protocol of streams", "peer", r.RemoteAddr, "err", err)
		}
	})
}

// offer reads who the client is and gives the stream to whoever accepts, unless it has gone
// before there was a place.
func (s *Streams) offer(ctx context.Context, stream *rawStream) {
	_, c, err := conn.ReadProxyHeader(stream, conn.Limits{Bytes: proxyHeaderBytes})
	if err != nil {
		_ = stream.Reset()
		return
	}
	select {
	case s.conns <- c:
		return
	case <-stream.Done():
	case <-ctx.Done():
	case <-s.closed:
	}
	_ = stream.Reset()
}

// proxyHeaderBytes is more than any header of an edge has.
const proxyHeaderBytes = 4 << 10
