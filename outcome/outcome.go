// Package outcome holds what one request came to: one record, one table of
// causes, one line in the access log and one observation in the metrics.
//
// The path through it:
//
//  1. a role's entry opens a Record when the request arrives,
//  2. the stages fill in what they learn (site, bytes, the time of each leg),
//  3. a failure anywhere is an *Error with a Kind; Table turns the kind into
//     the status, the metric label and the log level, and decides what the
//     client is told, which never includes the cause itself,
//  4. the entry emits the Record exactly once, to every Sink.
//
// It refuses to log twice, to log query strings, cookies or bodies, and to
// know anything of HTTP servers or of the network.
package outcome

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
)

// Kind names why a request ended as it did. The zero Kind is success.
type Kind string

// The kinds. The text of a Kind is its metric label and its word in the log.
const (
	OK Kind = ""

	ClientGone    Kind = "client_gone"    // the client closed the connection before the answer was whole
	ClientSlow    Kind = "client_slow"    // the client sent its body, or took its answer, too slowly
	HostUnknown   Kind = "host_unknown"   // the host asked for is not one of ours on this connection
	ClientUnknown Kind = "client_unknown" // the site wants a client certificate, and the connection has none
	BadRequest    Kind = "bad_request"    // the request can't be forwarded as it stands
	Refused       Kind = "refused"        // CONNECT, and what else a gateway must not do
	BodyTooBig    Kind = "body_too_big"   // the request body is over limits.body_bytes
	Loop          Kind = "loop"           // the request came round: the origin leads back to this site
	LinkDown      Kind = "link_down"      // no relay could be reached
	LinkCut       Kind = "link_cut"       // the link broke while the request was on it
	LinkSlow      Kind = "link_slow"      // the relay took the request and fell silent
	OriginName    Kind = "origin_name"    // the origin's name does not resolve
	OriginDial    Kind = "origin_dial"    // no connection to the origin
	OriginTLS     Kind = "origin_tls"     // the origin's certificate or handshake was refused
	OriginSlow    Kind = "origin_slow"    // the origin did not answer in time
	OriginBad     Kind = "origin_bad"     // the origin answered with something that is not HTTP
	OriginCut     Kind = "origin_cut"     // the origin's answer stopped before its end
	Unprocessed   Kind = "unprocessed"    // the origin's body can't be decoded (false gzip, decompression bomb)
	Stays         Kind = "stays"          // the route stays in a country that this node is not in
	Internal      Kind = "internal"       // a fault of ours
)

// StatusClientGone is what a request is logged with when its client left
// (nginx's 499, the field's convention; it is never sent).
const StatusClientGone = 499

// Entry is one row of the table: what a Kind means to the client and to the
// operator.
type Entry struct {
	Status int        // the status the client is answered with, when nothing was sent yet
	Level  slog.Level // the level of the log line
	Say    string     // what the client is told: no names, no addresses, no causes
}

// Table maps every Kind to its Entry. It is the only place that does.
var Table = map[Kind]Entry{
	OK:            {http.StatusOK, slog.LevelInfo, ""},
	ClientGone:    {StatusClientGone, slog.LevelInfo, ""},
	ClientSlow:    {http.StatusRequestTimeout, slog.LevelInfo, "The request took too long to arrive."},
	HostUnknown:   {http.StatusMisdirectedRequest, slog.LevelInfo, "This server does not serve that host."},
	ClientUnknown: {http.StatusForbidden, slog.LevelInfo, "This page is for those with a certificate: none was shown."},
	BadRequest:    {http.StatusBadRequest, slog.LevelInfo, "The request was not understood."},
	Refused:       {http.StatusMethodNotAllowed, slog.LevelInfo, "This method is not served here."},
	BodyTooBig:    {http.StatusRequestEntityTooLarge, slog.LevelInfo, "The request is too large."},
	Loop:          {http.StatusLoopDetected, slog.LevelError, "The request went round in a loop."},
	LinkDown:      {http.StatusBadGateway, slog.LevelError, "The service can't be reached at the moment."},
	LinkCut:       {http.StatusBadGateway, slog.LevelError, "The service can't be reached at the moment."},
	LinkSlow:      {http.StatusGatewayTimeout, slog.LevelError, "The service did not answer in time."},
	OriginName:    {http.StatusBadGateway, slog.LevelError, "The service can't be reached at the moment."},
	OriginDial:    {http.StatusBadGateway, slog.LevelError, "The service can't be reached at the moment."},
	OriginTLS:     {http.StatusBadGateway, slog.LevelError, "The service can't be reached at the moment."},
	OriginSlow:    {http.StatusGatewayTimeout, slog.LevelError, "The service did not answer in time."},
	OriginBad:     {http.StatusBadGateway, slog.LevelError, "The service gave an answer that can't be used."},
	OriginCut:     {http.StatusBadGateway, slog.LevelError, "The service gave an answer that can't be used."},
	Unprocessed:   {http.StatusBadGateway, slog.LevelError, "The service gave an answer that can't be used."},
	Stays:         {http.StatusForbidden, slog.LevelError, "This can't be done from here."},
	Internal:      {http.StatusInternalServerError, slog.LevelError, "Something went wrong here."},
}

// Error is a failure with its Kind. Err says what happened, for the operator
// alone.
type Error struct {
	Kind Kind
	Err  error
}

// Error is the cause. The kind has a place of its own wherever both are shown.
func (e *Error) Error() string { return e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Errorf makes an *Error of a kind; format may use %w.
func Errorf(kind Kind, format string, args ...any) error {
	return &Error{Kind: kind, Err: fmt.Errorf(format, args...)}
}

// KindOf names the cause of err: the outermost *Error's kind, ClientGone for a
// canceled context, Internal for anything nobody named.
func KindOf(err error) Kind {
	if err == nil {
		return OK
	}
	var named *Error
	if errors.As(err, &named) {
		return named.Kind
	}
	if errors.Is(err, context.Canceled) {
		return ClientGone
	}
	return Internal
}

// EntryOf is the table's row for a kind, Internal's for one it does not know
// (a newer peer may send it over the link).
func EntryOf(kind Kind) Entry {
	if entry, ok := Table[kind]; ok {
		return entry
	}
	return Table[Internal]
}
