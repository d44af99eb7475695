package link_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"causeway/cert"
	"causeway/link"
	"causeway/outcome"
	"causeway/simnet"
)

// refusing is a relay that greets and takes no request: refuse says so of each.
func refusing(t *testing.T, p *pair, address string, refuse func(framer *http2.Framer, stream, before uint32) error) {
	t.Helper()
	identity, err := cert.LinkTLS(p.pki, "relay-1")
	if err != nil {
		t.Fatal(err)
	}
	ln, err := p.line.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serve := func(plain net.Conn) {
		conn := tls.Server(plain, identity.Server([]string{"edge-1"}))
		defer conn.Close()
		if _, err := io.ReadFull(conn, make([]byte, len(http2.ClientPreface))); err != nil {
			return
		}
		framer := http2.NewFramer(conn, conn)
		framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		err := framer.WriteSettings()
		for before := uint32(0); err == nil; {
			var frame http2.Frame
			if frame, err = framer.ReadFrame(); err != nil {
				return
			}
			headers, ok := frame.(*http2.MetaHeadersFrame)
			if !ok {
				continue
			}
			if !strings.Contains(fmt.Sprint(headers.Fields), "causeway-hello") {
				err = refuse(framer, headers.StreamID, before)
				continue
			}
			before = headers.StreamID
			var block bytes.Buffer
			encoder := hpack.NewEncoder(&block)
			_ = encoder.WriteField(hpack.HeaderField{Name: ":status", Value: "204"})
			_ = encoder.WriteField(hpack.HeaderField{Name: "causeway-hello", Value: "2"})
			err = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: before, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
		}
	}
	serving.Go(func() {
		for {
			plain, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() { serve(plain) })
		}
	})
	p.stop = append(p.stop, func() { ln.Close(); serving.Wait() })
}

// What a relay says that it never took goes to another, an order too; one with a
// body does not, as that is gone.
func TestNeverTaken(t *testing.T) {
	for name, refuse := range map[string]func(framer *http2.Framer, stream, before uint32) error{
		"it stops": func(framer *http2.Framer, _, before uint32) error {
			return framer.WriteGoAway(before, http2.ErrCodeNo, nil)
		},
		"it has too many": func(framer *http2.Framer, stream, _ uint32) error {
			return framer.WriteRSTStream(stream, http2.ErrCodeRefusedStream)
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, pki string) {
				p := newLine(t, pki, simnet.Line{RTT: 20 * time.Millisecond})
				defer p.close()
				var came atomic.Int32
				p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					came.Add(1)
					fmt.Fprint(w, "taken")
				}))
				refusing(t, p, "relay-2", refuse)
				first := p.connectTo(pki, "edge-1", "relay-2", 1)
				p.transport = p.connect(pki, "edge-1")
				p.warm()
				synctest.Wait()
				group := link.NewGroup([]link.Member{{Prefer: 1, Transport: first}, {Prefer: 2, Transport: p.transport}}, time.Second)
				for _, c := range []struct {
					body  io.Reader
					kind  outcome.Kind
					taken int32
				}{
					{nil, outcome.OK, 1},
					{strings.NewReader("a=1"), outcome.LinkCut, 1},
				} {
					time.Sleep(15 * time.Second) // until the first path is well again
					req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://example.cn/order", c.body)
					if err != nil {
						t.Fatal(err)
					}
					req.GetBody = nil // as of a server's request
					res, err := group.RoundTrip(req)
					if err == nil {
						res.Body.Close()
					}
					if outcome.KindOf(err) != c.kind || came.Load() != c.taken {
						t.Errorf("%v: %v, and %d came to the other relay", c.body, err, came.Load())
					}
				}
			})
		})
	}
}

// A relay that went mad: its edge ends the connection, says of whom, and asks
// another.
func TestMadRelay(t *testing.T) {
	for name, mad := range map[string]func(framer *http2.Framer, stream, before uint32) error{
		"a frame of nothing": func(framer *http2.Framer, _, _ uint32) error {
			return framer.WriteRawFrame(http2.FrameSettings, 0, 3, []byte("garbage"))
		},
		"an endless header": func(framer *http2.Framer, stream, _ uint32) error {
			var block bytes.Buffer
			encoder := hpack.NewEncoder(&block)
			_ = encoder.WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
			err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes()})
			for range 10_000 {
				block.Reset()
				_ = encoder.WriteField(hpack.HeaderField{Name: "x-more", Value: strings.Repeat("x", 8<<10)})
				if err == nil {
					err = framer.WriteContinuation(stream, false, block.Bytes())
				}
			}
			return err
		},
		"a body without end, and it hears nothing": func(framer *http2.Framer, stream, _ uint32) error {
			var block bytes.Buffer
			_ = hpack.NewEncoder(&block).WriteField(hpack.HeaderField{Name: ":status", Value: "200"})
			err := framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true})
			for range 10_000 {
				if err == nil {
					err = framer.WriteData(stream, false, make([]byte, 16<<10))
				}
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, pki string) {
				p := newLine(t, pki, simnet.Line{RTT: 20 * time.Millisecond})
				defer p.close()
				p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "taken") }))
				refusing(t, p, "relay-2", mad)
				first := p.connectTo(pki, "edge-1", "relay-2", 1)
				p.transport = p.connect(pki, "edge-1")
				p.warm()
				synctest.Wait()
				group := link.NewGroup([]link.Member{{Prefer: 1, Transport: first}, {Prefer: 2, Transport: p.transport}}, time.Second)
				req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://example.cn/", nil)
				if err != nil {
					t.Fatal(err)
				}
				res, err := group.RoundTrip(req)
				if err == nil { // as the answer had begun, only the body can tell
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
				time.Sleep(time.Minute)
				synctest.Wait()                                                       // nobody logs
				named := err != nil && strings.Contains(err.Error(), "relay relay-1") // in the record of the request
				if log := p.log.String(); !named && !strings.Contains(log, `msg="link lost its last connection" relay=relay-1`) {
					t.Errorf("nothing names it: %v\n%s", err, log)
				}
				if _, body, err := get(t, p.transport, "/"); err != nil || body != "taken" {
					t.Errorf("the other relay: %q %v", body, err)
				}
			})
		})
	}
}
