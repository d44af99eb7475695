package link

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"causeway/conn"
	"causeway/hop"
	"causeway/outcome"
)

// A raw stream carries a client's connection as it is, TLS and all:
//
//  1. the edge opens it with OpenStream, says in a PROXY header who the client
//     is, and joins the two,
//  2. on the link it is a tunnel stream (hop/tunnel.go) with streamField, which no
//     client can send: an edge drops the nodes' own fields of what clients say,
//  3. Streams.Handler takes it off the link, reads the PROXY header, and gives it
//     to whoever accepts: the TLS server of the relay.
//
// The relay's end of what it sends ends the whole stream, as it does of every
// tunnel; TLS says the end of each way by itself.

// streamField is in the request that opens a raw stream.
const streamField = hop.Prefix + "Stream"

// streamProtocol is what a raw stream is called as an upgrade. A relay that
// knows nothing of streams asks the origin for it, which refuses.
const streamProtocol = "causeway-stream"

// OpenStream opens a raw stream over a Group or a Transport, for a client of
// host, a public host. relay is the one that took it. The caller closes the
// connection, whose first bytes must be a PROXY header of version 2.
func OpenStream(ctx context.Context, over http.RoundTripper, host string) (stream net.Conn, relay string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/", nil)
	if err != nil {
		return nil, "", outcome.Errorf(outcome.BadRequest, "open a stream for %q: %w", host, err)
	}
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", streamProtocol)
	req.Header.Set(streamField, "1")
	res, err := over.RoundTrip(req)
	if err != nil {
		return nil, "", fmt.Errorf("open a stream for %s: %w", host, err)
	}
	relay = RelayOf(res)
	body, ok := res.Body.(io.ReadWriteCloser)
	if res.StatusCode != http.StatusSwitchingProtocols || !ok || hop.UpgradeOf(res.Header) != streamProtocol {
		res.Body.Close()
		return nil, relay, outcome.Errorf(outcome.LinkDown, "open a stream for %s: relay %s takes no streams: it answered %s; is it of this version, and has it the file?", host, relay, res.Status)
	}
	return &streamEnd{body}, relay, nil
}

// streamEnd is the near end of a raw stream.
type streamEnd struct{ io.ReadWriteCloser }

// CloseWrite ends what this side sends.
func (s *streamEnd) CloseWrite() error {
	return s.ReadWriteCloser.(interface{ CloseWrite() error }).CloseWrite()
}

// A stream has no addresses of its own, and its deadlines are the link's.
func (s *streamEnd) LocalAddr() net.Addr              { return streamAddr{} }
func (s *streamEnd) RemoteAddr() net.Addr             { return streamAddr{} }
func (s *streamEnd) SetDeadline(time.Time) error      { return nil }
func (s *streamEnd) SetReadDeadline(time.Time) error  { return nil }
func (s *streamEnd) SetWriteDeadline(time.Time) error { return nil }

type streamAddr struct{}

func (streamAddr) Network() string { return "link" }
func (streamAddr) String() string  { return "link" }

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

// Handler takes the raw streams out of the requests of a link.
func (s *Streams) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(streamField) == "" {
			next.ServeHTTP(w, r)
			return
		}
		select {
		case <-s.closed:
			WriteError(w, outcome.Errorf(outcome.LinkDown, "take a stream for %s: this relay stops", r.Host))
			return
		default:
		}
		far, ok := hop.TunnelEnd(w, r)
		if !ok {
			WriteError(w, outcome.Errorf(outcome.BadRequest, "take a stream for %s: it is no tunnel", r.Host))
			return
		}
		s.carry(far)
	})
}

// carry passes bytes between the link's end of a stream and a pipe, which has
// the deadlines that a server of TLS needs, until either ends.
func (s *Streams) carry(far io.ReadWriteCloser) {
	here, there := net.Pipe()
	gone := make(chan struct{})
	var ways sync.WaitGroup
	ways.Go(func() { s.offer(here, gone) })
	ways.Go(func() {
		defer close(gone)
		_, _ = conn.Copy(there, far)
		there.Close() // the client sends no more
	})
	_, _ = conn.Copy(far, there)
	there.Close()
	far.Close()
	ways.Wait()
}

// offer reads who the client is and gives the stream to whoever accepts, unless
// it has gone before there was a place.
func (s *Streams) offer(here net.Conn, gone <-chan struct{}) {
	_, c, err := conn.ReadProxyHeader(here, conn.Limits{Bytes: proxyHeaderBytes})
	if err != nil {
		here.Close()
		return
	}
	select {
	case s.conns <- c:
	case <-gone:
		c.Close()
	case <-s.closed:
		c.Close()
	}
}

// proxyHeaderBytes is more than any header of an edge has.
const proxyHeaderBytes = 4 << 10
