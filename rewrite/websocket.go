package rewrite

import (
	"errors"
	"io"
	"net/http"
	"sync"
)

// A WebSocket (RFC 6455) after the origin has switched to it: text messages are mapped both ways,
// binary messages and control frames pass byte for byte.
//
//  1. Request leaves of the extensions that the client offers the one that can be read,
//     permessage-deflate (permessage.go).
//  2. Switched wraps the origin's side of the connection. What is read from it goes through one
//     direction, what is written to it through another.
//  3. A direction parts the bytes into frames (frame.go) and the frames into messages (message.go).
//  4. A message in one short frame leaves in one frame: as it came, if nothing in it is exchanged.
//     All others leave in pieces as they come: frames may be cut anew, but messages end where they
//     did, with the control frames between them.
//
// What breaks the protocol ends the connection with an error: who reads it differently from us
// would see other messages. A direction keeps at most a short frame, what a Stream does, and with
// permessage-deflate the last 32 KiB of text.

// messageKind is what text messages are for the most part.
const messageKind = "application/json"

// Switched is conn, the origin's side after a 101 to request with response: reading it gives frames
// for the client, writing it takes the client's. Other protocols than WebSocket, and what the rules
// leave untouched, are conn itself. Closing it closes conn. It has a CloseWrite if conn has.
func (m *Map) Switched(request, response http.Header, conn io.ReadWriteCloser) io.ReadWriteCloser {
	if m.rules.Untouched || !isWebSocket(response) {
		return conn
	}
	s := &socket{
		ReadWriteCloser: conn,
		fromOrigin:      direction{replacer: m.replacerFor(m.toPublic, messageKind)},
		fromClient:      direction{replacer: m.replacerFor(m.toOrigin, messageKind), masked: true},
	}
	agreed, err := agreement(request, response)
	if err != nil {
		s.err, s.fromClient.err = err, err
		return s
	}
	s.fromOrigin.history, s.fromClient.history = agreed.origin, agreed.client
	return s
}

// socket is the origin's side of a WebSocket.
type socket struct {
	io.ReadWriteCloser
	fromOrigin, fromClient direction

	rest []byte // of what Read had no room for
	err  error  // comes behind rest
}

// Read gives frames for the client.
func (s *socket) Read(p []byte) (int, error) {
	for len(s.rest) == 0 && len(p) > 0 {
		if s.err != nil {
			return 0, s.err
		}
		n, err := s.ReadWriteCloser.Read(p)
		w := frameWorks.Get().(*frameWork)
		broken := s.fromOrigin.take(w, p[:n])
		if s.err = err; broken != nil {
			s.err = broken
		}
		n = copy(p, w.out)
		s.rest = append(s.rest, w.out[n:]...)
		w.free()
		if n > 0 {
			return n, nil
		}
	}
	n := copy(p, s.rest)
	if s.rest = s.rest[n:]; len(s.rest) == 0 {
		s.rest = nil
	}
	return n, nil
}

// Write takes frames of the client.
func (s *socket) Write(p []byte) (int, error) {
	w := frameWorks.Get().(*frameWork)
	broken := s.fromClient.take(w, p)
	if len(w.out) > 0 {
		if _, err := s.ReadWriteCloser.Write(w.out); err != nil {
			return 0, err // who writes may yet look at w
		}
	}
	w.free()
	if broken != nil {
		return 0, broken
	}
	return len(p), nil
}

// CloseWrite says that the client sends no more.
func (s *socket) CloseWrite() error {
	if half, ok := s.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Close may be called while another goroutine reads or writes.
func (s *socket) Close() error {
	err := s.ReadWriteCloser.Close()
	s.fromOrigin.close()
	s.fromClient.close()
	return err
}

// frameWork is the memory for mapping what one Read or Write passes on, pooled.
type frameWork struct {
	out    []byte // frames for the other side
	plain  []byte // a payload without its mask
	text   []byte // text, mapped
	whole  []byte // the text of a short compressed message
	packed []byte // what the deflater made
	flow   flow   // of such a message
}

var frameWorks = sync.Pool{New: func() any { return new(frameWork) }}

// free gives w back.
func (w *frameWork) free() {
	for _, b := range []*[]byte{&w.out, &w.plain, &w.text, &w.whole, &w.packed} {
		if *b = (*b)[:0]; cap(*b) > 2*chunkSize {
			*b = nil
		}
	}
	frameWorks.Put(w)
}
