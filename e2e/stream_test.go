package e2e

import (
	"bufio"
	"bytes"
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptrace"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestWebSocket echoes both ways and ends with the close handshake, whoever
// begins it.
func TestWebSocket(t *testing.T) {
	closed := make(chan string, 1) // how the connection ended for the origin
	origin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Origin") != "https://"+r.Host {
			http.Error(w, "origin "+r.Header.Get("Origin"), http.StatusForbidden)
			return
		}
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"tea"}})
		if err != nil {
			return
		}
		defer conn.CloseNow()
		conn.SetReadLimit(16 << 20)
		for {
			kind, message, err := conn.Read(r.Context())
			if err != nil {
				closed <- fmt.Sprint(websocket.CloseStatus(err))
				return
			}
			if string(message) == "close" {
				conn.Close(4002, "the origin goes")
				return
			}
			if conn.Write(r.Context(), kind, message) != nil {
				return
			}
		}
	})
	everyWay(t, origin, func(t *testing.T, w way) {
		if w.major == 2 {
			t.Skip("no WebSocket over HTTP/2 (RFC 8441): browsers fall back to HTTP/1.1 by ALPN")
		}
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		dial := func() *websocket.Conn {
			conn, _, err := websocket.Dial(ctx, "wss://"+w.public+"/socket", &websocket.DialOptions{
				HTTPClient: w.client, Subprotocols: []string{"tea"}, HTTPHeader: http.Header{"Origin": {"https://" + w.public}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if conn.Subprotocol() != "tea" {
				t.Errorf("subprotocol %q", conn.Subprotocol())
			}
			conn.SetReadLimit(16 << 20)
			return conn
		}
		conn := dial()
		defer conn.CloseNow()
		for _, message := range []string{"", "你好 https://" + w.public + "/", strings.Repeat("x", 8<<20)} {
			if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
				t.Fatal(err)
			}
			if _, got, err := conn.Read(ctx); err != nil || string(got) != message {
				t.Fatalf("sent %d bytes, got %d, %v", len(message), len(got), err)
			}
		}
		if err := conn.Close(4001, "the client goes"); err != nil {
			t.Errorf("close handshake: %v", err)
		}
		if got := <-closed; got != "StatusCode(4001)" {
			t.Errorf("the origin saw the end as %s", got)
		}

		other := dial()
		defer other.CloseNow()
		if err := other.Write(ctx, websocket.MessageText, []byte("close")); err != nil {
			t.Fatal(err)
		}
		var end websocket.CloseError
		if _, _, err := other.Read(ctx); !errors.As(err, &end) || end.Code != 4002 || end.Reason != "the origin goes" {
			t.Errorf("the client saw the end as %v", err)
		}

		broken := dial() // no close frame: the connection alone ends
		broken.CloseNow()
		if got := <-closed; got != "StatusCode(-1)" {
			t.Errorf("the origin saw a broken connection as %s", got)
		}
		if r := w.edge.record(t, "/socket"); r.Status != 101 {
			t.Errorf("record %+v", r)
		}
	})
}

// TestRefusedUpgrade is an ordinary answer.
func TestRefusedUpgrade(t *testing.T) {
	everyWay(t, text("text/html", page), func(t *testing.T, w way) {
		if w.major == 2 {
			return
		}
		a := get(t, w.client, w.url("/"), "Connection: Upgrade", "Upgrade: websocket", "Sec-Websocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-Websocket-Version: 13")
		if a.StatusCode != 200 || string(a.body) != publicPage {
			t.Errorf("%s %q", a.Status, a.body)
		}
	})
}

// TestEventStream: each event is at the client before the origin sends the
// next, rewritten, also when it is compressed for the client.
func TestEventStream(t *testing.T) {
	received := make(chan int)
	origin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 20 {
			fmt.Fprintf(w, "id: %d\ndata: {\"url\": \"https:\\/\\/example.com\\/%d\"}\n\n", i, i)
			if http.NewResponseController(w).Flush() != nil {
				return
			}
			select {
			case <-received:
			case <-r.Context().Done():
				return
			}
		}
	})
	everyWay(t, origin, func(t *testing.T, w way) {
		for _, coding := range []string{"", "gzip, br, zstd"} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			res, err := w.client.Do(newRequest(t, http.MethodGet, w.url("/"), nil, "Accept-Encoding: "+coding).WithContext(ctx))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if got := res.Header.Get("Content-Encoding"); got != "" {
				t.Fatalf("an event stream in %q", got)
			}
			lines := bufio.NewScanner(res.Body)
			for i := range 20 {
				want := fmt.Sprintf("id: %d|data: {\"url\": \"https:\\/\\/example.cn\\/%d\"}||", i, i)
				got := ""
				for range 3 {
					lines.Scan()
					got += lines.Text() + "|"
				}
				if got != want {
					t.Fatalf("event %d: %q, want %q (%v)", i, got, want, lines.Err())
				}
				received <- i
			}
			if lines.Scan() || lines.Err() != nil {
				t.Errorf("after the last event: %q, %v", lines.Text(), lines.Err())
			}
		}
	})
}

// TestBothWaysAtOnce: an HTTP/2 stream carries request and response at the same
// time, as gRPC does.
func TestBothWaysAtOnce(t *testing.T) {
	origin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/grpc")
		_ = http.NewResponseController(w).Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			fmt.Fprintf(w, "%s back\n", lines.Text())
			_ = http.NewResponseController(w).Flush()
		}
	})
	everyWay(t, origin, func(t *testing.T, w way) {
		if w.major == 1 || w.h1 {
			return
		}
		body, send := io.Pipe()
		defer send.Close()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		res, err := w.client.Do(newRequest(t, http.MethodPost, w.url("/"), body).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		lines := bufio.NewScanner(res.Body)
		for i := range 10 {
			fmt.Fprintf(send, "ping %d\n", i)
			if !lines.Scan() || lines.Text() != fmt.Sprintf("ping %d back", i) {
				t.Fatalf("%q, %v", lines.Text(), lines.Err())
			}
		}
		send.Close()
		if lines.Scan() || lines.Err() != nil {
			t.Errorf("after the end: %q, %v", lines.Text(), lines.Err())
		}
	})
}

// mostMemory is what a causeway process may take at its peak for any stream.
// The race detector takes memory of its own: 155 MB were seen where it is 30
// without.
const (
	mostMemory     = 100 << 20
	mostMemoryRace = 4 * mostMemory
)

// checkMemory holds every process of the crossing against mostMemory.
func checkMemory(t *testing.T, c *crossing) {
	t.Helper()
	most := int64(mostMemory)
	if detectsRaces(t) {
		most = mostMemoryRace
	}
	for _, n := range c.nodes() {
		peak := n.peakMemory(t)
		t.Logf("peak memory of %v: %d MB", n.cmd.Args[1:], peak>>20)
		if peak > most {
			t.Errorf("%v took %d MB", n.cmd.Args[1:], peak>>20)
		}
	}
}

// detectsRaces reports whether the program under test was built with -race.
func detectsRaces(t *testing.T) bool {
	t.Helper()
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// block is what the long streams are made of.
var block = bytes.Repeat([]byte("0123456789abcdef"), 64<<10)

// repeat reads as count times piece.
type repeat struct {
	piece []byte
	count int
	rest  []byte
}

func (r *repeat) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		if r.count == 0 {
			return 0, io.EOF
		}
		r.count--
		r.rest = r.piece
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// sumOf is the size of a stream and its CRC-32C.
func sumOf(t *testing.T, r io.Reader) string {
	t.Helper()
	sum := crc32.New(crc32.MakeTable(crc32.Castagnoli))
	n, err := io.CopyBuffer(struct{ io.Writer }{sum}, struct{ io.Reader }{r}, make([]byte, 256<<10))
	return fmt.Sprintf("%d bytes, %08x, %v", n, sum.Sum32(), err)
}

// TestUpload: 2 GB go up in constant memory.
func TestUpload(t *testing.T) {
	const megabytes = 2000
	origin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.WriteString(w, sumOf(t, r.Body)) })
	want := sumOf(t, &repeat{piece: block, count: megabytes})
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			ca := newAuthority(t)
			c := newCrossing(t, spec{layout: layout, ca: ca, sites: siteOf(newOrigin(t, ca, origin))})
			major, host := 1, "example.cn"
			if layout == edgeAndRelay {
				major, host = 2, "h1.example.cn"
			}
			res, err := c.client(t, major).Do(newRequest(t, http.MethodPut, "https://"+host+"/upload", &repeat{piece: block, count: megabytes}))
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			if got, err := io.ReadAll(res.Body); string(got) != want || err != nil {
				t.Errorf("the origin got %s, want %s, %v", got, want, err)
			}
			if r := c.edge.record(t, "/upload"); r.In != megabytes<<20 {
				t.Errorf("record %+v", r)
			}
			checkMemory(t, c)
		})
	}
}

// TestLongText: 200 MB are rewritten in constant memory, as they are and
// compressed.
func TestLongText(t *testing.T) {
	const megabytes = 200
	line := []byte("<li><a href=\"https://example.com/tea/long\">0123456789 abcdefghijklmnopqrstuvwxyz</a>\n")
	piece := bytes.Repeat(line, (1<<20)/len(line))
	want := sumOf(t, &repeat{piece: bytes.ReplaceAll(piece, []byte("example.com"), []byte("example.cn")), count: megabytes})
	origin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.Copy(w, &repeat{piece: piece, count: megabytes})
	})
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			ca := newAuthority(t)
			c := newCrossing(t, spec{layout: layout, ca: ca, sites: siteOf(newOrigin(t, ca, origin))})
			for major, coding := range map[int]string{1: "", 2: "gzip"} {
				res, err := c.client(t, major).Do(newRequest(t, http.MethodGet, "https://example.cn/", nil, "Accept-Encoding: "+coding))
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if res.Header.Get("Content-Encoding") != coding {
					t.Fatalf("coding %q, want %q", res.Header.Get("Content-Encoding"), coding)
				}
				if got := sumOf(t, decoder(t, coding, res.Body)); got != want {
					t.Errorf("%q: %s, want %s", coding, got, want)
				}
			}
			checkMemory(t, c)
		})
	}
}

// TestEarlyAnswer: an origin that has seen enough answers at once, however long
// the client would go on, or pause.
func TestEarlyAnswer(t *testing.T) {
	origin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 5))
		w.Header().Set("Connection", "close") // else net/http's own server reads on before it answers
		http.Error(w, "enough", http.StatusRequestEntityTooLarge)
	})
	everyWay(t, origin, func(t *testing.T, w way) {
		if w.major == 1 { // by hand: net/http's client waits for a body that is being read
			conn, err := w.dialTLS(t, w.public, "http/1.1")
			if err != nil {
				t.Fatal(err)
			}
			statuses, bodies := send(t, conn, "POST / HTTP/1.1\r\nHost: "+w.public+"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nbegun\r\n", 1)
			if len(statuses) != 1 || statuses[0] != 413 || bodies[0] != "enough\n" {
				t.Errorf("%v %q", statuses, bodies)
			}
			return
		}
		body, more := io.Pipe()
		defer more.Close()
		go func() { _, _ = io.WriteString(more, "begun") }()
		if a := do(t, w.client, newRequest(t, http.MethodPost, w.url("/"), body)); a.StatusCode != 413 || string(a.body) != "enough\n" {
			t.Errorf("%s %q", a.Status, a.body)
		}
	})
}

// asked is a body that notes when it is read.
type asked struct {
	io.Reader
	was atomic.Bool
}

func (a *asked) Read(p []byte) (int, error) {
	a.was.Store(true)
	return a.Reader.Read(p)
}

// TestExpectContinue: the origin decides, before the body, whether it wants it.
func TestExpectContinue(t *testing.T) {
	origin := serve(map[string]http.HandlerFunc{
		"/accepts": mirror,
		"/refuses": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "too much", http.StatusExpectationFailed) },
	})
	everyWay(t, origin, func(t *testing.T, w way) {
		refused := &asked{Reader: strings.NewReader("body")}
		req := newRequest(t, http.MethodPost, w.url("/refuses"), refused, "Expect: 100-continue")
		req.ContentLength = 4
		// net/http hides Expect over HTTP/2, so there the edge says 100 itself, as
		// RFC 9110 §10.1.1 lets a proxy; no browser and no curl expects it there.
		sent := func() bool { return refused.was.Load() && w.major == 1 }
		if a := do(t, w.client, req); a.StatusCode != http.StatusExpectationFailed || sent() {
			t.Errorf("%s, body read: %v", a.Status, sent())
		}
		continued := false
		req = newRequest(t, http.MethodPost, w.url("/accepts"), strings.NewReader("body"), "Expect: 100-continue")
		req = req.WithContext(httptrace.WithClientTrace(req.Context(), &httptrace.ClientTrace{Got100Continue: func() { continued = true }}))
		if a := do(t, w.client, req); a.StatusCode != 200 || !continued || a.seen(t).Sum != "230d8358dc8e8890b4c58deeb62912ee2f20357ae92a5cc861b98e68fe31acb5" {
			t.Errorf("%s %s, continued: %v", a.Status, a.body, continued)
		}
	})
}

// TestClientGone: when a client leaves, the origin's request is cancelled, be
// it before the answer or in its middle.
func TestClientGone(t *testing.T) {
	left := make(chan string)
	begun := make(chan struct{})
	origin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/middle") {
			_, _ = w.Write(block[:1000])
			_ = http.NewResponseController(w).Flush()
		} else {
			begun <- struct{}{}
		}
		select {
		case <-r.Context().Done():
			left <- r.URL.Path
		case <-time.After(patience):
			left <- "nobody left " + r.URL.Path
		}
	})
	everyWay(t, origin, func(t *testing.T, w way) {
		here := fmt.Sprint(w.major, w.public)
		ctx, leave := context.WithCancel(t.Context())
		gone := make(chan error, 1)
		go func() {
			_, err := w.client.Do(newRequest(t, http.MethodGet, w.url("/before"+here), nil).WithContext(ctx))
			gone <- err
		}()
		<-begun
		leave()
		if err := <-gone; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if path := <-left; path != "/before"+here {
			t.Error(path)
		}
		if r := w.edge.record(t, "/before"+here); r.Status != 499 || r.Kind != "client_gone" {
			t.Errorf("record %+v", r)
		}

		ctx, leave = context.WithCancel(t.Context())
		defer leave()
		res, err := w.client.Do(newRequest(t, http.MethodGet, w.url("/middle"+here), nil).WithContext(ctx))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(res.Body, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		leave()
		res.Body.Close()
		if path := <-left; path != "/middle"+here {
			t.Error(path)
		}
		if r := w.edge.record(t, "/middle"+here); r.Status != 499 || r.Kind != "client_gone" {
			t.Errorf("record %+v", r)
		}
	})
}

// TestCutBody: a body that stopped half way is never passed on as whole.
func TestCutBody(t *testing.T) {
	long := strings.Repeat(page, 10_000)
	origin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		framing, kind, _ := strings.Cut(r.URL.Path[1:], "/")
		kind, coding, _ := strings.Cut(kind, "+")
		body := encode(coding, long)
		w.Header().Set("Content-Type", strings.ReplaceAll(kind, ".", "/"))
		if coding != "" {
			w.Header().Set("Content-Encoding", coding)
		}
		if framing == "length" {
			w.Header().Set("Content-Length", fmt.Sprint(len(body)))
		}
		_, _ = w.Write(body[:len(body)/2])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler) // the connection, or stream, is reset
	})
	everyWay(t, origin, func(t *testing.T, w way) {
		for _, path := range []string{"/length/text.html", "/chunked/text.html", "/length/image.png", "/chunked/image.png", "/length/text.html+gzip", "/chunked/text.html+br"} {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			res, err := w.client.Do(newRequest(t, http.MethodGet, w.url(path), nil, "Accept-Encoding: gzip, br").WithContext(ctx))
			if err == nil && res.StatusCode == http.StatusOK { // else it was cut before a byte of text came out
				body, err := io.ReadAll(res.Body)
				if err == nil || ctx.Err() != nil {
					t.Errorf("%s: %d bytes, %v", path, len(body), err)
				}
				if strings.Contains(path, "text") && strings.Contains(string(body), "//example.com") {
					t.Errorf("%s: the part is not rewritten", path)
				}
			}
			if err == nil {
				res.Body.Close()
			}
			if r := w.edge.record(t, path); r.Kind != "origin_cut" && r.Kind != "link_cut" {
				t.Errorf("%s: record %+v", path, r)
			}
		}
	})
}

// TestCutBeforeTheBody: a body that stopped before its first byte is told with
// a page, and asked for once only.
func TestCutBeforeTheBody(t *testing.T) {
	var asked atomic.Int64
	origin := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("Content-Type", "image/png")
		w.Header().Set("X-Origin", "example.com")
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", "100000")
		}
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	everyWay(t, origin, func(t *testing.T, w way) {
		for _, path := range []string{"/length", "/chunked"} {
			asked.Store(0)
			a := do(t, w.client, newRequest(t, http.MethodGet, w.url(path), nil))
			// On a slow machine the header may be out before the cut is known.
			if a.err == nil && (a.StatusCode != 502 || !strings.Contains(string(a.body), "Request <code>") || a.Header.Get("X-Origin") != "") {
				t.Errorf("%s: %s %v %q", path, a.Status, a.Header, a.body)
			}
			if asked.Load() != 1 {
				t.Errorf("%s: the origin was asked %d times", path, asked.Load())
			}
			if r := w.edge.record(t, path); r.Kind != "origin_cut" && r.Kind != "link_cut" {
				t.Errorf("%s: record %+v", path, r)
			}
		}
	})
}
