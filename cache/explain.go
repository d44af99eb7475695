package cache

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// Explain takes the way of a request and says what it sees:
//
//  1. whether it is looked up, and under which key,
//  2. what is kept under that, and which of it the request selects,
//  3. how fresh that is, and what follows,
//  4. where the origin would be asked, it is: whether its answer would be kept, and
//     why not.
//
// It decides nothing itself: it calls what RoundTrip calls. Nothing is kept, and
// nothing that is kept changes.

// Step is one step of a decision.
type Step struct {
	About   string `json:"about"`             // what it is about, in a word
	Says    string `json:"says"`              // what was found, and what follows
	Section string `json:"section,omitempty"` // of the RFC, or the key of the policy
}

// explaining is a decision as it is told.
type explaining struct {
	*ask
	steps []Step
}

func (e *explaining) say(about, section, format string, args ...any) {
	e.steps = append(e.steps, Step{about, fmt.Sprintf(format, args...), section})
}

// Explain says, step by step, what would become of a request now. Where the cache
// would ask the origin, the origin is asked, and its body not read.
func (t *Transport) Explain(ctx context.Context, req *http.Request) []Step {
	req = req.WithContext(ctx)
	e := &explaining{ask: &ask{t: t, c: t.Cache, req: req, policy: t.policyOf(req), trace: &Trace{}, asks: true}}
	if reason := e.read(); reason != "" {
		e.say("request", sections[reason], "%s %s passes by the cache: %s", req.Method, URL(req, e.policy), explained[reason])
		if !safe(req.Method) {
			e.say("request", "RFC 9111 §4.4", "an answer that is no error makes the cache forget what is kept of the URL, and of those that Location and Content-Location name")
		}
		return e.steps
	}
	e.say("request", "RFC 9111 §4", "%s is looked up", req.Method)
	e.key()
	found := e.lookup()
	e.kept(&found)
	if found.serve {
		e.served(&found, found.refresh && e.rests(&found))
		return e.steps
	}
	if parts := e.fromParts(&found); parts != nil {
		parts.Body.Close()
		e.say("answer", "RFC 9111 §3.4", "given from the parts that are kept")
		return e.steps
	}
	if e.control.onlyIfCached {
		e.say("answer", "RFC 9111 §5.2.1.7", "504, and the origin is not asked: %s, and the request wants no answer but a kept one", explained[found.reason])
		return e.steps
	}
	if found.onError && e.troubled(&found) {
		then := "another request tries it, or did a moment ago"
		if found.refresh {
			then = "it is asked meanwhile"
		}
		e.say("answer", "RFC 5861 §4", "given stale: the origin fails, or this page of it, and is asked every %s at most: %s", retryAfter, then)
		return e.steps
	}
	if found.try {
		e.say("lookup", "RFC 5861 §4", "the origin failed, or this page of it: this request tries it, and others do not wait for that")
	}
	e.say("lookup", sections[found.reason], "the origin is asked: %s", explained[found.reason])
	e.asks(&found)
	return e.steps
}

// key says what the request is known by.
func (e *explaining) key() {
	p := e.policy
	e.say("key", "RFC 9111 §2", "%s of site %q", e.at(), p.Site)
	if p.Made != "" {
		e.say("key", "hosts, rewrite", "what was made with other hosts, origins or rewriting than the file has now is not found (%s)", p.Made)
	}
	if p.Query.drops(e.req.URL) {
		counts, _ := p.Query.of(e.req.URL)
		e.say("key", "policy "+p.Query.rule(), "of the query %q this counts: %q", e.req.URL.RawQuery, counts)
	}
	for _, name := range p.KeyHeaders {
		e.say("key", "policy key_headers", "%s: %q counts", name, selectorValue(e.req.Header, name))
	}
	for _, name := range p.KeyCookies {
		value, _ := cookie(e.req.Header, name)
		e.say("key", "policy key_cookies", "cookie %s=%q counts", name, value)
	}
	for _, name := range p.strangers(e.req.Header, nil) {
		e.say("key", "RFC 9111 §7.1", "%s: %q counts: it is none of the fields that browsers send to all sites, and origins may answer by it (ignore_headers if yours does not)", name, e.req.Header[name])
	}
	for _, name := range slices.Sorted(maps.Keys(e.req.Header)) {
		switch {
		case unkeyed(name):
			e.say("request", "RFC 9111 §7.1", "%s is dropped: it is in no key, and origins may answer by it", name)
		case p.ignores(name):
			e.say("request", "policy ignore_headers", "%s does not count, and is dropped", name)
		}
	}
}

// kept says what there is under the key.
func (e *explaining) kept(found *finding) {
	objects := e.find()
	if len(objects) == 0 {
		e.say("lookup", "RFC 9111 §4", "nothing is kept under the key")
	}
	for _, o := range objects {
		m := o.Meta
		what := fmt.Sprintf("%d of %s, %s", m.Status, m.Received.UTC().Format(time.RFC3339), o.sizes())
		if m.Span != nil {
			what += ", " + contentRange(m.Span.From, m.Span.To, m.Span.Of)
		}
		switch field := e.mismatch(m); {
		case field != "":
			e.say("vary", "RFC 9111 §4.1", "%s is not selected: %s is %q, it was made for %q", what, field, e.selector(field), m.madeFor(field))
		case m.implicit() && personal(e.req.Header):
			e.say("vary", "RFC 9111 §7.3", "%s is not selected: it says nothing of caches, and the request says who the client is", what)
		case o == found.object:
			if m.Key != e.ask.key {
				e.say("key", "policy no_vary_search", "it was kept for another query, and says that the difference does not matter")
			}
			e.say("vary", "RFC 9111 §4.1", "%s is selected", what)
			e.weighed(found)
		case m.Span != nil:
			e.say("vary", "RFC 9111 §3.3", "%s is a part", what)
		default:
			e.say("vary", "RFC 9111 §4", "%s is selected, but there is a newer one", what)
		}
	}
}

// sizes are those of the forms.
func (o *Object) sizes() string {
	text := ""
	for _, form := range o.Forms {
		text = joined(text, fmt.Sprintf("%d bytes in %s", form.Body.Size(), codingText(form.Coding)))
	}
	return text
}

// codingText is a coding in words.
func codingText(coding string) string {
	if coding == "" {
		return "no coding"
	}
	return coding
}

func (m *Meta) madeFor(field string) string {
	for _, s := range m.Vary {
		if s.Name == field {
			return s.Value
		}
	}
	return ""
}

// weighed says how fresh the selected answer is.
func (e *explaining) weighed(f *finding) {
	m := f.object.Meta
	of := m.facts()
	if l := e.policy.freshness(of, m.Status); m.Note != l.note { // the policy is another by now
		by := m.Note
		if by == "" {
			by = "what it says itself"
		}
		e.say("freshness", "RFC 9111 §4.2", "when it was stored, by %s, it was fresh for %s, and is %s old; what the policy says now is for what is fetched from now on, and a purge has all of it fetched",
			by, m.Until.Sub(m.Received).Round(time.Second), m.age(f.now).Round(time.Second))
	} else if l.life == unsaid {
		e.say("freshness", "RFC 9111 §4.2.1", "nothing says how long it is fresh")
	} else {
		e.say("freshness", freshnessSection(l), "fresh for %s by %s, %s old", l.life, l.source, m.age(f.now).Round(time.Second))
	}
	if m.Stale {
		e.say("freshness", sections[whyPurged], "purged softly: it is given while another is fetched")
	}
	if f.ttl > 0 {
		e.say("freshness", "RFC 9111 §4.2", "fresh until %s", m.Until.UTC().Format(time.RFC3339))
		return
	}
	e.say("freshness", "RFC 9111 §4.2", "stale since %s", m.Until.UTC().Format(time.RFC3339))
	if must := of.mustValidate(); must != "" {
		e.say("stale", "RFC 9111 §4.2.4", "%s: it may not be given stale", must)
	}
	while, ifError, _ := e.policy.windows(of, m.Status)
	section := func(said time.Duration, rfc, key string) string {
		if said == unsaid {
			return "policy " + key
		}
		return rfc
	}
	if while > 0 {
		e.say("stale", section(of.staleWhileRevalidate, "RFC 5861 §3", "stale_while_revalidate"), "it may be given for %s while another is fetched", while)
	}
	if ifError > 0 {
		e.say("stale", section(of.staleIfError, "RFC 5861 §4", "stale_if_error"), "it may be given for %s when the origin fails", ifError)
	}
}

func freshnessSection(l lifetimes) string {
	switch {
	case l.source == "heuristic":
		return "RFC 9111 §4.2.2"
	case l.note != "":
		return "policy " + l.source
	}
	return "RFC 9111 §4.2.1"
}

// served says what is given.
func (e *explaining) served(f *finding, rests bool) {
	form := e.pick(f.object.Meta, f.object.Forms)
	what, section, bodiless := e.shape(f, codingText(form.coding))
	if f.reason == "" {
		e.say("answer", section, "a hit, %s", what)
	} else {
		e.say("answer", sections[f.reason], "given stale, %s: %s", what, explained[f.reason])
	}
	switch {
	case rests:
		e.say("answer", "RFC 5861 §3", "no other is fetched meanwhile: the origin fails, or this page of it, and was asked less than %s ago", retryAfter)
	case f.refresh:
		e.say("answer", "RFC 5861 §3", "another is fetched meanwhile")
	}
	switch {
	case bodiless:
	case form.form != nil && form.wanted == form.coding:
	case f.object.Forms[0].Body.Size() > mostCoded:
		e.say("form", "RFC 9110 §12.5.3", "no other form is made of it: it is longer than %d bytes", mostCoded)
	default:
		e.say("form", "RFC 9110 §12.5.3", "the client would rather have it in %s: that form is made in the background, and kept", codingText(form.wanted))
	}
}

// shape says what is given of what is kept: all of it, a part, or no body.
func (e *explaining) shape(f *finding, coding string) (what, section string, bodiless bool) {
	given := *e.ask
	given.head, given.asks, given.trace = true, true, &Trace{} // so that no body is opened, and no form made
	m := f.object.Meta
	res, err := given.give(&source{meta: m, forms: f.object.Forms, object: f.object, aged: true, age: m.age(f.now)})
	if err == nil {
		span := first(res.Header, "Content-Range")
		switch res.StatusCode {
		case m.Status:
		case http.StatusNotModified:
			return "304: the client has it already", "RFC 9110 §13.1", true
		case http.StatusPartialContent:
			return "206, " + span + ", in " + coding, "RFC 9110 §14.2", false
		case http.StatusRequestedRangeNotSatisfiable:
			return "416: the range is not in its " + strings.TrimPrefix(span, "bytes */") + " bytes", "RFC 9110 §15.5.17", true
		}
	}
	return "in " + coding, "RFC 9111 §4", false
}

// telling are the fields of an answer that decide.
var telling = []struct{ name, section string }{
	{"Cdn-Cache-Control", "RFC 9213 §3"}, {"Cache-Control", "RFC 9111 §5.2"}, {"Expires", "RFC 9111 §5.3"}, {"Age", "RFC 9111 §5.1"},
	{"Date", "RFC 9110 §6.6.1"}, {"Vary", "RFC 9110 §12.5.5"}, {"Etag", "RFC 9110 §8.8.3"}, {"Last-Modified", "RFC 9110 §8.8.2"},
	{"Content-Encoding", "RFC 9110 §8.4"},
}

// asks asks the origin, and says whether the answer would be kept.
func (e *explaining) asks(found *finding) {
	ctx, cancel := context.WithCancel(e.req.Context())
	defer cancel()
	alone := e.head || found.object == nil && conditional(e.req.Header) && e.expectsAlone()
	f := &flight{c: e.c}
	if alone {
		f.out = e.sentAlone().WithContext(ctx)
	} else {
		if found.gap = e.gapOf(found); found.gap != nil {
			e.say("fetch", "RFC 9111 §3.4", "%s of it is missing beside what is kept, and is asked for if that is still so: %s", found.gap.lack.text(), found.gap.tag)
		}
		f.out, f.valid = e.fetched(found).WithContext(context.WithValue(ctx, keptKey{}, true)), found.object
	}
	if f.validates() {
		e.say("fetch", "RFC 9111 §4.3.1", "with the validators of what is kept: If-None-Match: %s, If-Modified-Since: %s", found.object.Meta.facts().etag, first(found.object.Meta.Header, "Last-Modified"))
	}
	x := &exchanged{policy: e.policy, sent: f.out, noStore: e.control.noStore, most: e.c.most.Load(), requested: time.Now()}
	res, err := e.t.Next.RoundTrip(f.conditional())
	x.received = time.Now()
	if err != nil {
		e.say("fetch", "RFC 9110 §15.6", "failed: %v", err)
		if found.onError {
			e.say("answer", "RFC 5861 §4", "what is kept is given stale")
		}
		return
	}
	defer res.Body.Close()
	x.res = res
	e.say("fetch", "RFC 9111 §4", "the origin answers %d in %s", res.StatusCode, x.received.Sub(x.requested).Round(time.Millisecond))
	for _, field := range telling {
		if lines := res.Header[field.name]; len(lines) > 0 {
			e.say("fetch", field.section, "%s: %s", field.name, strings.Join(lines, ", "))
		}
	}
	if res.StatusCode == http.StatusNotModified && f.validates() {
		e.say("answer", "RFC 9111 §4.3.4", "what is kept is still so, and freshened")
		x.res = &http.Response{StatusCode: found.object.Meta.Status, Header: updated(found.object.Meta, res.Header, x.received), ContentLength: -1}
		x.res.Header.Del("Set-Cookie")
	}
	if isTrouble(res.StatusCode) && found.onError {
		e.say("answer", "RFC 5861 §4", "what is kept is given stale, and that is not kept")
		return
	}
	if e.head {
		e.say("store", sections[whyHead], "not kept: %s", explained[whyHead])
		if found.object != nil && res.StatusCode == http.StatusOK {
			e.say("store", "RFC 9111 §4.3.5", "but what is kept is updated by it, or stale if it is another")
		}
		return
	}
	if alone {
		e.say("store", sections[whyExpected], "not kept: %s, and the request has a condition of its own, so that it goes on as it is", explained[whyExpected])
		return
	}
	e.judged(x)
}

// judged says whether an answer would be kept.
func (e *explaining) judged(x *exchanged) {
	v := x.judge()
	if v.facts.targeted {
		e.say("store", "RFC 9213 §2.2", "CDN-Cache-Control counts, in place of Cache-Control and Expires")
	}
	if v.reason == "" && x.res.Body != nil { // of a 304 the body is there already
		v.reason = e.roomless(x)
	}
	if v.reason != "" {
		e.say("store", sections[v.reason], "not kept: %s", explained[v.reason])
		return
	}
	for _, s := range v.vary {
		e.say("store", "RFC 9111 §4.1", "for requests with %s: %q", s.Name, s.Value)
	}
	if v.life == unsaid {
		e.say("store", "RFC 9111 §4.3", "kept, and validated each time: nothing says how long it is fresh, but it has a validator")
		return
	}
	e.say("store", freshnessSection(v.lifetimes), "fresh for %s by %s, %s old already", v.life, v.source, v.facts.initial.Round(time.Second))
	if v.shared {
		e.say("store", "RFC 9111 §3", "kept, and given without asking until %s", v.until(v.facts, x.received).UTC().Format(time.RFC3339))
	} else {
		e.say("store", "RFC 9111 §4.3", "kept, and validated each time")
	}
	if len(x.res.Header["Set-Cookie"]) > 0 {
		e.say("store", "RFC 9111 §7.3", "Set-Cookie is for whose request fetched it, and not kept")
	}
}

// roomless says why the store would not take an answer.
func (e *explaining) roomless(x *exchanged) Reason {
	draft, err := e.c.options.Store.Begin(x.res.ContentLength)
	if err != nil {
		return whyNoRoom
	}
	draft.Discard()
	if x.res.ContentLength < 0 && e.provesLarge() {
		e.say("store", "policy object_bytes", "its length is not known yet, and the last one was larger than %d bytes: it is kept only if it is not", x.limit())
		return whyTooLarge
	}
	if x.res.ContentLength < 0 {
		e.say("store", "policy object_bytes", "its length is not known yet: not kept if it turns out larger than %d bytes", x.limit())
	}
	return ""
}
