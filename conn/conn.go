// Package conn has what a node does with a connection that it does not end
// itself: read who is asked for without taking a byte away, say and hear who
// the client is, and join two connections into one.
//
// The path of a passed-through connection:
//
//  1. Trust.Accept reads the PROXY header of a peer that may, and must, say who
//     its client is; from anybody else such a header ends the connection,
//  2. PeekHello reads until it knows the name that is asked for, within Limits;
//     what it read stays to be read (Conn),
//  3. the caller finds out where that name lives, or refuses: SendAlert tells a
//     TLS client why,
//  4. the caller dials, and says with ProxyHeader.Append who the client is,
//  5. Join sends that header and what was peeked in one write, gives the buffer
//     back, and moves bytes both ways until both ways have ended.
//
// Where one thread has thousands of connections, Peek and Pair do the same without
// ever waiting (pair_linux.go); much that comes at once then never comes to user space
// (splice(2)).
//
// Whatever is refused is an *Error with a Reason, which is a label for metrics.
//
// It refuses to end TLS, to look at a connection again once it was joined (a
// second HTTP request of the connection may name another host: the far side
// answers 421), to dial, to listen, to log, and to know anything of sites.
package conn

import (
	"bytes"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is a connection whose first bytes were looked at. Reading gives them
// once more, and then what follows. It is the caller's to close, as the
// connection it was made of: it takes that one's place.
//
// io.Copy from or to a Conn over TCP still ends in splice(2).
type Conn struct {
	net.Conn

	remote, local net.Addr // as a PROXY header told them; nil: those of the connection

	plain atomic.Bool // nothing is kept and nothing watched for: Read goes straight through

	mu       sync.Mutex // guards the rest, and the order of reads until plain
	buffer   []byte     // of the pool, nil when nothing is kept
	from, to int        // buffer[from:to] is to be read again
	stranger stranger   // watches for a PROXY header that the peer may not send

	// Room for the slices of a Hello, so that they cost no allocation.
	alpn     [4]string
	versions [6]uint16
}

// keep is c as a Conn: c itself when it is one, so that what was peeked at
// before is peeked at again and not copied.
func keep(c net.Conn) *Conn {
	if k, ok := c.(*Conn); ok {
		return k
	}
	return &Conn{Conn: c}
}

// NetConn is the connection below, as tls.Conn has it. What is kept is not to
// be had from it.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// RemoteAddr is the client: what a trusted PROXY header said, or the peer.
func (c *Conn) RemoteAddr() net.Addr {
	if c.remote != nil {
		return c.remote
	}
	return c.Conn.RemoteAddr()
}

// LocalAddr is the address that the client reached: what a trusted PROXY header
// said, or that of the socket.
func (c *Conn) LocalAddr() net.Addr {
	if c.local != nil {
		return c.local
	}
	return c.Conn.LocalAddr()
}

// Read gives what was kept, and then what follows.
func (c *Conn) Read(p []byte) (int, error) {
	if c.plain.Load() {
		return c.Conn.Read(p)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.from < c.to {
		n := copy(p, c.buffer[c.from:c.to])
		c.drop(n)
		return n, nil
	}
	n, err := c.Conn.Read(p)
	if n, late := c.stranger.watch(p[:n]); late != nil {
		return n, c.refuse(late)
	}
	c.settle()
	return n, err
}

// Take takes what is kept, so that reading goes on behind it; nil when nothing is.
func (c *Conn) Take() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.from == c.to {
		return nil
	}
	p := bytes.Clone(c.buffer[c.from:c.to])
	c.drop(len(p))
	return p
}

// drop forgets the first n bytes of what is kept. The caller has mu.
func (c *Conn) drop(n int) {
	if c.from += n; c.from == c.to {
		release(c.buffer)
		c.buffer, c.from, c.to = nil, 0, 0
	}
	c.settle()
}

// settle makes the Conn plain when there is nothing to do for it any more.
func (c *Conn) settle() {
	if c.from == c.to && !c.stranger.watching() {
		c.plain.Store(true)
	}
}

// WriteTo is io.Copy's way to splice(2): what is kept by a write, the rest from
// the connection below.
func (c *Conn) WriteTo(w io.Writer) (int64, error) {
	written, err := c.writeFirst(w)
	if err != nil {
		return written, err
	}
	n, err := io.Copy(w, c.Conn)
	return written + n, err
}

// writeFirst writes to w until the Conn is plain, or at its end.
func (c *Conn) writeFirst(w io.Writer) (written int64, err error) {
	for !c.plain.Load() {
		p, err := c.first()
		n, failed := w.Write(p)
		written += int64(n)
		release(p)
		if failed != nil {
			return written, failed
		}
		if err != nil {
			if err == io.EOF {
				return written, nil
			}
			return written, err
		}
	}
	return written, nil
}

// first takes what is kept, with its buffer, or reads into a small one. The
// caller gives it back with release.
func (c *Conn) first() ([]byte, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.from < c.to {
		p := c.buffer[c.from:c.to]
		if c.from > 0 { // release knows a buffer by its capacity
			p = c.buffer[:copy(c.buffer, p)]
		}
		c.buffer, c.from, c.to = nil, 0, 0
		c.settle()
		return p, nil
	}
	if !c.stranger.watching() {
		c.plain.Store(true)
		return nil, nil
	}
	p := obtain(smallBuffer)
	n, err := c.Conn.Read(p)
	n, late := c.stranger.watch(p[:n])
	if late != nil {
		err = c.refuse(late)
	}
	c.settle()
	return p[:n], err
}

// ReadFrom is io.Copy's way to splice(2) in the other direction.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) { return io.Copy(c.Conn, r) }

// CloseWrite ends what this side sends, where the connection below can.
func (c *Conn) CloseWrite() error { return closeWrite(c.Conn) }

// Limits bound what is read of a connection before it is understood. The zero
// value is 64 KiB and 5 s.
type Limits struct {
	Bytes int           // at most MaxBytes; 0: MaxBytes
	Time  time.Duration // for all of it; 0: 5 s
}

// MaxBytes is the most that is kept of a connection: four of the longest records.
const MaxBytes = 64 << 10

// usualTime is the time a client has for a hello or a head: a round trip of a
// second, and three retransmissions (RFC 6298).
const usualTime = 5 * time.Second

func (l Limits) bytes() int {
	if l.Bytes <= 0 || l.Bytes > MaxBytes {
		return MaxBytes
	}
	return l.Bytes
}

func (l Limits) time() time.Duration {
	if l.Time <= 0 {
		return usualTime
	}
	return l.Time
}

// peek reads until step has seen enough: it is given all that is kept, each
// time more comes, and keeps in mind itself how far it got. Nothing that it saw
// is consumed. The read deadline of the connection is gone afterwards.
func (c *Conn) peek(limits Limits, step func(kept []byte) (done bool, err error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	until := false
	for {
		done, err := step(c.buffer[c.from:c.to])
		if done || err != nil {
			if until {
				_ = c.Conn.SetReadDeadline(time.Time{})
			}
			return err
		}
		if c.to-c.from >= limits.bytes() {
			err = &fault{reason: ReasonTooLong}
		} else {
			if !until {
				until = true
				_ = c.Conn.SetReadDeadline(time.Now().Add(limits.time()))
			}
			err = c.more(limits.bytes())
		}
		if err != nil {
			_ = c.Conn.SetReadDeadline(time.Time{})
			return err
		}
	}
}

// more reads once, so that at most limit bytes are kept.
func (c *Conn) more(limit int) error {
	c.room()
	c.plain.Store(false)
	n, err := c.Conn.Read(c.buffer[c.to:min(len(c.buffer), c.from+limit)])
	n, late := c.stranger.watch(c.buffer[c.to : c.to+n])
	c.to += n
	if late != nil {
		return late
	}
	if n > 0 {
		return nil
	}
	some := c.from < c.to
	c.drop(0)
	return cutShort(err, some)
}

// room makes room for at least one more byte.
func (c *Conn) room() {
	switch {
	case c.buffer == nil:
		c.buffer = obtain(smallBuffer)
	case c.to < len(c.buffer):
	case c.from > 0:
		c.to = copy(c.buffer, c.buffer[c.from:c.to])
		c.from = 0
	default:
		larger := obtain(len(c.buffer) + 1)
		copy(larger, c.buffer)
		release(c.buffer)
		c.buffer = larger
	}
}

// The buffers in use while a connection is understood or bytes are passed
// through user space. A hello is 0.3 to 2 KB (testdata), four with tickets.
const (
	smallBuffer = 4 << 10
	copyBuffer  = 32 << 10
	largeBuffer = MaxBytes
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	copyBuffers  = sync.Pool{New: func() any { return new([copyBuffer]byte) }}
	largeBuffers = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
)

// obtain gives a buffer of size bytes or more, for release.
func obtain(size int) []byte {
	switch {
	case size <= smallBuffer:
		return smallBuffers.Get().(*[smallBuffer]byte)[:]
	case size <= copyBuffer:
		return copyBuffers.Get().(*[copyBuffer]byte)[:]
	}
	return largeBuffers.Get().(*[largeBuffer]byte)[:]
}

// release gives back what obtain gave, or a part of it from its beginning.
func release(p []byte) {
	switch p = p[:cap(p)]; len(p) {
	case smallBuffer:
		smallBuffers.Put((*[smallBuffer]byte)(p))
	case copyBuffer:
		copyBuffers.Put((*[copyBuffer]byte)(p))
	case largeBuffer:
		largeBuffers.Put((*[largeBuffer]byte)(p))
	}
}
