package link

import (
	"context"
	"net/http"
	"slices"
	"sync"
	"time"

	"causeway/hop"
)

// A request that takes longer than 95 in 100 of its kind is often on a path that
// just lost a packet, or behind a slow relay. With Member.Hedge it is sent over
// another path too, and the first answer counts (Dean and Barroso, "The Tail at
// Scale", 2013). Safe methods alone: of two DELETEs side by side the second is
// told 404, and it may be the one that is answered first.
//
//  1. times knows how long answers of the path took to begin,
//  2. hedged sends the request, waits for so long, and then sends it again over
//     another well path, or another connection, if the budget has room,
//  3. the first that begins an answer is the one; the other is cancelled.

const (
	// timesKept is of how many answers the times are known, timesLeast how many
	// there must be before anything is hedged.
	timesKept  = 256
	timesLeast = 32
	// leastHedge is the least a request is waited for.
	leastHedge = 20 * time.Millisecond
)

// times are how long the last answers took to begin.
type times struct {
	mu    sync.Mutex
	last  [timesKept]time.Duration // a ring
	n     int                      // how many came
	p95   time.Duration
	fresh int // how many came since p95 was worked out
}

func (t *times) note(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last[t.n%timesKept] = d
	t.n++
	if t.fresh++; t.fresh >= timesLeast {
		known := slices.Clone(t.last[:min(t.n, timesKept)])
		slices.Sort(known)
		t.p95, t.fresh = known[len(known)*95/100], 0
	}
}

// limit is how long to wait before a request is hedged, somewhat longer than 95 in
// 100 wait, and false when too little is known.
func (t *times) limit() (time.Duration, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return max(t.p95+t.p95/16, leastHedge), t.p95 > 0
}

// attempt is one of the two.
type attempt struct {
	res    *http.Response
	err    error
	cancel context.CancelFunc
	hedge  bool
}

// hedged sends a request that may be repeated over m, and over another path when
// the answer is late.
func (g *Group) hedged(req *http.Request, m *member, w *warm) (*http.Response, error) {
	limit, known := m.times.limit()
	if !known {
		start := time.Now()
		res, err := g.send(req, m, w)
		if err == nil {
			m.times.note(time.Since(start))
		}
		return res, err
	}
	done := make(chan attempt, 2)
	running := 1
	cancelFirst := g.try(req, m, w, done, false)
	var cancelSecond context.CancelFunc
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			other, place := g.otherPlace(req.Host, m)
			if place == nil {
				continue
			}
			if !g.budget.take() {
				place.Release()
				continue
			}
			other.Transport.counts.hedges.Add(1)
			running++
			cancelSecond = g.try(withoutEarly(req), other, place, done, true)
		case got := <-done:
			running--
			if got.err != nil && running > 0 {
				got.cancel()
				continue // the other may do
			}
			loser := cancelSecond
			if got.hedge {
				loser = cancelFirst
			}
			if running > 0 {
				loser()
				go func() {
					if late := <-done; late.err == nil {
						late.res.Body.Close()
					}
				}()
			}
			if got.err != nil {
				got.cancel()
				return nil, got.err
			}
			return hop.Canceling(got.res, got.cancel), nil
		}
	}
}

// otherPlace is a place on a well path other than m, or else on m itself.
func (g *Group) otherPlace(host string, m *member) (*member, *warm) {
	if other := g.best(host, []*member{m}, true); other != nil {
		if w := other.Transport.reserve(); w != nil {
			return other, w
		}
	}
	return m, m.Transport.reserve()
}

// try sends a copy of req over m; what comes of it goes to done.
func (g *Group) try(req *http.Request, m *member, w *warm, done chan<- attempt, hedge bool) context.CancelFunc {
	ctx, cancel := context.WithCancel(req.Context())
	out := req.Clone(ctx)
	go func() {
		start := time.Now()
		res, err := g.send(out, m, w)
		if err == nil {
			m.times.note(time.Since(start))
		}
		done <- attempt{res, err, cancel, hedge}
	}()
	return cancel
}

// withoutEarly is req with no one to send informational answers to: those of the
// first attempt are enough.
func withoutEarly(req *http.Request) *http.Request {
	return req.WithContext(hop.WithEarly(req.Context(), func(int, http.Header) {}))
}
