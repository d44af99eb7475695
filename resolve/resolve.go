// Package resolve looks host names up and keeps the answers for as long as their
// TTL says, so that a name which moves is followed within that time.
//
// The path through it:
//
//  1. Lookup gives what is known of a name while its TTL lasts, and asks for it
//     then; those who ask at the same time wait for one answer,
//  2. Generation has a name that is due looked up in the background, for who
//     keeps connections and wants to know only whether they still lead there,
//  3. when the name server does not answer, the addresses known serve on for a
//     while.
//
// It refuses to speak DNS itself: Go's resolver does, with the hosts file,
// resolv.conf, retries and TCP, and the TTLs are read off as its messages pass.
package resolve

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
	// MostNames bounds the cache: a wildcard's labels come from clients.
	MostNames = 4096
)

// Resolver looks names up, and remembers the answers. New makes one.
type Resolver struct {
	lookupIP func(ctx context.Context, host string) ([]netip.Addr, time.Duration, error)

	base  context.Context // ends with Close
	end   context.CancelFunc
	tasks sync.WaitGroup // look-ups in the background; Close waits for them

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

// New makes a Resolver that asks the name servers of the system; Close ends it.
func New() *Resolver { return With(lookupTTL("")) }

// With makes a Resolver that asks lookup for the addresses of a host and their
// TTL.
func With(lookup func(ctx context.Context, host string) ([]netip.Addr, time.Duration, error)) *Resolver {
	r := &Resolver{lookupIP: lookup, names: make(map[string]*name)}
	r.base, r.end = context.WithCancel(context.Background())
	return r
}

// Close ends the look-ups in the background.
func (r *Resolver) Close() {
	r.end()
	r.tasks.Wait()
}

// Generation counts how often host's addresses changed, from 1; 0 before the
// first answer. When the answer is due it is asked for again in the background,
// so that a name whose connections are kept alive is followed too, and no
// request waits.
func (r *Resolver) Generation(host string) uint64 {
	n := r.name(host)
	due := n.due.Load()
	if due != 0 && time.Now().UnixNano() >= due && r.base.Err() == nil && n.renewing.CompareAndSwap(false, true) {
		r.tasks.Go(func() {
			defer n.renewing.Store(false)
			_, _ = r.Lookup(r.base, host) // a failure leaves the old answer, and is tried again
		})
	}
	return n.generation.Load()
}

// Lookup gives host's addresses.
func (r *Resolver) Lookup(ctx context.Context, host string) ([]netip.Addr, error) {
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
func (r *Resolver) name(host string) *name {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := r.names[host]
	if n == nil {
		if len(r.names) >= MostNames {
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
