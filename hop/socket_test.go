package hop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// dial is a connection to listener that ends with the test.
func dial(t *testing.T, listener net.Listener) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// manyBytes are more than the buffers of two sockets hold.
var manyBytes = make([]byte, 32<<20)

// A client of a socket that takes nothing has its time, and one that takes a little
// again and again has it each time; what was waited for stays no deadline of the
// answers after it, whose own waits may come late.
func TestSocketPatience(t *testing.T) {
	const patience = time.Second
	listener := listen(t)
	written := make(chan error, 1)
	ahead := &Ahead{Idle: time.Minute, Header: time.Minute, Send: patience, Answer: func(asked *Asked) bool {
		body := manyBytes
		if asked.Request.URL.Path == "/short" {
			body = body[:1]
		}
		n, err := asked.Write(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body)), body)
		if err == nil && n != int64(len(body)) || err != nil && n >= int64(len(body)) {
			t.Errorf("%d bytes of %d, %v", n, len(body), err)
		}
		written <- err
		return true
	}}
	server := aheadServer(listener, ahead)
	defer server.Close()

	slow := dial(t, listener)
	in := bufio.NewReaderSize(slow, 512<<10)
	for round := range 2 {
		began := time.Now()
		fmt.Fprint(slow, "GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		for left := len(manyBytes); left > 0; {
			n, err := io.CopyN(io.Discard, res.Body, int64(min(left, 3<<20)))
			if left -= int(n); err != nil {
				t.Fatalf("round %d: %d bytes left, %v", round, left, err)
			}
			time.Sleep(patience / 8)
		}
		if err := <-written; err != nil {
			t.Fatalf("round %d: a client that takes some each time: %v", round, err)
		}
		if took := time.Since(began); took < patience {
			t.Fatalf("it took %v only", took)
		}
		time.Sleep(patience * 5 / 4) // any deadline has passed
		fmt.Fprint(slow, "GET /short HTTP/1.1\r\nHost: a\r\n\r\n")
		if res, err = http.ReadResponse(in, nil); err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		if err := <-written; err != nil {
			t.Fatalf("round %d: the answer after it: %v", round, err)
		}
	}

	silent := dial(t, listener)
	began := time.Now()
	fmt.Fprint(silent, "GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
	err := <-written
	var silence *Silence
	if took := time.Since(began); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &silence) || took < patience || took > 20*patience {
		t.Errorf("a client that takes nothing: %v after %v", err, took)
	}
	if _, err := io.Copy(io.Discard, silent); err == nil {
		t.Log("it was closed in order") // or reset: what it did not take was dropped
	}
}

// A write deadline of the server's answer, which has passed since, is none of an answer
// ahead of it.
func TestSocketStaleDeadline(t *testing.T) {
	listener := listen(t)
	ahead := &Ahead{Idle: time.Minute, Header: time.Minute, Send: time.Minute}
	ahead.Answer = echoAhead
	server := &http.Server{ConnState: ahead.State, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		fmt.Fprint(w, "server")
	})}
	defer server.Close()
	go func() { _ = server.Serve(ahead.Listen(listener)) }()
	conn := dial(t, listener)
	in := bufio.NewReader(conn)
	for i, want := range []string{"server", "GET", "server", "GET", "GET"} {
		path := "/kept"
		if want == "server" {
			path = "/"
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil || !strings.HasPrefix(string(body), want) {
			t.Fatalf("request %d: %q %v", i, body, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// Whoever closes a connection, when it waits, and while it answers, is not waited for
// in vain; and a client that has sent its last is told at once that nothing follows.
func TestSocketEnds(t *testing.T) {
	listener := listen(t)
	answering, answer := make(chan bool), make(chan bool)
	ahead := &Ahead{Idle: time.Minute, Header: time.Minute, Send: time.Minute, Answer: func(asked *Asked) bool {
		if asked.Request.URL.Path == "/kept/held" {
			answering <- true
			<-answer
		}
		if asked.Request.URL.Path == "/kept/panic" {
			panic(http.ErrAbortHandler)
		}
		return echoAhead(asked)
	}}
	conns := make(chan net.Conn, 1)
	server := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "server") }),
		ConnState: func(conn net.Conn, state http.ConnState) {
			if ahead.State(conn, state); state == http.StateNew {
				conns <- conn
			}
		},
	}
	go func() { _ = server.Serve(ahead.Listen(listener)) }()
	ends := func(what string, conn net.Conn, answers int) {
		t.Helper()
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		all, err := io.ReadAll(conn)
		if errors.Is(err, os.ErrDeadlineExceeded) || strings.Count(string(all), "HTTP/1.1 200") != answers {
			t.Errorf("%s: %q, %v", what, all, err)
		}
	}

	idle := dial(t, listener)
	theirs := <-conns
	theirs.Close()
	ends("it waited for a first request", idle, 0)

	idle = dial(t, listener)
	theirs = <-conns
	fmt.Fprint(idle, "GET /kept HTTP/1.1\r\nHost: a\r\n\r\n")
	time.Sleep(50 * time.Millisecond) // it waits again
	theirs.Close()
	ends("it waited for another request", idle, 1)

	held := dial(t, listener)
	theirs = <-conns
	fmt.Fprint(held, "GET /kept/held HTTP/1.1\r\nHost: a\r\n\r\n")
	<-answering
	theirs.Close()
	answer <- true
	ends("it was answering", held, 1)

	failed := dial(t, listener)
	<-conns
	fmt.Fprint(failed, "GET /kept/panic HTTP/1.1\r\nHost: a\r\n\r\n")
	ends("its answer panicked", failed, 0)

	for _, request := range []string{"GET /kept HTTP/1.1\r\nHost: a\r\n\r\n", "GET /other HTTP/1.1\r\nHost: a\r\n\r\n", "GET /kept HTTP/1.1\r\nHo"} {
		last := dial(t, listener)
		<-conns
		fmt.Fprint(last, request)
		if err := last.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		ends("the client had sent its last", last, strings.Count(request, "\r\n\r\n"))
	}
	if err := server.Shutdown(context.Background()); err != nil {
		t.Error(err)
	}
}
