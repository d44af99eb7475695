package cache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
)

// Tiers is the Store: memory, and a disk behind it if there is one.
//
//   - Find looks in the index (index.go); what is on disk alone has its head read
//     (load.go).
//   - Begin, Keep, Form: a draft (draft.go) gets its head and its name on disk
//     (disk.go), then its entry in the index, then its place in memory (memory.go).
//   - Renew, Remove, Purge change the index first, then the files (change.go,
//     sweep.go).
//   - Open of a body reads memory or the file, and brings into memory what is hot
//     (body.go).
//   - A disk that fails is left alone until it's well again (health.go); meanwhile
//     memory is the cache. After a start the index is made again (recover.go).
//
// Locks, in this order: files of an object (a stripe), a shard of the index, the
// rest. Stripes alone are held over I/O, and a hit in memory takes none.
type Tiers struct {
	log    *slog.Logger
	index  *index
	memory *memory
	disk   *disk // nil is none

	files [256]sync.Mutex // stripes: one changes the files of an object at a time

	recovery
	counts

	ctx     context.Context // until Close
	stop    context.CancelFunc
	running sync.WaitGroup
}

// TiersOptions are those of OpenTiers.
type TiersOptions struct {
	Memory int64  // bytes, for bodies, headers and drafts
	Disk   int64  // bytes; 0 is no disk
	Dir    string // of the files of the disk: nobody else's
	// Handover says that another process may still have the folder, and gives it
	// up: memory is the cache until then.
	Handover bool
	Log      *slog.Logger
}

// OpenTiers opens a store. It serves at once; what an earlier process left on disk
// is found as it's asked for, and indexed in the background. It fails when another
// process has the folder, unless that hands it over. A disk that fails in another way is a matter for the
// log, and tried again.
func OpenTiers(o TiersOptions) (*Tiers, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Disk > 0 && o.Dir == "" {
		return nil, errors.New("open the cache: a disk needs a folder")
	}
	t := &Tiers{log: o.Log, index: newIndex(), memory: newMemory(max(o.Memory, 0))}
	t.ctx, t.stop = context.WithCancel(context.Background())
	if o.Dir == "" {
		return t, nil
	}
	t.disk = newDisk(o.Dir, max(o.Disk, 0), o.Log)
	if o.Disk > 0 {
		if err := t.revive(); errors.Is(err, errLocked) && !o.Handover {
			t.stop()
			return nil, fmt.Errorf("open the cache: %w", err)
		} else if errors.Is(err, errLocked) {
			t.log.Info("another has the cache's folder yet: memory is the cache until it lets go", "dir", t.disk.dir)
		} else if err != nil {
			t.disk.well.Store(true) // as it was, as far as the log knows
			t.disk.failed(err)
		}
	}
	t.running.Go(t.tend)
	return t, nil
}

// Close waits for what runs in the background. Nobody uses the store any more.
func (t *Tiers) Close() error {
	t.stop()
	t.running.Wait()
	if t.disk == nil {
		return nil
	}
	return t.disk.close()
}

// Resize changes the bytes there are. What is too much goes in a moment.
func (t *Tiers) Resize(memory, disk int64) {
	t.forget(t.memory.setLimit(max(memory, 0)))
	if t.disk == nil {
		return
	}
	t.disk.limit.Store(max(disk, 0))
	t.disk.nudge()
}

// stripe is the lock of an object's files.
func (t *Tiers) stripe(id uint64) *sync.Mutex { return &t.files[id%uint64(len(t.files))] }

// Find is a Store's.
func (t *Tiers) Find(key Key) []*Object {
	t.memory.note(key)
	if t.recovering() {
		t.seek(key.head())
	}
	s := t.index.shard(key)
	s.mu.Lock()
	n := s.of(key, s.first[key.head()])
	if n == 0 {
		s.mu.Unlock()
		return nil
	}
	e, tick := s.at(n), t.kept.Load()
	if s.of(key, e.next) == 0 && e.live != nil {
		e.asked = tick
		e.live.touch()
		found := e.live.found
		s.mu.Unlock()
		return found
	}
	var found []*Object
	var ids []uint64
	for ; n != 0; n = s.of(key, e.next) {
		e = s.at(n)
		e.asked = tick
		ids = append(ids, e.id)
		if e.live == nil {
			found = append(found, nil)
			continue
		}
		e.live.touch()
		found = append(found, e.live.found[0])
	}
	s.mu.Unlock()
	for i, object := range found {
		if object == nil {
			found[i] = t.load(key, ids[i])
		}
	}
	return slices.DeleteFunc(found, func(o *Object) bool { return o == nil })
}

// Begin is a Store's.
func (t *Tiers) Begin(size int64) (Draft, error) {
	if size > t.largest() {
		return nil, errNoRoom
	}
	return &draft{tiers: t, expect: size}, nil
}

// largest is the largest body that can be kept now.
func (t *Tiers) largest() int64 {
	if t.disk.usable() {
		return max(t.disk.limit.Load()/largestShare, t.memory.largest())
	}
	return t.memory.largest()
}

// largestShare is the part of the disk that one body can have.
const largestShare = 4

// hold takes memory for a draft.
func (t *Tiers) hold(n int64) bool {
	out, ok := t.memory.reserve(n)
	t.forget(out)
	return ok
}

// abandon gives back what a draft had.
func (t *Tiers) abandon(d *draft) {
	t.memory.release(d.held)
	d.held = 0
	if d.path != "" {
		t.disk.unlink(d.path)
	}
	if d.room > 0 {
		t.disk.give(d.room)
		d.room = 0
	}
}

// Keep is a Store's.
func (t *Tiers) Keep(meta *Meta, from Draft) *Object {
	d, ok := from.(*draft)
	if !ok || d.tiers != t || !d.close() {
		return nil
	}
	form := &stored{tiers: t, key: meta.Key, coding: meta.Coding, size: d.size.Load(), sum: d.bytes}
	pages, ok := t.settle(d, form, 0, meta)
	if !ok {
		return nil
	}
	l := newLive(meta.Key, form.id)
	l.forms = []*stored{form}
	object := l.object(meta, 0)
	l.found = []*Object{object}
	e := t.index.entry(meta.Key, form.id, briefOf(meta))
	e.live, e.size, e.pages, e.stale = l, form.size, pages, meta.Stale
	e.asked, e.stamp = t.kept.Add(1), form.stamp.Load()

	s := t.index.shard(meta.Key)
	s.mu.Lock()
	var old entry
	if n := s.same(&e); n != 0 {
		old = t.take(s, n)
	}
	s.insert(e)
	var least entry
	if n := s.crowded(meta.Key.head(), e.id, e.asked); n != 0 {
		least = t.take(s, n)
	}
	out := t.memory.add(&l.item, l.weight(), d.held)
	s.mu.Unlock()
	d.held = 0
	t.forget(out)
	t.unlinkAll(old)
	t.unlinkAll(least)
	if pages > 0 {
		stripe := t.stripe(form.id)
		stripe.Lock()
		t.noteObject(meta.Key, form.id)
		stripe.Unlock()
	}
	return object
}

// settle makes a draft the body of a form: on disk if it can, else in memory if
// that will do. It says how many pages the file takes.
func (t *Tiers) settle(d *draft, form *stored, number uint8, meta *Meta) (pages uint32, ok bool) {
	form.number = number
	if form.id == 0 {
		form.id = t.newID()
	}
	if d.file == nil {
		form.bytes.Store(d.whole())
	}
	head := header{key: form.key, id: form.id, number: number, size: form.size, sum: form.sum}
	var extra []byte
	if number == 0 {
		extra, head.stale = appendMeta(nil, meta), meta.Stale
	} else {
		extra = []byte(form.coding)
	}
	size, stamp, err := t.toFile(d, &head, extra)
	switch {
	case err == nil:
		form.onDisk.Store(true)
		form.stamp.Store(stamp)
		if form.size > mostPromoted {
			form.bytes.Store(nil)
		}
		return uint32(pagesOf(size)), true
	case form.bytes.Load() == nil:
		t.abandon(d)
		return 0, false
	case form.size > t.memory.largest():
		t.abandon(d)
		return 0, false
	}
	return 0, true
}

// toFile gives the draft's bytes a head and a name on disk, and says how long the
// file is and how it looks. The room that the draft had is the file's from then on.
func (t *Tiers) toFile(d *draft, h *header, meta []byte) (size int64, stamp uint32, err error) {
	if !t.disk.usable() || len(meta) > mostMeta {
		return 0, 0, errNoRoom
	}
	h.metaLen = len(meta)
	h.metaAt = h.place(len(meta), true)
	need := pagesOf(h.end()) * headSize
	if !t.roomFor(d, h.end()) {
		return 0, 0, errNoRoom
	}
	file := d.file
	if file == nil {
		if file, err = t.disk.create(h.id, h.number); err != nil {
			return 0, 0, t.unsettled(d, err)
		}
		defer file.Close()
		d.path = file.Name()
		at := int64(headSize)
		for _, piece := range d.pieces {
			if _, err = file.WriteAt(piece, at); err != nil {
				return 0, 0, t.unsettled(d, err)
			}
			at += int64(len(piece))
		}
	}
	if size, err = t.disk.seal(file, h, meta); err != nil {
		return 0, 0, t.unsettled(d, err)
	}
	t.disk.give(d.room - need)
	d.room, d.path = 0, ""
	return size, stampOfFile(file), nil
}

// roomFor sees to it that a draft has the room of a file of a size.
func (t *Tiers) roomFor(d *draft, size int64) bool {
	need := pagesOf(size) * headSize
	if need > d.room {
		if !t.room(need - d.room) {
			return false
		}
		d.room = need
	}
	return true
}

// unsettled gives back what the disk had of a draft whose bytes it did not take.
func (t *Tiers) unsettled(d *draft, err error) error {
	t.disk.failed(err)
	if d.path != "" {
		t.disk.unlink(d.path)
		d.path = ""
	}
	t.disk.give(d.room)
	d.room = 0
	return err
}

// newID names an object.
func (t *Tiers) newID() uint64 {
	if t.disk == nil {
		return t.memoryIDs.Add(1)
	}
	return t.disk.newID()
}
