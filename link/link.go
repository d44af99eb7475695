// Package link carries requests between nodes of one owner: mutual TLS 1.3 on
// TCP, HTTP/2 on it, several warm connections between each edge and relay.
//
// The path through it:
//
//  1. a Transport is one path to one relay. Its Run opens the connections at
//     start and keeps them open: a request never waits for a handshake, it pays
//     one round trip. It opens more while long bodies keep them busy (warm.go),
//  2. health.go knows how well the path is: connections that say nothing, round
//     trips, failures, what the relay says of itself, and check.go whether the
//     relay reaches the origins,
//  3. Group.RoundTrip picks a path, and another when the first one fails and the
//     request may be sent again; or both, when the first is slow (hedge.go),
//  4. the relay's http.Server, made by NewServer, takes the stream; Serve lets
//     its connections in (door.go),
//  5. a failure there comes back as its kind (WriteError) and is an
//     *outcome.Error at this end again; a body cut on one side is a reset
//     stream on the other. A relay that takes a request and says nothing for too
//     long is given up (silence.go),
//  6. State is what people and metrics are shown (state.go, socket.go).
//
// It refuses peers whose certificate the private CA did not sign for a node
// that the file names, and anything but HTTP/2 with the ALPN name "h2". It
// knows nothing of sites, and does not hide what it is.
package link

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"causeway/hop"
	"causeway/outcome"
)

const (
	// streams is the most requests on one connection; net/http's default of
	// 250 would make a fifth client of a page with 60 assets wait.
	streams = 2000

	// bodyWindow is how many bytes of one body may be under way unread, where
	// nobody says another number: bandwidth × delay of a 160 Mbit/s line of 200 ms.
	// A connection may hold leastBodies of that, where Peer.Window says
	// no more: so many visitors would have to leave a download lying for the
	// others on it to wait, and so much memory a connection may take at most.
	bodyWindow  = 4 << 20
	leastBodies = 8

	// pingAfter and pingTimeout find a dead connection: a ping after so long a
	// silence, and the end when no answer comes.
	pingAfter   = 10 * time.Second
	pingTimeout = 5 * time.Second

	// headerBytes is the least that a header may take on the link, of a request
	// or of an answer.
	headerBytes = 1 << 20
	// headerGrowth is how much longer a header of the shortest fields, `a:b` and a
	// line's end, is on the link, which counts 32 bytes more for each (RFC 9113
	// §6.5.2).
	headerGrowth = 8

	// headerTable is how much of header fields each end of a connection remembers
	// (RFC 7541 §4.2), so that those of other visitors do not push them out. A
	// request of one of sixty visitors by turns takes 237 bytes with HTTP/2's 4 KB,
	// 160 with 16, 146 with 64; each connection holds four of them.
	headerTable = 16 << 10

	// relayField names the relay that answered, set by Transport for the edge.
	relayField = hop.Prefix + "Relay"
	// viaField is the address of the path that it came by.
	viaField = hop.Prefix + "Via"
	// errorField carries the outcome.Kind of a relay's failure.
	errorField = hop.Prefix + "Error"
	// drainField is in the answers of a relay that wants no more requests.
	drainField = hop.Prefix + "Drain"
)

// NewServer is the relay's end, for Serve. peers is the TLS configuration that
// admits the file's edges and no one else.
func NewServer(handler http.Handler, peers *tls.Config, logger *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	return &http.Server{
		Handler:           greeting(handler),
		TLSConfig:         peers,
		Protocols:         protocols,
		HTTP2:             serverConfig(bodyWindow),
		MaxHeaderBytes:    headerBytes,
		ReadHeaderTimeout: handshakeTimeout, // what it bounds, on a connection of HTTP/2
		ConnContext:       connContext,
		ErrorLog:          log.New(refusals{logger, nil}, "", 0),
	}
}

// HeaderBytes is how much a header may take on the link, so that limit, which is
// each node's own for visitors and origins, is the one that refuses.
func HeaderBytes(limit int) int { return max(headerBytes, headerGrowth*limit) }

// helloField is in the first request of every connection and in its answer: the
// version of the link that each end speaks. An end that reads a greater number
// than its own goes on with its own.
const (
	helloField   = hop.Prefix + "Hello"
	helloVersion = "2" // 2: lean requests (lean.go)
)

// greeting answers the hello of a new connection: under TLS 1.3 it is only this
// answer that tells a dialler that it was let in (RFC 8446 §4.4.2.4).
func greeting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get(helloField) == "" {
			if from := socketOf(r.Context()); r.Header.Get(streamField) == "" { // a tunnel's streams count
				from.serves()
				defer from.served(r.Context())
			}
			next.ServeHTTP(w, r)
			return
		}
		w.Header().Set(helloField, helloVersion)
		w.WriteHeader(http.StatusNoContent)
	})
}

// Draining is the Handler of a server that NewServer made, of a node that is to
// get no more requests while draining says so: edges that have another relay
// take that.
func Draining(next http.Handler, draining func() bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if draining() {
			w.Header().Set(drainField, "1")
		}
		next.ServeHTTP(w, r)
	})
}

// SetBodyWindow sets how many bytes of one request's body may be under way to a
// server that NewServer made, unread; before Serve.
func SetBodyWindow(server *http.Server, body int) { server.HTTP2 = serverConfig(body) }

// serverConfig is that of the end that takes requests. With net/http's own frames,
// 1 MiB, each request that may still send, a raw stream for hours, would hold 512 KiB
// at the edge, and each that sends write as much before another gets in. An upload
// costs about as much with frames of 32 KiB, and a tenth more with 16.
func serverConfig(body int) *http.HTTP2Config {
	c := http2Config(body, 0)
	c.MaxReadFrameSize = 2 * hop.MaxFrame
	return c
}

// http2Config is the same at both ends but for the windows of a body and of a
// connection.
func http2Config(body, window int) *http.HTTP2Config {
	return &http.HTTP2Config{
		MaxConcurrentStreams:          streams,
		MaxReceiveBufferPerStream:     body,
		MaxReceiveBufferPerConnection: max(window, leastBodies*body),
		MaxDecoderHeaderTableSize:     headerTable,
		MaxEncoderHeaderTableSize:     headerTable,
		SendPingTimeout:               pingAfter,
		PingTimeout:                   pingTimeout,
	}
}

// refusals turns the server's own log lines into records: a refused peer is a
// warning that names its address and why, and its node where it has proven to be
// one. Of those that it turned away the door itself tells.
type refusals struct {
	logger  *slog.Logger
	callers *Callers // nil before Serve
}

func (r refusals) Write(line []byte) (int, error) {
	text := string(bytes.TrimSpace(line))
	if rest, ok := strings.CutPrefix(text, turnedAwayLine); ok {
		r.logger.Warn("link turned strangers away; too many connect and do not prove themselves", "strangers", rest)
	} else if rest, ok := strings.CutPrefix(text, refusedLine); ok {
		peer, reason, _ := strings.Cut(rest, ": ")
		r.logger.Warn("link refused a peer", "peer", peer, "reason", reason)
	} else if rest, ok := cutAny(text, "http2: server connection error from ", "http2: server: error reading preface from client "); ok {
		peer, reason, _ := strings.Cut(rest, ": ")
		r.broke(peer, reason)
	} else if peer, ok := strings.CutPrefix(text, "timeout waiting for SETTINGS frames from "); ok {
		r.broke(peer, "it sent nothing")
	} else if strings.Contains(text, "panic serving") { // a fault of ours
		r.logger.Error("handler failed", "event", text)
	} else {
		r.logger.Debug("link", "event", text)
	}
	return len(line), nil
}

// broke tells of a peer by its address.
func (r refusals) broke(peer, reason string) {
	logger := r.logger
	if node := r.callers.nodeAt(peer); node != "" {
		logger = logger.With("node", node)
	}
	logger.Warn("link peer broke the protocol", "peer", peer, "reason", reason)
}

// cutAny is text behind one of the prefixes.
func cutAny(text string, prefixes ...string) (rest string, ok bool) {
	for _, prefix := range prefixes {
		if rest, ok = strings.CutPrefix(text, prefix); ok {
			return rest, true
		}
	}
	return "", false
}

// WriteError answers a request of the link with a failure: the other end's
// Transport returns it as an *outcome.Error of the same kind. Nothing may have
// been written yet.
func WriteError(w http.ResponseWriter, err error) {
	kind := outcome.KindOf(err)
	w.Header().Set(errorField, string(kind))
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(outcome.EntryOf(kind).Status)
	_, _ = io.WriteString(w, err.Error())
}

// readError gives the failure that a relay reported in res, nil when it is an
// ordinary answer. It closes the body of a failure.
func readError(relay string, res *http.Response) error {
	kind := res.Header.Get(errorField)
	if kind == "" {
		return nil
	}
	defer res.Body.Close()
	message, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10)) // a cause is a line or two
	return &outcome.Error{Kind: outcome.Kind(kind), Err: fmt.Errorf("relay %s: %s", relay, message)}
}

// RelayOf is the name of the relay that a response came from, "" when it did
// not cross a link. It takes the field off the header.
func RelayOf(res *http.Response) string {
	relay := RelayIn(res.Header)
	delete(res.Header, relayField)
	delete(res.Header, viaField)
	return relay
}

// ViaIn is the address of the path that an answer with this header came by, "" when
// it did not cross a link.
func ViaIn(h http.Header) string { return h.Get(viaField) }

// RelayIn is RelayOf of a header, and leaves it as it is.
func RelayIn(h http.Header) string { return h.Get(relayField) }
