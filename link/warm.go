package link

import (
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"causeway/hop"
)

// longBody is a body that others should not have to queue behind: what a line of
// 50 Mbit/s carries in 40 ms.
const longBody = 256 << 10

// warm is one open connection to a relay.
type warm struct {
	*http.ClientConn
	line    *socket
	since   time.Time
	rtt     atomic.Int64 // nanoseconds, see took
	version string       // of the link, that the relay speaks
	bulk    atomic.Int32 // long bodies under way
	due     atomic.Int32 // requests whose answer has not begun
	raws    atomic.Int32 // raw streams
	tunnels atomic.Int32 // for those, that are open

	spare   func()        // called when w is busy with a long body from now on
	over    chan struct{} // closed by end: it takes no more requests
	changed chan struct{} // gets a value when a request ended

	mu       sync.Mutex // guards the rest
	ended    bool
	suspect  bool // something is awaited, and the relay says nothing
	probing  bool
	awaited  time.Time // since when something is, as far as look knows; zero for nothing
	movables map[*silence]struct{}
	tunnel   *tunnelled // of the raw streams; nil before the first
	closed   bool       // by shut or endTunnel: there is no other tunnel

	carrying sync.WaitGroup // the tunnel
}

func newWarm(conn *http.ClientConn, line *socket, rtt time.Duration, spare func()) *warm {
	w := &warm{ClientConn: conn, line: line, spare: spare, since: time.Now(), over: make(chan struct{}), changed: make(chan struct{}, 1)}
	w.rtt.Store(int64(rtt))
	conn.SetStateHook(func(*http.ClientConn) { w.changes() })
	return w
}

func (w *warm) changes() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// InFlight is how many requests and raw streams are on w. When a tunnel has just ended it
// may be one less.
func (w *warm) InFlight() int {
	return max(0, w.ClientConn.InFlight()-int(w.tunnels.Load())) + int(w.raws.Load())
}

// raw notes a raw stream, which is over when the function is called that it gives.
func (w *warm) raw() (over func()) {
	w.raws.Add(1)
	return func() {
		w.raws.Add(-1)
		w.changes()
	}
}

// endTunnel ends the tunnel of raw streams, and lets no other be opened.
func (w *warm) endTunnel() {
	w.mu.Lock()
	w.closed = true
	in := w.tunnel
	w.mu.Unlock()
	if in != nil {
		in.end()
	}
}

// shut closes w, and waits for what it carries.
func (w *warm) shut() {
	w.mu.Lock()
	w.closed = true
	w.mu.Unlock()
	w.Close()
	w.carrying.Wait()
}

// roundTrip is how long one takes, as far as hellos have shown.
func (w *warm) roundTrip() time.Duration { return time.Duration(w.rtt.Load()) }

// took takes in how long another hello took: a shorter one counts at once, as one
// may have waited for a lost packet, and a longer one for an eighth.
func (w *warm) took(rtt time.Duration) {
	if before := w.roundTrip(); rtt > before {
		rtt = before + (rtt-before)/8
	}
	w.rtt.Store(int64(rtt))
}

// takes reports whether w may be given another request, now or when one of its
// requests ended.
func (w *warm) takes() bool {
	return w.Err() == nil && (w.Available() > 0 || w.ClientConn.InFlight() >= streams)
}

// busy notes a long body.
func (w *warm) busy() {
	if w.bulk.Add(1) == 1 {
		w.spare()
	}
}

// end makes w take no more requests. Those under way go on.
func (w *warm) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.ended = true
		close(w.over)
	}
}

// isEnded reports whether end was called.
func (w *warm) isEnded() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ended
}

// movable notes that a request may be sent elsewhere while its answer has not
// begun; settled takes that back.
func (w *warm) movable(s *silence) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.movables == nil {
		w.movables = make(map[*silence]struct{})
	}
	w.movables[s] = struct{}{}
}

func (w *warm) settled(s *silence) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.movables, s)
}

// move sends what can be elsewhere.
func (w *warm) move() {
	w.mu.Lock()
	waiting := make([]*silence, 0, len(w.movables))
	for s := range w.movables {
		waiting = append(waiting, s)
	}
	w.mu.Unlock()
	for _, s := range waiting {
		s.move()
	}
}

// carried is the body of an answer: its length tells whether w is busy with a
// long one. It may be closed while it is read, by its silence (Waits.watch).
type carried struct {
	io.ReadCloser
	w *warm

	mu   sync.Mutex // guards the rest
	n    int64
	long bool
	over bool
}

func newCarried(res *http.Response, w *warm) *carried {
	c := &carried{ReadCloser: res.Body, w: w}
	if res.ContentLength > longBody {
		c.count(int(longBody) + 1)
	}
	return c
}

func (c *carried) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if c.count(n); err != nil {
		c.end()
	}
	return n, c.w.lost(err)
}

func (c *carried) Close() error {
	c.end()
	return c.ReadCloser.Close()
}

func (c *carried) count(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n += int64(n); c.n > longBody && !c.long && !c.over {
		c.long = true
		c.w.busy()
	}
}

func (c *carried) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.long && !c.over {
		c.w.bulk.Add(-1)
	}
	c.over = true
}

// carry wraps the body of an answer that came over w, unless that is a
// connection of its own from now on.
func (w *warm) carry(res *http.Response) {
	if res.StatusCode != http.StatusSwitchingProtocols && res.Body != http.NoBody && !hop.IsEventStream(res.Header) {
		res.Body = newCarried(res, w)
	}
}
