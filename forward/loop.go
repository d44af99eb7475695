package forward

import (
	"container/heap"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A loop is one thread that has thousands of connections, and waits for all of them
// with epoll(7): with goroutines a short connection takes a third more, and an idle one
// ten times the memory (docs/adr/0014).
//
//  1. ear.ready takes a connection off a listening socket (ear.go),
//  2. flow.start, arrive, hear, next, dialled and move are its steps, each called when
//     a socket says that it can go on (flow.go),
//  3. alarms ring for those who wait for too long,
//  4. records hands out, in a goroutine, what became of it (records.go).
//
// Nothing that a loop calls may wait.

// loops are those of a Server.
type loops struct {
	all     []*loop
	records *records
}

// newLoops makes as many as are worth it: half the processors are left to
// everything else.
func newLoops(s *Server) *loops {
	ls := &loops{records: newRecords(s.options.Sink)}
	for range max(1, runtime.GOMAXPROCS(0)/2) {
		ls.all = append(ls.all, &loop{server: s, records: ls.records})
	}
	return ls
}

// start runs them, the first time; a loop that can't be made is an error.
func (ls *loops) start() error {
	for _, l := range ls.all {
		if err := l.start(); err != nil {
			return err
		}
	}
	return nil
}

// each has f called by every loop that runs, and waits for none.
func (ls *loops) each(f func(*loop)) {
	for _, l := range ls.all {
		l.post(func() { f(l) })
	}
}

// stop ends the loops once they have nothing more to do.
func (ls *loops) stop() { ls.each(func(l *loop) { l.stopping = true }) }

// cut ends what is under way.
func (ls *loops) cut() {
	ls.each(func(l *loop) {
		for _, s := range l.slots {
			if f, ok := s.of.(*flow); ok {
				f.cut()
			}
		}
	})
}

// loop has its goroutine alone, but for what mu guards.
type loop struct {
	server  *Server
	records *records
	epoll   int
	bell    int // an eventfd: something is posted

	ears     map[*entrance]*ear
	slots    []slot // who has sockets here
	free     []uint32
	alarms   alarms
	more     []*flow      // those that can go on, but have had their turn
	load     atomic.Int64 // slots that are taken
	stopping bool
	now      time.Time // since the loop last waited

	mu     sync.Mutex // guards the rest
	runs   bool
	over   bool
	posted []func()
}

// slot is the place of somebody who has sockets. gen tells those who had it before
// apart, of whom epoll may still have something to say.
type slot struct {
	gen uint32
	of  watcher
}

// watcher is told what epoll says of its sockets, which it numbers itself, 0 or 1.
type watcher interface {
	ready(socket int, events uint32)
}

func (l *loop) start() (err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.runs {
		return nil
	}
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if l.bell, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		_ = unix.Close(l.epoll)
		return err
	}
	l.runs = true
	l.slots, l.ears = []slot{{of: (*bell)(l)}}, make(map[*entrance]*ear)
	if err = l.watch(l.bell, 0, 0, unix.EPOLLIN); err != nil {
		_ = unix.Close(l.bell)
		_ = unix.Close(l.epoll)
		l.runs = false
		return err
	}
	l.server.tasks.Go(l.run)
	return nil
}

// bell is a loop as it watches what is posted.
type bell loop

func (b *bell) ready(int, uint32) {
	var count [8]byte
	_, _ = unix.Read(b.bell, count[:])
}

// post has f called by the loop, if it runs.
func (l *loop) post(f func()) (runs bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.runs || l.over {
		return false
	}
	l.posted = append(l.posted, f)
	_, _ = unix.Write(l.bell, []byte{1, 0, 0, 0, 0, 0, 0, 0}) // of any byte order more than 0
	return true
}

// callPosted calls what was posted, and says whether there is nothing left to do. What
// is posted meanwhile has its turn after others: the bell rings for it.
func (l *loop) callPosted() (over bool) {
	for {
		l.mu.Lock()
		posted := l.posted
		l.posted = nil
		l.over = len(posted) == 0 && l.stopping && l.load.Load() == 0
		l.mu.Unlock()
		if len(posted) == 0 {
			return l.over
		}
		for _, f := range posted {
			f()
		}
		if !l.stopping {
			return false
		}
	}
}

// events are taken from epoll at a time.
const eventsAtOnce = 256

func (l *loop) run() {
	defer func() {
		_ = unix.Close(l.bell)
		_ = unix.Close(l.epoll)
	}()
	var events [eventsAtOnce]unix.EpollEvent
	for {
		l.now = time.Now()
		if l.callPosted() {
			return
		}
		n, _ := unix.EpollWait(l.epoll, events[:], l.patience()) // EINTR alone
		l.now = time.Now()
		for i := range events[:max(n, 0)] {
			token := &events[i]
			index, socket := uint32(token.Fd)>>1, int(token.Fd&1)
			if s := &l.slots[index]; s.of != nil && s.gen == uint32(token.Pad) {
				s.of.ready(socket, token.Events)
			}
		}
		l.goOn()
		l.alarms.ring(l.now)
	}
}

// longest is how long those of loop.more may go on before it is looked whether others
// have something to say.
const longest = time.Millisecond

// goOn has those go on that have had their turn, each once, as long as there is time.
func (l *loop) goOn() {
	more := l.more
	l.more = nil
	for i, f := range more {
		if i > 0 && time.Since(l.now) > longest {
			l.more = append(more[i:], l.more...)
			return
		}
		f.again()
	}
}

// patience is how many milliseconds the loop may wait, -1 for ever.
func (l *loop) patience() int {
	switch {
	case len(l.more) > 0:
		return 0
	case len(l.alarms) == 0:
		return -1
	}
	wait := l.alarms[0].at.Sub(l.now)
	return int(max(0, min((wait+time.Millisecond-1)/time.Millisecond, 1<<30)))
}

// enter gives w a slot.
func (l *loop) enter(w watcher) uint32 {
	l.load.Add(1)
	if n := len(l.free); n > 0 {
		index := l.free[n-1]
		l.free = l.free[:n-1]
		l.slots[index].of = w
		return index
	}
	l.slots = append(l.slots, slot{of: w})
	return uint32(len(l.slots) - 1)
}

// leave gives a slot back.
func (l *loop) leave(index uint32) {
	l.load.Add(-1)
	l.slots[index] = slot{gen: l.slots[index].gen + 1}
	l.free = append(l.free, index)
}

// watch has the one in a slot told of a socket. Closing the socket ends that.
func (l *loop) watch(fd int, index uint32, socket int, events uint32) error {
	return unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{
		Events: events,
		Fd:     int32(index<<1 | uint32(socket)), Pad: int32(l.slots[index].gen),
	})
}

// ---- what waits for a time

// alarm rings at a time.
type alarm struct {
	at    time.Time
	index int // among the alarms; -1: it is none of them
	of    interface{ ring() }
}

// alarms are a heap: the first rings first.
type alarms []*alarm

// set has a ring at a time, or, when it is to ring before that anyway, then: who
// is rung too early sets it again.
func (as *alarms) set(a *alarm, at time.Time) {
	switch {
	case a.index < 0:
		a.at = at
		heap.Push(as, a)
	case at.Before(a.at):
		a.at = at
		heap.Fix(as, a.index)
	}
}

// drop has a not ring.
func (as *alarms) drop(a *alarm) {
	if a.index >= 0 {
		heap.Remove(as, a.index)
	}
}

// ring rings those whose time has come.
func (as *alarms) ring(now time.Time) {
	for len(*as) > 0 && !now.Before((*as)[0].at) {
		a := heap.Pop(as).(*alarm)
		a.of.ring()
	}
}

// Len, Less, Swap, Push and Pop are of heap.Interface.
func (as alarms) Len() int           { return len(as) }
func (as alarms) Less(i, j int) bool { return as[i].at.Before(as[j].at) }
func (as alarms) Swap(i, j int) {
	as[i], as[j] = as[j], as[i]
	as[i].index, as[j].index = i, j
}

// Push is of heap.Interface.
func (as *alarms) Push(a any) {
	a.(*alarm).index = len(*as)
	*as = append(*as, a.(*alarm))
}

// Pop is of heap.Interface.
func (as *alarms) Pop() any {
	last := len(*as) - 1
	a := (*as)[last]
	(*as)[last] = nil
	*as = (*as)[:last]
	a.index = -1
	return a
}
