package forward

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"causeway/outcome"
)

// entrance is a listening socket that the loops share: the kernel wakes one of them
// for a connection.
type entrance struct {
	loops *loops
	fd    int
	own   netip.AddrPort // its address

	mu     sync.Mutex // guards what the loops are told of it: to serve, and then to end
	served bool
	ended  bool
	ears   atomic.Int32  // those that have fd still
	closed chan struct{} // is closed when none has
}

// listen opens a socket. Keep-alives are off: idle_timeout ends what is dead.
// MPTCP is off too: what it carries can't be spliced.
func (ls *loops) listen(address string) (*entrance, error) {
	settings := net.ListenConfig{KeepAlive: -1}
	settings.SetMultipathTCP(false)
	opened, err := settings.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	defer opened.Close() // Go's own poller would be woken for each connection too
	if err := ls.start(); err != nil {
		return nil, fmt.Errorf("watch sockets: %w", err)
	}
	raw, err := opened.(*net.TCPListener).SyscallConn()
	if err != nil {
		return nil, err
	}
	e := &entrance{loops: ls, own: addrPort(opened.Addr()), closed: make(chan struct{})}
	if failed := raw.Control(func(fd uintptr) { e.fd, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0) }); failed != nil {
		err = failed
	}
	if err != nil {
		return nil, os.NewSyscallError("dup", err)
	}
	_ = unix.SetsockoptInt(e.fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1) // its connections have it from it
	return e, nil
}

// serve has the loops take connections.
func (e *entrance) serve(l *listener) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.served = true
	e.ears.Store(int32(len(e.loops.all)))
	e.loops.each(func(loop *loop) {
		ear := &ear{entrance: e, loop: loop, listener: l}
		ear.alarm = alarm{index: -1, of: ear}
		ear.slot = loop.enter(ear)
		loop.ears[e] = ear
		ear.listen()
	})
}

// close ends it, soon: closed says when.
func (e *entrance) close() {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.ended:
	case e.served:
		e.loops.each(func(loop *loop) { loop.ears[e].end() })
	default:
		_ = unix.Close(e.fd)
		close(e.closed)
	}
	e.ended = true
}

// ear is an entrance as one loop has it.
type ear struct {
	*entrance
	loop     *loop
	listener *listener
	slot     uint32
	alarm    alarm
	again    again
}

// listen waits for connections.
func (e *ear) listen() {
	if err := e.loop.watch(e.fd, e.slot, 0, unix.EPOLLIN|unix.EPOLLEXCLUSIVE); err != nil {
		e.fail(os.NewSyscallError("epoll_ctl", err))
	}
}

// acceptsAtOnce is how many connections are taken before others have their turn, where
// that may be long.
const acceptsAtOnce = 32

// recordsAgain is how often it is looked whether a log that was not read is read again.
const recordsAgain = 50 * time.Millisecond

// ready takes a connection: there may be others who wait, and epoll says so again.
func (e *ear) ready(int, uint32) {
	if e.loop.records.full() {
		e.unwatch()
		e.loop.alarms.set(&e.alarm, e.loop.now.Add(recordsAgain))
		return
	}
	most := 1
	if len(e.loop.more) > 0 {
		most = acceptsAtOnce
	}
	for range most {
		fd, from, err := accept(e.fd)
		if errors.Is(err, unix.EAGAIN) { // another loop has it
			return
		}
		if err != nil {
			e.fail(err)
			return
		}
		e.again.pause = 0
		e.take(fd, from)
	}
}

// lightest is the loop for one more connection: this one, or another that has clearly
// fewer, as the kernel likes to wake the same one always.
func (e *ear) lightest() *loop {
	fewest := e.loop
	for _, other := range e.loops.all {
		if other.load.Load() < fewest.load.Load() {
			fewest = other
		}
	}
	if fewest.load.Load()+unevenness < e.loop.load.Load() {
		return fewest
	}
	return e.loop
}

// unevenness is how many more connections than another a loop may have: to hand one
// over wakes a thread.
const unevenness = 16

// fail waits a while, or ends the entrance.
func (e *ear) fail(err error) {
	e.unwatch()
	pause, over := e.again.after(e.listener, err)
	if over {
		e.close()
		return
	}
	e.loop.alarms.set(&e.alarm, e.loop.now.Add(pause))
}

// ring listens again.
func (e *ear) ring() { e.listen() }

func (e *ear) unwatch() { _ = unix.EpollCtl(e.loop.epoll, unix.EPOLL_CTL_DEL, e.fd, nil) }

// end takes no more. The last one closes the socket.
func (e *ear) end() {
	e.unwatch()
	e.loop.alarms.drop(&e.alarm)
	e.loop.leave(e.slot)
	delete(e.loop.ears, e.entrance)
	if e.ears.Add(-1) == 0 {
		_ = unix.Close(e.fd)
		close(e.closed)
	}
}

// take starts on a connection, if it may be one more.
func (e *ear) take(fd int, from netip.AddrPort) {
	to := e.own
	if to.Addr().IsUnspecified() {
		to = local(fd)
	}
	f := &flow{loop: e.loop, fds: [2]int{fd, -1}}
	f.client, f.alarm = f, alarm{index: -1, of: f}
	f.begin(e.listener, from, to)
	if !f.enter() {
		f.refuse(outcome.EndLimit, nil)
		e.loop.records.put(&f.passing, false)
		return
	}
	if there := e.lightest(); there != e.loop {
		f.loop = there
		there.load.Add(1) // as long as it is on its way
		if there.post(func() { there.load.Add(-1); f.start() }) {
			return
		}
		there.load.Add(-1)
		f.loop = e.loop
	}
	f.start()
}
