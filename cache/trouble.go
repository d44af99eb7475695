package cache

import (
	"context"
	"net/http"
	"strings"
	"time"
)

// Origins that fail, and pages of them that do:
//
//  1. heard notes what became of each request that was sent. No answer, 502, 503 and
//     504 are trouble of the origin; 500 is the page's alone, and so is what fails
//     while the origin answers others, or was asked for less than retryAfter after it did.
//     A success ends it at once,
//  2. in trouble, who may have something stale has it at once (troubled), and one of
//     them in retryAfter tries whether all is well again (outage): in the background,
//     but for who wants it fresher, and for the first in troubleFor,
//  3. who waits already when an origin gets into trouble is told by its alarm,
//  4. who has nothing else to be given asks as ever, and is heard too,
//  5. room bounds what nobody waits for, so that no origin keeps the others from it.

const (
	// retryAfter is how often an origin in trouble is asked by those who may have
	// something stale.
	retryAfter = 5 * time.Second
	// troubleFor is how long it may be that an origin in trouble was asked, before
	// somebody waits for it again.
	troubleFor = 10 * time.Minute
	// mostStandings bounds how many are remembered: hosts may be wildcards.
	mostStandings = 1 << 12
)

// trouble is that of an origin or a page that failed, and was not well since.
type trouble struct {
	failed time.Time // the last time; zero is none
	tried  time.Time // when somebody last tried it, or else when it first failed
	over   time.Time // when the last one ended
}

// fail notes a failure; what was sent before the last trouble was over is of that.
func (t *trouble) fail(sent, now time.Time) {
	switch {
	case sent.Before(t.over):
		return
	case t.failed.IsZero():
		t.tried = now
	}
	t.failed = now
}

// end notes a success.
func (t *trouble) end(now time.Time) {
	if !t.failed.IsZero() {
		*t = trouble{over: now}
	}
}

// originKey is what requests have alike that one origin answers.
type originKey struct{ site, made, host string }

// standing is how an origin does. c.flights guards it.
type standing struct {
	trouble
	answered time.Time       // the last time that it did well
	alarm    context.Context // ends when it gets into trouble
	ring     context.CancelFunc
	lone     int // fetches of it that nobody waits for
}

// originKey of a request.
func (a *ask) originKey() originKey {
	return originKey{a.policy.Site, a.policy.Made, strings.ToLower(hostOfRequest(a.req))}
}

// origin is how that of the request does.
func (a *ask) origin() *standing {
	a.c.flights.Lock()
	defer a.c.flights.Unlock()
	return a.standing()
}

// standing is origin. c.flights is held.
func (a *ask) standing() *standing {
	key := a.originKey()
	s := a.c.standings[key]
	if s == nil {
		for other := range a.c.standings {
			if len(a.c.standings) < mostStandings {
				break
			}
			delete(a.c.standings, other) // any one: it costs a wait
		}
		s = &standing{}
		s.alarm, s.ring = context.WithCancel(context.Background())
		a.c.standings[key] = s
	}
	return s
}

// heard notes what a request for the page came to, that was sent to the origin then:
// an answer, or none.
func (c *Cache) heard(key Key, s *standing, sent time.Time, res *http.Response) {
	now := time.Now()
	c.flights.Lock()
	defer c.flights.Unlock()
	answers := res != nil && res.StatusCode == http.StatusInternalServerError
	switch {
	case res != nil && !isTrouble(res.StatusCode):
		s.end(now)
		s.answered = now
		c.mark(key, func(m *mark) { m.end(now) })
	case !answers && sent.Before(s.over): // it was in trouble then
	case answers || s.answered.Add(retryAfter).After(sent): // it did others well: who can make one page fail makes no other old
		c.mark(key, func(m *mark) { m.fail(sent, now) })
	default:
		if s.failed.IsZero() {
			s.ring()
			s.alarm, s.ring = context.WithCancel(context.Background())
		}
		s.fail(sent, now)
	}
}

// reached notes that the origin answered what is no page of the cache.
func (a *ask) reached(res *http.Response) {
	if a.policy.Off || isTrouble(res.StatusCode) {
		return
	}
	a.c.flights.Lock()
	defer a.c.flights.Unlock()
	if s := a.c.standings[a.originKey()]; s != nil {
		s.answered = time.Now()
		s.end(s.answered)
	}
}

// outage says what is known of the request's origin and page: that they are in
// trouble, and since when they were left alone. try is that the request is who asks
// again; then others do not, for a while.
func (a *ask) outage(now time.Time) (known, try bool, quiet time.Duration) {
	m, s := a.c.marks[a.key], a.standing()
	failed, tried := later(m.failed, s.failed), later(m.tried, s.tried)
	if failed.IsZero() {
		return false, false, 0
	}
	if now.Sub(tried) <= retryAfter {
		return true, false, 0
	}
	if !a.asks {
		if !s.failed.IsZero() {
			s.tried = now
		}
		if !m.failed.IsZero() {
			a.c.mark(a.key, func(m *mark) { m.tried = now })
		}
	}
	return true, true, now.Sub(later(failed, tried))
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// troubled reports whether what may be given on an error is given at once, as one is
// known; f.refresh is that this request tries meanwhile.
func (a *ask) troubled(f *finding) bool {
	a.c.flights.Lock()
	defer a.c.flights.Unlock()
	known, try, quiet := a.outage(f.now)
	f.try = try
	if s := a.standing(); s.failed.IsZero() {
		f.alarm = s.alarm
	}
	switch {
	case !known:
		return false
	case try && (f.reason == whyRequestControl || quiet > troubleFor):
		return false
	}
	f.refresh, f.reason = try, whyError
	return true
}

// rests reports whether something stale is given without another being fetched
// meanwhile, as that was tried a while ago.
func (a *ask) rests(f *finding) bool {
	a.c.flights.Lock()
	defer a.c.flights.Unlock()
	known, try, _ := a.outage(f.now)
	f.try = try
	return known && !try
}

// room reports whether there is room for one more fetch of an origin that nobody waits
// for: each may have one, and more as long as as many could be others'. c.flights is
// held.
func (c *Cache) room(s *standing) bool {
	return s.lone == 0 || s.lone < c.options.MostFetches-c.lone
}
