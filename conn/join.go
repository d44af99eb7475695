package conn

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Joining two connections, a and b, of which one may be no socket. Two sockets are
// joined by a Pair (pair_linux.go), in less time and memory.
//
//  1. Join finds the sockets below a and b, starts the one timer, and runs a
//     way from a to b and one from b to a: two goroutines, one of them the caller's,
//  2. way.first sends what goes before, and what was peeked at, in one write,
//     and gives the buffer back,
//  3. way.rest moves the rest, through a buffer that is taken when there is
//     something to read: it waits without one (idle.go),
//  4. at its end a way passes the half-close on, and watches for a reset of the
//     connection it has read to its end, which nobody else would see,
//  5. joint.end closes both, once both ways have ended, or one has failed, or
//     the timer or the context says so. A failure is passed on as a reset: what broke
//     off must not look whole.

// Joint says how two connections are joined. Its zero value has no timeouts.
type Joint struct {
	// Before is sent to b before anything that a sent: a PROXY header.
	Before []byte
	// Idle ends both when so long no byte came or went, either way. A byte that the
	// far side's kernel takes from the queue of ours went.
	Idle time.Duration
	// HalfClosed is Idle once one way has ended; 0: Idle.
	HalfClosed time.Duration
	// Moved is told of bytes when they have moved, by both ways at the same time;
	// nil: nobody asks. All that it was told are Joined.Sent and Joined.Received.
	Moved func(sent, received int64)
}

// Why says how a joined connection ended. Its text is a metric label and a word
// of the log.
type Why string

// How a joined connection ends.
const (
	WhyDone       Why = "done"        // both sides ended what they sent
	WhyIdle       Why = "idle"        // Joint.Idle
	WhyHalfClosed Why = "half_closed" // Joint.HalfClosed
	WhyResetA     Why = "reset_a"     // a was reset
	WhyResetB     Why = "reset_b"     // b was reset
	WhyFailedA    Why = "failed_a"    // a failed in another way: it timed out, or its TLS was cut off
	WhyFailedB    Why = "failed_b"    // b failed in another way
	WhyStranger   Why = "stranger"    // a or b sent a PROXY header that it may not send
	WhyStopped    Why = "stopped"     // the context ended
)

// Joined is what a joined connection came to.
type Joined struct {
	Sent     int64 // bytes from a that b's socket took, without Joint.Before
	Received int64 // bytes from b that a's socket took
	Spliced  int64 // how many of them never came to user space: those of a Pair
	Why      Why
	Err      error // what failed, for the reasons that have a cause
}

// Join passes bytes between a and b until both have ended what they send, one
// fails, a timeout runs out, or ctx ends, and closes both before it returns. The
// end of what one sends is passed on to the other by CloseWrite where that has
// it, and ends nothing else; where it has none, the other hears of it when both
// are closed. A reset or any other failure is passed on as a reset: of TCP with
// SO_LINGER 0, of what has a Reset() error by that, of TLS by a close without
// close_notify. (An end of TLS without close_notify between two records is an
// orderly one to crypto/tls, and so to Join.)
func Join(ctx context.Context, a, b net.Conn, how Joint) Joined {
	j := &joint{how: how, began: time.Now()}
	j.a.open(a)
	j.b.open(b)
	j.there.open(j, &j.a, &j.b, &j.back, WhyResetA, WhyFailedA)
	j.back.open(j, &j.b, &j.a, &j.there, WhyResetB, WhyFailedB)
	j.there.before = how.Before
	j.watch(how.Idle)
	stop := context.AfterFunc(ctx, func() { j.end(WhyStopped, context.Cause(ctx)) })
	defer stop()

	done := make(chan struct{})
	go func() {
		defer close(done)
		j.back.run()
	}()
	j.there.run()
	<-done
	return j.result()
}

// joint is two connections that are being joined.
type joint struct {
	how         Joint
	began       time.Time
	a, b        side
	there, back way

	active atomic.Int64 // when a byte last moved, since began
	ended  atomic.Int32 // ways that have ended in order

	mu    sync.Mutex // guards the rest
	timer *time.Timer
	limit time.Duration // of the timer
	queue [2]uint64     // what the peers had acknowledged when the timer last asked
	why   Why           // "" as long as nothing has ended it
	err   error
}

// Around is a connection that only counts another, or the like: what is read and
// written is read and written of that.
type Around interface{ Around() net.Conn }

// within is what c is around, or c.
func within(c net.Conn) net.Conn {
	for around, ok := c.(Around); ok; around, ok = c.(Around) {
		c = around.Around()
	}
	return c
}

// side is one of the two connections.
type side struct {
	conn net.Conn        // as Join was given it: what is closed
	kept *Conn           // the same, when it is one that may keep something
	io   net.Conn        // below kept: what is read and written
	raw  syscall.RawConn // of io when it is a stream socket, otherwise nil
}

func (s *side) open(c net.Conn) {
	s.conn, s.io = c, c
	if kept, ok := c.(*Conn); ok {
		s.kept, s.io = kept, kept.Conn
	}
	s.io = within(s.io)
	switch socket := s.io.(type) {
	case *net.TCPConn:
		s.raw, _ = socket.SyscallConn()
	case *net.UnixConn:
		if addr := socket.LocalAddr(); addr != nil && addr.Network() == "unix" {
			s.raw, _ = socket.SyscallConn()
		}
	}
}

// way moves bytes from one side to the other. One goroutine runs it.
type way struct {
	j             *joint
	from, to      *side
	other         *way
	before        []byte
	reset, failed Why // when reading fails

	moved int64 // read by others when the way has ended

	n    int   // bytes read
	err  error // of the last system call
	buf  []byte
	size int // of buf
}

func (w *way) open(j *joint, from, to *side, other *way, reset, failed Why) {
	w.j, w.from, w.to, w.other, w.reset, w.failed = j, from, to, other, reset, failed
}

func (w *way) run() {
	err := w.first()
	if err == nil {
		err = w.rest()
	}
	if w.deaf(err) {
		err = w.discard()
	}
	if err != nil {
		w.fail(err)
		return
	}
	if w.j.ended.Add(1) == 2 { // closing says it too, and nothing is left to read
		w.j.end(WhyDone, nil)
		return
	}
	if err := closeWrite(w.to.io); err != nil {
		w.fail(writing(err))
		return
	}
	w.j.watch(w.j.how.HalfClosed)
	w.linger()
}

// writeError is a failure of the side that is written to.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

func writing(err error) error {
	if err == nil {
		return nil
	}
	return writeError{err}
}

// fail ends the joint for a way that failed.
func (w *way) fail(err error) {
	reset, failed := w.reset, w.failed
	if late, ok := err.(writeError); ok {
		reset, failed, err = w.other.reset, w.other.failed, late.error
	}
	switch {
	case ReasonOf(err) == ReasonStranger:
		w.j.end(WhyStranger, err)
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		w.j.end(reset, err)
	default:
		w.j.end(failed, err)
	}
}

// first sends what goes before, and what was kept, and goes on until the
// connection read from is plain.
func (w *way) first() error {
	kept := w.from.kept
	if len(w.before) == 0 && (kept == nil || kept.plain.Load()) {
		return nil
	}
	var p []byte
	if kept != nil && kept.keeps() {
		p, _ = kept.first() // it takes what is kept, and reads nothing
	}
	if err := w.send(w.before, p); err != nil {
		return err
	}
	for kept != nil && !kept.plain.Load() {
		p, err := kept.first()
		if failed := w.send(nil, p); failed != nil {
			return failed
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// send writes two pieces as one, and gives the second one's buffer back.
func (w *way) send(before, p []byte) error {
	defer release(p)
	moved := len(p)
	if moved+len(before) == 0 {
		return nil
	}
	if len(before) > 0 && moved > 0 {
		both := obtain(min(len(before)+moved, MaxBytes))
		defer release(both)
		if len(both) < len(before)+moved { // 64 KiB of hello, and more
			if _, err := w.write(before); err != nil {
				return writing(err)
			}
		} else {
			n := copy(both, before)
			n += copy(both[n:], p)
			p = both[:n]
		}
	} else if moved == 0 {
		p = before
	}
	if _, err := w.write(p); err != nil {
		return writing(err)
	}
	w.note(moved)
	return nil
}

// rest moves what follows, to its end.
func (w *way) rest() error {
	if w.from.raw == nil {
		return w.copyStream()
	}
	return w.copySocket()
}

// copySocket moves through a buffer that is taken when there is something to
// read.
func (w *way) copySocket() error {
	fill := w.fillBuffer
	w.size = copyBuffer
	for {
		if err := w.from.raw.Read(fill); err != nil {
			return err
		}
		if w.err != nil || w.n == 0 {
			release(w.buf)
			return w.err
		}
		err := w.sendBuffer(w.buf[:w.n])
		release(w.buf)
		if err != nil {
			return err
		}
	}
}

// fillBuffer reads what is there; false is the wait for more.
func (w *way) fillBuffer(fd uintptr) bool {
	w.buf = obtain(w.size)
	w.n, w.err = readSocket(fd, w.buf)
	if w.err == syscall.EAGAIN {
		release(w.buf)
		return false
	}
	return true
}

// copyStream moves from what is no socket.
func (w *way) copyStream() error {
	in := idleReader{from: w.from.io}
	for {
		p, err := in.read()
		failed := w.sendBuffer(p)
		release(p)
		switch {
		case failed != nil:
			return failed
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}

func (w *way) sendBuffer(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	n, err := w.write(p)
	w.note(n)
	return writing(err)
}

// write writes all of p, and waits where there is no room.
func (w *way) write(p []byte) (n int, err error) {
	if w.to.raw == nil {
		return w.to.io.Write(p)
	}
	failed := w.to.raw.Write(func(fd uintptr) bool {
		for n < len(p) && err == nil {
			var more int
			more, err = writeSocket(fd, p[n:])
			n += more
		}
		if err == syscall.EAGAIN {
			err = nil
			return false
		}
		return true
	})
	if err == nil {
		err = failed
	}
	return n, err
}

// deaf says whether err is that of a stream that takes no more: one whose far end has
// ended fails to be written to, and what that said before may still be on its way. The
// other way reads it, and knows whether the stream has ended or failed.
func (w *way) deaf(err error) bool {
	late, ok := err.(writeError)
	return ok && w.to.raw == nil && !errors.Is(late, syscall.ECONNRESET) && !errors.Is(late, syscall.EPIPE)
}

// discard reads to the end what is taken no more. It does not count as moved.
func (w *way) discard() error {
	if w.from.raw == nil {
		_, err := Copy(io.Discard, w.from.io)
		return err
	}
	w.size = smallBuffer
	for {
		if err := w.from.raw.Read(w.fillBuffer); err != nil {
			return err
		}
		if release(w.buf); w.err != nil || w.n == 0 {
			return w.err
		}
	}
}

// linger waits, once this way has ended, for the other to end, or for a reset
// of the side that this way has read to its end.
func (w *way) linger() {
	if w.from.raw == nil {
		return
	}
	var err error
	_ = w.from.raw.Read(func(fd uintptr) bool {
		err = socketError(fd)
		return err != nil
	})
	if err != nil {
		w.j.end(w.reset, err)
	}
}

// note counts bytes that moved.
func (w *way) note(n int) {
	if n <= 0 {
		return
	}
	w.moved += int64(n)
	w.j.active.Store(int64(time.Since(w.j.began)))
	switch moved := w.j.how.Moved; {
	case moved == nil:
	case w == &w.j.there:
		moved(int64(n), 0)
	default:
		moved(0, int64(n))
	}
}

// watch sets the time without a byte after which the joint ends; 0 leaves it as
// it is.
func (j *joint) watch(limit time.Duration) {
	if limit <= 0 {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.why != "" {
		return
	}
	j.limit = limit
	if j.timer == nil {
		j.timer = time.AfterFunc(limit, j.look)
	} else {
		j.timer.Reset(limit)
	}
}

// look ends the joint when it was idle for too long.
func (j *joint) look() {
	quiet := time.Since(j.began) - time.Duration(j.active.Load())
	j.mu.Lock()
	if j.why != "" {
		j.mu.Unlock()
		return
	}
	wait := j.limit - quiet
	if wait <= 0 && j.drains() {
		wait = j.limit
	}
	if wait > 0 {
		j.timer.Reset(wait)
		j.mu.Unlock()
		return
	}
	j.mu.Unlock()
	if j.ended.Load() > 0 && j.how.HalfClosed > 0 {
		j.end(WhyHalfClosed, os.ErrDeadlineExceeded)
	} else {
		j.end(WhyIdle, os.ErrDeadlineExceeded)
	}
}

// drains says whether a peer took bytes from the queue of its socket since it
// was last asked: megabytes may lie there, and a slow client take them for
// minutes. The caller has mu.
func (j *joint) drains() bool {
	drains := false
	for i, s := range []*side{&j.a, &j.b} {
		if s.raw == nil {
			continue
		}
		acked, waiting := acknowledged(s.raw)
		if waiting && acked != j.queue[i] {
			drains = true
		}
		j.queue[i] = acked
	}
	return drains
}

// end closes both sides, the first time it is called. Both ways then end.
func (j *joint) end(why Why, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.why != "" {
		return
	}
	j.why, j.err = why, err
	if j.timer != nil {
		j.timer.Stop()
	}
	switch why {
	case WhyDone, WhyIdle, WhyHalfClosed, WhyStopped:
		j.a.conn.Close()
		j.b.conn.Close()
	default:
		abort(j.a.conn)
		abort(j.b.conn)
	}
}

// result is what it came to, when both ways have ended.
func (j *joint) result() Joined {
	j.mu.Lock() // end may still be closing
	defer j.mu.Unlock()
	return Joined{
		Sent:     j.there.moved,
		Received: j.back.moved,
		Why:      j.why,
		Err:      j.err,
	}
}

// closeWrite ends what is sent on c, where c can.
func closeWrite(c net.Conn) error {
	half, ok := c.(interface{ CloseWrite() error })
	if !ok {
		return nil
	}
	if err := half.CloseWrite(); err != nil && !errors.Is(err, syscall.ENOTCONN) {
		return err // ENOTCONN: it was reset, which reading it says
	}
	return nil
}

// abort closes c so that its peer sees that it broke off.
func abort(c net.Conn) {
	switch c := c.(type) {
	case *Conn:
		abort(c.Conn)
	case Around:
		if tcp, ok := within(c.(net.Conn)).(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		c.(net.Conn).Close()
	case *net.TCPConn:
		_ = c.SetLinger(0)
		c.Close()
	case *tls.Conn:
		abort(c.NetConn())
	case interface{ Reset() error }:
		_ = c.Reset()
		c.(net.Conn).Close()
	default:
		c.Close()
	}
}
