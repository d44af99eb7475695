package rewrite

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// TestSearchFindsAll: every literal is found at every place, however many there
// are and whatever their lengths, and its end is among those that endsAt gives.
func TestSearchFindsAll(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	label := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = "abcdefghijklmnopqrstuvwxyz0123456789-"[random.IntN(37)]
		}
		return string(b)
	}
	for _, many := range []int{1, 2, 5, 50, 3000} {
		for _, least := range []int{1, 2, 4, 9, 30} {
			var literals []string
			for range many {
				literals = append(literals, label(least+random.IntN(20)))
			}
			s := newSearch(literals)
			for _, literal := range s.literals[:min(200, len(s.literals))] {
				start := random.IntN(40)
				b := []byte(strings.Repeat("|", start) + strings.ToUpper(literal) + strings.Repeat("|", random.IntN(9)))
				end, found := start+len(literal), false
				for i := s.next(b, 0); i < len(b) && !found; i = s.next(b, i+s.stride) {
					found = end >= i && end-i < 32 && s.endsAt(b, i)&(1<<(end-i)) != 0
				}
				if !found {
					t.Fatalf("%d literals of %d bytes and more: %q is not found at %d", many, least, literal, start)
				}
			}
		}
	}
}

// TestSmallMaps: a process may have a map for each of ten thousand sites.
func TestSmallMaps(t *testing.T) {
	const many, most = 1000, 12 << 10
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	maps := make([]*Map, many)
	for i := range maps {
		pair := Pair{Base{Scheme: "https", Host: fmt.Sprintf("site-%d.example.cn", i)}, Base{Scheme: "https", Host: fmt.Sprintf("site-%d.example.com", i)}}
		var err error
		if maps[i], err = NewMap([]Pair{pair}); err != nil {
			t.Fatal(err)
		}
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	if each := (after.HeapAlloc - before.HeapAlloc) / many; each > most {
		t.Errorf("a map of one pair has %d bytes, more than %d", each, most)
	} else {
		t.Logf("a map of one pair has %d bytes", each)
	}
	if slices.Contains(maps, nil) {
		t.Error("a map is missing")
	}
}
