package hop

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// net/http writes an answer over TLS in many pieces: over HTTP/2 each frame by
// itself, over HTTP/1.1 four kilobytes and then the rest, and crypto/tls each
// record by itself. Every piece is a system call, and often a packet. Below TLS
// a burst puts those together that one write of a body makes:
//
//  1. Bursts wraps the connections of a listener, BurstContext lets a handler
//     find the one that it answers on,
//  2. begin keeps from now on what is written to the connection, by whatever
//     stream,
//  3. end sends it, once the last burst under way has ended. So does a Write
//     that finds the buffer full, and late, should a burst take long: a stream
//     that waits for the client's window must not keep the others waiting.
//
// Between bursts every Write goes straight through: nothing is kept when a
// handler has returned. Closing the connection drops what is kept: a handler is
// still at it.

const (
	// burstSize is what is kept at most: a buffer of passing as four records,
	// and the header.
	burstSize = passSize + 8<<10
	// burstTime is how long a burst keeps anything. A write that is not held up
	// by the client's window takes some ten microseconds.
	burstTime = 2 * time.Millisecond
)

var burstBuffers = sync.Pool{New: func() any { return new([burstSize]byte) }}

// Bursts gives the connections of listener the ability, for a server of TLS. Its
// http.Server must have BurstContext.
func Bursts(listener net.Listener) net.Listener { return burstListener{listener} }

type burstListener struct{ net.Listener }

func (l burstListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &burstConn{Conn: conn}, nil
}

type burstKey struct{}

// BurstContext is an http.Server's ConnContext.
func BurstContext(ctx context.Context, conn net.Conn) context.Context {
	if c := burstBelow(conn); c != nil {
		return context.WithValue(ctx, burstKey{}, c)
	}
	return ctx
}

// burstBelow is the connection with bursts below conn, nil when there is none.
func burstBelow(conn net.Conn) *burstConn {
	for {
		if c, ok := conn.(*burstConn); ok {
			return c
		}
		around, ok := conn.(interface{ NetConn() net.Conn }) // as tls.Conn is
		if !ok {
			return nil
		}
		conn = around.NetConn()
	}
}

// burstOf is the connection of a request, nil when it has no bursts.
func burstOf(ctx context.Context) *burstConn {
	c, _ := ctx.Value(burstKey{}).(*burstConn)
	return c
}

// burstConn is a connection under a tls.Conn.
type burstConn struct {
	net.Conn

	mu     sync.Mutex // guards all up to the next one, and the order of what is written
	bursts int        // under way
	open   bool       // the burst took too long: Writes go through until all have ended
	buffer *[burstSize]byte
	n      int         // buffer[:n] is kept
	timer  *time.Timer // runs late; nil until it is first needed
	err    error       // of sending what was kept

	clock    sync.Mutex    // guards the rest
	sending  bool          // what was kept is being sent, with a deadline of its own
	patience time.Duration // what the server last gave a write
	until    time.Time     // the server's deadline
}

// NetConn is the connection below, as tls.Conn has it.
func (c *burstConn) NetConn() net.Conn { return c.Conn }

// begin keeps what is written until end. A nil burstConn does nothing.
func (c *burstConn) begin() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bursts++; c.bursts > 1 {
		return
	}
	if c.timer == nil {
		c.timer = time.AfterFunc(burstTime, c.late)
	} else {
		c.timer.Reset(burstTime)
	}
}

// patient is how long the client may take nothing of what is sent when a burst ends,
// where no deadline says so.
func (c *burstConn) patient(long time.Duration) {
	if c == nil || long <= 0 {
		return
	}
	c.clock.Lock()
	defer c.clock.Unlock()
	c.patience = long
}

// end sends what was kept, unless another burst is under way. A failure is that
// of every later Write too.
func (c *burstConn) end() error {
	if c == nil {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bursts--; c.bursts == 0 {
		c.timer.Stop()
		c.open = false
		c.send()
	}
	return c.err
}

// late ends the keeping of a burst that takes too long.
func (c *burstConn) late() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bursts > 0 {
		c.open = true
		c.send()
	}
}

// Write keeps p in a burst, and sends it otherwise.
func (c *burstConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.bursts > 0 && !c.open && c.err == nil {
		if c.n+len(p) > burstSize {
			c.send()
		}
		if c.err == nil && len(p) <= burstSize {
			if c.buffer == nil {
				c.buffer = burstBuffers.Get().(*[burstSize]byte)
			}
			c.n += copy(c.buffer[c.n:], p)
			return len(p), nil
		}
	}
	if c.err != nil {
		return 0, c.err
	}
	if c.bursts > 0 { // it took too long: the client's time counts as for what is kept
		if err := c.sendAll(p); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// send sends what is kept. When that fails the connection is closed, so that
// the server hears of it where it reads.
func (c *burstConn) send() {
	if c.n == 0 || c.err != nil {
		return
	}
	if c.err = c.sendAll(c.buffer[:c.n]); c.err != nil {
		c.Conn.Close()
	}
	burstBuffers.Put(c.buffer)
	c.buffer, c.n = nil, 0
}

// sendAll gives the client the time that the server gave it: until its deadline,
// or, where it sets one for each write and lifts it again (HTTP/2), as long as
// that, and again when the client took a part.
func (c *burstConn) sendAll(p []byte) error {
	c.clock.Lock()
	c.sending = true
	c.clock.Unlock()
	defer func() {
		c.clock.Lock()
		defer c.clock.Unlock()
		c.sending = false
		_ = c.Conn.SetWriteDeadline(c.until)
	}()
	for {
		fixed := c.startClock()
		n, err := c.Conn.Write(p)
		if p = p[n:]; len(p) == 0 || n == 0 || fixed || !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
	}
}

// startClock sets the deadline of a Write of what was kept, and says whether it
// is the server's own.
func (c *burstConn) startClock() (fixed bool) {
	c.clock.Lock()
	defer c.clock.Unlock()
	switch {
	case !c.until.IsZero():
		_ = c.Conn.SetWriteDeadline(c.until)
		return true
	case c.patience > 0:
		_ = c.Conn.SetWriteDeadline(time.Now().Add(c.patience))
	}
	return false
}

// SetWriteDeadline is the server's: for a Write to come, and for what is being
// sent, unless it lifts the deadline of a Write that was only kept.
func (c *burstConn) SetWriteDeadline(t time.Time) error {
	c.clock.Lock()
	defer c.clock.Unlock()
	c.until = t
	if left := time.Until(t); left > 0 {
		c.patience = left
	}
	if c.sending && t.IsZero() {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline is net.Conn's.
func (c *burstConn) SetDeadline(t time.Time) error {
	return errors.Join(c.Conn.SetReadDeadline(t), c.SetWriteDeadline(t))
}
