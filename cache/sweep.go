package cache

import "time"

// Purge and List go through the shards, a chunk at a time under the lock; for one URL
// alone through its list. What is
// in the index at the start stays at its place until it's removed, so a sweep
// meets it; what is put in meanwhile is new, and no matter to a purge.

// each calls visit with the entries that match; the lock of their shard is held.
// between is called without it, after every chunk; it ends the sweep with false.
func (t *Tiers) each(match Match, visit func(s *shard, n uint32), between func() bool) {
	tag := tagHash(match.Tag)
	if head, ok := t.index.listOf(match); ok {
		s := t.index.shardOf(head)
		s.mu.Lock()
		for n := s.first[head]; n != 0; {
			e, at := s.at(n), n
			if n = e.next; match.matches(e, tag) {
				visit(s, at)
			}
		}
		s.mu.Unlock()
		between()
		return
	}
	for i := range t.index.shards {
		s := &t.index.shards[i]
		for c := 0; ; c++ {
			s.mu.Lock()
			if c >= len(s.chunks) {
				s.mu.Unlock()
				break
			}
			for n := uint32(c*chunk + 1); n <= uint32(c+1)*chunk; n++ {
				if e := s.at(n); e.id != 0 && match.matches(e, tag) {
					visit(s, n)
				}
			}
			s.mu.Unlock()
			if !between() {
				return
			}
		}
	}
}

// listOf is the head of all that can match, if there is one.
func (x *index) listOf(match Match) (head Head, ok bool) {
	if match.head != (Head{}) || match.URL == "" {
		return match.head, match.head != (Head{})
	}
	for i := range x.shards {
		s := &x.shards[i]
		s.mu.Lock()
		strays := s.strays
		s.mu.Unlock()
		if strays > 0 {
			return head, false
		}
	}
	return headOf(match.URL), true
}

// Purge is a Store's. It waits until all that an earlier process left is indexed,
// and until the disk has it. On a disk that isn't well, and that turns out to be
// another when it is, what matches is removed as it's found.
func (t *Tiers) Purge(match Match, soft bool) int {
	if t.disk != nil {
		t.disk.unseen(match)
	}
	t.awaitRecovery()
	purged := 0
	var files []entry
	t.each(match, func(s *shard, n uint32) {
		e := s.at(n)
		if _, _, url := unlabel(e.label); url != "" {
			purged++
		}
		if !soft {
			files = append(files, t.take(s, n))
			return
		}
		if e.stale {
			return
		}
		e.stale = true
		e.edition++
		if l := e.live; l != nil {
			meta := *l.found[0].Meta
			meta.Stale = true
			l.found = []*Object{l.object(&meta, e.edition)}
		}
		files = append(files, *e)
	}, func() bool {
		for _, e := range files {
			if soft {
				t.writeStale(e)
			} else {
				t.unlinkAll(e)
			}
		}
		files = files[:0]
		return true
	})
	return purged
}

// Owes reports whether something that was purged may be found again by another
// process: its files could not be removed or marked, or not even be looked at.
func (t *Tiers) Owes() bool { return t.disk != nil && t.disk.limit.Load() > 0 && t.disk.owing() }

// writeStale tells the file of an object that it was purged, if it still is.
func (t *Tiers) writeStale(e entry) {
	if e.pages == 0 {
		return
	}
	stripe := t.stripe(e.id)
	stripe.Lock()
	defer stripe.Unlock()
	s := t.index.shard(e.key)
	s.mu.Lock()
	now := s.get(e.key, e.id)
	due := now != nil && now.stale && now.pages > 0
	s.mu.Unlock()
	if due {
		t.rewrite(e.key, e.id, nil, true, 0)
		t.noteObject(e.key, e.id)
	}
}

// List is a Store's. Just after a start it doesn't give yet what isn't indexed.
func (t *Tiers) List(match Match, yield func(Listed) bool) {
	var found []Listed
	t.each(match, func(s *shard, n uint32) {
		if listed := t.listed(s.at(n)); listed.URL != "" {
			found = append(found, listed)
		}
	}, func() bool {
		for _, listed := range found {
			if !yield(listed) {
				return false
			}
		}
		found = found[:0]
		return true
	})
}

// listed is what a list says of an entry. The caller has the lock of its shard.
func (t *Tiers) listed(e *entry) Listed {
	_, id, url := unlabel(e.label)
	listed := Listed{
		Site: t.index.siteName(e.site), URL: url, ID: id, Bytes: e.size, Tier: "disk", Hits: uint64(e.hits),
		Stored: timeOf(e.received), Until: timeOf(e.until), Stale: e.stale,
	}
	for file := e.extras; file != nil; file = file.next {
		listed.Bytes += file.size
	}
	if l := e.live; l != nil {
		listed.Hits += uint64(l.hits.Load())
		meta := l.found[0].Meta
		listed.Stored, listed.Until = meta.Received.Round(0), meta.Until
		held := false
		for _, form := range l.forms {
			if form.bytes.Load() != nil {
				held = true
			}
			if form.number > 0 && !form.onDisk.Load() {
				listed.Bytes += form.size
			}
		}
		switch {
		case e.pages == 0:
			listed.Tier = "memory"
		case held:
			listed.Tier = "memory+disk"
		}
	}
	return listed
}

// timeOf is a time of the index.
func timeOf(seconds uint32) time.Time {
	if seconds == 0 {
		return time.Time{}
	}
	return time.Unix(int64(seconds), 0)
}
