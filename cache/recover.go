package cache

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// What an earlier process left is found again:
//
//  1. the journal is read into the index,
//  2. workers go through the folders: a file that the journal told of is known by
//     its name, of another the head is read,
//  3. what is asked for before they get there is looked for in its folder (seek),
//  4. of two files of one variant the older goes, and what belongs to no object,
//     is cut off or isn't what it says, too,
//  5. what the journal told of and isn't there leaves the index; and then the
//     bytes in use are known, and no more a bound.
//
// Files of this process are in the index already. What an earlier version left is
// removed (dropEarlier). Where that ran after this one had the folder once, as who goes
// back to an earlier release and then on again has it, it knew nothing of what is here:
// what was purged and changed meanwhile would be found, so nothing is (overtaken).

// scanners is how many go through the folders. What is in the kernel's memory takes
// two cores 7 to 9 s a million heads, with four of them as with more; of a disk it is
// one read a head, and a disk that many may ask at once has more of them at hand: on
// one of 20 000 reads a second a million took 51 s with sixteen, up to 107 s with four.
const scanners = 16

// recovery is how far that is.
type recovery struct {
	scan atomic.Pointer[scan] // nil before the first
}

type scan struct {
	opened  uint64 // which process this is
	done    [folders]atomic.Bool
	folders atomic.Int64 // done
	objects atomic.Int64 // seen
	heads   atomic.Int64 // read
	bytes   atomic.Int64 // of what this put into the index

	segments []uint64      // of the journal
	records  int64         // read from it
	purged   []Match       // what is not to be found any more
	over     chan struct{} // closed at the end
}

// recovering reports whether the index may lack something.
func (t *Tiers) recovering() bool {
	scan := t.scan.Load()
	return scan != nil && scan.folders.Load() < folders
}

// awaitRecovery waits for the end of it, or of the store.
func (t *Tiers) awaitRecovery() {
	if scan := t.scan.Load(); scan != nil {
		<-scan.over
	}
}

// beginRecovery starts the workers. bound is what the disk's bytes in use have for
// what they will find. The caller has the lock of the disk's health.
func (t *Tiers) beginRecovery(bound int64, segments []uint64) {
	scan := &scan{opened: t.disk.opened, segments: segments, purged: t.disk.purged, over: make(chan struct{})}
	t.scan.Store(scan)
	t.running.Go(t.awaitEarlier)
	t.running.Go(func() {
		defer close(scan.over)
		t.readJournal(scan)
		var next atomic.Int64
		var workers sync.WaitGroup
		for range scanners {
			workers.Go(func() {
				for n := int(next.Add(1)) - 1; n < folders && t.ctx.Err() == nil; n = int(next.Add(1)) - 1 {
					t.scanFolder(scan, n, nil)
					scan.done[n].Store(true)
					scan.folders.Add(1)
				}
			})
		}
		workers.Wait()
		if t.ctx.Err() == nil {
			t.endRecovery(scan, bound)
		}
	})
}

// isPurged reports whether an entry is not to be found any more.
func (s *scan) isPurged(e *entry) bool {
	return slices.ContainsFunc(s.purged, func(m Match) bool { return m.matches(e, tagHash(m.Tag)) })
}

// readJournal puts what the journal tells into the index, as not seen yet.
func (t *Tiers) readJournal(scan *scan) {
	err := t.disk.journal.read(scan.segments, func(r record) {
		scan.records++
		if t.ctx.Err() != nil || r.entry.id>>numberBits >= scan.opened || r.form == nil && scan.isPurged(&r.entry) {
			return // what was purged is met again by its name, and removed
		}
		s := t.index.shard(r.entry.key)
		s.mu.Lock()
		defer s.mu.Unlock()
		at := s.get(r.entry.key, r.entry.id)
		if r.form != nil {
			if at != nil && at.unseen && at.add(*r.form) {
				scan.bytes.Add(r.form.pages() * headSize)
			}
			return
		}
		e := r.entry
		e.site, e.unseen = t.index.site(r.site), true
		if at != nil {
			if at.unseen {
				at.label, at.site, at.received, at.until, at.stale = e.label, e.site, e.received, e.until, e.stale
			}
			return
		}
		if n := s.same(&e); n != 0 {
			if s.at(n).id > e.id {
				return
			}
			scan.bytes.Add(-s.at(n).onDisk())
			t.take(s, n) // its file, if it is there, is found by its name
		}
		s.insert(e)
		scan.bytes.Add(e.onDisk())
	})
	if err != nil {
		t.disk.failures.Add(1)
		t.log.Warn("the cache reads all its files", "error", err)
	}
}

// overtaken reports whether an earlier version had its folder after this one was made.
func (d *disk) overtaken() bool {
	made, err := os.Stat(d.lockPath())
	for earlier := 1; earlier < version && err == nil; earlier++ {
		if info, err := os.Stat(d.earlier(earlier) + "/state"); err == nil && info.ModTime().After(made.ModTime()) {
			return true
		}
	}
	return false
}

// earlier is the folder of an earlier version.
func (d *disk) earlier(version int) string {
	return filepath.Join(filepath.Dir(d.dir), "v"+strconv.Itoa(version))
}

// awaitEarlier removes what earlier versions left, once no process has it any more: one
// that was upgraded may serve for as long as it drains; and once all here has been looked
// at, as until then it says whether that is to be found.
func (t *Tiers) awaitEarlier() {
	for t.awaitRecovery(); ; {
		switch err := t.dropEarlier(); {
		case err == nil:
			return
		case !errors.Is(err, errLocked):
			t.log.Warn("what an earlier version of the cache left stays on its disk", "dir", filepath.Dir(t.disk.dir), "error", err)
			return
		}
		select {
		case <-t.ctx.Done():
			return
		case <-time.After(spareEvery):
		}
	}
}

// dropEarlier removes it, or as much of it as there is time for.
func (t *Tiers) dropEarlier() error {
	for earlier := 1; earlier < version; earlier++ {
		dir := t.disk.earlier(earlier)
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		lock, err := lockFile(dir + "/lock")
		if err != nil {
			return err
		}
		names, err := namesIn(dir)
		for _, name := range names {
			if err == nil && t.ctx.Err() == nil && name != "lock" {
				err = os.RemoveAll(dir + "/" + name)
			}
		}
		if err == nil && t.ctx.Err() == nil {
			err = os.RemoveAll(dir)
		}
		lock.Close()
		if err != nil {
			return fmt.Errorf("remove an earlier version of the cache: %w", err)
		}
	}
	return nil
}

// endRecovery settles what the workers leave.
func (t *Tiers) endRecovery(scan *scan, bound int64) {
	t.each(Match{}, func(s *shard, n uint32) {
		if e := s.at(n); e.unseen {
			t.disk.give(e.onDisk())
			t.take(s, n)
		}
	}, func() bool { return true })
	t.disk.used.Add(scan.bytes.Load() - bound)
	t.disk.nudge()
	j := &t.disk.journal
	if scan.heads.Load() > 0 || len(scan.segments) > mostSegments || scan.records > 2*scan.objects.Load()+1000 {
		j.ask()
		return
	}
	j.mu.Lock()
	j.rewrite = 2 * j.length.Load()
	j.mu.Unlock()
}

// seek looks for the files of a URL.
func (t *Tiers) seek(head Head) {
	scan := t.scan.Load()
	if n := folder(head); !scan.done[n].Load() {
		t.scanFolder(scan, n, &head)
	}
}

// fileOf is a file in a folder.
type fileOf struct {
	key    Key
	id     uint64
	number uint8
}

// scanFolder puts what is in a folder into the index; only a URL's, if there is one.
func (t *Tiers) scanFolder(scan *scan, n int, only *Head) {
	dir := t.disk.folder(n)
	in, err := openFolder(dir)
	var names []string
	if err == nil {
		defer in.close()
		names, err = in.names()
	}
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			t.disk.failures.Add(1)
		}
		return
	}
	var others []fileOf
	for _, name := range names {
		key, id, number, ok := parseName(name)
		if !ok || folder(key.head()) != n || id>>numberBits >= scan.opened || only != nil && key.head() != *only {
			continue
		}
		if number > 0 {
			others = append(others, fileOf{key, id, number})
			continue
		}
		t.found(scan, in, key, id)
	}
	for _, file := range others {
		t.foundForm(scan, in, file)
	}
}

// found puts an object into the index.
func (t *Tiers) found(scan *scan, in *opened, key Key, id uint64) {
	s := t.index.shard(key)
	s.mu.Lock()
	if e := s.get(key, id); e != nil {
		if e.unseen {
			e.unseen = false
			scan.objects.Add(1)
		}
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	scan.heads.Add(1)
	path := t.disk.path(key, id, 0)
	h, raw, size, err := in.readHead(fileName(key, id, 0), path)
	var b brief
	if err == nil {
		b, err = parseBrief(raw)
	}
	if err == nil && (h.key != key || h.id != id || h.number != 0) {
		err = errCorrupt
	}
	if err != nil {
		t.unfound(path, err)
		return
	}
	e := t.index.entry(key, id, b)
	e.size, e.pages, e.stale = h.size, uint32(pagesOf(size)), h.stale
	if scan.isPurged(&e) {
		t.disk.unlink(path)
		return
	}

	var old entry
	s.mu.Lock()
	if s.find(key, id) != 0 {
		s.mu.Unlock()
		return
	}
	scan.bytes.Add(e.onDisk())
	if n := s.same(&e); n != 0 && s.at(n).id > id {
		old = e
	} else {
		if n != 0 {
			old = t.take(s, n)
		}
		s.insert(e)
		scan.objects.Add(1)
	}
	s.mu.Unlock()
	t.unlinkAll(old)
}

// foundForm adds another form to its object in the index.
func (t *Tiers) foundForm(scan *scan, in *opened, file fileOf) {
	path := t.disk.path(file.key, file.id, file.number)
	s := t.index.shard(file.key)
	known := func() (e *entry, has bool) {
		e = s.get(file.key, file.id)
		return e, e != nil && e.extra(file.number) != nil
	}
	s.mu.Lock()
	e, has := known()
	s.mu.Unlock()
	if has {
		return
	}
	h, raw, size, err := in.readHead(fileName(file.key, file.id, file.number), path)
	switch {
	case err != nil:
	case h.key != file.key || h.id != file.id || h.number != file.number:
		err = errCorrupt
	case e == nil: // the object is gone
		t.disk.unlink(path)
		return
	}
	coding, ours := extraCoding(string(raw))
	if err == nil && (!ours || pagesOf(size) != pagesOf(headSize+h.size)) {
		err = errCorrupt
	}
	if err != nil {
		t.unfound(path, err)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if e, has := known(); e != nil && !has {
		e.add(extra{coding: coding, size: h.size, number: h.number})
		scan.bytes.Add(pagesOf(size) * headSize)
	}
}

// unfound sees to a file that isn't what its name says.
func (t *Tiers) unfound(path string, err error) {
	switch {
	case errors.Is(err, errCorrupt) || errors.Is(err, errMeta):
		t.corrupt.Add(1)
		t.disk.unlink(path)
	case errors.Is(err, fs.ErrNotExist) || errors.Is(err, errForeign):
	default:
		t.disk.failures.Add(1)
	}
}

// forgetDisk takes out of the index what was on a disk that is gone.
func (t *Tiers) forgetDisk() {
	t.each(Match{}, func(s *shard, n uint32) {
		e := s.at(n)
		if e.pages == 0 {
			return
		}
		t.disk.give(e.onDisk())
		if !s.unfile(e) {
			t.take(s, n)
		}
	}, func() bool { return true })
}

// readHead reads the header and the meta of a file, and says how long it is. It
// fails on a file that is cut off.
func readHead(path string) (h header, meta []byte, size int64, err error) {
	f, err := os.Open(path)
	if err != nil {
		return h, nil, 0, fmt.Errorf("open a file of the cache: %w", err)
	}
	defer f.Close()
	head := make([]byte, headSize)
	n, err := f.ReadAt(head, 0)
	if err != nil && err != io.EOF {
		return h, nil, 0, short(err)
	}
	info, err := f.Stat()
	if err != nil {
		return h, nil, 0, fmt.Errorf("read a file of the cache: %w", err)
	}
	size = info.Size()
	if h, meta, err = parseHead(head[:n], size); err == nil && meta == nil {
		meta = make([]byte, h.metaLen)
		if _, err := f.ReadAt(meta, h.metaAt); err != nil {
			return h, nil, 0, short(err)
		}
		err = h.check(meta)
	}
	return h, meta, size, err
}

// readHead is readHead of a file in an open folder. The meta is good until the next.
func (o *opened) readHead(name, path string) (h header, meta []byte, size int64, err error) {
	head, size, err := o.read(name)
	if err != nil {
		return h, nil, 0, fmt.Errorf("read a file of the cache: %w", err)
	}
	if h, meta, err = parseHead(head, size); err == nil && meta == nil {
		return readHead(path)
	}
	return h, meta, size, err
}

// parseHead reads what is in the first block of a file of a size. The meta is nil if
// it is elsewhere.
func parseHead(head []byte, size int64) (h header, meta []byte, err error) {
	if h, err = parseHeader(head); err != nil {
		return h, nil, err
	}
	if len(head) < headSize || size < h.end() {
		return h, nil, errCorrupt
	}
	if h.metaEnd() > headSize {
		return h, nil, nil
	}
	meta = head[h.metaAt:h.metaEnd()]
	return h, meta, h.check(meta)
}

// check fails unless the meta is the one that the header is about.
func (h *header) check(meta []byte) error {
	if checksum(meta) != h.metaSum {
		return errCorrupt
	}
	return nil
}
