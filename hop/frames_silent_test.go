package hop

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestFramesSilent: a client that asks without end and takes nothing is cut when its
// time is over, and Answer is told.
func TestFramesSilent(t *testing.T) {
	made := httptest.NewTLSServer(nil) // for its certificate
	made.Close()
	body := make([]byte, 100<<10)
	failed := make(chan error, 1000)
	ahead := &Ahead{Idle: time.Minute, Send: 300 * time.Millisecond, Answer: func(asked *Asked) bool {
		_, err := asked.Write(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body)), body)
		if err == ErrNotNow {
			return false
		}
		failed <- err
		return true
	}}
	listener := listen(t)
	server := &http.Server{ConnContext: BurstContext, Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) {})}
	server.TLSConfig = &tls.Config{Certificates: made.TLS.Certificates, NextProtos: []string{"h2"}}
	go func() {
		_ = server.Serve(Strict(tls.NewListener(Bursts(listener), server.TLSConfig), Strictly{HeaderBytes: 64 << 10, Ahead: ahead}))
	}()
	defer server.Close()
	conn, err := tls.Dial("tcp", listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	v := newVisitor(t, conn)
	v.settings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	v.more(0, 1<<30)
	get := http2.HeadersFrameParam{EndHeaders: true, EndStream: true}
	fields := []string{":method: GET", ":scheme: https", ":authority: a", ":path: /"}
	v.opens(get, fields...)
	v.answers()     // the server's settings are there
	for range 500 { // 50 MB
		v.opens(get, fields...)
	}
	_, _ = conn.Write(v.pending.Bytes())
	deadline := time.After(20 * time.Second)
	for n := 0; ; n++ {
		select {
		case err := <-failed:
			var silence *Silence
			if err == nil {
				continue
			}
			if !errors.As(err, &silence) || !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("after %d answers: %v", n, err)
			}
		case <-deadline:
			t.Fatal("it is not cut")
		}
		break
	}
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.Copy(io.Discard, conn.NetConn()); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is open yet")
	}
}
