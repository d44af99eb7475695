package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"syscall"
)

// What changes an object that is kept: the index first, so that the next Find
// sees it, then its files, which follow the index under the lock of the object's
// stripe.

// Renew is a Store's. Key and ID stay as they are.
func (t *Tiers) Renew(old *Object, meta *Meta) *Object {
	b := handleOf(old)
	if b == nil || b.tiers != t || meta.Key != b.key || meta.ID != old.Meta.ID {
		return nil
	}
	raw := appendMeta(nil, meta)
	// Behind the body there can be this meta and the one before.
	room := 2 * pagesOf(int64(len(raw))) * headSize
	if !t.disk.usable() || !t.room(room) {
		room = 0
	}
	stripe := t.stripe(b.id)
	stripe.Lock()
	defer stripe.Unlock()
	e := t.index.entry(b.key, b.id, briefOf(meta))

	s := t.index.shard(b.key)
	s.mu.Lock()
	at := s.get(b.key, b.id)
	if at == nil || at.edition != b.edition {
		s.mu.Unlock()
		t.disk.give(room)
		return nil
	}
	relabelled := at.label != e.label
	at.label, at.site, at.received, at.until = e.label, e.site, e.received, e.until
	at.stale = meta.Stale
	at.edition++
	l := at.live
	if l == nil { // it left memory: the old object's side of it is as good
		l = b.revived(at)
		at.live = l
	}
	object := l.object(meta, at.edition)
	l.found = []*Object{object}
	out := t.memory.add(&l.item, l.weight(), 0)
	onDisk := at.pages > 0
	s.mu.Unlock()
	t.forget(out)
	if onDisk {
		t.rewrite(b.key, b.id, raw, meta.Stale, room)
		if !t.noteObject(b.key, b.id) && relabelled {
			t.leaveDisk(b.key, b.id) // a purge after the next start would go by the old tags
		}
	} else {
		t.disk.give(room)
	}
	return object
}

// revived makes a live one of an object that was found before.
func (b *body) revived(e *entry) *live {
	l := newLive(b.key, b.id)
	l.forms = slices.Clone(b.live.forms[:1])
	for file := e.extras; file != nil; file = file.next {
		l.forms = append(l.forms, file.stored(b.tiers, b.key, b.id))
	}
	return l
}

// rewrite brings the file of an object up to the index: its meta, if there is one,
// and whether it's stale. The caller has the stripe, and reserved room.
func (t *Tiers) rewrite(key Key, id uint64, meta []byte, stale bool, room int64) {
	err := errNoRoom
	if meta == nil || room > 0 && len(meta) <= mostMeta {
		var size int64
		var was, is uint32
		if size, was, is, err = t.disk.renew(t.disk.path(key, id, 0), meta, stale); err == nil {
			t.resized(key, id, size, room)
			t.restamped(key, id, was, is)
			return
		}
	}
	t.disk.give(room)
	if !errors.Is(err, errNoRoom) && !errors.Is(err, fs.ErrNotExist) {
		t.disk.failed(err)
	}
	t.leaveDisk(key, id)
}

// resized notes how long a file is now, whose growth has room reserved.
func (t *Tiers) resized(key Key, id uint64, size, room int64) {
	s := t.index.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.get(key, id)
	if e == nil {
		t.disk.give(room) // it was removed: what it had is given back with it
		return
	}
	grown := (pagesOf(size) - int64(e.pages)) * headSize
	e.pages = uint32(pagesOf(size))
	t.disk.give(room - grown)
}

// restamped notes how a file looks that this process changed itself: its body is what
// it was.
func (t *Tiers) restamped(key Key, id uint64, was, is uint32) {
	s := t.index.shard(key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.get(key, id)
	if e == nil {
		return
	}
	if e.stamp == was {
		e.stamp = is
	}
	if e.live != nil {
		e.live.forms[0].stamp.CompareAndSwap(was, is)
	}
}

// leaveDisk removes the files of an object that don't say what the index does: it
// is in memory alone then, or gone.
func (t *Tiers) leaveDisk(key Key, id uint64) {
	s := t.index.shard(key)
	s.mu.Lock()
	n := s.find(key, id)
	if n == 0 {
		s.mu.Unlock()
		return
	}
	e := s.at(n)
	old := *e
	if !s.unfile(e) {
		old = t.take(s, n)
	}
	s.mu.Unlock()
	t.erase(old)
}

// Form is a Store's.
func (t *Tiers) Form(of *Object, coding string, from Draft) {
	d, ok := from.(*draft)
	if !ok || d.tiers != t || !d.close() {
		return
	}
	b := handleOf(of)
	if b == nil || b.tiers != t {
		t.abandon(d)
		return
	}
	if t.disk.usable() && !t.roomFor(d, headSize+d.size.Load()) {
		t.abandon(d)
		return
	}
	stripe := t.stripe(b.id)
	stripe.Lock()
	defer stripe.Unlock()
	number, first, ok := t.nextForm(b, coding)
	if !ok {
		t.abandon(d)
		return
	}
	form := &stored{tiers: t, key: b.key, id: b.id, coding: coding, size: d.size.Load(), sum: d.bytes}
	held := d.held
	var pages uint32
	if first { // the form that came is on disk: this one goes there, or isn't kept
		size, err := t.formFile(d, form, number)
		if err != nil {
			t.abandon(d)
			return
		}
		pages = uint32(pagesOf(size))
	} else if d.file != nil {
		t.abandon(d)
		return
	} else {
		form.number = number
		form.bytes.Store(d.whole())
		t.disk.give(d.room)
		d.room = 0
	}

	var file extra
	s := t.index.shard(b.key)
	s.mu.Lock()
	e := s.get(b.key, b.id)
	if e == nil || first != (e.pages > 0) {
		s.mu.Unlock()
		t.memory.release(held)
		d.held = 0
		if pages > 0 {
			t.disk.unlink(t.disk.path(b.key, b.id, number))
			t.disk.give(int64(pages) * headSize)
		}
		return
	}
	if pages > 0 {
		file = extra{size: form.size, stamp: form.stamp.Load(), number: number}
		file.coding, _ = extraCoding(coding)
		e.add(file)
	}
	var out []*item
	if l := e.live; l != nil {
		l.forms = append(slices.Clone(l.forms), form)
		l.found = []*Object{l.object(l.found[0].Meta, e.edition)}
		out = t.memory.add(&l.item, l.weight(), held)
	} else {
		t.memory.release(held)
	}
	s.mu.Unlock()
	d.held = 0
	t.forget(out)
	if pages > 0 {
		t.note(appendForm(nil, b.key, b.id, &file))
	}
}

// formFile makes a draft the file of a form.
func (t *Tiers) formFile(d *draft, form *stored, number uint8) (size int64, err error) {
	form.number = number
	if d.file == nil {
		form.bytes.Store(d.whole())
	}
	h := header{key: form.key, id: form.id, number: number, size: form.size, sum: form.sum}
	size, stamp, err := t.toFile(d, &h, []byte(form.coding))
	form.onDisk.Store(err == nil)
	form.stamp.Store(stamp)
	return size, err
}

// nextForm is the number of the next form of an object that has none of the
// coding, and whether the first is on disk.
func (t *Tiers) nextForm(b *body, coding string) (number uint8, onDisk, ok bool) {
	s := t.index.shard(b.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.get(b.key, b.id)
	if e == nil {
		return 0, false, false
	}
	if _, known := extraCoding(coding); e.pages > 0 && !known {
		return 0, false, false
	}
	numbers := []uint8{0}
	for file := e.extras; file != nil; file = file.next {
		if file.name() == coding {
			return 0, false, false
		}
		numbers = append(numbers, file.number)
	}
	if e.live != nil {
		for _, form := range e.live.forms {
			if form.coding == coding {
				return 0, false, false
			}
			numbers = append(numbers, form.number)
		}
	} else if b.coding == coding {
		return 0, false, false
	}
	highest := slices.Max(numbers)
	return highest + 1, e.pages > 0, highest < 255
}

// Remove is a Store's.
func (t *Tiers) Remove(object *Object) {
	b := handleOf(object)
	if b == nil || b.tiers != t {
		return
	}
	s := t.index.shard(b.key)
	s.mu.Lock()
	n := s.find(b.key, b.id)
	if n == 0 || s.at(n).edition != b.edition {
		s.mu.Unlock()
		return
	}
	old := t.take(s, n)
	s.mu.Unlock()
	t.unlinkAll(old)
}

// Forget is a Store's. What an earlier process left of the URL and is not indexed yet is
// looked for; on a disk that isn't well it's removed as it's found.
func (t *Tiers) Forget(head Head) {
	gone := Match{head: head}
	if t.disk != nil && !t.disk.well.Load() {
		t.disk.unseen(gone)
	}
	if t.recovering() {
		t.seek(head)
	}
	var files []entry
	t.each(gone, func(s *shard, n uint32) { files = append(files, t.take(s, n)) }, func() bool { return false })
	for _, e := range files {
		t.unlinkAll(e)
	}
}

// take takes an entry out of the index and of memory. The caller has the lock of
// the shard, and sees to the files without it.
func (t *Tiers) take(s *shard, n uint32) entry {
	e := *s.at(n)
	s.remove(n)
	if e.live != nil {
		t.memory.remove(&e.live.item)
	}
	return e
}

// unlinkAll removes the files of an object that was taken.
func (t *Tiers) unlinkAll(e entry) {
	if e.pages == 0 {
		return
	}
	stripe := t.stripe(e.id)
	stripe.Lock()
	defer stripe.Unlock()
	t.erase(e)
}

// erase removes the files of an entry. The caller has the stripe.
func (t *Tiers) erase(e entry) {
	if e.pages == 0 {
		return
	}
	t.disk.unlink(t.disk.path(e.key, e.id, 0))
	for file := e.extras; file != nil; file = file.next {
		t.disk.unlink(t.disk.path(e.key, e.id, file.number))
	}
	t.disk.give(e.onDisk())
}

// forget lets go of what memory evicted: it is on disk alone from then on, or
// gone.
func (t *Tiers) forget(out []*item) {
	for _, it := range out {
		l := it.live
		s := t.index.shard(l.key)
		s.mu.Lock()
		n := s.find(l.key, l.id)
		if n == 0 || s.at(n).live != l {
			s.mu.Unlock()
			continue
		}
		e := s.at(n)
		if e.pages == 0 {
			s.remove(n)
		} else {
			e.live = nil
			e.hits += l.hits.Load()
			l.drop()
		}
		s.mu.Unlock()
	}
}

// stamped notes how the file of a body looks, which is what was written.
func (t *Tiers) stamped(b *body, stamp uint32) {
	s := t.index.shard(b.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e := s.get(b.key, b.id); {
	case e == nil:
	case b.number == 0:
		e.stamp = stamp
	default:
		e.extras = e.extras.stamped(b.number, stamp)
	}
}

// promote brings the bytes of a body into memory, if that's where its object is.
func (t *Tiers) promote(b *body, bytes *pieces) {
	s := t.index.shard(b.key)
	s.mu.Lock()
	e := s.get(b.key, b.id)
	if e == nil || e.live == nil || !slices.Contains(e.live.forms, b.stored) {
		s.mu.Unlock()
		return
	}
	b.bytes.Store(bytes)
	out := t.memory.add(&e.live.item, e.live.weight(), 0)
	s.mu.Unlock()
	t.forget(out)
}

// lost removes an object whose file could not be read; not where it's that we
// have too many files open.
func (t *Tiers) lost(key Key, id uint64, err error) {
	switch {
	case errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE):
		return
	case errors.Is(err, errCorrupt) || errors.Is(err, errForeign) || errors.Is(err, errMeta):
		t.corrupt.Add(1)
	case !errors.Is(err, fs.ErrNotExist):
		t.disk.failures.Add(1)
	}
	s := t.index.shard(key)
	s.mu.Lock()
	n := s.find(key, id)
	if n == 0 {
		s.mu.Unlock()
		return
	}
	old := t.take(s, n)
	s.mu.Unlock()
	t.unlinkAll(old)
	t.log.Debug("cache: lost an object", "error", fmt.Sprint(err))
}
