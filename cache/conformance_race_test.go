package cache

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// The part of the conformance suite that does many things at once.

// storeMany does everything at once: what is found has the bytes that its Meta
// says.
func storeMany(t *testing.T, s Store) {
	const keys = 50
	make := func(n, v int) (*Meta, []byte) {
		size := v * 37 % 9000
		if v%50 == 0 {
			size = 300_000
		}
		meta := metaOf(n, fmt.Sprint(v%2))
		meta.Header.Set("V", fmt.Sprint(v))
		meta.Span.Of = int64(size)
		return meta, bodyOf(v, size)
	}
	check := func(object *Object) {
		var v int
		fmt.Sscan(object.Meta.Header.Get("V"), &v)
		for _, form := range object.Forms {
			got, err := read(form.Body)
			if err == nil && !bytes.Equal(got, bodyOf(v, int(object.Meta.Span.Of))) {
				t.Errorf("%s: other bytes", object.Meta.URL)
			}
		}
	}
	var all sync.WaitGroup
	for w := range 4 {
		all.Go(func() {
			x := rand.New(rand.NewPCG(uint64(w), 2))
			for range 400 {
				n := x.IntN(keys)
				found := s.Find(testKey(n))
				for _, object := range found {
					check(object)
				}
				switch op := x.IntN(20); {
				case len(found) == 0 || op < 4:
					meta, b := make(n, x.IntN(1000))
					if object := s.Keep(meta, write(t, s, int64(len(b)), b, 8000)); object != nil {
						check(object)
					}
				case op < 8:
					meta := *found[0].Meta
					meta.Until = meta.Until.Add(time.Minute)
					if object := s.Renew(found[0], &meta); object != nil {
						check(object)
					}
				case op < 10:
					var v int
					fmt.Sscan(found[0].Meta.Header.Get("V"), &v)
					b := bodyOf(v, int(found[0].Meta.Span.Of))
					s.Form(found[0], fmt.Sprint("c", x.IntN(3)), write(t, s, -1, b, 3000))
				case op < 11:
					s.Remove(found[0])
				case op < 12:
					s.Purge(Match{URL: found[0].Meta.URL}, x.IntN(2) == 0)
				case op < 13:
					s.List(Match{}, func(Listed) bool { return true })
				}
			}
		})
	}
	all.Wait()
}

// storePurgeRace purges while others keep and renew: what was there before a purge
// is never found as it was after it.
func storePurgeRace(t *testing.T, s Store) {
	var round atomic.Int64 // an object of an earlier one must not be seen
	var kept sync.Map
	stop := make(chan struct{})
	var others sync.WaitGroup
	for w := range 3 {
		others.Go(func() {
			x := rand.New(rand.NewPCG(uint64(w), 3))
			for {
				select {
				case <-stop:
					return
				default:
				}
				n, now := x.IntN(20), round.Load()
				if found := s.Find(testKey(n)); len(found) > 0 && x.IntN(3) > 0 {
					read(found[0].Forms[0].Body)
					s.Renew(found[0], found[0].Meta)
					continue
				}
				meta := metaOf(n, "a")
				meta.Note = fmt.Sprint(now)
				if object := s.Keep(meta, write(t, s, 10, bodyOf(n, 10), 10)); object != nil {
					kept.Store(object.Meta, true)
				}
			}
		})
	}
	for i := range 200 {
		round.Store(int64(i))
		before := map[*Meta]bool{}
		for n := range 20 {
			for _, object := range s.Find(testKey(n)) {
				before[object.Meta] = true
			}
		}
		s.Purge(Match{Host: "www.example.cn"}, i%2 == 0)
		for n := range 20 {
			for _, object := range s.Find(testKey(n)) {
				if before[object.Meta] {
					t.Error("found as it was")
				}
			}
		}
	}
	close(stop)
	others.Wait()
}
