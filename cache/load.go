package cache

import "fmt"

// load makes an object that is on disk alone: its head is read, and those of its
// other forms are known. One reads at a time: the others find what it read.
func (t *Tiers) load(key Key, id uint64) *Object {
	stripe := t.stripe(id)
	stripe.Lock()
	s := t.index.shard(key)
	s.mu.Lock()
	e := s.get(key, id)
	if e == nil || e.live != nil {
		var object *Object
		if e != nil {
			object = e.live.found[0]
		}
		s.mu.Unlock()
		stripe.Unlock()
		return object
	}
	s.mu.Unlock()
	path := t.disk.path(key, id, 0)
	h, raw, size, err := readHead(path)
	var meta *Meta
	if err == nil && (h.key != key || h.id != id || h.number != 0) {
		err = errCorrupt
	}
	if err == nil {
		meta, err = parseMeta(raw)
	}
	if err != nil {
		stripe.Unlock()
		t.lost(key, id, fmt.Errorf("load: %w", err))
		return nil
	}
	meta.Key, meta.Stale = key, h.stale
	object, out := t.loaded(meta, &h, size)
	stripe.Unlock()
	t.forget(out)
	return object
}

// loaded puts what was read into the index.
func (t *Tiers) loaded(meta *Meta, h *header, size int64) (*Object, []*item) {
	s := t.index.shard(h.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.get(h.key, h.id)
	if e == nil {
		return nil, nil
	}
	if e.stale && !meta.Stale { // purged, and the file doesn't say so yet
		meta.Stale = true
	}
	e.stale, e.size = meta.Stale, h.size
	if grown := pagesOf(size) - int64(e.pages); grown != 0 {
		e.pages = uint32(pagesOf(size))
		t.disk.used.Add(grown * headSize)
	}
	l := newLive(h.key, h.id)
	first := &stored{tiers: t, key: h.key, id: h.id, coding: meta.Coding, size: h.size, sum: h.sum}
	first.onDisk.Store(true)
	first.stamp.Store(e.stamp)
	l.forms = []*stored{first}
	for file := e.extras; file != nil; file = file.next {
		l.forms = append(l.forms, file.stored(t, h.key, h.id))
	}
	object := l.object(meta, e.edition)
	l.found = []*Object{object}
	e.live = l
	return object, t.memory.add(&l.item, l.weight(), 0)
}

// stored is the body of a form that is on disk.
func (x *extra) stored(t *Tiers, key Key, id uint64) *stored {
	form := &stored{tiers: t, key: key, id: id, number: x.number, coding: x.name(), size: x.size}
	form.onDisk.Store(true)
	form.stamp.Store(x.stamp)
	return form
}
