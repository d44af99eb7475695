package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"causeway/config"
	"causeway/hop"
)

// keptAlive is how long an idle connection to an origin is kept: below the
// 60–75 s after which nginx, Apache and the clouds' balancers close theirs.
const keptAlive = 55 * time.Second

// reach is how a site's origins are reached: one lane for each address of
// origin.connect, by turns, or a single one.
//
//  1. send takes the next lane whose address is not left out,
//  2. the lane's transport has a connection, or dials: its own address first,
//     then the others (dial.go),
//  3. when a name in use leads elsewhere, renew puts new lanes in the place of
//     the old ones, whose requests end where they are.
type reach struct {
	fingerprint string // what it is made of
	dialer      *dialer
	roots       *x509.CertPool // nil: the system's
	sessions    tls.ClientSessionCache
	limits      config.Limits
	turn        atomic.Uint32
	lanes       atomic.Pointer[[]*lane]

	mu      sync.Mutex // guards retired, and lanes against two renewals at a time
	retired []*lane    // replaced by renew; their last requests may be under way
}

// lane is the connections that begin at one address.
type lane struct {
	plain    *http.Transport
	upgrades *http.Transport // HTTP/1.1 alone: HTTP/2 has no Upgrade (RFC 9113 §8.6)
}

func (l *lane) closeIdle() {
	l.plain.CloseIdleConnections()
	l.upgrades.CloseIdleConnections()
}

func newReach(d *dialer, roots *x509.CertPool, limits config.Limits) *reach {
	r := &reach{dialer: d, roots: roots, sessions: tls.NewLRUClientSessionCache(64), limits: limits}
	d.tooMany = r.closeIdle
	lanes := r.newLanes()
	r.lanes.Store(&lanes)
	return r
}

func (r *reach) newLanes() []*lane {
	lanes := make([]*lane, r.dialer.lanes())
	for i := range lanes {
		lanes[i] = &lane{plain: r.newTransport(i, true), upgrades: r.newTransport(i, false)}
	}
	return lanes
}

// newTransport makes the transport of a lane, with HTTP/2 or without.
func (r *reach) newTransport(lane int, http2 bool) *http.Transport {
	verify := &tls.Config{RootCAs: r.roots, MinVersion: tls.VersionTLS12, ClientSessionCache: r.sessions, NextProtos: []string{"http/1.1"}}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	if http2 {
		verify.NextProtos = []string{"h2", "http/1.1"}
		protocols.SetHTTP2(true)
	}
	return &http.Transport{
		Proxy:     nil, // the environment has no say in where an origin is
		Protocols: protocols,
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return r.dialer.dial(ctx, lane, addr)
		},
		DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return r.dialer.dialTLS(ctx, lane, addr, verify)
		},
		DisableCompression:     true,
		MaxIdleConnsPerHost:    256,
		IdleConnTimeout:        keptAlive,
		ResponseHeaderTimeout:  r.limits.OriginTimeout,
		ExpectContinueTimeout:  time.Second, // an origin that does not know 100 gets the body after it (RFC 9110 §10.1.1)
		MaxResponseHeaderBytes: int64(r.limits.HeaderBytes),
		ReadBufferSize:         16 << 10,
		WriteBufferSize:        16 << 10,
	}
}

// send makes one round trip to addr, the host:port of req's URL.
func (r *reach) send(req *http.Request, addr string, upgrade bool) (*http.Response, error) {
	if r.dialer.moved(addr) {
		r.renew()
	}
	lanes := *r.lanes.Load()
	next := lanes[0]
	if len(lanes) > 1 {
		start := int(r.turn.Add(1))
		next = lanes[start%len(lanes)]
		for i := 1; i < len(lanes) && r.dialer.leftOut(start%len(lanes), addr); i++ {
			start++
			next = lanes[start%len(lanes)]
		}
	}
	if upgrade {
		return next.upgrades.RoundTrip(req)
	}
	return hop.Exchange(req, next.plain.RoundTrip)
}

// mostRetired is how many replaced lanes are remembered, to close what idles in
// them early; others end by keptAlive.
const mostRetired = 64

// renew makes new requests dial anew.
func (r *reach) renew() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.retired = append(r.retired, *r.lanes.Load()...)
	if over := len(r.retired) - mostRetired; over > 0 {
		r.retired = r.retired[over:]
	}
	lanes := r.newLanes()
	r.lanes.Store(&lanes)
	for _, old := range r.retired {
		old.closeIdle()
	}
}

// closeIdle drops the connections that no request uses.
func (r *reach) closeIdle() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, lanes := range [][]*lane{*r.lanes.Load(), r.retired} {
		for _, l := range lanes {
			l.closeIdle()
		}
	}
}
