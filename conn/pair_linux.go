package conn

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What PeekHello and Join do, for one thread that has thousands of connections
// and waits for all of them with epoll(7). Nothing here waits:
//
//  1. Peek reads what is there of a PROXY header or of a hello, as often as there is
//     something,
//  2. Pair.Start takes two sockets, with what was peeked at,
//  3. Pair.Ready moves what can be moved, whenever epoll says that something can,
//  4. Pair.Look ends what was idle for too long, and says when it is to be called
//     next.
//
// Sockets are watched edge-triggered, once, for PairEvents: what is known of them stays known until a call finds that it is over. A read
// that does not fill its buffer has emptied the socket (epoll(7), question 9), with the
// exceptions of PairMore.

// PairEvents are those that a socket is watched for.
const PairEvents = unix.EPOLLIN | unix.EPOLLPRI | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET

// PairMore are those of a socket that a read which does not fill its buffer has not
// emptied: its peer has ended, or is gone, or has sent urgent data (RFC 9293 section
// 3.8.5), before which a read ends.
const PairMore = unix.EPOLLPRI | unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR

// Peek is Trust.Accept and PeekHello for a socket that nobody waits for. Its zero
// value has read nothing. Close, or handing it to a Pair, ends it.
type Peek struct {
	Peer     netip.AddrPort // of the socket, for errors
	kept     []byte         // of the pool: kept[from:to] is there
	from, to int
	drained  bool // there was no more than that
	begun    bool
	doing    string
	scan     helloScan
	stranger stranger

	// Room for the slices of a Hello, as Conn has it.
	alpn     [4]string
	versions [6]uint16
}

// ReadProxy reads what is there of a PROXY header, which the peer must send; nil as
// long as it is not whole. An error is an *Error, as that of Trust.Accept.
func (p *Peek) ReadProxy(fd int) (header *ProxyHeader, err error) {
	p.doing, p.begun = "read the PROXY header", true
	size := 0
	err = p.read(fd, func(kept []byte) (bool, error) {
		var err error
		if size, err = proxySize(kept); size == 0 || len(kept) < size || err != nil {
			return false, err
		}
		header, err = parseProxy(kept[:size])
		return err == nil, err
	})
	if header != nil {
		p.from += size
	}
	return header, p.failed(err)
}

// ReadHello reads what is there of a hello into hello, which is whole when done. An
// error is an *Error, as that of PeekHello.
func (p *Peek) ReadHello(fd int, hello *Hello) (done bool, err error) {
	if p.doing, p.scan.limit = "peek at the hello", MaxBytes; !p.begun {
		p.begun = true
		p.stranger.begin()
	}
	err = p.read(fd, func(kept []byte) (bool, error) {
		message, err := p.scan.step(kept)
		if message == nil || err != nil {
			return false, err
		}
		done = true
		hello.ALPN, hello.Versions = p.alpn[:0], p.versions[:0]
		return true, parseHello(message, hello)
	})
	return done, p.failed(err)
}

// read reads what is there, until step has seen enough.
func (p *Peek) read(fd int, step func(kept []byte) (done bool, err error)) error {
	for {
		if done, err := step(p.kept[p.from:p.to]); done || err != nil {
			return err
		}
		if p.to-p.from >= MaxBytes {
			return &fault{reason: ReasonTooLong}
		}
		p.room()
		n, err := readSocket(uintptr(fd), p.kept[p.to:])
		if err == unix.EAGAIN {
			return nil
		}
		if n <= 0 {
			return cutShort(err, p.from < p.to)
		}
		if _, late := p.stranger.watch(p.kept[p.to : p.to+n]); late != nil {
			return late
		}
		p.to += n
		p.drained = p.to < len(p.kept)
	}
}

// room makes room for at least one more byte.
func (p *Peek) room() {
	if p.to < len(p.kept) {
		return
	}
	larger := obtain(p.to - p.from + 1)
	p.to = copy(larger, p.kept[p.from:p.to])
	p.from = 0
	p.drop()
	p.kept = larger
}

// Drained says whether reading has left nothing, as long as epoll does not say that
// there is more, or said PairMore.
func (p *Peek) Drained() bool { return p.drained }

// TimedOut is the error of a hello that did not come in time.
func (p *Peek) TimedOut() error { return p.failed(&fault{reason: ReasonTimedOut}) }

func (p *Peek) failed(err error) error {
	if err == nil {
		return nil
	}
	return failed(p.doing, net.TCPAddrFromAddrPort(p.Peer), err)
}

// Close forgets what was read.
func (p *Peek) Close() {
	p.scan.close()
	p.drop()
	p.scan.parts, p.kept, p.from, p.to = nil, nil, 0, 0
}

func (p *Peek) drop() {
	if p.kept != nil {
		release(p.kept)
	}
}

// Pair is two TCP sockets that are joined, as Join does it, by a thread that
// never waits for them. The calls of one Pair come one after the other.
type Pair struct {
	how         Joint
	peer        netip.AddrPort // of a, for errors
	a, b        socket
	there, back lane
	stranger    stranger      // watches what a says first
	active      time.Time     // when a byte last moved
	limit       time.Duration // without a byte, now
	queue       [2]uint64     // what the peers had acknowledged at the last Look
	ended       int           // lanes that have
	why         Why           // "" as long as nothing has ended it
	err         error
}

// socket is one of the two, and what is known of it.
type socket struct {
	fd       int
	readable bool // reading it gives something, or EAGAIN
	more     bool // reading goes on until EAGAIN or the end (PairMore)
	urgent   bool // it has sent urgent data, over which splice(2) does not step
	writable bool // as readable
}

// lane is one of the two ways.
type lane struct {
	from, to *socket
	other    *lane
	head     int    // bytes of what is held that are not a's or b's, and not counted
	buf      []byte // of the pool, with held bytes from at; nil when nothing is held there
	at       int
	pipe     *pipe // holds what buf does not
	held     int
	large    bool // a small buffer did not hold what came at once
	whole    bool // as large, but read and written, and not spliced
	ended    bool
	moved    int64
	spliced  int64

	reset, failed Why // when reading fails
}

// turns is how often a lane moves something before others have their turn: 2 MB,
// at most, of what is spliced.
const turns = 2

// Start joins a and b, two nonblocking sockets, which the Pair closes. What peek
// has read of a goes first; nil: nothing was read, and a PROXY header that a sends
// ends the Pair. Ready must follow.
func (p *Pair) Start(a, b int, peer netip.AddrPort, peek *Peek, how Joint, now time.Time) {
	p.how, p.peer, p.active, p.limit = how, peer, now, how.Idle
	p.a.fd, p.b.fd = a, b
	p.there = lane{from: &p.a, to: &p.b, other: &p.back, reset: WhyResetA, failed: WhyFailedA}
	p.back = lane{from: &p.b, to: &p.a, other: &p.there, reset: WhyResetB, failed: WhyFailedB}
	var kept []byte
	if peek != nil {
		kept = peek.kept[peek.from:peek.to]
	} else {
		p.stranger.begin()
	}
	if p.there.head = len(how.Before); p.there.head == 0 {
		if peek != nil && len(kept) > 0 {
			p.there.buf, p.there.at, p.there.held = peek.kept, peek.from, len(kept)
			peek.kept = nil // it is ours now
		}
	} else {
		both := obtain(min(len(how.Before)+len(kept), MaxBytes))
		if need := len(how.Before) + len(kept); len(both) < need { // 64 KiB of hello, and more
			release(both)
			both = make([]byte, need)
		}
		n := copy(both, how.Before)
		p.there.buf, p.there.held = both, n+copy(both[n:], kept)
		p.how.Before = nil
	}
	if peek != nil {
		peek.Close()
	}
}

// Ready is told what epoll said of a and of b, 0 where it said nothing, and moves
// what can be moved. It asks to be called again, after others, when there may be more.
func (p *Pair) Ready(ofA, ofB uint32, now time.Time) (again bool) {
	for _, s := range [...]struct {
		*lane
		events uint32
	}{{&p.there, ofA}, {&p.back, ofB}} {
		if s.events == 0 || p.why != "" {
			continue
		}
		from := s.from
		if s.events&(unix.EPOLLIN|PairMore) != 0 {
			from.readable = true
		}
		if s.events&PairMore != 0 {
			from.more = true
		}
		if s.events&unix.EPOLLPRI != 0 {
			from.urgent = true
		}
		if s.events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			from.writable = true
		}
		if s.ended && s.events&unix.EPOLLERR != 0 { // a reset of what is read no more
			if err := socketError(uintptr(from.fd)); err != nil {
				p.fail(s.lane, err)
			}
		}
	}
	there := p.move(&p.there, now)
	back := p.move(&p.back, now)
	return there || back
}

// move moves what a lane can move. more: it stopped because others wait.
func (p *Pair) move(l *lane, now time.Time) (more bool) {
	for range turns {
		if p.why != "" || !p.flush(l, now) || l.ended || !l.from.readable {
			return false
		}
		p.fill(l, now)
	}
	return p.why == ""
}

// flush writes what is held. It says whether nothing is any more.
func (p *Pair) flush(l *lane, now time.Time) bool {
	for l.held > 0 {
		if !l.to.writable {
			return false
		}
		n, err := l.give()
		if err == unix.EAGAIN {
			l.to.writable = false
			return false
		}
		if err != nil {
			p.fail(l.other, err)
			return false
		}
		l.held -= n
		p.note(l, n, now)
	}
	if l.buf != nil {
		release(l.buf)
		l.buf = nil
	}
	return true
}

// give writes once.
func (l *lane) give() (n int, err error) {
	if l.buf != nil {
		n, err = writeSocket(uintptr(l.to.fd), l.buf[l.at:l.at+l.held])
		l.at += n
		return n, err
	}
	n, err = splice(l.pipe.read, l.to.fd)
	l.spliced += int64(n)
	return n, err
}

// note counts bytes that moved.
func (p *Pair) note(l *lane, n int, now time.Time) {
	p.active = now
	head := min(l.head, n)
	l.head -= head
	if n -= head; n == 0 {
		return
	}
	l.moved += int64(n)
	switch {
	case p.how.Moved == nil:
	case l == &p.there:
		p.how.Moved(int64(n), 0)
	default:
		p.how.Moved(0, int64(n))
	}
}

// fill takes what is there, of which nothing is held.
func (p *Pair) fill(l *lane, now time.Time) {
	size := smallBuffer
	if l.large {
		l.whole = l.whole || l.from.urgent
		switch {
		case l.whole && l.pipe != nil:
			pipes.put(l.pipe)
			l.pipe = nil
		case !l.whole && l.pipe == nil:
			l.pipe = pipes.get()
		}
		if l.pipe != nil {
			p.fillPipe(l, now)
			return
		}
		size = copyBuffer
	}
	buf := obtain(size)
	n, err := readSocket(uintptr(l.from.fd), buf)
	if n <= 0 {
		release(buf)
		p.nothing(l, n, err, now)
		return
	}
	if n < size && !l.from.more {
		l.from.readable = false
	}
	l.large = l.large || n == size
	if l == &p.there {
		if allowed, late := p.stranger.watch(buf[:n]); late != nil {
			if allowed > 0 {
				_, _ = writeSocket(uintptr(l.to.fd), buf[:allowed])
			}
			release(buf)
			p.end(WhyStranger, failed("read the first bytes", net.TCPAddrFromAddrPort(p.peer), late))
			return
		}
	}
	l.buf, l.at, l.held = buf, 0, n
}

// fillPipe is fill by splice(2).
func (p *Pair) fillPipe(l *lane, now time.Time) {
	n, err := splice(l.from.fd, l.pipe.write)
	if n > 0 {
		l.held = n
		return
	}
	pipes.put(l.pipe)
	l.pipe = nil
	if err == unix.EINVAL || err == nil {
		l.whole = true // it can't be spliced, or reading says whether that is the end: urgent data may be in the way
		return
	}
	p.nothing(l, n, err, now)
}

// nothing is what a read says that gave no byte.
func (p *Pair) nothing(l *lane, n int, err error, now time.Time) {
	switch {
	case err == unix.EAGAIN:
		l.from.readable = false
	case err != nil:
		p.fail(l, err)
	default:
		p.finish(l, now)
	}
}

// finish ends a lane in order.
func (p *Pair) finish(l *lane, now time.Time) {
	l.ended, p.active = true, now
	if p.ended++; p.ended == 2 { // closing says it too, and nothing is left to read
		p.end(WhyDone, nil)
		return
	}
	if err := unix.Shutdown(l.to.fd, unix.SHUT_WR); err != nil && err != unix.ENOTCONN {
		p.fail(l.other, err)
		return
	}
	if p.how.HalfClosed > 0 {
		p.limit = p.how.HalfClosed
	}
}

// fail ends the Pair for a lane whose from has failed.
func (p *Pair) fail(l *lane, err error) {
	why := l.failed
	if errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) {
		why = l.reset
	}
	p.end(why, err)
}

// Look ends the Pair when it was idle for too long, and otherwise says how long it
// may be until the next Look; 0: there is no limit. Ready can make it shorter:
// by its end, and to Joint.HalfClosed.
func (p *Pair) Look(now time.Time) time.Duration {
	if p.why != "" || p.limit <= 0 {
		return 0
	}
	if wait := p.limit - now.Sub(p.active); wait > 0 {
		return wait
	}
	if p.drains() {
		return p.limit
	}
	if p.ended > 0 && p.how.HalfClosed > 0 {
		p.end(WhyHalfClosed, os.ErrDeadlineExceeded)
	} else {
		p.end(WhyIdle, os.ErrDeadlineExceeded)
	}
	return 0
}

// drains is as that of a joint.
func (p *Pair) drains() bool {
	drains := false
	for i, fd := range [...]int{p.a.fd, p.b.fd} {
		acked, waiting := acknowledgedBy(fd)
		drains = drains || waiting && acked != p.queue[i]
		p.queue[i] = acked
	}
	return drains
}

// Large says whether much came at once: moving it takes long.
func (p *Pair) Large() bool { return p.there.large || p.back.large }

// Limit is how long the Pair may be without a byte now; 0: for ever.
func (p *Pair) Limit() time.Duration { return p.limit }

// Stop ends the Pair, if nothing has.
func (p *Pair) Stop(err error) { p.end(WhyStopped, err) }

// end closes both sockets, the first time it is called.
func (p *Pair) end(why Why, err error) {
	if p.why != "" {
		return
	}
	p.why, p.err = why, err
	for _, l := range [...]*lane{&p.there, &p.back} {
		if l.buf != nil {
			release(l.buf)
			l.buf = nil
		}
		switch {
		case l.pipe == nil:
		case l.held > 0:
			pipes.drop(l.pipe)
		default:
			pipes.put(l.pipe)
		}
		l.pipe = nil
	}
	switch why {
	case WhyDone, WhyIdle, WhyHalfClosed, WhyStopped:
	default:
		ResetSocket(p.a.fd)
		ResetSocket(p.b.fd)
	}
	CloseSocket(p.a.fd)
	CloseSocket(p.b.fd)
}

// Ended is what the Pair came to; ok is false as long as it goes on. An ended Pair
// has closed its sockets.
func (p *Pair) Ended() (came Joined, ok bool) {
	return Joined{Sent: p.there.moved, Received: p.back.moved, Spliced: p.there.spliced + p.back.spliced, Why: p.why, Err: p.err}, p.why != ""
}

// AlertSocket is SendAlert for a socket that nobody waits for.
func AlertSocket(fd int, alert Alert) {
	record := alert.record()
	_, _ = writeSocket(uintptr(fd), record[:])
	_ = unix.Shutdown(fd, unix.SHUT_WR)
}

// ResetSocket makes the close of a TCP socket a reset.
func ResetSocket(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
}

// CloseSocket closes a nonblocking socket, which does not wait: Go's scheduler is
// not told, as of reading one.
func CloseSocket(fd int) { _, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }
