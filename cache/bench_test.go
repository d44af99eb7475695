package cache

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
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

// BenchmarkIndex says how many bytes of the heap an object has in the index: on disk
// with the form that came alone, and with two more; as the journal and the heads tell
// of them after a start; and in memory, which is of its bytes, less the body and what
// is known of the answer (Meta).
func BenchmarkIndex(b *testing.B) {
	n := benchObjects()
	// perObject is how much more of the heap is in use after make.
	perObject := func(b *testing.B, make func() any) float64 {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.GC() // what has a finalizer
		runtime.ReadMemStats(&before)
		made := make()
		runtime.GC()
		runtime.GC()
		runtime.ReadMemStats(&after)
		runtime.KeepAlive(made)
		return (float64(after.HeapAlloc) - float64(before.HeapAlloc)) / float64(n)
	}
	more := []string{"gzip", "zstd"} // it came in br
	for _, forms := range [][]string{nil, more} {
		b.Run(fmt.Sprintf("disk/%d", 1+len(forms)), func(b *testing.B) {
			for b.Loop() {
				b.ReportMetric(perObject(b, func() any {
					x := newIndex()
					for i := range n {
						meta := benchMeta(i)
						e := x.entry(meta.Key, uint64(i+1), briefOf(meta))
						e.pages = 2
						for number, coding := range forms {
							kind, _ := extraCoding(coding)
							e.add(extra{coding: kind, size: 1000, number: uint8(number + 1)})
						}
						x.shard(meta.Key).insert(e)
					}
					return x
				}), "bytes/object")
			}
		})
	}
	body := make([]byte, 1<<10) // a size that the heap has
	fill := func(b *testing.B, s *Tiers, forms []string) {
		for i := range n {
			benchKeep(b, s, i, len(body), body)
			for _, coding := range forms {
				d, err := s.Begin(int64(len(body)))
				if err != nil {
					b.Fatal(err)
				}
				_, _ = d.Write(body)
				s.Form(s.Find(benchKey(i))[0], coding, d)
			}
		}
	}
	for _, forms := range [][]string{nil, more} {
		b.Run(fmt.Sprintf("found/%d", 1+len(forms)), func(b *testing.B) {
			o := TiersOptions{Memory: 1 << 20, Disk: 1 << 40, Dir: b.TempDir()}
			s, err := OpenTiers(o)
			if err != nil {
				b.Fatal(err)
			}
			fill(b, s, forms)
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
			for _, from := range []string{"journal", "heads"} {
				b.Run(from, func(b *testing.B) {
					for b.Loop() {
						var s *Tiers
						empty := perObject(b, func() any { return open(b, TiersOptions{Memory: 1 << 20}) })
						if from == "heads" {
							remove(b, o.Dir+"/v2/index")
						}
						b.ReportMetric(perObject(b, func() any {
							if s, err = OpenTiers(o); err != nil {
								b.Fatal(err)
							}
							s.awaitRecovery()
							return s
						})-empty, "bytes/object")
						if stats := s.Stats(); stats.DiskObjects != int64(n) {
							b.Errorf("%+v", stats)
						}
						if err := s.Close(); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
		b.Run(fmt.Sprintf("memory/%d", 1+len(forms)), func(b *testing.B) {
			for b.Loop() {
				var s *Tiers
				empty := perObject(b, func() any { return open(b, TiersOptions{Memory: 1 << 30}) })
				all := perObject(b, func() any {
					s = open(b, TiersOptions{Memory: 1 << 30})
					fill(b, s, forms)
					return s
				})
				metas := perObject(b, func() any {
					all := make([]*Meta, n)
					for i := range all {
						all[i] = benchMeta(i)
					}
					return all
				})
				stats := s.Stats()
				if stats.Objects != int64(n) {
					b.Fatalf("%+v", stats)
				}
				bodies := float64((1 + len(forms)) * len(body))
				b.ReportMetric(all-empty-bodies-metas, "bytes/object")
				b.ReportMetric(metas, "of-meta")
				b.ReportMetric(all-empty-bodies, "without-bodies")
				b.ReportMetric(float64(stats.MemoryBytes)/float64(n)-bodies, "counted")
			}
		})
	}
}

// BenchmarkRecover starts with many objects on disk: with the journal and without it,
// each with what it is read from dropped from the kernel's memory (as root) too, and
// with visitors meanwhile.
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
	// serving, if true, has something asked for a thousand times a second meanwhile.
	run := func(b *testing.B, serving bool, before func()) {
		for b.Loop() {
			b.StopTimer()
			before()
			b.StartTimer()
			s, err := OpenTiers(o)
			if err != nil {
				b.Fatal(err)
			}
			if serving {
				serveMeanwhile(b, s, n)
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
	lose := func() { remove(b, o.Dir+"/v2/index") }
	b.Run("journal", func(b *testing.B) { run(b, false, func() {}) })
	b.Run("journal-cold", func(b *testing.B) { run(b, false, func() { dropCaches(b) }) })
	b.Run("journal-cold-serving", func(b *testing.B) { run(b, true, func() { dropCaches(b) }) })
	b.Run("heads-cold", func(b *testing.B) { run(b, false, func() { lose(); dropCaches(b) }) })
	b.Run("heads", func(b *testing.B) { run(b, false, lose) })
	b.Run("heads-cold-serving", func(b *testing.B) { run(b, true, func() { lose(); dropCaches(b) }) })
}

// serveMeanwhile asks for objects until a store has found all of its own, and reports
// how long each took. One that is slow holds up none behind it.
func serveMeanwhile(b *testing.B, s *Tiers, n int) {
	var took []time.Duration
	var mu sync.Mutex // guards took
	var asking sync.WaitGroup
	every := time.NewTicker(time.Millisecond)
	defer every.Stop()
	x := rand.New(rand.NewPCG(1, 2))
	for over := s.scan.Load().over; ; {
		select {
		case <-every.C:
		case <-over:
			asking.Wait()
			slices.Sort(took)
			if len(took) > 0 {
				b.ReportMetric(float64(len(took)), "answers")
				b.ReportMetric(float64(took[len(took)/2].Microseconds()), "median-µs")
				b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "99%-µs")
				b.ReportMetric(float64(took[len(took)-1].Microseconds()), "longest-µs")
			}
			return
		}
		key := benchKey(x.IntN(n))
		asking.Go(func() {
			begun := time.Now()
			found := s.Find(key)
			if len(found) != 1 {
				b.Errorf("found %d", len(found))
				return
			}
			if body, err := read(found[0].Forms[0].Body); err != nil || len(body) != 1000 {
				b.Errorf("read %d, %v", len(body), err)
			}
			mu.Lock()
			defer mu.Unlock()
			took = append(took, time.Since(begun))
		})
	}
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
