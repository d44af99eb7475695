package hop

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"time"
)

// net/http's HTTP/2 server answers some clients otherwise than RFC 9113 has it, and
// what is at hand costs it two to three times what it costs to send. Strict stands
// between it and TLS, and looks at the frames as they come (frames.go):
//
//  1. a block of fields is read whole and written anew, field by field and without
//     a table (block.go). One that has a field of a connection's own is malformed
//     (section 8.2.2), and its stream is to be reset; net/http would answer 400. So it
//     goes on with a field behind it whose name no message may have: net/http then
//     resets the stream,
//  2. one setting twice in a frame is processed in the order of the frame (section
//     6.5.3), which is the last; net/http would close the connection,
//  3. a request that Ahead answers does not go on at all: its answer is written
//     between the frames of net/http (answers.go).
//
// And it bounds what net/http does not: the time that a block of fields takes from its
// first frame to its last, as http.Server.ReadHeaderTimeout does for HTTP/1.1.
//
// What it does not understand it passes on: net/http knows what to do.

// StrictOptions is what Strict needs to know of its server.
type StrictOptions struct {
	Header      time.Duration // how long a header may take over HTTP/2; 0 = for ever
	HeaderBytes int           // the server's MaxHeaderBytes
	Ahead       *Ahead        // answers requests over HTTP/2 before the server; nil for none
}

// The frames that are looked at (RFC 9113 section 6), and their flags.
const (
	frameData         = 0x0
	frameHeaders      = 0x1
	frameReset        = 0x3
	frameSettings     = 0x4
	framePromise      = 0x5
	frameGoAway       = 0x7
	frameWindow       = 0x8
	frameContinuation = 0x9

	flagACK        = 0x1
	flagEndStream  = 0x1
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

// strictConn is a client's connection over TLS.
type strictConn struct {
	*tls.Conn
	options *StrictOptions
	frames  *frames // nil when the protocol is another
}

// HandshakeContext is what a server calls first.
func (c *strictConn) HandshakeContext(ctx context.Context) error {
	if err := c.Conn.HandshakeContext(ctx); err != nil {
		return err
	}
	if state := c.Conn.ConnectionState(); c.frames == nil && state.NegotiatedProtocol == "h2" {
		c.frames = newFrames(c.Conn, c.options)
		c.frames.state = &state
	}
	return nil
}

// Read gives what the client sent, with the changes above.
func (c *strictConn) Read(p []byte) (int, error) {
	if c.frames == nil {
		return c.Conn.Read(p)
	}
	return c.frames.Read(p)
}

// Write sends what the server says.
func (c *strictConn) Write(p []byte) (int, error) {
	if c.frames == nil {
		return c.Conn.Write(p)
	}
	return c.frames.Write(p)
}

// SetWriteDeadline is the server's, for what it says.
func (c *strictConn) SetWriteDeadline(t time.Time) error {
	if c.frames == nil || c.options.Ahead == nil {
		return c.Conn.SetWriteDeadline(t)
	}
	return c.frames.SetWriteDeadline(t)
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
	case settingWindow:
		return value <= 1<<31-1
	case 5: // MAX_FRAME_SIZE
		return value >= 1<<14 && value <= 1<<24-1
	}
	return false
}

const (
	settingTable  = 1 // HEADER_TABLE_SIZE
	settingWindow = 4 // INITIAL_WINDOW_SIZE
)
