package link

import (
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
	"time"

	"causeway/hop"
	"causeway/outcome"
)

// Peer is the relay at the other end and how to reach it.
type Peer struct {
	Name           string
	Connections    int                                         // warm connections to keep, at least 1
	ConnectTimeout time.Duration                               // for one dial with its handshake
	DrainTimeout   time.Duration                               // how long requests may finish when Run ends
	Waits          Waits                                       // how long the relay may be silent
	TLS            *tls.Config                                 // proves this node, admits that relay alone
	Dial           func(ctx context.Context) (net.Conn, error) // the plain connection under TLS
	Log            *slog.Logger
}

// Transport is one edge's warm connections to one relay. RoundTrip may be
// called by any number of goroutines while Run runs.
type Transport struct {
	peer  Peer
	dials *http.Transport // dials and speaks HTTP/2; its own pool is not used

	mu    sync.Mutex         // guards conns
	conns []*http.ClientConn // by slot; nil while a slot has no connection

	finishing sync.WaitGroup // connections that take no more requests; Run waits for them
}

// NewTransport makes a Transport with no connection yet; Run opens them.
func NewTransport(peer Peer) *Transport {
	t := &Transport{peer: peer, conns: make([]*http.ClientConn, peer.Connections)}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	t.dials = &http.Transport{
		Protocols:          protocols,
		HTTP2:              http2Config(),
		DisableCompression: true,
		// The relay waits for the origin's word and passes it on (RFC 9110
		// §10.1.1); this bounds the wait for it over the longest of lines.
		ExpectContinueTimeout: 5 * time.Second,
		DialTLSContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			plain, err := peer.Dial(ctx)
			if err != nil {
				return nil, err
			}
			conn := tls.Client(plain, peer.TLS)
			if err := conn.HandshakeContext(ctx); err != nil {
				plain.Close()
				return nil, err
			}
			return conn, nil
		},
	}
	return t
}

// Run opens the connections and keeps them open until ctx ends, then lets the
// requests under way finish for DrainTimeout and closes. It always returns nil.
func (t *Transport) Run(ctx context.Context) error {
	var slots sync.WaitGroup
	for slot := range t.conns {
		slots.Go(func() { t.keep(ctx, slot) })
	}
	slots.Wait()
	t.finishing.Wait()
	return nil
}

// Up is the number of connections that are open now.
func (t *Transport) Up() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	up := 0
	for _, conn := range t.conns {
		if conn != nil && conn.Err() == nil {
			up++
		}
	}
	return up
}

// keep holds one slot: dial, wait for the connection's end, dial again with
// growing, jittered pauses while that fails.
func (t *Transport) keep(ctx context.Context, slot int) {
	const least, most = 50 * time.Millisecond, 5 * time.Second
	pause := least
	for ctx.Err() == nil {
		conn, err := t.dial(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return
			}
			if slot == 0 { // one voice for all slots
				t.peer.Log.Warn("link is down", "relay", t.peer.Name, "err", err, "again_in", pause)
			}
			wait(ctx, pause/2+rand.N(pause))
			pause = min(2*pause, most)
			continue
		}
		since := time.Now()
		t.hold(ctx, slot, conn)
		if time.Since(since) > most {
			pause = least
		} else { // it came up and broke at once: not so fast
			wait(ctx, rand.N(pause))
			pause = min(2*pause, most)
		}
	}
}

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
func (t *Transport) dial(ctx context.Context) (*http.ClientConn, error) {
	ctx, cancel := context.WithTimeout(ctx, t.peer.ConnectTimeout)
	defer cancel()
	// The address is only a name here: DialTLSContext knows the way.
	conn, err := t.dials.NewClientConn(ctx, "https", net.JoinHostPort(t.peer.Name, "443"))
	if err != nil {
		return nil, fmt.Errorf("dial relay %s: %w", t.peer.Name, err)
	}
	if err := t.greet(ctx, conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("greet relay %s: %w", t.peer.Name, err)
	}
	return conn, nil
}

// greet sends the hello of a new connection and waits for the answer.
func (t *Transport) greet(ctx context.Context, conn *http.ClientConn) error {
	hello, err := http.NewRequestWithContext(ctx, http.MethodHead, "https://"+t.peer.Name+"/", nil)
	if err != nil {
		return err
	}
	hello.Header.Set(helloField, helloVersion)
	res, err := conn.RoundTrip(hello)
	if err != nil {
		return err
	}
	res.Body.Close()
	if res.Header.Get(helloField) == "" {
		return errors.New("the peer does not speak the link's protocol")
	}
	return nil
}

// hold keeps conn in its slot until it takes no more requests, then leaves it
// to those under way: they end by themselves or with the connection.
func (t *Transport) hold(ctx context.Context, slot int, conn *http.ClientConn) {
	changed := make(chan struct{}, 1)
	conn.SetStateHook(func(*http.ClientConn) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	t.set(slot, conn)
	if t.Up() == 1 {
		t.peer.Log.Info("link is up", "relay", t.peer.Name)
	}
	for ctx.Err() == nil && takes(conn) {
		select {
		case <-changed:
		case <-ctx.Done():
		}
	}
	t.set(slot, nil)
	if t.Up() == 0 && ctx.Err() == nil {
		t.peer.Log.Warn("link lost its last connection", "relay", t.peer.Name, "err", conn.Err())
	}
	t.finishing.Go(func() { t.finish(ctx, conn, changed) })
}

// finish closes conn when its requests are done: the far side said GOAWAY
// (ctx goes on; the far side bounds the time) or this end stops (DrainTimeout).
func (t *Transport) finish(ctx context.Context, conn *http.ClientConn, changed <-chan struct{}) {
	defer conn.Close()
	var late <-chan time.Time
	stopping := ctx.Done()
	for conn.Err() == nil && conn.InFlight() > 0 {
		select {
		case <-changed:
		case <-stopping:
			stopping = nil
			late = time.After(t.peer.DrainTimeout)
		case <-late:
			return
		}
	}
}

// takes reports whether conn may be given another request, now or when one of
// its requests ended.
func takes(conn *http.ClientConn) bool {
	return conn.Err() == nil && (conn.Available() > 0 || conn.InFlight() >= streams)
}

func (t *Transport) set(slot int, conn *http.ClientConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns[slot] = conn
}

// reserve picks the open connection with the fewest requests and takes a place
// on it; nil when none is open.
func (t *Transport) reserve() *http.ClientConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	for range t.conns {
		var best *http.ClientConn
		least := streams
		for _, conn := range t.conns {
			if conn == nil || conn.Err() != nil {
				continue
			}
			if n := conn.InFlight(); n < least {
				best, least = conn, n
			}
		}
		if best == nil {
			return nil
		}
		if best.Reserve() == nil {
			return best
		}
	}
	return nil
}

// forget takes a connection that broke out of its slot at once, before its
// keeper hears of it.
func (t *Transport) forget(conn *http.ClientConn) {
	if conn.Err() == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if slot := slices.Index(t.conns, conn); slot >= 0 {
		t.conns[slot] = nil
	}
}

// errNotSent is in the chain of an error when the request never left this node.
var errNotSent = errors.New("no open connection")

// RoundTrip sends req to the relay: its Host and URL.Host are the public host.
// A failure that the relay reports has the relay's kind, one of the link
// itself LinkDown (never sent), LinkCut, or LinkSlow.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	conn := t.reserve()
	if conn == nil {
		return nil, outcome.Errorf(outcome.LinkDown, "send to relay %s: %w", t.peer.Name, errNotSent)
	}
	early := hop.EarlyOf(req.Context())
	ctx := httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(status int, h textproto.MIMEHeader) error {
			early(status, http.Header(h))
			return nil
		},
	})
	out := req.WithContext(ctx)
	hop.SendExpect(out.Header)
	var res *http.Response
	var err error
	silence := listen(out, t.peer.Waits.Answer)
	if hop.UpgradeOf(out.Header) != "" {
		res, err = hop.OpenTunnel(out, conn.RoundTrip)
	} else {
		res, err = hop.Exchange(out, conn.RoundTrip)
	}
	if silence.heard() {
		if err == nil {
			res.Body.Close()
		}
		return nil, outcome.Errorf(outcome.LinkSlow, "send to relay %s: no answer for %v", t.peer.Name, t.peer.Waits.Answer)
	}
	if err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		t.forget(conn)
		if strings.Contains(err.Error(), "client conn not usable") { // http2's errClientConnUnusable is not exported
			return nil, outcome.Errorf(outcome.LinkDown, "send to relay %s: %w: %w", t.peer.Name, errNotSent, err)
		}
		return nil, outcome.Errorf(outcome.LinkCut, "send to relay %s: %w", t.peer.Name, err)
	}
	t.peer.Waits.watch(res, t.peer.Name)
	if err := readError(t.peer.Name, res); err != nil {
		return nil, err
	}
	res.Header.Set(relayField, t.peer.Name)
	return res, nil
}
