package cache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
)

// Who is left behind by a fetch whose body is not kept:
//
//  1. reads what there is of it yet, of the draft and the ring,
//  2. then fetches the rest himself, at a pace of his own: by a strong entity tag, so
//     that it is a rest of the same (RFC 9110 §13.1.5),
//  3. where that can't be, his answer is cut: it never looks whole.

var (
	errUnread = errors.New("nobody reads on")
	errBehind = errors.New("the client reads too slowly for those who share the fetch with it, and the rest can't be fetched alone")
)

// lost reports whether the next bytes were there, and are not any more. f.reads is
// held.
func (s *seat) lost() bool {
	f := s.f
	return f.ring != nil && s.at >= f.inDraft && s.at < f.written-ringSize
}

// readOwn reads the rest that is fetched for this seat alone. f.reads is held, but
// while that is read.
func (s *seat) readOwn(p []byte) (int, error) {
	f, own := s.f, s.own
	f.reads.Unlock()
	var err error
	if own == nil {
		own, err = s.rest()
	}
	n := 0
	if err == nil {
		n, err = own.Read(p)
	}
	f.reads.Lock()
	if own != nil && s.own == nil && !s.gone {
		s.own = own
	} else if own != nil && s.own == nil {
		own.Close() // it left meanwhile
	}
	s.at += int64(n)
	return n, err
}

// rest asks for the bytes that are missing.
func (s *seat) rest() (io.ReadCloser, error) {
	f, m := s.f, s.f.landing.meta
	from, to := s.at, s.to // the reader's own
	tag := m.facts().etag
	if m.Status != http.StatusOK || m.Coding != "" || !strong(tag) {
		return nil, errBehind
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(f.out.Context()))
	stops := []func() bool{context.AfterFunc(s.ctx, cancel), context.AfterFunc(f.c.base, cancel)}
	end := func() {
		for _, stop := range stops {
			stop()
		}
		cancel()
	}
	out := f.out.WithContext(ctx)
	out.Header = f.out.Header.Clone()
	out.Header["Range"] = []string{(&ranged{from: from, to: to}).text()}
	out.Header["If-Range"] = []string{tag}
	out.Header["Accept-Encoding"] = []string{"identity"}
	res, err := f.next.RoundTrip(out)
	if err != nil {
		end()
		return nil, fmt.Errorf("fetch the rest: %w", err)
	}
	span, ok := readContentRange(res.Header["Content-Range"])
	if res.StatusCode != http.StatusPartialContent || !ok || span.From != from || to >= 0 && span.To != to || to < 0 && span.To != span.Of ||
		f.landing.size >= 0 && span.Of != f.landing.size || first(res.Header, "Etag") != tag || len(res.Header["Content-Encoding"]) > 0 {
		res.Body.Close()
		end()
		return nil, errBehind
	}
	return &restBody{res.Body, span.To - from, end}, nil
}

// restBody is the rest of a body.
type restBody struct {
	io.ReadCloser
	left int64
	end  func()
}

// Read reads no more than was promised, and fails when that does not come.
func (b *restBody) Read(p []byte) (int, error) {
	if b.left == 0 {
		return 0, io.EOF
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	switch {
	case b.left == 0 && (err == nil || err == io.EOF):
		return n, io.EOF
	case err == io.EOF:
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Close ends the request.
func (b *restBody) Close() error {
	err := b.ReadCloser.Close()
	b.end()
	return err
}
