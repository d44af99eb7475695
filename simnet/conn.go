package simnet

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// Addr is the name of an end of a connection.
type Addr string

// Network is "simnet".
func (Addr) Network() string { return "simnet" }

// String is the name itself: what Listen was given, or for a dialler an address
// of the documentation range (RFC 5737) with a port of its own.
func (a Addr) String() string { return string(a) }

// Conn is one end of a connection. Whoever dialled or accepted it closes it.
type Conn struct {
	net           *Network
	local, remote Addr
	in, out       *flow

	// The rest is guarded by net.mu, which both conditions wait with.
	readable, writable *sync.Cond
	readBy, writeBy    deadline
	closed             bool
	closedWrite        bool
	wasReset           bool
}

var _ net.Conn = (*Conn)(nil)

func newPair(n *Network, dialler, listener Addr, draws [2]rng) (client, server *Conn) {
	client = &Conn{net: n, local: dialler, remote: listener}
	server = &Conn{net: n, local: listener, remote: dialler}
	for _, c := range []*Conn{client, server} {
		c.readable, c.writable = sync.NewCond(&n.mu), sync.NewCond(&n.mu)
	}
	client.out = newFlow(n, there, draws[there], client, server)
	server.out = newFlow(n, back, draws[back], server, client)
	client.in, server.in = server.out, client.out
	return client, server
}

// Read waits for data, the end (io.EOF), the read deadline or Close. What
// arrived before a reset is read first.
func (c *Conn) Read(p []byte) (int, error) {
	defer c.net.enter()()
	for {
		switch {
		case c.closed:
			return 0, c.fail("read", net.ErrClosed)
		case c.readBy.passed():
			return 0, c.fail("read", os.ErrDeadlineExceeded)
		case len(p) == 0:
			return 0, nil
		case c.in.unread > 0:
			return c.in.take(c.net.now(), p), nil
		case c.in.ended:
			return 0, io.EOF
		case c.wasReset:
			return 0, c.fail("read", syscall.ECONNRESET)
		}
		c.net.wait(c.readable)
	}
}

// Write returns when all of p is in the send buffer, which holds 4 MiB of what
// the peer has not acknowledged.
func (c *Conn) Write(p []byte) (int, error) {
	defer c.net.enter()()
	written := 0
	for {
		switch {
		case c.closed:
			return written, c.fail("write", net.ErrClosed)
		case c.writeBy.passed():
			return written, c.fail("write", os.ErrDeadlineExceeded)
		case c.wasReset:
			return written, c.fail("write", syscall.ECONNRESET)
		case c.closedWrite:
			return written, c.fail("write", syscall.EPIPE)
		}
		some := min(len(p)-written, c.out.space())
		c.out.write(c.net.now(), p[written:written+some])
		if written += some; written == len(p) {
			return written, nil
		}
		if some == 0 {
			c.net.wait(c.writable)
		}
	}
}

// CloseWrite sends the end after all that was written; reading goes on.
func (c *Conn) CloseWrite() error {
	defer c.net.enter()()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.closedWrite = true
	c.out.end(c.net.now())
	c.writable.Broadcast()
	return nil
}

// Close ends both directions. What was written is still sent, unless data that
// arrived is unread: then the peer is reset, as by Linux.
func (c *Conn) Close() error {
	defer c.net.enter()()
	if c.closed {
		return c.fail("close", net.ErrClosed)
	}
	c.closed = true
	c.readBy.stop()
	c.writeBy.stop()
	c.readable.Broadcast()
	c.writable.Broadcast()
	if c.in.unread > 0 {
		c.out.stop()
		c.in.refuse(c.net.now())
		return nil
	}
	c.out.end(c.net.now())
	return nil
}

// reset is the moment this end learns that the peer is gone.
func (c *Conn) reset() {
	c.wasReset = true
	c.in.stop()
	c.out.stop()
	c.readable.Broadcast()
	c.writable.Broadcast()
}

// LocalAddr is an Addr.
func (c *Conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr is an Addr.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline sets both deadlines.
func (c *Conn) SetDeadline(t time.Time) error {
	defer c.net.enter()()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	c.readBy.set(t, c.readable)
	c.writeBy.set(t, c.writable)
	return nil
}

// SetReadDeadline also ends a Read under way. The zero time is never.
func (c *Conn) SetReadDeadline(t time.Time) error {
	defer c.net.enter()()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	c.readBy.set(t, c.readable)
	return nil
}

// SetWriteDeadline also ends a Write under way. The zero time is never.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	defer c.net.enter()()
	if c.closed {
		return c.fail("set", net.ErrClosed)
	}
	c.writeBy.set(t, c.writable)
	return nil
}

func (c *Conn) fail(op string, err error) error {
	return &net.OpError{Op: op, Net: "simnet", Source: c.local, Addr: c.remote, Err: err}
}

// deadline wakes who waits on a condition when its time comes.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) set(at time.Time, cond *sync.Cond) {
	d.stop()
	d.at = at
	if at.IsZero() {
		return
	}
	wait := time.Until(at)
	if wait <= 0 {
		cond.Broadcast()
		return
	}
	d.timer = time.AfterFunc(wait, func() {
		cond.L.Lock()
		defer cond.L.Unlock()
		cond.Broadcast()
	})
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
}
