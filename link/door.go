package link

import (
	"context"
	"crypto/tls"
	"log"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// Whoever connects to a link is a stranger until its handshake is done:
//
//  1. a door takes the connections in place of the server, notes each one as a
//     stranger and shakes hands with it, within handshakeTimeout,
//  2. who proves to be a node is no stranger any more, is in no one's way, and
//     goes on to the server,
//  3. a stranger for whom there is no place takes that of another, the oldest of
//     the source that has most, or is turned away.
//
// So strangers are in the way of strangers alone, and first of those that come
// from where they come from. The server gets *tls.Conn and nothing around it:
// net/http before Go 1.27 speaks HTTP/2 on no other.

const (
	// handshakeTimeout is how long a stranger has to prove itself: three round
	// trips of a line with 300 ms and some lost packets.
	handshakeTimeout = 5 * time.Second

	// MostStrangers is how many there may be at a time. Each takes some 20 KB.
	MostStrangers = 512
	// mostOfSource is how many of them one source may have: all connections of
	// some edges, which come at once when the relay has started.
	mostOfSource = 64

	// fairTime is how long a stranger keeps its place against others of its
	// source: enough for a node's handshake.
	fairTime = time.Second

	// turnedAwayPause is how often the log tells of those turned away.
	turnedAwayPause = 10 * time.Second
)

// Serve is that of Callers, for one who does not ask for them.
func Serve(server *http.Server, listener net.Listener) error {
	return new(Callers).Serve(server, listener)
}

// Serve takes connections from listener for server, which NewServer made, until
// the server is closed. limits.connections is a matter of the listener: it must
// let in MostStrangers more.
func (c *Callers) Serve(server *http.Server, listener net.Listener) error {
	if lines, ok := server.ErrorLog.Writer().(refusals); ok {
		lines.callers = c
		server.ErrorLog = log.New(lines, "", 0)
	}
	d := &door{
		Listener: listener, callers: c, peers: server.TLSConfig, log: server.ErrorLog, window: server.HTTP2.MaxReceiveBufferPerStream,
		nodes: make(chan net.Conn), failures: make(chan error), closed: make(chan struct{}),
	}
	err := server.Serve(d)
	d.Close()
	d.busy.Wait()
	return err
}

// door is a listener of connections that are done with their handshake.
type door struct {
	net.Listener
	callers *Callers
	peers   *tls.Config
	log     *log.Logger
	window  int // of a body

	nodes    chan net.Conn // that go on to the server
	failures chan error    // of Listener: the server knows which are for good
	opening  sync.Once
	closing  sync.Once
	closed   chan struct{}
	busy     sync.WaitGroup // take, and a goroutine for each stranger

	mu         sync.Mutex  // guards the rest, and the strangers' turnedAway
	strangers  []*stranger // the oldest first
	turnedAway int         // not told of yet
	told       time.Time
}

// stranger is a connection that has not proven itself.
type stranger struct {
	socket     *socket
	source     string
	since      time.Time
	turnedAway bool
}

// Accept gives a node's connection. Its first call begins to take them: before
// that the server may still change the peers' configuration.
func (d *door) Accept() (net.Conn, error) {
	d.opening.Do(func() { d.busy.Go(d.take) })
	select {
	case conn := <-d.nodes:
		return conn, nil
	case err := <-d.failures:
		return nil, err
	case <-d.closed:
		return nil, net.ErrClosed
	}
}

// Close also puts the strangers out.
func (d *door) Close() error {
	d.closing.Do(func() { close(d.closed) })
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, s := range d.strangers {
		s.socket.Close()
	}
	return d.Listener.Close()
}

// take lets strangers in until the door is closed.
func (d *door) take() {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			select {
			case d.failures <- err: // the server waits with its next Accept, or closes the door
				continue
			case <-d.closed:
				return
			}
		}
		s := &stranger{socket: newSocket(conn, d.window), source: sourceOf(conn.RemoteAddr()), since: time.Now()}
		away := d.admit(s)
		if away != nil {
			away.socket.Close()
			d.tell(away)
		}
		if away != s {
			d.busy.Go(func() { d.shake(s) })
		}
	}
}

// shake makes a node of the stranger, or puts it out.
func (d *door) shake(s *stranger) {
	ctx, cancel := context.WithTimeout(context.Background(), handshakeTimeout)
	defer cancel()
	conn := tls.Server(s.socket, d.peers)
	err := net.ErrClosed
	if !d.isClosed() { // since it was let in: Close has not seen it
		err = conn.HandshakeContext(ctx)
	}
	if away := d.leave(s); away || err != nil {
		if !away && !d.isClosed() {
			d.log.Printf("%s%s: %v", refusedLine, s.socket.RemoteAddr(), err)
		}
		s.socket.Close()
		return
	}
	d.callers.prove(s.socket, conn.ConnectionState())
	select {
	case d.nodes <- conn:
	case <-d.closed:
		s.socket.Close()
	}
}

// leave makes s no stranger any more, and reports whether it was turned away.
func (d *door) leave(s *stranger) (turnedAway bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remove(s)
	return s.turnedAway
}

func (d *door) isClosed() bool {
	select {
	case <-d.closed:
		return true
	default:
		return false
	}
}

// admit finds a place for s, and gives the one that has none: nil, another, or s
// itself.
func (d *door) admit(s *stranger) (away *stranger) {
	d.mu.Lock()
	defer d.mu.Unlock()
	of := make(map[string]int, len(d.strangers))
	most := s.source
	for _, other := range d.strangers {
		of[other.source]++
		if of[other.source] > of[most] {
			most = other.source
		}
	}
	switch own := of[s.source]; {
	case own >= mostOfSource:
		away = d.oldest(s.source)
	case len(d.strangers) >= MostStrangers:
		away = d.oldest(most)
	}
	if away != nil && of[away.source] <= of[s.source] && s.since.Sub(away.since) < fairTime {
		return s
	}
	if away != nil {
		away.turnedAway = true
		d.remove(away)
	}
	d.strangers = append(d.strangers, s)
	return away
}

// oldest is the oldest stranger of a source. d.mu is held.
func (d *door) oldest(source string) *stranger {
	return d.strangers[slices.IndexFunc(d.strangers, func(s *stranger) bool { return s.source == source })]
}

// remove makes s no stranger any more. d.mu is held.
func (d *door) remove(s *stranger) {
	if i := slices.Index(d.strangers, s); i >= 0 {
		d.strangers = slices.Delete(d.strangers, i, i+1)
	}
}

// tell logs, now and then, how many were turned away.
func (d *door) tell(last *stranger) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.turnedAway++
	if now := time.Now(); now.Sub(d.told) >= turnedAwayPause {
		d.log.Printf("%s%d of them, the last from %s", turnedAwayLine, d.turnedAway, last.socket.RemoteAddr())
		d.told, d.turnedAway = now, 0
	}
}

// How the lines of the log begin that tell of strangers.
const (
	turnedAwayLine = "turned away: "
	refusedLine    = "refused: "
)

// sourceOf is who may be behind an address: all of an IPv4 address, and the
// whole /64 of an IPv6 one, in which a host has addresses as it likes.
func sourceOf(addr net.Addr) string {
	from, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return addr.String()
	}
	ip := from.Addr().Unmap().WithZone("")
	if ip.Is4() {
		return ip.String()
	}
	network, _ := ip.Prefix(64) // fails for no IPv6 address
	return network.String()
}
