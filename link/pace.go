package link

import "time"

// A connection's sending is watched, because BBR (Cardwell et al. 2016), which
// copes with lines that lose packets, does two things that a link can't have:
//
// It keeps up to a round trip of the line's queue full (Hock et al. 2017), and
// more while it still looks for what the line carries. What comes behind waits,
// and what overflows is paid for twice. So
//
//  1. wrote looks at the connection once a round trip, while long bodies are
//     written to it,
//  2. a round trip that is queueFrom longer than the least one is a queue: the
//     kernel is told to send slower than the line carries, by as much as empties
//     the queue in two round trips, and then nearly as fast as that,
//  3. after calmLooks without a queue it may do as it likes again: BBR then finds
//     out whether there is more,
//  4. a queue that does not get shorter is that of others, or the way is longer
//     than it was: the connection takes its share of it, for othersTime,
//  5. a relay does none of this for an edge of which no request has ended for
//     aloneTime: nobody waits behind the queue, and slower is slower. Who comes then
//     waits for one queue, once.
//
// And it takes for what the line carries what it was given to send. Short answers
// and lost packets make it believe in 1 or 2 Mbit/s, at which it sends the next
// short answer, and from which it climbs by a quarter every eight round trips. So
//
//  6. writes, after a pause, and look, in the middle of a long body, have it begin
//     anew when it believes in less than what the line is known to carry, and no
//     queue says that it is right.

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

	// aloneTime is as long as somebody may look at a page before the next.
	aloneTime = 5 * time.Second

	// pauseTime is how long a connection sends nothing before it is looked at
	// once more: some answers' distance, and no long body's.
	pauseTime = 50 * time.Millisecond
	// startupSends is how many times what it believes in BBR sends in its STARTUP
	// (2/ln 2).
	startupSends = 2.885
	// anewLooks is how long BBR has to find what the line carries.
	anewLooks = 10

	// lookBytes is what is written between two looks at least: a connection that
	// sends less is no long body's.
	lookBytes = 64 << 10
	// cruise is the part of what the line carries that leaves its queue empty.
	cruise = 0.95
	// leastPace, in bytes a second, is never gone below: a line that carries less
	// is left to BBR, and so is a connection that sends less; it sends a short
	// answer within some 30 ms.
	leastPace = 1 << 20
	// Nor is a leastShare-th of what the line has carried in bestTime, or twice
	// that: BBR forgets what it has not seen for ten round trips.
	leastShare = 4
	bestTime   = 15 * time.Second
)

// pacer is the rate of one connection's sending.
type pacer struct {
	next  time.Time  // of the next look
	at    time.Time  // of the last one
	bytes uint64     // delivered until then
	line  float64    // what the line carries, in bytes a second, as far as it is known
	best  [2]float64 // the most it carried in this window of bestTime, and in the one before
	since time.Time  // this window began
	pace  float64    // bytes a second, 0 for as BBR likes

	calm    int           // looks in a row without a queue
	cuts    int           // with one
	longest time.Duration // queue of the first ones
	quiet   time.Time     // until then the queue is that of others

	found  float64   // bytes a second that came through when there last was a queue
	long   bool      // the look before found a backlog
	anew   bool      // BBR is to begin anew
	before float64   // what it believed in when it last did
	again  time.Time // not before
	vain   bool      // it found no more then
}

// look takes in what the kernel says now, and sets pace and anew. alone says that
// nobody but the body that is sent needs the line.
func (p *pacer) look(now time.Time, info SocketInfo, alone bool) {
	elapsed := now.Sub(p.at)
	delivered := info.Delivered - p.bytes
	idle := p.at.IsZero() || elapsed > 10*info.RTT+time.Second
	rate := float64(delivered) / elapsed.Seconds()
	p.at, p.bytes, p.anew = now, info.Delivered, false
	p.next = now.Add(max(info.RTT, shortLine))
	switch {
	case !info.Known || info.MinRTT < shortLine:
		p.pace = 0
		return
	case idle: // what was is over
		p.pace, p.line, p.calm, p.cuts, p.best, p.since = 0, 0, 0, 0, [2]float64{}, now
		p.before, p.vain = 0, false
	case now.Before(p.quiet):
	case alone && info.queued():
		p.carried(now, max(rate, float64(info.DeliveryRate), float64(info.Bandwidth)))
		p.found, p.pace, p.calm, p.cuts = rate, 0, 0, 0
	case !info.queued():
		p.carried(now, rate)
		p.noQueue()
		p.climb(now, info)
	case rate >= leastPace || p.pace > 0: // else it is another connection's
		p.carried(now, max(rate, float64(info.DeliveryRate), float64(info.Bandwidth)))
		p.found = rate
		p.queue(now, info)
	}
	p.long = info.NotSent > 0
}

// queued reports whether something waits for the line.
func (i SocketInfo) queued() bool {
	return i.RTT-i.MinRTT > max(i.MinRTT/queueFrom, queueLeast)
}

// climb has BBR begin anew in the middle of a long body, when it has settled for
// less than there is.
func (p *pacer) climb(now time.Time, info SocketInfo) {
	believes := float64(info.Bandwidth)
	if believes == 0 || info.Startup || p.pace > 0 || p.vain || now.Before(p.again) || !p.long || info.NotSent == 0 {
		return
	}
	if p.found > 0 && believes > p.found/2 {
		return
	}
	if p.before > 0 && believes < 1.25*p.before {
		p.vain = true
		return
	}
	p.anew, p.before, p.again = true, believes, now.Add(anewLooks*info.RTT)
}

// pause looks at a connection that has something to send after a while.
func (p *pacer) pause(info SocketInfo) {
	sends := float64(info.Bandwidth)
	if info.Startup {
		sends *= startupSends
	}
	p.anew = info.Known && info.MinRTT >= shortLine && sends > 0 && sends < leastPace && !info.queued()
	p.before = 0
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

// writes is called before a write.
func (c *socket) writes() {
	if c.raw == nil {
		return
	}
	now := time.Now()
	last := c.wroteAt.Swap(int64(now.Sub(c.since)))
	if now.Sub(c.since)-time.Duration(last) < pauseTime || !c.pacing.TryLock() {
		return
	}
	defer c.pacing.Unlock()
	info := socketInfo(c.Conn)
	if c.pacer.pause(info); c.pacer.anew {
		beginAnew(c.raw)
	}
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
	info := socketInfo(c.Conn)
	c.pacer.look(now, info, c.from.alone(now))
	if c.pacer.anew {
		beginAnew(c.raw)
	}
	if pace := uint64(c.pacer.pace); pace != c.paced.Swap(pace) {
		setPace(c.raw, pace)
	}
}
