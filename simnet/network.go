package simnet

// Listen and Dial → handshake.go. Everything that happens later is an event:
// schedule → (the timer, or whoever comes first) run → the event's function.

import (
	"container/heap"
	"math/rand/v2"
	"sync"
	"time"
)

// Line is what a network does to all that crosses it. The zero Line is fast
// and good.
type Line struct {
	RTT    time.Duration // round trip, half of it each way
	Jitter time.Duration // up to so much more a round trip, drawn evenly each way
	Loss   float64       // share of segments lost, 0 to 1
	Rate   int64         // bytes a second each way, 0 = no limit
	Seed   uint64        // of what is lost and how much it jitters
}

// Network is one line between the side that dials and the side that listens.
// All its methods may be called from any goroutine.
type Network struct {
	line  Line
	start time.Time

	// mu guards what follows and all of the network's connections and
	// listeners.
	mu        sync.Mutex
	listeners map[string]*listener
	dials     uint64
	lanes     [2]*bottleneck // by direction
	carried   [2]int64       // bytes delivered, by direction
	cut       bool
	held      []func(now time.Duration) // what arrived while cut, in order
	events    eventHeap
	scheduled uint64
	timer     *time.Timer
	wake      time.Duration // when timer fires; meaningful while armed
	armed     bool
}

// Directions: from the dialler to the listener, and the other way.
const (
	there = iota
	back
)

// New makes a network over line.
func New(line Line) *Network {
	n := &Network{line: line, start: time.Now(), listeners: make(map[string]*listener)}
	n.lanes = [2]*bottleneck{newBottleneck(line.Rate), newBottleneck(line.Rate)}
	return n
}

// Bytes is how many bytes of payload have arrived so far, from diallers to
// listeners and from listeners to diallers. A byte that was lost and sent again
// counts once.
func (n *Network) Bytes() (there, back int64) {
	defer n.enter()()
	return n.carried[0], n.carried[1]
}

// Cut makes a black hole of the line (true): nothing arrives, no error is seen,
// until Cut(false), when all that was under way goes on in its order.
func (n *Network) Cut(cut bool) {
	defer n.enter()()
	n.cut = cut
	if cut {
		return
	}
	held := n.held
	n.held = nil
	for _, arrive := range held {
		arrive(n.now())
	}
}

// enter takes the network's lock and brings it up to the present; the function
// it returns does what that caused and lets go.
func (n *Network) enter() (leave func()) {
	n.mu.Lock()
	n.run()
	return n.leave
}

func (n *Network) leave() {
	n.run()
	n.arm()
	n.mu.Unlock()
}

func (n *Network) now() time.Duration { return time.Since(n.start) }

// run does all events that are due and tells whether there were any. An event is
// told the time it was due at, so that late timers do not add up.
func (n *Network) run() (did bool) {
	for len(n.events) > 0 && n.events[0].at <= n.now() {
		e := heap.Pop(&n.events).(event)
		e.do(e.at)
		did = true
	}
	return did
}

// wait sleeps on cond, whose lock is mu, until something may have changed.
func (n *Network) wait(cond *sync.Cond) {
	if n.run() {
		return
	}
	n.arm()
	cond.Wait()
	n.run()
}

func (n *Network) arm() {
	if len(n.events) == 0 {
		if n.armed {
			n.timer.Stop()
			n.armed = false
		}
		return
	}
	next := n.events[0].at
	if n.armed && n.wake == next {
		return
	}
	n.armed, n.wake = true, next
	if n.timer == nil {
		n.timer = time.AfterFunc(next-n.now(), n.tick)
		return
	}
	n.timer.Reset(next - n.now())
}

func (n *Network) tick() {
	n.mu.Lock()
	n.armed = false
	n.leave()
}

func (n *Network) schedule(at time.Duration, do func(now time.Duration)) {
	n.scheduled++
	heap.Push(&n.events, event{at, n.scheduled, do})
}

// cross schedules what happens at the far end of the line for something that
// leaves at now.
func (n *Network) cross(now time.Duration, draw *rand.Rand, arrive func(now time.Duration)) {
	delay := n.line.RTT / 2
	if n.line.Jitter > 1 {
		delay += time.Duration(draw.Int64N(int64(n.line.Jitter / 2)))
	}
	n.schedule(now+delay, func(now time.Duration) {
		if n.cut {
			n.held = append(n.held, arrive)
			return
		}
		arrive(now)
	})
}

func (n *Network) lost(draw *rand.Rand) bool {
	return n.line.Loss > 0 && draw.Float64() < n.line.Loss
}

type event struct {
	at    time.Duration // since start
	order uint64        // of those due at once, the first scheduled goes first
	do    func(now time.Duration)
}

type eventHeap []event

func (h eventHeap) Len() int { return len(h) }
func (h eventHeap) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].order < h[j].order
}
func (h eventHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *eventHeap) Push(x any)   { *h = append(*h, x.(event)) }
func (h *eventHeap) Pop() any {
	last := len(*h) - 1
	e := (*h)[last]
	(*h)[last] = event{}
	*h = (*h)[:last]
	return e
}
