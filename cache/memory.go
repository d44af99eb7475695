package cache

import (
	"sync"
	"sync/atomic"
)

// memory shares the bytes of the memory tier among drafts and objects. It knows
// what an object weighs and when it was asked for, not where it is: its caller
// lets go of what it names.
//
//  1. reserve makes room for a draft, add for an object, as more of it comes into
//     memory,
//  2. what is new stands in the window, a queue of a tenth of the bytes,
//  3. what falls out of the window goes on probation, if there is room or it wins:
//     if it was asked for more often of late than those on probation that would
//     have to leave for it ("TinyLFU"; for objects of many sizes: Einziger, Eytan,
//     Friedman, Manes 2021, "aggregated victims"),
//  4. what was asked for on probation is settled: it leaves only for probation,
//     when more than four fifths of the rest is settled.
//
// Each queue gives what was asked for while it waited another turn, so that a hit
// moves nothing and takes no lock.
//
// The bytes in use are never more than the limit.
type memory struct {
	sketch atomic.Pointer[sketch]

	mu        sync.Mutex // guards the rest, and the items
	limit     int64
	used      int64 // by objects and drafts
	drafts    int64
	window    queue
	probation queue
	settled   queue
	items     int
	evicts    uint64
}

const (
	// windowShare is the window's part of the bytes; docs/adr/0010 says what was
	// tried. settledShare is how much of them can be settled, in hundredths.
	windowShare  = 10
	settledShare = 72
	// draftShare is the part of the bytes that drafts can have.
	draftShare = 4
	// meanWeight is what an object is taken to weigh, for the size of the sketch.
	meanWeight = 4 << 10
)

// item is an object, for memory.
type item struct {
	touched atomic.Bool // asked for since it was looked at last

	live       *live
	hash       uint64
	weight     int64
	queue      *queue // nil is none
	gone       bool   // removed: never to be added
	prev, next *item
}

// touch says that the item was asked for.
func (i *item) touch() {
	if !i.touched.Load() {
		i.touched.Store(true)
	}
}

func newMemory(limit int64) *memory {
	m := &memory{limit: limit}
	for _, q := range []*queue{&m.window, &m.probation, &m.settled} {
		q.init()
	}
	m.window.again, m.probation.again, m.settled.again = &m.window, &m.settled, &m.settled
	m.sketch.Store(newSketch(limit / meanWeight))
	return m
}

// setLimit changes the bytes there are.
func (m *memory) setLimit(limit int64) (out []*item) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if limit != m.limit {
		m.limit = limit
		m.sketch.Store(newSketch(limit / meanWeight))
	}
	return m.shrink(nil)
}

// note counts a request for a key.
func (m *memory) note(key Key) { m.sketch.Load().note(hashOf(key)) }

// asked is how often a key was asked for of late.
func (m *memory) asked(key Key) int { return m.sketch.Load().estimate(hashOf(key)) }

// largest is what one thing can weigh at most.
func (m *memory) largest() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.limit / (2 * draftShare)
}

// reserve takes n bytes for a draft, if there are.
func (m *memory) reserve(n int64) (out []*item, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.drafts+n > m.limit/draftShare {
		return nil, false
	}
	m.drafts += n
	m.used += n
	return m.shrink(nil), true
}

// release gives them back.
func (m *memory) release(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drafts -= n
	m.used -= n
}

// add puts an item in, or changes its weight if it is in; reserved of its bytes
// were a draft's until now. Of what comes out the item itself may be one.
func (m *memory) add(it *item, weight, reserved int64) (out []*item) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drafts -= reserved
	m.used -= reserved
	if it.gone {
		return nil
	}
	if it.queue == nil {
		m.window.push(it)
		m.items++
	}
	m.used += weight - it.weight
	it.queue.bytes += weight - it.weight
	it.weight = weight
	return m.shrink(nil)
}

// remove takes an item out for good.
func (m *memory) remove(it *item) {
	m.mu.Lock()
	defer m.mu.Unlock()
	it.gone = true
	if it.queue != nil {
		m.used -= it.weight
		it.queue.pull(it)
		it.weight = 0
		m.items--
	}
}

// shrink evicts until the limit holds.
func (m *memory) shrink(out []*item) []*item {
	for m.window.bytes > m.limit/windowShare {
		candidate := m.window.oldest()
		if m.used > m.limit && !m.wins(candidate) {
			out = m.evict(candidate, out)
			continue
		}
		m.window.pull(candidate)
		for m.used > m.limit {
			victim := m.victim()
			if victim == nil {
				break
			}
			out = m.evict(victim, out)
		}
		m.probation.push(candidate)
	}
	for m.used > m.limit {
		victim := m.victim()
		if victim == nil {
			victim = m.window.oldest()
		}
		if victim == nil {
			break // drafts alone: their own limit went down
		}
		out = m.evict(victim, out)
	}
	return out
}

// victim is who leaves next, besides the window; nil if there is none.
func (m *memory) victim() *item {
	victim := m.probation.oldest()
	for m.settled.bytes > m.limit*settledShare/100 || victim == nil && m.settled.bytes > 0 {
		back := m.settled.oldest()
		m.settled.pull(back)
		m.probation.push(back)
		if victim == nil {
			victim = back
		}
	}
	return victim
}

// wins reports whether the candidate was asked for more often than those who would
// have to leave for it.
func (m *memory) wins(candidate *item) bool {
	sketch := m.sketch.Load()
	left, need := sketch.estimate(candidate.hash), m.used-m.limit
	for victim := m.victim(); victim != nil && need > 0; victim = m.probation.prev(victim) {
		left -= sketch.estimate(victim.hash)
		need -= victim.weight
		if left <= 0 {
			return false
		}
	}
	return need <= 0 || candidate.weight >= need
}

func (m *memory) evict(victim *item, out []*item) []*item {
	m.used -= victim.weight
	victim.queue.pull(victim)
	victim.weight, victim.gone = 0, true
	m.evicts++
	m.items--
	return append(out, victim)
}

// queue is a ring of items, the newest first.
type queue struct {
	root  item
	bytes int64
	again *queue // where what was asked for goes
}

func (q *queue) init() { q.root.prev, q.root.next = &q.root, &q.root }

func (q *queue) push(it *item) {
	it.queue = q
	it.prev, it.next = &q.root, q.root.next
	it.prev.next, it.next.prev = it, it
	q.bytes += it.weight
}

func (q *queue) pull(it *item) {
	it.prev.next, it.next.prev = it.next, it.prev
	it.prev, it.next, it.queue = nil, nil, nil
	q.bytes -= it.weight
}

// oldest is the last item that wasn't asked for since it was looked at; nil if
// there is none.
func (q *queue) oldest() *item {
	for it := q.root.prev; it != &q.root; it = q.root.prev {
		if !it.touched.Swap(false) {
			return it
		}
		q.pull(it)
		q.again.push(it)
	}
	return nil
}

// prev is the one that came after it; nil if it is the newest.
func (q *queue) prev(it *item) *item {
	if it.prev == &q.root {
		return nil
	}
	return it.prev
}
