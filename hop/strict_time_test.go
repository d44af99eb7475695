//go:build go1.27

package hop

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestStrictHeaderTime: a header over HTTP/2 that does not come to its end ends its
// connection, in whatever way it is drawn out and whatever else runs on it; one that
// is done in time, and what waits for an answer, may last.
func TestStrictHeaderTime(t *testing.T) {
	const within = 300 * time.Millisecond
	made := httptest.NewTLSServer(nil) // for its certificate
	made.Close()
	release := make(chan struct{})
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			<-release
		}
	})}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP2(true)
	server.Protocols = protocols
	go func() {
		_ = server.Serve(Strict(tls.NewListener(plain, &tls.Config{Certificates: made.TLS.Certificates, NextProtos: []string{"h2"}}), StrictOptions{Header: within, HeaderBytes: 64 << 10}))
	}()
	defer server.Close()
	defer close(release)
	for name, drawn := range map[string]func(conn *tls.Conn, framer *http2.Framer, block []byte){
		"continuations": func(_ *tls.Conn, framer *http2.Framer, block []byte) {
			_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: block, EndStream: true})
			for framer.WriteContinuation(3, false, nil) == nil {
				time.Sleep(20 * time.Millisecond)
			}
		},
		"bytes": func(conn *tls.Conn, _ *http2.Framer, block []byte) {
			frame := append([]byte{0, 0, byte(len(block)), frameHeaders, flagEndHeaders | 1, 0, 0, 0, 3}, block...)
			for _, b := range frame[:len(frame)-1] {
				_, _ = conn.Write([]byte{b})
				time.Sleep(20 * time.Millisecond)
			}
		},
		"in time": nil,
	} {
		conn, err := tls.Dial("tcp", plain.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(conn, http2.ClientPreface)
		framer := http2.NewFramer(conn, conn)
		_ = framer.WriteSettings()
		var buffer bytes.Buffer
		encoder := hpack.NewEncoder(&buffer)
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: coded(encoder, &buffer, ":method: GET", ":path: /wait", ":scheme: https", ":authority: example.cn"), EndHeaders: true, EndStream: true})
		fields := coded(encoder, &buffer, ":method: GET", ":path: /", ":scheme: https", ":authority: example.cn")
		if drawn != nil {
			go drawn(conn, framer, fields)
		} else {
			_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: fields, EndStream: true})
			_ = framer.WriteContinuation(3, true, nil)
		}
		began := time.Now()
		_ = conn.SetReadDeadline(began.Add(4 * within))
		answered := false
		for {
			frame, err := framer.ReadFrame()
			if err == nil {
				answered = answered || frame.Header().StreamID == 3 && frame.Header().Type == http2.FrameHeaders
				continue
			}
			ended := time.Since(began) < 4*within
			if drawn == nil && (ended || !answered) || drawn != nil && (!ended || answered) {
				t.Errorf("%s: ended after %v, answered %v: %v", name, time.Since(began), answered, err)
			}
			break
		}
		conn.Close()
	}
}
