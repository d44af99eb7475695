package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/netutil"

	"causeway/cert"
	"causeway/config"
)

// serverKind is what a socket is for.
type serverKind string

const (
	kindHTTP  serverKind = "http"
	kindHTTPS serverKind = "https"
	kindLink  serverKind = "link"
	kindAdmin serverKind = "admin"
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
}

// sockets are the listeners that a file needs.
type sockets struct {
	needed map[serverKey]net.Listener
	opened []net.Listener // those that were not open before
}

func (s *sockets) closeNew() {
	for _, socket := range s.opened {
		socket.Close()
	}
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
			d.tasks.Go(func() { old.finish(cfg.Limits.DrainTimeout) })
		}
		d.servers[key] = d.start(key, socket, settings, cfg, node, identity)
	}
	for key, old := range d.servers {
		if _, ok := s.needed[key]; !ok {
			delete(d.servers, key)
			d.tasks.Go(func() {
				old.finish(cfg.Limits.DrainTimeout)
				old.socket.Close()
			})
			old.handOver()
			old.socket.Close()
		}
	}
}

// start serves on socket.
func (d *Daemon) start(key serverKey, socket net.Listener, settings string, cfg *config.Config, node *config.Node, identity *cert.LinkIdentity) *runningServer {
	running := &runningServer{
		socket: socket, settings: settings, turn: newTurn(socket), done: make(chan struct{}),
		server: d.server(key.kind, cfg, node, identity),
	}
	running.server.BaseContext = func(net.Listener) context.Context { return d.base }
	d.tasks.Go(func() {
		defer close(running.done)
		listener := netutil.LimitListener(running.turn, cfg.Limits.Connections)
		var err error
		if key.kind == kindHTTPS || key.kind == kindLink {
			err = running.server.ServeTLS(listener, "", "")
		} else {
			err = running.server.Serve(listener)
		}
		if !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			select {
			case d.failed <- fmt.Errorf("serve %s on %s: %w", key.kind, key.address, err):
			default:
			}
		}
	})
	return running
}

// handOver makes the server take no more connections and leaves the socket
// open, with its queue, for the next.
func (r *runningServer) handOver() {
	r.turn.Close()
	<-r.done
	r.turn.reopen()
}

// finish lets the server's requests end.
func (r *runningServer) finish(limit time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	if r.server.Shutdown(ctx) != nil {
		r.server.Close()
	}
}

// stop closes the socket, lets the requests end until ctx does, and cuts the
// rest.
func (r *runningServer) stop(ctx context.Context) {
	r.socket.Close()
	if r.server.Shutdown(ctx) != nil {
		r.server.Close()
	}
	<-r.done
}

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
