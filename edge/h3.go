package edge

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/quic-go/quic-go/http3"

	"causeway/config"
)

// HTTP/3 is the same handler behind another server:
//
//  1. Announce has the answers over TLS say that it is there (Alt-Svc, RFC 7838),
//  2. HTTP3 makes the server; its listener is to have the TLSConfig of HTTPS, by
//     which each site's settings count, and the certificates,
//  3. a request without a Content-Length may be one without a body: settle looks,
//     as net/http does for HTTP/2, before it goes on as any other.

// HTTP3 is the server of a QUIC listener. Who has it bounds its connections.
func (s *Server) HTTP3(limits config.Limits) *http3.Server {
	return &http3.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			control := http.NewResponseController(w)
			_ = control.SetWriteDeadline(time.Now().Add(s.sendTimeout(r))) // the beginning of hop.SendClock
			settle(r, control, limits.HeaderTimeout)
			s.serve(w, r, true)
		}),
		MaxHeaderBytes: int(limits.HeaderBytes),
		Logger:         slog.New(quietly{s.options.Log.Handler()}),
	}
}

// Announce says whether HTTP/3 is served on the port of HTTPS.
func (s *Server) Announce(yes bool) { s.http3.Store(yes) }

// announceAge is how long browsers believe it, in seconds: short, as one that
// was told and finds no HTTP/3 any more loses time.
const announceAge = "3600"

// announce adds the field Alt-Svc to an answer. The port is the one that the
// client came by, which is not ours where something in between maps ports.
func (x *exchange) announce(h http.Header) {
	if x.rec.Scheme != "https" || !x.server.http3.Load() {
		return
	}
	port := "443"
	if at := strings.LastIndexByte(x.r.Host, ':'); at >= 0 && !strings.HasSuffix(x.r.Host, "]") {
		if _, err := strconv.ParseUint(x.r.Host[at+1:], 10, 16); err == nil {
			port = x.r.Host[at+1:]
		}
	}
	h["Alt-Svc"] = []string{`h3=":` + port + `"; ma=` + announceAge}
}

// settle finds out whether a request without a Content-Length has a body. The end
// of the stream comes with the header or right behind it. A method that has no
// body as a rule waits for that; of others a body is expected, and one of no
// bytes is as good.
func settle(r *http.Request, control *http.ResponseController, patience time.Duration) {
	body := &body3{ReadCloser: r.Body, r: r, announced: r.Trailer}
	r.Body = body
	_, sized := r.Header["Content-Length"]
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodConnect:
		if sized && r.ContentLength == 0 {
			r.Body = http.NoBody
		}
		return
	}
	if sized && r.ContentLength > 0 {
		return
	}
	_ = control.SetReadDeadline(time.Now().Add(patience))
	n, err := body.ReadCloser.Read(body.first[:])
	_ = control.SetReadDeadline(time.Time{})
	body.left = n
	if n == 0 && err == io.EOF {
		r.Body, r.ContentLength = http.NoBody, 0
	}
	// Another error comes again with the next read, which says what it means.
}

// body3 is a request's body over HTTP/3, the first byte of which may have been
// read.
type body3 struct {
	io.ReadCloser
	first     [1]byte
	left      int // of first
	r         *http.Request
	announced http.Header // of trailers; nil for none
}

func (b *body3) Read(p []byte) (int, error) {
	if b.left > 0 && len(p) > 0 {
		b.left = 0
		p[0] = b.first[0]
		return 1, nil
	}
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		// quic-go puts a map of its own in the place of that which the crossing has.
		for name := range b.announced {
			b.announced[name] = b.r.Trailer[name]
		}
	}
	return n, err
}

// quietly makes of what quic-go says about strangers' connections a matter for
// those who look for it; a panic is ours.
type quietly struct{ slog.Handler }

func (q quietly) Enabled(ctx context.Context, _ slog.Level) bool {
	return q.Handler.Enabled(ctx, slog.LevelError)
}

func (q quietly) Handle(ctx context.Context, record slog.Record) error {
	if !strings.Contains(record.Message, "panic serving") {
		if record.Level = slog.LevelDebug; !q.Handler.Enabled(ctx, record.Level) {
			return nil
		}
	}
	return q.Handler.Handle(ctx, record)
}
