package relay

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"causeway/outcome"
)

const (
	// ejectFirst and ejectMost are how long an address that failed is left
	// out; the pause doubles while it goes on failing. nginx's fail_timeout is
	// 10 s.
	ejectFirst = 10 * time.Second
	ejectMost  = 2 * time.Minute

	// mostOpen connections make the next ones drop those that are idle: below
	// a wildcard clients choose the names, and each name has connections of
	// its own that would be kept alive. Looked at once in purgePause, so that
	// a site which has so many in use keeps most of its idle ones.
	mostOpen   = 2048
	purgePause = 100 * time.Millisecond
)

// dialer connects to the addresses of a site's origins: the configured ones or
// those the DNS gives, by turns, those that failed last.
type dialer struct {
	connect map[string][]string // host:port of the origin URL -> host:port to dial; immutable
	names   *resolver
	timeout time.Duration
	turn    atomic.Uint32
	changed func() // drops idle connections: the addresses of a name changed, or too many are open; set once, before use
	open    atomic.Int64
	purged  atomic.Int64 // when idle ones were last dropped for being many, Unix nanoseconds

	mu      sync.Mutex // guards ejected
	ejected map[string]ejection
}

// ejection is an address that failed.
type ejection struct {
	until time.Time
	pause time.Duration
}

func newDialer(connect map[string][]string, names *resolver, timeout time.Duration) *dialer {
	return &dialer{connect: connect, names: names, timeout: timeout, changed: func() {}, ejected: make(map[string]ejection)}
}

// dial opens a plain connection for addr, the host:port of an origin URL.
func (d *dialer) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	return d.each(ctx, addr, func(ctx context.Context, conn net.Conn) (net.Conn, error) { return conn, nil })
}

// dialTLS opens a TLS connection for addr, verified for addr's host.
func (d *dialer) dialTLS(ctx context.Context, addr string, verify *tls.Config) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, outcome.Errorf(outcome.BadRequest, "dial origin: %w", err)
	}
	return d.each(ctx, addr, func(ctx context.Context, conn net.Conn) (net.Conn, error) {
		settings := verify.Clone()
		settings.ServerName = host
		secure := tls.Client(conn, settings)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, outcome.Errorf(outcome.OriginTLS, "handshake with %s at %s: %w", host, conn.RemoteAddr(), err)
		}
		return secure, nil
	})
}

// each tries the addresses for addr until one connects and shakes hands.
func (d *dialer) each(ctx context.Context, addr string, shake func(context.Context, net.Conn) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	candidates, err := d.candidates(ctx, addr)
	if err != nil {
		return nil, err
	}
	var failures []error
	for i, candidate := range candidates {
		conn, err := d.one(ctx, candidate, len(candidates)-i, shake)
		if err == nil {
			d.recovered(candidate)
			return conn, nil
		}
		failures = append(failures, err)
		if ctx.Err() != nil {
			break
		}
		d.failed(candidate)
	}
	return nil, errors.Join(failures...)
}

// one tries one address, within its share of the time that is left.
func (d *dialer) one(ctx context.Context, address string, left int, shake func(context.Context, net.Conn) (net.Conn, error)) (net.Conn, error) {
	if end, ok := ctx.Deadline(); ok && left > 1 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(end)/2)
		defer cancel()
	}
	var plain net.Dialer
	conn, err := plain.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, outcome.Errorf(outcome.OriginDial, "dial origin %s: %w", address, err)
	}
	d.purge()
	conn = d.opened(conn)
	shaken, err := shake(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return shaken, nil
}

// purge drops idle connections when too many are open.
func (d *dialer) purge() {
	now, last := time.Now().UnixNano(), d.purged.Load()
	if d.open.Load() >= mostOpen && now-last > int64(purgePause) && d.purged.CompareAndSwap(last, now) {
		d.changed()
	}
}

// opened counts conn until it is closed.
func (d *dialer) opened(conn net.Conn) net.Conn {
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		return conn
	}
	d.open.Add(1)
	return &openConn{TCPConn: tcp, closed: sync.OnceFunc(func() { d.open.Add(-1) })}
}

// openConn is a connection that its dialer counts.
type openConn struct {
	*net.TCPConn
	closed func()
}

func (c *openConn) Close() error {
	c.closed()
	return c.TCPConn.Close()
}

// candidates are the addresses for addr, all of them: the good ones by turns,
// then those left out, for when nothing else is left.
func (d *dialer) candidates(ctx context.Context, addr string) ([]string, error) {
	var all []string
	for _, target := range d.targets(addr) {
		host, port, err := net.SplitHostPort(target)
		if err != nil {
			return nil, outcome.Errorf(outcome.OriginDial, "dial origin %s: %w", target, err)
		}
		if ip, err := netip.ParseAddr(host); err == nil {
			all = append(all, net.JoinHostPort(ip.String(), port))
			continue
		}
		ips, moved, err := d.names.lookup(ctx, host)
		if err != nil {
			return nil, outcome.Errorf(outcome.OriginName, "resolve origin %s: %w", host, err)
		}
		if moved {
			d.changed()
		}
		for _, ip := range ips {
			all = append(all, net.JoinHostPort(ip.String(), port))
		}
	}
	if len(all) == 0 {
		return nil, outcome.Errorf(outcome.OriginName, "resolve origin %s: no address", addr)
	}
	start := int(d.turn.Add(1)) % len(all)
	good := make([]string, 0, len(all))
	var bad []string
	d.mu.Lock()
	defer d.mu.Unlock()
	for i := range all {
		address := all[(start+i)%len(all)]
		if time.Now().Before(d.ejected[address].until) {
			bad = append(bad, address)
		} else {
			good = append(good, address)
		}
	}
	return append(good, bad...), nil
}

// targets are the addresses configured for addr: exactly, by a wildcard, or
// addr itself.
func (d *dialer) targets(addr string) []string {
	connect := d.connect[addr]
	for rest := addr; len(connect) == 0; {
		_, parent, found := strings.Cut(rest, ".")
		if !found {
			return []string{addr}
		}
		connect, rest = d.connect["*."+parent], parent
	}
	return connect
}

// failed leaves an address out for a while, longer each time in a row.
func (d *dialer) failed(address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	pause := min(max(2*d.ejected[address].pause, ejectFirst), ejectMost)
	d.ejected[address] = ejection{until: time.Now().Add(pause), pause: pause}
	if len(d.ejected) > 4096 { // names with ever new addresses must not fill the memory
		clear(d.ejected)
	}
}

// recovered takes an address back in.
func (d *dialer) recovered(address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.ejected, address)
}
