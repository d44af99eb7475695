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
//  3. assemble makes a whole of them, once they are one.

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
	a.trace.Result, a.trace.Age = Hit, age
	if conditional(a.req.Header) && unchanged(a.req.Header, of.etag, of.modified) {
		return a.notModified(s, h)
	}
	body, err := openPieces(pieces)
	if err != nil {
		a.c.options.Store.Remove(err.object)
		a.status, *a.trace = status{key: a.status.key}, Trace{}
		return nil
	}
	h["Content-Range"] = []string{contentRange(from, to, m.Span.Of)}
	h["Content-Length"] = []string{strconv.FormatInt(to-from, 10)}
	return response(a.req, http.StatusPartialContent, h, body, to-from)
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
	for _, p := range pieces {
		r, err := p.object.Forms[0].Body.Open()
		if err != nil {
			b.Close()
			return nil, &unread{p.object}
		}
		begin := p.object.Meta.Span.From
		b.list = append(b.list, &keptBody{reader: r, at: p.from - begin, to: p.to - begin})
	}
	return b, nil
}

// keptBodies is several bodies as one.
type keptBodies struct {
	list []*keptBody
	next int
}

func (b *keptBodies) Read(p []byte) (int, error) {
	for b.next < len(b.list) {
		n, err := b.list[b.next].Read(p)
		if err != io.EOF {
			return n, err
		}
		b.next++
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
			if p != o && p.Meta.Span.From >= o.Meta.Span.From && p.Meta.Span.To <= o.Meta.Span.To {
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
