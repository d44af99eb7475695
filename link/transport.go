package link

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"causeway/hop"
	"causeway/outcome"
)

// Peer is the relay at the other end and how to reach it.
type Peer struct {
	Name            string
	Via             string                                      // the address, for people
	Connections     int                                         // warm connections to keep, at least 1
	MostConnections int                                         // with those opened while all are busy; less than Connections is as many
	ConnectTimeout  time.Duration                               // for one dial with its handshake
	DrainTimeout    time.Duration                               // how long requests may finish when Run ends
	Waits           Waits                                       // how long the relay may be silent
	Window          int                                         // bytes that a connection may hold unread; 0 is the least there is
	BodyWindow      int                                         // bytes of one body that may be under way unread, either way; 0 is 4 MiB
	HeaderBytes     int                                         // of an answer, HeaderBytes of the limit; 0 is that of none
	TLS             *tls.Config                                 // proves this node, admits that relay alone
	Dial            func(ctx context.Context) (net.Conn, error) // the plain connection under TLS
	Log             *slog.Logger
}

const (
	// crowd is as many requests as a connection carries before another is opened,
	// where that is allowed.
	crowd = 100
	// extraIdle is how long a connection beyond Peer.Connections may be without a
	// request.
	extraIdle = time.Minute
	// roundTrips are as many as it takes until the kernel's RTO (RFC 6298 §2, with
	// Linux's floor under RTTVAR) has come from three round trips down to one and
	// leastRetransmit. They cost some 2.5 KB.
	roundTrips = 10
	// goAwayTime is how soon a connection is given up whose far side has said GOAWAY:
	// net/http tells nobody of it as long as the connection carries something.
	goAwayTime = time.Second
	// connAge is how long a connection is kept, less up to a quarter: nodes show
	// new certificates when they connect.
	connAge = 12 * time.Hour
)

// Transport is one edge's warm connections to one relay by one path. RoundTrip
// may be called by any number of goroutines while Run runs.
type Transport struct {
	peer    Peer
	dials   *http.Transport // dials and speaks HTTP/2; its own pool is not used
	health  health
	counts  counts
	sockets sockets
	more    chan struct{} // asks for another connection
	awaits  chan struct{} // something is awaited from a connection

	mu    sync.Mutex         // guards the rest
	slots []*warm            // nil while a slot has no connection; those from peer.Connections on are extra
	old   map[*warm]struct{} // that take no more requests

	tasks sync.WaitGroup // all that Run must wait for besides the slots
}

// counts are what is counted of a path.
type counts struct {
	requests, failures, retries, hedges, ejections, failovers atomic.Uint64
}

// NewTransport makes a Transport with no connection yet; Run opens them.
func NewTransport(peer Peer) *Transport {
	peer.MostConnections = max(peer.MostConnections, peer.Connections)
	peer.BodyWindow = cmp.Or(peer.BodyWindow, bodyWindow)
	t := &Transport{peer: peer, slots: make([]*warm, peer.MostConnections), more: make(chan struct{}, 1), awaits: make(chan struct{}, 1), old: make(map[*warm]struct{})}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	t.dials = &http.Transport{
		Protocols:          protocols,
		HTTP2:              http2Config(peer.BodyWindow, peer.Window),
		DisableCompression: true,
		// A relay that went mad must not fill this node with ten times as much.
		MaxResponseHeaderBytes: int64(max(peer.HeaderBytes, headerBytes)),
		// The relay waits for the origin's word and passes it on (RFC 9110
		// §10.1.1); this bounds the wait for it over the longest of lines.
		ExpectContinueTimeout: 5 * time.Second,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			plain, err := peer.Dial(ctx)
			if err != nil {
				return nil, err
			}
			counted := t.sockets.take(plain, t.peer.BodyWindow)
			if dialled, ok := ctx.Value(socketKey{}).(**socket); ok {
				*dialled = counted
			}
			conn := tls.Client(counted, peer.TLS)
			if err := conn.HandshakeContext(ctx); err != nil {
				counted.Close()
				return nil, err
			}
			return conn, nil
		},
	}
	return t
}

// socketKey is for where DialTLSContext puts what it dialled.
type socketKey struct{}

// Run opens the connections and keeps them open until ctx ends, then lets the
// requests under way finish for DrainTimeout and closes. It always returns nil.
func (t *Transport) Run(ctx context.Context) error {
	var slots sync.WaitGroup
	for slot := range t.peer.Connections {
		slots.Go(func() { t.keep(ctx, slot) })
	}
	slots.Go(func() { t.watch(ctx) })
	slots.Go(func() { t.probe(ctx) })
	slots.Go(func() { t.grow(ctx, &slots) })
	slots.Wait()
	t.tasks.Wait()
	return nil
}

// Up is the number of connections that are open now and take requests.
func (t *Transport) Up() int { return len(t.open()) }

// open are the connections that take requests.
func (t *Transport) open() []*warm {
	t.mu.Lock()
	defer t.mu.Unlock()
	open := make([]*warm, 0, len(t.slots))
	for _, w := range t.slots {
		if w != nil && w.takes() {
			open = append(open, w)
		}
	}
	return open
}

// isUp reports whether a connection takes requests.
func (t *Transport) isUp() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.ContainsFunc(t.slots, func(w *warm) bool { return w != nil && w.takes() })
}

// all are the connections that are open, with those that take no more requests.
func (t *Transport) all() []*warm {
	all := t.open()
	t.mu.Lock()
	defer t.mu.Unlock()
	for w := range t.old {
		all = append(all, w)
	}
	return all
}

// keep holds one slot: dial, wait for the connection's end, dial again with
// growing, jittered pauses while that fails.
func (t *Transport) keep(ctx context.Context, slot int) {
	const least, most = 50 * time.Millisecond, 5 * time.Second
	pause := least
	for ctx.Err() == nil {
		w, err := t.dial(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			if !t.isUp() {
				t.health.isDown(err)
			}
			if slot == 0 && t.of(slot) == nil { // one voice for all slots
				t.peer.Log.Warn("link is down", "relay", t.peer.Name, "via", t.peer.Via, "err", err, "again_in", pause)
			}
			wait(ctx, pause/2+rand.N(pause))
			pause = min(2*pause, most)
			continue
		}
		t.put(ctx, slot, w)
		t.tasks.Go(func() { t.acquaint(ctx, w) })
		t.hold(ctx, slot, w, 0)
		if time.Since(w.since) > most {
			pause = least
		} else { // it came up and broke at once: not so fast
			wait(ctx, rand.N(pause))
			pause = min(2*pause, most)
		}
	}
}

// grow opens connections beyond the first ones when it is asked to.
func (t *Transport) grow(ctx context.Context, slots *sync.WaitGroup) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.more:
		}
		if slot := t.extraSlot(); slot >= 0 {
			if w, err := t.dial(ctx); err == nil {
				t.put(ctx, slot, w)
				t.tasks.Go(func() { t.acquaint(ctx, w) })
				slots.Go(func() { t.hold(ctx, slot, w, extraIdle) })
			} else {
				wait(ctx, time.Second)
			}
		}
	}
}

// extraSlot is one that is free, -1 when there is none.
func (t *Transport) extraSlot() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := slices.Index(t.slots[t.peer.Connections:], nil); n >= 0 {
		return t.peer.Connections + n
	}
	return -1
}

// errSilent is why a path is down whose connections say nothing of it.
var errSilent = errors.New("its connections were silent, or ended")

// wait sleeps for d or until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// dial opens one connection.
func (t *Transport) dial(ctx context.Context) (*warm, error) {
	ctx, cancel := context.WithTimeout(ctx, t.peer.ConnectTimeout)
	defer cancel()
	var dialled *socket
	// The address is only a name here: DialTLSContext knows the way.
	conn, err := t.dials.NewClientConn(context.WithValue(ctx, socketKey{}, &dialled), "https", net.JoinHostPort(t.peer.Name, "443"))
	if err != nil {
		return nil, fmt.Errorf("dial relay %s: %w", t.peer.Name, err)
	}
	start := time.Now()
	version, err := t.greet(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("greet relay %s: %w", t.peer.Name, err)
	}
	rtt := time.Since(start)
	t.health.measured(rtt)
	w := newWarm(conn, dialled, rtt, func() { t.spare(); t.awaiting() })
	w.version = version
	return w, nil
}

// greet sends a hello and waits for the answer: the first one of a connection,
// or a sign of life. It gives the version of the link that the relay speaks.
func (t *Transport) greet(ctx context.Context, conn *http.ClientConn) (version string, err error) {
	hello, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+t.peer.Name+"/", nil)
	if err != nil {
		return "", err
	}
	hello.Header = http.Header{helloField: {helloVersion}, "User-Agent": nil}
	res, err := conn.RoundTrip(hello)
	if err != nil {
		return "", err
	}
	res.Body.Close()
	version = res.Header.Get(helloField)
	if version == "" {
		return "", errors.New("the peer does not speak the link's protocol")
	}
	t.drains(res.Header)
	return version, nil
}

// acquaint has the kernels of both ends learn how long a round trip of a long
// line is: a lost packet with nothing behind it is missed after three of them on
// a new connection, and after little more than one when they are known.
func (t *Transport) acquaint(ctx context.Context, w *warm) {
	if w.roundTrip() < shortLine {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 4*roundTrips*w.roundTrip())
	defer cancel()
	for range roundTrips {
		start := time.Now()
		if _, err := t.greet(ctx, w.ClientConn); err != nil {
			return // those who need the connection find out what is wrong
		}
		w.took(time.Since(start))
	}
}

// drains reads what an answer says of its relay.
func (t *Transport) drains(h http.Header) {
	if draining := h[drainField] != nil; t.health.drains(draining) {
		message := "relay takes requests again"
		if draining {
			message = "relay drains: other relays are taken"
		}
		t.peer.Log.Info(message, "relay", t.peer.Name, "via", t.peer.Via)
	}
	delete(h, drainField)
}

// put gives a slot its connection; the one before takes no more requests.
func (t *Transport) put(ctx context.Context, slot int, w *warm) {
	t.mu.Lock()
	before := t.slots[slot]
	first := !slices.ContainsFunc(t.slots, func(w *warm) bool { return w != nil && w.takes() })
	t.slots[slot] = w
	t.mu.Unlock()
	if before != nil {
		t.retire(ctx, before)
	}
	if first {
		t.health.up(time.Now())
		t.peer.Log.Info("link is up", "relay", t.peer.Name, "via", t.peer.Via)
	}
}

func (t *Transport) of(slot int) *warm {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.slots[slot]
}

// hold waits until w takes no more requests and leaves it to those under way:
// they end by themselves or with the connection. One that is old stays in its
// slot until there is another. idle ends a connection that has no request for so
// long; 0 is never.
func (t *Transport) hold(ctx context.Context, slot int, w *warm, idle time.Duration) {
	age := time.NewTimer(connAge*3/4 + rand.N(connAge/4))
	defer age.Stop()
	var unused *time.Timer
	var bored <-chan time.Time
	if idle > 0 {
		unused = time.NewTimer(idle)
		defer unused.Stop()
		bored = unused.C
	}
	look := time.NewTicker(goAwayTime)
	defer look.Stop()
	for ctx.Err() == nil && w.takes() {
		select {
		case <-look.C:
			continue
		case <-w.changed:
			if unused != nil {
				unused.Reset(idle)
			}
			continue
		case <-age.C:
			if idle == 0 {
				return
			}
		case <-bored:
			if w.InFlight() > 0 {
				unused.Reset(idle)
				continue
			}
		case <-w.over:
		case <-ctx.Done():
		}
		break
	}
	t.mu.Lock()
	if t.slots[slot] == w {
		t.slots[slot] = nil
	}
	t.mu.Unlock()
	if !t.isUp() && ctx.Err() == nil {
		why := w.Err()
		if why == nil {
			why = errSilent
		}
		t.health.isDown(why)
		t.peer.Log.Warn("link lost its last connection", "relay", t.peer.Name, "via", t.peer.Via, "err", why)
	}
	t.retire(ctx, w)
}

// retire leaves w to its requests.
func (t *Transport) retire(ctx context.Context, w *warm) {
	t.mu.Lock()
	t.old[w] = struct{}{}
	t.mu.Unlock()
	t.tasks.Go(func() {
		t.finish(ctx, w)
		t.mu.Lock()
		delete(t.old, w)
		t.mu.Unlock()
	})
}

// finish closes w when its requests are done: the far side said GOAWAY (ctx
// goes on; the far side bounds the time), or it is silent (HTTP/2's pings do) or
// old, or this end stops (DrainTimeout). One that is silent is kept while there is
// no other: the line may yet deliver what it is given.
func (t *Transport) finish(ctx context.Context, w *warm) {
	defer w.shut()
	var late <-chan time.Time
	stopping := ctx.Done()
	lastHope := func() bool { return ctx.Err() == nil && w.isEnded() && !t.isUp() }
	for w.Err() == nil && (w.ClientConn.InFlight() > 0 || w.raws.Load() > 0 || lastHope()) {
		var look <-chan time.Time
		if w.InFlight() == 0 {
			look = time.After(tick)
			if !lastHope() {
				w.endTunnel()
			}
		}
		select {
		case <-w.changed:
		case <-look:
		case <-stopping:
			stopping = nil
			late = time.After(t.peer.DrainTimeout)
		case <-late:
			return
		}
	}
}

// reserve takes a place on the open connection that is busy with the fewest long
// bodies, and of those has the fewest requests; nil when none is open.
func (t *Transport) reserve() *warm {
	t.mu.Lock()
	defer t.mu.Unlock()
	for range t.slots {
		best := leastBusy(t.slots)
		if best == nil {
			return nil
		}
		if best.InFlight() >= crowd {
			t.wantMore()
		}
		if best.Reserve() == nil {
			return best
		}
	}
	return nil
}

// spare sees to it that long bodies take none of Peer.Connections from the short
// answers to come: those that share a connection wait for each other's lost
// packets.
func (t *Transport) spare() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if free(t.slots) < t.peer.Connections {
		t.wantMore()
	}
}

// free is how many connections carry no long body.
func free(slots []*warm) (n int) {
	for _, w := range slots {
		if w != nil && w.Err() == nil && w.bulk.Load() == 0 {
			n++
		}
	}
	return n
}

// wantMore asks grow for another connection.
func (t *Transport) wantMore() {
	select {
	case t.more <- struct{}{}:
	default:
	}
}

// leastBusy is the connection for the next request.
func leastBusy(slots []*warm) (best *warm) {
	var bulk int32
	least := streams
	for _, w := range slots {
		if w == nil || !w.takes() {
			continue
		}
		n, long := w.InFlight(), w.bulk.Load()
		if n < streams && (best == nil || long < bulk || long == bulk && n < least) {
			best, least, bulk = w, n, long
		}
	}
	return best
}

// least is the connection to measure the path by.
func (t *Transport) least() *warm {
	t.mu.Lock()
	defer t.mu.Unlock()
	return leastBusy(t.slots)
}

// reserveOld is reserve for when nothing else is left: a connection that is
// silent, or about to close, may yet carry a request.
func (t *Transport) reserveOld() *warm {
	t.mu.Lock()
	defer t.mu.Unlock()
	for w := range t.old {
		if w.Err() == nil && w.Reserve() == nil {
			return w
		}
	}
	return nil
}

// forget takes a connection that broke out of its slot at once, before its
// keeper hears of it.
func (t *Transport) forget(w *warm) {
	if w.Err() == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if slot := slices.Index(t.slots, w); slot >= 0 {
		t.slots[slot] = nil
	}
}

// errNotSent is in the chain of an error when the request never left this node.
var errNotSent = errors.New("no open connection")

// errMoved is in the chain of an error when the request is to be sent elsewhere,
// as its connection says nothing.
var errMoved = errors.New("the connection is silent")

// errNotTaken is in the chain of an error when the relay says that it has done
// nothing with the request (RFC 9113 §8.7).
var errNotTaken = errors.New("the relay took no more requests")

// notTaken reports whether err, of net/http, says so: the relay stopped, or has as
// many streams as it may. Neither error is exported.
func notTaken(err error) bool {
	return strings.Contains(err.Error(), "graceful shutdown GOAWAY") || strings.Contains(err.Error(), "REFUSED_STREAM")
}

// RoundTrip sends req to the relay: its Host and URL.Host are the public host.
// A failure that the relay reports has the relay's kind, one of the link
// itself LinkDown (never sent), LinkCut, or LinkSlow.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.send(req, t.reserve(), nil)
}

// send is RoundTrip over w, on which a place is reserved. While the answer has
// not begun and mayMove says so, a silent connection ends the wait with errMoved;
// without mayMove it does not.
func (t *Transport) send(req *http.Request, w *warm, mayMove func() bool) (*http.Response, error) {
	if w == nil {
		return nil, outcome.Errorf(outcome.LinkDown, "send to relay %s: %w", t.peer.Name, errNotSent)
	}
	t.counts.requests.Add(1)
	early := hop.EarlyOf(req.Context())
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
			early(status, http.Header(h))
			return nil
		},
	})
	out := req.WithContext(ctx)
	body := watchBody(out)
	hop.SendExpect(out.Header)
	leaner(out, w.version)
	var res *http.Response
	var err error
	silence := listen(out, t.peer.Waits.Answer, int64(t.peer.BodyWindow), w, mayMove)
	t.awaiting()
	first := firstOf(req)
	switch {
	case first != nil:
		res, err = t.openStream(out, w, first)
	case hop.UpgradeOf(out.Header) != "":
		res, err = hop.OpenTunnel(out, w.RoundTrip)
	default:
		res, err = hop.Exchange(out, w.RoundTrip)
	}
	if late, moved := silence.heard(); late || moved {
		if err == nil {
			res.Body.Close()
		}
		if moved {
			return nil, outcome.Errorf(outcome.LinkCut, "send to relay %s: %w", t.peer.Name, errMoved)
		}
		return nil, outcome.Errorf(outcome.LinkSlow, "send to relay %s: no answer for %v", t.peer.Name, t.peer.Waits.Answer)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if failed := body.failed(); failed != nil { // says nothing of the line
			return nil, failed
		}
		t.forget(w)
		if strings.Contains(err.Error(), "client conn not usable") { // http2's errClientConnUnusable is not exported
			return nil, outcome.Errorf(outcome.LinkDown, "send to relay %s: %w: %w", t.peer.Name, errNotSent, err)
		}
		if errors.Is(err, errNotSent) { // a relay that takes no streams is no path that fails
			return nil, outcome.Errorf(outcome.LinkDown, "send to relay %s: %w", t.peer.Name, err)
		}
		if notTaken(err) {
			return nil, outcome.Errorf(outcome.LinkCut, "send to relay %s: %w: %w", t.peer.Name, errNotTaken, err)
		}
		return nil, outcome.Errorf(outcome.LinkCut, "send to relay %s: %w", t.peer.Name, err)
	}
	if first == nil { // which says nothing of the relay
		t.drains(res.Header)
	}
	w.carry(res)
	t.peer.Waits.watch(res, t.peer.Name)
	if err := readError(t.peer.Name, res); err != nil {
		return nil, err
	}
	res.Header.Set(relayField, t.peer.Name)
	res.Header.Set(viaField, t.peer.Via)
	return res, nil
}
