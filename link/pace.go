package link

import "time"

// A long body must not fill the queue of the line: what comes behind it waits,
// and what overflows is paid for twice. BBR by itself keeps up to a round trip of
// it (Hock et al. 2017; measured at 50 Mbit/s and 200 ms with a queue as long as
// that: round trip 385 ms, 9 % sent again, and 30 KB beside it take 950 ms). So
// each end watches what it sends:
//
//  1. Write looks at the connection, once a round trip, while it is backlogged,
//  2. a round trip that is queueFrom longer than the least one is a queue: the
//     kernel is told to send slower than the line carries, by as much as empties
//     the queue in two round trips, and then nearly as fast as that,
//  3. after calmLooks without a queue it may do as it likes again: BBR then finds
//     out whether there is more,
//  4. a queue that does not get shorter is that of others, or the way is longer
//     than it was: the connection takes its share of it, for othersTime,
//  5. a line that loses packets when there is no queue is left to BBR for as
//     long: what is delivered says less there of what the line carries.
//
// Measured as above, when leastPace was an eighth of what it is: round trip
// 205 ms, nothing sent again but at the beginning, 30 KB in 300 ms, and 95 % of
// the rate. What it is worth today stands in docs/PERFORMANCE.md. A line that
// carries less than leastPace is left to BBR.

const (
	// queueFrom is the part of the least round trip that is taken for a queue
	// when it is added, and queueLeast the least of it: below that are the
	// machines themselves.
	queueFrom  = 8
	queueLeast = 10 * time.Millisecond
	// shortLine is a line whose queue is as good as none: it is left alone.
	shortLine = 10 * time.Millisecond

	// calmLooks without a queue end the slower sending: one of BBR's cycles,
	// and the round trip in which its effect is seen.
	calmLooks = 10
	// mostCuts is how often in a row a connection is slowed down before a queue
	// that stays is taken for that of others, for othersTime.
	mostCuts   = 6
	othersTime = 20 * time.Second

	// A lossyShare-th of the segments sent again, lossyLooks after there was a
	// queue, is the line's own loss.
	lossyShare = 200
	lossyLooks = 4

	// lookBytes is what is written between two looks at least: a connection that
	// sends less is no long body's.
	lookBytes = 64 << 10
	// cruise is the part of what the line carries that leaves its queue empty.
	cruise = 0.95
	// leastPace, in bytes a second, is never gone below, so that a connection of
	// short answers, which shows less than the line carries, sends each within
	// some 30 ms; nor a leastShare-th of
	// what the line has carried in bestTime, or twice that: BBR forgets what it
	// has not seen for ten round trips, and takes long to find it again.
	leastPace  = 1 << 20
	leastShare = 4
	bestTime   = 15 * time.Second
)

// pacer is the rate of one connection's sending.
type pacer struct {
	next  time.Time  // of the next look
	at    time.Time  // of the last one
	bytes uint64     // delivered until then
	sent  uint64     // segments, until then
	again uint64     // those of them sent again
	line  float64    // what the line carries, in bytes a second, as far as it is known
	best  [2]float64 // the most it carried in this window of bestTime, and in the one before
	since time.Time  // this window began
	pace  float64    // bytes a second, 0 for as BBR likes

	calm    int           // looks in a row without a queue
	cuts    int           // with one
	longest time.Duration // queue of the first ones
	quiet   time.Time     // until then the queue is that of others
}

// look takes in what the kernel says now, and sets pace.
func (p *pacer) look(now time.Time, info SocketInfo) {
	elapsed := now.Sub(p.at)
	delivered := info.Delivered - p.bytes
	idle := p.at.IsZero() || elapsed > 10*info.RTT+time.Second
	sent, again := info.Segments-p.sent, info.Retransmits-p.again
	p.at, p.bytes, p.sent, p.again = now, info.Delivered, info.Segments, info.Retransmits
	p.next = now.Add(max(info.RTT, shortLine))
	switch {
	case !info.Known || info.MinRTT < shortLine:
		p.pace = 0
	case idle: // what was is over
		p.pace, p.line, p.calm, p.cuts, p.best, p.since = 0, 0, 0, 0, [2]float64{}, now
	case now.Before(p.quiet):
	case info.RTT-info.MinRTT <= max(info.MinRTT/queueFrom, queueLeast):
		p.carried(now, float64(delivered)/elapsed.Seconds())
		p.noQueue()
		if p.calm >= lossyLooks && again > 0 && again*lossyShare >= sent {
			p.pace, p.line, p.quiet = 0, 0, now.Add(othersTime)
		}
	case info.NotSent > 0: // else it is another connection's
		p.carried(now, max(float64(info.DeliveryRate), float64(delivered)/elapsed.Seconds()))
		p.queue(now, info)
	}
}

// carried takes in what arrived of late. While there is a queue that is what the
// line carries.
func (p *pacer) carried(now time.Time, rate float64) {
	if now.Sub(p.since) > bestTime {
		p.best, p.since = [2]float64{0, p.best[0]}, now
	}
	p.best[0] = max(p.best[0], rate)
	p.line = max(p.line, rate)
}

// most is the most that the line carried lately.
func (p *pacer) most() float64 { return max(p.best[0], p.best[1]) }

// noQueue goes nearly as fast as the line, and in the end as BBR likes.
func (p *pacer) noQueue() {
	p.cuts = 0
	if p.calm++; p.calm >= calmLooks {
		p.pace = 0
	}
	if p.pace > 0 { // what was taken for a queue may have been a busy machine
		p.line = min(max(p.line, p.most()), 1.25*p.line)
		p.pace = cruise * p.line
	}
}

// queue slows down for two round trips.
func (p *pacer) queue(now time.Time, info SocketInfo) {
	length := info.RTT - info.MinRTT
	p.calm = 0
	switch p.cuts++; {
	case p.cuts == 1:
		p.longest = length
	case p.cuts <= mostCuts/2:
		p.longest = max(p.longest, length)
	case p.cuts > mostCuts:
		p.cuts = 0
		if length > p.longest*3/4 {
			p.pace, p.line, p.quiet = 0, 0, now.Add(othersTime)
			return
		}
	}
	if p.cuts > 1 { // slower was not slow enough: the line has less than it had
		p.line *= 0.7
	} else if p.pace > 0 {
		p.line *= cruise
	}
	less := min(0.5, float64(length)/float64(2*info.RTT))
	p.pace = max(leastPace, p.most()/leastShare, (1-less)*p.line)
	p.next = now.Add(2 * info.RTT) // what was sent before must arrive first
}

// wrote counts bytes of a connection and looks at it when it is time to.
func (c *socket) wrote(n int) {
	if c.raw == nil || c.unlooked.Add(int64(n)) < lookBytes || !c.pacing.TryLock() {
		return
	}
	defer c.pacing.Unlock()
	now := time.Now()
	if now.Before(c.pacer.next) {
		return
	}
	c.unlooked.Store(0)
	c.pacer.look(now, socketInfo(c.Conn))
	if pace := uint64(c.pacer.pace); pace != c.paced.Swap(pace) {
		setPace(c.raw, pace)
	}
}
