package forward

import (
	"sync"
	"sync/atomic"
	"time"

	"causeway/outcome"
)

// records hands the records of ended connections to a sink, in a goroutine: a log
// that nobody reads makes that one wait, and no loop. Those of recordsTime after
// others wait for each other, so that it is woken once for all of them.
type records struct {
	sink    outcome.ConnectionSink
	backlog atomic.Int64 // records that are not handed out

	mu      sync.Mutex // guards the rest
	waiting []ended
	wake    *sync.Cond
	closed  bool
	tasks   sync.WaitGroup
	runs    bool
}

// ended is a connection that has ended. placed: it has its places still.
type ended struct {
	*passing
	placed bool
}

const (
	recordsTime = 10 * time.Millisecond
	// recordsMost may wait; what ends when so many do keeps its places, so that
	// limits.connections is a limit of this too.
	recordsMost = 1024
)

func newRecords(sink outcome.ConnectionSink) *records {
	r := &records{sink: sink}
	r.wake = sync.NewCond(&r.mu)
	return r
}

// full says that a log is not read: no more should come.
func (r *records) full() bool { return r.backlog.Load() >= 2*recordsMost }

// put takes a record. placed: the connection has places, which are given back.
func (r *records) put(p *passing, placed bool) {
	r.mu.Lock()
	if placed && len(r.waiting) < recordsMost {
		p.leave()
		placed = false
	}
	r.waiting = append(r.waiting, ended{p, placed})
	r.backlog.Add(1)
	if !r.runs {
		r.runs = true
		r.tasks.Go(r.run)
	}
	first := len(r.waiting) == 1
	r.mu.Unlock()
	if first {
		r.wake.Signal()
	}
}

func (r *records) run() {
	var taken []ended
	for {
		r.mu.Lock()
		for len(r.waiting) == 0 && !r.closed {
			r.wake.Wait()
		}
		taken, r.waiting = r.waiting, taken[:0]
		closed := r.closed
		r.mu.Unlock()
		for i, e := range taken {
			r.sink.EmitConnection(&e.record)
			r.backlog.Add(-1)
			if e.placed {
				e.leave()
			}
			taken[i] = ended{}
		}
		if len(taken) == 0 && closed {
			return
		}
		if !closed {
			time.Sleep(recordsTime)
		}
	}
}

// recordsWait is how long a sink may take for what is left at the end.
const recordsWait = time.Second

// close waits until all that was put is handed out, but not for ever for a sink that
// takes nothing.
func (r *records) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.wake.Signal()
	done := make(chan struct{})
	go func() { r.tasks.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(recordsWait):
	}
}
