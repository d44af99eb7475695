package hop

import (
	"crypto/tls"
	"encoding/binary"
	"io"
	"time"

	"golang.org/x/net/http2/hpack"
)

// net/http's HTTP/2 server answers some clients otherwise than RFC 9113 has it.
// Strict stands between it and TLS, and looks at two kinds of frames as they come:
//
//  1. Read takes the header of a frame off the connection. Of all frames but
//     HEADERS and SETTINGS the rest is passed on as it comes,
//  2. a block of fields that has one of a connection's own is malformed (section
//     8.2.2), and its stream is to be reset; net/http would answer 400. So that its
//     table of fields stays that of the client, the block goes on, with a field
//     behind it whose name no message may have: net/http then resets the stream,
//  3. one setting twice in a frame is processed in the order of the frame (section
//     6.5.3), which is the last; net/http would close the connection.
//
// And it bounds what net/http does not: the time that a block of fields takes from its
// first frame to its last, as http.Server.ReadHeaderTimeout does for HTTP/1.1.
//
// What it does not understand it passes on: net/http knows what to do.

// The frames that are looked at (RFC 9113 section 6), and their flags.
const (
	frameHeaders      = 0x1
	frameSettings     = 0x4
	frameContinuation = 0x9

	flagACK        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20

	frameHead  = 9
	prefaceLen = 24       // section 3.4
	mostFrame  = 16 << 10 // MaxFrame; what is longer is passed on, and refused
)

// MaxFrame is the longest frame that a client may send: what every client keeps
// to unless told otherwise (RFC 9113 section 4.2).
const MaxFrame = mostFrame

// malformed is a field without an index, named "A" (RFC 7541 section 6.2.3): in
// HTTP/2 names have small letters (RFC 9113 section 8.2.1).
var malformed = []byte{0x10, 1, 'A', 0}

// strictConn is a client's connection over TLS.
type strictConn struct {
	*tls.Conn
	http2 state
	out   []byte // what was looked at and not read yet, a part of held
	pass  int    // bytes to pass on as they come
	held  []byte
	err   error // what Read says once out is read

	within time.Duration // for a block of fields; 0 for ever
	block  bool          // one has begun
	ends   bool          // with the frame at hand
}

// inTime gives the block that begins its time, and lifts it when it has ended.
func (c *strictConn) inTime(begins bool) {
	if c.within <= 0 || c.block == begins {
		return
	}
	var until time.Time
	if c.block = begins; begins {
		until = time.Now().Add(c.within)
	}
	if c.Conn != nil {
		_ = c.Conn.SetReadDeadline(until)
	}
}

// state is what is known of the protocol.
type state uint8

const (
	unknown state = iota
	spoken
	other
)

// Read gives what the client sent, with the changes above.
func (c *strictConn) Read(p []byte) (int, error) {
	if c.http2 == unknown {
		if err := c.Handshake(); err != nil {
			return 0, err
		}
		c.http2, c.pass = other, prefaceLen
		if c.ConnectionState().NegotiatedProtocol == "h2" {
			c.http2 = spoken
		}
	}
	if c.http2 == other {
		return c.Conn.Read(p)
	}
	return c.read(c.Conn, p)
}

// read is Read of HTTP/2 frames that come from r.
func (c *strictConn) read(r io.Reader, p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(c.out) == 0 && c.pass == 0 && c.err == nil {
		c.next(r)
	}
	switch {
	case len(c.out) > 0:
		n := copy(p, c.out)
		if c.out = c.out[n:]; len(c.out) == 0 && cap(c.held) > keptFrame {
			c.held = nil
		}
		return n, nil
	case c.err != nil:
		return 0, c.err
	}
	n, err := r.Read(p[:min(len(p), c.pass)])
	if c.pass -= n; c.pass == 0 && c.ends {
		c.inTime(false)
	}
	return n, err
}

// keptFrame is how much is held between frames: usual requests have less.
const keptFrame = 2 << 10

// next looks at the next frame.
func (c *strictConn) next(r io.Reader) {
	c.hold(r, 0, frameHead)
	if c.err != nil {
		return
	}
	length := int(c.held[0])<<16 | int(c.held[1])<<8 | int(c.held[2])
	kind, flags := c.held[3], c.held[4]
	if kind == frameHeaders {
		c.inTime(true)
	}
	c.ends = (kind == frameHeaders || kind == frameContinuation) && flags&flagEndHeaders != 0
	switch {
	case kind == frameHeaders && flags&(flagEndHeaders|flagPadded) == flagEndHeaders && length+len(malformed) <= mostFrame:
	case kind == frameSettings && flags&flagACK == 0 && length <= mostFrame && length%6 == 0:
	default:
		if c.pass = length; length == 0 && c.ends {
			c.inTime(false)
		}
		return
	}
	c.hold(r, frameHead, frameHead+length)
	if c.err != nil {
		return
	}
	if c.ends {
		c.inTime(false)
	}
	payload := c.held[frameHead:]
	if kind == frameSettings {
		c.out = c.held[:frameHead+lastOfEach(payload)]
	} else if ofConnection(payload, flags&flagPriority != 0) {
		c.held = append(c.held, malformed...)
		c.out = c.held
	}
	length = len(c.out) - frameHead
	c.out[0], c.out[1], c.out[2] = byte(length>>16), byte(length>>8), byte(length)
}

// hold reads the bytes of a frame from begin to end, and has all that is held
// read next: what comes before an error is passed on before it.
func (c *strictConn) hold(r io.Reader, begin, end int) {
	if cap(c.held) < end+len(malformed) {
		grown := make([]byte, begin, max(end+len(malformed), 256))
		copy(grown, c.held[:begin])
		c.held = grown
	}
	got, err := io.ReadFull(r, c.held[begin:end])
	if err == io.ErrUnexpectedEOF {
		err = io.EOF // as it came
	}
	c.held, c.err = c.held[:begin+got], err
	c.out = c.held
}

// lastOfEach leaves the last value of each setting, and gives the length of what
// is left. Of SETTINGS_HEADER_TABLE_SIZE the lowest counts too (RFC 7541 section
// 4.2), and a value that is wrong must be seen: such frames stay as they are.
func lastOfEach(payload []byte) int {
	const size = 6
	left := len(payload)
	for i := 0; i < left; i += size {
		id := binary.BigEndian.Uint16(payload[i:])
		for j := i + size; j < left; j += size {
			if binary.BigEndian.Uint16(payload[j:]) != id {
				continue
			}
			if left > 16*size || !settable(id, binary.BigEndian.Uint32(payload[i+2:])) {
				return len(payload)
			}
			copy(payload[i:], payload[i+size:left])
			left -= size
			i -= size
			break
		}
	}
	return left
}

// settable reports whether a value of a setting may be passed over for a later
// one (RFC 9113 section 6.5.2, RFC 8441 section 3).
func settable(id uint16, value uint32) bool {
	switch id {
	case 2, 8: // ENABLE_PUSH, ENABLE_CONNECT_PROTOCOL
		return value <= 1
	case 3, 6: // MAX_CONCURRENT_STREAMS, MAX_HEADER_LIST_SIZE
		return true
	case 4: // INITIAL_WINDOW_SIZE
		return value <= 1<<31-1
	case 5: // MAX_FRAME_SIZE
		return value >= 1<<14 && value <= 1<<24-1
	}
	return false
}

// ofConnections are the names of fields that concern one connection of HTTP/1.1
// (RFC 9113 section 8.2.2), as they are and in Huffman code, which is one for
// each. Te has one value that may be.
var ofConnections, ofConnectionsCoded = func() (plain, coded map[string]bool) {
	plain, coded = map[string]bool{}, map[string]bool{}
	for _, name := range []string{"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te"} {
		plain[name], coded[string(hpack.AppendHuffmanString(nil, name))] = true, true
	}
	return plain, coded
}()

var (
	teCoded       = string(hpack.AppendHuffmanString(nil, "te"))
	trailersCoded = string(hpack.AppendHuffmanString(nil, "trailers"))
)

// transferEncoding is the index of that field in the static table (RFC 7541
// appendix A); the other names are not in it.
const transferEncoding = 57

// ofConnection reports whether the payload of HEADERS has a field of a
// connection. It looks at names that are written out, which is how each comes
// first; who goes on to use one that was refused by its index gets net/http's
// answer.
func ofConnection(payload []byte, priority bool) bool {
	if priority {
		if len(payload) < 5 {
			return false
		}
		payload = payload[5:]
	}
	for len(payload) > 0 {
		first, bits := payload[0], 4
		switch {
		case first&0x80 != 0: // RFC 7541 section 6.1
			index, rest, ok := prefixed(payload, 7)
			if !ok || index == transferEncoding {
				return ok
			}
			payload = rest
			continue
		case first&0xe0 == 0x20: // 6.3
			_, rest, ok := prefixed(payload, 5)
			if !ok {
				return false
			}
			payload = rest
			continue
		case first&0xc0 == 0x40: // 6.2.1
			bits = 6
		}
		index, rest, ok := prefixed(payload, bits)
		if !ok {
			return false
		}
		var name []byte
		coded := false
		if index == 0 {
			if name, coded, rest, ok = text(rest); !ok {
				return false
			}
		}
		value, valueCoded, rest, ok := text(rest)
		if !ok {
			return false
		}
		if index == transferEncoding || !coded && ofConnections[string(name)] || coded && ofConnectionsCoded[string(name)] {
			te := !coded && string(name) == "te" || coded && string(name) == teCoded
			if !te || !(!valueCoded && string(value) == "trailers" || valueCoded && string(value) == trailersCoded) {
				return true
			}
		}
		payload = rest
	}
	return false
}

// prefixed reads a number with a prefix of so many bits (RFC 7541 section 5.1).
func prefixed(p []byte, bits int) (n uint64, rest []byte, ok bool) {
	if len(p) == 0 {
		return 0, nil, false
	}
	most := uint64(1)<<bits - 1
	if n = uint64(p[0]) & most; n < most {
		return n, p[1:], true
	}
	for i, shift := 1, 0; i < len(p) && shift <= 28; i, shift = i+1, shift+7 {
		n += uint64(p[i]&0x7f) << shift
		if p[i]&0x80 == 0 {
			return n, p[i+1:], true
		}
	}
	return 0, nil, false
}

// text reads a string (RFC 7541 section 5.2), as it is coded.
func text(p []byte) (s []byte, coded bool, rest []byte, ok bool) {
	n, rest, ok := prefixed(p, 7)
	if !ok || n > uint64(len(rest)) {
		return nil, false, nil, false
	}
	return rest[:n], p[0]&0x80 != 0, rest[n:], true
}
