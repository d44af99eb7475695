package cache

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
)

// The journal says what the heads of the files say that the index wants, so that
// a start need not read them: a million heads are a minute of a cold disk, their
// names and the journal two seconds. It is believed only of files whose names are
// there; a name stands for one content for ever, so it can't be about another.
// What it lacks, a head tells.
//
//	DIR/v2/index/NNN   segments, the older first: a magic, and records
//
// A record is its length, its checksum, and an object or another form of one; the
// last of the same id counts. It is written before the call that it's of returns,
// and what a kill cuts off is not read. When most of it is of the past, it is
// written anew from the index: into a segment between those that it replaces, and
// the one that is written to meanwhile.

const (
	// mostRecord bounds what a segment can make us read: tags and a URL of 2 MB.
	mostRecord = mostMeta
	// leastRewrite is how long a journal is at least that is written anew.
	leastRewrite = 4 << 20
	// mostSegments is how many a start leaves as they are: it adds one.
	mostSegments = 8

	// besides is what the ends of the last segments, the state and the next state
	// take.
	besides = 4 * headSize

	recordObject = 1
	recordForm   = 2
)

// segmentMagic begins a segment of this version.
var segmentMagic = append([]byte(magic+"-index"), version, '\n')

// journal is where records go.
type journal struct {
	disk *disk
	due  chan struct{} // it should be written anew

	mu      sync.Mutex // guards the rest
	file    *os.File   // nil is none yet
	number  uint64     // of its segment
	broken  bool       // something isn't in it
	rewrite int64      // the length at which it's due
	noted   int64      // bytes in the last segment

	length atomic.Int64 // bytes of all segments, also one being written anew, and besides
}

func (j *journal) dir() string { return j.disk.dir + "/index" }

func (j *journal) path(number uint64) string {
	return j.dir() + "/" + strconv.FormatUint(number, 10)
}

// appendObject appends the record of an entry.
func appendObject(b []byte, e *entry, site string) []byte {
	return appendRecord(b, func(b []byte) []byte {
		b = append(b, recordObject)
		b = append(b, e.key[:]...)
		b = binary.LittleEndian.AppendUint64(b, e.id)
		b = binary.AppendUvarint(b, uint64(e.size))
		b = binary.AppendUvarint(b, uint64(e.pages))
		b = binary.LittleEndian.AppendUint32(b, e.received)
		b = binary.LittleEndian.AppendUint32(b, e.until)
		stale := byte(0)
		if e.stale {
			stale = 1
		}
		b = append(b, stale)
		b = appendString(b, site)
		return append(b, e.label...)
	})
}

// appendForm appends the record of another form.
func appendForm(b []byte, key Key, id uint64, form *extra) []byte {
	return appendRecord(b, func(b []byte) []byte {
		b = append(b, recordForm)
		b = append(b, key[:]...)
		b = binary.LittleEndian.AppendUint64(b, id)
		b = append(b, form.number)
		b = binary.AppendUvarint(b, uint64(form.size))
		b = binary.AppendUvarint(b, uint64(form.pages()))
		return append(b, form.name()...)
	})
}

// appendRecord puts length and checksum before what content appends.
func appendRecord(b []byte, content func([]byte) []byte) []byte {
	start := len(b)
	b = content(append(b, make([]byte, 8)...))
	record := b[start+8:]
	binary.LittleEndian.PutUint32(b[start:], uint32(len(record)))
	binary.LittleEndian.PutUint32(b[start+4:], checksum(record))
	return b
}

// record is one that was read: of an object, or of a form of one.
type record struct {
	entry entry
	site  string
	form  *extra
}

// parseRecord reads what is behind length and checksum.
func parseRecord(b []byte) (r record, err error) {
	f := fields{rest: string(b)}
	kind := f.byte()
	copy(r.entry.key[:], f.take(len(Key{})))
	r.entry.id = f.uint64()
	switch kind {
	case recordObject:
		r.entry.size, r.entry.pages = int64(f.uvarint()), uint32(f.uvarint())
		r.entry.received, r.entry.until = f.uint32(), f.uint32()
		r.entry.stale = f.byte() != 0
		r.site = f.string()
		r.entry.label = strings.Clone(f.rest) // and not all of the record
		label := fields{rest: f.rest}
		label.take(4 * label.count(4))
		label.string()
		f.bad = f.bad || label.bad
	case recordForm:
		r.form = &extra{number: f.byte(), size: int64(f.uvarint())}
		f.uvarint() // pages, which follow from the size
		known := false
		r.form.coding, known = extraCoding(f.rest)
		f.bad = f.bad || !known
	default:
		f.bad = true
	}
	if f.bad || r.entry.id == 0 || r.entry.size < 0 || r.form == nil && r.entry.pages == 0 || r.form != nil && (r.form.number == 0 || r.form.size < 0) {
		return r, errCorrupt
	}
	return r, nil
}

// take reads n bytes.
func (f *fields) take(n int) string {
	if f.bad || n > len(f.rest) {
		f.bad = true
		return ""
	}
	taken := f.rest[:n]
	f.rest = f.rest[n:]
	return taken
}

func (f *fields) uint32() uint32 {
	s := f.take(4)
	if s == "" {
		return 0
	}
	return binary.LittleEndian.Uint32([]byte(s))
}

func (f *fields) uint64() uint64 {
	s := f.take(8)
	if s == "" {
		return 0
	}
	return binary.LittleEndian.Uint64([]byte(s))
}

// segments are the numbers of those that are there, ascending.
func (j *journal) segments() ([]uint64, error) {
	names, err := namesIn(j.dir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the journal of the cache: %w", err)
	}
	var numbers []uint64
	for _, name := range names {
		if n, err := strconv.ParseUint(name, 10, 63); err == nil {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// read gives the records of all segments to each; what can't be read is left out.
func (j *journal) read(numbers []uint64, each func(record)) error {
	for _, number := range numbers {
		f, err := os.Open(j.path(number))
		if err != nil {
			return fmt.Errorf("read the journal of the cache: %w", err)
		}
		err = readSegment(bufio.NewReaderSize(f, 1<<20), each)
		f.Close()
		if err != nil {
			return fmt.Errorf("read the journal of the cache: %w", err)
		}
	}
	return nil
}

// readSegment reads a segment to its end, or to what isn't a record. Its error is
// the reader's.
func readSegment(r io.Reader, each func(record)) error {
	head := make([]byte, len(segmentMagic))
	if _, err := io.ReadFull(r, head); err != nil || string(head) != string(segmentMagic) {
		return ended(err)
	}
	var frame [8]byte
	var buffer []byte
	for {
		if _, err := io.ReadFull(r, frame[:]); err != nil {
			return ended(err)
		}
		length := binary.LittleEndian.Uint32(frame[:])
		if length > mostRecord {
			return nil
		}
		buffer = slices.Grow(buffer[:0], int(length))[:length]
		if _, err := io.ReadFull(r, buffer); err != nil {
			return ended(err)
		}
		if checksum(buffer) != binary.LittleEndian.Uint32(frame[4:]) {
			return nil
		}
		if record, err := parseRecord(buffer); err == nil {
			each(record)
		}
	}
}

// ended is the error of a read, where the end isn't one.
func ended(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return nil
	}
	return err
}

// begin starts a segment behind those that are there. The caller has mu, or is
// alone.
func (j *journal) begin(number uint64) error {
	if err := os.MkdirAll(j.dir(), 0o700); err != nil {
		return fmt.Errorf("write the journal of the cache: %w", err)
	}
	f, err := os.OpenFile(j.path(number), os.O_CREATE|os.O_EXCL|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("write the journal of the cache: %w", err)
	}
	if _, err := f.Write(segmentMagic); err != nil {
		f.Close()
		os.Remove(f.Name())
		return fmt.Errorf("write the journal of the cache: %w", err)
	}
	if j.file != nil {
		j.file.Close()
	}
	j.file, j.number, j.noted = f, number, 0
	return nil
}

// restart starts a segment in a folder that is ours from now on, and gives those
// that are there.
func (j *journal) restart() ([]uint64, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	numbers, err := j.segments()
	if err != nil {
		return nil, err
	}
	next := uint64(1)
	if len(numbers) > 0 {
		next = numbers[len(numbers)-1] + 1
	}
	j.length.Store(besides)
	for _, number := range numbers {
		info, err := os.Stat(j.path(number))
		if err != nil {
			return nil, fmt.Errorf("read the journal of the cache: %w", err)
		}
		j.length.Add(pagesOf(info.Size()) * headSize)
	}
	j.broken = false
	return numbers, j.begin(next)
}

// incomplete reports whether something isn't in it.
func (j *journal) incomplete() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.broken
}

// note writes records.
func (j *journal) note(records []byte) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil || j.broken {
		j.broken = true
		return errNoRoom
	}
	if _, err := j.file.Write(records); err != nil {
		// Part of it may be there: behind it nothing is read.
		j.broken = true
		return fmt.Errorf("write the journal of the cache: %w", err)
	}
	j.noted += int64(len(records))
	if j.length.Add(int64(len(records))) >= max(j.rewrite, leastRewrite) {
		j.ask()
	}
	return nil
}

// ask has it written anew.
func (j *journal) ask() {
	select {
	case j.due <- struct{}{}:
	default:
	}
}

// close closes the segment.
func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.file == nil {
		return nil
	}
	err := j.file.Close()
	j.file = nil
	return err
}

// noteObject writes the record of an entry as it is in the index; false if it
// can't.
func (t *Tiers) noteObject(key Key, id uint64) bool {
	s := t.index.shard(key)
	s.mu.Lock()
	e := s.get(key, id)
	if e == nil || e.pages == 0 {
		s.mu.Unlock()
		return true
	}
	noted := *e
	s.mu.Unlock()
	return t.note(appendObject(nil, &noted, t.index.siteName(noted.site)))
}

func (t *Tiers) note(records []byte) bool {
	err := t.disk.journal.note(records)
	if err != nil && !errors.Is(err, errNoRoom) {
		t.disk.failed(err)
	}
	return err == nil
}

// rewriteJournal writes the journal anew, from the index, which is whole.
func (t *Tiers) rewriteJournal() error {
	j := &t.disk.journal
	j.mu.Lock()
	old, err := j.segments()
	if err == nil {
		next := j.number
		if len(old) > 0 {
			next = max(next, old[len(old)-1])
		}
		err = j.begin(next + 2) // the one between is for what is written anew
	}
	number := j.number
	j.broken = err != nil
	j.mu.Unlock()
	if err != nil {
		return err
	}
	length, err := t.writeIndex(j.path(number - 1))
	if err != nil {
		j.mu.Lock()
		j.broken = true // as it may have been before
		j.mu.Unlock()
		return err
	}
	for _, number := range old {
		if err := os.Remove(j.path(number)); err != nil {
			return fmt.Errorf("write the journal of the cache: %w", err)
		}
	}
	j.mu.Lock()
	j.rewrite = 3 * length
	j.length.Store(pagesOf(length)*headSize + besides + j.noted)
	j.mu.Unlock()
	return nil
}

// writeIndex writes a segment of all that is on disk.
func (t *Tiers) writeIndex(path string) (length int64, err error) {
	temporary := t.disk.dir + "/tmp/index"
	f, err := os.Create(temporary)
	if err != nil {
		return 0, fmt.Errorf("write the journal of the cache: %w", err)
	}
	defer f.Close()
	buffer := slices.Clone(segmentMagic)
	flush := func() bool {
		if err == nil && t.ctx.Err() == nil {
			var n int
			n, err = f.Write(buffer)
			length += int64(n)
			t.disk.journal.length.Add(int64(n))
		}
		buffer = buffer[:0]
		return err == nil && t.ctx.Err() == nil
	}
	t.each(Match{}, func(s *shard, n uint32) {
		e := s.at(n)
		if e.pages == 0 {
			return
		}
		buffer = appendObject(buffer, e, t.index.siteName(e.site))
		for form := e.extras; form != nil; form = form.next {
			buffer = appendForm(buffer, e.key, e.id, form)
		}
	}, func() bool { return len(buffer) < 1<<16 || flush() })
	if flush(); err == nil {
		err = t.ctx.Err()
	}
	if err == nil {
		err = os.Rename(temporary, path)
	}
	if err != nil {
		os.Remove(temporary)
		return 0, fmt.Errorf("write the journal of the cache: %w", err)
	}
	return length, nil
}
