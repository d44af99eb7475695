package hop

import (
	"fmt"
	"io"
	"time"
)

// Silence is the error of waiting too long for the far side.
type Silence struct{ For time.Duration }

func (s *Silence) Error() string { return fmt.Sprintf("silent for %v", s.For) }

// Watched is the body of a response, a read of which ends with a *Silence when
// no byte came for so long. One goroutine may use it.
type Watched struct {
	io.ReadCloser
	Idle time.Duration
	End  func() error // makes a read fail that waits

	timer *time.Timer // nil until the first read
	late  bool        // the timer fired
}

func (b *Watched) Read(p []byte) (int, error) {
	if b.timer == nil {
		b.timer = time.AfterFunc(b.Idle, func() { _ = b.End() })
	} else {
		b.timer.Reset(b.Idle)
	}
	n, err := b.ReadCloser.Read(p)
	if !b.timer.Stop() {
		b.late = true
	}
	if b.late && err != nil && err != io.EOF {
		err = &Silence{b.Idle}
	}
	return n, err
}

// Close closes the body and forgets the timer.
func (b *Watched) Close() error {
	if b.timer != nil {
		b.timer.Stop()
	}
	return b.ReadCloser.Close()
}
