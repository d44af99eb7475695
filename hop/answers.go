package hop

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2/hpack"
)

// answering is what frames needs to answer requests beside the server. An answer is
// written between two frames of the server's, which knows nothing of it:
//
//   - its fields stand in no table: that of the server, and what its client has of
//     it, stay as they are,
//   - its body is no longer than the client takes at once of a new stream, and than
//     what is left of the part of the connection's window that was kept for such
//     answers. The server is told of the rest alone (window),
//   - where the server is at writing, or has said that the connection goes, it gets
//     the request too; so it does while a body is under way to it, as nothing is read
//     while an answer is written.
//
// What comes at once is answered at once: answers wait while there are more requests
// at hand.
type answering struct {
	base  *http.Request // what all requests of the connection have
	since time.Time     // when the server last had a request of it

	// What the client said, to Read.
	settled bool                // its settings came
	tables  bool                // it has ever lowered the table of fields
	stream  int64               // the window of a new stream, the least that it was since they came
	kept    int64               // of the connection's window, for answers here
	uploads map[uint32]struct{} // requests that have more to come

	burst *burstConn // below TLS; nil when there is none
	held  bool       // mu is, by Read
	wait  *[]byte    // answers to be written, with mu held; nil for none

	server atomic.Int64 // the connection's window as the server knows it

	mu      sync.Mutex // guards the next ones, and the order of what is written
	left    int        // bytes of the server's frame that are yet to be written
	head    [frameHead]byte
	begun   int  // bytes of head
	inBlock bool // a block of fields goes on in the next frame
	spoke   bool // the server's settings went out
	acked   bool // and that it knows the client's
	going   bool // it has said that the connection goes

	clock   sync.Mutex    // guards the rest
	sending bool          // an answer is being sent, with a time of its own
	noted   bool          // until is to be set before the server's next Write
	until   time.Time     // the server's deadline of writes
	long    time.Duration // that it had then
}

const (
	// firstWindow is a window before a word is said (RFC 9113 section 6.9.2).
	firstWindow = 64<<10 - 1
	// leastWindow is that of a connection of which a part is kept: programs with a
	// smaller one have few requests.
	leastWindow = 256 << 10
	// mostAnswer is the longest body that is answered here. It goes out before
	// anything else is read of the client.
	mostAnswer = 128 << 10
	// fullAnswers is how much waits for more.
	fullAnswers = 64 << 10
)

// ErrNotNow is of Asked.Write: nothing was written, and the server is to answer.
var ErrNotNow = errors.New("not to be answered ahead of the server now")

func (a *answering) init(conn net.Conn) {
	a.stream, a.since, a.burst = firstWindow, time.Now(), burstBelow(conn)
	a.server.Store(firstWindow)
}

// learn takes the client's settings in. A window that they make larger later is not
// counted: the client may hold to the old one until it has read the server's word.
func (a *answering) learn(payload []byte) {
	first := !a.settled
	a.settled = true
	for ; len(payload) >= 6; payload = payload[6:] {
		switch value := binary.BigEndian.Uint32(payload[2:]); binary.BigEndian.Uint16(payload) {
		case settingWindow:
			if a.stream = min(a.stream, int64(value)); first {
				a.stream = int64(value)
			}
		case settingTable:
			if value < tableSize { // the next block is to say so (RFC 7541 section 4.2), which is one of the server's
				a.tables = true
			}
		}
	}
}

// window takes in what the client adds to the connection's window, and leaves the
// server's part of it in payload; true when that is none.
func (f *frames) window(payload []byte) bool {
	more := int64(binary.BigEndian.Uint32(payload) &^ (1 << 31))
	if f.options.Ahead == nil || more == 0 {
		return false
	}
	all := f.server.Load() + f.kept + more
	if all > 1<<31-1 { // the client is wrong, which the server must see
		more, f.kept = min(more+f.kept, 1<<31-1), 0
	}
	if all >= leastWindow && all <= 1<<31-1 {
		// Chromium says more when more than half of it is used, others when less than
		// half is left: the server has more than that.
		take := max(0, min(all/4-f.kept, more))
		f.kept += take
		more -= take
	}
	f.server.Add(more)
	binary.BigEndian.PutUint32(payload, uint32(more))
	return more == 0
}

// Write is the server's.
func (f *frames) Write(p []byte) (int, error) {
	if f.options.Ahead == nil {
		return f.conn.Write(p)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.follow(p)
	f.ownTime()
	return f.conn.Write(p)
}

// SetWriteDeadline is the server's, for a Write to come.
func (f *frames) SetWriteDeadline(t time.Time) error {
	f.clock.Lock()
	defer f.clock.Unlock()
	f.until, f.long = t, time.Until(t)
	if f.noted = f.sending; f.noted {
		return nil
	}
	return f.conn.SetWriteDeadline(t)
}

// ownTime gives the server's Write the time that it was to have, if an answer was sent
// meanwhile.
func (f *frames) ownTime() {
	f.clock.Lock()
	defer f.clock.Unlock()
	if !f.noted {
		return
	}
	if f.noted = false; !f.until.IsZero() {
		f.until = time.Now().Add(f.long)
	}
	_ = f.conn.SetWriteDeadline(f.until)
}

// answerTime lifts the server's deadline while an answer is sent, which has a time of
// its own.
func (f *frames) answerTime(begins bool) {
	f.clock.Lock()
	defer f.clock.Unlock()
	if f.sending = begins; begins && !f.until.IsZero() {
		f.noted = true
		_ = f.conn.SetWriteDeadline(time.Time{})
	}
}

// follow goes through what the server writes, frame by frame.
func (f *frames) follow(p []byte) {
	for len(p) > 0 {
		if f.left > 0 {
			n := min(f.left, len(p))
			f.left, p = f.left-n, p[n:]
			continue
		}
		n := copy(f.head[f.begun:], p)
		p = p[n:]
		if f.begun += n; f.begun < frameHead {
			return
		}
		f.begun, f.left = 0, int(f.head[0])<<16|int(f.head[1])<<8|int(f.head[2])
		switch flags := f.head[4]; f.head[3] {
		case frameData:
			f.server.Add(-int64(f.left))
		case frameHeaders, framePromise, frameContinuation:
			f.inBlock = flags&flagEndHeaders == 0
		case frameSettings:
			f.spoke = f.spoke || flags&flagACK == 0
			f.acked = f.acked || flags&flagACK != 0
		case frameGoAway:
			f.going = true
		}
	}
}

// noteOn notes that the server gets a request.
func (f *frames) noteOn() {
	if f.options.Ahead != nil {
		f.since = time.Now()
	}
}

// answered reports whether the request was answered here.
func (f *frames) answered(b *block) bool {
	ahead := f.options.Ahead
	if ahead == nil || b.flags&flagEndStream == 0 || b.parts > 0 || b.refused || b.size > f.options.HeaderBytes ||
		b.flags&flagPriority != 0 && binary.BigEndian.Uint32(b.priority[:])&^(1<<31) == b.stream ||
		!f.settled || f.tables || len(f.uploads) > 0 || ahead.draining.Load() {
		return false
	}
	if ahead.Idle > 0 && time.Since(f.since) > ahead.Idle/2 {
		return false // the server would take the connection for an idle one
	}
	asked := askedPool.Get().(*Asked)
	defer asked.free()
	if !asked.readFields(f.request(), b.fields) {
		return false
	}
	if !f.held {
		if !f.mu.TryLock() {
			return false
		}
		f.held = true
	}
	if !f.spoke || f.going || f.left > 0 || f.begun > 0 || f.inBlock {
		f.flush()
		return false
	}
	asked.over, asked.stream = f, b.stream
	done := f.ask(asked)
	if asked.err != nil {
		f.err = asked.err
		f.conn.Close()
	}
	if !done || len(f.in) == 0 {
		f.flush()
	}
	return done
}

// ask calls Answer. Nobody above would stop its panic.
func (f *frames) ask(asked *Asked) (done bool) {
	defer func() {
		if failure := recover(); failure != nil {
			if f.options.Ahead.Failed != nil {
				f.options.Ahead.Failed(failure)
			}
			asked.err, done = fmt.Errorf("answer ahead of the server: %v", failure), true
		}
	}()
	return f.options.Ahead.Answer(asked)
}

// request is what all requests have.
func (f *frames) request() *http.Request {
	if f.base == nil {
		context := context.WithValue(context.Background(), http.LocalAddrContextKey, f.conn.LocalAddr())
		f.base = (&http.Request{Proto: "HTTP/2.0", ProtoMajor: 2, RemoteAddr: f.conn.RemoteAddr().String(), TLS: f.state}).WithContext(context)
	}
	return f.base
}

// flush writes the answers that wait, and lets the server write.
func (f *frames) flush() {
	if !f.held {
		return
	}
	if err := f.send(); err != nil && f.err == nil {
		f.err = err
	}
	f.held = false
	f.mu.Unlock()
}

// send writes the answers that wait.
func (f *frames) send() error {
	if f.wait == nil {
		return nil
	}
	f.answerTime(true)
	defer f.answerTime(false)
	f.burst.begin()
	f.burst.patient(f.options.Ahead.Send)
	_, err := f.conn.Write(*f.wait)
	if after := f.burst.end(); err == nil {
		err = after
	}
	if cap(*f.wait) <= fullAnswers+mostAnswer {
		*f.wait = (*f.wait)[:0]
		waits.Put(f.wait)
	}
	if f.wait = nil; err != nil {
		f.going = true
		f.conn.Close()
	}
	return err
}

var waits = sync.Pool{New: func() any { return new(make([]byte, 0, 4<<10)) }}

// write is Asked.Write over HTTP/2, of a header in lines of HTTP/1.1.
func (f *frames) write(stream uint32, header, body []byte) (int64, error) {
	most := min(f.stream, f.kept, mostAnswer)
	if !f.acked {
		most = min(most, firstWindow)
	}
	if int64(len(body)) > most {
		return 0, ErrNotNow
	}
	if len(header) > mostFrame/2 { // so that it is one frame: coded, a line is never twice as long
		return 0, ErrNotNow
	}
	if f.wait == nil {
		f.wait = waits.Get().(*[]byte)
	}
	p, begin := *f.wait, len(*f.wait)
	p = appendAnswer(append(p, make([]byte, frameHead)...), string(header))
	length := len(p) - begin - frameHead
	flags := byte(flagEndHeaders)
	if len(body) == 0 {
		flags |= flagEndStream
	}
	setFrame(p[begin:], length, frameHeaders, flags, stream)
	f.kept -= int64(len(body))
	for rest := body; len(rest) > 0; {
		part := rest[:min(len(rest), mostFrame)] // which every client takes (RFC 9113 section 4.2)
		flags, rest = 0, rest[len(part):]
		if len(rest) == 0 {
			flags = flagEndStream
		}
		p = append(p, make([]byte, frameHead)...)
		setFrame(p[len(p)-frameHead:], len(part), frameData, flags, stream)
		p = append(p, part...)
	}
	*f.wait = p
	if len(f.in) == 0 || len(p) >= fullAnswers {
		if err := f.send(); err != nil {
			return 0, err
		}
	}
	return int64(len(body)), nil
}

// appendAnswer appends the fields of an answer, as hpack's encoder would that has no
// table, from its status line and its fields in HTTP/1.1 (RFC 9113 section 8.3.2).
func appendAnswer(p []byte, header string) []byte {
	const version = len("HTTP/1.1 ")
	line, lines, _ := strings.Cut(header, "\r\n")
	status := line[version : version+3]
	if i := slices.Index(knownStatus, status); i >= 0 {
		p = append(p, 0x80|byte(firstStatus+i))
	} else {
		p = appendText(append(p, firstStatus), status)
	}
	for {
		line, lines, _ = strings.Cut(lines, "\r\n")
		name, value, named := strings.Cut(line, ": ")
		if !named {
			return p
		}
		var room [longestName]byte
		if index := staticNames[string(lowered(room[:], name))]; index > 0 && len(name) <= longestName {
			p = appendNumber(p, 0, 4, index)
		} else {
			p = appendText(append(p, 0), strings.ToLower(name))
		}
		if coded := int(hpack.HuffmanEncodeLength(value)); coded < len(value) {
			p = hpack.AppendHuffmanString(appendNumber(p, 0x80, 7, coded), value)
		} else {
			p = appendText(p, value)
		}
	}
}

// What the static table has (RFC 7541 appendix A).
const firstStatus = 8 // the index of the first of knownStatus

var (
	knownStatus = []string{"200", "204", "206", "304", "400", "404", "500"}
	staticNames = map[string]int{
		"accept-ranges": 18, "access-control-allow-origin": 20, "age": 21, "allow": 22, "cache-control": 24, "content-disposition": 25,
		"content-encoding": 26, "content-language": 27, "content-length": 28, "content-location": 29, "content-range": 30,
		"content-type": 31, "date": 33, "etag": 34, "expires": 36, "last-modified": 44, "link": 45, "location": 46, "retry-after": 53,
		"server": 54, "set-cookie": 55, "strict-transport-security": 56, "vary": 59, "via": 60, "www-authenticate": 61,
	}
)
