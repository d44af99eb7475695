package link

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"causeway/hop"
)

// What a link says of itself, for metrics and for `causeway links`:
//
//  1. every plain connection becomes a socket before TLS: it has the settings of
//     a link's (socket.go), counts its bytes, and a slot among the sockets of its
//     path, or at a relay, once it has proven itself, of its edge,
//  2. Group.State and Callers.State ask the kernel when they are asked,
//  3. a connection that ends leaves its counts in the totals, so that these
//     never go back.

// PathState is one path of an edge to a relay, as it is now.
type PathState struct {
	Relay, Via string        // Via is the address dialled
	Prefer     int           // the smaller, the sooner
	Weight     float64       // as the file says
	State      string        // one of the States
	Why        string        // of a state that is not StateUp
	Latency    time.Duration // of a round trip to the relay and back, smoothed; 0 unknown
	InFlight   int           // requests

	Requests  uint64 // tries that went this way
	Failures  uint64 // those of them that the path failed, not the origin
	Retries   uint64 // those of them that another connection or path had failed before
	Hedges    uint64 // those of them that went beside a slow one
	Ejections uint64 // times that failures took the path out of the choice
	Failovers uint64 // requests that went over a path of a greater prefer in place of this one

	Conns  []ConnState
	Totals Totals // of Conns, and of those that ended
}

// The states of a path.
const (
	StateUp       = "up"
	StateDown     = "down"     // no connection
	StateEjected  = "ejected"  // too many failures of late
	StateDraining = "draining" // its relay stops, or was told to take no more
	StateWarming  = "warming"  // back, and given its share by and by
)

// cameBack is why a path is warming that gets nothing yet while another is up.
const cameBack = "it came back a moment ago"

// States are all of them.
var States = []string{StateUp, StateDown, StateEjected, StateDraining, StateWarming}

// State is every path as it is now, by preference; nil for a nil Group.
func (g *Group) State() []PathState {
	if g == nil {
		return nil
	}
	states := make([]PathState, 0, len(g.members))
	for _, m := range g.members {
		state := m.Transport.state(time.Now())
		state.Prefer, state.Weight = m.Prefer, float64(m.Weight)
		states = append(states, state)
	}
	for i := range states {
		if s := &states[i]; s.State == StateWarming && s.Why != cameBack && !slices.ContainsFunc(states, func(other PathState) bool {
			return other.Prefer == s.Prefer && other.State == StateUp
		}) {
			s.State, s.Why = StateUp, "" // nobody shares with it: it gets all
		}
	}
	return states
}

// state is the path without what its Group knows.
func (t *Transport) state(now time.Time) PathState {
	c := t.health.condition(now)
	s := PathState{Relay: t.peer.Name, Via: t.peer.Via, State: StateUp, Latency: c.latency}
	switch {
	case !t.isUp():
		s.State, s.Why = StateDown, t.health.whyDown()
	case c.ejected:
		s.State, s.Why = StateEjected, fmt.Sprintf("%d failures in a row", failuresToEject)
	case c.draining:
		s.State, s.Why = StateDraining, "the relay wants no more requests"
	case c.warming:
		s.State, s.Why = StateWarming, cameBack
	case c.ramp < 1:
		s.State, s.Why = StateWarming, fmt.Sprintf("it came back and gets %.0f %% of its share", 100*c.ramp)
	}
	s.Requests, s.Failures, s.Retries = t.counts.requests.Load(), t.counts.failures.Load(), t.counts.retries.Load()
	s.Hedges, s.Ejections, s.Failovers = t.counts.hedges.Load(), t.counts.ejections.Load(), t.counts.failovers.Load()
	open, conns, totals := t.sockets.states()
	s.Conns, s.Totals = conns, totals
	byLine := make(map[*socket]*warm)
	for _, w := range t.all() {
		byLine[w.line] = w
		s.InFlight += w.InFlight()
	}
	for i, line := range open {
		if w := byLine[line]; w != nil {
			s.Conns[i].Streams, s.Conns[i].Bulk = w.InFlight(), w.bulk.Load() > 0
		}
	}
	return s
}

// CallerState is one edge that this relay has connections of, or had.
type CallerState struct {
	Edge     string
	Requests uint64 // that came
	InFlight int
	Conns    []ConnState
	Totals   Totals
}

// ConnState is one connection.
type ConnState struct {
	Slot           int    // its number among those of the path that are open, from 0
	Local, Remote  string // addresses
	Since          time.Time
	Streams        int
	Bulk           bool   // carries a long body now
	Sent, Received uint64 // bytes of TLS records, by the connection
	Paced          uint64 // bytes a second that its sending is held to, so that it fills no queue; 0 for no such
	Info           SocketInfo
}

// SocketInfo is what the kernel knows of a TCP connection (TCP_INFO, tcp(7)).
// It sees loss on the way out alone: what the other end sends again, it knows.
type SocketInfo struct {
	RTT, MinRTT   time.Duration
	Segments      uint64        // of data, sent, again or not
	Retransmits   uint64        // segments sent again
	Lost          uint64        // those of them that had to be: the peer did not have them (RFC 2883)
	Cwnd, Unacked uint32        // segments
	Delivered     uint64        // bytes that arrived, in whole segments
	DeliveryRate  uint64        // bytes/s, as lately measured
	NotSent       uint32        // bytes written and not sent yet
	WindowLimited time.Duration // how long the peer's window held up what was to be sent
	BufferLimited time.Duration // how long the socket's own buffer did
	Congestion    string        // the algorithm
	Bandwidth     uint64        // bytes/s that BBR takes the line to carry; 0 for another algorithm
	Startup       bool          // BBR still looks for it
	Known         bool          // false: no socket, or a system that does not say
}

// Totals are counts of all connections of a path, those that ended too.
type Totals struct {
	Connections                  uint64 // that were opened
	Sent, Received               uint64 // bytes of TLS records
	Segments, Retransmits, Lost  uint64
	WindowLimited, BufferLimited time.Duration
	Known                        bool // the kernel said something of one of them at least
}

func (t *Totals) add(c ConnState) {
	t.Sent += c.Sent
	t.Received += c.Received
	t.Segments += c.Info.Segments
	t.Retransmits += c.Info.Retransmits
	t.Lost += c.Info.Lost
	t.WindowLimited += c.Info.WindowLimited
	t.BufferLimited += c.Info.BufferLimited
	t.Known = t.Known || c.Info.Known
}

// sockets are the connections of one path. The zero value is ready.
type sockets struct {
	mu    sync.Mutex // guards the rest
	slots []*socket  // nil where a slot is free
	gone  Totals     // of those that ended; Connections of all
}

// socket is a plain connection of a link, under TLS.
type socket struct {
	net.Conn
	since          time.Time
	sent, received atomic.Uint64
	heard          atomic.Int64 // when the last byte came, in nanoseconds after since
	streams        atomic.Int64 // requests on it, at a relay
	taken, second  atomic.Int64 // requests taken back, and within which second, Unix
	from           *caller      // at a relay, of a node; nil where none is named

	raw      syscall.RawConn // nil where there is none
	wroteAt  atomic.Int64    // when something was last written, in nanoseconds after since
	unlooked atomic.Int64    // bytes written since the last look
	paced    atomic.Uint64   // bytes a second that it is held to, 0 for no such
	pacing   sync.Mutex      // guards pacer
	pacer    pacer

	peerEnded atomic.Bool // the other end closed it, or the line did
	dismissed atomic.Bool // this end closed it, and has told why

	mu    sync.Mutex // guards the rest; taken before that of a sockets
	of    *sockets   // nil before add and after Close
	slot  int        // also guarded by of's
	ended bool
}

// newSocket gives plain the settings of a link on which so many bytes of a body may
// be under way.
func newSocket(plain net.Conn, window int) *socket {
	tune(plain, max(sendBuffer, sendWindows*window))
	return &socket{Conn: plain, since: time.Now(), raw: rawConn(plain)}
}

// take makes plain one of the path: its Close gives the slot back.
func (s *sockets) take(plain net.Conn, window int) *socket {
	c := newSocket(plain, window)
	s.add(c)
	return c
}

// add gives c a slot, unless it is closed already.
func (s *sockets) add(c *socket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.of = s
	s.mu.Lock()
	defer s.mu.Unlock()
	s.gone.Connections++
	c.slot = slices.Index(s.slots, nil)
	if c.slot < 0 {
		c.slot = len(s.slots)
		s.slots = append(s.slots, nil)
	}
	s.slots[c.slot] = c
}

// all are the connections that are open.
func (s *sockets) all() []*socket {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(s.slots), func(c *socket) bool { return c == nil })
}

// count is how many there are.
func (s *sockets) count() int { return len(s.all()) }

// states gives the connections that are open and the totals, as one look.
func (s *sockets) states() (open []*socket, states []ConnState, totals Totals) {
	s.mu.Lock()
	defer s.mu.Unlock()
	totals = s.gone
	for _, c := range s.slots {
		if c == nil {
			continue
		}
		state := c.state()
		totals.add(state)
		open, states = append(open, c), append(states, state)
	}
	return open, states, totals
}

// state is all that the socket itself knows. The lock of its sockets is held.
func (c *socket) state() ConnState {
	return ConnState{
		Slot: c.slot, Local: c.LocalAddr().String(), Remote: c.RemoteAddr().String(), Since: c.since,
		Streams: int(c.streams.Load()), Paced: c.paced.Load(),
		Sent: c.sent.Load(), Received: c.received.Load(), Info: socketInfo(c.Conn),
	}
}

func (c *socket) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.received.Add(uint64(n))
		c.heard.Store(int64(time.Since(c.since)))
	}
	c.broke(err)
	return n, err
}

// lastHeard is when the last byte came.
func (c *socket) lastHeard() time.Time { return c.since.Add(time.Duration(c.heard.Load())) }

func (c *socket) Write(p []byte) (int, error) {
	c.writes()
	n, err := c.Conn.Write(p)
	c.sent.Add(uint64(n))
	c.wrote(n)
	c.broke(err)
	return n, err
}

// broke notes an error that is the other end's, or the line's.
func (c *socket) broke(err error) {
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		c.peerEnded.Store(true)
	}
}

// Close also leaves the counts of the connection in the totals.
func (c *socket) Close() error {
	if first := c.leave(); first && c.from != nil && !c.peerEnded.Load() && !c.dismissed.Load() {
		c.from.closed(c)
	}
	return c.Conn.Close()
}

// leave gives the slot back, and reports whether nobody did before.
func (c *socket) leave() (first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first = !c.ended
	c.ended = true
	if c.of == nil {
		return first
	}
	c.of.mu.Lock()
	defer c.of.mu.Unlock()
	c.of.gone.add(c.state())
	c.of.slots[c.slot] = nil
	c.of = nil
	return first
}

// NetConn is the connection below, as tls.Conn has it.
func (c *socket) NetConn() net.Conn { return c.Conn }

// Callers are the edges that a relay has connections of (callers.go).
type Callers struct {
	// Name tells the node of a connection whose handshake is done.
	Name func(tls.ConnectionState) string
	// Most is how many connections an edge may have; nil, or 0, for as many as it
	// likes.
	Most func(edge string) int
	// Stopping says that connections end because this node does; nil is no.
	Stopping func() bool
	// Log is where is told of edges that go mad; nil for nowhere.
	Log *slog.Logger

	mu sync.Mutex         // guards of
	of map[string]*caller // by edge: those of the file, no others come in
}

// caller is one edge.
type caller struct {
	sockets
	edge     string
	callers  *Callers
	requests atomic.Uint64
	last     atomic.Int64 // when one of its requests ended, Unix nanoseconds

	refused, ended, crowded, floods limited // that the log tells of
}

// alone says that no request of the edge has ended for aloneTime: what is sent to it
// is in nobody's way. Of who is no edge nobody knows.
func (c *caller) alone(now time.Time) bool {
	return c != nil && now.Sub(time.Unix(0, c.last.Load())) > aloneTime
}

// serves counts a request on a connection of a relay, until served.
func (c *socket) serves() {
	if c != nil && c.from != nil {
		c.from.requests.Add(1)
		if c.streams.Add(1) == streams {
			c.from.full(c)
		}
	}
}

func (c *socket) served(ctx context.Context) {
	if c == nil || c.from == nil {
		return
	}
	c.streams.Add(-1)
	c.from.last.Store(time.Now().UnixNano())
	if ctx.Err() != nil {
		c.takenBack()
	}
}

// carries notes a raw stream, which is over when the function is called that it gives.
func (c *socket) carries() (over func()) {
	if c == nil || c.from == nil {
		return func() {}
	}
	c.from.requests.Add(1)
	c.streams.Add(1)
	return func() { c.served(context.Background()) }
}

// mostTakenBack is how many requests of a connection its node may take back within a
// second: as many visitors would have to leave an edge.
const mostTakenBack = 1000

// takenBack counts a request that was taken back, and ends a connection that is
// flooded with such (CVE-2023-44487).
func (c *socket) takenBack() {
	if second := time.Now().Unix(); c.second.Swap(second) != second {
		c.taken.Store(0)
	}
	if c.taken.Add(1) == mostTakenBack {
		c.from.flooded(c)
		c.dismissed.Store(true)
		c.Close()
	}
}

// connKey is where the context of a relay's request has its *socket.
type connKey struct{}

// socketOf is the connection of a request at a relay, nil when it came by
// another way.
func socketOf(ctx context.Context) *socket {
	c, _ := ctx.Value(connKey{}).(*socket)
	return c
}

// connContext is the server's: requests find their connection.
func connContext(ctx context.Context, conn net.Conn) context.Context {
	if over, ok := conn.(*tls.Conn); ok {
		if c, ok := over.NetConn().(*socket); ok {
			ctx = context.WithValue(ctx, connKey{}, c)
		}
	}
	return hop.BurstContext(ctx, conn)
}

// State is what there is of each edge, by name.
func (c *Callers) State() []CallerState {
	c.mu.Lock()
	of := maps.Clone(c.of)
	c.mu.Unlock()
	states := make([]CallerState, 0, len(of))
	for _, edge := range slices.Sorted(maps.Keys(of)) {
		state := CallerState{Edge: edge, Requests: of[edge].requests.Load()}
		_, state.Conns, state.Totals = of[edge].states()
		for _, conn := range state.Conns {
			state.InFlight += conn.Streams
		}
		states = append(states, state)
	}
	return states
}
