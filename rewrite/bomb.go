package rewrite

import (
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"time"
)

// A bomb is a coded body that is small and opens to more than anyone has room for. It is refused by
// its ratio (ErrRatio), which is certain only once maxFreeText bytes have been opened. So that the
// client is told of it, and does not get a beginning that breaks off:
//
//  1. opening keeps the coded bytes up to the first text.
//  2. defuse looks at that text. When it is long and came from next to nothing, it reads on, opens
//     and lets go of the text, until it is a bomb, an end, or grows no more than other texts. A bomb
//     has few coded bytes by its nature, and they are waited for at most maxLook.
//  3. Meanwhile Holding asks whoever answers to wait with the header, and for firstWait before the
//     first coded bytes have come.
//  4. What is no bomb is opened again from the bytes that were kept, and goes its way.
//
// Other texts pay for the copy of their first coded bytes, and wait for nothing. A bomb that begins
// with ordinary text, or long after its header, is cut off when it is known for one; so are event
// streams.

const (
	// firstLook is how much text has to come before it may be suspicious.
	firstLook = 16 << 10
	// freeLead coded bytes do not count: the tables of deflate, and some text before a bomb.
	freeLead = 256
	// growsLess is what deflate's bombs do (1029:1), and a little less.
	growsLess = maxRatio * 9 / 10
	// firstWait is how long the first coded bytes are waited for with the header: without any there
	// is nothing to show.
	firstWait = 50 * time.Millisecond
	// maxLook is how long a suspicious body is waited for, beside the time that it takes to open it.
	maxLook = time.Second
)

// suspicious says whether so much text from so few coded bytes may be the beginning of a bomb. It
// says so of no more than 75 KiB of them.
func suspicious(text, coded int64) bool {
	return text >= firstLook && coded < freeLead+text/growsLess
}

// opening is what a source keeps until the first text has come.
type opening struct {
	kept    []byte
	holding *atomic.Bool
	arrived *atomic.Bool // a read has ended
	looks   *patient     // nil for most
}

// patient is an origin's body that is waited for up to a time.
type patient struct {
	origin io.Reader
	left   time.Duration // for waiting
	free   bool          // there is no limit any more
	piece  chan piece    // of the read that is under way, nil when there is none
	rest   piece
}

// piece is what a read gave.
type piece struct {
	bytes []byte
	err   error
}

// errStillComing says that the time is over. The read goes on.
var errStillComing = errors.New("the body is still coming")

// Read has the origin read by a goroutine: it ends when the origin gives something or is closed.
func (o *patient) Read(p []byte) (int, error) {
	if len(o.rest.bytes) == 0 && o.rest.err == nil {
		if o.piece == nil && o.free {
			return o.origin.Read(p)
		}
		if !o.await() {
			return 0, errStillComing
		}
	}
	n := copy(p, o.rest.bytes)
	if o.rest.bytes = o.rest.bytes[n:]; len(o.rest.bytes) > 0 {
		return n, nil
	}
	err := o.rest.err
	o.rest = piece{}
	return n, err
}

// await waits for the read under way, or for a new one; false when the time is over before.
func (o *patient) await() bool {
	if o.piece == nil {
		o.piece = make(chan piece, 1)
		go func(origin io.Reader, came chan<- piece) {
			buf := make([]byte, readAhead)
			n, err := origin.Read(buf)
			came <- piece{buf[:n], err}
		}(o.origin, o.piece)
	}
	if o.free {
		o.end()
		return true
	}
	begun, over := time.Now(), time.NewTimer(o.left)
	defer over.Stop()
	select {
	case o.rest = <-o.piece:
		o.piece, o.left = nil, o.left-time.Since(begun)
		return true
	case <-over.C:
		return false
	}
}

// end waits for a read under way: for more, or because the origin has been closed.
func (o *patient) end() {
	if o.piece != nil {
		o.rest, o.piece = <-o.piece, nil
	}
}

// read reads from the origin, and keeps what comes.
func (s *source) read(p []byte) (int, error) {
	start := s.start
	switch {
	case start == nil:
		return s.origin.Read(p)
	case start.looks == nil:
		start.holding.Store(false) // it may wait
	}
	n, err := s.origin.Read(p)
	start.arrived.Store(true)
	if start.holding.Store(n > 0 || start.looks != nil); start.looks == nil && len(start.kept)+n > aheadSize {
		s.start = nil // so many are not suspicious
		start.holding.Store(false)
		return n, err
	}
	start.kept = append(start.kept, p[:n]...)
	return n, err
}

// defuse is the first text, n bytes, unless it is a bomb's.
func (b *body) defuse(text []byte, n int, err error) (int, error) {
	start := b.source.start
	defer func() { b.source.start, b.work.opening = nil, opening{} }()
	if err != nil || !suspicious(b.dec.out, b.dec.coded()) {
		b.holding.Store(err != nil && err != io.EOF && n == 0) // of a failure the reader is to hear first
		return n, err
	}
	b.holding.Store(true)
	start.kept = slices.Clone(start.kept)
	start.looks = &patient{origin: b.source.origin, left: maxLook}
	b.source.origin = start.looks
	let := make([]byte, chunkSize)
	for err == nil && suspicious(b.dec.out, b.dec.coded()) {
		_, err = b.dec.Read(let)
	}
	start.looks.free = true
	if err != nil && err != io.EOF && !errors.Is(err, errStillComing) {
		return 0, err // and still holding: no header goes out before whoever reads hears of it
	}
	b.holding.Store(false)
	b.dec.free()
	b.source.ahead, b.source.bytes, b.source.start = start.kept, 0, nil
	b.dec = newDecoder(b.came, &b.source)
	return b.readText(text)
}

// Holding says whether the body has come, and is looked at before any of it is given. Whoever
// answers with it does well to wait with the header, which Read may yet fail without a byte.
func (b *body) Holding() bool {
	return b.holding.Load() || !b.awaited.IsZero() && !b.arrived.Load() && time.Since(b.awaited) < firstWait
}
