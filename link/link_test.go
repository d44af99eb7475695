package link_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"causeway/cert"
	"causeway/hop"
	"causeway/link"
	"causeway/outcome"
	"causeway/simnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is an edge and a relay with a line between them.
type pair struct {
	t         *testing.T
	pki       string
	line      *simnet.Network
	transport *link.Transport
	log       *bytes.Buffer
	logger    *slog.Logger
	most      int    // connections
	window    int    // of a body
	relay     string // its name
	servers   []*http.Server
	stop      []func()
}

// newPKI makes the certificates of both nodes and of a stranger of another CA.
// It is made outside of a bubble: a certificate's dates are real.
func newPKI(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	authority, err := cert.OpenAuthority(dir, "test link")
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"edge-1", "relay-1", "edge-2", "relay-2"} {
		if err := authority.Issue(dir, node, nil); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func newPair(t *testing.T, pki string, line simnet.Line, handler http.Handler) *pair {
	t.Helper()
	p := newLine(t, pki, line)
	p.serve(handler)
	p.transport = p.connect(pki, "edge-1")
	return p
}

// newLine is a pair without its nodes.
func newLine(t *testing.T, pki string, line simnet.Line) *pair {
	p := &pair{t: t, pki: pki, relay: "relay-1", line: simnet.New(line), log: new(bytes.Buffer)}
	p.logger = slog.New(slog.NewTextHandler(p.log, nil))
	return p
}

// serve starts the relay; the function it adds to stop ends it.
func (p *pair) serve(handler http.Handler) *http.Server {
	p.t.Helper()
	ln, err := p.line.Listen("relay-1")
	if err != nil {
		p.t.Fatal(err)
	}
	return p.serveOn(handler, ln)
}

// serveOn is serve on a listener.
func (p *pair) serveOn(handler http.Handler, ln net.Listener) *http.Server {
	identity, err := cert.LinkTLS(p.pki, p.relay)
	if err != nil {
		p.t.Fatal(err)
	}
	server := link.NewServer(handler, identity.Server([]string{"edge-1"}), p.logger)
	p.servers = append(p.servers, server)
	done := make(chan struct{})
	go func() { defer close(done); _ = link.Serve(server, ln) }()
	p.stop = append(p.stop, func() { server.Close(); <-done })
	return server
}

// connect runs an edge's transport.
func (p *pair) connect(pki, node string) *link.Transport {
	p.t.Helper()
	return p.connectTo(pki, node, "relay-1", 3)
}

// connectTo runs an edge's transport to what listens at address.
func (p *pair) connectTo(pki, node, address string, connections int) *link.Transport {
	identity, err := cert.LinkTLS(pki, node)
	if err != nil {
		p.t.Fatal(err)
	}
	transport := link.NewTransport(link.Peer{
		Name: p.relay, Connections: connections, MostConnections: p.most, BodyWindow: p.window, ConnectTimeout: 5 * time.Second, DrainTimeout: time.Second, Waits: patient,
		TLS:  identity.Client(p.relay),
		Dial: func(ctx context.Context) (net.Conn, error) { return p.line.Dial(ctx, address) },
		Log:  p.logger,
	})
	ctx, cancel := context.WithCancel(p.t.Context())
	done := make(chan struct{})
	go func() { defer close(done); _ = transport.Run(ctx) }()
	p.stop = append(p.stop, func() { cancel(); <-done })
	return transport
}

func (p *pair) close() {
	for i := len(p.stop) - 1; i >= 0; i-- {
		p.stop[i]()
	}
}

func get(t *testing.T, via http.RoundTripper, path string) (*http.Response, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://example.cn"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := via.RoundTrip(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

// warm waits until every connection is open.
func (p *pair) warm() {
	for range 1000 {
		if p.transport.Up() == 3 {
			return
		}
		time.Sleep(10 * time.Millisecond) // the fake clock's
	}
	p.t.Fatalf("the link did not come up: %s", p.log)
}

// inBubble runs f under a fake clock that starts today, so that certificates
// made outside are valid.
func inBubble(t *testing.T, f func(t *testing.T, pki string)) {
	pki := newPKI(t)
	elapsed := time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)) // a bubble's clock starts there
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(elapsed + time.Minute)
		f(t, pki)
	})
}

// A warm link costs a request exactly one round trip.
func TestOneRoundTrip(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newPair(t, pki, simnet.Line{RTT: 200 * time.Millisecond}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "%s %s%s", r.Proto, r.Host, r.RequestURI)
		}))
		defer p.close()
		p.warm()
		start := time.Now()
		res, body, err := get(t, p.transport, "/a%2Fb?c=%2f")
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took != 200*time.Millisecond {
			t.Errorf("took %v, want one round trip of 200ms", took)
		}
		if want := "HTTP/2.0 example.cn/a%2Fb?c=%2f"; body != want {
			t.Errorf("relay saw %q, want %q", body, want)
		}
		if name := link.RelayOf(res); name != "relay-1" {
			t.Errorf("answered by %q", name)
		}
	})
}

// A peer of another CA, or one that the file does not name, never gets through,
// and the relay's log says who knocked.
func TestStrangersAreRefused(t *testing.T) {
	other := newPKI(t)
	inBubble(t, func(t *testing.T, pki string) {
		p := newPair(t, pki, simnet.Line{RTT: 20 * time.Millisecond}, http.NotFoundHandler())
		defer p.close()
		for _, stranger := range []struct{ pki, node, says string }{
			{pki, "edge-2", "edge-2"},
			{other, "edge-1", "signed"},
		} {
			transport := p.connect(stranger.pki, stranger.node)
			time.Sleep(3 * time.Second)
			if transport.Up() != 0 {
				t.Errorf("%s of %s got in", stranger.node, stranger.pki)
			}
			if _, _, err := get(t, transport, "/"); outcome.KindOf(err) != outcome.LinkDown {
				t.Errorf("request gave %v, want link_down", err)
			}
		}
		synctest.Wait()
		log := p.log.String()
		for _, want := range []string{"link refused a peer", "edge-2"} {
			if !strings.Contains(log, want) {
				t.Errorf("the log lacks %q:\n%s", want, log)
			}
		}
	})
}

// A failure at the relay keeps its kind on the way back.
func TestFailuresKeepTheirKind(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newPair(t, pki, simnet.Line{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/cut" {
				_, _ = io.WriteString(w, "half of it")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}
			link.WriteError(w, outcome.Errorf(outcome.OriginTLS, "handshake with example.com: %w", errors.New("unknown authority")))
		}))
		defer p.close()
		p.warm()
		_, _, err := get(t, p.transport, "/")
		if outcome.KindOf(err) != outcome.OriginTLS || !strings.Contains(err.Error(), "unknown authority") {
			t.Errorf("got %v", err)
		}
		_, body, err := get(t, p.transport, "/cut")
		if err == nil {
			t.Errorf("a cut body came as whole: %q", body)
		}
	})
}

// An upgraded connection crosses as one stream, both ways, and ends on both
// sides.
func TestUpgrade(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newPair(t, pki, simnet.Line{RTT: 100 * time.Millisecond}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			tunnel := hop.AcceptTunnel(r)
			if got := hop.UpgradeOf(r.Header); !tunnel || got != "websocket" {
				t.Errorf("relay saw upgrade %q, tunnel %v", got, tunnel)
			}
			here, there := net.Pipe()
			go func() { // the origin: answers each line in capitals
				lines := bufio.NewScanner(there)
				for lines.Scan() {
					fmt.Fprintln(there, strings.ToUpper(lines.Text()))
				}
				there.Close()
			}()
			res := &http.Response{StatusCode: http.StatusSwitchingProtocols, Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "X-Origin": {"yes"}}, Body: here}
			if err := hop.Answer(w, r, res, hop.Options{Tunnel: tunnel}); err != nil {
				t.Errorf("answer: %v", err)
			}
		}))
		defer p.close()
		p.warm()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://example.cn/live", nil)
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", "websocket")
		res, err := p.transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != 101 || res.Header.Get("Upgrade") != "websocket" || res.Header.Get("X-Origin") != "yes" {
			t.Fatalf("got %s %v", res.Status, res.Header)
		}
		stream := res.Body.(io.ReadWriteCloser)
		answers := bufio.NewScanner(stream)
		for _, word := range []string{"one", "two"} {
			fmt.Fprintln(stream, word)
			if !answers.Scan() || answers.Text() != strings.ToUpper(word) {
				t.Errorf("sent %q, got %q", word, answers.Text())
			}
		}
		// The client's end is passed on; the origin then ends its side.
		if err := stream.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
		if answers.Scan() || answers.Err() != nil {
			t.Errorf("after the end: %q, %v", answers.Text(), answers.Err())
		}
		stream.Close()
		synctest.Wait()
	})
}

// The relay goes away and comes back: the link comes up by itself, and a
// request that may be repeated waits for it.
func TestRelayComesBack(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		var served atomic.Int32
		handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { served.Add(1) })
		p := newPair(t, pki, simnet.Line{RTT: 50 * time.Millisecond}, handler)
		defer p.close()
		p.warm()
		p.stop[0]() // the relay stops
		time.Sleep(time.Second)
		if up := p.transport.Up(); up != 0 {
			t.Fatalf("%d connections to a stopped relay", up)
		}
		group := link.NewGroup([]link.Member{{Prefer: 1, Transport: p.transport}}, 30*time.Second)
		failed := make(chan error, 1)
		go func() { _, _, err := get(t, group, "/"); failed <- err }()
		time.Sleep(2 * time.Second)
		p.serve(handler)
		if err := <-failed; err != nil {
			t.Errorf("the waiting request failed: %v", err)
		}
		if served.Load() != 1 {
			t.Errorf("served %d times", served.Load())
		}
	})
}

// Of two relays the preferred one is used while it is up, the other at once
// when it is not.
func TestPreference(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		say := func(name string) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, name) })
		}
		first := newPair(t, pki, simnet.Line{RTT: 20 * time.Millisecond}, say("first"))
		second := newPair(t, pki, simnet.Line{RTT: 20 * time.Millisecond}, say("second"))
		defer first.close()
		defer second.close()
		first.warm()
		second.warm()
		group := link.NewGroup([]link.Member{{Prefer: 2, Transport: second.transport}, {Prefer: 1, Transport: first.transport}}, time.Second)
		for range 4 {
			if _, body, err := get(t, group, "/"); err != nil || body != "first" {
				t.Fatalf("got %q, %v", body, err)
			}
		}
		first.stop[0]()
		synctest.Wait()
		for range 4 {
			if _, body, err := get(t, group, "/"); err != nil || body != "second" {
				t.Fatalf("got %q, %v", body, err)
			}
		}
	})
}

// Informational responses cross.
func TestEarlyHints(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newPair(t, pki, simnet.Line{}, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusOK)
		}))
		defer p.close()
		p.warm()
		var hints []string
		ctx := hop.WithEarly(t.Context(), func(status int, h http.Header) {
			hints = append(hints, fmt.Sprint(status, " ", h.Get("Link")))
		})
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://example.cn/", nil)
		res, err := p.transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if want := []string{"103 </a.css>; rel=preload"}; fmt.Sprint(hints) != fmt.Sprint(want) {
			t.Errorf("got %v, want %v", hints, want)
		}
	})
}
