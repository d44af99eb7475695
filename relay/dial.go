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
	"causeway/resolve"
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
	names   *resolve.Resolver
	timeout time.Duration
	turn    atomic.Uint32
	tooMany func() // drops idle connections; set once, before use
	open    atomic.Int64
	purged  atomic.Int64 // when idle ones were last dropped for being many, Unix nanoseconds

	mu      sync.Mutex // guards the rest
	ejected map[string]ejection
	using   map[string][]*use // host:port of the origin URL -> the names it is dialled by
}

// use is a name that leads to an origin, and the answer that was last seen.
type use struct {
	host string
	seen atomic.Uint64 // generation; 0 = none yet
}

// ejection is an address that failed.
type ejection struct {
	until time.Time
	pause time.Duration
}

func newDialer(connect map[string][]string, names *resolve.Resolver, timeout time.Duration) *dialer {
	return &dialer{connect: connect, names: names, timeout: timeout, tooMany: func() {}, ejected: make(map[string]ejection), using: make(map[string][]*use)}
}

// lanes is how many addresses are taken by turns: the longest origin.connect.
func (d *dialer) lanes() int {
	most := 1
	for _, connect := range d.connect {
		most = max(most, len(connect))
	}
	return most
}

// leftOut reports whether the address that lane begins at has failed lately.
func (d *dialer) leftOut(lane int, addr string) bool {
	targets := d.targets(addr)
	d.mu.Lock()
	defer d.mu.Unlock()
	return time.Now().Before(d.ejected[targets[lane%len(targets)]].until)
}

// moved reports, once, that a name by which addr is dialled leads elsewhere
// since the last time, and has names that are due looked up again meanwhile.
func (d *dialer) moved(addr string) bool {
	changed := false
	for _, name := range d.uses(addr) {
		generation := d.names.Generation(name.host)
		if seen := name.seen.Load(); generation != seen && name.seen.CompareAndSwap(seen, generation) {
			changed = changed || seen != 0
		}
	}
	return changed
}

// uses are the names by which addr is dialled.
func (d *dialer) uses(addr string) []*use {
	d.mu.Lock()
	defer d.mu.Unlock()
	names, known := d.using[addr]
	if known {
		return names
	}
	for _, target := range d.targets(addr) {
		host, _, err := net.SplitHostPort(target)
		if _, notIP := netip.ParseAddr(host); err == nil && notIP != nil {
			names = append(names, &use{host: host})
		}
	}
	if len(d.using) >= resolve.MostNames { // below a wildcard clients choose the names
		clear(d.using)
	}
	d.using[addr] = names
	return names
}

// dial opens a plain connection for addr, the host:port of an origin URL.
func (d *dialer) dial(ctx context.Context, lane int, addr string) (net.Conn, error) {
	return d.each(ctx, lane, addr, func(ctx context.Context, conn net.Conn) (net.Conn, error) { return conn, nil })
}

// dialTLS opens a TLS connection for addr, verified for addr's host.
func (d *dialer) dialTLS(ctx context.Context, lane int, addr string, verify *tls.Config) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, outcome.Errorf(outcome.BadRequest, "dial origin: %w", err)
	}
	return d.each(ctx, lane, addr, func(ctx context.Context, conn net.Conn) (net.Conn, error) {
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
func (d *dialer) each(ctx context.Context, lane int, addr string, shake func(context.Context, net.Conn) (net.Conn, error)) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, d.timeout)
	defer cancel()
	candidates, err := d.candidates(ctx, lane, addr)
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
		if !refusedName(err) {
			d.failed(candidate)
		}
	}
	return nil, errors.Join(failures...)
}

// refusedName reports whether err, of dialling an address for a host, may be
// true of that host alone: the address was reached and spoke TLS, but had no
// certificate that proves the host, or ended the handshake with an alert. Many
// names may lead to the address, and below a wildcard clients choose them.
func refusedName(err error) bool {
	var certificate *tls.CertificateVerificationError
	var alert *net.OpError
	return errors.As(err, &certificate) || (errors.As(err, &alert) && alert.Op == "remote error") // crypto/tls's word for an alert
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
		d.tooMany()
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

// candidates are the addresses for addr, all of them: the lane's own first, those
// of one name by turns, and those left out at the end, for when nothing else is
// left.
func (d *dialer) candidates(ctx context.Context, lane int, addr string) ([]string, error) {
	var all []string
	targets := d.targets(addr)
	for i := range targets {
		target := targets[(lane+i)%len(targets)]
		host, port, err := net.SplitHostPort(target)
		if err != nil {
			return nil, outcome.Errorf(outcome.OriginDial, "dial origin %s: %w", target, err)
		}
		if ip, err := netip.ParseAddr(host); err == nil {
			all = append(all, net.JoinHostPort(ip.String(), port))
			continue
		}
		ips, err := d.names.Lookup(ctx, host)
		if err != nil {
			return nil, outcome.Errorf(outcome.OriginName, "resolve origin %s: %w", host, err)
		}
		turn := int(d.turn.Add(1))
		for j := range ips {
			all = append(all, net.JoinHostPort(ips[(turn+j)%len(ips)].String(), port))
		}
	}
	if len(all) == 0 {
		return nil, outcome.Errorf(outcome.OriginName, "resolve origin %s: no address", addr)
	}
	good := make([]string, 0, len(all))
	var bad []string
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, address := range all {
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
