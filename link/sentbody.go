package link

import (
	"io"
	"net/http"
	"sync"

	"causeway/outcome"
)

// sentBody is the body of a request, and notes that it could not be read: its
// client left, or sent what is none. nil is no body.
type sentBody struct {
	io.ReadCloser

	mu  sync.Mutex // guards err
	err error
}

// watchBody puts one in the place of the body of req.
func watchBody(req *http.Request) *sentBody {
	if bodiless(req) {
		return nil
	}
	b := &sentBody{ReadCloser: req.Body}
	req.Body = b
	return b
}

func (b *sentBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		b.mu.Lock()
		b.err = err
		b.mu.Unlock()
	}
	return n, err
}

// failed is why the body could not be read, nil when it could.
func (b *sentBody) failed() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.err == nil:
		return nil
	case outcome.KindOf(b.err) == outcome.Internal: // it has no name of ours
		return outcome.Errorf(outcome.BadRequest, "read the request's body: %w", b.err)
	}
	return b.err
}
