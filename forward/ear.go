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

	"golang.org/x/sys/unix"

	"causeway/outcome"
)

// entrance is a listening socket that the loops share: the kernel wakes one of them
// for a connection.
type entrance struct {
	loops *loops
	fd    int
	own   netip.AddrPort // its address

	once   sync.Once // closes it
	served bool
	ears   atomic.Int32 // those that have fd still
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
	e := &entrance{loops: ls, own: addrPort(opened.Addr())}
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

// close ends it.
func (e *entrance) close() {
	e.once.Do(func() {
		if !e.served {
			_ = unix.Close(e.fd)
			return
		}
		e.loops.each(func(loop *loop) { loop.ears[e].end() })
	})
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

// ready takes one connection: there may be others who wait, and epoll says so again.
func (e *ear) ready(int, uint32) {
	fd, from, err := accept(e.fd)
	switch {
	case err == nil:
		e.again.pause = 0
		e.take(fd, from)
	case errors.Is(err, unix.EAGAIN): // another loop has it
	default:
		e.fail(err)
	}
}

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
	f.start()
}
