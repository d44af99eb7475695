package cache

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"unsafe"
)

// The body of a form, and how it is opened:
//
//  1. its bytes, if they are in memory,
//  2. else its file; checked first, if this process neither wrote nor checked it, or
//     if it looks otherwise than then (stamp.go),
//  3. and what is small and was asked for before comes into memory.

const (
	// mostPromoted is the largest body that is in memory as well as on disk: a
	// larger one costs more to hold than sendfile costs to send.
	mostPromoted = 256 << 10
	// hot is how often a key was asked for of late for its body to come into
	// memory from the disk.
	hot = 2
)

// errGone is of bytes that are not there any more.
var errGone = errors.New("the body is gone")

// live is what of an object is in memory: its Meta at least.
type live struct {
	item
	key  Key
	id   uint64
	hits atomic.Uint32 // how often a body of it was opened in memory

	// The lock of the shard guards the rest; found is shared, and never changed.
	found []*Object // the object, as Find gives it when it's the only one
	forms []*stored
}

func newLive(key Key, id uint64) *live {
	l := &live{key: key, id: id}
	l.live, l.hash = l, hashOf(key)
	return l
}

// stored is where the bytes of a form are.
type stored struct {
	tiers  *Tiers
	key    Key
	id     uint64
	number uint8
	coding string
	size   int64
	sum    uint32
	onDisk atomic.Bool
	stamp  atomic.Uint32 // of the file, when it was as it should be; 0 is not known yet
	bytes  atomic.Pointer[pieces]
}

// body is a Body: a stored one, for an edition of its object.
type body struct {
	*stored
	live    *live
	edition uint32
}

// Size is how long the body is.
func (b *body) Size() int64 { return b.size }

// Tier is where its bytes are.
func (b *body) Tier() string {
	if b.bytes.Load() != nil {
		return "memory"
	}
	return "disk"
}

// Open gives a *memoryReader or a *fileReader.
func (b *body) Open() (Reader, error) {
	if bytes := b.bytes.Load(); bytes != nil {
		b.live.hits.Add(1)
		return &memoryReader{bytes}, nil
	}
	if !b.onDisk.Load() {
		return nil, errGone
	}
	b.hit()
	return b.openFile()
}

// hit counts an opening, also where its object left memory since it was found.
func (b *body) hit() {
	s := b.tiers.index.shard(b.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.get(b.key, b.id); e != nil {
		e.hits++
	}
}

func (b *body) openFile() (Reader, error) {
	t := b.tiers
	f, err := os.Open(t.disk.path(b.key, b.id, b.number))
	if err != nil {
		return nil, b.lost(fmt.Errorf("open a body: %w", err))
	}
	small := b.size <= mostPromoted
	wanted := small && t.memory.asked(b.key) >= hot && b.size <= t.memory.largest()
	info, err := f.Stat()
	if err != nil || info.Size() < headSize+b.size {
		f.Close()
		return nil, b.lost(errCorrupt) // it was cut
	}
	stamp := stampOf(info) // before the bytes are read: what is changed meanwhile looks otherwise
	if b.stamp.Load() == stamp && !wanted {
		return &fileReader{file: f, size: b.size}, nil
	}
	bytes, err := b.read(f, small)
	if err != nil {
		f.Close()
		return nil, b.lost(err)
	}
	if b.stamp.Swap(stamp) != stamp {
		t.stamped(b, stamp)
	}
	if !wanted {
		return &fileReader{file: f, size: b.size}, nil
	}
	f.Close()
	t.promote(b, bytes)
	return &memoryReader{bytes}, nil
}

// read checks the file against its header and checksum; and gives the body, if
// that is to be kept.
func (b *body) read(f *os.File, keep bool) (*pieces, error) {
	head := make([]byte, headerSize)
	if _, err := f.ReadAt(head, 0); err != nil {
		return nil, short(err)
	}
	h, err := parseHeader(head)
	if err != nil {
		return nil, err
	}
	if h.key != b.key || h.id != b.id || h.number != b.number || h.size != b.size {
		return nil, errCorrupt
	}
	length := min(b.size, mostPromoted)
	buffer, sum := make([]byte, length), uint32(0)
	for off := int64(0); off < b.size; off += length {
		part := buffer[:min(length, b.size-off)]
		if _, err := f.ReadAt(part, headSize+off); err != nil {
			return nil, short(err)
		}
		sum = addSum(sum, part)
	}
	if sum != h.sum {
		return nil, errCorrupt
	}
	if !keep {
		return nil, nil
	}
	return newPieces([][]byte{buffer}, b.size), nil
}

// short is the error of a read: a file that ends early is corrupt.
func short(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return errCorrupt
	}
	return fmt.Errorf("read a body: %w", err)
}

// lost sees to a file that can't be read, and gives err.
func (b *body) lost(err error) error {
	b.tiers.lost(b.key, b.id, err)
	return err
}

// pieces are bytes in memory, which do not change.
type pieces struct {
	list   [][]byte
	size   int64
	weight int64
}

func newPieces(list [][]byte, size int64) *pieces {
	p := &pieces{list: list, size: size}
	for _, piece := range list {
		p.weight += int64(cap(piece))
	}
	return p
}

// ReadAt is an io.ReaderAt's.
func (p *pieces) ReadAt(b []byte, off int64) (n int, err error) {
	return readPieces(p.list, p.size, b, off)
}

// readPieces reads from the first size bytes of a list.
func readPieces(list [][]byte, size int64, b []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if off >= size {
		return 0, io.EOF
	}
	if int64(len(b)) > size-off {
		b, err = b[:size-off], io.EOF
	}
	for _, piece := range list {
		if n == len(b) {
			break
		}
		if off >= int64(len(piece)) {
			off -= int64(len(piece))
			continue
		}
		n += copy(b[n:], piece[off:])
		off = 0
	}
	return n, err
}

// memoryReader reads a body in memory.
type memoryReader struct{ *pieces }

// Bytes is the whole body, if it is in one piece, to be read only; else nil.
func (r *memoryReader) Bytes() []byte {
	if len(r.list) != 1 {
		return nil
	}
	return r.list[0][:r.size]
}

// Close does nothing.
func (r *memoryReader) Close() error { return nil }

// fileReader reads a body on disk.
type fileReader struct {
	file *os.File
	size int64
}

// File is where the body is, for sendfile: the file is the reader's own, so that
// nobody else moves its position, and is closed with it.
func (r *fileReader) File() (f *os.File, offset, size int64) { return r.file, headSize, r.size }

// ReadAt is an io.ReaderAt's.
func (r *fileReader) ReadAt(b []byte, off int64) (n int, err error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	if off >= r.size {
		return 0, io.EOF
	}
	if int64(len(b)) <= r.size-off {
		return r.file.ReadAt(b, headSize+off)
	}
	n, err = r.file.ReadAt(b[:r.size-off], headSize+off)
	if err == nil {
		err = io.EOF
	}
	return n, err
}

// Close closes the file.
func (r *fileReader) Close() error { return r.file.Close() }

// object makes the object of a live one with this Meta.
func (l *live) object(meta *Meta, edition uint32) *Object {
	object := &Object{Meta: meta, Forms: make([]Form, len(l.forms))}
	for i, form := range l.forms {
		object.Forms[i] = Form{Coding: form.coding, Body: &body{stored: form, live: l, edition: edition}}
	}
	return object
}

// handleOf is our side of an object; nil if it's not ours.
func handleOf(object *Object) *body {
	if object == nil || len(object.Forms) == 0 {
		return nil
	}
	b, _ := object.Forms[0].Body.(*body)
	return b
}

// drop lets the bytes go that are on disk as well.
func (l *live) drop() {
	for _, form := range l.forms {
		if form.onDisk.Load() {
			form.bytes.Store(nil)
		}
	}
}

// weight is what it takes in memory.
func (l *live) weight() int64 {
	weight := int64(unsafe.Sizeof(live{})) + weightOf(l.found[0].Meta)
	for _, form := range l.forms {
		weight += formWeight
		if bytes := form.bytes.Load(); bytes != nil {
			weight += bytes.weight
		}
	}
	return weight
}

// formWeight is a form without its bytes: in the Object, and stored.
const formWeight = int64(unsafe.Sizeof(Form{}) + unsafe.Sizeof(stored{}) + unsafe.Sizeof(body{}) + unsafe.Sizeof(pieces{}) + 24)

// weightOf is what an Object with this Meta takes without its forms, and its
// entry in the index.
func weightOf(meta *Meta) int64 {
	n := unsafe.Sizeof(Object{}) + unsafe.Sizeof(Meta{}) + 8 + unsafe.Sizeof(entry{}) + 64
	n += uintptr(2*len(meta.URL) + len(meta.ID) + len(meta.Note) + len(meta.Coding))
	for _, tag := range meta.Tags {
		n += unsafe.Sizeof(tag) + uintptr(len(tag)) + 4
	}
	for _, selector := range meta.Vary {
		n += unsafe.Sizeof(selector) + uintptr(len(selector.Name)+len(selector.Value))
	}
	if meta.Span != nil {
		n += unsafe.Sizeof(Span{})
	}
	// A map of Go takes a control byte a slot, and is three quarters full.
	n += 48
	for name, values := range meta.Header {
		n += uintptr(len(name)) + (unsafe.Sizeof(name)+unsafe.Sizeof(values)+1)*4/3
		for _, value := range values {
			n += unsafe.Sizeof(value) + uintptr(len(value))
			n += uintptr(len(name)+len(value)) + 4 // in Lines.Fixed
		}
	}
	return int64(n)
}
