package cache

import (
	"math/rand/v2"
	"testing"
)

// weighed is memory with items by number, as its caller has them.
type weighed struct {
	*memory
	items map[int]*item
}

func newWeighed(limit int64) *weighed {
	return &weighed{memory: newMemory(limit), items: map[int]*item{}}
}

// ask asks for an item, and adds it where it's missing; false then.
func (w *weighed) ask(t *testing.T, n int, weight int64) bool {
	w.note(benchKey(n))
	if it := w.items[n]; it != nil {
		it.touch()
		return true
	}
	it := &item{hash: hashOf(benchKey(n)), live: &live{id: uint64(n)}}
	w.items[n] = it
	w.lose(w.add(it, weight, 0))
	w.check(t)
	return false
}

func (w *weighed) lose(out []*item) {
	for _, it := range out {
		delete(w.items, int(it.live.id))
	}
}

// check adds up what is there.
func (w *weighed) check(t *testing.T) {
	t.Helper()
	total, n := w.drafts, 0
	for _, it := range w.items {
		total, n = total+it.weight, n+1
	}
	if total != w.used || w.used > w.limit || n != w.memory.items || w.window.bytes+w.probation.bytes+w.settled.bytes+w.drafts != w.used {
		t.Fatalf("%d items of %d bytes; counted %d of %d, the limit is %d", n, total, w.memory.items, w.used, w.limit)
	}
}

// TestMemoryRandom adds, reweighs, reserves, resizes and removes at random: the
// bound holds, and the sums are right.
func TestMemoryRandom(t *testing.T) {
	w := newWeighed(100_000)
	x := rand.New(rand.NewPCG(1, 2))
	reserved := int64(0)
	for range 20_000 {
		n := x.IntN(300)
		switch op := x.IntN(20); {
		case op < 14:
			w.ask(t, n, x.Int64N(3000)+1)
		case op < 15 && w.items[n] != nil:
			w.lose(w.add(w.items[n], x.Int64N(9000)+1, 0))
		case op < 16 && w.items[n] != nil:
			w.remove(w.items[n])
			delete(w.items, n)
		case op < 17:
			if out, ok := w.reserve(1000); ok {
				reserved += 1000
				w.lose(out)
			}
		case op < 19:
			if reserved > 0 {
				w.release(1000)
				reserved -= 1000
			}
		default:
			w.lose(w.setLimit(max(4*reserved, x.Int64N(100_000))))
		}
		w.check(t)
	}
	w.release(reserved)
	w.lose(w.setLimit(0))
	if len(w.items) > 0 || w.used != 0 {
		t.Errorf("%d items, %d bytes in no memory", len(w.items), w.used)
	}
}

// TestMemoryScan asks for a few objects often, and for many others once: the few
// stay.
func TestMemoryScan(t *testing.T) {
	w := newWeighed(1_000_000)
	for round := range 200 {
		for n := range 50 {
			if !w.ask(t, n, 10_000) && round > 20 {
				t.Fatalf("round %d: %d was evicted", round, n)
			}
		}
		for n := range 100 {
			w.ask(t, 1000+100*round+n, 10_000)
		}
	}
}

// TestSketch estimates what is asked for often as more than what isn't.
func TestSketch(t *testing.T) {
	s := newSketch(10_000)
	for round := range 10 {
		for n := range 1000 {
			if n < 100 || round == 0 {
				s.note(hashOf(benchKey(n)))
			}
		}
	}
	often, once := 0, 0
	for n := range 1000 {
		if n < 100 {
			often += s.estimate(hashOf(benchKey(n)))
		} else {
			once += s.estimate(hashOf(benchKey(n)))
		}
	}
	if often < 700 || once > 900*3/2 {
		t.Errorf("100 asked for ten times: %d; 900 asked for once: %d", often, once)
	}
}
