package link_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"causeway/cert"
	"causeway/link"
	"causeway/simnet"
)

// peerOf is a connection with the certificate of edge-1 to the relay of p, and
// nothing spoken over it.
func peerOf(t *testing.T, p *pair, pki string) *tls.Conn {
	t.Helper()
	identity, err := cert.LinkTLS(pki, "edge-1")
	if err != nil {
		t.Fatal(err)
	}
	plain, err := p.line.Dial(t.Context(), "relay-1")
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(plain, identity.Client("relay-1"))
	if err := conn.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	return conn
}

// headersOf is a header block of a GET with more fields.
func headersOf(fields ...hpack.HeaderField) []byte {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range append([]hpack.HeaderField{
		{Name: ":method", Value: "GET"}, {Name: ":scheme", Value: "https"}, {Name: ":authority", Value: "example.cn"}, {Name: ":path", Value: "/"},
	}, fields...) {
		_ = encoder.WriteField(f)
	}
	return block.Bytes()
}

// A node that went mad: whatever it sends, its connection ends or its streams
// are refused, and the other connections do not notice. The log names it.
func TestMadPeer(t *testing.T) {
	for name, c := range map[string]struct {
		mad  func(conn *tls.Conn, framer *http2.Framer) error
		says string // the log
		deaf bool   // it reads nothing
	}{
		"garbage": {says: "broke the protocol\" node=edge-1", mad: func(conn *tls.Conn, _ *http2.Framer) error {
			_, err := conn.Write(bytes.Repeat([]byte("garbage!"), 100))
			return err
		}},
		"nothing": {says: "broke the protocol\" node=edge-1", mad: func(conn *tls.Conn, _ *http2.Framer) error {
			_, err := io.WriteString(conn, http2.ClientPreface)
			return err
		}},
		"questions, and it hears no answer": {says: "node=edge-1", deaf: true, mad: func(conn *tls.Conn, framer *http2.Framer) error {
			if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
				return err
			}
			if err := framer.WriteSettings(); err != nil {
				return err
			}
			for {
				if err := framer.WritePing(false, [8]byte{}); err != nil {
					return err
				}
			}
		}},
		"more streams than it may": {says: "node=edge-1", mad: func(conn *tls.Conn, framer *http2.Framer) error {
			if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
				return err
			}
			if err := framer.WriteSettings(); err != nil {
				return err
			}
			for id := uint32(1); id < 6_000; id += 2 {
				block := headersOf(hpack.HeaderField{Name: "x-wait", Value: "1"})
				if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: true}); err != nil {
					return err
				}
			}
			return nil
		}},
		"a flood of streams that wait": {says: "broke the protocol\" node=edge-1", mad: func(conn *tls.Conn, framer *http2.Framer) error {
			if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
				return err
			}
			if err := framer.WriteSettings(); err != nil {
				return err
			}
			for id := uint32(1); id < 100_000; id += 2 {
				block := headersOf(hpack.HeaderField{Name: "x-wait", Value: "1"})
				if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: true}); err != nil {
					return err
				}
				if err := framer.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
					return err
				}
			}
			return nil
		}},
		"a frame that is too long": {says: "node=edge-1", mad: func(conn *tls.Conn, framer *http2.Framer) error {
			if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
				return err
			}
			if err := framer.WriteSettings(); err != nil {
				return err
			}
			_, err := conn.Write(append([]byte{0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1}, make([]byte, 64<<10)...))
			return err
		}},
		"endless headers": {says: "broke the protocol\" node=edge-1", mad: func(conn *tls.Conn, framer *http2.Framer) error {
			if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
				return err
			}
			if err := framer.WriteSettings(); err != nil {
				return err
			}
			if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headersOf(), EndStream: true}); err != nil {
				return err
			}
			field := hpack.HeaderField{Name: "x-more", Value: strings.Repeat("x", 8<<10)}
			var block bytes.Buffer
			encoder := hpack.NewEncoder(&block)
			for range 10_000 {
				block.Reset()
				_ = encoder.WriteField(field)
				if err := framer.WriteContinuation(1, false, block.Bytes()); err != nil {
					return err
				}
			}
			return nil
		}},
		"a flood of streams": {says: "takes back one request after the other", mad: func(conn *tls.Conn, framer *http2.Framer) error {
			if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
				return err
			}
			if err := framer.WriteSettings(); err != nil {
				return err
			}
			for id := uint32(1); id < 100_000; id += 2 {
				if err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: headersOf(), EndHeaders: true, EndStream: true}); err != nil {
					return err
				}
				if err := framer.WriteRSTStream(id, http2.ErrCodeCancel); err != nil {
					return err
				}
			}
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, pki string) {
				p := newLine(t, pki, simnet.Line{RTT: 20 * time.Millisecond})
				defer p.close()
				ln, err := p.line.Listen("relay-1")
				if err != nil {
					t.Fatal(err)
				}
				over := make(chan struct{})
				defer close(over)
				p.callersOf(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.Header.Get("X-Wait") != "" { // for an origin, which does not hear of the end
						<-over
					}
					fmt.Fprint(w, "fine")
				}), ln)
				p.transport = p.connect(pki, "edge-1")
				p.warm()
				conn := peerOf(t, p, pki)
				defer conn.Close()
				ended := make(chan error, 1)
				go func() { // what the relay answers
					if c.deaf {
						ended <- nil
						return
					}
					_, err := io.Copy(io.Discard, conn)
					ended <- err
				}()
				written := make(chan error, 1)
				go func() { written <- c.mad(conn, http2.NewFramer(conn, nil)) }()
				for range 20 {
					if _, body, err := get(t, p.transport, "/"); err != nil || body != "fine" {
						t.Fatalf("another connection: %q %v", body, err)
					}
				}
				time.Sleep(time.Minute)
				conn.SetDeadline(time.Now())
				<-written
				if err := <-ended; err != nil && strings.Contains(err.Error(), "timeout") && name != "more streams than it may" {
					t.Error("its connection is kept")
				}
				synctest.Wait() // nobody logs
				if log := p.log.String(); !strings.Contains(log, c.says) {
					t.Errorf("the log says nothing of it:\n%s", log)
				}
			})
		})
	}
}

// Nodes of other versions: what they do not know, or know besides, does not keep
// a link from coming up and working.
func TestOtherVersions(t *testing.T) {
	for name, relay := range map[string]func(next http.Handler) http.Handler{
		"an older relay": func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { // what version 1 said, and nothing else
				if r.Header.Get("Causeway-Hello") != "" {
					w.Header().Set("Causeway-Hello", "1")
					w.WriteHeader(http.StatusNoContent)
					return
				}
				next.ServeHTTP(w, r)
			})
		},
		"a newer relay": func(next http.Handler) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Causeway-Tomorrow", "something")
				if r.Header.Get("Causeway-Hello") != "" {
					w.Header().Set("Causeway-Hello", "99")
					w.WriteHeader(http.StatusNoContent)
					return
				}
				next.ServeHTTP(w, r)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, pki string) {
				p := newLine(t, pki, simnet.Line{RTT: 20 * time.Millisecond})
				defer p.close()
				server := p.serve(http.NotFoundHandler())
				server.Handler = relay(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "fine") }))
				p.transport = p.connect(pki, "edge-1")
				p.warm()
				group := link.NewGroup([]link.Member{{Transport: p.transport}}, time.Second)
				for range 3 {
					if res, body, err := get(t, group, "/"); err != nil || body != "fine" || link.RelayOf(res) != "relay-1" {
						t.Errorf("%q %v", body, err)
					}
					time.Sleep(10 * time.Second) // and its signs of life
				}
			})
		})
	}
	t.Run("a newer edge", func(t *testing.T) {
		inBubble(t, func(t *testing.T, pki string) {
			p := newPair(t, pki, simnet.Line{RTT: 20 * time.Millisecond}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "fine") }))
			defer p.close()
			conn := peerOf(t, p, pki)
			protocols := new(http.Protocols)
			protocols.SetHTTP2(true)
			transport := &http.Transport{Protocols: protocols, DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}
			client, err := transport.NewClientConn(t.Context(), "https", "relay-1:443")
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			req, err := http.NewRequestWithContext(context.Background(), http.MethodHead, "https://relay-1/", nil)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Causeway-Hello", "99")
			req.Header.Set("Causeway-Tomorrow", "something")
			res, err := client.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			if res.Body.Close(); res.Header.Get("Causeway-Hello") == "" {
				t.Errorf("the relay did not answer the hello: %v", res.Header)
			}
			synctest.Wait()
		})
	})
}

// An edge may have so many connections and no more, and none when the file names
// it no more.
func TestMadEdge(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newLine(t, pki, simnet.Line{RTT: 20 * time.Millisecond})
		defer p.close()
		ln, err := p.line.Listen("relay-1")
		if err != nil {
			t.Fatal(err)
		}
		over := make(chan struct{})
		callers := p.callersOf(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			<-over
			fmt.Fprint(w, "fine")
		}), ln)
		callers.Most = func(edge string) int { return map[string]int{"edge-1": 10}[edge] }
		p.transport = p.connect(pki, "edge-1")
		p.warm()
		for range 20 {
			conn := peerOf(t, p, pki)
			defer conn.Close()
		}
		synctest.Wait()
		if open := len(callers.State()[0].Conns); open != 10 || p.transport.Up() != 3 {
			t.Errorf("%d connections, and %d of those before", open, p.transport.Up())
		}
		if log := p.log.String(); strings.Count(log, "it has as many as it may") != 1 || !strings.Contains(log, "node=edge-1") {
			t.Errorf("the log says nothing of it, or too much:\n%s", log)
		}

		asked := make(chan error, 1)
		go func() {
			_, body, err := get(t, p.transport, "/")
			if err == nil && body != "fine" {
				err = fmt.Errorf("it got %q", body)
			}
			asked <- err
		}()
		time.Sleep(time.Second)
		callers.Dismiss(t.Context(), []string{"edge-1"})
		if open := len(callers.State()[0].Conns); open != 10 {
			t.Errorf("%d connections of a node that may stay", open)
		}
		go callers.Dismiss(t.Context(), []string{"edge-2"})
		time.Sleep(10 * time.Millisecond)
		if conns := callers.State()[0].Conns; len(conns) != 1 || conns[0].Streams != 1 {
			t.Errorf("of one that must go there are %+v", conns)
		}
		close(over)
		if err := <-asked; err != nil {
			t.Errorf("its request: %v", err)
		}
	})
}
