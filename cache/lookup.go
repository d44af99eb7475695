package cache

import (
	"context"
	"math"
	"net/http"
	"time"
)

// A request that is looked up:
//
//  1. lookup takes of what is kept what the request selects, and weighs it: whether
//     it may be given as it is (RFC 9111 §4), and why not,
//  2. answer gives it; else it fetches, and looks again when the answer of a fetch
//     that it waited for is not for it.

// finding is what was found for a request.
type finding struct {
	now    time.Time
	ended  uint64    // Cache.ended before it was looked for
	object *Object   // the whole; nil when there is none that it selects
	parts  []*Object // fresh ones of it, for a range

	serve   bool   // it may be given as it is
	refresh bool   // and another is fetched meanwhile
	onError bool   // it may be given when there is no other
	reason  Reason // why it may not, or is stale; "" for fresh
	ttl     time.Duration
	note    string

	own   bool            // what is kept stays in the form in which it came: the client's codings count
	names []string        // fields that answers under the key vary by
	solo  bool            // the answer is fetched for this request alone
	apart bool            // a range is not taken of a whole that is under way
	try   bool            // it is asked whether what is in trouble is well again
	alarm context.Context // of an origin that is not; nil where nobody waits for that
	gap   *gap            // what of a range is fetched, beside parts that are kept; nil for all of it
}

// lookup finds what is kept for the request.
func (a *ask) lookup() finding {
	f := finding{reason: whyAbsent, ended: a.c.ended.Load()}
	objects := a.find()
	f.now = time.Now()
	for _, o := range objects {
		m := o.Meta
		switch {
		case a.said != nil && !m.by(a.said):
			return finding{reason: whyVaryMiss, ended: f.ended}
		case m.implicit() && personal(a.req.Header):
			continue
		case !a.selects(m):
			f.reason = whyVaryMiss
			f.learn(m)
		case m.Span != nil:
			f.learn(m)
			if f.reason == whyAbsent {
				f.reason = whyPartial
			}
			if a.ranged != nil && a.fresh(m, f.now) {
				f.parts = append(f.parts, o)
			}
		case f.object == nil || m.Received.After(f.object.Meta.Received):
			f.object = o
		}
	}
	if f.object != nil {
		a.weigh(&f)
		f.own = f.object.Meta.facts().opaque && f.object.Meta.Coding != "" || f.object.Meta.asks()
	} else if len(f.parts) > 0 {
		f.reason = whyPartial
	}
	return f
}

// by reports whether an answer varies by none but these fields.
func (m *Meta) by(fields func(name string) bool) bool {
	for _, s := range m.Vary {
		if !fields(s.Name) {
			return false
		}
	}
	return true
}

// learn notes what the answers under a key vary by.
func (f *finding) learn(m *Meta) {
	if f.names != nil {
		return
	}
	for _, s := range m.Vary {
		if s.Name == "Accept-Encoding" {
			f.own = true
		} else {
			f.names = append(f.names, s.Name)
		}
	}
}

// asks reports whether an answer is for one Accept-Encoding.
func (m *Meta) asks() bool {
	for _, s := range m.Vary {
		if s.Name == "Accept-Encoding" {
			return true
		}
	}
	return false
}

// weigh says whether the object that was found may be given (RFC 9111 §4, §4.2.4,
// §5.2.1).
func (a *ask) weigh(f *finding) {
	m, of := f.object.Meta, f.object.Meta.facts()
	age, left := m.age(f.now), m.Until.Sub(f.now)
	if f.now.Before(m.Received) {
		left = min(left, 0) // it is from before the clock was put right
	}
	f.ttl, f.note = left, m.Note
	overridden := a.policy.overrides(m.Status)
	while, ifError, note := a.policy.windows(of, m.Status)
	if a.control.staleIfError > ifError {
		ifError = a.control.staleIfError // RFC 5861 §4
	}
	must := of.mustValidate()
	if must == "no-cache" && overridden {
		must = ""
	}
	// A request's no-cache and max-age are what it would rather have (RFC 9111 §5.2.1),
	// and in place of an error it is given what there is, unless it wants nothing of that.
	unwanted := a.control.noCache && a.control.noStore
	f.onError = must == "" && !unwanted && -left <= ifError && ifError > 0
	tooOld := a.control.maxAge != unsaid && age > a.control.maxAge && (a.control.maxStale == unsaid || age-a.control.maxAge > a.control.maxStale)
	if of.immutable && left > 0 && !overridden {
		tooOld = false // a reload has no need to validate it (RFC 8246 §2); who must says no-cache
	}
	switch {
	case of.noCache && !overridden:
		f.reason = whyNoCache
	case a.control.noCache || tooOld:
		f.reason = whyRequestControl
	case left <= 0:
		f.reason = whyExpired
		f.serve = must == "" && -left < while && a.control.minFresh <= 0
		f.refresh = f.serve
		if f.serve && note != "" {
			f.note = joined(f.note, note)
		}
		if !f.serve && must == "" && of.sMaxAge == unsaid && a.control.maxStale != unsaid && -left <= a.control.maxStale {
			f.serve = true // §5.2.1.2
		}
	case m.Stale:
		f.reason, f.serve, f.refresh = whyPurged, must == "", true
		f.ttl, f.note = 0, joined(f.note, string(whyPurged))
	case left < a.control.minFresh:
		f.reason = whyRequestControl
	default:
		f.reason, f.serve = "", true
	}
}

// suits reports whether an answer that came for somebody else is what the request
// wants: no older than its max-age, and fresh for its min-fresh (§5.2.1).
func (a *ask) suits(m *Meta) bool {
	now, control := time.Now(), &a.control
	if m.facts().immutable && !a.policy.overrides(m.Status) && now.Before(m.Until) {
		return control.minFresh <= 0 || m.Until.Sub(now) >= control.minFresh
	}
	over := m.age(now) - control.maxAge
	return (control.maxAge == unsaid || over <= 0 || control.maxStale != unsaid && over <= control.maxStale) &&
		(control.minFresh <= 0 || m.Until.Sub(now) >= control.minFresh)
}

// fresh reports whether a part may be given as it is.
func (a *ask) fresh(m *Meta, now time.Time) bool {
	f := finding{now: now, object: &Object{Meta: m}}
	a.weigh(&f)
	return f.reason == ""
}

func joined(a, b string) string {
	if a == "" || b == "" {
		return a + b
	}
	return a + ", " + b
}

// mostLooks is how often a request looks again after it waited for an answer that
// was not for it: then it fetches alone.
const mostLooks = 4

// always is a finding's ended that lets it be fetched whatever ended since.
const always = math.MaxUint64

// answer answers the request.
func (a *ask) answer() (*http.Response, error) {
	var after landed
	for look := 0; ; look++ {
		found := a.lookup()
		if found.serve {
			found.refresh = found.refresh && !a.rests(&found)
			if res := a.fromStore(&found); res != nil {
				return res, nil
			}
			found = finding{now: found.now, ended: found.ended, reason: whyAbsent} // it can't be read
		}
		if res := a.fromParts(&found); res != nil {
			return res, nil
		}
		if a.control.onlyIfCached {
			return a.unavailable(&found), nil
		}
		if found.onError && a.troubled(&found) {
			a.noteError(&found)
			if res := a.fromStore(&found); res != nil {
				return res, nil
			}
		}
		a.status.forward(found.reason)
		a.trace.Reason = string(found.reason)
		if a.head {
			return a.passAlone(&found, whyHead)
		}
		if found.object == nil && conditional(a.req.Header) && a.expectsAlone() {
			return a.passAlone(&found, whyExpected)
		}
		if after.looked {
			found.ended = always
		}
		found.solo = after.solo || look >= mostLooks || found.reason == whyNoCache || a.control.noStore
		if after.names != nil {
			found.names = after.names
		}
		found.own = found.own || after.own
		if found.apart = after.apart; !after.gapless {
			found.gap = a.gapOf(&found)
		}
		res, again, err := a.fetch(&found, after.failed)
		if again == nil {
			return res, err
		}
		if again.looked {
			after.looked = true
			continue
		}
		after = *again
	}
}

// landed is what a request that waited for an answer learnt of it, when it was
// not for it.
type landed struct {
	solo    bool     // the next will not be either
	failed  bool     // it is fetched again, once
	own     bool     // it stays in the form in which it came
	gapless bool     // what is missing of the range does not go with what is kept
	apart   bool     // the range is not to be had of it soon
	looked  bool     // it was looked for again, as a fetch had ended meanwhile
	names   []string // the fields that it varies by
}

// expectsAlone reports whether the answer is expected to be for this request alone.
func (a *ask) expectsAlone() bool {
	a.c.flights.Lock()
	defer a.c.flights.Unlock()
	return time.Now().Before(a.c.marks[a.key].uncacheable)
}

// provesLarge reports whether the last answer of unknown length turned out larger than is
// kept, a while ago.
func (a *ask) provesLarge() bool {
	a.c.flights.Lock()
	defer a.c.flights.Unlock()
	m := a.c.marks[a.key]
	return m.tooLarge(time.Now())
}

// fromStore gives the object that was found; nil when it can't be read.
func (a *ask) fromStore(f *finding) *http.Response {
	m := f.object.Meta
	age := m.age(f.now)
	a.status.hit, a.status.timed, a.status.ttl, a.status.note = true, true, f.ttl, f.note
	res, err := a.give(&source{meta: m, forms: f.object.Forms, object: f.object, aged: true, age: age})
	if err != nil {
		a.c.options.Store.Remove(f.object)
		a.status.anew()
		return nil
	}
	if m.read != nil {
		m.read.given.Store(f.now.UnixNano())
	}
	a.trace.Result, a.trace.Reason, a.trace.Age = Hit, string(f.reason), age
	if f.reason != "" {
		a.trace.Result = Stale
	}
	if f.refresh {
		a.refresh(f)
	}
	return res
}

// unavailable is the answer to only-if-cached when there is nothing (RFC 9111
// §5.2.1.7).
func (a *ask) unavailable(f *finding) *http.Response {
	a.trace.Result, a.trace.Reason = Failed, string(whyOnlyIfCached)
	a.status.forward(f.reason)
	a.status.fwd, a.status.detail = "", whyOnlyIfCached
	h := http.Header{"Content-Length": {"0"}, "Date": {f.now.UTC().Format(http.TimeFormat)}}
	a.status.set(h)
	return response(a.req, http.StatusGatewayTimeout, h, http.NoBody, 0)
}
