package cache

import (
	"errors"
	"io"
	"sync"
)

// mapStore is the plainest Store there can be.
type mapStore struct {
	mu      sync.Mutex // guards all below, and the drafts
	objects map[Key][]*Object
	room    int64 // for all drafts together, when it is not 0
	used    int64
	drafts  int // that were begun and neither kept nor discarded
	broken  bool
}

func newMapStore() *mapStore { return &mapStore{objects: map[Key][]*Object{}} }

var errFull = errors.New("the store is full")

func (s *mapStore) Find(key Key) []*Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.objects[key]
}

func (s *mapStore) Begin(int64) (Draft, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken {
		return nil, errFull
	}
	s.drafts++
	return &mapDraft{store: s}, nil
}

func (s *mapStore) Keep(meta *Meta, draft Draft) *Object {
	d := draft.(*mapDraft)
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.over {
		panic("kept a draft that is over")
	}
	d.over = true
	s.drafts--
	o := &Object{Meta: meta, Forms: []Form{{meta.Coding, bytesBody(d.bytes)}}}
	list := []*Object{o}
	for _, other := range s.objects[meta.Key] {
		if other.Meta.ID != meta.ID {
			list = append(list, other)
		}
	}
	s.objects[meta.Key] = list
	return o
}

// replace puts one in the place of another, or of nothing when it is nil.
func (s *mapStore) replace(old, with *Object) bool {
	found := false
	var list []*Object
	for _, o := range s.objects[old.Meta.Key] {
		if o == old {
			found = true
			if o = with; o == nil {
				continue
			}
		}
		list = append(list, o)
	}
	s.objects[old.Meta.Key] = list
	return found
}

func (s *mapStore) Renew(old *Object, meta *Meta) *Object {
	s.mu.Lock()
	defer s.mu.Unlock()
	o := &Object{Meta: meta, Forms: old.Forms}
	if !s.replace(old, o) {
		return nil
	}
	return o
}

func (s *mapStore) Form(of *Object, coding string, draft Draft) {
	d := draft.(*mapDraft)
	s.mu.Lock()
	defer s.mu.Unlock()
	d.over = true
	s.drafts--
	for _, now := range s.objects[of.Meta.Key] {
		if now.Meta.ID == of.Meta.ID && now.Forms[0].Body.(bytesBody).same(of.Forms[0].Body.(bytesBody)) {
			forms := append(now.Forms[:len(now.Forms):len(now.Forms)], Form{coding, bytesBody(d.bytes)})
			s.replace(now, &Object{Meta: now.Meta, Forms: forms})
			return
		}
	}
}

func (s *mapStore) Remove(o *Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.replace(o, nil)
}

func (s *mapStore) Forget(head Head) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.objects {
		if key.head() == head {
			delete(s.objects, key)
		}
	}
}

func (s *mapStore) Purge(match Match, soft bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, list := range s.objects {
		for _, o := range list {
			if !match.Of(o.Meta.URL, o.Meta.Tags) {
				continue
			}
			if o.Meta.URL != "" {
				n++
			}
			if !soft {
				s.replace(o, nil)
				continue
			}
			meta := o.Meta.with(o.Meta.Header)
			meta.Stale = true
			s.replace(o, &Object{Meta: meta.settled(), Forms: o.Forms})
		}
	}
	return n
}

func (s *mapStore) List(match Match, yield func(Listed) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range s.objects {
		for _, o := range list {
			m := o.Meta
			if m.URL != "" && match.Of(m.URL, m.Tags) && !yield(Listed{Site: m.Site, URL: m.URL, ID: m.ID, Stored: m.Received, Until: m.Until, Stale: m.Stale}) {
				return
			}
		}
	}
}

// open is how many drafts are neither kept nor discarded.
func (s *mapStore) open() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.drafts
}

type mapDraft struct {
	store  *mapStore
	bytes  []byte
	over   bool
	failed bool
	closed bool // nobody may read it any more
}

func (d *mapDraft) Write(p []byte) (int, error) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	if d.over {
		panic("write to a draft that is over")
	}
	n := len(p)
	if room := d.store.room; room > 0 && d.store.used+int64(n) > room {
		n, d.failed = int(max(0, room-d.store.used)), true
	}
	d.bytes = append(d.bytes, p[:n]...)
	d.store.used += int64(n)
	if d.failed {
		return n, errFull
	}
	return n, nil
}

func (d *mapDraft) ReadAt(p []byte, off int64) (int, error) {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	if d.closed {
		panic("read of a draft that was discarded")
	}
	return bytesBody(d.bytes).ReadAt(p, off)
}

func (d *mapDraft) Discard() {
	d.store.mu.Lock()
	defer d.store.mu.Unlock()
	d.closed = true
	if !d.over {
		d.over = true
		d.store.drafts--
	}
}

// bytesBody is a Body, and a Reader of itself.
type bytesBody []byte

func (b bytesBody) same(other bytesBody) bool {
	return len(b) == len(other) && (len(b) == 0 || &b[0] == &other[0])
}
func (b bytesBody) Size() int64           { return int64(len(b)) }
func (b bytesBody) Tier() string          { return "memory" }
func (b bytesBody) Open() (Reader, error) { return b, nil }
func (b bytesBody) Bytes() []byte         { return b }
func (b bytesBody) Close() error          { return nil }

func (b bytesBody) ReadAt(p []byte, off int64) (int, error) {
	if off >= int64(len(b)) {
		return 0, io.EOF
	}
	n := copy(p, b[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}
