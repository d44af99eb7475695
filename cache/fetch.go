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
//  1. a request joins one that is under way for the same key and fields, or begins
//     one (join.go),
//  2. run sends it, without the context of whose it was: it goes on when that client
//     leaves,
//  3. land says what the answer is: an object that is still valid (validate.go); one
//     that is kept, and read by everybody as it comes; one that is not, for the
//     first alone, and the others go on by themselves at once (take.go),
//  4. copy writes the body where all read it (seat.go), and keep gives it to the
//     store when all of it came.
//
// A fetch that fails fails for whose request began it; of those that waited one
// begins another, once.

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
	solo    bool // for one request alone
	rule    Key  // of No-Vary-Search, that the answer says anew; zero for none

	first    *seat         // whose request it is; nil in the background
	answered chan struct{} // closed by land, which sets the next
	landing  landing

	origin   *standing
	begun    time.Time
	detached bool    // under c.flights: it counts in c.lone, and the origin's
	wanted   []wish  // under c.flights: forms of what comes, by those who share it
	kept     *Object // under c.flights: what came, in the store

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

// isTrouble reports whether a status is an error that something stale may be given
// in place of (RFC 5861 §4).
func isTrouble(status int) bool {
	switch status {
	case http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// run is the fetch.
func (f *flight) run() {
	handed := false
	defer func() { f.end(handed) }()
	x := &exchanged{policy: f.policy, sent: f.out, noStore: f.noStore, most: f.c.most.Load()}
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
		f.cover(x.res.StatusCode, nil)
		if f.spare {
			v.reason = whyError
		}
	}
	if v.reason == "" {
		draft, err := f.c.options.Store.Begin(x.res.ContentLength)
		if err != nil {
			f.c.options.Log.Debug("no draft", "url", f.url, "err", err)
		}
		f.open(draft, err == nil)
		f.copy(x, &v)
		return
	}
	f.drop(x.res, v.reason)
	handed = f.hand(x.res, v.reason)
}

// ask sends the request; the failure of that is that of the fetch.
func (f *flight) ask(x *exchanged, out *http.Request) {
	x.requested = time.Now()
	res, err := f.next.RoundTrip(out)
	x.received = time.Now()
	if x.take(res); err != nil {
		x.res = nil
		if out.Context().Err() == nil { // it was not given up here
			f.c.heard(f.key.key, f.origin, x.requested, nil)
			f.cover(0, err)
		}
		f.land(landing{err: err})
		return
	}
	f.c.heard(f.key.key, f.origin, x.requested, res)
}

// cover notes a failure that nobody sees: something stale is given.
func (f *flight) cover(status int, err error) {
	if f.spare || f.first == nil {
		f.c.cover(f.policy.Site, f.url, status, err)
	}
}

// remember changes what is remembered of a key.
func (c *Cache) remember(key Key, change func(*mark)) {
	c.flights.Lock()
	defer c.flights.Unlock()
	c.mark(key, change)
}

// mark is remember. c.flights is held.
func (c *Cache) mark(key Key, change func(*mark)) {
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
		f.c.ended.Add(1)
	}
}

// drop lets go of what was to be validated when the origin says that it is gone, or
// has something in its place that is not kept, whoever asks for it.
func (f *flight) drop(res *http.Response, reason Reason) {
	if f.valid == nil || isTrouble(res.StatusCode) || reason == whyRequestNoStore || reason == whyAuthorization {
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

// detail is why the answer is not kept, as Cache-Status says it: too large by a rule
// of the owner, or for the cache.
func (f *flight) detail(reason Reason) Reason {
	if most := f.policy.MostBytes; reason == whyTooLarge && most > 0 && most <= f.c.most.Load() {
		return "object_bytes"
	}
	return reason
}

// meta is what is known of an answer that is kept.
func (f *flight) meta(x *exchanged, v *verdict) *Meta {
	coding, _ := codingOf(v.header)
	return (&Meta{
		Key: f.keptUnder(v.header), ID: variantID(v.vary, v.span), Site: f.policy.Site, URL: f.url,
		Status: x.res.StatusCode, Header: v.header, Vary: v.vary, Coding: coding, Span: v.span, Tags: x.tags,
		Requested: x.requested, Received: x.received, Until: v.until(v.facts, x.received), Note: v.note,
	}).settled()
}

// DropTags takes the tags out of an answer that goes past every cache.
func DropTags(h http.Header) { takeTags(h) }

// takeTags takes out of an answer what purges know it by: that is for the cache, and
// no visitor's affair.
func takeTags(h http.Header) (tags []string) {
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
	delete(h, "Cache-Tag")
	delete(h, "Surrogate-Key")
	return tags
}

// copy lands an answer that is kept and reads its body.
func (f *flight) copy(x *exchanged, v *verdict) {
	meta := f.meta(x, v)
	defer x.res.Body.Close()
	f.most = x.limit()
	large := false
	f.c.remember(f.key.key, func(m *mark) {
		switch {
		case !v.shared:
			m.uncacheable, m.large = x.received.Add(aloneFor), false
		case x.res.ContentLength >= 0: // else it may turn out too large again
			m.uncacheable, m.large = time.Time{}, false
		default:
			large = m.tooLarge(x.received)
		}
	})
	l := landing{
		status: x.res.StatusCode, meta: meta, size: x.res.ContentLength, header: x.res.Header.Clone(),
		shared: v.shared, own: v.facts.opaque,
	}
	switch {
	case f.ring != nil:
		l.reason = whyNoRoom
	case large:
		l.reason = whyTooLarge // as it seems: it is kept all the same if it is not
	}
	f.land(l)
	buffer := chunks.Get().(*[]byte)
	defer chunks.Put(buffer)
	for {
		n, err := x.res.Body.Read(*buffer)
		if n > 0 && !f.write((*buffer)[:n]) {
			f.finish(errUnread) // nobody reads it, and it can't be kept
			return
		}
		if err == nil {
			continue
		}
		if err == io.EOF {
			err = f.whole(meta, x.res.ContentLength)
		}
		if err == nil && f.ring == nil && v.shared { // before who waits can come again
			f.c.remember(f.key.key, func(m *mark) { m.uncacheable, m.large = time.Time{}, false })
		}
		if keep := err == nil && f.ring == nil; keep && f.solo {
			f.keep(meta) // nobody can join it, so who comes next must find it
			f.finish(err)
		} else {
			f.finish(err)
			if keep {
				f.keep(meta)
			}
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
		meta = stale.settled()
	}
	f.keepRule(meta)
	f.c.bound(meta)
	o := f.c.options.Store.Keep(meta, f.draft)
	switch {
	case o == nil:
	case meta.Span != nil:
		f.c.assemble(o)
	default:
		f.fulfil(o)
	}
}

// mostVariants bounds how many answers are kept under one key.
const mostVariants = 128

// bound makes room under a key: what was given the longest ago goes, as anybody can make
// more of them by the fields that they vary by.
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
		if o.Meta.used().Before(oldest.Meta.used()) {
			oldest = o
		}
	}
	c.options.Store.Remove(oldest)
}
