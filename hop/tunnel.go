package hop

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// Between nodes an upgraded connection is one HTTP/2 stream:
//
//	request   the client's, without Connection and Upgrade, with
//	          Causeway-Upgrade: websocket; its body is what the client sends
//	response  200 with Causeway-Upgraded: websocket; its body is what the
//	          origin sends. Any other response means the origin refused.
//
// RFC 8441 has the same shape, but net/http does not serve it.
const (
	tunnelAsk   = Prefix + "Upgrade"
	tunnelAgree = Prefix + "Upgraded"
)

// OpenTunnel sends req, which asks for an upgrade, as a tunnel stream through
// send and gives the response that send's far side gave: a 101 whose body can
// be written, or the refusal. The far side must use AcceptTunnel and Answer.
func OpenTunnel(req *http.Request, send func(*http.Request) (*http.Response, error)) (*http.Response, error) {
	ctx, cancel := context.WithCancel(req.Context())
	read, write := io.Pipe()
	out := req.WithContext(ctx)
	out.Header = req.Header.Clone()
	out.Header.Set(tunnelAsk, UpgradeOf(req.Header))
	out.Header.Del("Connection")
	out.Header.Del("Upgrade")
	out.Body, out.ContentLength = read, -1
	res, err := send(out)
	if err != nil {
		cancel()
		write.Close()
		return nil, err
	}
	protocol := res.Header.Get(tunnelAgree)
	if res.StatusCode != http.StatusOK || protocol == "" {
		write.Close()
		res.Body = &canceling{res.Body, cancel}
		return res, nil
	}
	res.Header.Del(tunnelAgree)
	setUpgrade(res.Header, protocol)
	res.StatusCode, res.Status = http.StatusSwitchingProtocols, "101 Switching Protocols"
	res.Body = &tunnel{ReadCloser: res.Body, write: write, cancel: cancel}
	return res, nil
}

// Canceling is res with a body whose Close cancels its request.
func Canceling(res *http.Response, cancel context.CancelFunc) *http.Response {
	res.Body = &canceling{res.Body, cancel}
	return res
}

// canceling ends the request's context with its body.
type canceling struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c *canceling) Close() error {
	defer c.cancel()
	return c.ReadCloser.Close()
}

// tunnel is the near end of a tunnel stream.
type tunnel struct {
	io.ReadCloser
	write  *io.PipeWriter
	cancel context.CancelFunc
}

func (t *tunnel) Write(p []byte) (int, error) { return t.write.Write(p) }
func (t *tunnel) CloseWrite() error           { return t.write.Close() }
func (t *tunnel) Close() error {
	t.write.Close()
	t.cancel()
	return t.ReadCloser.Close()
}

// AcceptTunnel restores the upgrade of a request that came as a tunnel stream
// and reports whether it was one; Answer must be told (Options.Tunnel).
func AcceptTunnel(r *http.Request) bool {
	protocol := r.Header.Get(tunnelAsk)
	if protocol == "" || r.ProtoMajor != 2 {
		return false
	}
	r.Header.Del(tunnelAsk)
	setUpgrade(r.Header, protocol)
	r.ContentLength = 0 // what follows is the connection's, not the request's: Outgoing sends none
	return true
}

// acceptTunnel answers that the far side switched, and gives the far end of the
// tunnel stream.
func acceptTunnel(w http.ResponseWriter, r *http.Request, res *http.Response) io.ReadWriteCloser {
	protocol := UpgradeOf(res.Header)
	copyHeader(w, res)
	w.Header().Set(tunnelAgree, protocol)
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	return &farEnd{body: r.Body, w: w, control: http.NewResponseController(w)}
}

// TunnelEnd answers r, when it came as a tunnel stream, that this node itself
// switched, and gives the far end, which ends when the handler returns.
func TunnelEnd(w http.ResponseWriter, r *http.Request) (io.ReadWriteCloser, bool) {
	if !AcceptTunnel(r) {
		return nil, false
	}
	res := &http.Response{Header: http.Header{}}
	setUpgrade(res.Header, UpgradeOf(r.Header))
	return acceptTunnel(w, r, res), true
}

// farEnd is the far end of a tunnel stream: the server's request body and its
// response.
type farEnd struct {
	body    io.ReadCloser
	w       io.Writer
	control *http.ResponseController
}

func (f *farEnd) Read(p []byte) (int, error) { return f.body.Read(p) }

func (f *farEnd) Write(p []byte) (int, error) {
	n, err := f.w.Write(p)
	if err != nil {
		return n, err
	}
	if err := f.control.Flush(); err != nil {
		return n, fmt.Errorf("flush tunnel: %w", err)
	}
	return n, nil
}

// Close ends the reading; the response ends when the handler returns. There is
// no half-close: net/http's server can't end a response and keep reading.
func (f *farEnd) Close() error { return f.body.Close() }
