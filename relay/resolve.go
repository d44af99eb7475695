package relay

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// leastTTL and mostTTL bound how long an answer is believed; leastTTL is
	// also that of names that come from the hosts file.
	leastTTL = 5 * time.Second
	mostTTL  = time.Hour
	// staleFor is how long old addresses serve on when the name server does not
	// answer (RFC 8767 allows days; an origin that moved should be followed).
	staleFor = 10 * time.Minute
	// resolveTimeout bounds one look-up, retries included.
	resolveTimeout = 5 * time.Second
	// mostNames bounds the cache: a wildcard's labels come from clients.
	mostNames = 4096
)

// resolver looks names up with Go's own resolver (hosts file, resolv.conf,
// retries, TCP) and keeps the answers for as long as their TTL says, which it
// reads off the DNS messages as they pass.
type resolver struct {
	lookupIP func(ctx context.Context, host string) ([]netip.Addr, time.Duration, error)

	base  context.Context // ends with close
	end   context.CancelFunc
	tasks sync.WaitGroup // look-ups in the background; close waits for them

	mu    sync.Mutex // guards names
	names map[string]*name
}

// name is one name's answer.
type name struct {
	generation atomic.Uint64 // counts the answers that differ from the one before
	due        atomic.Int64  // when the answer is too old, Unix nanoseconds; 0 = no answer yet
	renewing   atomic.Bool   // a look-up in the background is under way

	mu    sync.Mutex // guards the rest; held while looking up: others wait for the same answer
	ips   []netip.Addr
	until time.Time
}

func newResolver() *resolver {
	r := &resolver{lookupIP: lookupTTL(""), names: make(map[string]*name)}
	r.base, r.end = context.WithCancel(context.Background())
	return r
}

// close ends the look-ups in the background.
func (r *resolver) close() {
	r.end()
	r.tasks.Wait()
}

// generation counts how often host's addresses changed, from 1; 0 before the
// first answer. When the answer is due it is asked for again in the background,
// so that a name whose connections are kept alive is followed too, and no
// request waits.
func (r *resolver) generation(host string) uint64 {
	n := r.name(host)
	due := n.due.Load()
	if due != 0 && time.Now().UnixNano() >= due && r.base.Err() == nil && n.renewing.CompareAndSwap(false, true) {
		r.tasks.Go(func() {
			defer n.renewing.Store(false)
			_, _ = r.lookup(r.base, host) // a failure leaves the old answer, and is tried again
		})
	}
	return n.generation.Load()
}

// lookup gives host's addresses.
func (r *resolver) lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	n := r.name(host)
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if now.Before(n.until) {
		return n.ips, nil
	}
	fresh, ttl, err := r.lookupIP(ctx, host)
	if err != nil {
		n.due.Store(now.Add(leastTTL).UnixNano())
		if n.ips != nil && now.Before(n.until.Add(staleFor)) {
			return n.ips, nil
		}
		return nil, err
	}
	slices.SortFunc(fresh, netip.Addr.Compare)
	if n.ips == nil || !slices.Equal(n.ips, fresh) {
		n.generation.Add(1)
	}
	n.ips, n.until = fresh, now.Add(min(max(ttl, leastTTL), mostTTL))
	n.due.Store(n.until.UnixNano())
	return fresh, nil
}

// name finds or makes the entry of host.
func (r *resolver) name(host string) *name {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.names[host]
	if n == nil {
		if len(r.names) >= mostNames {
			clear(r.names)
		}
		n = new(name)
		r.names[host] = n
	}
	return n
}

// lookupTTL gives a function that asks for A and AAAA and gives the smallest
// TTL of the answers. server takes the place of those in resolv.conf; "" leaves
// them.
func lookupTTL(server string) func(ctx context.Context, host string) ([]netip.Addr, time.Duration, error) {
	return func(ctx context.Context, host string) ([]netip.Addr, time.Duration, error) {
		ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
		defer cancel()
		seen := &smallestTTL{}
		asking := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, address string) (net.Conn, error) {
			if server != "" {
				address = server
			}
			return tapped(ctx, network, address, seen)
		}}
		ips, err := asking.LookupNetIP(ctx, "ip", host)
		for i := range ips {
			ips[i] = ips[i].Unmap()
		}
		return ips, seen.get(), err
	}
}

// tapped dials a name server; seen is shown what comes back.
func tapped(ctx context.Context, network, address string, seen *smallestTTL) (net.Conn, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	if udp, ok := conn.(*net.UDPConn); ok {
		return &udpTap{udp, seen}, nil // a net.PacketConn, which tells the resolver how to frame
	}
	return &tcpTap{conn, seen}, nil
}

// udpTap and tcpTap look at the answers as the resolver reads them.
type udpTap struct {
	*net.UDPConn
	seen *smallestTTL
}

func (t *udpTap) Read(p []byte) (int, error) {
	n, err := t.UDPConn.Read(p)
	t.seen.look(p[:n])
	return n, err
}

type tcpTap struct {
	net.Conn
	seen *smallestTTL
}

func (t *tcpTap) Read(p []byte) (int, error) {
	n, err := t.Conn.Read(p)
	t.seen.look(p[:n])
	return n, err
}

// smallestTTL is the smallest TTL in the messages it was shown.
type smallestTTL struct {
	mu   sync.Mutex // guards the rest: A and AAAA are asked at the same time
	ttl  time.Duration
	some bool
}

// look takes the TTLs out of one DNS message; what does not parse as one (a
// length prefix, a part) is passed over.
func (s *smallestTTL) look(message []byte) {
	var parser dnsmessage.Parser
	if _, err := parser.Start(message); err != nil || parser.SkipAllQuestions() != nil {
		return
	}
	for {
		header, err := parser.AnswerHeader()
		if err != nil {
			return
		}
		s.mu.Lock()
		if ttl := time.Duration(header.TTL) * time.Second; !s.some || ttl < s.ttl {
			s.ttl, s.some = ttl, true
		}
		s.mu.Unlock()
		if parser.SkipAnswer() != nil {
			return
		}
	}
}

func (s *smallestTTL) get() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ttl
}
