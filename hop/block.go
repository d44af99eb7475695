package hop

import (
	"encoding/binary"
	"errors"
	"strings"
	"sync"

	"golang.org/x/net/http2/hpack"
)

// block is a block of fields (RFC 9113 section 4.3): of a request, or its trailers.
type block struct {
	stream   uint32
	flags    byte
	priority [5]byte // with flagPriority
	fields   []hpack.HeaderField
	size     int   // of fields but Trailer, as RFC 9113 section 6.5.2 counts it
	trailers int   // of Trailer, as if each name in it was a field
	coded    int   // bytes that came
	parts    int   // frames before the last one
	refused  bool  // it has a field of a connection's own
	wrong    error // it can't be read, and no other after it
	buffer   []byte
}

var blocks = sync.Pool{New: func() any { return new(block) }}

func newBlock(stream uint32, flags byte) *block {
	b := blocks.Get().(*block)
	b.stream, b.flags = stream, flags&(flagEndStream|flagPriority)
	return b
}

// free gives b back, unless it has grown beyond what is usual.
func (b *block) free() {
	if b == nil || cap(b.fields) > 64 || cap(b.buffer) > 8<<10 {
		return
	}
	clear(b.fields)
	*b = block{fields: b.fields[:0], buffer: b.buffer[:0]}
	blocks.Put(b)
}

// bare takes padding and priority off a HEADERS frame (RFC 9113 section 6.2); false
// when they are wrong.
func (b *block) bare(payload []byte, flags byte) ([]byte, bool) {
	if flags&flagPadded != 0 {
		if len(payload) == 0 || int(payload[0]) > len(payload)-1 {
			return nil, false
		}
		payload = payload[1 : len(payload)-int(payload[0])]
	}
	if flags&flagPriority != 0 {
		if len(payload) < len(b.priority) {
			return nil, false
		}
		payload = payload[copy(b.priority[:], payload):]
	}
	return payload, true
}

// decoder reads a connection's blocks, in their order.
type decoder struct {
	hpack *hpack.Decoder
	to    *block
	most  int // size of its fields
}

// tableSize is the decoder's table, as it is where a server says nothing of it (RFC
// 9113 section 6.5.2).
const tableSize = 4096

// fieldSize is what a field counts beside its name and value (RFC 7541 section 4.1).
const fieldSize = 32

var errBlockTooLong = errors.New("a block of fields that is far too long")

func (d *decoder) init() {
	d.hpack = hpack.NewDecoder(tableSize, d.field)
}

// field is one that was read. Those beyond what a server takes are left out: it
// refuses the request by the last that it is given, and would end the connection if
// there was a frame behind that.
func (d *decoder) field(field hpack.HeaderField) {
	b := d.to
	if b.fields = append(b.fields, field); ofConnection(field.Name, field.Value) {
		b.refused = true
	}
	if field.Name == "trailer" {
		b.trailers += len(field.Value) + (strings.Count(field.Value, ",")+1)*fieldSize
	} else {
		b.size += len(field.Name) + len(field.Value) + fieldSize
	}
	if max(b.size, b.trailers) > d.most {
		d.hpack.SetEmitEnabled(false)
	}
}

// read reads a part of a block. http.Server takes a header of headerBytes and ten
// fields' fieldSize, and as much for the names of trailers.
func (d *decoder) read(b *block, part []byte, headerBytes int) {
	if d.most = headerBytes + 10*fieldSize; b.coded == 0 && b.parts == 0 {
		d.hpack.SetEmitEnabled(true)
		d.hpack.SetMaxStringLength(2 * d.most)
	}
	if b.coded += len(part); b.coded > 4*d.most {
		b.wrong = errBlockTooLong
		return
	}
	d.to = b
	_, b.wrong = d.hpack.Write(part)
	d.to = nil
}

// end is behind the last part.
func (d *decoder) end() error { return d.hpack.Close() }

// ofConnection reports whether a field concerns one connection of HTTP/1.1 (RFC 9113
// section 8.2.2). Te has one value that may be.
func ofConnection(name, value string) bool {
	switch name {
	case "connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade":
		return true
	case "te":
		return value != "trailers"
	}
	return false
}

// malformed is a field that no message may have: in HTTP/2 names have small letters
// (RFC 9113 section 8.2.1).
var malformed = hpack.HeaderField{Name: "A"}

// unreadable is a block that no table makes one of (RFC 7541 section 6.1).
var unreadable = []byte{0x80}

// whole is b in frames as the server reads them.
func (b *block) whole() []byte {
	out := b.begin()
	switch {
	case b.wrong != nil:
		out = append(out, unreadable...)
	default:
		for _, field := range b.fields {
			out = appendField(out, field)
		}
		if b.refused {
			out = appendField(out, malformed)
		}
	}
	b.buffer = out
	return b.frame()
}

// opened is the beginning of b in a frame that others must follow.
func (b *block) opened() []byte {
	out := b.begin()
	b.buffer = out
	setFrame(out, len(out)-frameHead, frameHeaders, b.flags, b.stream)
	return out
}

// begin is the room for a frame's header, and the priority.
func (b *block) begin() []byte {
	out := append(b.buffer[:0], make([]byte, frameHead)...)
	if b.flags&flagPriority != 0 {
		out = append(out, b.priority[:]...)
	}
	return out
}

// frame puts the header before b.buffer, and breaks it where it is too long for one
// frame.
func (b *block) frame() []byte {
	out := b.buffer
	if len(out) <= frameHead+mostFrame {
		setFrame(out, len(out)-frameHead, frameHeaders, b.flags|flagEndHeaders, b.stream)
		return out
	}
	rest := out[frameHead:]
	broken := make([]byte, 0, len(out)+(len(out)/mostFrame+1)*frameHead)
	for kind, flags := byte(frameHeaders), b.flags; len(rest) > 0; kind, flags = frameContinuation, 0 {
		part := rest[:min(len(rest), mostFrame)]
		if rest = rest[len(part):]; len(rest) == 0 {
			flags |= flagEndHeaders
		}
		at := len(broken)
		broken = append(append(broken, make([]byte, frameHead)...), part...)
		setFrame(broken[at:], len(part), kind, flags, b.stream)
	}
	b.buffer = broken
	return broken
}

// setFrame writes the header of a frame (RFC 9113 section 4.1).
func setFrame(p []byte, length int, kind, flags byte, stream uint32) {
	p[0], p[1], p[2], p[3], p[4] = byte(length>>16), byte(length>>8), byte(length), kind, flags
	binary.BigEndian.PutUint32(p[5:], stream)
}

// appendField appends a field as it is, without an index, or never to have one (RFC
// 7541 sections 6.2.2 and 6.2.3).
func appendField(p []byte, field hpack.HeaderField) []byte {
	kind := byte(0x00)
	if field.Sensitive {
		kind = 0x10
	}
	return appendText(appendText(append(p, kind), field.Name), field.Value)
}

// appendText appends a string as it is (RFC 7541 section 5.2).
func appendText(p []byte, s string) []byte {
	return append(appendNumber(p, 0, 7, len(s)), s...)
}

// appendNumber appends a number with a prefix of so many bits (RFC 7541 section 5.1),
// before which stands first.
func appendNumber(p []byte, first byte, bits, n int) []byte {
	most := 1<<bits - 1
	if n < most {
		return append(p, first|byte(n))
	}
	p = append(p, first|byte(most))
	for n -= most; n >= 0x80; n >>= 7 {
		p = append(p, byte(n)|0x80)
	}
	return append(p, byte(n))
}
