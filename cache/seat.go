package cache

import (
	"context"
	"io"
	"net/http"
	"sync"
	"time"
)

// The body of a fetch, as all read it who wait for it:
//
//  1. write puts what came into the draft, and wakes who waits for it,
//  2. a seat reads the draft at a pace of its own, behind what was written,
//  3. when the draft takes no more, or is larger than is kept, what follows goes
//     to a ring that the slowest seat holds back; nobody joins any more. So does all
//     of it where the store begins no draft,
//  4. those who wait for one who reads slowly have patience; then he is left
//     behind, and fetches the rest himself (behind.go),
//  5. finish is the end, or what cut the body: every seat gets that at the same
//     place,
//  6. the last who leaves lets the draft go.

// ringSize is how far apart those may be who read a body that is not kept.
const ringSize = 256 << 10

const (
	// patience is how long, all in all, others who could read on wait for one who reads
	// slowly.
	patience = 10 * time.Second
	// mostPatience is how long they do for all such of a fetch; beyond it, each is
	// given leastPatience.
	mostPatience  = 3 * patience
	leastPatience = time.Second
)

// stream is the body of a fetch.
type stream struct {
	most  int64 // how much of it may be kept; the fetch's own
	draft Draft // nil before it has landed

	reads     sync.Mutex // guards the rest
	seats     map[*seat]struct{}
	changed   chan struct{} // closed and replaced when there is something new
	written   int64         // changed by the fetch alone, which reads it without the lock
	inDraft   int64         // the first bytes, that are in the draft
	ring      []byte        // nil as long as all is in the draft; set by the fetch alone, as written
	reading   int           // seats that read the draft at this moment, without the lock
	done      bool          // all came that will
	err       error         // with done; nil for a whole body
	settled   bool          // the fetch needs the draft no more
	discarded bool          // the draft
	held      time.Duration // that somebody waited for another; the fetch's own
	handed    bool          // the answer was handed to the first, with the fetch's context
}

// seat is one who waits for the fetch, and then reads its body, as an
// io.ReadCloser. One goroutine reads it; any may close it.
type seat struct {
	f    *flight
	ctx  context.Context
	at   int64          // under f.reads; changed by the reader
	to   int64          // -1 is the end
	gone bool           // under f.reads
	left bool           // under f.reads: behind; nobody waits for it any more
	held time.Duration  // under f.reads: that others waited for it
	own  io.ReadCloser  // under f.reads: the rest, that it fetches itself
	mine *http.Response // under f.reads: handed over, and not taken yet
}

// sit takes a seat; nil when it is too late for that. early says that an answer
// that is there already is too late.
func (f *flight) sit(ctx context.Context, early bool) *seat {
	f.reads.Lock()
	defer f.reads.Unlock()
	if f.ring != nil || f.discarded || f.handed || f.done && f.err != nil {
		return nil
	}
	select {
	case <-f.answered:
		if early {
			return nil
		}
	default:
	}
	s := &seat{f: f, ctx: ctx, to: -1}
	f.seats[s] = struct{}{}
	return s
}

// waited reports whether somebody waits for it still, or has what there is.
func (f *flight) waited() bool {
	f.reads.Lock()
	defer f.reads.Unlock()
	return len(f.seats) > 0 || f.handed || f.done
}

// keepable reports whether what comes is to be kept, as far as is known: of an
// answer that has not begun nothing is, and an origin is not held for nobody.
func (f *flight) keepable() bool {
	f.reads.Lock()
	defer f.reads.Unlock()
	return f.draft != nil && f.ring == nil && !f.noStore
}

// wake tells all who wait. f.reads is held.
func (f *flight) wake() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// write takes what came. false is that nobody wants it.
func (f *flight) write(p []byte) bool {
	if f.ring == nil {
		n := 0
		if f.written+int64(len(p)) <= f.most {
			n, _ = f.draft.Write(p) // what failed is why the rest goes to the ring
		}
		f.reads.Lock()
		f.written += int64(n)
		f.inDraft = f.written
		f.wake()
		if n == len(p) {
			f.reads.Unlock()
			return true
		}
		f.ring = make([]byte, ringSize)
		f.reads.Unlock()
		if f.written+int64(len(p)-n) > f.most { // the next are not held back by who reads slowly
			f.c.remember(f.key.key, func(m *mark) { m.uncacheable, m.large = time.Now().Add(aloneFor), true })
		}
		p = p[n:]
		f.c.flights.Lock()
		f.unjoin()
		f.attend()
		f.c.flights.Unlock()
	}
	for len(p) > 0 {
		n := f.writeRing(p)
		if n == 0 {
			return false
		}
		p = p[n:]
	}
	return true
}

// writeRing waits for room in the ring, and writes what there is room for; 0 when
// all have left.
func (f *flight) writeRing(p []byte) int {
	f.reads.Lock()
	defer f.reads.Unlock()
	for {
		if f.out.Context().Err() != nil || !f.followed() {
			return 0
		}
		slowest, eager := f.pace()
		if room := slowest + ringSize - f.written; room > 0 {
			at := int(f.written % ringSize)
			n := copy(f.ring[at:], p[:min(int64(len(p)), room)])
			f.written += int64(n)
			f.wake()
			return n
		}
		if !eager {
			f.await(nil, 0)
		} else if most, left := f.leaveBehind(); !left {
			f.await(f.holders(), most)
		}
	}
}

// followed reports whether anybody reads who is not left behind. f.reads is held.
func (f *flight) followed() bool {
	for s := range f.seats {
		if !s.left {
			return true
		}
	}
	return false
}

// pace is how far the slowest has read of those that are not left behind, and whether
// another has read all there is. f.reads is held.
func (f *flight) pace() (slowest int64, eager bool) {
	slowest = f.written
	for s := range f.seats {
		if !s.left && (s.to < 0 || s.at < s.to) {
			slowest = min(slowest, max(s.at, f.inDraft))
			eager = eager || s.at >= f.written
		}
	}
	return slowest, eager
}

// holders are those who hold the others back. f.reads is held.
func (f *flight) holders() (all []*seat) {
	for s := range f.seats {
		if !s.left && max(s.at, f.inDraft) <= f.written-ringSize && (s.to < 0 || s.at < s.to) {
			all = append(all, s)
		}
	}
	return all
}

// leaveBehind leaves those behind for whom there is no patience any more; else it says
// how much there is. f.reads is held.
func (f *flight) leaveBehind() (most time.Duration, left bool) {
	each := patience
	if f.held >= mostPatience {
		each = leastPatience
	}
	most = each
	for _, s := range f.holders() {
		if s.held >= each {
			s.left, left = true, true
		} else {
			most = min(most, each-s.held)
		}
	}
	return most, left
}

// await waits for a change; where somebody waits for the holders, no longer than most,
// and it is counted. f.reads is held, but meanwhile.
func (f *flight) await(holders []*seat, most time.Duration) {
	changed := f.changed
	f.reads.Unlock()
	var over <-chan time.Time
	begun := time.Now()
	if len(holders) > 0 {
		timer := time.NewTimer(most)
		defer timer.Stop()
		over = timer.C
	}
	select {
	case <-changed:
	case <-over:
	case <-f.out.Context().Done():
	}
	waited := time.Since(begun)
	f.reads.Lock()
	if len(holders) > 0 {
		f.held += waited
	}
	for _, s := range holders {
		s.held += waited
	}
}

// open sets the draft. Without one, all goes to the ring: those that wait already
// get it.
func (f *flight) open(draft Draft, ok bool) {
	f.reads.Lock()
	defer f.reads.Unlock()
	if ok {
		f.draft = draft
	} else {
		f.ring = make([]byte, ringSize)
	}
}

// settle is the end of the fetch.
func (f *flight) settle() {
	f.reads.Lock()
	defer f.reads.Unlock()
	f.settled = true
	f.tidy()
}

// finish is the end of the body, once: err is what cut it, nil for a whole one.
func (f *flight) finish(err error) {
	f.reads.Lock()
	defer f.reads.Unlock()
	if f.done {
		return
	}
	f.done, f.err = true, err
	f.wake()
}

// tidy lets the draft go when nobody reads it any more. f.reads is held.
func (f *flight) tidy() {
	if f.draft == nil || f.discarded || f.reading > 0 || !f.settled && f.ring == nil {
		return
	}
	for s := range f.seats {
		if s.at < f.inDraft {
			return
		}
	}
	f.discarded = true
	f.draft.Discard()
}

// limit makes a seat read the bytes from from up to to alone.
func (s *seat) limit(from, to int64) {
	s.f.reads.Lock()
	defer s.f.reads.Unlock()
	s.at, s.to = from, to
}

// Read reads what came, or waits for it.
func (s *seat) Read(p []byte) (int, error) {
	f := s.f
	f.reads.Lock()
	defer f.reads.Unlock()
	for {
		end := f.written
		if s.to >= 0 {
			end = min(end, s.to)
		}
		switch {
		case s.gone:
			return 0, http.ErrBodyReadAfterClose
		case s.own != nil || s.at < end && s.lost() || f.done && f.err == errUnread && s.left && s.at == end && s.at != s.to:
			return s.readOwn(p)
		case s.at < end:
			return s.copy(p[:min(int64(len(p)), end-s.at)])
		case s.to >= 0 && s.at >= s.to && (f.done || s.to < f.landing.size):
			return 0, io.EOF
		case f.done && f.err != nil:
			return 0, f.err
		case f.done:
			return 0, io.EOF
		}
		changed := f.changed
		f.reads.Unlock()
		select {
		case <-changed:
			f.reads.Lock()
		case <-s.ctx.Done():
			f.reads.Lock()
			return 0, context.Cause(s.ctx)
		}
	}
}

// copy reads bytes that are there. f.reads is held, but while the draft is read.
func (s *seat) copy(p []byte) (n int, err error) {
	f := s.f
	if s.at >= f.inDraft {
		n = copy(p, f.ring[s.at%ringSize:])
	} else {
		p = p[:min(int64(len(p)), f.inDraft-s.at)]
		f.reading++
		f.reads.Unlock()
		n, err = f.draft.ReadAt(p, s.at)
		f.reads.Lock()
		f.reading--
		if n == len(p) || err == io.EOF && n > 0 {
			err = nil
		}
	}
	s.at += int64(n)
	f.tidy()
	if f.ring != nil {
		f.wake()
	}
	return n, err
}

// Close gives the seat up.
func (s *seat) Close() error {
	f := s.f
	f.reads.Lock()
	if s.gone {
		f.reads.Unlock()
		return nil
	}
	s.gone = true
	delete(f.seats, s)
	mine, own := s.mine, s.own
	s.mine = nil
	f.tidy()
	f.wake()
	last := len(f.seats) == 0
	f.reads.Unlock()
	if own != nil {
		own.Close()
	}
	if mine != nil {
		mine.Body.Close()
		f.cancel()
	}
	if last {
		f.left()
	}
	return nil
}

// hand gives the seat an answer that is its alone; not ok is that it has left.
func (s *seat) hand(res *http.Response) bool {
	s.f.reads.Lock()
	defer s.f.reads.Unlock()
	if s.gone {
		return false
	}
	s.mine, s.f.handed = res, true
	return true
}

// alone takes the body of an answer that was handed over: the fetch ends when it is
// closed, or when the client leaves.
func (s *seat) alone(body io.ReadCloser) io.ReadCloser {
	f := s.f
	f.reads.Lock()
	s.mine = nil
	f.reads.Unlock()
	s.Close()
	return &alone{ReadCloser: body, cancel: f.cancel, stop: context.AfterFunc(s.ctx, f.cancel)}
}

// alone is the body of an answer that is not kept.
type alone struct {
	io.ReadCloser
	cancel context.CancelFunc
	stop   func() bool
}

// Unwrap is the body that Next gave.
func (b *alone) Unwrap() io.ReadCloser { return b.ReadCloser }

func (b *alone) Close() error {
	err := b.ReadCloser.Close()
	b.stop()
	b.cancel()
	return err
}
