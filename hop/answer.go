package hop

import (
	"fmt"
	"io"
	"net/http"
	"net/textproto"
	"strings"
	"sync"
	"time"
)

// Options are what Answer must know of the node and the request.
type Options struct {
	Clock         *SendClock    // longest wait for the client to take bytes; nil = none
	WriteTimeout  time.Duration // the same, roughly, without a clock: of no use for what may pause; 0 = none
	StreamTimeout time.Duration // longest silence, both ways, of an upgraded connection; 0 = none
	Tunnel        bool          // AcceptTunnel said so: after a 101 the stream itself is the connection
	Wrote         func(n int)   // told of body bytes as they are written; may be nil
	Encode        Encode        // puts the body into a coding; nil leaves it as it is
}

// CopyError is a failure while the response was under way.
type CopyError struct {
	FromClient bool // the client's side failed (it left, or took too long); else the side the response came from
	Unsent     bool // not even the header went out: the client may be told of the failure
	Err        error
}

func (e *CopyError) Error() string {
	if e.FromClient {
		return "write to client: " + e.Err.Error()
	}
	return "read response: " + e.Err.Error()
}
func (e *CopyError) Unwrap() error { return e.Err }

// mostEarly is how many informational responses of one request are passed on.
// An origin has a few to send (RFC 8297); one that does not stop is not waited
// for.
const mostEarly = 32

// Early is an EarlyFunc that writes to w, safe against a late call. Send never
// waits for the client: it is called by who reads a connection that others
// share. Stop must be called before w is used for the final response.
type Early struct {
	w     http.ResponseWriter
	clock *SendClock
	http  bool // the client speaks HTTP/1.1 or later and knows 1xx (RFC 9110 §15.2)

	writing sync.WaitGroup // write; Stop waits for it

	mu      sync.Mutex // guards the rest
	came    int
	waiting []informational
	busy    bool // write runs
	stopped bool
}

// informational is one 1xx response.
type informational struct {
	status int
	header http.Header
}

// NewEarly passes informational responses to w, the writer that answers r.
// clock may be nil.
func NewEarly(w http.ResponseWriter, r *http.Request, clock *SendClock) *Early {
	return &Early{w: w, http: r.ProtoAtLeast(1, 1), clock: clock}
}

// Send is the EarlyFunc. 100 is not passed on: the server sends its own when
// the body is first read.
func (e *Early) Send(status int, h http.Header) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.stopped || !e.http || e.came == mostEarly || status == http.StatusContinue || status == http.StatusSwitchingProtocols {
		return
	}
	e.came++
	e.waiting = append(e.waiting, informational{status, h})
	if !e.busy {
		e.busy = true
		e.writing.Go(e.write)
	}
}

// next takes the next response to write.
func (e *Early) next() (next informational, ok bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.waiting) == 0 {
		e.busy = false
		return next, false
	}
	next, e.waiting = e.waiting[0], e.waiting[1:]
	return next, true
}

// write writes what waits.
func (e *Early) write() {
	for next, ok := e.next(); ok; next, ok = e.next() {
		RemoveHopByHop(next.header)
		RemoveOwn(next.header)
		out := e.w.Header()
		for name, values := range next.header {
			out[name] = values
		}
		e.clock.start()
		e.w.WriteHeader(next.status)
		_ = e.clock.finish(nil) // a failure shows at the next write
		for name := range next.header {
			delete(out, name)
		}
	}
}

// Stop ends the passing on, when what came is written.
func (e *Early) Stop() {
	e.mu.Lock()
	e.stopped = true
	e.mu.Unlock()
	e.writing.Wait()
}

// Answer passes res on as the response to r: the header, the body as it comes,
// the trailers. It closes res.Body. What it returns is nil or a *CopyError.
// After one that says Unsent, w is as new and takes another response. After any
// other the header is out and the caller must abort the connection
// (panic(http.ErrAbortHandler)), so that the client can tell a cut body from a
// whole one.
//
// The caller may have set fields of its own in w.Header(): they stay unless the
// response has the same.
func Answer(w http.ResponseWriter, r *http.Request, res *http.Response, opt Options) error {
	defer res.Body.Close()
	if !ValidStatus(res.StatusCode) {
		return &CopyError{Unsent: true, Err: fmt.Errorf("status %d", res.StatusCode)}
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return answerUpgrade(w, r, res, opt)
	}
	trailers := announceTrailers(w, res)
	copyHeader(w, res)
	if err := passBody(w, r, res, opt); err != nil {
		return err
	}
	RemoveFromTrailer(res.Trailer)
	writeTrailers(w, res, trailers, opt.Clock)
	return nil
}

// copyHeader moves the end-to-end fields of res to w.
func copyHeader(w http.ResponseWriter, res *http.Response) {
	RemoveHopByHop(res.Header)
	header := w.Header()
	for name, values := range res.Header {
		header[name] = values
	}
	if _, typed := header["Content-Type"]; !typed {
		header["Content-Type"] = nil // net/http's server would guess one
	}
}

// announceTrailers names the trailers that are known before the body (RFC 9110
// §6.6.2) and gives their number.
func announceTrailers(w http.ResponseWriter, res *http.Response) int {
	RemoveFromTrailer(res.Trailer)
	if len(res.Trailer) == 0 {
		return 0
	}
	names := make([]string, 0, len(res.Trailer))
	for name := range res.Trailer {
		names = append(names, name)
	}
	defer w.Header().Set("Trailer", strings.Join(names, ", "))
	return len(names)
}

// writeTrailers sends the trailers: those that were announced by their name,
// others (HTTP/2 lets a sender surprise us) by net/http's prefix.
func writeTrailers(w http.ResponseWriter, res *http.Response, announced int, clock *SendClock) {
	if len(res.Trailer) == 0 {
		return
	}
	prefix := ""
	if len(res.Trailer) != announced {
		prefix = http.TrailerPrefix
	}
	clock.start()
	_ = clock.finish(http.NewResponseController(w).Flush()) // a body of no bytes must still go out chunked
	for name, values := range res.Trailer {
		w.Header()[prefix+textproto.CanonicalMIMEHeaderKey(name)] = values
	}
}

// answerUpgrade passes a 101 on and joins the client's connection with
// res.Body until both directions ended.
func answerUpgrade(w http.ResponseWriter, r *http.Request, res *http.Response, opt Options) error {
	origin, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		return &CopyError{Err: fmt.Errorf("a 101 whose body can't be written (%T)", res.Body)}
	}
	if opt.Tunnel {
		client := acceptTunnel(w, r, res)
		return join(r.Context(), client, origin, opt)
	}
	opt.Clock.release()
	client, err := hijack(w, res)
	if err != nil {
		return &CopyError{FromClient: true, Err: err}
	}
	defer client.Close()
	return join(r.Context(), client, origin, opt)
}
