package cache

import (
	"context"
	"net/http"
	"slices"
	"time"
)

// Who waits for a fetch:
//
//  1. flightKey says which requests one fetch can be for,
//  2. join takes a seat at one that is under way, or begins one; one for a range also
//     at that of the whole, where it comes to that soon; refresh begins one
//     that nobody waits for,
//  3. left is told when the last has left: what will be kept comes nevertheless, as
//     long as there are not too many of those (Options.MostFetches),
//  4. end takes the fetch off the list.

// flightKey is what requests have alike that a fetch can be for: the key, and
// what else is known to change the answer.
type flightKey struct {
	key     Key
	variant string
}

// pending reports whether the answer has not come yet.
func (f *flight) pending() bool {
	select {
	case <-f.answered:
		return false
	default:
		return true
	}
}

// hangs reports whether a fetch may have to wait for an origin that was in trouble: it
// is not what tries, and nobody joins it when that is over. c.flights is held.
func (f *flight) hangs(found *finding) bool {
	return f.pending() && (found.try || f.begun.Before(f.origin.over))
}

// flightKey of a request: what is known to make a difference.
func (a *ask) flightKey(f *finding) flightKey {
	key := flightKey{key: a.key}
	crosses := len(a.req.Header["Origin"]) > 0 && !slices.Contains(f.names, "Origin")
	if !f.own && len(f.names) == 0 && a.ranged == nil && !crosses {
		return key
	}
	var b []byte
	if f.own || a.fetchesRange(f) {
		b = appendPart(append(b, 'o'), selectorValue(a.req.Header, "Accept-Encoding"))
	}
	for _, name := range f.names {
		b = appendPart(appendPart(append(b, 'v'), name), a.selector(name))
	}
	if crosses { // the answer may be for this one (vary.go)
		b = appendPart(append(b, 'v'), selectorValue(a.req.Header, "Origin"))
	}
	if a.fetchesRange(f) {
		r, ifRange := a.rangeSent(f)
		b = appendPart(appendPart(append(b, 'r'), r), ifRange)
	}
	key.variant = string(b)
	return key
}

// rangeSent is the range that is fetched, and its condition: the client's, or what is
// missing beside parts that are kept.
func (a *ask) rangeSent(f *finding) (r, ifRange string) {
	if f.gap != nil {
		return f.gap.lack.text(), f.gap.tag
	}
	return a.ranged.text(), first(a.req.Header, "If-Range")
}

// wholeKey is that of a request for all of it.
func (a *ask) wholeKey(f *finding) flightKey {
	whole := *a
	whole.ranged = nil
	return whole.flightKey(f)
}

// near is how far ahead of what has come a range may begin that waits for it: at
// 1 Mbit/s that is four seconds.
const near = 512 << 10

// soon reports whether a range of the whole that is fetched is about to come. The
// length is known when the header is there; until then a range from the beginning
// counts. c.flights is held.
func (f *flight) soon(r *ranged) bool {
	select {
	case <-f.answered:
		return f.landing.meta != nil && f.soonOf(r)
	default:
		return !r.last && r.from <= near
	}
}

// soonOf is soon when the header is there.
func (f *flight) soonOf(r *ranged) bool {
	from, _, ok := r.of(f.landing.size)
	f.reads.Lock()
	defer f.reads.Unlock()
	return f.landing.size >= 0 && (!ok || from <= f.written+near)
}

// fetchesRange reports whether a part alone is fetched: where there is a whole,
// that is validated, and the part taken of it.
func (a *ask) fetchesRange(f *finding) bool { return a.ranged != nil && f.object == nil }

// join finds a fetch that the request can wait for, or begins one. nil when the
// cache is closed. ended is that one has ended since the request was looked up: what
// it brought may be kept now, and is looked for before it is fetched again.
func (c *Cache) join(a *ask, found *finding, retried bool) (f *flight, s *seat, ended bool) {
	key := a.flightKey(found)
	c.flights.Lock()
	defer c.flights.Unlock()
	if c.closed {
		return nil, nil, false
	}
	if m, ok := c.marks[a.key]; ok && time.Now().Before(m.uncacheable) {
		found.solo = true
	}
	if !found.solo {
		f := c.joined[key]
		if f != nil && f.hangs(found) {
			f.unjoin()
			f = nil
		}
		if f == nil && a.fetchesRange(found) && !found.apart {
			if f = c.joined[a.wholeKey(found)]; f != nil && !f.soon(a.ranged) {
				f = nil
			}
		}
		if f != nil {
			// Who wants it validated wants no answer from before.
			if s := f.sit(a.req.Context(), a.control.noCache || found.reason == whyRequestControl); s != nil {
				f.attend()
				return f, s, false
			}
		} else if !found.try && found.ended != always && found.ended != c.ended.Load() {
			return nil, nil, true
		}
	}
	f = c.begin(a, found, key)
	f.first = f.sit(a.req.Context(), false)
	c.work.Go(f.run)
	return f, f.first, false
}

// refresh fetches in the background, once.
func (a *ask) refresh(found *finding) {
	c, key := a.c, a.flightKey(found)
	c.flights.Lock()
	defer c.flights.Unlock()
	if c.closed || !c.room(a.standing()) {
		return
	}
	if f := c.joined[key]; f != nil {
		if !f.hangs(found) {
			return
		}
		f.unjoin()
	}
	f := c.begin(a, found, key)
	f.detach()
	c.work.Go(f.run)
}

// begin makes a fetch. c.flights is held.
func (c *Cache) begin(a *ask, found *finding, key flightKey) *flight {
	out := a.fetched(found)
	ctx, cancel := context.WithCancel(context.WithValue(context.WithoutCancel(a.req.Context()), keptKey{}, true))
	f := &flight{
		c: c, next: a.t.Next, key: key, cancel: cancel, policy: a.policy, url: a.at(),
		out: out.WithContext(ctx), valid: found.object, noStore: a.control.noStore, spare: found.onError, solo: found.solo,
		origin: a.standing(), begun: time.Now(), answered: make(chan struct{}),
	}
	f.stream.changed = make(chan struct{})
	f.seats = map[*seat]struct{}{}
	c.all[f] = struct{}{}
	if !found.solo {
		c.joined[key] = f
	}
	return f
}

// fetched is the request as a fetch sends it, less its conditions and its context.
func (a *ask) fetched(found *finding) *http.Request {
	ranged := a.fetchesRange(found)
	out := a.sent(found.own || ranged)
	out.Method = http.MethodGet // also for a HEAD, that has what it found refreshed
	if ranged {
		r, ifRange := a.rangeSent(found)
		out.Header["Range"] = []string{r}
		if ifRange != "" {
			out.Header["If-Range"] = []string{ifRange}
		}
	}
	return out
}

type keptKey struct{}

// MayKeep reports whether ctx is of a request whose answer the cache may keep: its
// body must be what its header says.
func MayKeep(ctx context.Context) bool { return ctx.Value(keptKey{}) != nil }

// end is the last of the fetch.
func (f *flight) end(handed bool) {
	f.c.flights.Lock()
	f.unjoin()
	delete(f.c.all, f)
	f.attend()
	f.c.flights.Unlock()
	f.finish(nil)
	f.settle()
	if !handed {
		f.cancel()
	}
}

// attend notes that somebody waits for the fetch, or nobody needs to. c.flights is
// held.
func (f *flight) attend() {
	if f.detached {
		f.detached = false
		f.c.lone--
		f.origin.lone--
	}
}

// detach notes that nobody does. c.flights is held.
func (f *flight) detach() {
	if !f.detached {
		f.detached = true
		f.c.lone++
		f.origin.lone++
	}
}

// left is what a fetch does when the last who waited for it has left: it goes on
// when it will be kept, and not too many do.
func (f *flight) left() {
	f.c.flights.Lock()
	defer f.c.flights.Unlock()
	if _, under := f.c.all[f]; !under {
		return
	}
	if f.waited() {
		return // another came meanwhile, or the answer has
	}
	if f.keepable() && f.c.room(f.origin) {
		f.detach()
		return
	}
	f.unjoin()
	f.cancel()
}
