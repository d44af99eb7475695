package simnet

// Dial → SYN → the listener's side makes the pair → SYN-ACK → Dial returns →
// ACK → Accept returns.

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"syscall"
	"time"
)

// synTimeout is the wait before a connection request is sent again (RFC 6298
// section 2.1).
const synTimeout = time.Second

type rng = *rand.Rand

// draws makes the random numbers of one connection: each direction its own, so
// that neither order nor traffic of others changes them.
func (n *Network) draws(connection uint64) [2]rng {
	return [2]rng{
		rand.New(rand.NewPCG(n.line.Seed, connection<<1)),
		rand.New(rand.NewPCG(n.line.Seed, connection<<1|1)),
	}
}

// Listen takes connections dialled to name, which is any string nobody listens
// to now. Whoever called it closes it.
func (n *Network) Listen(name string) (net.Listener, error) {
	defer n.enter()()
	if n.listeners[name] != nil {
		return nil, &net.OpError{Op: "listen", Net: "simnet", Addr: Addr(name), Err: syscall.EADDRINUSE}
	}
	l := &listener{net: n, name: Addr(name), arrived: sync.NewCond(&n.mu)}
	n.listeners[name] = l
	return l, nil
}

// Dial connects to name, which takes one round trip. When nobody listens it
// fails after that with ECONNREFUSED; when the line is cut it waits for ctx.
func (n *Network) Dial(ctx context.Context, name string) (net.Conn, error) {
	d := n.dial(Addr(name))
	select {
	case <-d.done:
	case <-ctx.Done():
	}
	defer n.enter()()
	d.abandoned = true
	switch {
	case ctx.Err() != nil:
		if d.client != nil {
			d.client.reset()
			d.server.reset()
		}
		return nil, d.fail(ctx.Err())
	case d.client == nil:
		return nil, d.fail(syscall.ECONNREFUSED)
	}
	return d.client, nil
}

// dialling is one connection request under way; net.mu guards it.
type dialling struct {
	net            *Network
	name, from     Addr
	draws          [2]rng
	client, server *Conn         // nil until it succeeded
	done           chan struct{} // closed when it succeeded or was refused
	abandoned      bool          // nobody waits for it any more
}

func (n *Network) dial(name Addr) *dialling {
	defer n.enter()()
	number := n.dials
	n.dials++
	d := &dialling{
		net: n, name: name, draws: n.draws(number), done: make(chan struct{}),
		// 192.0.2.0/24 with the dynamic ports (RFC 6335 section 6).
		from: Addr(fmt.Sprintf("192.0.2.%d:%d", 1+number/16384%254, 49152+number%16384)),
	}
	d.request(n.now(), synTimeout)
	return d
}

// request sends the SYN; a lost one, or a lost answer, is sent again after
// timeout.
func (d *dialling) request(now, timeout time.Duration) {
	if d.abandoned {
		return
	}
	if d.net.lost(d.draws[there]) || d.net.lost(d.draws[back]) {
		d.net.schedule(now+timeout, func(now time.Duration) { d.request(now, 2*timeout) })
		return
	}
	d.net.cross(now, d.draws[there], func(now time.Duration) {
		l := d.net.listeners[string(d.name)]
		d.net.cross(now, d.draws[back], func(now time.Duration) { d.answered(now, l) })
	})
}

func (d *dialling) answered(now time.Duration, l *listener) {
	if d.abandoned {
		return
	}
	if l != nil {
		d.client, d.server = newPair(d.net, d.from, d.name, d.draws)
		d.net.cross(now, d.draws[there], func(now time.Duration) { l.arrive(now, d.server) })
	}
	close(d.done)
}

func (d *dialling) fail(err error) error {
	return &net.OpError{Op: "dial", Net: "simnet", Addr: d.name, Err: err}
}

type listener struct {
	net  *Network
	name Addr

	// The rest is guarded by net.mu, which arrived waits with.
	arrived *sync.Cond
	backlog []*Conn
	closed  bool
}

func (l *listener) arrive(now time.Duration, c *Conn) {
	switch {
	case l.closed:
		c.closed = true
		c.in.refuse(now)
	case !c.wasReset:
		l.backlog = append(l.backlog, c)
		l.arrived.Signal()
	}
}

// Accept waits for a connection or Close.
func (l *listener) Accept() (net.Conn, error) {
	defer l.net.enter()()
	for {
		if l.closed {
			return nil, &net.OpError{Op: "accept", Net: "simnet", Addr: l.name, Err: net.ErrClosed}
		}
		if len(l.backlog) > 0 {
			c := l.backlog[0]
			l.backlog = l.backlog[1:]
			return c, nil
		}
		l.net.wait(l.arrived)
	}
}

// Close frees the name; connections nobody accepted are reset.
func (l *listener) Close() error {
	defer l.net.enter()()
	if l.closed {
		return &net.OpError{Op: "close", Net: "simnet", Addr: l.name, Err: net.ErrClosed}
	}
	l.closed = true
	delete(l.net.listeners, string(l.name))
	for _, c := range l.backlog {
		c.closed = true
		c.in.refuse(l.net.now())
	}
	l.backlog = nil
	l.arrived.Broadcast()
	return nil
}

// Addr is the name listened to, an Addr.
func (l *listener) Addr() net.Addr { return l.name }
