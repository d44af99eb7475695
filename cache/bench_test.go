package cache

import (
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"testing"
)

// The benchmarks of the store. OBJECTS says how many objects BenchmarkIndex and
// BenchmarkRecover have; a million are 8 GB of files and some minutes.

func benchObjects() int {
	if n, err := strconv.Atoi(os.Getenv("OBJECTS")); err == nil {
		return n
	}
	return 20_000
}

// benchKey is quick, and spread as a hash is.
func benchKey(n int) (key Key) {
	x := uint64(n+1) * 0x9e3779b97f4a7c15
	x ^= x >> 29
	x *= 0xbf58476d1ce4e5b9
	binary.BigEndian.PutUint64(key[:], x)
	binary.BigEndian.PutUint64(key[8:], x*0x94d049bb133111eb)
	return key
}

// benchMeta has a URL of 77 bytes, three tags, and ten fields.
func benchMeta(n int) *Meta {
	meta := metaOf(n, "")
	meta.Key = benchKey(n)
	meta.URL = fmt.Sprintf("https://www.example.cn/static/assets/images/products/2026/11/photo-%07d.jpeg", n)
	meta.Tags = []string{"images", "products", fmt.Sprintf("product-%d", n)}
	for i := range 7 {
		meta.Header[fmt.Sprintf("X-Field-%d", i)] = []string{"some value of a usual length"}
	}
	return meta
}

func benchKeep(b *testing.B, s Store, n, size int, body []byte) {
	d, err := s.Begin(int64(size))
	if err != nil {
		b.Fatal(err)
	}
	d.Write(body[:size])
	if s.Keep(benchMeta(n), d) == nil {
		b.Fatal("not kept")
	}
}

func BenchmarkFind(b *testing.B) {
	body := make([]byte, 1<<20)
	dir := b.TempDir()
	memory := open(b, TiersOptions{Memory: 256 << 20})
	disk := open(b, TiersOptions{Memory: 0, Disk: 1 << 30, Dir: dir})
	for i := range 1000 {
		benchKeep(b, memory, i, 1000, body)
		benchKeep(b, disk, i, 40_000, body)
	}
	b.Run("missing", func(b *testing.B) {
		for i := 0; b.Loop(); i++ {
			if memory.Find(benchKey(1_000_000+i)) != nil {
				b.Fatal("found")
			}
		}
	})
	b.Run("memory", func(b *testing.B) { benchHit(b, memory) })
	b.Run("disk", func(b *testing.B) { benchHit(b, disk) })
	b.Run("memory-parallel", func(b *testing.B) {
		b.RunParallel(func(pb *testing.PB) {
			for i := 0; pb.Next(); i++ {
				r, err := memory.Find(benchKey(i % 1000))[0].Forms[0].Body.Open()
				if err != nil {
					b.Fatal(err)
				}
				r.Close()
			}
		})
	})
}

// benchHit finds and opens an object, and reads its first bytes.
func benchHit(b *testing.B, s Store) {
	b.ReportAllocs()
	first := make([]byte, 100)
	for i := 0; b.Loop(); i++ {
		r, err := s.Find(benchKey(i % 1000))[0].Forms[0].Body.Open()
		if err != nil {
			b.Fatal(err)
		}
		if _, err := r.ReadAt(first, 0); err != nil && err != io.EOF {
			b.Fatal(err)
		}
		r.Close()
	}
}

func BenchmarkKeep(b *testing.B) {
	body := make([]byte, 1<<20)
	for _, size := range []int{1000, 40_000, 1 << 20} {
		b.Run(fmt.Sprintf("memory/%d", size), func(b *testing.B) {
			s := open(b, TiersOptions{Memory: 256 << 20})
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				benchKeep(b, s, i%10_000, size, body)
			}
		})
		b.Run(fmt.Sprintf("disk/%d", size), func(b *testing.B) {
			s := open(b, TiersOptions{Memory: 256 << 20, Disk: 4 << 30, Dir: b.TempDir()})
			b.SetBytes(int64(size))
			for i := 0; b.Loop(); i++ {
				benchKeep(b, s, i%10_000, size, body)
			}
		})
	}
}

// BenchmarkIndex says how many bytes of the heap an object on disk has in the
// index.
func BenchmarkIndex(b *testing.B) {
	n := benchObjects()
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		x := newIndex()
		for i := range n {
			meta := benchMeta(i)
			e := x.entry(meta.Key, uint64(i+1), briefOf(meta))
			e.pages = 2
			x.shard(meta.Key).insert(e)
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/float64(n), "bytes/object")
		runtime.KeepAlive(x)
	}
}

// BenchmarkRecover starts with many objects on disk: with the journal, with what
// it is read from dropped from the kernel's memory (as root), and without it.
func BenchmarkRecover(b *testing.B) {
	o := TiersOptions{Memory: 64 << 20, Disk: 1 << 40, Dir: b.TempDir()}
	n := benchObjects()
	s, err := OpenTiers(o)
	if err != nil {
		b.Fatal(err)
	}
	body := make([]byte, 1000)
	for i := range n {
		benchKeep(b, s, i, len(body), body)
	}
	if err := s.Close(); err != nil {
		b.Fatal(err)
	}
	run := func(b *testing.B, before func()) {
		for b.Loop() {
			b.StopTimer()
			before()
			b.StartTimer()
			s, err := OpenTiers(o)
			if err != nil {
				b.Fatal(err)
			}
			<-s.scan.Load().over
			b.StopTimer()
			if stats := s.Stats(); stats.DiskObjects != int64(n) {
				b.Fatalf("%+v", stats)
			}
			b.ReportMetric(float64(s.scan.Load().heads.Load()), "heads")
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			b.StartTimer()
		}
	}
	b.Run("journal", func(b *testing.B) { run(b, func() {}) })
	b.Run("journal-cold", func(b *testing.B) { run(b, func() { dropCaches(b) }) })
	b.Run("heads", func(b *testing.B) { run(b, func() { remove(b, o.Dir+"/v1/index") }) })
}

// dropCaches has the kernel forget what it read.
func dropCaches(b *testing.B) {
	f, err := os.OpenFile("/proc/sys/vm/drop_caches", os.O_WRONLY, 0)
	if err != nil {
		b.Skip("needs root on Linux: ", err)
	}
	defer f.Close()
	if _, err := f.WriteString("3"); err != nil {
		b.Skip("needs root on Linux: ", err)
	}
}
