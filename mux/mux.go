// Package mux carries many streams in one connection, each a net.Conn.
//
// The path of a stream:
//
//  1. a Session's ends begin with what each takes unread: of one stream, and of all,
//  2. Session.Open makes a stream, which costs no round trip: what is written to it goes
//     out with the word that there is one,
//  3. the other end gives it to Options.Accept,
//  4. Stream.Write puts frames to those of the others (frames of one stream take turns
//     with them), and one write of the connection takes all that wait (write),
//  5. read gives what comes to the streams; who reads a stream opens its window again,
//  6. CloseWrite ends one way, Close and Reset both at once, and what of the connection
//     fails fails all its streams.
//
// A stream that nobody reads holds Options.Window bytes, all together Options.Buffer, and
// one that is idle no buffer at all. It refuses to know what the connection is, how long
// anything may take (net.Conn's deadlines say that), and who may open a stream: the
// other end is one of the owner's own nodes.
package mux

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
)

// A frame is a head of headSize bytes, in network order, and behind that of kindData so
// many bytes as its value says:
//
//	kind (1)  stream (4)  value (4)
//
// Of the end that opens streams each has the number after that of the one before, from 1
// on.
const headSize = 9

// The kinds of frames.
const (
	kindStart  = 1 + iota // the first of each end; stream: its version, value: the window of every stream
	kindOpen              // a new stream
	kindData              // value: bytes that follow, 1 to maxFrame
	kindWindow            // value: bytes more that may be sent, on a stream, or of all: stream 0
	kindEnd               // no more of a stream comes
	kindClose             // nor is more of it taken
	kindReset             // a stream is over both ways, and broke off
)

const (
	version = 1
	// maxFrame is the most in one frame: so much at most goes before a frame of another
	// stream. It is a frame of the link's HTTP/2 too.
	maxFrame = 32 << 10
	// outBytes is how much waits for the connection at most, so that a short word does
	// not wait behind much, and a write is worth its while.
	outBytes = 2 * maxFrame
	// leastRoom is the least of that that is used: no frames of a few bytes.
	leastRoom = 4 << 10
	// mostOut is where an end that takes nothing is given up: what has no window, as the
	// word of a window, is not held back.
	mostOut = 4 << 20
	// giveBack is how much that was read makes it worth a frame to say so.
	giveBack = 64 << 10
)

// Options are those of one end.
type Options struct {
	Window  int           // bytes of one stream that may have come and not be read
	Buffer  int           // of all streams
	Streams int           // most that the other end may have open; for Accept alone
	Accept  func(*Stream) // gets each stream that the other end opens, in a goroutine; nil: this end opens
}

var (
	// ErrProtocol is in the chain of why a session ended whose other end sent what it may not.
	ErrProtocol = errors.New("the other end broke the protocol of streams")
	// errUsedUp is all 2³² numbers.
	errUsedUp = errors.New("no numbers are left for streams")
)

// Session is one end of a connection with streams. Its methods may be called from any
// goroutine.
type Session struct {
	conn    io.ReadWriteCloser
	options Options
	serving sync.WaitGroup // Options.Accept

	mu       sync.Mutex // guards the rest, and all of the streams
	streams  map[uint32]*Stream
	last     uint32     // the number of the stream that was opened last
	started  bool       // the other end has said its windows
	window   int        // of every stream, as it said
	credit   int        // bytes that may be sent of all streams
	unread   int        // bytes of all streams that came
	owed     int        // bytes read, that the other end has not been told of
	out      []byte     // frames to be written
	toWrite  *sync.Cond // there are some, or it is over
	waiting  []*Stream  // that wait for room, the first one first
	promised int        // room that was given to such, and not used yet
	err      error      // why it is over
}

// New makes a session of a connection, for Run.
func New(conn io.ReadWriteCloser, options Options) *Session {
	s := &Session{conn: conn, options: options, streams: make(map[uint32]*Stream)}
	s.toWrite = sync.NewCond(&s.mu)
	s.out = appendHead(s.out, kindStart, version, options.Window)
	s.out = appendHead(s.out, kindWindow, 0, options.Buffer)
	return s
}

// Run carries the streams until the connection fails or Close is called, and then closes
// it. Nothing uses it any more when Run returns. It gives why it is over, net.ErrClosed
// after Close.
func (s *Session) Run() error {
	var reading sync.WaitGroup
	reading.Go(func() { s.fail(s.read()) })
	s.fail(s.write())
	reading.Wait()
	s.serving.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the session and its streams.
func (s *Session) Close() error {
	s.fail(net.ErrClosed)
	return nil
}

// fail ends it for err, the first time.
func (s *Session) fail(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = err
		for _, st := range s.streams {
			st.fails(fmt.Errorf("the connection of the stream is over: %w", err))
		}
		clear(s.streams)
		s.waiting = nil
		s.toWrite.Broadcast()
	}
	s.mu.Unlock()
	if first {
		s.conn.Close()
	}
}

// Open makes a stream.
func (s *Session) Open() (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, fmt.Errorf("open a stream: %w", s.err)
	}
	if s.last++; s.last == 0 {
		s.last--
		return nil, fmt.Errorf("open a stream: %w", errUsedUp)
	}
	st := s.add(s.last)
	s.send(kindOpen, st.id, 0)
	return st, nil
}

// add makes the stream of a number. s.mu is held.
func (s *Session) add(id uint32) *Stream {
	st := &Stream{session: s, id: id, window: s.window, mayCome: s.options.Window}
	st.readable.L, st.writable.L = &s.mu, &s.mu
	s.streams[id] = st
	return st
}

func appendHead(b []byte, kind byte, id uint32, value int) []byte {
	b = append(b, kind)
	b = binary.BigEndian.AppendUint32(b, id)
	return binary.BigEndian.AppendUint32(b, uint32(value))
}

// send puts a frame without bytes to those to be written. s.mu is held.
func (s *Session) send(kind byte, id uint32, value int) {
	if s.err != nil {
		return
	}
	s.out = appendHead(s.out, kind, id, value)
	s.toWrite.Signal()
}

// write writes what waits, all of it at a time.
func (s *Session) write() error {
	var batch []byte
	for {
		s.mu.Lock()
		for len(s.out) == 0 && s.err == nil {
			s.toWrite.Wait()
		}
		if s.err != nil {
			s.mu.Unlock()
			return s.err
		}
		batch, s.out = s.out, batch[:0]
		s.makeRoom()
		s.mu.Unlock()
		if _, err := s.conn.Write(batch); err != nil {
			return fmt.Errorf("write: %w", err)
		}
		if cap(batch) > 2*outBytes { // words of windows, when it did not take anything for long
			batch = nil
		}
	}
}

// room is how many bytes may be put to those to be written. s.mu is held.
func (s *Session) room() int {
	left := outBytes - len(s.out) - s.promised
	if left < leastRoom {
		return 0
	}
	return max(0, min(left, s.credit-s.promised))
}

// makeRoom gives the room there is to those who wait for it, by turns. s.mu is held.
func (s *Session) makeRoom() {
	for len(s.waiting) > 0 {
		room := min(s.room(), maxFrame)
		if room == 0 {
			return
		}
		st := s.waiting[0]
		s.waiting[0] = nil
		s.waiting = s.waiting[1:]
		st.queued, st.promise = false, room
		s.promised += room
		st.writable.Broadcast()
	}
}

// leave takes a stream out of those that wait, and its promise back. s.mu is held.
func (s *Session) leave(st *Stream) {
	if st.queued {
		st.queued = false
		if i := slices.Index(s.waiting, st); i >= 0 {
			s.waiting = slices.Delete(s.waiting, i, i+1)
		}
	}
	if st.promise > 0 {
		s.promised -= st.promise
		st.promise = 0
		s.makeRoom()
	}
}

// read gives the frames that come to the streams.
func (s *Session) read() error {
	in := bufio.NewReaderSize(s.conn, maxFrame+headSize)
	for {
		head, err := in.Peek(headSize)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		kind, id, value := head[0], binary.BigEndian.Uint32(head[1:]), int(binary.BigEndian.Uint32(head[5:]))
		_, _ = in.Discard(headSize)
		if kind != kindData {
			if err := s.hear(kind, id, value); err != nil {
				return err
			}
			continue
		}
		if value == 0 || value > maxFrame {
			return fmt.Errorf("%w: a frame of %d bytes", ErrProtocol, value)
		}
		p, err := in.Peek(value)
		if err != nil {
			return fmt.Errorf("read: %w", err)
		}
		if err := s.take(id, p); err != nil {
			return err
		}
		_, _ = in.Discard(value)
	}
}

// take gives p to a stream.
func (s *Session) take(id uint32, p []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	st, err := s.of(id)
	if err != nil {
		return err
	}
	switch {
	case s.unread+s.owed+len(p) > s.options.Buffer:
		return fmt.Errorf("%w: more than %d bytes of all streams", ErrProtocol, s.options.Buffer)
	case st == nil:
		s.unread += len(p)
		s.consumed(len(p))
		return nil
	case len(p) > st.mayCome:
		return fmt.Errorf("%w: more than %d bytes of a stream", ErrProtocol, s.options.Window)
	case st.ended:
		return fmt.Errorf("%w: bytes of a stream behind its end", ErrProtocol)
	}
	s.unread += len(p)
	st.mayCome -= len(p)
	st.in.put(p)
	st.readable.Broadcast()
	return nil
}

// of is the stream of a number; nil for one that is over here. s.mu is held.
func (s *Session) of(id uint32) (*Stream, error) {
	if s.err != nil {
		return nil, s.err
	}
	if !s.started {
		return nil, fmt.Errorf("%w: it did not begin with its windows", ErrProtocol)
	}
	if id == 0 || id > s.last {
		return nil, fmt.Errorf("%w: stream %d, the last was %d", ErrProtocol, id, s.last)
	}
	return s.streams[id], nil
}

// consumed counts bytes that were read, or thrown away, and tells the other end in time.
// s.mu is held.
func (s *Session) consumed(n int) {
	s.unread -= n
	if s.owed += n; s.owed >= giveBack || s.owed >= (s.options.Buffer-s.unread)/2 {
		s.send(kindWindow, 0, s.owed)
		s.owed = 0
	}
}

// hear takes in a frame without bytes.
func (s *Session) hear(kind byte, id uint32, value int) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.out) > mostOut {
		return fmt.Errorf("%w: it takes nothing, and %d bytes wait for it", ErrProtocol, len(s.out))
	}
	switch {
	case kind == kindStart:
		return s.start(id, value)
	case kind == kindWindow && id == 0 && s.started:
		if s.credit += value; s.credit < 0 || s.credit > 1<<31-1 {
			return fmt.Errorf("%w: a window of %d bytes", ErrProtocol, s.credit)
		}
		s.makeRoom()
		return nil
	case kind == kindOpen:
		return s.accept(id)
	}
	st, err := s.of(id)
	if err != nil {
		return err
	}
	if st == nil && kind <= kindReset && kind >= kindWindow {
		return nil
	}
	switch kind {
	case kindWindow:
		if st.window += value; st.window > 1<<31-1 {
			return fmt.Errorf("%w: a window of %d bytes", ErrProtocol, st.window)
		}
		st.writable.Broadcast()
	case kindEnd, kindClose:
		if st.ended && kind == kindEnd {
			return fmt.Errorf("%w: a stream ends twice", ErrProtocol)
		}
		st.ended = true
		if kind == kindClose {
			st.ends, st.unheard = true, true
			st.writable.Broadcast()
		}
		st.readable.Broadcast()
		st.tellDone()
		st.over()
	case kindReset:
		st.in.drop(s)
		st.fails(errReset)
		delete(s.streams, id)
	default:
		return fmt.Errorf("%w: a frame of kind %d", ErrProtocol, kind)
	}
	return nil
}

// start takes in what the other end begins with. s.mu is held.
func (s *Session) start(spoken uint32, window int) error {
	if s.started || spoken != version || window == 0 || window > 1<<31-1 {
		return fmt.Errorf("%w: it begins with version %d and a window of %d bytes", ErrProtocol, spoken, window)
	}
	s.started, s.window = true, window
	for _, st := range s.streams {
		st.window = window
		st.writable.Broadcast()
	}
	return nil
}

// accept takes a new stream. s.mu is held.
func (s *Session) accept(id uint32) error {
	if s.err != nil {
		return s.err
	}
	if !s.started || s.options.Accept == nil || id != s.last+1 || id == 0 {
		return fmt.Errorf("%w: it opens stream %d, the last was %d", ErrProtocol, id, s.last)
	}
	s.last = id
	if len(s.streams) >= s.options.Streams {
		s.send(kindReset, id, 0)
		return nil
	}
	st := s.add(id)
	s.serving.Go(func() { s.options.Accept(st) })
	return nil
}
