package cache

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Parts of a body (RFC 9111 §3.3, §3.4):
//
//  1. the answer to a range that was fetched is kept with its Span, when it has a
//     strong entity tag,
//  2. fromParts answers a range that parts with the same tag have between them,
//  3. of a range of which they have the beginning or the end, what is missing is
//     fetched (gapOf), on condition that it is of the same, and given with what there
//     is (fill),
//  4. assemble makes a whole of them, once they are one.

// fromParts gives a range from parts that are kept; nil when they don't have it.
func (a *ask) fromParts(f *finding) *http.Response {
	if a.ranged == nil || f.object != nil || len(f.parts) == 0 {
		return nil
	}
	newest := slices.MaxFunc(f.parts, func(x, y *Object) int { return x.Meta.Received.Compare(y.Meta.Received) })
	m, of := newest.Meta, newest.Meta.facts()
	from, to, ok := a.ranged.of(m.Span.Of)
	if !ok || !rangeHolds(a.req.Header, of.etag, of.modified, of.date) {
		return nil
	}
	pieces := cover(alikeParts(newest, f.parts), from, to)
	if pieces == nil {
		return nil
	}
	age, left := m.age(f.now), m.Until.Sub(f.now)
	for _, p := range pieces {
		age, left = max(age, p.object.Meta.age(f.now)), min(left, p.object.Meta.Until.Sub(f.now))
	}
	a.status.hit, a.status.timed, a.status.ttl, a.status.note = true, true, left, m.Note
	s := &source{meta: m, forms: newest.Forms, object: newest, aged: true, age: age}
	h := a.header(s, chosen{&newest.Forms[0], m.Coding, m.Coding}, of.etag)
	a.trace.Result, a.trace.Age, a.trace.Tier = Hit, age, pieces[0].object.Forms[0].Body.Tier()
	if conditional(a.req.Header) && unchanged(a.req.Header, of.etag, of.modified) {
		return a.notModified(s, h)
	}
	body, err := openPieces(pieces)
	if err != nil {
		a.c.options.Store.Remove(err.object)
		a.status.anew()
		*a.trace = Trace{}
		return nil
	}
	h["Content-Range"] = []string{contentRange(from, to, m.Span.Of)}
	h["Content-Length"] = []string{strconv.FormatInt(to-from, 10)}
	return response(a.req, http.StatusPartialContent, h, body, to-from)
}

// gap is what is missing of a range.
type gap struct {
	parts    []*Object // of one body
	tag      string    // its, a strong one
	from, to int64     // that is wanted
	lack     ranged    // of that
}

// gapOf is what is missing of the range that the request wants; nil when all of it
// is, or more than one range would have to be fetched.
func (a *ask) gapOf(f *finding) *gap {
	if a.ranged == nil || f.object != nil || len(f.parts) == 0 || conditional(a.req.Header) {
		return nil
	}
	newest := slices.MaxFunc(f.parts, func(x, y *Object) int { return x.Meta.Received.Compare(y.Meta.Received) })
	of := newest.Meta.facts()
	g := &gap{parts: alikeParts(newest, f.parts), tag: of.etag}
	var ok bool
	if g.from, g.to, ok = a.ranged.of(newest.Meta.Span.Of); !ok || !rangeHolds(a.req.Header, of.etag, of.modified, of.date) {
		return nil
	}
	g.lack = ranged{from: reach(g.parts, g.from, g.to), to: reachBack(g.parts, g.from, g.to)}
	if g.lack.from >= g.lack.to || g.lack.from == g.from && g.lack.to == g.to {
		return nil
	}
	return g
}

// fits reports whether what a fetch came to fills the gap: a part of the same body
// that has all that is missing. What is no part at all is the answer as it is.
func (g *gap) fits(l *landing) bool {
	switch {
	case g == nil:
		return true
	case l.meta == nil:
		return l.status != http.StatusPartialContent && l.status != http.StatusRequestedRangeNotSatisfiable
	case l.meta.Span == nil:
		return true
	}
	span, m := l.meta.Span, g.parts[0].Meta
	return span.Of == m.Span.Of && span.From <= g.lack.from && span.To >= g.lack.to && l.meta.facts().etag == g.tag &&
		slices.Equal(l.meta.Vary, m.Vary)
}

// fill gives the range: what was kept of it, and between that what comes. An error is
// that a part can't be read.
func (a *ask) fill(g *gap, s *source) (*http.Response, error) {
	m := s.meta
	before, after := cover(g.parts, g.from, g.lack.from), cover(g.parts, g.lack.to, g.to)
	list := &keptBodies{}
	err := list.open(before)
	s.seat.limit(g.lack.from-m.Span.From, g.lack.to-m.Span.From)
	list.list = append(list.list, s.seat)
	if err == nil {
		err = list.open(after)
	}
	if err != nil {
		list.Close()
		a.c.options.Store.Remove(err.object)
		return nil, errGone
	}
	now := time.Now()
	for _, p := range append(before, after...) {
		s.aged, s.age = true, max(s.age, p.object.Meta.age(now))
		a.status.ttl = min(a.status.ttl, p.object.Meta.Until.Sub(now))
	}
	h := a.header(s, chosen{&s.forms[0], m.Coding, m.Coding}, g.tag)
	h["Content-Range"] = []string{contentRange(g.from, g.to, m.Span.Of)}
	h["Content-Length"] = []string{strconv.FormatInt(g.to-g.from, 10)}
	return response(a.req, http.StatusPartialContent, h, list, g.to-g.from), nil
}

// alikeParts are those of the same body as one (RFC 9110 §15.3.7.3).
func alikeParts(one *Object, all []*Object) []*Object {
	var parts []*Object
	for _, o := range all {
		if m := o.Meta; m.Span != nil && m.Span.Of == one.Meta.Span.Of && m.facts().etag == one.Meta.facts().etag &&
			slices.Equal(m.Vary, one.Meta.Vary) {
			parts = append(parts, o)
		}
	}
	return parts
}

// unread is a part that can't be opened.
type unread struct{ object *Object }

// openPieces opens pieces to be read one after the other.
func openPieces(pieces []piece) (*keptBodies, *unread) {
	b := &keptBodies{}
	if err := b.open(pieces); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// keptBodies is several bodies as one.
type keptBodies struct {
	list []io.ReadCloser
	next int
}

// open adds pieces.
func (b *keptBodies) open(pieces []piece) *unread {
	for _, p := range pieces {
		r, err := p.object.Forms[0].Body.Open()
		if err != nil {
			return &unread{p.object}
		}
		begin := p.object.Meta.Span.From
		b.list = append(b.list, &keptBody{reader: r, at: p.from - begin, to: p.to - begin})
	}
	return nil
}

func (b *keptBodies) Read(p []byte) (int, error) {
	for b.next < len(b.list) {
		n, err := b.list[b.next].Read(p)
		if err == io.EOF {
			b.next++
			err = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
	return 0, io.EOF
}

func (b *keptBodies) Close() error {
	for _, one := range b.list {
		_ = one.Close() // of what was read
	}
	return nil
}

// assemble makes a whole of a new part and those that are kept beside it, when
// nothing is missing, and lets go of the parts.
func (c *Cache) assemble(o *Object) {
	store := c.options.Store
	parts := alikeParts(o, store.Find(o.Meta.Key))
	size := o.Meta.Span.Of
	pieces := cover(parts, 0, size)
	if pieces == nil || size > c.most.Load() {
		for _, p := range parts { // one that is in the new one is of no use
			if p.Meta.ID != o.Meta.ID && p.Meta.Span.From >= o.Meta.Span.From && p.Meta.Span.To <= o.Meta.Span.To {
				store.Remove(p)
			}
		}
		return
	}
	draft, err := store.Begin(size)
	if err != nil {
		return
	}
	defer draft.Discard()
	body, failed := openPieces(pieces)
	if failed != nil {
		store.Remove(failed.object)
		return
	}
	defer body.Close()
	buffer := chunks.Get().(*[]byte)
	defer chunks.Put(buffer)
	if n, err := io.CopyBuffer(struct{ io.Writer }{draft}, body, *buffer); err != nil || n != size {
		return
	}
	meta := o.Meta.with(o.Meta.Header.Clone())
	delete(meta.Header, "Content-Range")
	delete(meta.Header, "Content-Length")
	meta.Status, meta.Span, meta.ID = http.StatusOK, nil, variantID(meta.Vary, nil)
	for _, p := range pieces {
		if p.object.Meta.Until.Before(meta.Until) {
			meta.Until = p.object.Meta.Until
		}
		meta.Stale = meta.Stale || p.object.Meta.Stale
	}
	if store.Keep(meta.settled(), draft) == nil {
		return
	}
	for _, p := range parts {
		store.Remove(p)
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
