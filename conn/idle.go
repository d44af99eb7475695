package conn

import "io"

// A connection that is idle for hours should not hold a buffer for what may come. A
// socket says when there is something (syscall.RawConn). Of what is no socket that
// can be asked with an empty Read: a stream of net/http's HTTP/2 and a net.Pipe give
// that back when there is something to read, or the end (TestIdle). Others, as a
// tls.Conn, give it back at once, as an io.Reader may: they are read into a small
// buffer for as long as that does not fill.

// idleReader reads from what may be idle for long.
type idleReader struct {
	from io.Reader
	size int // of the next buffer
}

// read gives what came, in a buffer for release.
func (r *idleReader) read() ([]byte, error) {
	if _, err := r.from.Read(nil); err != nil {
		return nil, err
	}
	p := obtain(max(r.size, smallBuffer))
	n, err := r.from.Read(p)
	if n == len(p) {
		r.size = copyBuffer
	} else if n < smallBuffer {
		r.size = smallBuffer
	}
	return p[:n], err
}

// Copy is io.Copy, and holds no buffer while from has nothing to read, or a small
// one. What is given to Write is not used again after Write has failed, as net/http's
// HTTP/2 may yet look at it.
func Copy(to io.Writer, from io.Reader) (written int64, err error) {
	in := idleReader{from: from}
	for {
		p, err := in.read()
		if len(p) > 0 {
			n, failed := to.Write(p)
			if written += int64(n); failed != nil {
				return written, failed
			}
		}
		release(p)
		if err == io.EOF {
			return written, nil
		}
		if err != nil {
			return written, err
		}
	}
}
