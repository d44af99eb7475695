package cache

import "math/rand/v2"

// Eviction from the disk: of a few entries drawn at random, the one that was asked
// for the longest ago goes, and of those that weren't at all the oldest ("sampled
// LRU", as Redis does it). The evictor starts when less than a thirty-second of
// the bytes is free, and ends when a sixteenth is. Who wants room meanwhile and
// finds none makes it himself.

const (
	startShare = 32
	endShare   = 16
	// sample is how many entries are compared: what goes is of the oldest quarter
	// nine times in ten.
	sample = 8
	// mostEvictions bounds what one who wants room does for it.
	mostEvictions = 64
)

// room takes n bytes of the disk, evicting if it must. Nobody calls it who has a
// stripe.
func (t *Tiers) room(n int64) bool {
	d := t.disk
	if !d.usable() || n > d.limit.Load()/largestShare+reserveStep {
		return false
	}
	for range mostEvictions {
		if d.take(n) {
			if d.crowded(startShare) {
				d.nudge()
			}
			return true
		}
		if !d.usable() || !t.evictOne() {
			break
		}
	}
	d.nudge()
	return false
}

// crowded reports whether less than a share of the bytes is free.
func (d *disk) crowded(share int64) bool {
	limit := d.limit.Load()
	return d.used.Load()+d.journal.length.Load() > limit-limit/share
}

// evict evicts until there is room again.
func (t *Tiers) evict() {
	d := t.disk
	if !d.crowded(startShare) {
		return
	}
	for t.ctx.Err() == nil && d.crowded(endShare) && t.evictOne() {
	}
	if d.well.Load() {
		if err := d.lower(); err != nil {
			d.failed(err)
		}
	}
}

// relieve makes room on a disk that may have failed because it is full of others'
// files: an eighth of ours goes.
func (t *Tiers) relieve() {
	if !t.disk.full.Swap(false) {
		return
	}
	for end := t.disk.used.Load() / 8 * 7; t.ctx.Err() == nil && t.disk.used.Load() > end; {
		if !t.evictOne() {
			break
		}
	}
	t.disk.hold()
}

// spare lets go of ours where others have filled the disk but for a part of the
// reserve: until half of that is free again, but no more than an eighth of ours.
func (t *Tiers) spare() {
	d := t.disk
	free, ok := freeIn(d.dir)
	if !ok || !d.usable() || free >= d.reserve()/4 {
		return
	}
	used := d.used.Load()
	for end := max(used/8*7, used-(d.reserve()/2-free)); t.ctx.Err() == nil && d.used.Load() > end; {
		if !t.evictOne() {
			break
		}
	}
	d.hold()
}

// evictOne evicts an object from the disk, and so from the store; false if there
// is none to be found.
func (t *Tiers) evictOne() bool {
	var oldest entry
	now := t.kept.Load()
	for range sample {
		e, ok := t.draw()
		// Signed: what is asked for meanwhile is younger than now.
		if age, most := int32(now-e.asked), int32(now-oldest.asked); ok && (oldest.id == 0 || age > most || age == most && e.id < oldest.id) {
			oldest = e
		}
	}
	if oldest.id == 0 {
		return false
	}
	s := t.index.shard(oldest.key)
	s.mu.Lock()
	n := s.find(oldest.key, oldest.id)
	if n == 0 {
		s.mu.Unlock()
		return true // somebody was quicker
	}
	old := t.take(s, n)
	s.mu.Unlock()
	t.unlinkAll(old)
	t.evictions.Add(1)
	return true
}

// draw draws an entry that is on disk.
func (t *Tiers) draw() (entry, bool) {
	start := rand.IntN(shards)
	for i := range shards {
		s := &t.index.shards[(start+i)%shards]
		s.mu.Lock()
		if e := s.draw(); e != nil {
			drawn := *e
			s.mu.Unlock()
			return drawn, true
		}
		s.mu.Unlock()
	}
	return entry{}, false
}

// draw looks for an entry on disk, from a random place on.
func (s *shard) draw() *entry {
	if s.entries == 0 {
		return nil
	}
	total := uint32(len(s.chunks) * chunk)
	start := rand.Uint32N(total)
	for i := range total {
		if e := s.at((start+i)%total + 1); e.id != 0 && e.pages > 0 && !e.unseen {
			return e
		}
	}
	return nil
}
