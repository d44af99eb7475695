package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/sys/unix"

	"causeway/config"
	"causeway/edge"
)

// HTTP/3 at an edge: a UDP socket with the port of https, a QUIC transport on it
// and an http3.Server.
//
//  1. sockets.openH3 opens the socket, or finds that of the file before, and
//     serveH3 listens on it,
//  2. admit takes a connection or refuses it: as many as limits.connections; when
//     many handshakes are under way, a client must first show that its address is
//     its own (Retry, RFC 9000 section 8.1.2), which a flood of forged ones can't,
//  3. quicConn counts the requests of a connection, and ends one that has had none
//     for limits.idle_timeout, whatever packets it sends,
//  4. serve puts another server in the place of the one before when the file
//     changes; the socket and the connections stay, and these keep the limits they
//     began with,
//  5. stop sends GOAWAY, lets requests end, and closes connections as they fall
//     idle, until its context ends.
type quicServer struct {
	address   string // of listen.https
	socket    *net.UDPConn
	transport *quic.Transport
	listener  *quic.Listener
	limits    atomic.Pointer[config.Limits] // for connections that come
	settings  string                        // what server is made of
	servers   []*http3.Server               // the last one takes connections; those before may still have some
	turn      context.CancelFunc            // ends its taking
	done      chan struct{}                 // closed when that has ended

	mu      sync.Mutex // guards the rest
	conns   map[*quicConn]bool
	pending int // of conns: in their handshake
}

const (
	// retryAbove so many handshakes under way, an address must be shown to be
	// the client's own. Each costs a certificate's signature and some 10 KB.
	retryAbove = 64
	// quicSilence is how long nothing may come from a client. Half of it after
	// the last packet it is asked for a sign: an event stream may be silent.
	quicSilence = 30 * time.Second
	// streams of a connection: as many as browsers use.
	quicStreams = 100
	// What is read ahead of request bodies, most: of one, and of a connection.
	// 1 MiB a round trip of 50 ms is 160 Mbit/s.
	quicWindow     = 1 << 20
	quicConnWindow = 2 << 20
)

// openH3 gives the UDP socket for HTTP/3 beside the socket of https.
func openH3(address string, https net.Addr) (*net.UDPConn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	tcp, ok := https.(*net.TCPAddr)
	if !ok {
		return nil, fmt.Errorf("https listens on %v, which is no TCP address", https)
	}
	at, err := net.ResolveUDPAddr("udp", net.JoinHostPort(host, strconv.Itoa(tcp.Port)))
	if err != nil {
		return nil, err
	}
	// Its words about small buffers go where no log looks; sayBuffers says it.
	_ = os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true")
	return net.ListenUDP("udp", at)
}

// newQUIC listens on a socket, with the TLS of an edge.
func newQUIC(socket *net.UDPConn, role *edge.Server) (*quicServer, error) {
	q := &quicServer{socket: socket, conns: make(map[*quicConn]bool)}
	q.limits.Store(new(config.Limits)) // lets nobody in
	q.transport = &quic.Transport{Conn: socket, VerifySourceAddress: q.suspicious, ConnContext: q.admit}
	base := quicConfig(q.limits.Load())
	base.GetConfigForClient = func(*quic.ClientInfo) (*quic.Config, error) { return quicConfig(q.limits.Load()), nil }
	// Not early: no 0-RTT, whose requests may be played again (RFC 8470).
	listener, err := q.transport.Listen(http3.ConfigureTLSConfig(role.HTTPS(config.Limits{}).TLSConfig), base)
	if err != nil {
		return nil, err
	}
	q.listener = listener
	return q, nil
}

func quicConfig(limits *config.Limits) *quic.Config {
	return &quic.Config{
		Versions:             []quic.Version{quic.Version1, quic.Version2},
		HandshakeIdleTimeout: limits.HeaderTimeout / 2, // twice it ends the handshake, whatever comes
		MaxIdleTimeout:       quicSilence, KeepAlivePeriod: quicSilence / 2,
		MaxIncomingStreams:     quicStreams,
		MaxStreamReceiveWindow: quicWindow, MaxConnectionReceiveWindow: quicConnWindow,
	}
}

// wantedBuffer is what quic-go wants a UDP socket to hold, in bytes: what comes
// while its goroutine is not running is lost otherwise.
const wantedBuffer = 7 << 20

// sayBuffers warns when the kernel gives the socket smaller buffers.
func (d *Daemon) sayBuffers(socket *net.UDPConn) {
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	size := 0
	_ = raw.Control(func(fd uintptr) { size, err = unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF) })
	if err == nil && size < wantedBuffer {
		d.log.Warn("the kernel gives HTTP/3 a small UDP buffer; busy moments lose packets", "bytes", size,
			"mend", fmt.Sprintf("sysctl -w net.core.rmem_max=%d net.core.wmem_max=%[1]d", wantedBuffer))
	}
}

// suspicious is quic.Transport.VerifySourceAddress.
func (q *quicServer) suspicious(net.Addr) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.pending >= retryAbove
}

type quicConnKey struct{}

var errFull = errors.New("as many connections as limits.connections")

// admit is quic.Transport.ConnContext.
func (q *quicServer) admit(ctx context.Context, _ *quic.ClientInfo) (context.Context, error) {
	limits := q.limits.Load()
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.conns) >= limits.Connections {
		return nil, errFull
	}
	c := &quicConn{idle: limits.IdleTimeout, pending: true}
	q.conns[c] = true
	q.pending++
	context.AfterFunc(ctx, func() { q.leave(c) })
	return context.WithValue(ctx, quicConnKey{}, c), nil
}

func (q *quicServer) leave(c *quicConn) {
	c.end()
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.conns, c)
	if c.pending {
		q.pending--
	}
}

// shaken notes that the handshake of a connection is done.
func (q *quicServer) shaken(conn *quic.Conn) {
	c, ok := conn.Context().Value(quicConnKey{}).(*quicConn)
	if !ok {
		return
	}
	c.open(conn)
	q.mu.Lock()
	defer q.mu.Unlock()
	if c.pending {
		c.pending = false
		q.pending--
	}
}

// all are the connections of now.
func (q *quicServer) all() []*quicConn {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := make([]*quicConn, 0, len(q.conns))
	for c := range q.conns {
		list = append(list, c)
	}
	return list
}

// quicConn is a connection, and how many requests it has under way.
type quicConn struct {
	idle    time.Duration
	pending bool // in its handshake; guarded by quicServer.mu

	mu      sync.Mutex // guards the rest
	conn    *quic.Conn // nil before the handshake is done
	running int
	since   time.Time   // when the last request ended
	timer   *time.Timer // ends the connection, when running is 0
}

func (c *quicConn) open(conn *quic.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.since = conn, time.Now()
	c.timer = time.AfterFunc(c.idle, func() { c.closeIdle(0) })
	if conn.Context().Err() != nil {
		c.timer.Stop()
	}
}

func (c *quicConn) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer != nil {
		c.timer.Stop()
	}
}

// serve serves a request of the connection.
func (c *quicConn) serve(handler http.Handler, w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	c.running++
	c.timer.Stop()
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.running--; c.running == 0 {
			c.since = time.Now()
			if c.conn.Context().Err() == nil {
				c.timer.Reset(c.idle)
			}
		}
	}()
	handler.ServeHTTP(w, r)
}

// closeIdle ends the connection when it has had no request for so long.
func (c *quicConn) closeIdle(least time.Duration) {
	c.mu.Lock()
	conn := c.conn
	idle := c.running == 0 && time.Since(c.since) >= least
	c.mu.Unlock()
	if conn != nil && idle {
		_ = conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	}
}

// counted has the requests of a handler counted by their connections.
func counted(handler http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Context().Value(quicConnKey{}).(*quicConn).serve(handler, w, r)
	})
}

// serveH3 serves HTTP/3 on the socket that the file needs, and no longer on
// another.
func (d *Daemon) serveH3(s *sockets, cfg *config.Config) {
	if old := d.h3; old != nil && old != s.h3 {
		d.h3 = nil
		d.edge.Announce(false)
		d.tasks.Go(func() {
			limit, cancel := context.WithTimeout(d.base, cfg.Limits.DrainTimeout)
			defer cancel()
			old.stop(limit)
		})
	}
	if s.newH3 != nil {
		made, err := newQUIC(s.newH3, d.edge)
		if err != nil { // of the kernel, which does not let a socket be set up
			s.newH3.Close()
			d.fail(fmt.Errorf("listen for h3: %w", err))
			return
		}
		made.address = s.h3Address
		d.sayBuffers(s.newH3)
		s.h3 = made
	}
	if s.h3 == nil {
		return
	}
	d.h3 = s.h3
	settings := fmt.Sprintf("%+v", cfg.Limits)
	if d.h3.settings == settings {
		return
	}
	d.h3.settings = settings
	d.h3.limits.Store(&cfg.Limits)
	d.h3.serve(d, d.edge.HTTP3(cfg.Limits))
	d.edge.Announce(true)
}

// serve has server take the connections that come from now on.
func (q *quicServer) serve(d *Daemon, server *http3.Server) {
	server.Handler = counted(server.Handler)
	if q.turn != nil {
		q.turn()
		<-q.done
	}
	var ctx context.Context
	ctx, q.turn = context.WithCancel(context.Background())
	done := make(chan struct{})
	q.done = done
	q.servers = append(q.servers, server)
	d.tasks.Go(func() {
		defer close(done)
		err := server.ServeListener(quicTurn{q.listener, q, ctx})
		if ctx.Err() == nil && !errors.Is(err, http.ErrServerClosed) {
			d.fail(fmt.Errorf("serve h3 on %s: %w", q.address, err))
		}
	})
}

// quicTurn is one server's turn at a listener.
type quicTurn struct {
	*quic.Listener
	q   *quicServer
	ctx context.Context // ends the turn
}

func (t quicTurn) Accept(ctx context.Context) (*quic.Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(t.ctx, cancel)()
	conn, err := t.Listener.Accept(ctx)
	if err == nil {
		t.q.shaken(conn)
	}
	return conn, err
}

// stop ends the connections: with GOAWAY at once, and for good as they fall idle,
// when ctx ends whether they have or not.
func (q *quicServer) stop(ctx context.Context) {
	q.listener.Close() // and refuses connections from now on
	q.turn()
	<-q.done
	limit, cancel := context.WithCancel(ctx)
	var ending sync.WaitGroup
	for _, server := range q.servers {
		ending.Go(func() { _ = server.Shutdown(limit) }) // GOAWAY; returns when its connections have ended
	}
	for ctx.Err() == nil {
		list := q.all()
		if len(list) == 0 {
			break
		}
		for _, c := range list {
			c.closeIdle(freshGrace) // a request may be on its way, or the end of an answer
		}
		time.Sleep(5 * time.Millisecond)
	}
	q.transport.Close()
	cancel()
	ending.Wait()
	q.socket.Close()
}
