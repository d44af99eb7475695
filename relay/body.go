package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"syscall"

	"causeway/hop"
	"causeway/outcome"
	"causeway/rewrite"
)

// watched is the origin's body: it ends a read that no byte came for in a
// while, and names its failures.
type watched struct{ hop.Watched }

func (b *watched) Read(p []byte) (int, error) {
	n, err := b.Watched.Read(p)
	var silence *hop.Silence
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case errors.As(err, &silence):
		return n, outcome.Errorf(outcome.OriginSlow, "read from origin: no byte for %v", silence.For)
	case errors.Is(err, context.Canceled):
		return n, outcome.Errorf(outcome.ClientGone, "read from origin: %w", err)
	}
	return n, outcome.Errorf(outcome.OriginCut, "read from origin: %w", unquoted{err})
}

// unquoted is an error of net/http without what it quotes, which is what it
// could not read: a line with a cookie, or of a page.
type unquoted struct{ error }

func (u unquoted) Error() string {
	message, _, quotes := strings.Cut(u.error.Error(), `"`)
	if quotes {
		message += "…"
	}
	return message
}

func (u unquoted) Unwrap() error { return u.error }

// mapped is the body after rewriting: an error that nobody named is one of
// decoding it.
type mapped struct{ io.ReadCloser }

func (b *mapped) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil || err == io.EOF {
		return n, err
	}
	var known *outcome.Error
	if !errors.As(err, &known) {
		err = outcome.Errorf(outcome.Unprocessed, "decode the origin's body: %w", err)
	}
	return n, err
}

// Holding is the body's (hop.Answer).
func (b *mapped) Holding() bool {
	body, ok := b.ReadCloser.(interface{ Holding() bool })
	return ok && body.Holding()
}

// Uncoded is the body's.
func (b *mapped) Uncoded() string { return uncoded(b.ReadCloser) }

// Unmapped is the body's.
func (b *mapped) Unmapped() string { return unmapped(b.ReadCloser) }

// unmapped says why the names in a body that was read were not found, "" when
// nothing stood in the way.
func unmapped(body io.Reader) string {
	if text, ok := body.(interface{ Unmapped() string }); ok {
		return text.Unmapped()
	}
	return ""
}

// switched is the body of a 101 to a request with the header asked, with the
// half-close of the connection under it. The messages of a WebSocket are mapped.
func (f *fetch) switched(asked http.Header, res *http.Response) io.ReadCloser {
	stream, ok := res.Body.(io.ReadWriteCloser)
	if !ok {
		return res.Body
	}
	s := &switchedConn{ReadWriteCloser: stream}
	if conn := f.conn.Load(); conn != nil {
		s.conn = *conn
	}
	return &mappedConn{f.names.Switched(asked, res.Header, s)}
}

// mappedConn names who broke the protocol.
type mappedConn struct{ io.ReadWriteCloser }

func (m *mappedConn) Read(p []byte) (int, error) {
	n, err := m.ReadWriteCloser.Read(p)
	return n, namedSocket(err)
}

func (m *mappedConn) Write(p []byte) (int, error) {
	n, err := m.ReadWriteCloser.Write(p)
	return n, namedSocket(err)
}

// CloseWrite tells the origin that nothing more will be sent.
func (m *mappedConn) CloseWrite() error {
	return m.ReadWriteCloser.(interface{ CloseWrite() error }).CloseWrite()
}

func namedSocket(err error) error {
	var broken *rewrite.SocketError
	switch {
	case !errors.As(err, &broken):
		return err
	case broken.FromClient:
		return &outcome.Error{Kind: outcome.BadRequest, Err: err}
	}
	return &outcome.Error{Kind: outcome.Unprocessed, Err: err}
}

type switchedConn struct {
	io.ReadWriteCloser
	conn net.Conn
}

// CloseWrite tells the origin that nothing more will be sent.
func (s *switchedConn) CloseWrite() error {
	if half, ok := s.conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// replayLimit is how much of a request body is kept so that it can be sent
// again on a fresh connection when the kept-alive one turned out to be closed:
// a form or an API call, not an upload.
const replayLimit = 64 << 10

// replayable is a request body whose beginning is kept. Each attempt reads
// through a reader of its own.
type replayable struct {
	mu   sync.Mutex // guards all below, and the reading of src
	src  io.ReadCloser
	kept []byte
	over bool // more than replayLimit was read: it can't be sent again
	err  error
}

func (b *replayable) reader() io.ReadCloser { return &replayReader{body: b} }

// again is http.Request.GetBody.
func (b *replayable) again() (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return nil, fmt.Errorf("send the body again: over %d bytes were sent already", replayLimit)
	}
	return b.reader(), nil
}

// replayReader is one attempt at sending the body.
type replayReader struct {
	body   *replayable
	offset int
}

func (r *replayReader) Read(p []byte) (int, error) {
	b := r.body
	b.mu.Lock()
	defer b.mu.Unlock()
	if r.offset < len(b.kept) {
		n := copy(p, b.kept[r.offset:])
		r.offset += n
		return n, nil
	}
	if b.err != nil {
		return 0, b.err
	}
	n, err := b.src.Read(p)
	b.err = err
	if !b.over && len(b.kept)+n <= replayLimit {
		b.kept = append(b.kept, p[:n]...)
		r.offset += n
	} else if n > 0 {
		b.over, b.kept, r.offset = true, nil, 0
	}
	return n, err
}

// Close leaves the body itself to the server that owns it.
func (r *replayReader) Close() error { return nil }

// isCut reports whether err says that the origin closed the connection before
// its answer's header was whole.
func isCut(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, net.ErrClosed) ||
		strings.Contains(err.Error(), "server closed idle connection") || // net/http's errServerClosedIdle,
		strings.Contains(err.Error(), "stream error: ") || // http2's StreamError
		strings.Contains(err.Error(), "server sent GOAWAY") // and GoAwayError are not exported
}
