package forward

import "sync"

// crew runs connections in goroutines that are used again: one that has done its
// work waits for more, with the stack that it has grown. Growing it anew takes
// 4 % of what a short connection takes (perf).
type crew struct {
	tasks *sync.WaitGroup // waits for them
	hand  chan func()     // work, to one that waits
	over  chan struct{}   // closed by dismiss
	once  sync.Once

	mu      sync.Mutex // guards waiting
	waiting int
}

// mostWaiting goroutines wait for work: as many connections as begin in the
// moment in which as many end.
const mostWaiting = 32

func newCrew(tasks *sync.WaitGroup) *crew {
	return &crew{tasks: tasks, hand: make(chan func()), over: make(chan struct{})}
}

// run runs work in a goroutine.
func (c *crew) run(work func()) {
	select {
	case c.hand <- work:
	default:
		c.tasks.Go(func() {
			for ok := true; ok; work, ok = c.next() {
				work()
			}
		})
	}
}

// next waits for work. ok is false when enough others do, or nobody is to wait
// any more.
func (c *crew) next() (work func(), ok bool) {
	if !c.wait(1) {
		return nil, false
	}
	defer c.wait(-1)
	select {
	case work = <-c.hand:
		return work, true
	case <-c.over:
		return nil, false
	}
}

// wait counts who waits.
func (c *crew) wait(more int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting+more > mostWaiting {
		return false
	}
	c.waiting += more
	return true
}

// dismiss sends those home that wait. What is handed in later is still run.
func (c *crew) dismiss() { c.once.Do(func() { close(c.over) }) }
