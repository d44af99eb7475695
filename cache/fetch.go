package cache

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
)

// A fetch, for all who wait for it:
//
//  1. fetch joins one that is under way for the same key and fields, or begins
//     one,
//  2. run sends the request, without the context of whose it was: it goes on when
//     that client leaves,
//  3. land says what the answer is: an object that is still valid (validate.go); one
//     that is kept, and read by everybody as it comes; one that is not, for the
//     first alone, and the others go on by themselves at once,
//  4. take gives a request what there is for it, or sends it to look again,
//  5. copy writes the body where all read it (seat.go), and keep gives it to the
//     store when all of it came.
//
// A fetch that fails fails for whose request began it; of those that waited one
// begins another, once.

// flightKey is what requests have alike that a fetch can be for: the key, and
// what else is known to change the answer.
type flightKey struct {
	key     Key
	variant string
}

// flight is one fetch.
type flight struct {
	c       *Cache
	next    http.RoundTripper
	key     flightKey
	cancel  context.CancelFunc
	policy  *Policy
	url     string
	out     *http.Request // to be sent, without conditions of the cache
	valid   *Object       // to be validated; nil for none
	noStore bool
	spare   bool // on an error of the origin there is something stale to give
	solo    bool

	first    *seat         // whose request it is; nil in the background
	answered chan struct{} // closed by land, which sets the next
	landing  landing

	detached bool // under c.flights: it counts in c.lone

	stream // the body; it has a lock of its own

	purging sync.Mutex // guards purges; held while the answer is given to the store
	purges  []purge    // that came since it was asked for
}

// landing is what a fetch came to.
type landing struct {
	err    error
	reason Reason // why it is not kept
	alone  *http.Response
	status int
	object *Object     // that was validated, as it is now
	meta   *Meta       // of what comes
	size   int64       // of that; -1 is not known
	header http.Header // of what came, for the first
	shared bool        // it is for those that wait too
	own    bool        // it stays in the form in which it came
}

// flightKey of a request: what is known to make a difference.
func (a *ask) flightKey(f *finding) flightKey {
	key := flightKey{key: a.key}
	if !f.own && len(f.names) == 0 && a.ranged == nil {
		return key
	}
	var b []byte
	if f.own || a.fetchesRange(f) {
		b = appendPart(append(b, 'o'), selectorValue(a.req.Header, "Accept-Encoding"))
	}
	for _, name := range f.names {
		b = appendPart(appendPart(append(b, 'v'), name), selectorValue(a.req.Header, name))
	}
	if a.fetchesRange(f) {
		b = appendPart(appendPart(append(b, 'r'), a.ranged.text()), first(a.req.Header, "If-Range"))
	}
	key.variant = string(b)
	return key
}

// fetchesRange reports whether a part alone is fetched: where there is a whole,
// that is validated, and the part taken of it.
func (a *ask) fetchesRange(f *finding) bool { return a.ranged != nil && f.object == nil }

// fetch gives the answer of a fetch. again is what was learnt of one that was not
// for this request.
func (a *ask) fetch(found *finding, retried bool) (*http.Response, *landed, error) {
	f, s := a.c.join(a, found, retried)
	if f == nil {
		res, err := a.pass(whyClosed)
		return res, nil, err
	}
	select {
	case <-f.answered:
	case <-a.req.Context().Done():
		s.Close()
		a.trace.Result = Failed
		return nil, nil, context.Cause(a.req.Context())
	}
	if s == f.first {
		a.trace.Fetch = true
		res, err := a.takeFirst(found, f, s)
		return res, nil, err
	}
	return a.take(found, f, s, retried)
}

// takeFirst gives the answer to whose request it is.
func (a *ask) takeFirst(found *finding, f *flight, s *seat) (*http.Response, error) {
	l := &f.landing
	if (l.err != nil || isTrouble(l.status)) && found.onError {
		s.Close()
		return a.stale(found)
	}
	switch {
	case l.err != nil:
		s.Close()
		a.trace.Result, a.trace.Reason = Failed, string(whyError)
		return nil, l.err
	case l.object != nil:
		s.Close()
		return a.validated(found, f, Revalidated)
	case l.alone != nil:
		a.trace.Result, a.trace.Kept = Uncacheable, string(l.reason)
		a.status.fwdStatus, a.status.detail = l.status, l.reason
		a.status.set(l.alone.Header)
		l.alone.Request = a.req
		l.alone.Body = s.alone(l.alone.Body)
		return l.alone, nil
	}
	a.trace.Result = Miss
	a.status.fwdStatus, a.status.stored, a.status.note = l.status, true, l.meta.Note
	a.status.timed, a.status.ttl = true, l.meta.Until.Sub(l.meta.Received)
	if f.own() && !a.takesAsIs(l.meta, selectorValue(f.out.Header, "Accept-Encoding")) {
		s.Close() // another form is fetched for it
		return a.again(found)
	}
	return a.give(&source{meta: l.meta, forms: []Form{{Coding: l.meta.Coding}}, seat: s, size: l.size, header: l.header})
}

// own reports whether the answer stays in a form that the request did not ask for.
func (f *flight) own() bool { return f.landing.own }

// again fetches for a request that can't read what its fetch brought.
func (a *ask) again(found *finding) (*http.Response, error) {
	if found.own {
		return a.pass(whyCoding)
	}
	next := *found
	next.own, next.object = true, nil
	res, _, err := a.fetch(&next, true)
	if res == nil && err == nil {
		return a.pass(whyCoding)
	}
	return res, err
}

// take gives the answer to a request that waited for another's fetch.
func (a *ask) take(found *finding, f *flight, s *seat, retried bool) (*http.Response, *landed, error) {
	l := &f.landing
	if (l.err != nil || isTrouble(l.status)) && found.onError {
		s.Close()
		res, err := a.stale(found)
		return res, nil, err
	}
	switch {
	case l.err != nil:
		s.Close()
		if retried {
			a.trace.Result, a.trace.Reason = Failed, string(whyError)
			return nil, nil, l.err
		}
		return nil, &landed{failed: true}, nil
	case l.object != nil && l.shared && a.selects(l.object.Meta):
		s.Close()
		a.status.collapsed = true
		res, err := a.validated(found, f, Collapsed)
		return res, nil, err
	case l.meta != nil && l.shared && a.selects(l.meta):
		now := time.Now()
		a.trace.Result, a.trace.Age = Collapsed, l.meta.age(now)
		a.status.collapsed, a.status.note = true, l.meta.Note
		a.status.timed, a.status.ttl = true, l.meta.Until.Sub(now)
		res, err := a.give(&source{meta: l.meta, forms: []Form{{Coding: l.meta.Coding}}, seat: s, size: l.size, aged: true, age: l.meta.age(now)})
		return res, nil, err
	}
	s.Close()
	again := &landed{solo: !l.shared, own: l.own, failed: retried}
	if l.meta != nil {
		again.names = varyNames(l.meta.Header)
	}
	return nil, again, nil
}

// stale gives what was found, beyond its freshness, as there is no other.
func (a *ask) stale(found *finding) (*http.Response, error) {
	found.reason, found.refresh = whyError, false
	if res := a.fromStore(found); res != nil {
		return res, nil
	}
	return a.pass(whyError)
}

// isTrouble reports whether a status is an error that something stale may be given
// in place of (RFC 5861 §4).
func isTrouble(status int) bool {
	switch status {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// join finds a fetch that the request can wait for, or begins one; nil when the
// cache is closed.
func (c *Cache) join(a *ask, found *finding, retried bool) (*flight, *seat) {
	key := a.flightKey(found)
	c.flights.Lock()
	defer c.flights.Unlock()
	if c.closed {
		return nil, nil
	}
	if m, ok := c.marks[a.key]; ok && time.Now().Before(m.uncacheable) {
		found.solo = true
	}
	if !found.solo {
		if f := c.joined[key]; f != nil {
			// Who wants it validated wants no answer from before.
			if s := f.sit(a.req.Context(), found.reason == whyRequestControl); s != nil {
				f.attend()
				return f, s
			}
		}
	}
	f := c.begin(a, found, key)
	f.first = f.sit(a.req.Context(), false)
	c.work.Go(f.run)
	return f, f.first
}

// refresh fetches in the background, once.
func (a *ask) refresh(found *finding) {
	c, key := a.c, a.flightKey(found)
	c.flights.Lock()
	defer c.flights.Unlock()
	if c.closed || c.joined[key] != nil || c.lone.Load() >= int64(c.options.MostFetches) {
		return
	}
	f := c.begin(a, found, key)
	f.detach()
	c.work.Go(f.run)
}

// begin makes a fetch. c.flights is held.
func (c *Cache) begin(a *ask, found *finding, key flightKey) *flight {
	ranged := a.fetchesRange(found)
	out := a.sent(found.own || ranged)
	if ranged {
		out.Header["Range"] = []string{a.ranged.text()}
		if lines := a.req.Header["If-Range"]; len(lines) > 0 {
			out.Header["If-Range"] = lines
		}
	}
	ctx, cancel := context.WithCancel(context.WithValue(context.WithoutCancel(a.req.Context()), keptKey{}, true))
	f := &flight{
		c: c, next: a.t.Next, key: key, cancel: cancel, policy: a.policy, url: a.at(),
		out: out.WithContext(ctx), valid: found.object, noStore: a.control.noStore, spare: found.onError, solo: found.solo,
		answered: make(chan struct{}),
	}
	f.stream.changed = make(chan struct{})
	f.seats = map[*seat]struct{}{}
	c.all[f] = struct{}{}
	if !found.solo {
		c.joined[key] = f
	}
	return f
}

type keptKey struct{}

// MayKeep reports whether ctx is of a request whose answer the cache may keep: its
// body must be what its header says.
func MayKeep(ctx context.Context) bool { return ctx.Value(keptKey{}) != nil }

// run is the fetch.
func (f *flight) run() {
	handed := false
	defer func() { f.end(handed) }()
	x := &exchanged{policy: f.policy, sent: f.out, noStore: f.noStore, most: f.c.options.MostBytes}
	f.ask(x, f.conditional())
	if x.res != nil && x.res.StatusCode == http.StatusNotModified && f.valid != nil {
		if f.freshen(x) {
			return
		}
		f.ask(x, f.out) // it is not of what is kept
	}
	if x.res == nil {
		return
	}
	v := x.judge()
	if isTrouble(x.res.StatusCode) {
		f.c.remember(f.key.key, func(m *mark) { m.failed = x.received })
		if f.spare {
			v.reason = whyError
		}
	}
	if v.reason == "" {
		draft, err := f.c.options.Store.Begin(x.res.ContentLength)
		if err == nil {
			f.open(draft)
			f.copy(x, &v)
			return
		}
		f.c.options.Log.Debug("no draft", "url", f.url, "err", err)
		v.reason = whyNoRoom
	}
	f.drop(x.res)
	handed = f.hand(x.res, v.reason)
}

// ask sends the request; the failure of that is that of the fetch.
func (f *flight) ask(x *exchanged, out *http.Request) {
	x.requested = time.Now()
	res, err := f.next.RoundTrip(out)
	x.received = time.Now()
	if x.res = res; err != nil {
		x.res = nil
		f.c.remember(f.key.key, func(m *mark) { m.failed = x.received })
		f.land(landing{err: err})
		return
	}
	if !isTrouble(res.StatusCode) {
		f.c.remember(f.key.key, func(m *mark) { m.failed = time.Time{} })
	}
}

// remember changes what is remembered of a key.
func (c *Cache) remember(key Key, change func(*mark)) {
	c.flights.Lock()
	defer c.flights.Unlock()
	m := c.marks[key]
	was := m
	if change(&m); m != was {
		c.marks.set(key, m)
	}
}

// land says what the fetch came to, to all who wait.
func (f *flight) land(l landing) {
	f.c.flights.Lock()
	defer f.c.flights.Unlock()
	if !l.shared || l.object != nil {
		f.unjoin()
	}
	f.landing = l
	close(f.answered)
}

// unjoin keeps others from joining. c.flights is held.
func (f *flight) unjoin() {
	if f.c.joined[f.key] == f {
		delete(f.c.joined, f.key)
	}
}

// drop lets go of what was to be validated when the origin says that it is gone, or
// has something that is not kept in its place.
func (f *flight) drop(res *http.Response) {
	if f.valid == nil || isTrouble(res.StatusCode) {
		return
	}
	gone := res.StatusCode == http.StatusNotFound || res.StatusCode == http.StatusGone
	if gone || res.StatusCode < 400 && !time.Now().Before(f.valid.Meta.Until) {
		f.c.options.Store.Remove(f.valid)
	}
}

// hand gives an answer that is not kept to whose request it is, and lets the
// others go on. It says whether the context of the fetch is the body's now.
func (f *flight) hand(res *http.Response, reason Reason) bool {
	f.c.remember(f.key.key, func(m *mark) {
		if reason != whyRequestNoStore && reason != whyError {
			m.uncacheable = time.Now().Add(aloneFor)
		}
	})
	handed := f.first != nil && f.first.hand(res)
	l := landing{status: res.StatusCode, reason: reason}
	if handed {
		l.alone = res
	} else {
		res.Body.Close()
	}
	f.land(l)
	return handed
}

// meta is what is known of an answer that is kept.
func (f *flight) meta(x *exchanged, v *verdict) *Meta {
	coding, _ := codingOf(v.header)
	m := &Meta{
		Key: f.key.key, ID: variantID(v.vary, v.span), Site: f.policy.Site, URL: f.url,
		Status: x.res.StatusCode, Header: v.header, Vary: v.vary, Coding: coding, Span: v.span, Tags: tagsOf(v.header),
		Requested: x.requested, Received: x.received, Until: v.until(v.facts, x.received), Note: v.note,
	}
	return m
}

// tagsOf are those that purges know an answer by.
func tagsOf(h http.Header) []string {
	var tags []string
	for _, line := range h["Cache-Tag"] {
		for tag := range strings.SplitSeq(line, ",") {
			if tag = strings.TrimSpace(tag); tag != "" {
				tags = append(tags, tag)
			}
		}
	}
	for _, line := range h["Surrogate-Key"] {
		tags = append(tags, strings.Fields(line)...)
	}
	return tags
}

// copy lands an answer that is kept and reads its body.
func (f *flight) copy(x *exchanged, v *verdict) {
	meta := f.meta(x, v)
	defer x.res.Body.Close()
	f.most = x.limit()
	f.c.remember(f.key.key, func(m *mark) {
		if v.shared {
			m.uncacheable = time.Time{}
		} else {
			m.uncacheable = x.received.Add(aloneFor)
		}
	})
	f.land(landing{
		status: x.res.StatusCode, meta: meta, size: x.res.ContentLength, header: x.res.Header.Clone(),
		shared: v.shared, own: v.facts.opaque,
	})
	buffer := chunks.Get().(*[]byte)
	defer chunks.Put(buffer)
	for {
		n, err := x.res.Body.Read(*buffer)
		if n > 0 && !f.write((*buffer)[:n]) {
			return // nobody reads it, and it can't be kept
		}
		if err == nil {
			continue
		}
		if err == io.EOF {
			err = f.whole(meta, x.res.ContentLength)
		}
		f.finish(err)
		if err == nil && f.ring == nil {
			f.keep(meta)
		}
		return
	}
}

// whole is nil when all came that there is.
func (f *flight) whole(meta *Meta, size int64) error {
	if size >= 0 && f.written != size || meta.Span != nil && f.written != meta.Span.To-meta.Span.From {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// keep gives the store what came. Those who read it need not wait for that.
func (f *flight) keep(meta *Meta) {
	f.purging.Lock()
	defer f.purging.Unlock()
	hard, soft := f.purged(meta)
	if hard {
		return
	}
	if soft {
		stale := meta.with(meta.Header)
		stale.Stale = true
		meta = stale
	}
	f.c.bound(meta)
	if o := f.c.options.Store.Keep(meta, f.draft); o != nil && meta.Span != nil {
		f.c.assemble(o)
	}
}

// mostVariants bounds how many answers are kept under one key.
const mostVariants = 128

// bound makes room under a key: the oldest goes.
func (c *Cache) bound(meta *Meta) {
	list := c.options.Store.Find(meta.Key)
	if len(list) < mostVariants {
		return
	}
	oldest := list[0]
	for _, o := range list {
		if o.Meta.ID == meta.ID {
			return // it takes that one's place
		}
		if o.Meta.Received.Before(oldest.Meta.Received) {
			oldest = o
		}
	}
	c.options.Store.Remove(oldest)
}

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
		f.c.lone.Add(-1)
	}
}

// detach notes that nobody does. c.flights is held.
func (f *flight) detach() {
	if !f.detached {
		f.detached = true
		f.c.lone.Add(1)
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
	if f.keepable() && f.c.lone.Load() < int64(f.c.options.MostFetches) {
		f.detach()
		return
	}
	f.unjoin()
	f.cancel()
}
