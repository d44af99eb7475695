package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"causeway/cert"
	"causeway/config"
	"causeway/hop"
	"causeway/link"
)

// serverKind is what a socket is for.
type serverKind string

const (
	kindHTTP  serverKind = "http"
	kindHTTPS serverKind = "https"
	kindLink  serverKind = "link"
	kindAdmin serverKind = "admin"
	// kindPassed has no socket: its connections come over the link.
	kindPassed serverKind = "passed"
)

// serverKey is where a server listens.
type serverKey struct {
	kind    serverKind
	address string
}

// runningServer is a server on a socket that outlives it: when only its
// settings change, another server takes the socket over and no connection is
// refused in between.
type runningServer struct {
	socket   net.Listener
	settings string // what the server is made of: another text needs another server
	server   *http.Server
	turn     *turn
	done     chan struct{} // closed when Serve returned
	conns    connCount
	ahead    *hop.Ahead // of a listener for visitors; nil for any other
}

// connCount is how many connections a server has, and how many of them have
// not sent a request yet.
type connCount struct {
	mu    sync.Mutex // guards the rest
	all   int
	fresh map[net.Conn]bool
}

// note is http.Server.ConnState.
func (c *connCount) note(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch state {
	case http.StateNew:
		c.all++
		c.fresh[conn] = true
	case http.StateClosed, http.StateHijacked:
		c.all--
		delete(c.fresh, conn)
	default:
		delete(c.fresh, conn)
	}
}

func (c *connCount) count() (all, fresh int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all, len(c.fresh)
}

// sockets are the listeners that a file needs.
type sockets struct {
	needed    map[serverKey]net.Listener
	opened    []net.Listener // those that were not open before
	h3        *quicServer    // nil where there is no HTTP/3
	newH3     *net.UDPConn   // its socket, when that was not open before
	h3Address string         // of that, in the file
}

func (s *sockets) closeNew() {
	for _, socket := range s.opened {
		socket.Close()
	}
	if s.newH3 != nil {
		s.newH3.Close()
	}
}

// openH3 finds or opens the socket for HTTP/3.
func (s *sockets) openH3(d *Daemon, node *config.Node) error {
	address := node.Listen.HTTPS
	if !node.Listen.H3 || address == "" {
		return nil
	}
	if d.h3 != nil && d.h3.address == address {
		s.h3 = d.h3
		return nil
	}
	socket, err := openH3(address, s.needed[serverKey{kindHTTPS, address}].Addr())
	if err != nil {
		return fmt.Errorf("listen for h3: %w", err)
	}
	s.newH3, s.h3Address = socket, address
	return nil
}

// openSockets finds or opens a socket for every listener of node.
func (d *Daemon) openSockets(cfg *config.Config, node *config.Node) (*sockets, error) {
	s := &sockets{needed: make(map[serverKey]net.Listener)}
	for _, key := range []serverKey{
		{kindHTTP, node.Listen.HTTP},
		{kindHTTPS, node.Listen.HTTPS},
		{kindLink, node.Listen.Link},
		{kindAdmin, node.Listen.Admin},
	} {
		if key.address == "" || (key.kind == kindLink && node.Role != config.RoleRelay) {
			continue
		}
		if running := d.servers[key]; running != nil {
			s.needed[key] = running.socket
			continue
		}
		socket, err := d.listen(key)
		if err != nil {
			s.closeNew()
			return nil, fmt.Errorf("listen for %s: %w", key.kind, err)
		}
		s.needed[key] = socket
		s.opened = append(s.opened, socket)
	}
	if err := s.openH3(d, node); err != nil {
		s.closeNew()
		return nil, err
	}
	if node.Role == config.RoleRelay {
		if d.streams == nil {
			d.streams = link.NewStreams()
		}
		s.needed[serverKey{kindPassed, "link"}] = d.streams // whatever the address of that
	}
	return s, nil
}

func (d *Daemon) listen(key serverKey) (net.Listener, error) {
	if key.kind == kindLink {
		return d.options.ListenLink(key.address)
	}
	return net.Listen("tcp", key.address)
}

// serve starts a server on every socket that has none, or one with other
// settings, and stops those whose socket is not needed any more.
func (d *Daemon) serve(s *sockets, cfg *config.Config, node *config.Node, identity *cert.LinkIdentity) {
	settings := fmt.Sprintf("%+v %v %v", cfg.Limits, cfg.PKI, cfg.Links)
	for key, socket := range s.needed {
		old := d.servers[key]
		if old != nil && (old.settings == settings || key.kind == kindAdmin) {
			continue
		}
		if old != nil {
			old.handOver()
			d.retired = append(d.retired, old)
		}
		d.servers[key] = d.start(key, socket, settings, cfg, node, identity)
	}
	for key, old := range d.servers {
		if _, ok := s.needed[key]; !ok {
			delete(d.servers, key)
			old.handOver()
			d.tasks.Go(func() {
				limit, cancel := context.WithTimeout(d.base, cfg.Limits.DrainTimeout)
				defer cancel()
				old.stop(limit)
			})
		}
	}
	d.retired = slices.DeleteFunc(d.retired, func(old *runningServer) bool {
		all, _ := old.conns.count()
		return all == 0
	})
}

// start serves on socket.
func (d *Daemon) start(key serverKey, socket net.Listener, settings string, cfg *config.Config, node *config.Node, identity *cert.LinkIdentity) *runningServer {
	running := &runningServer{
		socket: socket, settings: settings, turn: newTurn(socket), done: make(chan struct{}),
		server: d.server(key.kind, cfg, node, identity),
		conns:  connCount{fresh: make(map[net.Conn]bool)},
	}
	running.server.ConnState = running.conns.note
	switch key.kind {
	case kindHTTP:
		running.ahead = d.edge.Ahead(cfg.Limits, false)
		running.server.ConnState = func(conn net.Conn, state http.ConnState) {
			running.ahead.State(conn, state)
			running.conns.note(conn, state)
		}
	case kindHTTPS:
		running.ahead = d.edge.Ahead(cfg.Limits, true)
	}
	if running.server.ConnContext == nil {
		running.server.ConnContext = hop.BurstContext
	}
	running.server.BaseContext = func(net.Listener) context.Context { return d.base }
	d.tasks.Go(func() {
		defer close(running.done)
		connections := cfg.Limits.Connections
		if key.kind == kindLink {
			connections += link.MostStrangers // so that they take none of the nodes'
		}
		listener := limit(running.turn, connections)
		var err error
		switch key.kind {
		case kindHTTP:
			err = running.server.Serve(running.ahead.Listen(listener))
		case kindHTTPS:
			err = running.server.Serve(overTLS(running.server, d.edge.Split(listener), running.ahead))
		case kindPassed:
			err = running.server.Serve(overTLS(running.server, listener, nil))
		case kindLink:
			err = d.callers.Serve(running.server, hop.Bursts(listener))
		default:
			err = running.server.Serve(listener)
		}
		if !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			d.fail(fmt.Errorf("serve %s on %s: %w", key.kind, key.address, err))
		}
	})
	return running
}

// overTLS ends the TLS of a server's connections.
func overTLS(server *http.Server, listener net.Listener, ahead *hop.Ahead) net.Listener {
	return hop.Strict(tls.NewListener(hop.Bursts(listener), server.TLSConfig.Clone()), hop.StrictOptions{
		Header: server.ReadHeaderTimeout, HeaderBytes: server.MaxHeaderBytes, Ahead: ahead,
	})
}

// fail ends the node, as a server of it stopped by itself.
func (d *Daemon) fail(err error) {
	select {
	case d.failed <- err:
	default:
	}
}

// handOver makes the server take no more connections and leaves the socket
// open, with its queue, for the next. The connections it has stay its own until
// they end: they see the new file too, but keep the header and idle limits they
// began with.
func (r *runningServer) handOver() {
	r.turn.Close()
	<-r.done
	r.turn.reopen()
}

// freshGrace is how long a stopping server waits for the first request of a
// connection it has just taken: http.Server.Shutdown would drop it unheard.
const freshGrace = time.Second

// stop takes no more connections, lets the requests end until ctx does, and
// cuts the rest.
func (r *runningServer) stop(ctx context.Context) {
	r.socket.Close()
	if r.ahead != nil {
		r.ahead.Drain()
	}
	r.server.SetKeepAlivesEnabled(false) // ends idle connections, and others with their answer
	grace, cancel := context.WithTimeout(ctx, freshGrace)
	defer cancel()
	for {
		if _, fresh := r.conns.count(); fresh == 0 || grace.Err() != nil {
			break
		}
		time.Sleep(5 * time.Millisecond)
	}
	if r.server.Shutdown(ctx) != nil {
		r.server.Close()
	}
	<-r.done
}

// limit lets in so many connections at a time; the others wait in the queue of
// the socket. It is netutil.LimitListener with a way to the socket of each.
func limit(listener net.Listener, connections int) net.Listener {
	return &limited{Listener: listener, places: make(chan struct{}, connections), closed: make(chan struct{})}
}

type limited struct {
	net.Listener
	places chan struct{} // one in it for each connection
	once   sync.Once
	closed chan struct{}
}

func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed: // there may be no place before the end of the drain
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &placed{Conn: conn, leave: sync.OnceFunc(func() { <-l.places })}, nil
}

func (l *limited) Close() error {
	err := l.Listener.Close()
	l.once.Do(func() { close(l.closed) })
	return err
}

// placed is a connection of a limited listener.
type placed struct {
	net.Conn
	leave func()
}

// Close also gives the place to another.
func (c *placed) Close() error {
	err := c.Conn.Close()
	c.leave()
	return err
}

// NetConn is the connection below, as tls.Conn has it.
func (c *placed) NetConn() net.Conn { return c.Conn }

// Around is the same, of which all is read and written (conn.Around).
func (c *placed) Around() net.Conn { return c.Conn }

// turn is one server's turn at a socket: closing it ends the server's Accept
// and leaves the socket open.
type turn struct {
	net.Listener
	over atomic.Bool
	once sync.Once
}

func newTurn(socket net.Listener) *turn { return &turn{Listener: socket} }

func (t *turn) Accept() (net.Conn, error) {
	conn, err := t.Listener.Accept()
	if err != nil && t.over.Load() && errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, net.ErrClosed
	}
	return conn, err
}

// Close ends a waiting Accept with a deadline in the past. A listener without
// deadlines (one in process) is closed.
func (t *turn) Close() error {
	t.once.Do(func() {
		t.over.Store(true)
		if socket, ok := t.Listener.(interface{ SetDeadline(time.Time) error }); ok {
			_ = socket.SetDeadline(time.Unix(1, 0))
		} else {
			t.Listener.Close()
		}
	})
	return nil
}

// reopen takes the deadline off, for the next server.
func (t *turn) reopen() {
	if socket, ok := t.Listener.(interface{ SetDeadline(time.Time) error }); ok {
		_ = socket.SetDeadline(time.Time{})
	}
}
