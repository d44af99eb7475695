package link

import (
	"io"
	"net/http"
	"sync"
	"time"

	"causeway/hop"
	"causeway/outcome"
)

// A relay that took a request and falls silent, which its pings need not show:
//
//  1. listen begins its time: for each piece of the request's body to be taken,
//     which the client's time for the next one is no part of, and then for the
//     header of the answer,
//  2. heard ends it, or says that it was over,
//  3. watch bounds the silences of the answer's body.
//
// The stream is reset each time, so that the relay lets go of the origin.

// Waits are how long a relay may be silent. They must be longer than its own
// for the origin: it knows better what is wrong. 0 is for ever.
type Waits struct {
	Answer time.Duration // for a piece of the request to be taken, and for the header of the answer
	Idle   time.Duration // between two pieces of the answer
	Stream time.Duration // the same of an event stream
}

// slowestOrigin is how fast an origin takes the end of an upload at least, in
// bytes a second: up to Peer.BodyWindow of it are at the relay when the edge has
// sent the last byte.
const slowestOrigin = 16 << 10

// silence is the time of a relay for one request.
type silence struct {
	answer  time.Duration
	window  int64         // of the body, at the relay
	over    chan struct{} // closed when the time is over, or the request is to be sent elsewhere
	warm    *warm         // that the request is on
	mayMove func() bool   // asked once the connection is suspect; nil when the request must not be repeated

	mu      sync.Mutex // guards the rest: the body may be read while the answer is there
	timer   *time.Timer
	sent    int64 // bytes of the body
	long    bool  // so many that the connection is busy with them
	client  bool  // it is the client that is waited for
	done    bool
	elapsed bool
	moved   bool
}

// listen begins the relay's time for out, which is its caller's alone.
func listen(out *http.Request, answer time.Duration, window int64, w *warm, mayMove func() bool) *silence {
	s := &silence{answer: answer, window: window, warm: w, mayMove: mayMove, over: make(chan struct{})}
	//lint:ignore SA1019 a context of its own would cost a request a microsecond more
	out.Cancel = s.over
	w.due.Add(1)
	if mayMove != nil {
		w.movable(s)
	}
	if answer > 0 {
		s.timer = time.AfterFunc(answer, s.end)
	}
	if out.Body != nil && out.Body != http.NoBody {
		out.Body = &takenBody{out.Body, s}
		s.count(max(0, out.ContentLength), false)
	}
	return s
}

// end is the timer's.
func (s *silence) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.client && !s.done && !s.elapsed && !s.moved {
		s.elapsed = true
		close(s.over)
	}
}

// move ends the wait so that the request can be sent elsewhere, if it may be.
func (s *silence) move() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.done && !s.elapsed && !s.moved && s.mayMove() {
		s.moved = true
		close(s.over)
	}
}

// heard ends the relay's time, and reports whether it was over before, or the
// request is to be sent elsewhere.
func (s *silence) heard() (late, moved bool) {
	s.warm.due.Add(-1)
	if s.mayMove != nil {
		s.warm.settled(s)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	if s.timer != nil {
		s.timer.Stop()
	}
	return s.elapsed, s.moved
}

// count takes in how long the body is known to be, and whether all of it was
// sent. s.mu is held, or s not shared yet.
func (s *silence) count(length int64, all bool) {
	if long := length > longBody && !all; long != s.long {
		s.long = long
		if long {
			s.warm.busy()
		} else {
			s.warm.bulk.Add(-1)
		}
	}
}

// takenBody is a request's body, of which the relay takes a piece with each read.
type takenBody struct {
	io.ReadCloser
	silence *silence
}

func (b *takenBody) Read(p []byte) (int, error) {
	b.silence.asks()
	n, err := b.ReadCloser.Read(p)
	b.silence.has(n, err != nil)
	return n, err
}

// Close is also called when the body is given up.
func (b *takenBody) Close() error {
	b.silence.mu.Lock()
	b.silence.count(0, true)
	b.silence.mu.Unlock()
	return b.ReadCloser.Close()
}

// asks begins the client's time.
func (s *silence) asks() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client = true
}

// has ends the client's time and begins the relay's for what came.
func (s *silence) has(n int, last bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.client = false
	s.sent += int64(n)
	if s.sent > longBody || last {
		s.count(s.sent, last)
	}
	left := s.answer
	if last {
		left += drain(min(s.sent, s.window))
	}
	if !s.done && s.timer != nil {
		s.timer.Reset(left)
	}
}

// drain is how long the relay may be busy with what is unread.
func drain(unread int64) time.Duration { return time.Duration(unread) * time.Second / slowestOrigin }

// watch bounds the silences of an answer's body. An upgraded connection is
// minded by those who join it.
func (w Waits) watch(res *http.Response, relay string) {
	idle := w.Idle
	if hop.IsEventStream(res.Header) {
		idle = w.Stream
	}
	if idle > 0 && res.StatusCode != http.StatusSwitchingProtocols && res.Body != http.NoBody {
		res.Body = &watched{hop.Watched{ReadCloser: res.Body, Idle: idle, End: res.Body.Close}, relay}
	}
}

// watched is the body of an answer: a silence has its kind.
type watched struct {
	hop.Watched
	relay string
}

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.Watched.Read(p)
	if silent, ok := err.(*hop.Silence); ok {
		err = outcome.Errorf(outcome.LinkSlow, "read from relay %s: no byte for %v", b.relay, silent.For)
	}
	return n, err
}
