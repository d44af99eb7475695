package forward

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"causeway/conn"
	"causeway/outcome"
)

// flow is a connection that a loop takes through its steps.
type flow struct {
	passing
	loop  *loop
	alarm alarm
	slot  uint32
	step  step
	fds   [2]int    // of the client and of the target; -1: there is none
	told  [2]uint32 // what epoll said of them, and nobody has used up
	peek  *conn.Peek
	at    *endpoint       // that is dialled, or joined
	life  context.Context // ends when its checks fail
	until time.Time       // it is dialled so long
	pair  conn.Pair
	moves bool // it is among loop.more
}

// step is what a flow waits for.
type step int

const (
	stepProxy step = iota // the load balancer says who the client is
	stepHello             // the client says where it wants to go
	stepNames             // the targets have addresses
	stepDial              // a target answers
	stepPair              // bytes
	stepOver              // nothing
)

const (
	clientSocket = 0
	targetSocket = 1
)

// start begins with the first step, in the flow's loop.
func (f *flow) start() {
	f.slot = f.loop.enter(f)
	if err := f.loop.watch(f.fds[clientSocket], f.slot, clientSocket, conn.PairEvents); err != nil {
		f.turnAway(outcome.EndNoFiles, os.NewSyscallError("epoll_ctl", err))
		return
	}
	if f.loop.server.base.Err() != nil { // what was under way is cut already
		f.turnAway(outcome.EndStopped, nil)
		return
	}
	trusted := f.table.trust.Trusts(f.record.Client.Addr())
	if trusted || f.table.only == nil {
		f.peek = &conn.Peek{Peer: f.record.Client}
		f.ringIn(f.table.hello)
	}
	if trusted {
		f.step = stepProxy
	} else {
		f.identify()
	}
}

// identify goes on to find the forward.
func (f *flow) identify() {
	if f.table.only != nil {
		f.known()
		return
	}
	f.step = stepHello
	f.hear()
}

// ready is told by epoll.
func (f *flow) ready(socket int, events uint32) {
	f.told[socket] |= events
	switch {
	case f.step == stepPair && f.pair.Large():
		f.wait() // it may take long, and others have a word to say
	case f.step == stepProxy:
		f.arrive()
	case f.step == stepHello:
		f.hear()
	case f.step == stepDial && socket == targetSocket:
		f.dialled()
	case f.step == stepPair:
		f.move()
	}
}

// ring is called when a step has taken long.
func (f *flow) ring() {
	switch f.step {
	case stepProxy:
		err := f.peek.TimedOut()
		f.turnAway(outcome.End(conn.ReasonOf(err)), err)
	case stepHello:
		f.heardOf(f.peek.TimedOut())
	case stepNames:
		f.seek()
	case stepDial:
		f.lookAtDial()
	case stepPair:
		f.look()
	}
}

func (f *flow) ringIn(d time.Duration) { f.loop.alarms.set(&f.alarm, f.loop.now.Add(d)) }

// arrive hears who the client is.
func (f *flow) arrive() {
	f.told[clientSocket] &^= unix.EPOLLIN
	header, err := f.peek.ReadProxy(f.fds[clientSocket])
	f.leftover()
	switch {
	case err != nil:
		f.turnAway(outcome.End(conn.ReasonOf(err)), err)
	case header != nil:
		f.header = header
		f.record.Peer = f.record.Client
		if !header.Local {
			f.record.Client, f.record.Local = addrPort(header.Source), addrPort(header.Destination)
		}
		f.identify()
	}
}

// hear reads the hello.
func (f *flow) hear() {
	f.told[clientSocket] &^= unix.EPOLLIN
	done, err := f.peek.ReadHello(f.fds[clientSocket], &f.hello)
	f.leftover()
	if done || err != nil {
		f.heardOf(err)
	}
}

// leftover notes that peek may have left something to be read.
func (f *flow) leftover() {
	if !f.peek.Drained() || f.told[clientSocket]&conn.PairMore != 0 {
		f.told[clientSocket] |= unix.EPOLLIN
	}
}

// heardOf goes on with a hello.
func (f *flow) heardOf(err error) {
	if end, err := f.heard(err); end != "" {
		f.turnAway(end, err)
		return
	}
	f.known()
}

// known goes on when it is known what the client wants.
func (f *flow) known() {
	if end, err := f.admit(); end != "" {
		f.turnAway(end, err)
		return
	}
	f.record.Hello = time.Since(f.record.Start)
	f.search.until = f.loop.now.Add(f.service.file.Limits.DialTimeout)
	f.service.pool.dialing.Add(1)
	f.seek()
}

// namesAgain is how often it is looked whether the targets have addresses.
const namesAgain = 20 * time.Millisecond

// seek looks for a target, once there are any.
func (f *flow) seek() {
	switch {
	case f.service.pool.settled():
		f.next()
	case f.loop.now.Before(f.search.until):
		f.step = stepNames
		f.ringIn(namesAgain)
	default:
		f.unserved(outcome.EndDialFailed, fmt.Errorf("forward %s: wait for the addresses of its targets: %w", f.service.file.Name, context.DeadlineExceeded))
	}
}

// next begins to dial the next target.
func (f *flow) next() {
	for {
		at, within := f.another()
		if at == nil {
			f.unserved(f.unfound())
			return
		}
		f.at, f.life, f.until = at, f.service.pool.alive(at), f.loop.now.Add(within)
		fd, err := connect(f.record.Address)
		if err == nil {
			f.step, f.fds[targetSocket], f.told[targetSocket] = stepDial, fd, 0
			if err = f.lead(); err == nil {
				err = f.loop.watch(fd, f.slot, targetSocket, conn.PairEvents)
			}
			if err == nil {
				f.ringIn(min(within, dialAgain))
				return
			}
			f.closeTarget()
		}
		if over := f.miss(err); over {
			return
		}
	}
}

// dialAgain is how often it is looked whether a target that is dialled is still well.
const dialAgain = 100 * time.Millisecond

// miss notes a target that was dialled in vain, and says whether that ended the flow.
func (f *flow) miss(err error) (over bool) {
	err = &net.OpError{Op: "dial", Net: "tcp", Addr: net.TCPAddrFromAddrPort(f.record.Address), Err: err}
	end, because := f.failed(f.at, err)
	f.at = nil
	if end != "" {
		f.unserved(end, because)
	}
	return end != ""
}

// lookAtDial gives a dial up that takes too long, or whose target is down.
func (f *flow) lookAtDial() {
	var err error
	switch {
	case f.life.Err() != nil:
		err = f.life.Err()
	case !f.loop.now.Before(f.until):
		err = os.ErrDeadlineExceeded
	default:
		f.ringIn(min(f.until.Sub(f.loop.now), dialAgain))
		return
	}
	f.closeTarget()
	if !f.miss(err) {
		f.next()
	}
}

// dialled goes on when a target has answered, or not.
func (f *flow) dialled() {
	if err := f.answer(); err != nil {
		f.closeTarget()
		if !f.miss(err) {
			f.next()
		}
		return
	}
	f.record.Dial = time.Since(f.record.Start)
	f.join()
}

// lead says what is wrong with where the dial leads, which is known before there is an
// answer.
func (f *flow) lead() error {
	from := local(f.fds[targetSocket])
	if from == f.record.Address { // it took the port that it asked for, and would answer itself (RFC 9293 section 3.5)
		return os.NewSyscallError("connect", unix.ECONNREFUSED)
	}
	return f.leadsOut(f.at, from, f.record.Address)
}

// answer is what a target said to the dial.
func (f *flow) answer() error {
	if f.told[targetSocket]&(unix.EPOLLERR|unix.EPOLLHUP) != 0 {
		code, err := unix.GetsockoptInt(f.fds[targetSocket], unix.SOL_SOCKET, unix.SO_ERROR)
		if err == nil && code != 0 {
			err = unix.Errno(code)
		}
		if err != nil {
			return os.NewSyscallError("connect", err)
		}
	}
	return nil
}

// join joins the client with the target.
func (f *flow) join() {
	f.service.pool.dialing.Add(-1)
	joint, err := f.joint()
	if err != nil {
		f.closeTarget()
		f.service.pool.leave(f.at)
		f.turnAway(outcome.EndBadProxy, err)
		return
	}
	f.step = stepPair
	f.pair.Start(f.fds[clientSocket], f.fds[targetSocket], f.record.Client, f.peek, joint, f.loop.now)
	f.peek = nil
	f.move()
}

// move moves what can be moved.
func (f *flow) move() {
	limit := f.pair.Limit()
	again := f.pair.Ready(f.told[clientSocket], f.told[targetSocket], f.loop.now)
	f.told = [2]uint32{}
	if came, ended := f.pair.Ended(); ended {
		f.joined(f.at, came)
		f.over()
		return
	}
	if again {
		f.wait()
	}
	if now := f.pair.Limit(); now > 0 && (now != limit || f.alarm.index < 0 || f.alarm.at.Sub(f.loop.now) > now) {
		f.ringIn(now)
	}
}

// wait has again called, after others.
func (f *flow) wait() {
	if !f.moves {
		f.moves = true
		f.loop.more = append(f.loop.more, f)
	}
}

// again moves more, after others.
func (f *flow) again() {
	f.moves = false
	if f.step == stepPair {
		f.move()
	}
}

// look ends what is idle.
func (f *flow) look() {
	if f.moves { // it is not, and has only not had its turn
		f.move()
		return
	}
	wait := f.pair.Look(f.loop.now)
	if came, ended := f.pair.Ended(); ended {
		f.joined(f.at, came)
		f.over()
	} else if wait > 0 {
		f.ringIn(wait)
	}
}

// cut ends the flow, wherever it is.
func (f *flow) cut() {
	switch f.step {
	case stepProxy, stepHello:
		f.turnAway(outcome.EndStopped, nil)
	case stepNames:
		f.unserved(outcome.EndStopped, nil)
	case stepDial:
		f.closeTarget()
		if !f.miss(context.Canceled) {
			f.unserved(f.unfound())
		}
	case stepPair:
		f.pair.Stop(context.Canceled)
		f.move()
	}
}

// unserved ends a flow for which there is no target.
func (f *flow) unserved(end outcome.End, err error) {
	f.service.pool.dialing.Add(-1)
	f.alert(conn.AlertInternalError)
	f.turnAway(end, err)
}

// turnAway ends a flow that is not joined.
func (f *flow) turnAway(end outcome.End, err error) {
	f.refuse(end, err)
	f.over()
}

// over gives back what the flow has. Its sockets are closed.
func (f *flow) over() {
	f.step = stepOver
	if f.peek != nil {
		f.peek.Close()
		f.peek = nil
	}
	f.loop.alarms.drop(&f.alarm)
	f.loop.leave(f.slot)
	f.loop.records.put(&f.passing, true)
}

func (f *flow) closeTarget() {
	conn.CloseSocket(f.fds[targetSocket])
	f.fds[targetSocket] = -1
}

// tell is of a client.
func (f *flow) tell(why conn.Alert) { conn.AlertSocket(f.fds[clientSocket], why) }

// close is of a client.
func (f *flow) close(reset bool) {
	if reset {
		conn.ResetSocket(f.fds[clientSocket])
	}
	conn.CloseSocket(f.fds[clientSocket])
}
