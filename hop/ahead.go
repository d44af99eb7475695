package hop

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// What is at hand costs net/http's server more to send than to find: the switches
// between its goroutines, a context, a timer and two writes for each answer
// (docs/adr/0007). Ahead answers such a request before that server has heard of
// it, on a plain connection:
//
//  1. the server waits in Read for its next request: nothing that it has read is
//     left over, as it was given whole requests without a body only, one at a time
//     (phaseIdle),
//  2. readAhead reads one; if it is an ordinary one (ordinary.go) Answer may answer
//     it, on the connection below, and the next is read, still within Read,
//  3. any other is handed over as it came, and the server does with it what it
//     would have done. When that is idle again, so is the connection (State).
//
// Where it can't be told beyond doubt where a request ends, by what the server
// makes of it, the connection is the server's for good (phaseServer): a request
// with a body, a bare line feed, a second request behind the first.

// Ahead answers requests of the connections of a listener before their server
// reads them. The server must be of HTTP/1.1 without TLS, call State as its
// ConnState, and Drain must be called before its Shutdown.
type Ahead struct {
	// Answer answers the request, or gives false and has written nothing. It runs
	// on the goroutine of the connection, and keeps nothing of asked.
	Answer func(asked *Asked) bool

	Idle   time.Duration // how long a connection waits for a request; 0 = for ever
	Header time.Duration // how long the rest of a request's header may take; 0 = for ever
	Send   time.Duration // how long the client may take nothing of an answer; 0 = for ever

	// Failed is told of a panic of Answer over HTTP/2, where no server is above it,
	// while it is recovered from; nil is told nothing.
	Failed func(failure any)

	draining atomic.Bool

	mu   sync.Mutex              // guards lone
	lone map[*aheadConn]struct{} // that had an answer, and of which the server knows nothing but that they are new
}

// Listen gives the connections of listener to their server with what Ahead does.
func (a *Ahead) Listen(listener net.Listener) net.Listener { return aheadListener{listener, a} }

type aheadListener struct {
	net.Listener
	ahead *Ahead
}

func (l aheadListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &aheadConn{Conn: conn, ahead: l.ahead, socket: newSocket(socketOf(conn)), remote: conn.RemoteAddr().String()}, nil
}

// socketOf is the TCP connection below conn, nil when there is none.
func socketOf(conn net.Conn) *net.TCPConn {
	for {
		if tcp, ok := conn.(*net.TCPConn); ok {
			return tcp
		}
		around, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = around.NetConn()
	}
}

// State is to be called as, or from, http.Server.ConnState.
func (a *Ahead) State(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*aheadConn)
	if !ok {
		return
	}
	switch state {
	case http.StateActive:
		a.forget(c)
	case http.StateIdle:
		if c.phase == phaseWithin {
			c.phase = phaseIdle
		}
	case http.StateHijacked:
		c.phase = phaseServer
	}
}

// Drain answers no more requests, and closes the connections that the server
// takes for new because their requests were answered here; those under way are
// finished first.
func (a *Ahead) Drain() {
	a.draining.Store(true)
	a.mu.Lock()
	lone := make([]*aheadConn, 0, len(a.lone))
	for c := range a.lone {
		lone = append(lone, c)
	}
	a.mu.Unlock()
	for _, c := range lone {
		c.Close()
	}
}

func (a *Ahead) remember(c *aheadConn) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.lone == nil {
		a.lone = map[*aheadConn]struct{}{}
	}
	a.lone[c] = struct{}{}
}

func (a *Ahead) forget(c *aheadConn) {
	if !c.known {
		c.known = true
		a.mu.Lock()
		delete(a.lone, c)
		a.mu.Unlock()
	}
}

// phase is what the server does with a connection.
type phase int

const (
	phaseIdle   phase = iota // it waits for a request, and has read nothing of it
	phaseWithin              // it has one, all of it, and nothing that comes after
	phaseServer              // whatever it does: the connection is its own
)

// aheadConn is a connection under net/http's server. Its server reads with one
// goroutine at a time.
type aheadConn struct {
	net.Conn
	ahead  *Ahead
	socket *socket // below Conn; nil when there is none
	remote string

	phase phase     // of the reader, as all up to stage
	known bool      // the server has had a request of it
	lone  bool      // it is in Ahead.lone
	until time.Time // the read deadline set here; zero is none

	waited bool   // for a client, so that there is a write deadline; net/http's server lifts its own
	room   []byte // of readAhead: what it reads into
	n      int    // of room, that has come
	over   bool   // it ended with an answer

	stage atomic.Int32
}

// What an aheadConn is doing, for who closes it.
const (
	stageWaits   = iota // or the server has it
	stageAnswers        // here: then it also closes
	stageCloses
)

// NetConn is the connection below, as tls.Conn has it.
func (c *aheadConn) NetConn() net.Conn { return c.Conn }

// ReadFrom is for sendfile.
func (c *aheadConn) ReadFrom(r io.Reader) (int64, error) {
	if c.socket != nil {
		return c.socket.conn.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{c.Conn}, r)
}

// leastRead is the shortest buffer that is read into before the server: shorter
// ones are no reads of a request's header.
const leastRead = 2 << 10

// Read gives the server what it is to see.
func (c *aheadConn) Read(p []byte) (int, error) {
	switch {
	case c.phase == phaseIdle && len(p) >= leastRead:
		return c.readAhead(p)
	case c.phase == phaseServer:
		return c.Conn.Read(p)
	}
	n, err := c.Conn.Read(p)
	if n > 0 { // more than the request
		c.phase = phaseServer
	}
	return n, err
}

// readAhead answers what can be answered, and gives the first request that can't
// be.
func (c *aheadConn) readAhead(p []byte) (int, error) {
	c.until = time.Time{}
	c.room, c.n, c.over = p, 0, false
	var err error
	if c.socket != nil {
		err = c.socket.each(p, c.came)
	} else {
		err = readEach(c.Conn, p, c.came)
	}
	n := c.n
	c.room = nil
	if c.waited && !c.over { // what the server does has its own
		c.waited = false
		_ = c.Conn.SetWriteDeadline(time.Time{})
	}
	switch {
	case c.over:
		c.Conn.Close()
		return 0, net.ErrClosed
	case n == 0:
		return 0, err
	case err != nil:
		c.phase = phaseServer
	}
	return n, nil
}

// readEach is socket.each of a connection that is none.
func readEach(conn net.Conn, room []byte, take func(n int) (room []byte, done bool)) error {
	for {
		n, err := conn.Read(room)
		done := false
		if n > 0 {
			room, done = take(n)
		}
		if done || err != nil {
			return err
		}
	}
}

// came is told of k bytes more of a request. Once it is done, room[:n] is for the
// server, with the phase that it is in, or the connection is over.
func (c *aheadConn) came(k int) (room []byte, done bool) {
	c.n += k
	head := c.room[:c.n]
	end := headEnd(head, c.n-k)
	switch {
	case end < 0 && c.n < len(c.room) && !odd(head, c.n-k):
		if c.n == k && (c.known || c.lone) { // the first piece; the server's own deadline stands for a first request
			c.renew(c.ahead.Header, 0)
		}
		return c.room[c.n:], false
	case end != c.n: // it has no end, or another follows it
		c.phase = phaseServer
		return nil, true
	}
	answered, closed := c.answer(head)
	switch {
	case closed:
		c.over = true
		return nil, true
	case !answered:
		c.phase = phaseServer
		if endsWithHead(head) {
			c.phase = phaseWithin
		}
		return nil, true
	}
	c.n = 0
	c.renew(c.ahead.Idle, c.ahead.Idle/8)
	return c.room, false
}

// renew gives the next read so long, unless it has as much but for slack.
func (c *aheadConn) renew(long, slack time.Duration) {
	if long <= 0 {
		if !c.until.IsZero() || c.lone {
			c.until = time.Time{}
			_ = c.Conn.SetReadDeadline(c.until)
		}
		return
	}
	until := time.Now().Add(long)
	if gap := until.Sub(c.until); gap > slack || gap < 0 {
		c.until = until
		_ = c.Conn.SetReadDeadline(until)
	}
}

// headEnd is where the first request's header ends, behind its empty line; -1 when
// it does not. Up to from there was no end before.
func headEnd(b []byte, from int) int {
	from = max(0, from-3)
	if at := bytes.Index(b[from:], []byte("\r\n\r\n")); at >= 0 {
		return from + at + 4
	}
	return -1
}

// odd says whether a header whose end has not come is one for the server, which need
// not wait for that: a line of it ends in LF alone, as some clients' do, or the first
// is none of HTTP/1. Up to from it was not.
func odd(b []byte, from int) bool {
	for i := from; ; i++ {
		next := bytes.IndexByte(b[i:], '\n')
		if next < 0 {
			return false
		}
		if i += next; i == 0 || b[i-1] != '\r' {
			return true
		}
		if line := b[:i-1]; bytes.IndexByte(line, '\n') < 0 && !bytes.HasSuffix(line, []byte(" HTTP/1.1")) && !bytes.HasSuffix(line, []byte(" HTTP/1.0")) {
			return true
		}
	}
}

// answer has the request answered, if it is one for that. closed says that there
// will be no other on this connection.
func (c *aheadConn) answer(head []byte) (answered, closed bool) {
	if c.ahead.draining.Load() {
		return false, false
	}
	asked := askedPool.Get().(*Asked)
	defer asked.free()
	if !asked.read(head) {
		return false, false
	}
	asked.conn, asked.Request.RemoteAddr = c, c.remote
	if !c.stage.CompareAndSwap(stageWaits, stageAnswers) {
		return false, true
	}
	defer c.stage.CompareAndSwap(stageAnswers, stageWaits) // after a panic of Answer, where the server closes, too
	if answered = c.ahead.Answer(asked); answered && !c.known && !c.lone {
		c.lone = true
		c.ahead.remember(c)
		closed = c.ahead.draining.Load() // since
	}
	if closed = closed || asked.err != nil; closed {
		c.stage.Store(stageCloses)
		return answered, true
	}
	return answered, !c.stage.CompareAndSwap(stageAnswers, stageWaits) // Close came meanwhile, and left it to this
}

// Close closes the connection, when an answer that is under way here is out: the
// server, which knows nothing of it, takes the connection for an idle one.
func (c *aheadConn) Close() error {
	c.ahead.mu.Lock()
	delete(c.ahead.lone, c)
	c.ahead.mu.Unlock()
	if c.stage.Swap(stageCloses) == stageAnswers {
		return nil
	}
	return c.Conn.Close() // waits for who reads, who may be about to answer
}

// Asked is a request that may be answered ahead of the server.
type Asked struct {
	// Request has what the server would make of the request, less its context,
	// with a header of ordinary fields alone, none of them twice.
	Request http.Request

	url    url.URL    // of Request, where it is plain
	conn   *aheadConn // nil over HTTP/2
	over   *frames    // nil over HTTP/1.1
	stream uint32     // of over
	err    error      // of Write, of a connection that has ended with it
	values [mostOrdinary]string
}

var askedPool = sync.Pool{New: func() any { return &Asked{Request: http.Request{Header: make(http.Header, mostOrdinary)}} }}

// free gives a back.
func (a *Asked) free() {
	header := a.Request.Header
	clear(header)
	*a = Asked{Request: http.Request{Header: header}}
	askedPool.Put(a)
}

// Write sends a header, as HTTP/1.1 has it, and a body, in one go where that is
// possible, with the client's time for it, and gives how much of the body was taken.
// It may use the room behind header.
// After ErrNotNow nothing was written; after any other error, the
// os.ErrDeadlineExceeded of a client that took nothing for too long among them, the
// connection is closed.
func (a *Asked) Write(header, body []byte) (n int64, err error) {
	if a.over != nil {
		if n, err = a.over.write(a.stream, header, body); err != nil && err != ErrNotNow {
			a.err = silent(err, a.over.options.Ahead.Send)
			return n, a.err
		}
		return n, err
	}
	c := a.conn
	if c.socket == nil {
		n, err = c.writePieces(header, body)
	} else {
		if c.waited {
			c.waited = false
			_ = c.Conn.SetWriteDeadline(time.Time{})
		}
		n, err = c.socket.write(header, body, c)
		n = max(0, n-int64(len(header)))
	}
	if err != nil {
		a.err = silent(err, c.ahead.Send)
		return n, a.err
	}
	return n, nil
}

// waiter is told that a client must make room, each time before that is waited for,
// unless nothing was taken since.
type waiter interface{ wait() }

// wait gives the client its time before there must be room for more.
func (c *aheadConn) wait() {
	if c.ahead.Send > 0 {
		c.waited = true
		_ = c.Conn.SetWriteDeadline(time.Now().Add(c.ahead.Send))
	}
}

// writePieces is socket.write of a connection that is none. It gives how much of the
// body was taken.
func (c *aheadConn) writePieces(header, body []byte) (n int64, err error) {
	for first := true; first || len(body) > 0; first = false {
		if c.wait(); first {
			if _, err = c.Conn.Write(header); err != nil || len(body) == 0 {
				return n, err
			}
		}
		k, err := c.Conn.Write(body[:min(len(body), passSize)])
		if n, body = n+int64(k), body[k:]; err != nil {
			return n, err
		}
	}
	return n, nil
}

// silent is err of a write that had so long.
func silent(err error, long time.Duration) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return errors.Join(&Silence{long}, err)
	}
	return err
}

// endsWithHead reports whether head, which ends with the first "\r\n\r\n" of what
// came, is a whole request for any server: no line ends otherwise, and no field
// says that there is a body, or another protocol.
func endsWithHead(head []byte) bool {
	lines := string(head[:len(head)-2])
	line, lines, _ := strings.Cut(lines, "\r\n")
	if !strings.HasPrefix(line, "GET ") && !strings.HasPrefix(line, "HEAD ") || !strings.HasSuffix(line, " HTTP/1.1") || strings.ContainsAny(line, "\r\n") {
		return false
	}
	for lines != "" {
		line, lines, _ = strings.Cut(lines, "\r\n")
		name, _, named := strings.Cut(line, ":")
		if !named || strings.ContainsAny(line, "\r\n") || strings.ContainsAny(name, " \t") {
			return false
		}
		switch strings.ToLower(name) {
		case "content-length", "transfer-encoding", "upgrade", "expect", "trailer", "http2-settings":
			return false
		}
	}
	return true
}
