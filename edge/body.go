package edge

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go/http3"

	"causeway/config"
	"causeway/outcome"
)

// limitedBody is a client's request body: at most so many bytes, each piece in
// time, and not too slowly on the whole.
type limitedBody struct {
	io.ReadCloser
	client  context.Context // the request's: ends when the client leaves
	control *http.ResponseController
	limits  config.Limits
	trailer http.Header // the request's, complete when the body ends
	start   time.Time
	n       atomic.Int64 // bytes so far

	reading sync.Mutex // held by Read

	mu      sync.Mutex  // guards the rest, and control: the crossing may read on while the answer is there, and after it
	timer   *time.Timer // runs late
	waiting bool        // for the client's bytes
	over    bool        // the handler has returned: its connection is not touched any more
	err     error       // io.EOF or what ended the body
}

// limitBody wraps the body of r, the request that w answers.
func limitBody(r *http.Request, w http.ResponseWriter, limits config.Limits) *limitedBody {
	return &limitedBody{ReadCloser: r.Body, client: r.Context(), control: http.NewResponseController(w), limits: limits, trailer: r.Trailer, start: time.Now()}
}

func (b *limitedBody) Read(p []byte) (int, error) {
	b.reading.Lock()
	defer b.reading.Unlock()
	if err := b.wait(); err != nil {
		return 0, err
	}
	n, err := b.ReadCloser.Read(p)
	b.came()
	b.n.Add(int64(n))
	if err == nil || err == io.EOF {
		if over := b.check(err == io.EOF); over != nil {
			err = over
		}
	} else if errors.Is(err, os.ErrDeadlineExceeded) {
		err = outcome.Errorf(outcome.ClientSlow, "read the request body: nothing for limits.body_timeout, %v", b.limits.BodyTimeout)
	} else if b.left(err) {
		err = outcome.Errorf(outcome.ClientGone, "read the request body: %w", err)
	} else {
		err = outcome.Errorf(outcome.BadRequest, "read the request body: %w", err)
	}
	if err != nil {
		if err == io.EOF {
			cleanTrailer(b.trailer)
		}
		b.mu.Lock()
		b.err = err
		b.mu.Unlock()
	}
	return n, err
}

// wait begins the client's time for its next bytes. A deadline would go on while
// nobody reads, over HTTP/2, and how fast the origin takes the body is not the
// client's fault.
func (b *limitedBody) wait() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err != nil {
		return b.err
	}
	if b.over {
		return http.ErrBodyReadAfterClose
	}
	b.waiting = true
	if b.timer == nil {
		b.timer = time.AfterFunc(b.limits.BodyTimeout, b.late)
	} else {
		b.timer.Reset(b.limits.BodyTimeout)
	}
	return nil
}

// late ends a read that waits.
func (b *limitedBody) late() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.waiting && !b.over {
		_ = b.control.SetReadDeadline(time.Unix(1, 0))
	}
}

// came ends the client's time.
func (b *limitedBody) came() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiting = false
	b.timer.Stop()
}

// Close leaves the body to the server, which closes it once the answer is out.
// Over HTTP/1.1 closing it would first read what the client still sends.
func (b *limitedBody) Close() error { return nil }

// stop must be called at the end of the handler. Whoever still reads gets no
// more: the server waits for it.
func (b *limitedBody) stop() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over = true
	if b.waiting {
		_ = b.control.SetReadDeadline(time.Unix(1, 0))
	}
	if b.timer != nil {
		b.timer.Stop()
	}
}

// left reports whether err, of a read, says that the client left. Otherwise it
// is here and what it sends is no body: false chunks, a false Content-Length.
func (b *limitedBody) left(err error) bool {
	var network net.Error
	var reset *http3.Error // the stream's end before the body's
	if errors.As(err, &reset) && reset.Remote {
		return true
	}
	return b.client.Err() != nil || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network) ||
		strings.HasPrefix(err.Error(), "stream error: ") || // net/http exports none of its HTTP/2 errors
		strings.Contains(err.Error(), "client disconnected")
}

// check holds what came so far against the limits. A body that is whole has
// come fast enough.
func (b *limitedBody) check(whole bool) error {
	if limit := int64(b.limits.BodyBytes); limit > 0 && b.n.Load() > limit {
		return outcome.Errorf(outcome.BodyTooBig, "read the request body: over limits.body_bytes, %d", limit)
	}
	elapsed := time.Since(b.start)
	if rate := int64(b.limits.BodyRate); !whole && rate > 0 && elapsed > b.limits.BodyTimeout && float64(b.n.Load()) < elapsed.Seconds()*float64(rate) {
		return outcome.Errorf(outcome.ClientSlow, "read the request body: %d bytes in %v is under limits.body_rate, %d bytes a second", b.n.Load(), elapsed.Round(time.Second), rate)
	}
	return nil
}

// failed is what ended the body before its end, nil when nothing did. net/http
// ends the request's context from inside the read that fails, so then the read
// that is under way is waited for.
func (b *limitedBody) failed() error {
	if b.client.Err() != nil {
		b.reading.Lock()
		defer b.reading.Unlock()
	}
	if err := b.end(); err != io.EOF {
		return err
	}
	return nil
}

// end is io.EOF or what ended the body, nil as long as it goes on.
func (b *limitedBody) end() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.err
}

// unread reports whether the body was not read to its end.
func (b *limitedBody) unread() bool { return b.end() == nil }
