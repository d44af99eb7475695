package rewrite

import (
	"sync"
	"sync/atomic"
)

// work is the memory of one body, pooled.
type work struct {
	stream  Stream
	opening opening
	chunk   []byte    // text as the origin has it
	ahead   []byte    // what Response read
	text    []byte    // rewritten, for the encoder
	staged  [2][]byte // between the stages
	out     []byte    // for Read
	small   bool      // made so
	counted bool      // in underWay
	full    bool      // the last read filled chunk
}

// While more than manyWorks bodies are under way, of which most must be waiting, another begins with
// as little memory as will do, and up to mostGrown get more when that was full. Event streams, which
// are open for hours and short, have little and are not counted.
const (
	manyWorks  = 128
	smallWork  = 4 << 10
	smallAhead = 1 << 10
	grownWork  = 32 << 10
	mostGrown  = 1024
)

var (
	works      = sync.Pool{New: func() any { return newWork(chunkSize, aheadSize) }}
	smallWorks = sync.Pool{New: func() any { return newWork(smallWork, smallAhead) }}
	underWay   atomic.Int32
	grown      atomic.Int32 // small ones
)

func newWork(chunk, ahead int) *work {
	w := &work{chunk: make([]byte, chunk), ahead: make([]byte, ahead), small: chunk == smallWork}
	if !w.small {
		w.out = make([]byte, 0, chunk+chunk/4)
	}
	return w
}

// takeWork gives memory for a body, until give.
func takeWork(kind string) *work {
	if kind == eventStream {
		return smallWorks.Get().(*work)
	}
	pool := &works
	if underWay.Add(1) > manyWorks {
		pool = &smallWorks
	}
	w := pool.Get().(*work)
	w.counted = true
	return w
}

// grow gives w more when the last read filled what it has.
func (w *work) grow() {
	if !w.small || !w.full || len(w.chunk) > smallWork {
		return
	}
	if grown.Add(1) > mostGrown {
		grown.Add(-1)
		return
	}
	w.chunk = make([]byte, grownWork)
}

// give gives it back, but for what grew out of proportion.
func (w *work) give() {
	if w.counted {
		underWay.Add(-1)
	}
	w.counted, w.full = false, false
	pool, kept := &works, 2*chunkSize
	if w.small {
		pool, kept = &smallWorks, 4*smallWork
		if len(w.chunk) > smallWork {
			grown.Add(-1)
			return
		}
		if len(w.ahead) > smallAhead {
			w.ahead = make([]byte, smallAhead)
		}
	}
	for _, grown := range []*[]byte{&w.text, &w.staged[0], &w.staged[1], &w.out} {
		if cap(*grown) > kept {
			*grown = nil
		}
	}
	pool.Put(w)
}

func (w *work) Write(p []byte) (int, error) {
	w.out = append(w.out, p...)
	return len(p), nil
}
