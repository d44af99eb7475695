package hop

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"testing"
	"testing/synctest"
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
		_ = server.Serve(Strict(tls.NewListener(Bursts(listener), server.TLSConfig), StrictOptions{HeaderBytes: 64 << 10, Ahead: ahead}))
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

// timedConn notes the deadline of each Write.
type timedConn struct {
	net.Conn
	until time.Time
	had   []time.Duration // from the write on; 0 for none
}

func (c *timedConn) SetWriteDeadline(t time.Time) error { c.until = t; return nil }
func (c *timedConn) Write(p []byte) (int, error) {
	left := time.Duration(0)
	if !c.until.IsZero() {
		left = time.Until(c.until)
	}
	c.had = append(c.had, left)
	return len(p), nil
}

// TestFramesDeadlines: an answer is not under the server's deadline, which the server's
// own Write has whole, however long it waited for answers.
func TestFramesDeadlines(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &timedConn{}
		f := newFrames(c, &StrictOptions{Ahead: &Ahead{Send: time.Second}})
		ping := append([]byte{0, 0, 8, 6, 0, 0, 0, 0, 0}, make([]byte, 8)...)
		answer := func(within func()) {
			f.mu.Lock()
			f.held, f.wait = true, new(append([]byte(nil), ping...))
			if within != nil {
				f.sending = true // as it is while it is sent
				within()
			}
			f.flush()
		}
		says := func(before func()) {
			if err := f.SetWriteDeadline(time.Now().Add(3 * time.Second)); err != nil {
				t.Fatal(err)
			}
			before()
			if _, err := f.Write(ping); err != nil {
				t.Fatal(err)
			}
			_ = f.SetWriteDeadline(time.Time{})
		}
		says(func() {})
		answer(nil)
		says(func() { time.Sleep(time.Second); answer(nil); time.Sleep(time.Second) })
		says(func() { answer(nil); _ = f.SetWriteDeadline(time.Now().Add(3 * time.Second)); answer(nil) })
		answer(func() { _ = f.SetWriteDeadline(time.Now().Add(2 * time.Second)) })
		time.Sleep(time.Second)
		_, _ = f.Write(ping)
		want := []time.Duration{3 * time.Second, 0, 0, 3 * time.Second, 0, 0, 3 * time.Second, 0, 2 * time.Second}
		if !slices.Equal(c.had, want) {
			t.Errorf("the writes had %v, want %v", c.had, want)
		}
	})
}
