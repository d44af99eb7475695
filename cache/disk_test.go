package cache

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// reopen closes a store and opens its folder again, and waits until all is indexed.
func reopen(t testing.TB, s *Tiers, o TiersOptions) *Tiers {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	s.awaitRecovery()
	return s
}

// files are the paths of all forms on disk.
func files(t testing.TB, o TiersOptions) (paths []string) {
	t.Helper()
	err := filepath.WalkDir(o.Dir, func(path string, entry fs.DirEntry, err error) error {
		if _, _, _, ok := parseName(filepath.Base(path)); ok {
			paths = append(paths, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// usedBytes is what the folder takes, as the limit counts it.
func usedBytes(t testing.TB, dir string) (n int64) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			if info, err := entry.Info(); err == nil {
				n += pagesOf(info.Size()) * headSize
			}
		}
		return nil
	})
	return n
}

// filled is a store with objects of all kinds, and what it should give.
func filled(t testing.TB, o TiersOptions) (*Tiers, func(t testing.TB, s Store)) {
	s := open(t, o)
	const n = 60
	long := func(i int) *Meta {
		meta := metaOf(i, "a")
		meta.Header.Set("Long", strings.Repeat("x", i*200))
		return meta
	}
	for i := range n {
		object := keep(t, s, metaOf(i, "a"), bodyOf(i, i*9000))
		if i%3 == 0 {
			s.Form(object, "gzip", write(t, s, -1, bodyOf(1000+i, 300), 300))
		}
		if i%4 == 0 {
			s.Renew(object, long(i))
		}
	}
	for i := 1; i < n; i += 10 {
		s.Remove(one(t, s, testKey(i)))
	}
	s.Purge(Match{Tag: "t2"}, true)
	s.Purge(Match{Tag: "t3"}, false)
	for i := 5; i < n; i += 10 {
		keep(t, s, metaOf(i, "a"), bodyOf(i+7, 100))
		keep(t, s, metaOf(i, "b"), bodyOf(i+8, 100))
	}
	return s, func(t testing.TB, s Store) {
		t.Helper()
		for i := range n {
			if i%10 == 1 || i%10 == 3 {
				none(t, s, testKey(i))
				continue
			}
			found := s.Find(testKey(i))
			if i%10 == 5 {
				if len(found) != 2 || found[0].Meta.ID != "b" {
					t.Fatalf("%d variants", len(found))
				}
				expect(t, found[1].Forms[0], bodyOf(i+7, 100))
				expect(t, found[0].Forms[0], bodyOf(i+8, 100))
				continue
			}
			if len(found) != 1 {
				t.Fatalf("object %d: found %d", i, len(found))
			}
			want := metaOf(i, "a")
			if i%4 == 0 {
				want = long(i)
			}
			want.Stale = i%10 == 2
			sameMeta(t, found[0].Meta, want)
			expect(t, found[0].Forms[0], bodyOf(i, i*9000))
			if i%3 == 0 {
				expect(t, found[0].Forms[1], bodyOf(1000+i, 300))
			}
		}
	}
}

func TestRestart(t *testing.T) {
	for name, between := range map[string]func(t *testing.T, dir string){
		"as it was":          func(*testing.T, string) {},
		"journal lost":       func(t *testing.T, dir string) { remove(t, dir+"/v2/index") },
		"journal of another": func(t *testing.T, dir string) { overwrite(t, dir+"/v2/index", 8, "-index\x63") },
		"journal cut off":    func(t *testing.T, dir string) { cut(t, dir+"/v2/index") },
		"state lost":         func(t *testing.T, dir string) { remove(t, dir+"/v2/state") },
		"state corrupt":      func(t *testing.T, dir string) { overwrite(t, dir+"/v2/state", 9, "xxx") },
	} {
		t.Run(name, func(t *testing.T) {
			o := TiersOptions{Memory: 1 << 20, Disk: 64 << 20, Dir: t.TempDir()}
			s, check := filled(t, o)
			check(t, s)
			for range 2 {
				if err := s.Close(); err != nil {
					t.Fatal(err)
				}
				between(t, o.Dir)
				s = open(t, o)
				check(t, s) // also before all is indexed
				s.awaitRecovery()
				check(t, s)
				listed := 0
				s.List(Match{Host: "www.example.cn"}, func(l Listed) bool { listed++; return true })
				if stats := s.Stats(); stats.Corrupt != 0 || stats.DiskErrors != 0 || stats.Recovered != 1 || stats.DiskObjects != 54 || listed != 54 {
					t.Errorf("listed %d, %+v", listed, stats)
				}
			}
			if n := s.Purge(Match{Tag: "all"}, false); n != 54 {
				t.Errorf("purged %d", n)
			}
			if left := files(t, o); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
			if used := s.disk.used.Load(); used != 0 {
				t.Errorf("%d bytes are in use by nothing", used)
			}
			s = reopen(t, s, o)
			none(t, s, testKey(2))
		})
	}
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

// overwrite writes into the files under a path.
func overwrite(t testing.TB, path string, at int64, with string) {
	t.Helper()
	each(t, path, func(f *os.File, _ int64) error {
		_, err := f.WriteAt([]byte(with), at)
		return err
	})
}

// cut cuts the files under a path in half.
func cut(t testing.TB, path string) {
	t.Helper()
	each(t, path, func(f *os.File, size int64) error { return f.Truncate(size / 2) })
}

func each(t testing.TB, path string, do func(f *os.File, size int64) error) {
	t.Helper()
	err := filepath.WalkDir(path, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			return err
		}
		return do(f, info.Size())
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestCorrupt spoils each part of a file, before a start and under a running
// store: what is spoilt is not found, or can't be opened; it is never served, and
// is removed and counted.
func TestCorrupt(t *testing.T) {
	const size = 300_000
	spoilt := 0
	countBodies(t, func() string { return fmt.Sprintf("%d files spoilt, none given", spoilt) })
	spoils := map[string]func(f *os.File, size int64) error{
		"header":      func(f *os.File, _ int64) error { _, err := f.WriteAt([]byte{1, 2, 3}, 41); return err },
		"checksum":    func(f *os.File, _ int64) error { _, err := f.WriteAt([]byte{1, 2, 3}, 68); return err },
		"meta":        func(f *os.File, _ int64) error { _, err := f.WriteAt([]byte{1, 2, 3}, 140); return err },
		"body":        func(f *os.File, _ int64) error { _, err := f.WriteAt([]byte{1, 2, 3}, headSize+1000); return err },
		"body's end":  func(f *os.File, n int64) error { _, err := f.WriteAt([]byte{1, 2, 3}, n-3); return err },
		"cut in head": func(f *os.File, _ int64) error { return f.Truncate(1000) },
		"cut in body": func(f *os.File, n int64) error { return f.Truncate(n - 1) },
		"empty":       func(f *os.File, _ int64) error { return f.Truncate(0) },
	}
	for name, spoil := range spoils {
		for _, length := range []int{1000 + 10, size} {
			for _, journal := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s/%d/%t", name, length, journal), func(t *testing.T) {
					o := TiersOptions{Disk: 64 << 20, Dir: t.TempDir()}
					s := open(t, o)
					keep(t, s, metaOf(1, "a"), bodyOf(1, length))
					keep(t, s, metaOf(2, "a"), bodyOf(2, length))
					if err := s.Close(); err != nil {
						t.Fatal(err)
					}
					path := files(t, o)[0]
					each(t, path, spoil)
					spoilt++
					if !journal {
						remove(t, o.Dir+"/v2/index")
					}
					s = open(t, o)
					s.awaitRecovery()
					good := 0
					for n := 1; n <= 2; n++ {
						for _, object := range s.Find(testKey(n)) {
							if _, err := read(object.Forms[0].Body); err == nil {
								expect(t, object.Forms[0], bodyOf(n, length))
								good++
							}
						}
					}
					if good != 1 || s.Stats().Corrupt != 1 {
						t.Errorf("%d good, %+v", good, s.Stats())
					}
					if left := files(t, o); len(left) != 1 || left[0] == path {
						t.Errorf("left %v", left)
					}
				})
			}
		}
	}
}

// TestCutLater cuts a file that has been read already: it is let go, so that one
// visitor alone waits for another.
func TestCutLater(t *testing.T) {
	const size = mostPromoted + 1000
	o := TiersOptions{Disk: 64 << 20, Dir: t.TempDir()}
	s := open(t, o)
	keep(t, s, metaOf(1, "a"), bodyOf(1, size))
	object := one(t, s, testKey(1))
	expect(t, object.Forms[0], bodyOf(1, size))
	cut(t, files(t, o)[0])
	if _, err := read(object.Forms[0].Body); err == nil {
		t.Error("it was opened")
	}
	none(t, s, testKey(1))
	if stats := s.Stats(); stats.Corrupt != 1 || len(files(t, o)) != 0 {
		t.Errorf("%+v, %d files", stats, len(files(t, o)))
	}
}

// TestAlteredLater alters bytes of a file in place that has been read already: it is
// not given, whether it is brought into memory or sent from the disk, and whether
// its object is in memory. What only looks otherwise is looked at again, and given.
func TestAlteredLater(t *testing.T) {
	for _, size := range []int{5000, mostPromoted + 1000} {
		for _, memory := range []int64{0, 8 << 20} {
			t.Run(fmt.Sprintf("%d/%d", size, memory), func(t *testing.T) {
				o := TiersOptions{Memory: memory, Disk: 64 << 20, Dir: t.TempDir()}
				s := open(t, o)
				if keep(t, s, metaOf(1, "a"), bodyOf(1, size)); memory > 0 && size <= mostPromoted {
					s.Resize(0, o.Disk) // else its bytes are in memory, and the file is of no matter
				}
				for range 3 {
					expect(t, one(t, s, testKey(1)).Forms[0], bodyOf(1, size))
				}
				path := files(t, o)[0]
				later := time.Now().Add(time.Hour)
				if err := os.Chtimes(path, later, later); err != nil {
					t.Fatal(err)
				}
				expect(t, one(t, s, testKey(1)).Forms[0], bodyOf(1, size))
				if err := os.Chtimes(path, later, later); err != nil { // and as it was but for the inode's time
					t.Fatal(err)
				}
				expect(t, one(t, s, testKey(1)).Forms[0], bodyOf(1, size))
				object := one(t, s, testKey(1))
				time.Sleep(20 * time.Millisecond) // longer than a kernel's clock for files stands still
				overwrite(t, path, int64(headSize+size/2), "altered")
				if err := os.Chtimes(path, later, later); err != nil { // an attacker, or a tool that keeps times
					t.Fatal(err)
				}
				if _, err := read(object.Forms[0].Body); err == nil {
					t.Error("it was opened")
				}
				none(t, s, testKey(1))
				if stats := s.Stats(); stats.Corrupt != 1 || len(files(t, o)) != 0 {
					t.Errorf("%+v, %d files", stats, len(files(t, o)))
				}
			})
		}
	}
}

// TestStamp holds that what this process changes of a file itself does not have it
// read again, and that a start has it read once.
func TestStamp(t *testing.T) {
	o := TiersOptions{Memory: 8 << 20, Disk: 64 << 20, Dir: t.TempDir()}
	s := open(t, o)
	known := func() (now, of uint32) {
		t.Helper()
		info, err := os.Stat(files(t, o)[0])
		if err != nil {
			t.Fatal(err)
		}
		sh := s.index.shard(testKey(1))
		sh.mu.Lock()
		defer sh.mu.Unlock()
		return stampOf(info), sh.at(sh.first[testKey(1).head()]).stamp
	}
	same := func(what string) {
		t.Helper()
		if now, of := known(); now != of {
			t.Errorf("%s: it looks like %x, and is known as %x", what, now, of)
		}
	}
	keep(t, s, metaOf(1, "a"), bodyOf(1, mostPromoted+1000))
	same("kept")
	s.Renew(one(t, s, testKey(1)), metaOf(1, "a"))
	same("renewed")
	s.Purge(Match{URL: metaOf(1, "a").URL}, true)
	same("purged softly")
	s = reopen(t, s, o)
	object := one(t, s, testKey(1))
	if _, of := known(); of != 0 {
		t.Errorf("after a start it is known as %x", of)
	}
	expect(t, object.Forms[0], bodyOf(1, mostPromoted+1000))
	same("read")
}

// TestEarlierVersion shows that what an earlier version left is removed, once no process
// has it any more, and never read.
func TestEarlierVersion(t *testing.T) {
	o := TiersOptions{Disk: 64 << 20, Dir: t.TempDir()}
	earlier := o.Dir + "/v1"
	if err := errors.Join(os.MkdirAll(earlier+"/3f8", 0o700), os.WriteFile(earlier+"/3f8/a", []byte(magic), 0o600), os.Mkdir(earlier+"/index", 0o700)); err != nil {
		t.Fatal(err)
	}
	lock, err := lockFile(earlier + "/lock")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		s, err := OpenTiers(o)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		synctest.Wait()
		if _, err := os.Stat(earlier + "/3f8/a"); err != nil {
			t.Error("another has it:", err)
		}
		lock.Close()
		time.Sleep(spareEvery)
		synctest.Wait()
		if _, err := os.Stat(earlier); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("it is there yet: %v", err)
		}
	})
}

// TestOvertaken shows that where an earlier version had its folder in between, nothing is
// found of before, as what was purged meanwhile would be.
func TestOvertaken(t *testing.T) {
	o := TiersOptions{Memory: 8 << 20, Disk: 64 << 20, Dir: t.TempDir()}
	s := open(t, o)
	keep(t, s, metaOf(1, "a"), bodyOf(1, 100))
	state, later := o.Dir+"/v1/state", time.Now().Add(time.Second)
	if err := errors.Join(s.Close(), os.Mkdir(o.Dir+"/v1", 0o700), os.WriteFile(state, nil, 0o600), os.Chtimes(state, later, later)); err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	s.awaitRecovery()
	if n := s.Stats().Objects; n != 0 || len(files(t, o)) != 0 {
		t.Errorf("%d objects, %q", n, files(t, o))
	}
	keep(t, s, metaOf(2, "a"), bodyOf(2, 100))
	for _, err := os.Stat(o.Dir + "/v1"); err == nil; _, err = os.Stat(o.Dir + "/v1") {
		time.Sleep(time.Millisecond)
	}
	s = reopen(t, s, o)
	if n := s.Stats().Objects; n != 1 {
		t.Errorf("of what was kept since %d are found", n)
	}
}

// TestForeign puts other things into the folder: nothing of it is read or removed.
func TestForeign(t *testing.T) {
	o := TiersOptions{Disk: 64 << 20, Dir: t.TempDir()}
	s := open(t, o)
	keep(t, s, metaOf(1, "a"), bodyOf(1, 100))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	folder := filepath.Dir(files(t, o)[0])
	name := strings.Repeat("0", nameLength)
	foreign := []string{
		o.Dir + "/README", o.Dir + "/v2/notes", folder + "/README", folder + "/" + name, folder + "/" + name[1:] + "1",
		o.Dir + "/v0/000/" + name[1:] + "1", o.Dir + "/v2/index/README", o.Dir + "/v2/000/" + name[1:] + "1",
	}
	for _, path := range foreign {
		os.MkdirAll(filepath.Dir(path), 0o700)
		if err := os.WriteFile(path, []byte(magic+"\x07 something else"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s = open(t, o)
	s.awaitRecovery()
	expect(t, one(t, s, testKey(1)).Forms[0], bodyOf(1, 100))
	if stats := s.Stats(); stats.Objects != 1 || stats.Corrupt != 0 {
		t.Errorf("%+v", stats)
	}
	none(t, s, Key{})
	for _, path := range foreign {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

// TestLocked opens one folder twice.
func TestLocked(t *testing.T) {
	o := TiersOptions{Disk: 64 << 20, Dir: t.TempDir()}
	s := open(t, o)
	if _, err := OpenTiers(o); err == nil || !strings.Contains(err.Error(), "another process has the folder") || !strings.Contains(err.Error(), o.Dir) {
		t.Errorf("opened twice: %v", err)
	}
	s = reopen(t, s, o)
	keep(t, s, metaOf(1, "a"), nil)
	if _, err := OpenTiers(TiersOptions{Disk: 1}); err == nil {
		t.Error("opened without a folder")
	}
}

// TestDiskLimit writes much more than there is room for.
func TestDiskLimit(t *testing.T) {
	const limit = 16 << 20
	o := TiersOptions{Memory: 1 << 20, Disk: limit, Dir: t.TempDir()}
	s := open(t, o)
	for i := range 1200 {
		size := i * 7919 % 40_000
		if i%100 == 0 {
			size = 2_000_000
		}
		object := s.Keep(metaOf(i, "a"), write(t, s, -1, bodyOf(i, size), 20_000))
		if object == nil {
			t.Fatalf("object %d not kept: %+v", i, s.Stats())
		}
		one(t, s, testKey(0))
		if i%50 == 0 {
			if used := usedBytes(t, o.Dir); used > limit {
				t.Fatalf("%d bytes after %d", used, i)
			}
			if stats := s.Stats(); stats.DiskBytes > limit || stats.MemoryBytes > 1<<20 {
				t.Fatalf("%+v", stats)
			}
		}
	}
	if stats := s.Stats(); stats.DiskEvictions == 0 || stats.DiskBytes < limit/2 {
		t.Errorf("%+v", stats)
	}
	expect(t, one(t, s, testKey(0)).Forms[0], bodyOf(0, 2_000_000)) // asked for all the time
	if d, err := s.Begin(limit); err == nil {
		d.Discard()
		t.Error("a body as large as the disk was begun")
	}
	d, err := s.Begin(-1)
	if err != nil {
		t.Fatal(err)
	}
	for b := make([]byte, 1<<20); err == nil; {
		_, err = d.Write(b)
	}
	if s.Keep(metaOf(1, "a"), d) != nil {
		t.Error("kept what had no room")
	}
	if used := usedBytes(t, o.Dir); used > limit {
		t.Errorf("%d bytes", used)
	}
	s.Resize(1<<20, 0)
	for len(files(t, o)) > 0 { // the evictor is at it
		s.disk.nudge()
	}
	s.Resize(1<<20, limit)
	for !s.disk.usable() {
		s.disk.nudge()
	}
	keep(t, s, metaOf(1, "a"), bodyOf(1, 2_000_000))
}

// TestMemoryLimit keeps the bound, drafts included, and says when there is no room.
func TestMemoryLimit(t *testing.T) {
	const limit = 8 << 20
	s := open(t, TiersOptions{Memory: limit})
	var drafts []Draft
	for i := range 2000 {
		size := i * 7919 % 40_000
		keep(t, s, metaOf(i, "a"), bodyOf(i, size))
		if stats := s.Stats(); stats.MemoryBytes > limit {
			t.Fatalf("%+v", stats)
		}
	}
	if stats := s.Stats(); stats.MemoryBytes < limit*3/4 || stats.MemoryEvictions == 0 || stats.Objects != stats.MemoryObjects {
		t.Errorf("%+v", stats)
	}
	var err error
	for err == nil {
		d, _ := s.Begin(-1)
		_, err = d.Write(make([]byte, 100_000))
		drafts = append(drafts, d)
		if stats := s.Stats(); stats.MemoryBytes > limit || stats.DraftBytes > limit/draftShare {
			t.Fatalf("%+v", stats)
		}
	}
	if len(drafts) < 10 {
		t.Errorf("no room after %d drafts: %v", len(drafts), err)
	}
	last := drafts[len(drafts)-1]
	if s.Keep(metaOf(1, "a"), last) != nil {
		t.Error("kept what had no room")
	}
	for _, d := range drafts {
		d.Discard()
	}
	if stats := s.Stats(); stats.DraftBytes != 0 {
		t.Errorf("%+v", stats)
	}
	s.Resize(limit/8, 0)
	if stats := s.Stats(); stats.MemoryBytes > limit/8 || stats.MemoryBytes == 0 {
		t.Errorf("%+v", stats)
	}
	if _, err := s.Begin(limit); err == nil {
		t.Error("a body as large as memory was begun")
	}
}

// TestPromotion asks for small objects on disk until they are in memory.
func TestPromotion(t *testing.T) {
	o := TiersOptions{Memory: 8 << 20, Disk: 64 << 20, Dir: t.TempDir()}
	s := open(t, o)
	keep(t, s, metaOf(1, "a"), bodyOf(1, 10_000))
	keep(t, s, metaOf(2, "a"), bodyOf(2, 1_000_000))
	s = reopen(t, s, o)
	tiers := func() (tiers []string) {
		s.List(Match{}, func(l Listed) bool { tiers = append(tiers, l.Tier); return true })
		slices.Sort(tiers)
		return tiers
	}
	if got := tiers(); !slices.Equal(got, []string{"disk", "disk"}) {
		t.Errorf("after the start: %v", got)
	}
	for range 5 {
		expect(t, one(t, s, testKey(1)).Forms[0], bodyOf(1, 10_000))
		object := one(t, s, testKey(2))
		expect(t, object.Forms[0], bodyOf(2, 1_000_000))
		r, err := object.Forms[0].Body.Open()
		if err != nil {
			t.Fatal(err)
		}
		f, offset, size := r.(interface {
			File() (*os.File, int64, int64)
		}).File()
		b := make([]byte, 100)
		if _, err := f.ReadAt(b, offset+size-100); err != nil || string(b) != string(bodyOf(2, 1_000_000)[size-100:]) {
			t.Errorf("the file has other bytes: %v", err)
		}
		r.Close()
	}
	if got := tiers(); !slices.Equal(got, []string{"disk", "memory+disk"}) {
		t.Errorf("when asked for: %v", got)
	}
}

// TestTimes keeps what clocks that jump make of times.
func TestTimes(t *testing.T) {
	o := TiersOptions{Disk: 64 << 20, Dir: t.TempDir()}
	s := open(t, o)
	times := []time.Time{{}, time.Unix(0, 0), time.Unix(-1, 5), time.Unix(1<<40, 999_999_999), time.Date(1, 1, 1, 0, 0, 0, 1, time.UTC), time.Now()}
	for i, at := range times {
		meta := metaOf(i, "a")
		meta.Requested, meta.Received, meta.Until = at, at, at
		keep(t, s, meta, nil)
	}
	s = reopen(t, s, o)
	for i, at := range times {
		if meta := one(t, s, testKey(i)).Meta; !meta.Until.Equal(at) || !meta.Received.Equal(at) || meta.Until.IsZero() != at.IsZero() {
			t.Errorf("%v became %v", at, meta.Until)
		}
	}
}

// TestForgetBeforeTheFolder shows that what is forgotten while another process has the
// folder is not found when that is let go.
func TestForgetBeforeTheFolder(t *testing.T) {
	o := TiersOptions{Memory: 8 << 20, Disk: 64 << 20, Dir: t.TempDir(), Handover: true}
	s := open(t, o)
	keep(t, s, metaOf(1, "a"), bodyOf(1, 100))
	keep(t, s, metaOf(2, "a"), bodyOf(2, 100))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	lock, err := lockFile(s.disk.lockPath())
	if err != nil {
		t.Fatal(err)
	}
	s = open(t, o)
	s.Forget(testKey(1).head())
	lock.Close()
	if err := s.tryAgain(); err != nil && !s.disk.well.Load() { // else tend was quicker
		t.Fatal(err)
	}
	s.awaitRecovery()
	none(t, s, testKey(1))
	one(t, s, testKey(2))
}
