package link

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"causeway/hop"
	"causeway/outcome"
)

// Member is one path to a relay in a Group.
type Member struct {
	Prefer    int  // the smaller, the sooner
	Weight    int  // share among members of the same Prefer; 0 is 1
	Hedge     bool // a slow request that is safe to repeat is sent over another path too (hedge.go)
	Transport *Transport
}

// Group chooses among an edge's paths to its relays. Of those that have an open
// connection, and that the request has not failed over:
//
//  1. the well ones; then those that just came back, then those whose relay
//     drains, then those whose relay fails to reach the origin of the request's
//     host, and at last the ejected,
//  2. of these the smallest Prefer,
//  3. of these, where their weights differ, one drawn by weight; else two drawn at
//     random, and of the two the one whose round trip times the requests under way
//     is less ("power of two choices", Mitzenmacher 2001).
//
// Just after the start, and when all paths are down, a request waits for one for
// a while (patience). Then a connection that has been given up, but not closed,
// is tried; and at once by what may be repeated, as that is sent elsewhere when
// there is another.
type Group struct {
	members  []*member // by Prefer
	patience time.Duration
	budget   budget
	failing  atomic.Int32 // how many hosts and checks fail anywhere

	mu     sync.Mutex // guards the rest
	siteOf func(host string) string
	unwell map[unwell]string // why
}

// member is a Member with what is known of the origins behind it.
type member struct {
	Member
	times   times    // of answers, for hedging
	origins *origins // of all paths to its relay
}

// origins is what is known of the origins behind a relay.
type origins struct {
	mu    sync.Mutex
	hosts map[string]*unreached // public hosts whose origin it could not reach of late
}

// unreached is an origin that a relay could not reach.
type unreached struct {
	until time.Time
	times int
}

const (
	// leastUnreached is how long a relay that could not reach an origin is not
	// asked for it while another can, twice as long each time, up to
	// mostUnreached.
	leastUnreached = 2 * time.Second
	mostUnreached  = time.Minute
	// mostHosts is how many such hosts are kept for a relay.
	mostHosts = 1024

	// mostTries is how often one request is sent at most.
	mostTries = 4
)

// NewGroup makes a Group. patience is how long a request may wait for a first
// connection when no path has one, as it is just after the start.
func NewGroup(members []Member, patience time.Duration) *Group {
	g := &Group{patience: patience, unwell: make(map[unwell]string)}
	relays := make(map[string]*origins)
	for _, m := range members {
		m.Weight = max(1, m.Weight)
		relay := m.Transport.peer.Name
		if relays[relay] == nil {
			relays[relay] = &origins{hosts: make(map[string]*unreached)}
		}
		g.members = append(g.members, &member{Member: m, origins: relays[relay]})
	}
	slices.SortStableFunc(g.members, func(a, b *member) int { return a.Prefer - b.Prefer })
	return g
}

// Up reports whether any relay can be reached.
func (g *Group) Up() bool {
	return slices.ContainsFunc(g.members, func(m *member) bool { return m.Transport.isUp() })
}

// Connections is the number of open connections by relay; nil for a nil Group.
func (g *Group) Connections() map[string]int {
	if g == nil {
		return nil
	}
	open := make(map[string]int, len(g.members))
	for _, member := range g.members {
		open[member.Transport.peer.Name] += member.Transport.Up()
	}
	return open
}

// RoundTrip sends req over the best path. It is sent again, at most mostTries
// times in all,
//
//   - always when it never left this node,
//   - over another path when its relay could not reach the origin, or says that it
//     never took it, and it has no body,
//   - when the link failed under it, or its connection is silent, and it may be
//     repeated: idempotent (RFC 9110 §9.2.2), and without a body,
//
// the last two as far as the budget goes, and so does a request whose answer was
// lost (lost.go). Anything else is sent once.
func (g *Group) RoundTrip(req *http.Request) (*http.Response, error) {
	g.budget.request()
	if isAgain(req.Context()) && !g.budget.take() {
		return nil, outcome.Errorf(outcome.LinkCut, "%w, and too many requests are sent again", ErrLost)
	}
	var space [mostTries]*member
	failed := space[:0]
	for {
		m, w := g.pick(req, failed)
		if m == nil {
			if err := req.Context().Err(); err != nil {
				return nil, context.Cause(req.Context())
			}
			return nil, outcome.Errorf(outcome.LinkDown, "choose a relay: none of %d paths has an open connection", len(g.members))
		}
		if len(failed) > 0 {
			m.Transport.counts.retries.Add(1)
		}
		if first := g.members[0]; first.Prefer < m.Prefer {
			first.Transport.counts.failovers.Add(1)
		}
		res, err := g.over(req, m, w, len(failed)+1 == mostTries)
		g.noteOrigin(m, req.Host, err)
		if err == nil || req.Context().Err() != nil {
			return res, err
		}
		if failed = append(failed, m); len(failed) == mostTries || !g.again(req, failed, err) {
			return nil, err
		}
	}
}

// over sends req over m, and over others too where hedging asks for it. The last time
// that it may be sent it stays where it is.
func (g *Group) over(req *http.Request, m *member, w *warm, last bool) (*http.Response, error) {
	if last || !Repeatable(req) {
		res, err := m.Transport.send(req, w, nil)
		m.Transport.note(err)
		return res, err
	}
	if m.Hedge && safe(req) && hop.UpgradeOf(req.Header) == "" && firstOf(req) == nil {
		return g.hedged(req, m, w)
	}
	return g.send(req, m, w)
}

// send sends a request that may be repeated over m.
func (g *Group) send(req *http.Request, m *member, w *warm) (*http.Response, error) {
	res, err := m.Transport.send(req, w, func() bool { return g.elsewhere(m) && g.budget.take() })
	m.Transport.note(err)
	return res, err
}

// elsewhere reports whether a request of a silent connection of m could go on at
// once.
func (g *Group) elsewhere(m *member) bool {
	if m.Transport.isUp() {
		return true
	}
	return slices.ContainsFunc(g.members, func(other *member) bool { return other != m && other.Transport.isUp() })
}

// again reports whether req is to be sent once more after err, the failure of the
// last of failed.
func (g *Group) again(req *http.Request, failed []*member, err error) bool {
	if errors.Is(err, errNotSent) {
		return true
	}
	switch outcome.KindOf(err) {
	case outcome.LinkCut:
		return (Repeatable(req) || bodiless(req) && errors.Is(err, errNotTaken)) && (errors.Is(err, errMoved) || g.budget.take()) // a move has paid
	case outcome.OriginName, outcome.OriginDial, outcome.OriginTLS:
		return bodiless(req) && g.best(req.Host, failed, true) != nil && g.budget.take()
	}
	return false
}

// Repeatable reports whether req may be sent twice: its method is idempotent (RFC
// 9110 §9.2.2) and it has no body.
func Repeatable(req *http.Request) bool {
	return bodiless(req) && (safe(req) || req.Method == "PUT" || req.Method == "DELETE")
}

// safe reports whether the method of req changes nothing (RFC 9110 §9.2.1).
func safe(req *http.Request) bool {
	switch req.Method {
	case "GET", "HEAD", "OPTIONS", "TRACE":
		return true
	}
	return false
}

func bodiless(req *http.Request) bool { return req.Body == nil || req.Body == http.NoBody }

// pick gives the path to use and a place on a connection of it, waiting for one
// to come up when none is; nil when patience or the request ended first.
func (g *Group) pick(req *http.Request, failed []*member) (*member, *warm) {
	if m, w := g.reserve(req, failed); m != nil {
		return m, w
	}
	ctx, cancel := context.WithTimeout(req.Context(), g.patience)
	defer cancel()
	for ctx.Err() == nil {
		// Links come up rarely and requests wait rarely: a short poll is
		// simpler than waking every waiter, and costs nothing otherwise.
		wait(ctx, 5*time.Millisecond)
		if m, w := g.reserve(req, failed); m != nil {
			return m, w
		}
	}
	if req.Context().Err() != nil {
		return nil, nil
	}
	return g.reserveOld()
}

// reserveOld is a place on a connection that has been given up.
func (g *Group) reserveOld() (*member, *warm) {
	for _, m := range g.members {
		if w := m.Transport.reserveOld(); w != nil {
			return m, w
		}
	}
	return nil, nil
}

// reserve is the best path with a place on a connection of it.
func (g *Group) reserve(req *http.Request, failed []*member) (*member, *warm) {
	for range g.members { // a path may go down in between
		m := g.best(req.Host, failed, false)
		if m == nil {
			break
		}
		if w := m.Transport.reserve(); w != nil {
			return m, w
		}
	}
	if Repeatable(req) {
		return g.reserveOld()
	}
	return nil, nil
}

// rank is how good a path is for a request; the smaller, the better.
type rank struct {
	failed bool
	ill    int // 0 is well
	prefer int
}

func (r rank) before(other rank) bool {
	if r.failed != other.failed {
		return other.failed
	}
	if r.ill != other.ill {
		return r.ill < other.ill
	}
	return r.prefer < other.prefer
}

// candidate is a path that is up.
type candidate struct {
	*member
	rank
	condition
}

// best is the path for a request to host; with another, one that has not failed
// and is well, or nil.
func (g *Group) best(host string, failed []*member, another bool) *member {
	var space [8]candidate
	best := space[:0]
	now := time.Now()
	for _, m := range g.members {
		if !m.Transport.isUp() {
			continue
		}
		c := candidate{member: m, condition: m.Transport.health.condition(now)}
		c.rank = rank{slices.Contains(failed, m), c.illness(g.fails(m, host, now)), m.Prefer}
		if another && (c.failed || c.rank.ill > 0) {
			continue
		}
		if len(best) > 0 && c.before(best[0].rank) {
			best = best[:0]
		}
		if len(best) == 0 || c.rank == best[0].rank {
			best = append(best, c)
		}
	}
	switch len(best) {
	case 0:
		return nil
	case 1:
		return best[0].member
	}
	return choose(best)
}

// choose draws two and takes the less loaded one. Members of one share are drawn
// without putting back, so that of two the better one is always taken; those that
// came back with. Who writes weights wants these shares, whatever the lines are
// like: then one is drawn.
func choose(from []candidate) *member {
	equal, weighted := true, false
	var all float64
	for _, c := range from {
		equal = equal && c.share() == from[0].share()
		weighted = weighted || c.Weight != from[0].Weight
		all += c.share()
	}
	if weighted {
		return draw(from, all).member
	}
	if equal {
		a := rand.IntN(len(from))
		b := rand.IntN(len(from) - 1)
		if b >= a {
			b++
		}
		return lighter(from[a], from[b])
	}
	return lighter(draw(from, all), draw(from, all))
}

// share is the weight that counts now.
func (c *candidate) share() float64 { return float64(c.Weight) * c.ramp }

func draw(from []candidate, all float64) candidate {
	at := rand.Float64() * all
	for _, c := range from {
		if at -= c.share(); at < 0 {
			return c
		}
	}
	return from[len(from)-1]
}

// lighter is the one of two whose round trip times its load is less.
func lighter(a, b candidate) *member {
	if b.load() < a.load() {
		return b.member
	}
	return a.member
}

func (c *candidate) load() float64 {
	return float64(c.latency) * float64(c.Transport.inFlight()+1)
}

// inFlight is how many requests are under way.
func (t *Transport) inFlight() (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range t.slots {
		if w != nil {
			n += w.InFlight()
		}
	}
	return n
}

// fails reports whether m's relay could not reach the origin of host of late, or
// the check of its site says so.
func (g *Group) fails(m *member, host string, now time.Time) bool {
	if g.failing.Load() == 0 {
		return false
	}
	if g.isUnwell(m.Transport.peer.Name, host) {
		return true
	}
	o := m.origins
	o.mu.Lock()
	defer o.mu.Unlock()
	u := o.hosts[host]
	return u != nil && now.Before(u.until)
}

// noteOrigin takes in whether m's relay could reach the origin of host.
func (g *Group) noteOrigin(m *member, host string, err error) {
	var unreachable bool
	switch outcome.KindOf(err) {
	case outcome.OriginName, outcome.OriginDial, outcome.OriginTLS:
		unreachable = true
	case outcome.OK:
	default:
		return // says nothing of the way to the origin
	}
	if !unreachable && g.failing.Load() == 0 {
		return
	}
	o := m.origins
	o.mu.Lock()
	defer o.mu.Unlock()
	u := o.hosts[host]
	switch {
	case !unreachable && u != nil:
		delete(o.hosts, host)
		g.failing.Add(-1)
	case unreachable && u == nil && len(o.hosts) < mostHosts:
		u = &unreached{}
		o.hosts[host] = u
		g.failing.Add(1)
	}
	if unreachable && u != nil {
		pause := min(leastUnreached<<min(u.times, 10), mostUnreached)
		u.until = time.Now().Add(pause + rand.N(pause/4))
		u.times++
	}
}

// budget bounds how many requests are sent again: one in five, and some more, so
// that a relay that is slow or dies is not followed by twice the load on the
// others.
type budget struct {
	mu     sync.Mutex
	tokens float64
	filled time.Time // zero before the first request
}

const (
	budgetShare  = 0.2 // of the requests
	budgetSecond = 10  // a second besides
	budgetMost   = 500 // at once
)

// request is called for every request.
func (b *budget) request() {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	if b.filled.IsZero() {
		b.tokens, b.filled = budgetMost, now
	}
	b.tokens = min(budgetMost, b.tokens+budgetShare+budgetSecond*now.Sub(b.filled).Seconds())
	b.filled = now
}

// take reports whether one more may be sent again.
func (b *budget) take() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
