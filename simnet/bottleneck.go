package simnet

import "time"

// queueTime is how long a full queue takes to empty: about what a well-kept
// router holds.
const queueTime = 100 * time.Millisecond

// bottleneck is the narrowest place of one direction: it lets segments through
// one by one at its rate.
type bottleneck struct {
	rate    int64         // bytes a second, 0 = no limit
	depth   int           // bytes the queue holds
	queued  int           // bytes in the queue
	free    time.Duration // when all that is queued has left
	waiting []*flow       // for room, in turn
}

func newBottleneck(rate int64) *bottleneck {
	depth := int(rate * int64(queueTime) / int64(time.Second))
	return &bottleneck{rate: rate, depth: max(depth, initialWindow)}
}

// room tells whether f may send size bytes now, and puts it in the line of
// those waiting when not. Whoever waits goes before who comes.
func (b *bottleneck) room(f *flow, size int) bool {
	if b.rate == 0 || len(b.waiting) == 0 && b.fits(size) {
		return true
	}
	if !f.waiting {
		f.waiting = true
		b.waiting = append(b.waiting, f)
	}
	return false
}

func (b *bottleneck) fits(size int) bool { return b.queued == 0 || b.queued+size <= b.depth }

// pass queues size bytes at now and tells when the last of them has left.
func (b *bottleneck) pass(now time.Duration, size int) (left time.Duration) {
	if b.rate == 0 {
		return now
	}
	b.queued += size
	b.free = max(b.free, now) + time.Duration(float64(size)/float64(b.rate)*float64(time.Second))
	return b.free
}

// leave frees the room of a segment that has left, and lets those waiting send
// one segment each, in turn, while there is room.
func (b *bottleneck) leave(now time.Duration, size int) {
	if b.rate == 0 {
		return
	}
	b.queued -= size
	for len(b.waiting) > 0 && b.fits(segmentSize) {
		f := b.waiting[0]
		b.waiting = b.waiting[1:]
		f.waiting = false
		if f.sendOne(now) && f.sendable() {
			f.waiting = true
			b.waiting = append(b.waiting, f)
		}
	}
}
