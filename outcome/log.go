package outcome

import (
	"context"
	"io"
	"log/slog"
	"time"
)

// AccessLog writes one JSON object a line for each record.
//
// The members: time, level, msg ("request"), node, role, site, id, client,
// method, scheme, host, path, proto, status, in, out (body bytes), cache,
// relay, ms (an object of the legs in milliseconds: connect, origin, answered,
// total), kind and err when it failed.
type AccessLog struct{ handler slog.Handler }

// NewAccessLog writes to w, one Write a record; w must take concurrent Writes
// one after the other, as an *os.File does.
func NewAccessLog(w io.Writer) *AccessLog {
	return &AccessLog{slog.NewJSONHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug})}
}

// Emit writes rec's line. A full disk must not fail a request: errors of the
// writer are dropped.
func (l *AccessLog) Emit(rec *Record) {
	line := slog.NewRecord(rec.Start, rec.level(), "request", 0)
	if rec.Node != "" {
		line.AddAttrs(slog.String("node", rec.Node))
	}
	line.AddAttrs(
		slog.String("role", rec.Role),
		slog.String("site", rec.Site),
		slog.String("id", rec.RequestID),
		slog.String("client", rec.Client),
		slog.String("method", rec.Method),
		slog.String("scheme", rec.Scheme),
		slog.String("host", rec.Host),
		slog.String("path", rec.Path),
		slog.String("proto", rec.Proto),
		slog.Int("status", rec.Status),
		slog.Int64("in", rec.BytesIn),
		slog.Int64("out", rec.BytesOut),
		slog.String("cache", rec.Cache),
	)
	if rec.Relay != "" {
		line.AddAttrs(slog.String("relay", rec.Relay))
	}
	line.AddAttrs(slog.Group("ms",
		milliseconds("connect", rec.Connect),
		milliseconds("origin", rec.Origin),
		milliseconds("answered", rec.Answered),
		milliseconds("total", rec.Total)))
	if rec.Kind != OK {
		line.AddAttrs(slog.String("kind", string(rec.Kind)))
	}
	if rec.Err != nil {
		line.AddAttrs(slog.String("err", rec.Err.Error()))
	}
	_ = l.handler.Handle(context.Background(), line)
}

// milliseconds gives a duration as a number with microseconds behind the
// point.
func milliseconds(name string, d time.Duration) slog.Attr {
	return slog.Float64(name, float64(d.Microseconds())/1000)
}
