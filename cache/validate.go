package cache

import (
	"context"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Validation (RFC 9111 §4.3), within a fetch:
//
//  1. conditional adds the validators of what is kept,
//  2. a 304 that is of it freshens it: its header is updated (§3.2), and judged
//     anew; any other is as if none had come, and the request is sent without
//     conditions,
//  3. validated gives it.
//
// A HEAD goes on as it is, and its answer updates a GET's (§4.3.5).

// conditional is the request with the validators of what is to be validated.
func (f *flight) conditional() *http.Request {
	if !f.validates() {
		return f.out
	}
	of := f.valid.Meta.facts()
	out := f.out.WithContext(f.out.Context())
	out.Header = f.out.Header.Clone()
	if of.etag != "" {
		out.Header["If-None-Match"] = []string{of.etag}
	}
	if !of.modified.IsZero() {
		out.Header["If-Modified-Since"] = []string{first(f.valid.Meta.Header, "Last-Modified")}
	}
	return out
}

// validates reports whether there is something to validate.
func (f *flight) validates() bool {
	return f.valid != nil && (f.valid.Meta.facts().etag != "" || !f.valid.Meta.facts().modified.IsZero())
}

// freshen lands what was validated by a 304; not ok is that it is another's. A
// strong tag is compared as a weak one is, unlike §4.3.4: nginx weakens the tag of
// what it compresses, and that of its 304 is strong.
func (f *flight) freshen(x *exchanged) bool {
	old := f.valid.Meta
	x.res.Body.Close()
	tag, was := first(x.res.Header, "Etag"), old.facts().etag
	if !f.validates() || tag != "" && was != "" && !alike(tag, was) || was == "" && strong(tag) {
		return false
	}
	all := updated(old, x.res.Header, x.received)
	header := all.Clone()
	delete(header, "Set-Cookie") // it is its client's, and says nothing of the rest
	y := *x
	y.res = &http.Response{StatusCode: old.Status, Header: header, ContentLength: -1}
	v := y.judge()
	if v.header == nil {
		v.header = keptHeader(header, v.facts)
	}
	if v.reason == "" && !sameFields(v.vary, old.Vary) {
		v.reason = whyVaryMiss // what it was asked for with in those is not known
	}
	meta := old.with(v.header)
	meta.Requested, meta.Received, meta.Until = x.requested, x.received, v.until(v.facts, x.received)
	meta.Stale, meta.Note = false, v.note
	if len(x.tags) > 0 {
		meta.Tags = x.tags
	}
	object := &Object{Meta: meta.settled(), Forms: f.valid.Forms}
	switch v.reason {
	case "":
		if renewed := f.c.options.Store.Renew(f.valid, meta); renewed != nil {
			object = renewed
		}
	case whyRequestNoStore, whyAuthorization: // of this request: what is kept may stay as it was
	default:
		f.c.options.Store.Remove(f.valid)
		for _, o := range f.c.options.Store.Find(f.key.key) {
			if o.Meta.Span != nil && o.Meta.facts().etag == was {
				f.c.options.Store.Remove(o) // a part of the same, of which it says the same (§4.3.4)
			}
		}
	}
	if v.reason == "" && v.shared {
		f.c.remember(f.key.key, func(m *mark) { m.uncacheable = time.Time{} })
	}
	f.land(landing{
		status: http.StatusNotModified, reason: v.reason, object: object, header: all,
		shared: v.reason == "" && v.shared && len(x.res.Header["Set-Cookie"]) == 0,
	})
	return true
}

// updated is the header of a kept answer with the fields of a newer one in place
// of its own (§3.2).
func updated(old *Meta, newer http.Header, received time.Time) http.Header {
	h := old.Header.Clone()
	hops := hopsOf(newer["Connection"])
	for name, values := range newer {
		switch name {
		case "Content-Encoding", "Content-Length", "Content-Range":
			continue // of the body, which is the old one
		case "Etag":
			if old.facts().etag != "" {
				continue // the old one says which form it is for
			}
		}
		if !connection[name] && !hops[name] || name == "Set-Cookie" {
			h[name] = slices.Clip(values)
		}
	}
	if len(newer["Date"]) == 0 {
		h["Date"] = []string{received.UTC().Format(http.TimeFormat)} // RFC 9110 §6.6.1
	}
	if len(newer["Age"]) == 0 {
		delete(h, "Age") // it was of the old one
	}
	return h
}

// validated gives an object that was validated.
func (a *ask) validated(found *finding, f *flight, result Result) (*http.Response, error) {
	l := &f.landing
	m := l.object.Meta
	age := m.age(m.Received)
	a.trace.Result, a.trace.Age, a.trace.Kept = result, age, string(l.reason)
	a.status.fwdStatus, a.status.note = http.StatusNotModified, m.Note
	a.status.timed, a.status.ttl = true, m.Until.Sub(m.Received)
	s := &source{meta: m, forms: l.object.Forms, object: l.object, aged: true, age: age}
	if result == Revalidated {
		s.header = l.header
	}
	res, err := a.give(s)
	if err != nil {
		a.c.options.Store.Remove(l.object)
		return a.pass(found.reason)
	}
	return res, nil
}

// passAlone sends on, as it came, what is for this request alone: a HEAD, and a
// GET with conditions where the answer is not expected to be kept.
func (a *ask) passAlone(found *finding, why Reason) (*http.Response, error) {
	a.trace.Result, a.trace.Kept, a.trace.Fetch = Uncacheable, string(why), true
	ctx := a.req.Context()
	if found.alarm != nil {
		alarmed, leave := context.WithCancel(ctx)
		defer leave()
		defer context.AfterFunc(found.alarm, leave)()
		ctx = alarmed
	}
	origin, out := a.origin(), a.sentAlone().WithContext(ctx)
	x := &exchanged{policy: a.policy, sent: out, noStore: a.control.noStore, most: a.c.most.Load(), requested: found.now}
	res, err := a.t.Next.RoundTrip(out)
	left := err != nil && ctx.Err() != nil
	if x.take(res); !left {
		a.c.heard(a.key, origin, x.requested, res)
	}
	if (err != nil || isTrouble(res.StatusCode)) && a.spared(found) {
		status := 0
		if err == nil {
			status = res.StatusCode
			res.Body.Close()
		}
		if !left {
			a.c.cover(a.policy.Site, a.at(), status, err)
		}
		return a.stale(found)
	}
	if left && a.req.Context().Err() == nil { // what was to be spared is gone meanwhile
		a.status.anew()
		return a.pass(whyError)
	}
	if err != nil {
		a.trace.Result, a.trace.Reason = Failed, string(whyError)
		return nil, err
	}
	if a.head && res.StatusCode == http.StatusOK && found.object != nil {
		x.received = time.Now()
		a.updateByHead(x, found.object)
	}
	if found.alarm != nil {
		res.Body.Close()
		res.Body = http.NoBody // a HEAD's, and its context ends here
	}
	a.status.fwdStatus, a.status.detail = res.StatusCode, why
	a.status.set(res.Header)
	return res, nil
}

// sentAlone is the request as it goes on for this one alone, less its context.
func (a *ask) sentAlone() *http.Request {
	out := a.sent(true)
	for _, name := range []string{"If-None-Match", "If-Modified-Since", "Range", "If-Range"} {
		if lines := a.req.Header[name]; len(lines) > 0 {
			out.Header[name] = lines
		}
	}
	return out
}

// updateByHead freshens an object by the answer to a HEAD, or makes it stale where
// that is of another (§4.3.5).
func (a *ask) updateByHead(x *exchanged, o *Object) {
	old, h := o.Meta, x.res.Header
	tag, same := first(h, "Etag"), old.Status == x.res.StatusCode
	if tag != "" || old.facts().etag != "" {
		same = same && alike(tag, old.facts().etag)
	} else if modified, ok := readTime(h["Last-Modified"]); ok {
		same = same && modified.Equal(old.facts().modified)
	}
	if coding, _ := codingOf(h); same && coding == old.Coding && len(h["Content-Length"]) > 0 {
		same = strings.Trim(h["Content-Length"][0], " ") == strconv.FormatInt(o.Forms[0].Body.Size(), 10)
	}
	if !same {
		meta := old.with(old.Header)
		meta.Until = earlier(meta.Until, x.received)
		a.c.options.Store.Renew(o, meta.settled())
		return
	}
	if tag == "" && len(h["Last-Modified"]) == 0 {
		return // it does not say of what it is
	}
	y := *x
	header := updated(old, h, x.received)
	delete(header, "Set-Cookie")
	y.res = &http.Response{StatusCode: old.Status, Header: header, ContentLength: -1}
	v := y.judge()
	if v.reason != "" || !sameFields(v.vary, old.Vary) {
		return
	}
	meta := old.with(v.header)
	meta.Requested, meta.Received, meta.Until = x.requested, x.received, v.until(v.facts, x.received)
	meta.Stale, meta.Note = false, v.note
	if len(x.tags) > 0 {
		meta.Tags = x.tags
	}
	a.c.options.Store.Renew(o, meta.settled())
}
