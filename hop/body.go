package hop

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// The body of a response on its way to the client:
//
//  1. run reads it into one buffer, took looks at what came,
//  2. what came is written when the buffer is full, when the body ends, or when
//     no more follows within patience: bytes that come together leave together,
//     and none waits for long,
//  3. begin writes the header before the first of them, or alone when patience
//     is over first: an event stream opens before its first event. A body that
//     ended before that has a Content-Length from now on; one that is looked at
//     (held) has patience,
//     (a body that is at hand, in memory or in a file, needs none of that: whole, file),
//  4. with an Encoder the client's connection gets what that makes of it, all of
//     it whenever the body pauses.

const (
	// passSize is as much as nginx keeps of a response (proxy_buffers 8 8k). A
	// client's socket and a TLS record cost more than the copying.
	passSize = 64 << 10
	// A buffer with less room left than one part in fullPart is full: a read of
	// the little that is left costs as much as one of the whole.
	fullPart = 8
	// pageStep moves what is read off a page's beginning, where files and sockets
	// have it: processors copy slowly to a place that is some bytes further on in
	// its page than where it comes from, as it is behind bytes that rewriting
	// held back (AMD Zen 4: three times as long).
	pageStep = 256
	// eventSize is for event streams: they are small, many, and open for hours.
	eventSize = 4 << 10
	// patience is how long bytes wait for more. On loopback, and on any line
	// within a region, what an origin sends at once is together within it.
	patience = 2 * time.Millisecond
	// shortBody is a body so short that its header has nothing to show before
	// it.
	shortBody = 32 << 10
	// framePiece and the header of an HTTP/2 frame (RFC 9113 §4.1) are as large
	// as the largest TLS record: one write more and the last nine bytes would
	// take a record and a packet of their own.
	framePiece = 16<<10 - 9
	// passFrames is passSize in whole frames: what is over would be a frame, and a
	// record, of a few bytes.
	passFrames = passSize / framePiece * framePiece
)

var passBuffers = sync.Pool{New: func() any { return new([pageStep + passSize]byte) }}

// While more than manyBodies have a large buffer, as those of which most must be
// waiting, another begins with smallSize, and gets a large one when that was full
// and there are fewer than mostBuffers.
const (
	manyBodies  = 256
	mostBuffers = 2048
	smallSize   = 2 << 10
)

var (
	smallBuffers = sync.Pool{New: func() any { return new([smallSize]byte) }}
	largeBuffers atomic.Int32 // that are in use
)

// passing is one body under way.
type passing struct {
	w       http.ResponseWriter
	r       *http.Request
	res     *http.Response
	opt     Options
	control *http.ResponseController
	timer   *time.Timer // runs late; nil until it is first needed

	mu       sync.Mutex // guards w and all below; run alone changes to, and reads it without
	buffer   []byte
	large    *[pageStep + passSize]byte // buffer's, or nil
	small    *[smallSize]byte           // so is this
	from, to int                        // buffer[from:to] came and is not yet written
	written  int64                      // bytes of the body
	encoder  Encoder                    // nil for none, and before begin
	ended    bool                       // the body has come to its end
	begun    bool                       // the header is written
	armed    bool                       // the timer will call late
	over     bool                       // run has returned
	deadline time.Time
	err      error // of a write
}

// passBody writes the header of res, which is in w.Header(), and its body.
func passBody(w http.ResponseWriter, r *http.Request, res *http.Response, opt Options) error {
	p := &passing{w: w, r: r, res: res, opt: opt, control: http.NewResponseController(w)}
	if opt.Encode == nil && res.ContentLength > 0 && len(res.Trailer) == 0 && r.Method != http.MethodHead {
		if in, ok := res.Body.(interface{ Bytes() []byte }); ok {
			if body := in.Bytes(); int64(len(body)) == res.ContentLength {
				return p.whole(body)
			}
		}
		if in, ok := res.Body.(interface{ File() *os.File }); ok && r.TLS == nil && r.ProtoMajor == 1 {
			if to, ok := w.(io.ReaderFrom); ok {
				if file := in.File(); file != nil {
					return p.file(to, file)
				}
			}
		}
	}
	if strings.HasPrefix(res.Header.Get("Content-Type"), "text/event-stream") {
		p.buffer = make([]byte, eventSize)
		defer p.free()
		return p.run()
	}
	p.takeBuffer(manyBodies)
	defer p.free()
	defer p.giveBuffer()
	return p.run()
}

// takeBuffer gives p a buffer, a large one while fewer than most are in use.
func (p *passing) takeBuffer(most int32) {
	if largeBuffers.Add(1) > most {
		largeBuffers.Add(-1)
		p.small = smallBuffers.Get().(*[smallSize]byte)
		p.buffer = p.small[:]
		return
	}
	p.large = passBuffers.Get().(*[pageStep + passSize]byte)
	p.buffer = p.large[pageStep:][:p.most()]
}

// giveBuffer gives it back at the end. After a failure HTTP/2's server may yet look
// at what it was given.
func (p *passing) giveBuffer() {
	well := p.over && p.err == nil
	if p.large != nil {
		largeBuffers.Add(-1)
		if well {
			passBuffers.Put(p.large)
		}
	} else if well {
		smallBuffers.Put(p.small)
	}
}

// grow takes a large buffer in the place of a small one that was full, and is empty
// now. p.mu is held.
func (p *passing) grow() {
	if p.small == nil || p.to > 0 || largeBuffers.Load() >= mostBuffers {
		return
	}
	small := p.small
	if p.takeBuffer(mostBuffers); p.large != nil {
		p.small = nil
	}
	smallBuffers.Put(small)
}

// most is how much is written at once.
func (p *passing) most() int {
	if p.r.ProtoMajor == 2 {
		return passFrames
	}
	return passSize
}

// whole writes a body that is in memory, and stays there unchanged.
func (p *passing) whole(body []byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(body) > 0 {
		p.buffer = body[:min(len(body), p.most())]
		p.from, p.to = 0, len(p.buffer)
		body = body[p.to:]
		p.ended = len(body) == 0
		if p.write(); p.err != nil {
			return &CopyError{FromClient: true, Err: p.err}
		}
	}
	return nil
}

// file has the kernel send a body that is in a file, from where that stands, to a
// connection of HTTP/1.1 without TLS.
func (p *passing) file(to io.ReaderFrom, file *os.File) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.begin()
	for p.written < p.res.ContentLength {
		most := min(p.res.ContentLength-p.written, passSize)
		p.extend()
		p.opt.Clock.start()
		n, err := to.ReadFrom(io.LimitReader(file, most))
		p.written += n
		if p.opt.Wrote != nil {
			p.opt.Wrote(int(n))
		}
		switch err = p.opt.Clock.finish(err); {
		case err != nil:
			return &CopyError{FromClient: !errors.Is(err, syscall.EIO), Err: err} // the kernel says no more of a file that can't be read
		case n < most:
			return &CopyError{Err: io.ErrUnexpectedEOF}
		}
	}
	return nil
}

func (p *passing) run() error {
	if p.res.ContentLength < 0 || p.res.ContentLength > shortBody {
		p.mu.Lock() // late may call arm before this one has returned
		p.arm()
		p.mu.Unlock()
	}
	for {
		n, err := p.res.Body.Read(p.buffer[p.to:])
		if ended, err := p.took(n, err); ended {
			if p.timer != nil {
				p.timer.Stop()
			}
			return err
		}
	}
}

// took takes in what a read gave, and says whether it was the last one.
func (p *passing) took(n int, err error) (ended bool, _ error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to += n
	full := p.to == len(p.buffer)
	switch {
	case err == io.EOF && p.res.ContentLength < 0 && p.r.Context().Err() != nil:
		// The client left while the response had no end. An origin that heard
		// of it may end the body as if it were whole.
		p.over = true
		return true, &CopyError{FromClient: true, Err: context.Cause(p.r.Context())}
	case err == io.EOF:
		p.over, p.ended = true, true
		p.setLength()
		p.write()
	case err != nil:
		p.over = true
		if !p.begun {
			clear(p.w.Header())
			return true, &CopyError{Unsent: true, Err: err}
		}
		p.write() // so that the client sees how far it went
		p.flush()
		if p.err == nil {
			return true, &CopyError{Err: err}
		}
	case len(p.buffer)-p.to < len(p.buffer)/fullPart || p.written+int64(p.to-p.from) == p.res.ContentLength:
		p.write()
		if p.encoder != nil && !p.armed { // it may keep what it was given
			p.arm()
		}
	case p.to > p.from && !p.armed:
		p.arm()
	}
	if p.err != nil {
		p.over = true
		return true, &CopyError{FromClient: true, Err: p.err}
	}
	if p.from == p.to {
		p.from, p.to = 0, 0
		if full && !p.over {
			p.grow()
		}
	}
	return p.over, nil
}

// arm makes sure that late is called.
func (p *passing) arm() {
	p.armed = true
	if p.timer == nil {
		p.timer = time.AfterFunc(patience, p.late)
	} else {
		p.timer.Reset(patience)
	}
}

// late sends what there is.
func (p *passing) late() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.armed = false
	switch {
	case p.over:
	case !p.begun && p.held():
		p.arm()
	default:
		p.write()
		p.flush()
	}
}

// held says whether the body asks to wait with the header: its first bytes are
// looked at and may be of no use. It does so for a bounded time.
func (p *passing) held() bool {
	body, ok := p.res.Body.(interface{ Holding() bool })
	return ok && body.Holding()
}

// setLength gives a body its length that is whole before the header is out.
func (p *passing) setLength() {
	if p.begun || p.to == p.from || p.res.ContentLength >= 0 || len(p.res.Trailer) > 0 || p.r.Method == http.MethodHead {
		return
	}
	p.w.Header()["Content-Length"] = []string{strconv.Itoa(p.to - p.from)}
}

// begin writes the header, once.
func (p *passing) begin() {
	if !p.begun {
		p.begun = true
		if p.opt.Encode != nil {
			p.encoder = p.opt.Encode(p.w.Header(), p.to-p.from, wire{p})
		}
		p.extend()
		p.w.WriteHeader(p.res.StatusCode)
	}
}

// write hands what came to the client's connection, after the header.
func (p *passing) write() {
	p.begin()
	most := len(p.buffer)
	if p.r.ProtoMajor == 2 {
		most = framePiece
	}
	together := burstOf(p.r.Context())
	together.begin()
	for p.from < p.to && p.err == nil {
		piece := p.buffer[p.from:min(p.to, p.from+most)]
		p.from += len(piece)
		p.extend()
		p.opt.Clock.start()
		p.put(piece)
	}
	if p.ended && p.encoder != nil && p.err == nil {
		p.err = p.encoder.Close()
	}
	if err := together.end(); p.err == nil {
		p.err = err
	}
	p.err = p.opt.Clock.finish(p.err)
}

// put writes a piece, through the encoder if there is one.
func (p *passing) put(piece []byte) {
	n := 0
	if p.encoder != nil {
		n, p.err = p.encoder.Write(piece)
	} else {
		n, p.err = wire{p}.Write(piece)
	}
	p.written += int64(n)
}

// wire is the client's connection.
type wire struct{ *passing }

func (w wire) Write(p []byte) (int, error) {
	n, err := w.w.Write(p)
	if w.opt.Wrote != nil {
		w.opt.Wrote(n)
	}
	return n, err
}

// free lets go of the encoder.
func (p *passing) free() {
	if p.encoder != nil {
		p.encoder.Free()
	}
}

func (p *passing) flush() {
	if p.encoder != nil && p.err == nil && !p.ended {
		p.opt.Clock.start()
		p.err = p.opt.Clock.finish(p.encoder.Flush())
	}
	if p.err == nil {
		p.opt.Clock.start()
		p.err = p.opt.Clock.finish(p.control.Flush())
	}
}

// extend gives the client WriteTimeout from now, give or take an eighth. A
// stream of HTTP/2 pays for a deadline, and its beginning rarely blocks: the
// connection's WriteByteTimeout minds that.
func (p *passing) extend() {
	if p.opt.WriteTimeout <= 0 || (p.r.ProtoMajor != 1 && p.written == 0) {
		return
	}
	now := time.Now()
	if p.deadline.Sub(now) < p.opt.WriteTimeout/8*7 {
		p.deadline = now.Add(p.opt.WriteTimeout)
		_ = p.control.SetWriteDeadline(p.deadline)
	}
}
