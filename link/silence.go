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
// bytes a second: up to streamWindow of it are at the relay when the edge has
// sent the last byte.
const slowestOrigin = 16 << 10

// silence is the time of a relay for one request.
type silence struct {
	answer time.Duration
	over   chan struct{} // closed when the time is over

	mu      sync.Mutex // guards the rest: the body may be read while the answer is there
	timer   *time.Timer
	sent    int64 // bytes of the body
	client  bool  // it is the client that is waited for
	done    bool
	elapsed bool
}

// listen begins the relay's time for out, which is its caller's alone.
func listen(out *http.Request, answer time.Duration) *silence {
	s := &silence{answer: answer}
	if answer <= 0 {
		return s
	}
	s.over = make(chan struct{})
	//lint:ignore SA1019 a context of its own would cost a request a microsecond more
	out.Cancel = s.over
	if out.Body != nil && out.Body != http.NoBody {
		out.Body = &takenBody{out.Body, s}
	}
	s.timer = time.AfterFunc(answer, s.end)
	return s
}

// end is the timer's.
func (s *silence) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.client && !s.done && !s.elapsed {
		s.elapsed = true
		close(s.over)
	}
}

// heard ends the relay's time, and reports whether it was over before.
func (s *silence) heard() (late bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done = true
	if s.timer != nil {
		s.timer.Stop()
	}
	return s.elapsed
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
	left := s.answer
	if last {
		left += drain(s.sent)
	}
	if !s.done {
		s.timer.Reset(left)
	}
}

// drain is how long the relay may be busy with what it was sent.
func drain(sent int64) time.Duration {
	return time.Duration(min(sent, streamWindow)) * time.Second / slowestOrigin
}

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
