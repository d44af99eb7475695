package rewrite

import (
	"errors"
	"fmt"
	"net/http"
	"sync"
)

// maxShort is the longest payload of a frame that is looked at as a whole: a message in one such
// frame leaves in one frame.
const maxShort = 16 << 10

// direction is what one side of a WebSocket says. take is for one goroutine; close may come from
// another.
type direction struct {
	replacer *Replacer
	masked   bool     // the side is the client
	history  *history // nil: its messages are not compressed

	mu   sync.Mutex // guards all below
	err  error      // ends the direction
	held []byte     // the beginning of a frame: its header, and the payload if it is short
	left uint64     // bytes of a long frame that have not come
	work *frameWork // of the take under way
	message
}

// message is the one under way, if it is one.
type message struct {
	frame    frame // the latest of its frames
	kind     byte  // text or binary; 0: there is none
	packed   bool  // it is compressed
	opened   bool  // its first frame has left
	stream   Stream
	recoding // of a compressed one
}

// take maps src, as it comes from the side, and appends to w.out what is certain. After an error it
// takes no more.
func (d *direction) take(w *frameWork, src []byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.work = w
	for len(src) > 0 && d.err == nil {
		if d.left > 0 {
			n := min(d.left, uint64(len(src)))
			d.left -= n
			d.err = d.piece(src[:n])
			src = src[n:]
			continue
		}
		var b []byte
		if b, src = d.gather(src); b != nil {
			d.err = d.came(b)
			d.release()
		}
	}
	if d.work = nil; d.err != nil {
		d.end()
	}
	return d.err
}

// close gives back all memory.
func (d *direction) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = http.ErrBodyReadAfterClose
	}
	d.end()
	d.release()
}

// beginnings are what held is made of.
var beginnings = sync.Pool{New: func() any { return new([maxFrameHeader + maxShort]byte) }}

// gather takes from src what is missing of the next frame: all of a short one, the header of a long
// one. frame is nil when that has not come.
func (d *direction) gather(src []byte) (frame, rest []byte) {
	if d.held == nil {
		if n, ok := firstOf(src); ok && n <= len(src) {
			return src[:n], src[n:]
		}
		d.held = beginnings.Get().(*[maxFrameHeader + maxShort]byte)[:0]
	}
	for {
		n, ok := firstOf(d.held)
		if ok && n == len(d.held) {
			return d.held, src
		}
		if len(src) == 0 {
			return nil, nil
		}
		n = min(n-len(d.held), len(src))
		d.held, src = append(d.held, src[:n]...), src[n:]
	}
}

// firstOf is how many bytes to look at as one, ok when the header that says so is whole.
func firstOf(b []byte) (n int, ok bool) {
	f, ok := parseFrame(b)
	if ok && f.length <= maxShort {
		return f.size + int(f.length), true
	}
	return f.size, ok
}

// release gives held back.
func (d *direction) release() {
	if d.held != nil {
		beginnings.Put((*[maxFrameHeader + maxShort]byte)(d.held[:maxFrameHeader+maxShort]))
		d.held = nil
	}
}

// came takes a short frame, or the header of a long one.
func (d *direction) came(b []byte) error {
	f, _ := parseFrame(b)
	if err := d.check(f); err != nil {
		return err
	}
	if f.opcode() >= opControl {
		d.work.out = append(d.work.out, b...)
		return nil
	}
	if f.opcode() != opContinuation {
		d.kind, d.packed, d.opened = f.opcode(), f.first&compressedBit != 0, false
		d.stream.Reset(d.replacer)
	}
	d.frame = f
	if f.length > maxShort {
		if d.left = f.length; d.passes() {
			d.work.out = append(d.work.out, b...)
		}
		return nil
	}
	switch {
	case d.passes():
		d.work.out = append(d.work.out, b...)
	case !d.packed:
		d.short(b)
	case f.fin() && f.opcode() != opContinuation:
		if err := d.shortPacked(b); err != nil {
			return err
		}
	default:
		if err := d.unpack(d.unmasked(b[f.size:], 0), f.fin()); err != nil {
			return err
		}
	}
	d.endIf(f.fin())
	return nil
}

// check says what is wrong with a frame (RFC 6455 section 5).
func (d *direction) check(f frame) error {
	switch op := f.opcode(); {
	case f.masked != d.masked:
		return d.broken(errors.New("a frame whose mask bit is wrong"))
	case f.first&otherReserved != 0, f.first&compressedBit != 0 && (d.history == nil || op != opText && op != opBinary):
		return d.broken(errors.New("a frame with a reserved bit that nobody agreed on"))
	case op > opPong, op > opBinary && op < opControl:
		return d.broken(fmt.Errorf("a frame with the reserved opcode %d", op))
	case op >= opControl && (!f.fin() || f.length > maxControl):
		return d.broken(errors.New("a control frame that is too long or goes on"))
	case op == opContinuation && d.kind == 0:
		return d.broken(errors.New("a continuation of no message"))
	case (op == opText || op == opBinary) && d.kind != 0:
		return d.broken(errors.New("a message inside another"))
	case f.length>>63 != 0:
		return d.broken(errors.New("a frame of a length that is none"))
	}
	return nil
}

// SocketError says that one side of a WebSocket broke the protocol, which ended the connection.
type SocketError struct {
	FromClient bool // else it was the origin
	Err        error
}

func (e *SocketError) Error() string {
	if e.FromClient {
		return "read the client's WebSocket: " + e.Err.Error()
	}
	return "read the origin's WebSocket: " + e.Err.Error()
}

func (e *SocketError) Unwrap() error { return e.Err }

func (d *direction) broken(what error) error { return &SocketError{d.masked, what} }

// passes says whether the message is none of our business. A compressed one always is when the next
// ones refer to it.
func (d *direction) passes() bool {
	return d.kind == opBinary && (!d.packed || d.history.forgets)
}

// piece takes a part of the payload of a long frame.
func (d *direction) piece(b []byte) error {
	last := d.left == 0 && d.frame.fin()
	if d.passes() {
		d.work.out = append(d.work.out, b...)
		d.endIf(last)
		return nil
	}
	b = d.unmasked(b, d.frame.length-d.left-uint64(len(b)))
	if !d.packed {
		d.say(d.mapped(b, last), last)
	} else if err := d.unpack(b, last); err != nil {
		return err
	}
	d.endIf(last)
	return nil
}

// short takes a frame of a message that is not compressed, and leaves it as it is if it can.
func (d *direction) short(b []byte) {
	text, fin := d.unmasked(b[d.frame.size:], 0), d.frame.fin()
	if d.stream.Held() == 0 && d.opened == (d.frame.opcode() == opContinuation) {
		done, ok := d.stream.Pass(text, fin)
		if ok && done == len(text) {
			d.work.out, d.opened = append(d.work.out, b...), true
			return
		}
		if ok {
			d.say(text[:done], fin)
			return
		}
	}
	d.say(d.mapped(text, fin), fin)
}

// mapped is what is certain of the message's text once b has come.
func (d *direction) mapped(b []byte, final bool) []byte {
	d.work.text = d.stream.Append(d.work.text[:0], b, final)
	return d.work.text
}

// unmasked is a part of the frame's payload, of which byte number at is b[0].
func (d *direction) unmasked(b []byte, at uint64) []byte {
	if !d.masked {
		return b
	}
	plain := append(d.work.plain[:0], b...)
	mask(plain, d.frame.key, at)
	d.work.plain = plain
	return plain
}

// say sends a piece of the message, the last one when it is final.
func (d *direction) say(payload []byte, final bool) {
	if len(payload) == 0 && !final {
		return
	}
	f := frame{first: opContinuation, masked: d.masked, key: d.frame.key}
	if !d.opened {
		f.first = d.kind
		if d.packed {
			f.first |= compressedBit
		}
	}
	if final {
		f.first |= finBit
	}
	d.opened = true
	d.work.out = appendFrame(d.work.out, f, payload)
}

// endIf ends the message.
func (d *direction) endIf(last bool) {
	if last {
		d.end()
	}
}

// end forgets the message.
func (d *direction) end() {
	if d.flow != nil {
		d.flow.free()
	}
	d.endPiece()
	d.kind, d.recoding = 0, recoding{}
}
