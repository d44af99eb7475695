package outcome

import (
	"encoding/binary"
	"encoding/hex"
	"log/slog"
	"math/rand/v2"
	"time"
)

// Record is what is known of one request when it ends. It belongs to the
// goroutine that serves the request until it is emitted; Sinks only read it.
type Record struct {
	Start     time.Time
	Node      string // the node that writes the record; "" in a file without nodes
	Role      string // "edge" or "relay"
	Site      string // the site's name; "" when the host is not ours
	RequestID string
	Client    string // the client's address, without port
	Method    string
	Scheme    string // "http" or "https", as the client came
	Host      string // the public host, as the client sent it
	Path      string // the path without the query: queries carry tokens and names
	Proto     string // "HTTP/1.1", "HTTP/2.0"
	Status    int    // what was sent, or 499
	BytesIn   int64  // request body bytes read from the client
	BytesOut  int64  // response body bytes written to the client, as sent (compressed)
	Cache     string // what the cache did with it; "none" where there is none
	CacheWhy  string // why it was no hit, a word of the cache's; "" for a hit
	CacheTier string // where what is kept of it was: "memory" or "disk"; "" for what is fetched
	Relay     string // the relay that took it; "" in one process
	Via       string // edge: the address of the path to it
	LinkIn    int64  // edge: request body bytes as they crossed to the relay
	LinkOut   int64  // edge: response body bytes as they crossed from the relay
	Unmapped  string // relay: why the names in the answer's text were not found; "" when nothing stood in the way
	Kind      Kind
	Err       error // the cause, for the log alone

	// The legs, each from Start: 0 when the request never came that far.
	Connect  time.Duration // relay: the origin connection was ready (0 when a warm one was at hand)
	Origin   time.Duration // relay: the origin's header was in, measured on the relay
	Answered time.Duration // the answer's header was in at this node
	Total    time.Duration // the last byte was handed to the client
}

// NoCache is a Record's Cache where there is none.
const NoCache = "none"

// Sink takes finished records. Emit must not keep rec.
type Sink interface{ Emit(rec *Record) }

// FetchSink takes the bytes that a cache fetched.
type FetchSink interface {
	EmitFetch(site, relay, via string, bytes int64)
}

// Sinks emits to each of its members.
type Sinks []Sink

// Emit hands rec to every sink.
func (s Sinks) Emit(rec *Record) {
	for _, sink := range s {
		sink.Emit(rec)
	}
}

// EmitFetch hands it to every sink that takes it.
func (s Sinks) EmitFetch(site, relay, via string, bytes int64) {
	for _, sink := range s {
		if takes, ok := sink.(FetchSink); ok {
			takes.EmitFetch(site, relay, via, bytes)
		}
	}
}

// Fail notes the failure err, with the status its kind is answered with.
func (rec *Record) Fail(err error) {
	rec.Kind = KindOf(err)
	rec.Err = err
	rec.Status = EntryOf(rec.Kind).Status
}

// Abort notes a failure after the header was out: the status stays what was
// sent, unless the client left.
func (rec *Record) Abort(err error) {
	sent := rec.Status
	rec.Fail(err)
	if rec.Kind != ClientGone && sent != 0 {
		rec.Status = sent
	}
}

// level is the level of the record's line.
func (rec *Record) level() slog.Level {
	if rec.Unmapped != "" {
		return max(slog.LevelWarn, EntryOf(rec.Kind).Level)
	}
	return EntryOf(rec.Kind).Level
}

// NewRequestID gives 16 random bytes in hexadecimal, the form of a W3C trace
// id, so that it can be searched for in any tracing system.
func NewRequestID() string {
	var id [16]byte
	binary.NativeEndian.PutUint64(id[:8], rand.Uint64())
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	return hex.EncodeToString(id[:])
}
