package rewrite

import (
	"bufio"
	"errors"
	"io"
	"math/bits"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/andybalholm/brotli"
	"github.com/andybalholm/brotli/matchfinder"
)

// brotliWriter is brotli.NewWriterV2 at level 4, twice as fast as the ported encoder, with the
// Flush that it lacks.
//
//  1. Write collects blocks of brotliBlock bytes, block encodes them.
//  2. Flush has the encoder end the stream, which brings it to a byte boundary, and turns the
//     end mark into an empty metadata block (RFC 7932 section 9.2), after which more may follow.
//  3. Close ends the stream.
//
// What has been written and its hashes, 4 to 6 MB, are a finder's. A writer takes one when it
// encodes. While more than mostFinders are taken it gives it back with each Flush, after which text
// may not come for hours; what comes then finds nothing like it in what was before.
type brotliWriter struct {
	dst     io.Writer
	finder  *matchfinder.Trio // nil for none
	encoder brotli.Encoder
	in, out []byte
	matches []matchfinder.Match
	ragged  bool // the encoder holds back bits
	err     error
}

const brotliBlock = 1 << 16

var (
	mostFinders = int32(max(8, runtime.GOMAXPROCS(0)))
	finders     = sync.Pool{New: func() any { return &matchfinder.Trio{MaxDistance: 1 << 20} }}
	taken       atomic.Int32 // of them
)

func newBrotliWriter() *brotliWriter { return new(brotliWriter) }

func (w *brotliWriter) Reset(dst io.Writer) {
	w.forget()
	w.encoder.Reset()
	w.dst, w.in, w.ragged, w.err = dst, w.in[:0], false, nil
}

// forget gives the finder back.
func (w *brotliWriter) forget() {
	if w.finder != nil {
		w.finder.Reset()
		finders.Put(w.finder)
		w.finder = nil
		taken.Add(-1)
	}
}

func (w *brotliWriter) Write(p []byte) (int, error) {
	total := len(p)
	for len(p) > 0 && w.err == nil {
		n := min(len(p), brotliBlock-len(w.in))
		w.in = append(w.in, p[:n]...)
		p = p[n:]
		if len(w.in) == brotliBlock {
			w.block(false)
			w.send()
		}
	}
	return total - len(p), w.err
}

func (w *brotliWriter) Flush() error {
	if w.err != nil || len(w.in) == 0 && !w.ragged {
		return w.err
	}
	w.block(true)
	w.reopen()
	w.send()
	if taken.Load() > mostFinders {
		w.forget()
		w.in, w.out, w.matches = nil, nil, nil
	}
	return w.err
}

func (w *brotliWriter) Close() error {
	if w.err == nil {
		w.block(true)
		w.send()
	}
	w.forget()
	return w.err
}

// block encodes what was collected; last ends the stream behind it.
func (w *brotliWriter) block(last bool) {
	w.matches = w.matches[:0]
	if len(w.in) > 0 {
		if w.finder == nil {
			w.finder = finders.Get().(*matchfinder.Trio)
			taken.Add(1)
		}
		w.matches = w.finder.FindMatches(w.matches, w.in)
	}
	w.out = w.encoder.Encode(w.out[:0], w.in, w.matches, last)
	w.in, w.ragged = w.in[:0], !last
}

func (w *brotliWriter) send() {
	if len(w.out) > 0 && w.err == nil {
		_, w.err = w.dst.Write(w.out)
	}
}

// reopen turns the two set bits at the very end, ISLAST and ISLASTEMPTY, into the six bits of an
// empty metadata block: not last, MNIBBLES 3, reserved 0, MSKIPBYTES 0; from the lowest: 0 11 0 00.
func (w *brotliWriter) reopen() {
	n := max(0, len(w.out)-2) // the marks lie in the last two bytes
	tail := uint32(0)
	for i, c := range w.out[n:] {
		tail |= uint32(c) << (8 * i)
	}
	last := bits.Len32(tail) - 2 // where ISLAST is
	tail += 1<<(last+1) + 1<<last
	w.out = w.out[:n]
	for range (last + 6 + 7) / 8 {
		w.out = append(w.out, byte(tail))
		tail >>= 8
	}
}

// brotliReader is a brotli.Reader
//
//  1. that takes its first bytes in growing pieces: brotli takes whatever there is into a buffer of
//     its own, and how much of that the text came from could not be told (bomb.go);
//  2. that takes a stream for whole whose last bytes come on their own: brotli v1.2.8 counts them
//     twice and says that there is too much.
type brotliReader struct {
	text  brotli.Reader
	src   *bufio.Reader
	piece int  // the most that the next read of src gives
	last  int  // bytes that the last read of src gave
	ready bool // no read may wait: there is text to give
}

const (
	// mostCarried is what a brotli.Reader keeps of one piece for the next.
	mostCarried = 8
	firstPiece  = 128
)

func (r *brotliReader) open(src *bufio.Reader) error {
	r.src, r.piece, r.last, r.ready = src, firstPiece, 0, false
	return r.text.Reset(brotliSource{r})
}

func (r *brotliReader) Read(p []byte) (n int, err error) {
	for {
		var more int
		more, err = r.text.Read(p[n:])
		n += more
		r.ready = n > 0
		if err != nil || n == len(p) || r.piece > readAhead || r.src.Buffered() == 0 {
			break
		}
	}
	if r.ready = false; err == errWouldWait {
		return n, nil
	}
	if err != nil && err.Error() == "brotli: excessive input" && r.last <= mostCarried {
		err = io.EOF
	}
	return n, err
}

// errWouldWait says that nothing is there for now.
var errWouldWait = errors.New("the next piece is still coming")

// brotliSource is what the text of a brotliReader reads from.
type brotliSource struct{ *brotliReader }

func (s brotliSource) Read(p []byte) (n int, err error) {
	if s.ready && s.src.Buffered() == 0 {
		return 0, errWouldWait
	}
	if s.piece <= readAhead {
		p = p[:min(len(p), s.piece)]
		s.piece *= 2
	}
	if n, err = s.src.Read(p); n > 0 {
		s.last = n
	}
	return n, err
}
