package link

import (
	"context"
	"crypto/tls"
	"errors"
	"log"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"causeway/hop"
)

// Whoever connects to a link is a stranger until its handshake is done:
//
//  1. Serve gives the server the connections of a door, which notes each one as
//     a stranger,
//  2. the server shakes hands, within handshakeTimeout; who proves to be a node
//     is no stranger any more, and is in no one's way,
//  3. a stranger for whom there is no place takes that of another, the oldest of
//     the source that has most, or is turned away.
//
// So strangers are in the way of strangers alone, and first of those that come
// from where they come from.

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
	return server.Serve(&door{Listener: listener, callers: c, peers: server.TLSConfig, log: server.ErrorLog})
}

// door is a listener whose connections are strangers at first.
type door struct {
	net.Listener
	callers *Callers
	peers   *tls.Config
	log     *log.Logger

	mu         sync.Mutex  // guards the rest, and the strangers' turnedAway
	strangers  []*stranger // the oldest first
	turnedAway int         // not told of yet
	told       time.Time
}

// stranger is a connection that has not proven itself, and the node it becomes.
type stranger struct {
	*tls.Conn
	socket     *socket // below TLS
	door       *door
	from       *caller // set by its handshake
	source     string
	since      time.Time
	turnedAway bool
}

// Accept shakes no hands: that is the server's, on a goroutine of the connection.
func (d *door) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		below := newSocket(conn)
		s := &stranger{Conn: tls.Server(below, d.peers), socket: below, door: d, source: sourceOf(conn.RemoteAddr()), since: time.Now()}
		away := d.admit(s)
		if away != nil {
			away.NetConn().Close() // not Conn's: a handshake may be under way
			d.tell(away)
		}
		if away != s {
			return s, nil
		}
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
		d.log.Printf("%s%d of them, the last from %s", turnedAwayLine, d.turnedAway, last.RemoteAddr())
		d.told, d.turnedAway = now, 0
	}
}

// turnedAwayLine begins the line that tells of them.
const turnedAwayLine = "turned away: "

// errTurnedAway is what ended a stranger's handshake.
var errTurnedAway = errors.New("turned away for others to come in")

// HandshakeContext makes a node of the stranger.
func (s *stranger) HandshakeContext(ctx context.Context) error {
	err := s.Conn.HandshakeContext(ctx)
	s.door.mu.Lock()
	defer s.door.mu.Unlock()
	s.door.remove(s)
	if s.turnedAway {
		return errTurnedAway
	}
	if err == nil {
		s.from = s.door.callers.prove(s.socket, s.ConnectionState())
	}
	return err
}

// serves counts a request on the stranger's connection, until served.
func (s *stranger) serves() {
	if s != nil && s.from != nil {
		s.from.requests.Add(1)
		s.socket.streams.Add(1)
	}
}

func (s *stranger) served() {
	if s != nil && s.from != nil {
		s.socket.streams.Add(-1)
	}
}

// strangerKey is where a request's context has its *stranger.
type strangerKey struct{}

// strangerOf is the connection of a request at a relay, nil when it came by
// another way.
func strangerOf(ctx context.Context) *stranger {
	s, _ := ctx.Value(strangerKey{}).(*stranger)
	return s
}

// Close also takes a stranger from the door that never shook hands.
func (s *stranger) Close() error {
	s.door.mu.Lock()
	s.door.remove(s)
	s.door.mu.Unlock()
	return s.Conn.Close()
}

// bursts is the server's ConnContext: requests find their connection.
func bursts(ctx context.Context, conn net.Conn) context.Context {
	if s, ok := conn.(*stranger); ok {
		ctx, conn = context.WithValue(ctx, strangerKey{}, s), s.Conn
	}
	return hop.BurstContext(ctx, conn)
}

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
