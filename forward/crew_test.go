package forward

import (
	"sync"
	"testing"
	"testing/synctest"
)

// TestCrew sees that goroutines are used again, that few wait, and that none does
// once they are dismissed.
func TestCrew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var tasks sync.WaitGroup
		c := newCrew(&tasks)
		waiting := func() int {
			synctest.Wait()
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.waiting
		}
		gate := make(chan struct{})
		work := func() { <-gate }
		for range 2 * mostWaiting {
			c.run(work)
		}
		if n := waiting(); n != 0 {
			t.Errorf("%d wait while all work", n)
		}
		close(gate)
		if n := waiting(); n != mostWaiting {
			t.Errorf("%d wait, of %d that worked", n, 2*mostWaiting)
		}
		gate = make(chan struct{})
		for range 10 {
			c.run(work)
		}
		if n := waiting(); n != mostWaiting-10 {
			t.Errorf("%d wait while 10 work", n)
		}
		c.dismiss()
		if n := waiting(); n != 0 {
			t.Errorf("%d wait once they are dismissed", n)
		}
		ran := false
		c.run(func() { ran = true })
		close(gate)
		tasks.Wait()
		if !ran {
			t.Error("what is handed in late does not run")
		}
	})
}
