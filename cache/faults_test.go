//go:build linux

package cache

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// mount mounts a tmpfs for the test.
func mount(t *testing.T, options string) (dir string) {
	t.Helper()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") != "" {
			t.Fatal("needs root, to mount a tmpfs")
		}
		t.Skip("needs root, to mount a tmpfs")
	}
	dir = t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatalf("mount: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// logged is a log.
type logged struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// faulty opens a store whose log is kept.
func faulty(t *testing.T, dir string) (*Tiers, *logged) {
	var log logged
	return open(t, TiersOptions{Memory: 8 << 20, Disk: 64 << 20, Dir: dir, Log: slog.New(slog.NewTextHandler(&log, nil))}), &log
}

// lines fails unless the log has so many of falling and of coming back. The store
// is at rest.
func lines(t *testing.T, log *logged, fell, well int) {
	t.Helper()
	text := log.String()
	if f, w := strings.Count(text, "the cache's disk fails"), strings.Count(text, "the cache's disk is well"); f != fell || w != well {
		t.Errorf("fell %d times, came back %d times:\n%s", f, w, text)
	}
}

// keepAll keeps small objects, all of which must be found.
func keepAll(t *testing.T, s *Tiers, from, to int) {
	t.Helper()
	for i := from; i < to; i++ {
		expect(t, keep(t, s, metaOf(i, "a"), bodyOf(i, 5000)).Forms[0], bodyOf(i, 5000))
		expect(t, one(t, s, testKey(i)).Forms[0], bodyOf(i, 5000))
	}
}

// large keeps a large body, as far as that goes; nothing of it panics.
func large(s *Tiers, n int) bool {
	d, err := s.Begin(3_000_000)
	if err != nil {
		return false
	}
	for off, b := 0, bodyOf(n, 3_000_000); off < len(b) && err == nil; off += 100_000 {
		_, err = d.Write(b[off : off+100_000])
	}
	defer d.Discard()
	return err == nil && s.Keep(metaOf(n, "a"), d) != nil
}

// copied copies a folder to one that has room.
func copied(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir() + "/copy"
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestDiskFull(t *testing.T) {
	countBodies(t, nil)
	dir := mount(t, "size=6m")
	synctest.Test(t, func(t *testing.T) {
		s, log := faulty(t, dir+"/cache")
		keepAll(t, s, 0, 20)
		if !large(s, 1000) {
			t.Fatal("not kept where there is room")
		}
		ballast := dir + "/ballast"
		f, err := os.Create(ballast)
		for err == nil {
			_, err = f.Write(make([]byte, headSize))
		}
		f.Close()
		keepAll(t, s, 20, 60)
		if large(s, 1001) {
			t.Error("kept where there is no room")
		}
		if stats := s.Stats(); !stats.Degraded || stats.DiskErrors == 0 || stats.Corrupt != 0 {
			t.Errorf("%+v", stats)
		}
		if n := s.Purge(Match{URL: metaOf(3, "").URL}, false); n != 1 || s.Owes() {
			t.Errorf("purged %d, owes %t", n, s.Owes())
		}
		if n := s.Purge(Match{URL: metaOf(4, "").URL}, true); n != 1 || s.Owes() {
			t.Errorf("purged %d softly, owes %t", n, s.Owes())
		}
		other, err := OpenTiers(TiersOptions{Memory: 1 << 20, Disk: 64 << 20, Dir: copied(t, dir+"/cache")}) // as a kill would leave it
		if err != nil {
			t.Fatal(err)
		}
		none(t, other, testKey(3))
		for _, object := range other.Find(testKey(4)) {
			if !object.Meta.Stale {
				t.Error("what was purged softly is fresh")
			}
		}
		expect(t, one(t, other, testKey(5)).Forms[0], bodyOf(5, 5000))
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		lines(t, log, 1, 0)
		if err := os.Remove(ballast); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * mostRest)
		synctest.Wait()
		if stats := s.Stats(); stats.Degraded {
			t.Errorf("%+v", stats)
		}
		lines(t, log, 1, 1)
		before := s.Stats().DiskObjects
		keepAll(t, s, 60, 70)
		if after := s.Stats().DiskObjects; after != before+10 {
			t.Errorf("%d objects on disk, then %d", before, after)
		}
		if used := usedBytes(t, dir); used > s.Stats().DiskBytes {
			t.Errorf("%d bytes in use, %d counted", used, s.Stats().DiskBytes)
		}
	})
}

// TestDiskFullOfOurs fills a disk that is smaller than the limit: the store makes
// room for itself.
func TestDiskFullOfOurs(t *testing.T) {
	dir := mount(t, "size=2m")
	synctest.Test(t, func(t *testing.T) {
		s, log := faulty(t, dir+"/cache")
		for i := range 10 {
			for n := range 300 {
				keep(t, s, metaOf(300*i+n, "a"), bodyOf(n, 5000))
			}
			time.Sleep(2 * leastRest)
			synctest.Wait()
			if s.Stats().Degraded {
				t.Fatalf("%+v\n%s", s.Stats(), log)
			}
		}
		if s.Stats().DiskEvictions == 0 || !s.Stats().Short {
			t.Errorf("%+v", s.Stats())
		}
		lines(t, log, 0, 0)
	})
}

// fill fills a disk but for so many bytes, with others' files.
func fill(t *testing.T, dir string, but int64) {
	t.Helper()
	f, err := os.OpenFile(dir+"/others", os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for {
		free, ok := freeIn(dir)
		if !ok {
			t.Fatal("free bytes are not known")
		}
		if free -= but; free <= 0 {
			return
		}
		if _, err := f.Write(make([]byte, min(free, 1<<20))); err != nil {
			return
		}
	}
}

// TestDiskShared keeps on a disk that others fill, slowly: the store lets go of its
// own before there is no room, and the disk never fails.
func TestDiskShared(t *testing.T) {
	dir := mount(t, "size=16m")
	synctest.Test(t, func(t *testing.T) {
		s, log := faulty(t, dir+"/cache")
		n := 0
		for free := int64(14 << 20); free > 0; free -= 100 << 10 {
			if now, _ := freeIn(dir); now > free {
				fill(t, dir, free)
			} else {
				fill(t, dir, max(0, now-60<<10))
			}
			for range 40 {
				n++
				keep(t, s, metaOf(n, "a"), bodyOf(n, 5000))
			}
			time.Sleep(spareEvery)
			synctest.Wait()
		}
		if stats := s.Stats(); stats.Degraded || !stats.Short || stats.DiskEvictions == 0 {
			t.Errorf("%+v", stats)
		}
		lines(t, log, 0, 0)
		if warned := strings.Count(log.String(), "has no room"); warned == 0 || warned > 5 {
			t.Errorf("%d warnings in %v", warned, 140*spareEvery)
		}
	})
}

// TestDiskFlaps keeps on a disk whose room others take as soon as there is any: the
// log has it a few times an hour, not every second.
func TestDiskFlaps(t *testing.T) {
	countBodies(t, nil)
	dir := mount(t, "size=16m")
	synctest.Test(t, func(t *testing.T) {
		s, log := faulty(t, dir+"/cache")
		keepAll(t, s, 0, 1000)
		n := 1000
		for range 60 * 60 {
			fill(t, dir, 0)
			n++
			keep(t, s, metaOf(n, "a"), bodyOf(n, 5000))
			time.Sleep(time.Second)
		}
		synctest.Wait()
		text := log.String()
		if fell := strings.Count(text, "the cache's disk fails"); fell == 0 || fell > 20 {
			t.Errorf("fell %d times in an hour:\n%s", fell, text)
		}
		expect(t, one(t, s, testKey(n)).Forms[0], bodyOf(n, 5000))
	})
}

func TestDiskReadOnly(t *testing.T) {
	countBodies(t, nil)
	dir := mount(t, "size=16m")
	synctest.Test(t, func(t *testing.T) {
		s, log := faulty(t, dir)
		remount := func(flags uintptr) {
			if err := syscall.Mount("", dir, "", syscall.MS_REMOUNT|flags, ""); err != nil {
				t.Fatal(err)
			}
		}
		keepAll(t, s, 0, 20)
		if !large(s, 1000) {
			t.Fatal("not kept")
		}
		s.disk.journal.close() // a disk that fails is remounted over open files; we can't
		remount(syscall.MS_RDONLY)
		keepAll(t, s, 20, 40)
		large(s, 1001)
		expect(t, one(t, s, testKey(1000)).Forms[0], bodyOf(1000, 3_000_000))
		if s.Renew(one(t, s, testKey(1)), metaOf(1, "a")) == nil {
			t.Error("not renewed in memory")
		}
		one(t, s, testKey(1))
		if n := s.Purge(Match{URL: metaOf(2, "").URL}, false); n != 1 {
			t.Errorf("purged %d", n)
		}
		none(t, s, testKey(2))
		if n := s.Purge(Match{URL: metaOf(3, "").URL}, true); n != 1 || !one(t, s, testKey(3)).Meta.Stale {
			t.Errorf("purged %d", n)
		}
		if !s.Owes() {
			t.Error("says that the disk has it")
		}
		synctest.Wait()
		lines(t, log, 1, 0)
		time.Sleep(10 * mostRest)
		synctest.Wait()
		lines(t, log, 1, 0)
		remount(0)
		time.Sleep(2 * mostRest)
		synctest.Wait()
		lines(t, log, 1, 1)
		if s.Owes() {
			t.Error("owes what it has paid")
		}
		keepAll(t, s, 40, 60)
		o := TiersOptions{Memory: 8 << 20, Disk: 64 << 20, Dir: dir}
		s = reopen(t, s, o)
		none(t, s, testKey(2))
		for _, object := range s.Find(testKey(3)) {
			t.Errorf("found what was purged, stale: %t", object.Meta.Stale)
		}
		expect(t, one(t, s, testKey(50)).Forms[0], bodyOf(50, 5000))
	})
}

func TestDiskRemoved(t *testing.T) {
	countBodies(t, nil)
	dir := t.TempDir() + "/cache"
	synctest.Test(t, func(t *testing.T) {
		s, log := faulty(t, dir)
		keepAll(t, s, 0, 20)
		if !large(s, 1000) {
			t.Fatal("not kept")
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		if _, err := read(one(t, s, testKey(1000)).Forms[0].Body); err == nil {
			t.Error("read what isn't there")
		}
		none(t, s, testKey(1000))
		keepAll(t, s, 20, 40)
		for i := range 20 {
			expect(t, one(t, s, testKey(i)).Forms[0], bodyOf(i, 5000)) // in memory
		}
		synctest.Wait()
		lines(t, log, 1, 0)
		time.Sleep(2 * mostRest)
		synctest.Wait()
		lines(t, log, 1, 1)
		if stats := s.Stats(); stats.DiskObjects != 0 || stats.Degraded {
			t.Errorf("%+v", stats)
		}
		keepAll(t, s, 40, 60)
		if used := usedBytes(t, dir); used > s.Stats().DiskBytes || s.Stats().DiskObjects != 20 {
			t.Errorf("%d bytes in use, %+v", used, s.Stats())
		}
		s = reopen(t, s, TiersOptions{Memory: 8 << 20, Disk: 64 << 20, Dir: dir})
		expect(t, one(t, s, testKey(50)).Forms[0], bodyOf(50, 5000))
	})
}

// TestDiskBroken opens a store whose folder can't be, and then can.
func TestDiskBroken(t *testing.T) {
	dir := t.TempDir() + "/file"
	if err := os.WriteFile(dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s, log := faulty(t, filepath.Join(dir, "cache"))
		keepAll(t, s, 0, 20)
		synctest.Wait()
		lines(t, log, 1, 0)
		os.Remove(dir)
		time.Sleep(2 * mostRest)
		synctest.Wait()
		lines(t, log, 1, 1)
		keepAll(t, s, 20, 40)
		if stats := s.Stats(); stats.DiskObjects != 20 || stats.Degraded {
			t.Errorf("%+v", stats)
		}
	})
}

// TestHandover opens a folder that another store gives up: memory is the cache
// until then, and what was purged meanwhile is not found afterwards.
func TestHandover(t *testing.T) {
	o := TiersOptions{Memory: 8 << 20, Disk: 64 << 20, Dir: t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		old, err := OpenTiers(o)
		if err != nil {
			t.Fatal(err)
		}
		keepAll(t, old, 0, 20)
		o.Handover = true
		s := open(t, o)
		none(t, s, testKey(1))
		keepAll(t, s, 20, 30)
		s.Purge(Match{Tag: "t3"}, false)
		s.Purge(Match{Tag: "t4"}, true)
		if err := old.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * leastRest)
		synctest.Wait()
		for i := range 20 {
			if i%10 == 3 || i%10 == 4 {
				none(t, s, testKey(i))
			} else {
				expect(t, one(t, s, testKey(i)).Forms[0], bodyOf(i, 5000))
			}
		}
		if !one(t, s, testKey(24)).Meta.Stale || s.Stats().Degraded {
			t.Errorf("%+v", s.Stats())
		}
		s.awaitRecovery()
		if left := files(t, o); len(left) != 16 {
			t.Errorf("%d files", len(left))
		}
	})
}

// TestFilesOut runs out of descriptors: nothing is lost for it.
func TestFilesOut(t *testing.T) {
	o := TiersOptions{Disk: 64 << 20, Dir: t.TempDir()}
	s := open(t, o)
	keep(t, s, metaOf(1, "a"), bodyOf(1, 5000))
	var was syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	now := was
	now.Cur = 3
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &now); err != nil {
		t.Fatal(err)
	}
	found := s.Find(testKey(1))
	d, err := s.Begin(-1)
	var kept *Object
	if err == nil {
		if _, err = d.Write(bodyOf(2, 5000)); err == nil {
			kept = s.Keep(metaOf(2, "a"), d)
		}
	}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &was); err != nil {
		t.Fatal(err)
	}
	if len(found) > 0 || kept != nil {
		t.Errorf("found %d, kept %v", len(found), kept)
	}
	expect(t, one(t, s, testKey(1)).Forms[0], bodyOf(1, 5000))
	if stats := s.Stats(); stats.Degraded || stats.Objects != 1 {
		t.Errorf("%+v", stats)
	}
}
