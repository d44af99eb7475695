package simnet

// One direction of one connection.
//
//	write → pump → sendOne → (bottleneck) → depart → arrive → read
//	         ↑                                 ↓ lost  ↓
//	         └── acknowledged ←────────────────┼───────┘
//	         └── retransmit ←──────────────────┘

import (
	"math/rand/v2"
	"time"
)

const (
	segmentSize   = 1448             // payload of an Ethernet frame with TCP timestamps
	initialWindow = 10 * segmentSize // RFC 6928
	sendBuffer    = 4 << 20          // Linux tcp_wmem, largest
	receiveBuffer = 6 << 20          // Linux tcp_rmem, largest
	minTimeout    = 200 * time.Millisecond
)

type flow struct {
	net       *Network
	direction int
	draw      *rand.Rand
	sender    *Conn
	receiver  *Conn

	// The sender's side.
	unsent   []byte     // written, never sent yet
	fin      bool       // nothing follows unsent
	finSent  bool       // the end has left
	next     int        // number of the next new segment
	sends    int        // transmissions so far, to tell an older one from a newer
	inFlight int        // bytes sent and not acknowledged
	peak     int        // most bytes ever in flight
	window   int        // congestion window, bytes
	sent     int64      // bytes sent for the first time
	readSeen int64      // bytes read, as the sender knows
	missing  []*segment // lost, not known to be
	again    []*segment // known to be lost, to be sent again
	waiting  bool       // in the bottleneck's line
	broken   bool       // reset: nothing moves any more

	// The receiver's side.
	expected  int              // number of the next segment in order
	early     map[int]*segment // arrived before their turn
	ready     [][]byte         // in order, not read
	unread    int              // bytes in ready
	ended     bool             // the end has arrived in order
	read      int64            // bytes read
	announced int64            // bytes read, as last told to the sender
}

type segment struct {
	number int
	data   []byte
	fin    bool
	send   int // which transmission of the flow carried it last
	tries  int // timeouts so far
	size   int // len(data), also after the data has been read
}

func newFlow(n *Network, direction int, draw *rand.Rand, sender, receiver *Conn) *flow {
	return &flow{
		net: n, direction: direction, draw: draw, sender: sender, receiver: receiver,
		window: initialWindow, early: make(map[int]*segment),
	}
}

// space is how many bytes may be written now.
func (f *flow) space() int { return sendBuffer - len(f.unsent) - f.inFlight }

func (f *flow) write(now time.Duration, p []byte) {
	f.unsent = append(f.unsent, p...)
	f.pump(now)
}

// end sends the end of the direction after what was written.
func (f *flow) end(now time.Duration) {
	f.fin = true
	f.pump(now)
}

// pump sends all that may be sent.
func (f *flow) pump(now time.Duration) {
	for f.sendable() && f.net.lanes[f.direction].room(f, f.nextSize()) {
		f.sendOne(now)
	}
}

// sendable tells whether the windows let a segment go; the bottleneck may still
// hold it.
func (f *flow) sendable() bool {
	switch {
	case f.broken:
		return false
	case len(f.again) > 0:
		return true
	case len(f.unsent) > 0:
		size := f.nextSize()
		return (f.inFlight == 0 || f.inFlight+size <= f.window) && f.sent+int64(size)-f.readSeen <= receiveBuffer
	}
	return f.fin && !f.finSent
}

func (f *flow) nextSize() int {
	if len(f.again) > 0 {
		return f.again[0].size
	}
	return min(len(f.unsent), segmentSize)
}

// sendOne puts the next segment into the bottleneck, if one may go.
func (f *flow) sendOne(now time.Duration) bool {
	if !f.sendable() {
		return false
	}
	var s *segment
	if len(f.again) > 0 {
		s = f.again[0]
		f.again = f.again[1:]
	} else {
		s = f.cutSegment()
	}
	f.sends++
	s.send = f.sends
	left := f.net.lanes[f.direction].pass(now, s.size)
	if left <= now {
		f.depart(now, s)
		return true
	}
	f.net.schedule(left, func(now time.Duration) { f.depart(now, s) })
	return true
}

func (f *flow) cutSegment() *segment {
	size := min(len(f.unsent), segmentSize)
	s := &segment{number: f.next, size: size, data: append([]byte(nil), f.unsent[:size]...)}
	f.unsent = f.unsent[size:]
	if len(f.unsent) == 0 {
		f.unsent = nil // lets a big buffer go
		s.fin = f.fin
		f.finSent = f.fin
	}
	f.next++
	f.sent += int64(size)
	f.inFlight += size
	f.peak = max(f.peak, f.inFlight)
	return s
}

// depart is the moment a segment has left the bottleneck.
func (f *flow) depart(now time.Duration, s *segment) {
	defer f.net.lanes[f.direction].leave(now, s.size)
	if !f.net.lost(f.draw) {
		f.net.cross(now, f.draw, func(now time.Duration) { f.arrive(now, s) })
		return
	}
	f.missing = append(f.missing, s)
	send := s.send
	f.net.schedule(now+f.timeout(s), func(now time.Duration) { f.expire(now, s, send) })
}

// timeout is Linux's RTO on a steady line: the round trip and four times its
// variation, at least 200 ms, doubled for each time it did not help.
func (f *flow) timeout(s *segment) time.Duration {
	rto := f.net.line.RTT + max(minTimeout, 4*f.net.line.Jitter)
	return rto << min(s.tries, 8)
}

// expire sends again what nothing later has shown to be lost in the meantime.
func (f *flow) expire(now time.Duration, s *segment, send int) {
	for i, m := range f.missing {
		if m == s && m.send == send {
			s.tries++
			f.missing = append(f.missing[:i], f.missing[i+1:]...)
			f.again = append(f.again, s)
			f.pump(now)
			return
		}
	}
}

// arrive is the moment a segment reaches the receiver.
func (f *flow) arrive(now time.Duration, s *segment) {
	if f.broken {
		return
	}
	if f.receiver.closed && s.size > 0 {
		f.refuse(now)
		return
	}
	f.net.carried[f.direction] += int64(s.size)
	f.early[s.number] = s
	for {
		next, ok := f.early[f.expected]
		if !ok {
			break
		}
		delete(f.early, f.expected)
		f.expected++
		if next.size > 0 {
			f.ready = append(f.ready, next.data)
			f.unread += next.size
			next.data = nil
		}
		f.ended = f.ended || next.fin
	}
	f.receiver.readable.Broadcast()
	send, read := s.send, f.read
	f.announced = read
	f.net.cross(now, f.draw, func(now time.Duration) { f.acknowledged(now, s, send, read) })
}

// acknowledged is the moment the sender learns that a segment arrived.
func (f *flow) acknowledged(now time.Duration, s *segment, send int, read int64) {
	if f.broken {
		return
	}
	f.inFlight -= s.size
	f.window = max(f.window, min(f.window+s.size, 2*f.peak))
	f.readSeen = max(f.readSeen, read)
	still := f.missing[:0]
	for _, m := range f.missing {
		if m.send < send {
			f.again = append(f.again, m)
		} else {
			still = append(still, m)
		}
	}
	clear(f.missing[len(still):])
	f.missing = still
	f.pump(now)
	f.sender.writable.Broadcast()
}

// take reads into p what is ready, and tells the sender of the room when that
// has grown by a quarter of the buffer.
func (f *flow) take(now time.Duration, p []byte) (count int) {
	for len(f.ready) > 0 && count < len(p) {
		some := copy(p[count:], f.ready[0])
		count += some
		if f.ready[0] = f.ready[0][some:]; len(f.ready[0]) == 0 {
			f.ready[0] = nil
			f.ready = f.ready[1:]
		}
	}
	f.unread -= count
	f.read += int64(count)
	if read := f.read; read-f.announced >= receiveBuffer/4 {
		f.announced = read
		f.net.cross(now, f.draw, func(now time.Duration) {
			f.readSeen = max(f.readSeen, read)
			f.pump(now)
		})
	}
	return count
}

// refuse resets the sender: its receiver is gone.
func (f *flow) refuse(now time.Duration) {
	f.net.cross(now, f.draw, func(time.Duration) { f.sender.reset() })
}

// stop ends the direction for good; what has arrived stays readable.
func (f *flow) stop() {
	f.broken = true
	f.unsent, f.missing, f.again = nil, nil, nil
	clear(f.early)
}
