package cache

import (
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"time"
)

// The index knows every object that is kept, in memory or on disk, in less than
// 300 bytes each, with up to three forms (BenchmarkIndex says how many): by key for Find, by the
// head of that for Forget, and URL and tags for purges and lists. It is cut in shards by
// the first byte of the key. All of one URL is a list, in which Find looks for its key.
//
// Nobody does I/O under the lock of a shard.

const (
	shards = 64
	// chunk is how many entries a shard makes room for at once.
	chunk = 64
	// mostOfURL bounds the list of a URL, as anybody can make it longer by a field that
	// counts: of a full one what was asked for the longest ago goes. Find takes 3 µs to
	// go through so many.
	mostOfURL = 512
)

// index is all the shards.
type index struct {
	shards [shards]shard
	sites  struct {
		mu     sync.RWMutex // guards the rest
		number map[string]uint16
		names  []string
	}
}

// shard is the entries of a part of the keys.
type shard struct {
	mu      sync.Mutex // guards the rest, and the entries
	first   map[Head]uint32
	chunks  []*[chunk]entry // entry n is at n-1
	free    uint32          // the first of a list by next; 0 is none
	entries int
	filed   int // on disk
	strays  int // that are not under the head of their URL (search.go)
}

// entry is an object, in 104 bytes, its label, and 24 for each form besides the first.
type entry struct {
	key    Key
	next   uint32 // of the same head, or free
	id     uint64 // 0 is a free entry
	label  string // see label
	live   *live  // what of it is in memory; nil is nothing
	extras *extra // files of forms besides the one that came, by age; nil is none
	size   int64  // of the body that came

	pages    uint32 // of 4 KiB that the file of the form that came takes; 0 is not on disk
	edition  uint32 // how often the Meta changed
	asked    uint32 // when it was: how many objects had been kept
	hits     uint32 // besides those that live counts
	received uint32 // seconds since 1970, as until
	until    uint32
	stamp    uint32 // of the file of the form that came, when its body was what was written; 0 is not known yet
	site     uint16
	stale    bool
	unseen   bool // the journal told of it, and its file wasn't met yet
}

// extra is a form on disk besides the first, and a list of others. It is immutable,
// as entries are copied.
type extra struct {
	next   *extra
	size   int64
	stamp  uint32 // as an entry's
	number uint8
	coding uint8 // of extraCodings
}

// extraCodings are those that a form besides the first can be in on disk.
var extraCodings = [...]string{"", "gzip", "br", "zstd"}

// extraCoding is the number of a coding; false if there is none.
func extraCoding(name string) (uint8, bool) {
	n := slices.Index(extraCodings[:], name)
	return uint8(n), n >= 0
}

// name is the coding.
func (x *extra) name() string { return extraCodings[x.coding] }

// pages is how many its file takes: the block of its head, and the body.
func (x *extra) pages() int64 { return pagesOf(headSize + x.size) }

func newIndex() *index {
	x := &index{}
	x.sites.number = make(map[string]uint16)
	for i := range x.shards {
		x.shards[i].first = make(map[Head]uint32)
	}
	return x
}

func (x *index) shard(key Key) *shard { return x.shardOf(key.head()) }

func (x *index) shardOf(head Head) *shard { return &x.shards[head[0]%shards] }

// site gives the number of a site's name; beyond 65 535 names all are one.
func (x *index) site(name string) uint16 {
	x.sites.mu.RLock()
	n, known := x.sites.number[name]
	x.sites.mu.RUnlock()
	if known {
		return n
	}
	x.sites.mu.Lock()
	defer x.sites.mu.Unlock()
	if n, known := x.sites.number[name]; known {
		return n
	}
	if len(x.sites.names) >= math.MaxUint16 {
		return math.MaxUint16
	}
	n = uint16(len(x.sites.names))
	x.sites.names = append(x.sites.names, name)
	x.sites.number[name] = n
	return n
}

func (x *index) siteName(n uint16) string {
	x.sites.mu.RLock()
	defer x.sites.mu.RUnlock()
	if int(n) >= len(x.sites.names) {
		return ""
	}
	return x.sites.names[n]
}

// entry makes one of what is known of an object.
func (x *index) entry(key Key, id uint64, b brief) entry {
	return entry{
		key: key, id: id, label: label(b), site: x.site(b.site),
		received: seconds(b.received), until: seconds(b.until),
	}
}

// seconds is a time in 32 bits: 0 is none, and the last is for all that come after.
func seconds(t time.Time) uint32 {
	if t.IsZero() {
		return 0
	}
	return uint32(min(max(t.Unix(), 1), math.MaxUint32))
}

// label packs what an entry says of an object in one string: the hashes of its
// tags, its ID and its URL. A hash has 32 bits: in a full cache of a million
// objects with three tags, one purge in 1 400 takes one object too many along,
// which costs a fetch.
func label(b brief) string {
	packed := make([]byte, 0, 3+4*len(b.tags)+len(b.id)+len(b.url))
	packed = binary.AppendUvarint(packed, uint64(len(b.tags)))
	for _, tag := range b.tags {
		packed = binary.LittleEndian.AppendUint32(packed, tagHash(tag))
	}
	packed = appendString(packed, b.id)
	return string(append(packed, b.url...))
}

// tagHash is FNV-1a of 64 bits, folded: the same in every process.
func tagHash(tag string) uint32 {
	h := uint64(14695981039346656037)
	for i := range len(tag) {
		h = (h ^ uint64(tag[i])) * 1099511628211
	}
	return uint32(h ^ h>>32)
}

// unlabel takes it apart: the hashes as they stand.
func unlabel(label string) (tags, id, url string) {
	f := fields{rest: label}
	n := int(f.uvarint()) * 4
	tags, f.rest = f.rest[:n], f.rest[n:]
	id = f.string()
	return tags, id, f.rest
}

// variant is the ID in a label.
func variant(label string) string {
	_, id, _ := unlabel(label)
	return id
}

// matches reports whether match means the object of an entry; tag is the hash of its
// tag.
func (m Match) matches(e *entry, tag uint32) bool {
	if m.head != (Head{}) && m.head != e.key.head() {
		return false
	}
	tags, _, url := unlabel(e.label)
	if m.Tag != "" {
		has := false
		for ; tags != "" && !has; tags = tags[4:] {
			has = uint32(tags[0])|uint32(tags[1])<<8|uint32(tags[2])<<16|uint32(tags[3])<<24 == tag
		}
		if !has {
			return false
		}
	}
	m.Tag = ""
	return m.Of(url, nil)
}

// at is the entry of a number, which is not 0. It stays where it is until it is
// removed.
func (s *shard) at(n uint32) *entry { return &s.chunks[(n-1)/chunk][(n-1)%chunk] }

// of is the first from n on, in a list, that has the key; 0 is none.
func (s *shard) of(key Key, n uint32) uint32 {
	for n != 0 && s.at(n).key != key {
		n = s.at(n).next
	}
	return n
}

// find is the number of the entry of an object; 0 is none.
func (s *shard) find(key Key, id uint64) uint32 {
	for n := s.first[key.head()]; n != 0; n = s.at(n).next {
		if s.at(n).id == id {
			return n
		}
	}
	return 0
}

// get is that entry, nil if there is none.
func (s *shard) get(key Key, id uint64) *entry {
	if n := s.find(key, id); n != 0 {
		return s.at(n)
	}
	return nil
}

// same is the number of the entry that has the key and the variant of e.
func (s *shard) same(e *entry) uint32 {
	id := variant(e.label)
	for n := s.of(e.key, s.first[e.key.head()]); n != 0; n = s.of(e.key, s.at(n).next) {
		if variant(s.at(n).label) == id {
			return n
		}
	}
	return 0
}

// crowded is the number of the entry that was asked for the longest ago of those of a
// head, at tick, if they are too many; 0 if not. That of id stays.
func (s *shard) crowded(head Head, id uint64, tick uint32) uint32 {
	oldest, many := uint32(0), 0
	for n := s.first[head]; n != 0; n = s.at(n).next {
		many++
		if e := s.at(n); e.id != id && (oldest == 0 || int32(tick-e.asked) >= int32(tick-s.at(oldest).asked)) {
			oldest = n
		}
	}
	if many <= mostOfURL {
		return 0
	}
	return oldest
}

// insert puts an entry in, among those of its head by age: the newest first.
func (s *shard) insert(e entry) *entry {
	if s.free == 0 {
		s.chunks = append(s.chunks, new([chunk]entry))
		for i := uint32(chunk); i > 0; i-- {
			n := uint32(len(s.chunks)-1)*chunk + i
			s.at(n).next, s.free = s.free, n
		}
	}
	n := s.free
	at := s.at(n)
	s.free = at.next
	before := uint32(0)
	head := e.key.head()
	after := s.first[head]
	for after != 0 && s.at(after).id > e.id {
		before, after = after, s.at(after).next
	}
	*at = e
	at.next = after
	if before == 0 {
		s.first[head] = n
	} else {
		s.at(before).next = n
	}
	s.entries++
	if e.pages > 0 {
		s.filed++
	}
	if e.strays() {
		s.strays++
	}
	return at
}

// strays reports whether the URL of an entry doesn't lead to it.
func (e *entry) strays() bool {
	_, _, url := unlabel(e.label)
	return url != "" && headOf(url) != e.key.head()
}

// remove takes an entry out.
func (s *shard) remove(n uint32) {
	e := s.at(n)
	if e.pages > 0 {
		s.filed--
	}
	if e.strays() {
		s.strays--
	}
	head := e.key.head()
	if first := s.first[head]; first != n {
		before := s.at(first)
		for before.next != n {
			before = s.at(before.next)
		}
		before.next = e.next
	} else if e.next != 0 {
		s.first[head] = e.next
	} else {
		delete(s.first, head)
	}
	*e = entry{next: s.free}
	s.free = n
	s.entries--
}

// add adds a file of a form, unless its number is there.
func (e *entry) add(form extra) bool {
	if e.extra(form.number) != nil {
		return false
	}
	form.next = nil
	e.extras = e.extras.with(&form)
	return true
}

// with is a list with another at its end.
func (x *extra) with(last *extra) *extra {
	if x == nil {
		return last
	}
	same := *x
	same.next = x.next.with(last)
	return &same
}

// stamped is a list in which the file of one form looks so.
func (x *extra) stamped(number uint8, stamp uint32) *extra {
	if x == nil {
		return nil
	}
	same := *x
	if same.number == number {
		same.stamp = stamp
	}
	same.next = x.next.stamped(number, stamp)
	return &same
}

// extra is the file of a form besides the first; nil if there is none.
func (e *entry) extra(number uint8) *extra {
	for file := e.extras; file != nil; file = file.next {
		if file.number == number {
			return file
		}
	}
	return nil
}

// onDisk is the bytes that the files of an object take.
func (e *entry) onDisk() int64 {
	pages := int64(e.pages)
	for file := e.extras; file != nil; file = file.next {
		pages += file.pages()
	}
	return pages * headSize
}

// unfile makes an entry one of memory alone, with what of its forms is there;
// false if the one that came isn't.
func (s *shard) unfile(e *entry) bool {
	l := e.live
	if l == nil || l.forms[0].bytes.Load() == nil {
		return false
	}
	l.forms = slices.DeleteFunc(slices.Clone(l.forms), func(f *stored) bool { return f.bytes.Load() == nil })
	for _, form := range l.forms {
		form.onDisk.Store(false)
	}
	l.found = []*Object{l.object(l.found[0].Meta, e.edition)}
	e.pages, e.extras = 0, nil
	s.filed--
	return true
}
