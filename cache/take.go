package cache

import (
	"context"
	"net/http"
	"time"
)

// What a request gets of a fetch, and what it does when that is not for it:
//
//  1. fetch waits for the fetch to land,
//  2. whose request began it takes what there is (takeFirst): also an answer that is
//     for it alone, or the failure,
//  3. those that waited take what is for them (take), or are sent to look again,
//     with what was learnt: one of them fetches again what failed,
//  4. who has something stale that may be given on an error is given that.

// fetch gives the answer of a fetch. again is what was learnt of one that was not
// for this request.
func (a *ask) fetch(found *finding, retried bool) (*http.Response, *landed, error) {
	f, s, ended := a.c.join(a, found, retried)
	if ended {
		return nil, &landed{looked: true}, nil
	}
	if f == nil {
		res, err := a.pass(whyClosed)
		return res, nil, err
	}
	a.trace.Fetch = s == f.first
	if !a.await(found, f) {
		s.Close()
		if a.req.Context().Err() == nil {
			res, err := a.stale(found)
			return res, nil, err
		}
		a.trace.Result = Failed
		return nil, nil, context.Cause(a.req.Context())
	}
	if s == f.first {
		res, err := a.takeFirst(found, f, s)
		return res, nil, err
	}
	return a.take(found, f, s, retried)
}

// await waits for the fetch to land; false is that it is not waited for any more, as
// the client has left, or is given something stale.
func (a *ask) await(found *finding, f *flight) bool {
	var alarm <-chan struct{}
	if found.alarm != nil {
		alarm = found.alarm.Done()
	}
	for {
		select {
		case <-f.answered:
			return true
		case <-a.req.Context().Done():
			return false
		case <-alarm:
			if alarm = nil; f.pending() && a.spared(found) {
				return false
			}
		}
	}
}

// takeFirst gives the answer to whose request it is.
func (a *ask) takeFirst(found *finding, f *flight, s *seat) (*http.Response, error) {
	l := &f.landing
	if (l.err != nil || isTrouble(l.status)) && a.spared(found) {
		s.Close()
		return a.stale(found)
	}
	if l.err == nil && !found.gap.fits(l) {
		if s.Close(); l.alone != nil {
			l.alone.Body.Close()
		}
		return a.gapless(found)
	}
	switch {
	case l.err != nil:
		s.Close()
		a.trace.Result, a.trace.Reason = Failed, string(whyError)
		return nil, l.err
	case l.object != nil:
		s.Close()
		return a.validated(found, f, Revalidated)
	case l.alone != nil && !a.canTake(l.alone):
		l.alone.Body.Close()
		s.Close()
		return a.again(found)
	case l.alone != nil:
		a.trace.Result, a.trace.Kept = Uncacheable, string(l.reason)
		a.status.fwdStatus, a.status.detail = l.status, f.detail(l.reason)
		a.status.set(l.alone.Header)
		l.alone.Request = a.req
		l.alone.Body = s.alone(l.alone.Body)
		a.recodeAlone(l.alone)
		return l.alone, nil
	}
	a.trace.Result, a.trace.Kept = Miss, string(l.reason)
	a.status.fwdStatus, a.status.stored, a.status.note = l.status, l.reason == "", l.meta.Note
	if l.reason != "" {
		a.trace.Result, a.status.detail = Uncacheable, f.detail(l.reason)
	}
	a.status.timed, a.status.ttl = true, l.meta.Until.Sub(l.meta.Received)
	if l.own && !a.takesAsIs(l.meta, selectorValue(f.out.Header, "Accept-Encoding")) {
		s.Close() // another form is fetched for it
		return a.again(found)
	}
	from := &source{meta: l.meta, forms: []Form{{Coding: l.meta.Coding}}, seat: s, size: l.size, header: l.header}
	if found.gap != nil && l.meta.Span != nil {
		res, err := a.fill(found.gap, from)
		if err != nil {
			return a.gapless(found)
		}
		return res, nil
	}
	return a.give(from)
}

// gapless fetches all of a range, as what was missing of it does not go with what is
// kept, or that can't be read.
func (a *ask) gapless(found *finding) (*http.Response, error) {
	next := *found
	next.gap, next.parts, next.solo, next.ended = nil, nil, true, always
	a.status.anew()
	a.trace.Kept = ""
	a.status.forward(found.reason)
	res, _, err := a.fetch(&next, true)
	return res, err
}

// again fetches for a request that can't read what its fetch brought.
func (a *ask) again(found *finding) (*http.Response, error) {
	if found.own {
		return a.pass(whyCoding)
	}
	next := *found
	next.own, next.object, next.ended = true, nil, always
	res, _, err := a.fetch(&next, true)
	if res == nil && err == nil {
		return a.pass(whyCoding)
	}
	return res, err
}

// take gives the answer to a request that waited for another's fetch.
func (a *ask) take(found *finding, f *flight, s *seat, retried bool) (*http.Response, *landed, error) {
	l := &f.landing
	if (l.err != nil || isTrouble(l.status)) && a.spared(found) {
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
	case l.object != nil && l.shared && a.selects(l.object.Meta) && a.suits(l.object.Meta):
		s.Close()
		a.status.collapsed = true
		res, err := a.validated(found, f, Collapsed)
		return res, nil, err
	case !found.gap.fits(l):
		s.Close()
		return nil, &landed{gapless: true, failed: retried}, nil
	case l.meta != nil && l.shared && a.selects(l.meta) && a.suits(l.meta) && !a.partable(found, f):
		s.Close()
		return nil, &landed{apart: true, failed: retried}, nil
	case l.meta != nil && l.shared && a.selects(l.meta) && a.suits(l.meta):
		now := time.Now()
		a.trace.Result, a.trace.Age = Collapsed, l.meta.age(now)
		a.status.collapsed, a.status.note = true, l.meta.Note
		a.status.timed, a.status.ttl = true, l.meta.Until.Sub(now)
		from := &source{meta: l.meta, forms: []Form{{Coding: l.meta.Coding}}, seat: s, size: l.size, aged: true, age: l.meta.age(now)}
		if found.gap != nil && l.meta.Span != nil {
			res, err := a.fill(found.gap, from)
			if err != nil {
				a.status.anew()
				return nil, &landed{gapless: true, failed: retried}, nil
			}
			return res, nil, nil
		}
		res, err := a.give(from)
		return res, nil, err
	}
	s.Close()
	unsuited := l.meta != nil && !a.suits(l.meta) || l.object != nil && !a.suits(l.object.Meta)
	again := &landed{solo: !l.shared || unsuited, own: l.own, failed: retried}
	if l.meta != nil {
		again.names = varyNames(l.meta.Header)
	}
	return nil, again, nil
}

// partable reports whether what comes can be given to the request: one for a range
// takes no whole in its place that it would have to wait for.
func (a *ask) partable(found *finding, f *flight) bool {
	l := &f.landing
	if !a.fetchesRange(found) || len(f.out.Header["Range"]) > 0 || l.meta.Span != nil || l.meta.Status != http.StatusOK {
		return true
	}
	form := a.pick(l.meta, []Form{{Coding: l.meta.Coding}})
	return form.form != nil && f.soonOf(a.ranged)
}

// spared reports whether there is something to give on an error, as it is by now: what
// was found may have been purged since, be too old, or be another.
func (a *ask) spared(found *finding) bool {
	if !found.onError {
		return false
	}
	now := a.lookup()
	found.now, found.object, found.ttl, found.note = now.now, now.object, now.ttl, now.note
	found.serve, found.onError, found.reason = now.serve, now.onError, now.reason
	return now.serve || now.onError
}

// stale gives what was spared, as there is no other.
func (a *ask) stale(found *finding) (*http.Response, error) {
	found.refresh = false
	if !found.serve {
		found.reason = whyError
		a.noteError(found)
	}
	if res := a.fromStore(found); res != nil {
		return res, nil
	}
	return a.pass(whyError)
}

// noteError names the rule by which something stale is given on an error, if it is
// one of the owner's.
func (a *ask) noteError(found *finding) {
	if age := a.policy.StaleIfError; age > 0 && found.object.Meta.facts().staleIfError == unsaid {
		found.note = joined(found.note, "stale_if_error="+secondsText(age))
	}
}
