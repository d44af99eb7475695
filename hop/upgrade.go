package hop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// hijack takes the client's HTTP/1.1 connection over and writes the 101 of res.
// The caller closes what it returns.
func hijack(w http.ResponseWriter, res *http.Response) (io.ReadWriteCloser, error) {
	upgrade := UpgradeOf(res.Header)
	RemoveHopByHop(res.Header)
	setUpgrade(res.Header, upgrade)
	own := w.Header()
	for name, values := range res.Header {
		own[name] = values
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("take the connection over: %w", err)
	}
	_ = conn.SetDeadline(time.Time{})
	head := &http.Response{StatusCode: res.StatusCode, ProtoMajor: 1, ProtoMinor: 1, Header: own}
	if err := head.Write(buffered); err != nil {
		conn.Close()
		return nil, fmt.Errorf("write the upgrade: %w", err)
	}
	if err := buffered.Flush(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("write the upgrade: %w", err)
	}
	return &hijacked{Conn: conn, early: buffered.Reader}, nil
}

// hijacked is a client's connection whose first bytes were read already.
type hijacked struct {
	net.Conn
	early *bufio.Reader // what the server had read behind the request; nil when used up
}

func (h *hijacked) Read(p []byte) (int, error) {
	if h.early != nil {
		if n := h.early.Buffered(); n > 0 {
			return h.early.Read(p[:min(n, len(p))])
		}
		h.early = nil
	}
	return h.Conn.Read(p)
}

// CloseWrite says that nothing more will be written, and keeps reading.
func (h *hijacked) CloseWrite() error { return closeWrite(h.Conn) }

// join copies both ways until both ended. One side's end is passed on as a
// half-close where the other can take it; an error, silence of StreamTimeout
// both ways or ctx's end closes both. It closes neither side on a clean end
// (the callers do) and returns after both copies stopped.
func join(ctx context.Context, client, origin io.ReadWriteCloser, opt Options) error {
	closeBoth := func() { client.Close(); origin.Close() }
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()
	moved := func() {}
	var silent atomic.Bool
	if opt.StreamTimeout > 0 {
		idle := time.AfterFunc(opt.StreamTimeout, func() { silent.Store(true); closeBoth() })
		defer idle.Stop()
		moved = func() { idle.Reset(opt.StreamTimeout) }
	}
	toOrigin := make(chan error, 1)
	go func() { toOrigin <- oneWay(origin, client, moved, nil, closeBoth) }()
	err := oneWay(client, origin, moved, opt.Wrote, closeBoth)
	other := <-toOrigin
	switch {
	case silent.Load():
		return &CopyError{Err: fmt.Errorf("no byte for %v: %w", opt.StreamTimeout, context.DeadlineExceeded)}
	case ctx.Err() != nil:
		return &CopyError{FromClient: true, Err: context.Cause(ctx)}
	case err != nil:
		return &CopyError{Err: err}
	case other != nil:
		return &CopyError{FromClient: true, Err: other}
	}
	return nil
}

// The buffers hold what is under way in one direction, none when nothing is: an empty
// Read of a tunnel stream gives nothing back before there is something to read. That
// of a client's connection does so at once, so that it is read into a short buffer
// until that fills. 32 KiB is what io.Copy and net/http use.
var (
	shortBuffers = sync.Pool{New: func() any { b := make([]byte, 4<<10); return &b }}
	longBuffers  = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}
)

// oneWay copies src to dst until src ends, then half-closes dst, or closes both
// when dst has only one close or something failed.
func oneWay(dst io.Writer, src io.Reader, moved func(), wrote func(int), closeBoth func()) error {
	buffers := &shortBuffers
	for {
		_, err := src.Read(nil)
		if err == nil {
			buffer, n := buffers.Get().(*[]byte), 0
			if n, err = src.Read(*buffer); n > 0 {
				moved()
				m, failed := dst.Write((*buffer)[:n])
				if wrote != nil {
					wrote(m)
				}
				if failed != nil { // HTTP/2's server may yet look at the buffer: it is not used again
					closeBoth()
					return ended(failed)
				}
			}
			full := n == len(*buffer)
			buffers.Put(buffer)
			if full {
				buffers = &longBuffers
			} else if n < 4<<10 {
				buffers = &shortBuffers
			}
		}
		if err == io.EOF {
			if closeWrite(dst) != nil {
				closeBoth()
			}
			return nil
		}
		if err != nil {
			closeBoth()
			return ended(err)
		}
	}
}

// ended drops the errors that only say that the other direction closed the
// connection first.
func ended(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe) || errors.Is(err, http.ErrBodyReadAfterClose) {
		return nil
	}
	return err
}

// closeWrite half-closes w where it can.
func closeWrite(w any) error {
	if half, ok := w.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}
