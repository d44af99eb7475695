package hop

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"
)

// SendClock is how long a client may take for what is written to it, over
// HTTP/1.1 and HTTP/2 alike, and whether it takes nothing at all or too little:
//
//  1. http.Server.WriteTimeout, which must be the clock's, sets the first write
//     deadline when the request's header is in. Most requests end long before
//     half of it, and cost nothing more.
//  2. At half time rest lifts the deadline, unless a write is under way: how
//     long the origin takes is not the client's fault. Over HTTP/2 a deadline
//     would end the stream even though nobody writes.
//  3. start, before a write, sets a deadline when none stands or less than half
//     of it is left.
//  4. Stop leaves a deadline behind: net/http sends the last bytes after the
//     handler, and over HTTP/2 waits there for the client's window.
//
// A nil SendClock does nothing.
type SendClock struct {
	control *http.ResponseController
	timeout time.Duration
	timer   *time.Timer // runs rest

	mu      sync.Mutex // guards the rest, and control: it must not be used after the handler
	until   time.Time  // the write deadline that stands; zero is none
	writing bool
	missed  bool // rest came while a write was under way
	over    bool
}

// NewSendClock starts the clock of the response w at the beginning of its
// handler, which must call Stop at its end.
func NewSendClock(w http.ResponseWriter, timeout time.Duration) *SendClock {
	c := &SendClock{control: http.NewResponseController(w), timeout: timeout, until: time.Now().Add(timeout)}
	c.timer = time.AfterFunc(timeout/2, c.rest)
	return c
}

// rest lifts the deadline.
func (c *SendClock) rest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.over:
	case c.writing:
		c.missed = true
	default:
		c.until = time.Time{}
		_ = c.control.SetWriteDeadline(c.until)
	}
}

// start says that a write begins.
func (c *SendClock) start() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = true
	if c.renew() {
		c.timer.Reset(c.timeout / 2)
	}
}

// renew sets a deadline when none stands or less than half of it is left.
func (c *SendClock) renew() bool {
	now := time.Now()
	if c.over || c.until.Sub(now) >= c.timeout/2 {
		return false
	}
	c.until = now.Add(c.timeout)
	_ = c.control.SetWriteDeadline(c.until)
	return true
}

// finish says that a write ended, with err. A failure for which the deadline is
// the reason is os.ErrDeadlineExceeded, which net/http does not say of HTTP/2.
func (c *SendClock) finish(err error) error {
	if c == nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writing = false
	if err != nil && !c.until.IsZero() && !time.Now().Before(c.until) && !errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("nothing taken for %v: %w: %w", c.timeout, os.ErrDeadlineExceeded, err)
	}
	if c.missed {
		c.missed = false
		c.timer.Reset(0)
	}
	return err
}

// Stop ends the clock and leaves the client its time for what net/http still
// holds.
func (c *SendClock) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.renew()
	c.over = true
	c.timer.Stop()
}

// release ends the clock of a connection that is no response any more.
func (c *SendClock) release() {
	if c == nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	c.timer.Stop()
}
