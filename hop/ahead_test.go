package hop

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// echoOf is the answer to a request: all that a node looks at of it.
func echoOf(r *http.Request) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %q %q %q %q %v %v\n", r.Method, r.Host, r.URL.Path, r.URL.EscapedPath(), r.URL.RawQuery, r.URL.ForceQuery, r.Close)
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		if name != "Connection" {
			fmt.Fprintf(&b, "%s: %q\n", name, r.Header[name])
		}
	}
	return b.String()
}

// aheadServer serves on listener: every answer is the echo, by whomever. Those whose
// path begins with /kept are given ahead, when there is an ahead. idle, when there is
// one, gets a value each time that a connection has nothing left of a request.
func aheadServer(listener net.Listener, ahead *Ahead, idle ...chan<- bool) *http.Server {
	server := &http.Server{
		ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			text := echoOf(r)
			w.Header().Set("Date", "now")
			w.Header().Set("Content-Length", fmt.Sprint(len(text)))
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, text)
		}),
	}
	if ahead != nil {
		if ahead.Answer == nil {
			ahead.Answer = echoAhead
		}
		server.ConnState = func(conn net.Conn, state http.ConnState) {
			ahead.State(conn, state)
			for _, c := range idle {
				if state == http.StateIdle {
					c <- true
				}
			}
		}
		listener = ahead.Listen(listener)
	}
	go func() { _ = server.Serve(listener) }()
	return server
}

// echoAhead is an Ahead's Answer.
func echoAhead(asked *Asked) bool {
	if !strings.HasPrefix(asked.Request.URL.Path, "/kept") {
		return false
	}
	body := []byte(echoOf(&asked.Request))
	header := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: text/plain\r\nDate: now\r\n\r\n", len(body))
	if asked.Request.Method == "HEAD" {
		body = nil
	}
	_, err := asked.Write([]byte(header), body)
	return err != ErrNotNow
}

func listen(t testing.TB) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return listener
}

// TestAheadOdd: what need not be waited for is not, though the client says no more
// and does not close: a header whose lines end in LF alone, and what is none.
func TestAheadOdd(t *testing.T) {
	listener := listen(t)
	server := aheadServer(listener, &Ahead{Header: 10 * time.Second, Idle: time.Minute})
	defer server.Close()
	for _, first := range []string{"", "GET /kept/a HTTP/1.1\r\nHost: example.cn\r\n\r\n"} {
		for text, want := range map[string]string{
			"GET /kept/b HTTP/1.1\nHost: example.cn\n\n":     "200",
			"GET /other HTTP/1.1\nHost: example.cn\n\r\n":    "200",
			"GET /kept/c HTTP/1.1\r\nHost: example.cn\n\n":   "200",
			"GET /kept/d HTTP/1.1\r\nHost: example.cn\r\n\n": "200",
			"GARBAGE\r\n":   "400",
			"GET /\r\n":     "400",
			"GET /\n":       "400",
			"\r\nGET /\r\n": "400",
		} {
			conn, err := net.Dial("tcp", listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
			answers := bufio.NewReader(conn)
			for _, one := range []struct{ text, want string }{{first, "200"}, {text, want}} {
				if one.text == "" {
					continue
				}
				_, _ = io.WriteString(conn, one.text)
				res, err := http.ReadResponse(answers, nil)
				if err != nil || !strings.HasPrefix(res.Status, one.want) {
					t.Errorf("%q after %q: %v, %v", text, first, res, err)
					break
				}
				_, _ = io.Copy(io.Discard, res.Body)
			}
			conn.Close()
		}
	}
}

// said is what a server says to these pieces, each sent for itself, until it closes.
func said(t testing.TB, address string, pieces [][]byte) []byte {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	go func() {
		for _, piece := range pieces {
			_, _ = conn.Write(piece)
		}
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
	var all bytes.Buffer
	if _, err := all.ReadFrom(conn); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return all.Bytes() // the server reset it: it had not read everything
	} else if err != nil {
		t.Fatal(err)
	}
	return all.Bytes()
}

var aheadSeeds = []string{
	"GET /kept HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /kept?a=1 HTTP/1.1\r\nHost: a:80\r\nconnection: Keep-Alive\r\ncookie: a=1; b=2\r\n\r\n" + "GET /other HTTP/1.1\r\nHost: a\r\nX-A: b\r\n\r\n" + "HEAD /kept/b? HTTP/1.1\r\nHost: a\r\n\r\n",
	"POST /other HTTP/1.1\r\nHost: a\r\nContent-Length: 39\r\n\r\nGET /kept HTTP/1.1\r\nHost: evil.com\r\n\r\n.GET /kept HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /x HTTP/1.1\r\nHost: a\r\n\nPOST /y HTTP/1.1\r\nHost: a\r\nContent-Length: 36\r\n\r\nGET /kept HTTP/1.1\r\nHost: evil.com\r\n\r\n",
	"GET /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\nGET /kept HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /x HTTP/1.1\r\nHost: a\r\n Content-Length: 5\r\n\r\nGET /kept HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /x HTTP/1.1\r\nHost: a\r\nX:\r\n\tTransfer-Encoding: chunked\r\n\r\nGET /kept HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET //kept HTTP/1.1\r\nHost: a\r\n\r\nGET http://b/kept HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /kept%2f%C3%a4 HTTP/1.1\r\nHost: A.b\r\nAccept: */*\r\nPragma: no-cache\r\n\r\n",
	"GET /kept%zz HTTP/1.1\r\nHost: a\r\n\r\n", "GET /kept HTTP/1.0\r\nHost: a\r\n\r\n", "GET /kept HTTP/1.1\r\n\r\n",
	"GET /kept HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", "GET /kept HTTP/1.1\r\nHost: a b\r\n\r\n", "GET /kept HTTP/1.1\r\nHost: a\r\nCookie : x\r\n\r\n",
	"GET /kept HTTP/1.1\r\nHost: a\r\nCookie:  x \t\r\nAccept: \x00\r\n\r\n", "GET /kept HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nGET /kept HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /kept HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, X\r\n\r\n", "\r\nGET /kept HTTP/1.1\r\nHost: a\r\n\r\n", "GET  /kept HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /kept HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\nGET /kept HTTP/1.1\r\nHost: a\r\n\r\n", "GET /x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabcGET /kept HTTP/1.1\r\nHost: a\r\n\r\n",
	"GET /kept HTTP/1.1\r\nHost: a\r\nCookie: \xff\xc3\r\nUser-Agent:\r\n\r\n", "GET /kept*(a) HTTP/1.1\r\nHost: a\r\n\r\n", "GET /kept#f HTTP/1.1\r\nHost: a\r\n\r\n", "GET /kept?a=%zz;\"<> HTTP/1.1\r\nHost: a\r\n\r\n",
	"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "GET /x HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: y\r\n\r\nGET /kept HTTP/1.1\r\nHost: a\r\n\r\n",
}

// FuzzAhead: whatever a client sends, and in whatever pieces, the answers are those
// that the server would have given alone.
func FuzzAhead(f *testing.F) {
	for i, seed := range aheadSeeds {
		f.Add([]byte(seed), uint64(i*7919))
		f.Add([]byte(seed+aheadSeeds[(i*5+1)%len(aheadSeeds)]), uint64(0))
	}
	plain, ahead := listen(f), listen(f)
	one, two := aheadServer(plain, nil), aheadServer(ahead, &Ahead{Idle: time.Minute, Header: 10 * time.Second, Send: time.Minute})
	f.Cleanup(func() { one.Close(); two.Close() })
	f.Fuzz(func(t *testing.T, sent []byte, cuts uint64) {
		if len(sent) > 16<<10 {
			return
		}
		var pieces [][]byte
		for rest := sent; len(rest) > 0; {
			n := len(rest)
			if cuts != 0 {
				n, cuts = min(n, int(cuts%61)+1), cuts/61
			}
			pieces, rest = append(pieces, rest[:n]), rest[n:]
		}
		want, got := undated(said(t, plain.Addr().String(), pieces)), undated(said(t, ahead.Addr().String(), pieces))
		if !bytes.Equal(want, got) && !(len(pieces) > 0 && (bytes.HasPrefix(want, got) || bytes.HasPrefix(got, want)) && resets(sent)) {
			t.Fatalf("to %q\n%d pieces\n got %q\nwant %q", sent, len(pieces), got, want)
		}
	})
}

var httpDate = regexp.MustCompile(`\r\nDate: \w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\r\n`)

// undated is what a server said, with the date that net/http puts in answers of its
// own: one of two servers may answer in the next second.
func undated(said []byte) []byte {
	return httpDate.ReplaceAllLiteral(said, []byte("\r\nDate: now\r\n"))
}

// resets reports whether a server may close the connection before it has read all of
// what was sent, so that how much of its answers arrives is the kernel's to say.
func resets(sent []byte) bool {
	r := bufio.NewReader(bytes.NewReader(sent))
	for {
		req, err := http.ReadRequest(r)
		if err != nil {
			return err != io.EOF
		}
		if _, err := io.Copy(io.Discard, req.Body); err != nil || req.Close {
			return true
		}
	}
}

// FuzzOrdinary: a request that is read as an ordinary one is that for net/http.
func FuzzOrdinary(f *testing.F) {
	for _, seed := range aheadSeeds {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, head []byte) {
		end := headEnd(head, 0)
		if end < 0 {
			return
		}
		head = head[:end]
		asked := askedPool.Get().(*Asked)
		defer asked.free()
		if !asked.read(head) {
			return
		}
		if !endsWithHead(head) {
			t.Fatalf("%q is ordinary, and has no end", head)
		}
		rest := bytes.NewReader(append(slices.Clone(head), "tail"...))
		buffered := bufio.NewReader(rest)
		want, err := http.ReadRequest(buffered)
		if err != nil {
			t.Fatalf("%q: %v", head, err)
		}
		if left, _ := io.ReadAll(buffered); string(left) != "tail" || want.ContentLength != 0 || want.Body != http.NoBody || want.Close || len(want.TransferEncoding) > 0 {
			t.Fatalf("%q: net/http sees a body of it, or leaves %q", head, left)
		}
		if got, want := echoOf(&asked.Request), echoOf(want); got != want {
			t.Fatalf("%q:\n got %s\nwant %s", head, got, want)
		}
		a := TargetURL(asked.Request.RequestURI, asked.Request.URL, "http", "a")
		if b := TargetURL(want.RequestURI, want.URL, "http", "a"); *a != *b {
			t.Fatalf("%q: %#v and %#v", head, a, b)
		}
	})
}

// Connections are the server's again and ahead's again, as requests come.
func TestAheadByTurns(t *testing.T) {
	listener := listen(t)
	var answered atomic.Int64
	idle := make(chan bool, 8)
	server := aheadServer(listener, &Ahead{Idle: time.Minute, Header: time.Minute, Send: time.Minute, Answer: func(asked *Asked) bool {
		if !strings.HasPrefix(asked.Request.URL.Path, "/kept") {
			return false
		}
		answered.Add(1)
		return echoAhead(asked)
	}}, idle)
	defer server.Close()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	reader := bufio.NewReader(conn)
	for i, step := range []struct{ path, more string }{{"/kept", ""}, {"/other", ""}, {"/kept", ""}, {"/kept", "X-Odd: 1\r\n"}, {"/kept", ""}, {"/kept", ""}} {
		before := answered.Load()
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\n%s\r\n", step.path, step.more)
		res, err := http.ReadResponse(reader, nil)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, res.Body)
		want := step.path == "/kept" && step.more == ""
		if (answered.Load() > before) != want {
			t.Errorf("step %d: answered ahead: %v", i, !want)
		}
		if !want {
			<-idle // a request that comes before that is the server's, and those behind it
		}
	}
}

// A stopping server lets an answer that is under way finish, and ends the connection
// then; one that waits it ends at once, also where the server never heard of it.
func TestAheadDrains(t *testing.T) {
	listener := listen(t)
	began, finish := make(chan struct{}), make(chan struct{})
	ahead := &Ahead{Idle: time.Minute, Header: time.Minute, Send: time.Minute}
	ahead.Answer = func(asked *Asked) bool {
		if asked.Request.URL.Path == "/slow" {
			close(began)
			<-finish
		}
		_, _ = asked.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n"), []byte("done"))
		return true
	}
	server := aheadServer(listener, ahead)
	get := func(path string) (*bufio.Reader, net.Conn) {
		conn, err := net.Dial("tcp", listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: a\r\n\r\n", path)
		return bufio.NewReader(conn), conn
	}
	read := func(r *bufio.Reader) string {
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return err.Error()
		}
		body, _ := io.ReadAll(res.Body)
		return string(body)
	}
	idle, conn := get("/")
	defer conn.Close()
	if got := read(idle); got != "done" {
		t.Fatal(got)
	}
	slow, conn := get("/slow")
	defer conn.Close()
	<-began
	ahead.Drain()
	if _, err := idle.ReadByte(); err != io.EOF {
		t.Errorf("the connection that waited: %v", err)
	}
	stopped := make(chan error)
	go func() { stopped <- server.Shutdown(context.Background()) }()
	close(finish)
	if got := read(slow); got != "done" {
		t.Errorf("the answer under way: %q", got)
	}
	if _, err := slow.ReadByte(); err != io.EOF {
		t.Errorf("after it: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// pipes is a listener of pipes.
type pipes struct{ conns chan net.Conn }

func (p pipes) Accept() (net.Conn, error) {
	conn, ok := <-p.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}
func (p pipes) Close() error   { close(p.conns); return nil }
func (p pipes) Addr() net.Addr { return &net.TCPAddr{} }

// Who waits, is slow with a header, or takes nothing, is waited for as long as the
// server would.
func TestAheadTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		listener := pipes{make(chan net.Conn)}
		ahead := &Ahead{Idle: time.Minute, Header: 10 * time.Second, Send: 30 * time.Second}
		failed := make(chan error, 1)
		ahead.Answer = func(asked *Asked) bool {
			if asked.Request.URL.Path != "/kept/deaf" {
				return echoAhead(asked)
			}
			_, err := asked.Write([]byte("HTTP/1.1 200 OK\r\n"), nil)
			failed <- err
			return true
		}
		server := aheadServer(listener, ahead)
		defer server.Close()
		dial := func() net.Conn {
			ours, theirs := net.Pipe()
			listener.conns <- theirs
			return ours
		}
		lasts := func(conn net.Conn) time.Duration {
			began := time.Now()
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
			return time.Since(began)
		}
		ask := func(conn net.Conn) {
			go fmt.Fprint(conn, "GET /kept HTTP/1.1\r\nHost: a\r\n\r\n")
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err == nil {
				_, err = io.Copy(io.Discard, res.Body)
			}
			if err != nil {
				t.Error(err)
			}
		}
		silent := dial()
		if got := lasts(silent); got != 10*time.Second {
			t.Errorf("no request: %v", got)
		}
		late := dial()
		go func() {
			time.Sleep(9 * time.Second)
			fmt.Fprint(late, "GET /kept HTTP/1.1\r\n")
		}()
		if got := lasts(late); got != 10*time.Second {
			t.Errorf("half a header, late: %v", got)
		}
		idle := dial()
		for range 5 {
			ask(idle)
			time.Sleep(50 * time.Second)
		}
		if got := lasts(idle); got > 10*time.Second || got < 0 { // as it is renewed but for an eighth
			t.Errorf("no other request: %v", got)
		}
		slow := dial()
		ask(slow)
		go fmt.Fprint(slow, "GET /kept HTTP/1.1\r\n")
		if got := lasts(slow); got != 10*time.Second {
			t.Errorf("half a header: %v", got)
		}
		deaf := dial()
		fmt.Fprint(deaf, "GET /kept/deaf HTTP/1.1\r\nHost: a\r\n\r\n")
		if err := <-failed; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("nothing taken: %v", err)
		}
		deaf.Close()
	})
}

// A body longer than one write comes whole.
func TestAheadLong(t *testing.T) {
	listener := listen(t)
	body := bytes.Repeat([]byte("tea "), 200<<10)
	ahead := &Ahead{Idle: time.Minute, Header: time.Minute, Send: time.Minute, Answer: func(asked *Asked) bool {
		n, err := asked.Write(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", len(body)), body)
		if err != nil || n != int64(len(body)) {
			t.Errorf("%d bytes, %v", n, err)
		}
		return true
	}}
	server := aheadServer(listener, ahead)
	defer server.Close()
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	for range 3 {
		res, err := (&http.Client{Transport: transport}).Get("http://" + listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	}
}
