package mux

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Stream is one of a session. It is a net.Conn: an error of a deadline is
// os.ErrDeadlineExceeded, after Close net.ErrClosed, of a Write after the other end's Close
// io.ErrClosedPipe, when the other end broke off syscall.ECONNRESET, and when the session
// ended why that did.
type Stream struct {
	session *Session
	id      uint32

	writer sync.Mutex // one Write at a time; taken before Session.mu, which guards the rest

	readable, writable sync.Cond // something of it changed
	readBy, writeBy    deadline

	in      chunks // that came
	taken   int    // bytes read that the other end has not been told of
	mayCome int    // bytes that it may send
	window  int    // bytes that may be sent to it
	queued  bool   // a Write waits for room
	promise int    // room that is given to that
	ended   bool   // the other end sends no more
	ends    bool   // this end sends no more
	unheard bool   // the other end takes no more
	closed  bool
	err     error         // it broke off
	done    chan struct{} // nil before Done
}

// errReset is of a stream that the other end reset.
var errReset error = &net.OpError{Op: "read", Net: "mux", Err: syscall.ECONNRESET}

// fails breaks it off. s.mu is held.
func (st *Stream) fails(err error) {
	if st.err == nil {
		st.err = err
	}
	st.readable.Broadcast()
	st.writable.Broadcast()
	st.tellDone()
}

// Done is closed when no more can come of the stream: the other end has ended it or broken
// it off, or the session is over. What came before may still be read.
func (st *Stream) Done() <-chan struct{} {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.done == nil {
		st.done = make(chan struct{})
		if st.ended || st.err != nil {
			close(st.done)
		}
	}
	return st.done
}

// tellDone closes what Done gave, the first time that it is called. s.mu is held.
func (st *Stream) tellDone() {
	if st.done == nil {
		return
	}
	select {
	case <-st.done:
	default:
		close(st.done)
	}
}

// over forgets it when no more frames of it are to come. s.mu is held.
func (st *Stream) over() {
	if st.ended && st.ends {
		delete(st.session.streams, st.id)
	}
}

// Read waits for bytes, with an empty p too, and gives what there is.
func (st *Stream) Read(p []byte) (int, error) {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case st.closed:
			return 0, net.ErrClosed
		case st.readBy.over():
			return 0, os.ErrDeadlineExceeded
		case st.in.size > 0:
			n := st.in.take(p)
			s.consumed(n)
			st.opens(n)
			return n, nil
		case st.err != nil:
			return 0, st.err
		case st.ended:
			return 0, io.EOF
		}
		st.readable.Wait()
	}
}

// opens tells the other end in time that n bytes more were read. s.mu is held.
func (st *Stream) opens(n int) {
	if st.taken += n; st.taken < st.session.options.Window/4 || st.ended || st.err != nil {
		return
	}
	st.session.send(kindWindow, st.id, st.taken)
	st.mayCome += st.taken
	st.taken = 0
}

// Write gives p to the session: when it returns all of p waits to be written, at the
// latest.
func (st *Stream) Write(p []byte) (n int, err error) {
	st.writer.Lock()
	defer st.writer.Unlock()
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	defer s.leave(st)
	for {
		switch {
		case st.unheard && !st.closed:
			return n, io.ErrClosedPipe
		case st.closed || st.ends:
			return n, net.ErrClosed
		case st.err != nil:
			return n, st.err
		case st.writeBy.over():
			return n, os.ErrDeadlineExceeded
		case n == len(p):
			return n, nil
		}
		room := st.promise
		if room == 0 && len(s.waiting) == 0 {
			room = s.room()
		}
		if size := min(len(p)-n, st.window, maxFrame, room); size > 0 {
			s.out = append(appendHead(s.out, kindData, st.id, size), p[n:n+size]...)
			s.toWrite.Signal()
			s.credit -= size
			st.window -= size
			n += size
			s.leave(st)
			continue
		}
		if st.window > 0 && !st.queued {
			st.queued = true
			s.waiting = append(s.waiting, st)
		}
		st.writable.Wait()
	}
}

// CloseWrite ends what this end sends.
func (st *Stream) CloseWrite() error {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.closed {
		return net.ErrClosed
	}
	st.sendsNoMore()
	return nil
}

// sendsNoMore ends this end's way. s.mu is held.
func (st *Stream) sendsNoMore() {
	if st.ends || st.err != nil {
		return
	}
	st.ends = true
	st.session.send(kindEnd, st.id, 0)
	st.writable.Broadcast()
	st.over()
}

// Close ends what this end sends, and reads no more: what the other end has sent is thrown
// away, and its Write fails.
func (st *Stream) Close() error { return st.close(false) }

// Reset closes it so that the other end sees that it broke off.
func (st *Stream) Reset() error { return st.close(true) }

func (st *Stream) close(reset bool) error {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.closed {
		return nil
	}
	switch known := s.streams[st.id] == st; {
	case known && reset:
		s.send(kindReset, st.id, 0)
		delete(s.streams, st.id)
	case known && st.ended:
		st.sendsNoMore()
	case known:
		s.send(kindClose, st.id, 0)
		delete(s.streams, st.id)
	}
	st.closed = true
	st.in.drop(s)
	st.readBy.stop()
	st.writeBy.stop()
	st.readable.Broadcast()
	st.writable.Broadcast()
	return nil
}

// A stream has no addresses of its own.
func (st *Stream) LocalAddr() net.Addr  { return addr{} }
func (st *Stream) RemoteAddr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "mux" }
func (addr) String() string  { return "mux" }

// SetDeadline is both others.
func (st *Stream) SetDeadline(t time.Time) error {
	if err := st.SetReadDeadline(t); err != nil {
		return err
	}
	return st.SetWriteDeadline(t)
}

// SetReadDeadline ends a Read that waits at t, and those to come.
func (st *Stream) SetReadDeadline(t time.Time) error { return st.until(&st.readBy, &st.readable, t) }

// SetWriteDeadline is the same of Write.
func (st *Stream) SetWriteDeadline(t time.Time) error { return st.until(&st.writeBy, &st.writable, t) }

func (st *Stream) until(by *deadline, changed *sync.Cond, t time.Time) error {
	s := st.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if st.closed {
		return net.ErrClosed
	}
	by.set(t, changed)
	return nil
}

// deadline is when what waits for a condition ends. The condition's lock guards it.
type deadline struct {
	at    time.Time
	timer *time.Timer // nil before the first
}

func (d *deadline) set(t time.Time, changed *sync.Cond) {
	d.stop()
	d.at = t
	changed.Broadcast()
	left := time.Until(t)
	switch {
	case t.IsZero() || left <= 0:
	case d.timer == nil:
		d.timer = time.AfterFunc(left, func() {
			changed.L.Lock()
			defer changed.L.Unlock()
			changed.Broadcast()
		})
	default:
		d.timer.Reset(left)
	}
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

func (d *deadline) over() bool { return !d.at.IsZero() && time.Until(d.at) <= 0 }

// chunks are bytes in the order in which they came. The zero value has none, and no
// buffer.
type chunks struct {
	size int
	list []chunk
}

// chunk has bytes in room[from:to]. Its room is of a pool.
type chunk struct {
	room     []byte
	from, to int
}

const (
	smallChunk = 4 << 10
	largeChunk = maxFrame
)

var (
	smallChunks = sync.Pool{New: func() any { return new([smallChunk]byte) }}
	largeChunks = sync.Pool{New: func() any { return new([largeChunk]byte) }}
)

func newRoom(size int) []byte {
	if size <= smallChunk {
		return smallChunks.Get().(*[smallChunk]byte)[:]
	}
	return largeChunks.Get().(*[largeChunk]byte)[:]
}

func freeRoom(room []byte) {
	if len(room) == smallChunk {
		smallChunks.Put((*[smallChunk]byte)(room))
	} else {
		largeChunks.Put((*[largeChunk]byte)(room))
	}
}

// put adds p, of which it keeps nothing.
func (c *chunks) put(p []byte) {
	c.size += len(p)
	for len(p) > 0 {
		if len(c.list) == 0 || c.list[len(c.list)-1].to == len(c.list[len(c.list)-1].room) {
			c.list = append(c.list, chunk{room: newRoom(len(p))})
		}
		last := &c.list[len(c.list)-1]
		n := copy(last.room[last.to:], p)
		last.to += n
		p = p[n:]
	}
}

// take moves bytes into p, and frees what is empty then.
func (c *chunks) take(p []byte) (n int) {
	for n < len(p) && len(c.list) > 0 {
		first := &c.list[0]
		moved := copy(p[n:], first.room[first.from:first.to])
		n += moved
		if first.from += moved; first.from == first.to {
			freeRoom(first.room)
			c.list[0] = chunk{}
			c.list = c.list[1:]
		}
	}
	if c.size -= n; c.size == 0 {
		c.list = nil
	}
	return n
}

// drop throws away what is left. s.mu is held.
func (c *chunks) drop(s *Session) {
	for i := range c.list {
		freeRoom(c.list[i].room)
	}
	n := c.size
	*c = chunks{}
	if n > 0 {
		s.consumed(n)
	}
}
