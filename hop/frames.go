package hop

import (
	"crypto/tls"
	"encoding/binary"
	"math"
	"net"
	"sync"
	"time"
)

// frames is a client's connection of HTTP/2 as its server reads and writes it. Read
// goes frame by frame:
//
//  1. next looks at the header of a frame. Most frames are passed on as they came,
//  2. HEADERS and what continues them are read whole (fragment). What they say is
//     answered at once (answers.go), or given to the server in a block of its own,
//  3. what concerns streams that were answered here, of which the server knows
//     nothing, is left out (ofOurs), and of the client's window for the connection
//     a part is kept for those answers (window).
//
// A frame that is wrong ends the connection, and to say so is the server's: from
// there on all is passed on as it comes (raw).
type frames struct {
	conn    net.Conn // of TLS, or a test's
	options *StrictOptions
	state   *tls.ConnectionState

	// Of Read, which one goroutine at a time calls.

	in      []byte          // read, and neither passed on nor looked at
	small   [frameHead]byte // under in while nothing is expected
	large   *[largeRead]byte
	pass    int    // bytes of in, and then of the connection, to pass on
	out     []byte // to be read before those
	written *block // under out
	err     error  // what Read says once both are read
	raw     bool
	timed   bool // a block of fields has a deadline

	block    *block // that has begun and not ended
	decoder  decoder
	lastSeen uint32 // the last stream that the client opened
	lastOn   uint32 // the last of them that the server was told of

	answering
}

// largeRead is what is read at once of what a client sends: its requests, together.
const largeRead = 4 << 10

var largeReads = sync.Pool{New: func() any { return new([largeRead]byte) }}

func newFrames(conn net.Conn, options *StrictOptions) *frames {
	f := &frames{conn: conn, options: options, pass: prefaceLen}
	f.in = f.small[:0]
	f.decoder.init()
	f.answering.init(conn)
	return f
}

// Read gives the server what it is to see.
func (f *frames) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	defer f.flush()
	for len(f.out) == 0 && f.pass == 0 && f.err == nil {
		f.next()
	}
	switch {
	case len(f.out) > 0:
		n := copy(p, f.out)
		if f.out = f.out[n:]; len(f.out) == 0 {
			f.written.free()
			f.written = nil
		}
		return n, nil
	case f.pass == 0:
		return 0, f.err
	case len(f.in) == 0:
		f.flush()
		n, err := f.conn.Read(p[:min(len(p), f.pass)])
		f.pass -= n
		return n, err
	}
	n := copy(p, f.in[:min(len(f.in), f.pass)])
	f.pass -= n
	f.drop(n)
	return n, nil
}

// need has at least n bytes in f.in; false when the connection ended before, with
// what came of them to be passed on.
func (f *frames) need(n int) bool {
	have := len(f.in)
	if have >= n {
		return true
	}
	room := f.small[:]
	switch {
	case n > largeRead:
		room = make([]byte, n)
	case n > len(room) || f.large != nil:
		if f.large == nil {
			f.large = largeReads.Get().(*[largeRead]byte)
		}
		room = f.large[:]
	}
	copy(room, f.in)
	for have < n {
		f.flush()
		k, err := f.conn.Read(room[have:])
		have += k
		f.in = room[:have]
		if err != nil && have < n {
			f.err, f.pass = err, have
			return false
		}
	}
	return true
}

// drop is done with the first n bytes of f.in.
func (f *frames) drop(n int) {
	if f.in = f.in[n:]; len(f.in) == 0 {
		if f.large != nil {
			largeReads.Put(f.large)
			f.large = nil
		}
		f.in = f.small[:0]
	}
}

// spoil passes everything on from now, behind what is in f.out: the server will find
// what is wrong with it.
func (f *frames) spoil() {
	f.raw, f.pass = true, math.MaxInt
	f.time(false)
}

// next looks at the next frame.
func (f *frames) next() {
	if f.raw || !f.need(frameHead) {
		f.pass = max(f.pass, len(f.in))
		return
	}
	length := int(f.in[0])<<16 | int(f.in[1])<<8 | int(f.in[2])
	kind, flags, stream := f.in[3], f.in[4], binary.BigEndian.Uint32(f.in[5:])&^(1<<31)
	if f.block != nil && (kind != frameContinuation || stream != f.block.stream) {
		f.out = f.block.opened() // so that the server misses the rest
		f.written, f.block = f.block, nil
		f.spoil()
		return
	}
	switch kind {
	case frameHeaders, frameContinuation:
		if length > mostFrame || kind == frameContinuation && f.block == nil {
			f.spoil()
			return
		}
		if len(f.in) < frameHead+length || flags&flagEndHeaders == 0 {
			f.time(true)
		}
		if f.need(frameHead + length) {
			f.fragment(kind, flags, stream, f.in[frameHead:frameHead+length])
		}
		return
	case frameSettings:
		if flags&flagACK == 0 && stream == 0 && length <= mostFrame && length%6 == 0 {
			if f.need(frameHead + length) {
				f.settings(f.in[frameHead : frameHead+length])
			}
			return
		}
	case frameData:
		if flags&flagEndStream != 0 {
			delete(f.uploads, stream)
		}
	case frameWindow, frameReset:
		if kind == frameReset {
			delete(f.uploads, stream)
		}
		if length == 4 {
			if !f.need(frameHead + length) {
				return
			}
			if f.ofOurs(stream) || kind == frameWindow && stream == 0 && f.window(f.in[frameHead:frameHead+length]) {
				f.drop(frameHead + length)
				return
			}
		}
	}
	f.pass = frameHead + length
}

// ofOurs reports whether a stream was answered here, and the server does not know
// that it ever was. Of others that were, it takes it that they are closed, as one
// above them was opened, unless that was malformed: then it ends the connection of a
// client that has more to say of such a stream.
func (f *frames) ofOurs(stream uint32) bool {
	return stream%2 == 1 && stream > f.lastOn && stream <= f.lastSeen
}

// settings passes on the client's settings.
func (f *frames) settings(payload []byte) {
	length := lastOfEach(payload)
	f.learn(payload[:length])
	head := f.in[:frameHead]
	head[0], head[1], head[2] = byte(length>>16), byte(length>>8), byte(length)
	if length < len(payload) { // what follows moves up
		f.in = append(f.in[:frameHead+length], f.in[frameHead+len(payload):]...)
	}
	f.pass = frameHead + length
}

// fragment is a frame with a part of a block, or all of it.
func (f *frames) fragment(kind, flags byte, stream uint32, payload []byte) {
	size := frameHead + len(payload)
	if kind == frameHeaders {
		b := newBlock(stream, flags)
		var ok bool
		if payload, ok = b.bare(payload, flags); !ok || stream == 0 || f.ofOurs(stream) { // the last can't be the server's to know: it is told of stream 0
			if ok && stream != 0 {
				clear(f.in[5:frameHead])
			}
			b.free()
			f.spoil()
			return
		}
		f.block = b
	}
	b := f.block
	f.decoder.read(b, payload, f.options.HeaderBytes)
	f.drop(size)
	if flags&flagEndHeaders == 0 && b.wrong == nil {
		b.parts++
		return
	}
	f.block = nil
	if b.wrong == nil {
		b.wrong = f.decoder.end()
	}
	f.time(false)
	opens := stream%2 == 1 && stream > f.lastSeen
	if opens {
		f.lastSeen = stream
		if b.wrong == nil && f.answered(b) {
			b.free()
			return
		}
		if !b.refused { // of which net/http knows nothing then
			f.lastOn = stream
		}
		f.noteOn()
	}
	f.upload(b)
	f.out, f.written = b.whole(), b
	if b.wrong != nil {
		f.spoil()
	}
}

// upload notes whether the server will be sent more of a stream.
func (f *frames) upload(b *block) {
	switch {
	case f.options.Ahead == nil:
	case b.flags&flagEndStream != 0:
		delete(f.uploads, b.stream)
	case len(f.uploads) < mostUploads:
		if f.uploads == nil {
			f.uploads = map[uint32]struct{}{}
		}
		f.uploads[b.stream] = struct{}{}
	}
}

// mostUploads is what is noted of them. One that the server gave up, and of which the
// client said nothing more, stays.
const mostUploads = 256

// time gives the block of fields that begins its time, and lifts it when it has
// ended.
func (f *frames) time(begins bool) {
	if f.options.Header <= 0 || f.timed == begins {
		return
	}
	var until time.Time
	if f.timed = begins; begins {
		until = time.Now().Add(f.options.Header)
	}
	_ = f.conn.SetReadDeadline(until)
}
