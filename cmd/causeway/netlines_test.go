package main

import (
	"bufio"
	"bytes"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// said is a log.
type said struct {
	mu   sync.Mutex // guards text
	text bytes.Buffer
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.Write(b)
}

func (s *said) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// TestUnasked shows that what net/http's client says of a server that answers what
// nobody asked is in our log, without the answer, and a warning once a minute.
func TestUnasked(t *testing.T) {
	was, flags := log.Writer(), log.Flags()
	defer func() { log.SetOutput(was); log.SetFlags(flags) }()
	var to said
	routeLog(slog.New(slog.NewTextHandler(&to, &slog.HandlerOptions{Level: slog.LevelDebug})))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	defer serving.Wait()
	defer listener.Close()
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				time.Sleep(50 * time.Millisecond) // the client has put the connection aside
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")
				_, _ = conn.Read(make([]byte, 1))
			})
		}
	})
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for range 2 {
		res, err := (&http.Client{Transport: transport}).Get("http://" + listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		before := strings.Count(to.String(), "\n")
		for end := time.Now().Add(10 * time.Second); strings.Count(to.String(), "\n") == before && time.Now().Before(end); {
			time.Sleep(time.Millisecond)
		}
	}
	text := to.String()
	if strings.Count(text, "Unsolicited response") != 2 || strings.Count(text, "level=WARN") != 1 || strings.Contains(text, "secret") {
		t.Error(text)
	}
}
