package e2e

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// framed is a client of HTTP/2 that keeps to no rule but what a test wants.
type framed struct {
	net.Conn
	*http2.Framer
}

// dialFrames opens a connection to the edge with settings of its own.
func dialFrames(t *testing.T, c *crossing, settings ...http2.Setting) framed {
	t.Helper()
	conn, err := c.dialTLS(t, "example.cn", "h2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	f := framed{conn, http2.NewFramer(conn, conn)}
	f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := f.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return f
}

// requestBlock has the fields of a GET.
func requestBlock(host, path string, fields ...string) []byte {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encoder.SetMaxDynamicTableSize(0)
	all := append([]string{":method", "GET", ":scheme", "https", ":authority", host, ":path", path}, fields...)
	for i := 0; i < len(all); i += 2 {
		_ = encoder.WriteField(hpack.HeaderField{Name: all[i], Value: all[i+1]}) // a buffer takes everything
	}
	return block.Bytes()
}

// ask sends a GET without a body.
func (f framed) ask(t *testing.T, stream uint32, host, path string, fields ...string) {
	t.Helper()
	if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: requestBlock(host, path, fields...), EndHeaders: true, EndStream: true}); err != nil {
		t.Fatal(err)
	}
}

// status waits for the end of a stream, or its reset, and gives the last status
// and the reset's code.
func (f framed) status(t *testing.T, stream uint32) string {
	t.Helper()
	status := ""
	for {
		frame, err := f.ReadFrame()
		if err != nil {
			return status + " " + err.Error()
		}
		if frame.Header().StreamID != stream {
			continue
		}
		switch frame := frame.(type) {
		case *http2.MetaHeadersFrame:
			status = frame.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return status + " reset"
		}
		if frame.Header().Flags.Has(http2.FlagDataEndStream) {
			return status
		}
	}
}

// TestOddHosts asks for hosts below a wildcard that no browser would ask for:
// whatever they hold must not come into the fields that tell the origin who
// asks for what.
func TestOddHosts(t *testing.T) {
	ca, seen := newAuthority(t), &arrivals{}
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(newOrigin(t, ca, seen)) + `
  - name: plain
    hosts: {"*.plain.cn": http://*.plain.com}
    http: serve
`})
	for _, label := range []string{
		"a;for=6.6.6.6", "a;proto=gopher", "a,b", "x,for=6.6.6.6", "a%2fb", "a%00", "a%0d%0a", "a!b", "a$b", "a&b", "(a)", "*", "a*", "a+b",
		"a=b", "a'b", "~a", "[a]", ".", "a.", "..", "",
		`a"b`, "a b", "a/b", "evil.example/", "a\\b", "a@b", "a?b", "a#b", "a<b>", "a|b", "a`b", "a\tb", "é", "a\x7fb", "a\xffb", strings.Repeat("a", 260),
	} {
		host := label + ".example.cn"
		f := dialFrames(t, c)
		f.ask(t, 1, host, "/h2")
		if status := f.status(t, 1); strings.HasPrefix(status, "2") || strings.HasPrefix(status, "5") {
			t.Errorf("HTTP 2, host %q: %s", host, status)
		}
		f.Close()
		for address, name := range map[string]string{c.https: host, c.http: label + ".plain.cn"} {
			var conn net.Conn
			var err error
			if conn, err = net.Dial("tcp", address); address == c.https {
				conn, err = c.dialTLS(t, "example.cn", "http/1.1")
			}
			if err != nil {
				t.Fatal(err)
			}
			statuses, _ := send(t, conn, "GET /h1 HTTP/1.1\r\nHost: "+name+"\r\nConnection: close\r\n\r\n", 1)
			if len(statuses) != 1 || statuses[0] != 400 && statuses[0] != 421 {
				t.Errorf("HTTP 1, host %q: %v", name, statuses)
			}
		}
	}
	if arrived := seen.take(); len(arrived) > 0 {
		t.Errorf("the origin saw %q", arrived)
	}
	// What sites do have: letters, digits, hyphens, underscores.
	for _, label := range []string{"a", "A-1", "a_b", "r3---sn-a", "xn--fiq228c"} {
		f := dialFrames(t, c)
		f.ask(t, 1, label+".example.cn", "/")
		if status := f.status(t, 1); status != "200" {
			t.Errorf("host %q: %s", label, status)
		}
		f.Close()
	}
}

// TestManySlowDownloads: who takes a long answer slowly, or not at all, is not in the
// way of others, as long as there are not hundreds on a small machine.
func TestManySlowDownloads(t *testing.T) {
	const slow, size = 160, 64 << 20
	ca := newAuthority(t)
	piece := make([]byte, 1<<20)
	origin := newOrigin(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if r.URL.Path != "/long" {
			_, _ = io.WriteString(w, "short")
			return
		}
		w.Header().Set("Content-Length", strconv.Itoa(size))
		for range size / len(piece) {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	}))
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, sites: siteOf(origin)})
	var downloads sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	defer downloads.Wait()
	defer cancel()
	for i := range slow {
		conn, err := c.dialTLS(t, "example.cn", "http/1.1")
		if err != nil {
			t.Fatal(err)
		}
		downloads.Go(func() {
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			fmt.Fprint(conn, "GET /long HTTP/1.1\r\nHost: example.cn\r\n\r\n")
			if i%2 == 0 { // takes nothing
				<-ctx.Done()
				return
			}
			for part := make([]byte, 3000); ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
				if _, err := conn.Read(part); err != nil && ctx.Err() == nil {
					t.Errorf("a slow download ended: %v", err)
					return
				}
			}
		})
	}
	client := c.client(t, 2)
	for end := time.Now().Add(8 * time.Second); time.Now().Before(end); time.Sleep(200 * time.Millisecond) {
		began := time.Now()
		if a := get(t, client, "https://example.cn/short"); a.StatusCode != http.StatusOK || string(a.body) != "short" {
			t.Fatalf("%s %q", a.Status, a.body)
		}
		if took := time.Since(began); took > 3*time.Second {
			t.Fatalf("a short answer took %v", took)
		}
	}
}

// TestClientThatNeverReads: who takes no bytes does not keep a request, however
// small its answer, longer than limits.send_timeout.
func TestClientThatNeverReads(t *testing.T) {
	ca := newAuthority(t)
	origin := newOrigin(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size := map[string]int{"/small": 100, "/piece": 10_000, "/large": 1 << 20}[r.URL.Path]
		w.Header().Set("Content-Type", "image/png")
		_, _ = io.WriteString(w, strings.Repeat("x", size))
	}))
	for _, layout := range layouts {
		c := newCrossing(t, spec{layout: layout, ca: ca, more: "limits: {send_timeout: 400ms}", sites: siteOf(origin)})
		for _, path := range []string{"/small", "/piece", "/large"} {
			f := dialFrames(t, c, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
			f.ask(t, 1, "example.cn", path)
			ended := make(chan string, 1)
			go func() { ended <- f.status(t, 1) }()
			select {
			case status := <-ended:
				if status != "200 reset" {
					t.Errorf("%s, %s: %s", layout, path, status)
				}
			case <-time.After(patience / 4):
				t.Errorf("%s, %s: the stream is held for ever", layout, path)
			}
			f.Close()
		}
	}
}

// TestEventsWithPauses: a stream of events may pause for longer than
// limits.send_timeout, which is the client's time and not the origin's.
func TestEventsWithPauses(t *testing.T) {
	events := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 4 {
			fmt.Fprintf(w, "data: %d\n\n", i)
			_ = http.NewResponseController(w).Flush()
			select {
			case <-time.After(700 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
	})
	ca := newAuthority(t)
	origin := newOrigin(t, ca, events)
	for _, layout := range layouts {
		c := newCrossing(t, spec{layout: layout, ca: ca, more: "limits: {send_timeout: 300ms}", sites: siteOf(origin)})
		for _, major := range []int{1, 2} {
			a := do(t, c.client(t, major), newRequest(t, "GET", "https://example.cn/", nil))
			if a.err != nil || strings.Count(string(a.body), "data:") != 4 {
				t.Errorf("%s, HTTP %d: %q, %v", layout, major, a.body, a.err)
			}
		}
	}
}

// TestHintsNobodyReads: a client that does not read its 103s holds up nobody
// else, though they all share the link's connection.
func TestHintsNobodyReads(t *testing.T) {
	ca := newAuthority(t)
	stop := make(chan struct{})
	origin := newOrigin(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/hints" {
			w.Header().Set("Link", "</"+strings.Repeat("a", 30_000)+">; rel=preload")
			for r.Context().Err() == nil {
				w.WriteHeader(http.StatusEarlyHints)
				select {
				case <-stop:
					return
				default:
				}
			}
			return
		}
		_, _ = io.WriteString(w, "fine")
	}))
	defer close(stop)
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, more: "limits: {link_connections: 1, origin_timeout: 3s, send_timeout: 1s}", sites: siteOf(origin)})
	for _, protocol := range []string{"http/1.1", "h2"} {
		if protocol == "h2" {
			f := dialFrames(t, c)
			defer f.Close()
			f.ask(t, 1, "h1.example.cn", "/hints")
		} else {
			conn, err := c.dialTLS(t, "example.cn", protocol)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_, _ = io.WriteString(conn, "GET /hints HTTP/1.1\r\nHost: h1.example.cn\r\n\r\n")
		}
		time.Sleep(500 * time.Millisecond)
		client := c.client(t, 1)
		client.Timeout = patience / 4
		for range 5 {
			res, err := client.Get("https://example.cn/")
			if err != nil {
				t.Fatalf("%s: another visitor waits: %v", protocol, err)
			}
			res.Body.Close()
		}
	}
}

// TestForbiddenTrailers: what frames, routes or identifies a message is no
// trailer (RFC 9110 section 6.5.1), either way.
func TestForbiddenTrailers(t *testing.T) {
	trailers := make(chan http.Header, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		trailers <- r.Trailer
		_ = http.NewResponseController(w).Flush()
		for _, name := range []string{"X-Sum", "Content-Length", "Transfer-Encoding", "Set-Cookie", "Location", "Causeway-Error", "Connection"} {
			w.Header().Set(http.TrailerPrefix+name, "1")
		}
		_, _ = io.WriteString(w, "body")
	})
	everyWay(t, handler, func(t *testing.T, w way) {
		if w.major == 1 {
			conn, err := w.dialTLS(t, "example.cn", "http/1.1")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: %s\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\nHost: evil\r\nX-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nAuthorization: Basic x\r\nCookie: a=b\r\nCauseway-Upgrade: websocket\r\n\r\n", w.public)
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if got := <-trailers; len(got) != 1 || got.Get("X-Sum") != "1" {
				t.Errorf("the origin got the trailers %v", got)
			}
		}
		a := get(t, w.client, w.url("/"), "Te: trailers")
		<-trailers
		if len(a.Trailer) != 1 || a.Trailer.Get("X-Sum") != "1" || string(a.body) != "body" {
			t.Errorf("the client got the trailers %v", a.Trailer)
		}
	})
}

// soakBody is the body that a request of TestSoak gets: its own, so that a
// single byte of another's shows.
func soakBody(id, size int, host string) string {
	line := fmt.Sprintf("%d <a href=\"https://%s/%d\"> \\/\\/%s %s\n", id, host, id, host, strings.Repeat(string(rune('a'+id%26)), id%97))
	return strings.Repeat(line, size/60+1)
}

// soak answers /ID/SIZE/KIND in the coding that is asked for.
func soak(w http.ResponseWriter, r *http.Request) {
	var id, size int
	var kind string
	_, _ = fmt.Sscanf(strings.ReplaceAll(r.URL.Path, "/", " "), "%d %d %s", &id, &size, &kind)
	if kind != "early" { // which answers before the body is there
		_, _ = io.Copy(io.Discard, r.Body)
	}
	body := soakBody(id, size, "example.com")
	w.Header().Set("Content-Type", map[bool]string{true: "image/png", false: "text/html"}[kind == "image"])
	if coding, _, _ := strings.Cut(r.Header.Get("Accept-Encoding"), ","); coding != "" && kind != "image" {
		w.Header().Set("Content-Encoding", coding)
		body = string(encode(coding, body))
	}
	if kind == "cut" {
		_, _ = io.WriteString(w, body[:len(body)/2])
		panic(http.ErrAbortHandler)
	}
	for pieces := 1 + id%7; pieces > 1 && len(body) > pieces; pieces-- {
		_, _ = io.WriteString(w, body[:len(body)/pieces])
		body = body[len(body)/pieces:]
		_ = http.NewResponseController(w).Flush()
	}
	_, _ = io.WriteString(w, body)
}

// TestSoak mixes what visitors do, all at once, with some who leave, origins
// that break off and reloads. Every byte is the right one, and nothing is left.
func TestSoak(t *testing.T) {
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			ca := newAuthority(t)
			c := newCrossing(t, spec{layout: layout, ca: ca, sites: siteOf(newOrigin(t, ca, http.HandlerFunc(soak)))})
			nodes := []*node{c.edge}
			for _, relay := range c.relays {
				nodes = append(nodes, relay)
			}
			clients := []*http.Client{c.client(t, 1), c.client(t, 2), c.client(t, 2)}
			get(t, clients[0], "https://example.cn/1/1/text")
			idle := make([][2]int, len(nodes))
			for i, n := range nodes {
				idle[i] = n.held(t)
			}
			var work sync.WaitGroup
			requests := make(chan int)
			for range 24 {
				work.Go(func() {
					for id := range requests {
						if err := soakOnce(t.Context(), clients[id%len(clients)], id); err != nil {
							t.Errorf("request %d: %v", id, err)
						}
					}
				})
			}
			work.Go(func() { c.resets(t, 60) })
			for id := range 900 {
				if id%300 == 150 {
					for _, n := range nodes {
						n.reload(t)
					}
				}
				requests <- id
			}
			close(requests)
			work.Wait()
			for _, client := range clients {
				client.CloseIdleConnections()
			}
			for i, n := range nodes {
				for _, bad := range []string{"panic", "DATA RACE", "fatal error", "goroutine "} {
					if strings.Contains(n.stderrText(), bad) {
						t.Errorf("%s in:\n%s", bad, tail(n.stderrText(), 4<<10))
					}
				}
				eventually(t, "nothing is left", func() bool {
					now := n.held(t)
					return now[0] <= idle[i][0]+24 && now[1] <= idle[i][1]+24 // kept-alive connections to the origin
				})
			}
		})
	}
}

// held is how many goroutines and descriptors a node has.
func (n *node) held(t *testing.T) [2]int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", n.pid()))
	if err != nil {
		t.Fatal(err)
	}
	goroutines, err := strconv.Atoi(n.metric(t, "go_goroutines"))
	if err != nil {
		t.Fatal(err)
	}
	return [2]int{goroutines, len(files)}
}

// soakOnce makes the request of an id and holds the answer against what it must
// be.
func soakOnce(ctx context.Context, client *http.Client, id int) error {
	size := []int{0, 100, 3_000, 20_000, 70_000, 400_000}[id%6]
	kind := []string{"text", "text", "image", "text", "cut", "early", "text"}[id%7]
	coding := []string{"", "gzip", "br", "zstd"}[id%4]
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var body io.Reader
	method := http.MethodGet
	if id%5 == 0 || kind == "early" {
		method, body = http.MethodPost, io.LimitReader(zeros{}, int64(id)*100)
	}
	req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("https://%s/%d/%d/%s", []string{"example.cn", "h1.example.cn"}[id%2], id, size, kind), body)
	if err != nil {
		return err
	}
	req.Header.Set("Accept-Encoding", coding)
	res, err := client.Do(req)
	if err != nil {
		if kind == "early" {
			return nil // the client was still sending
		}
		return err
	}
	defer res.Body.Close()
	if id%11 == 3 { // leaves in the middle
		_, _ = io.CopyN(io.Discard, res.Body, int64(size/2))
		return nil
	}
	got, err := io.ReadAll(res.Body)
	if kind == "cut" {
		if err == nil && res.StatusCode == http.StatusOK {
			return fmt.Errorf("a cut body of %d bytes looks whole", len(got))
		}
		return nil
	}
	if err != nil {
		if kind == "early" {
			return nil
		}
		return err
	}
	host := "example.cn"
	if kind == "image" {
		host = "example.com"
	}
	text, err := opened(res.Header.Get("Content-Encoding"), got)
	if want := soakBody(id, size, host); err != nil || res.StatusCode != http.StatusOK || text != want {
		return fmt.Errorf("%s %v, %v: %d bytes, want %d", req.URL, res.Status, err, len(text), len(want))
	}
	return nil
}

// zeros is a body without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// opened opens a content coding.
func opened(coding string, body []byte) (string, error) {
	var r io.Reader = bytes.NewReader(body)
	var err error
	switch coding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "br":
		r = brotli.NewReader(r)
	case "zstd":
		r, err = zstd.NewReader(r)
	}
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(r)
	return string(text), err
}

// resets asks for large bodies and resets their streams while they come.
func (c *crossing) resets(t *testing.T, connections int) {
	for range connections {
		f := dialFrames(t, c)
		_ = f.SetDeadline(time.Now().Add(patience / 10))
		for stream := uint32(1); stream < 40; stream += 2 {
			f.ask(t, stream, "example.cn", "/7/400000/image")
		}
		for range 20 { // some of it
			if _, err := f.ReadFrame(); err != nil {
				break
			}
		}
		for stream := uint32(1); stream < 40; stream += 2 {
			_ = f.WriteRSTStream(stream, http2.ErrCodeCancel)
		}
		f.Close()
	}
}

// TestUploadToASlowOrigin: limits.body_timeout is the client's time. An origin
// that takes longer to read is none of its faults.
func TestUploadToASlowOrigin(t *testing.T) {
	ca := newAuthority(t)
	origin := newOrigin(t, ca, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		time.Sleep(1200 * time.Millisecond)
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	}))
	for _, layout := range layouts {
		c := newCrossing(t, spec{layout: layout, ca: ca, more: "limits: {body_timeout: 300ms}", sites: siteOf(origin)})
		for _, major := range []int{1, 2} {
			for _, host := range []string{"example.cn", "h1.example.cn"} {
				const size = 32 << 20
				a := do(t, c.client(t, major), newRequest(t, "POST", "https://"+host+"/", io.LimitReader(zeros{}, size)))
				if a.StatusCode != 200 || string(a.body) != fmt.Sprint(size, nil) {
					t.Errorf("%s, HTTP %d, %s: %s %.100q", layout, major, host, a.Status, a.body)
				}
			}
		}
	}
}

// garbage serves each connection with bytes after its first request, then ends
// it. hold keeps it open instead.
func garbage(t *testing.T, answers map[string]string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				req, err := http.ReadRequest(bufio.NewReader(conn))
				if err != nil {
					return
				}
				answer, endless, _ := strings.Cut(answers[req.URL.Path], "ENDLESS")
				_, err = io.WriteString(conn, answer)
				for err == nil && endless != "" {
					_, err = io.WriteString(conn, endless)
				}
			})
		}
	})
	t.Cleanup(func() { ln.Close(); conns.Wait() })
	return ln.Addr().String()
}

// TestHostileOrigin: whatever an origin sends, the client gets a page or a cut
// answer, never what looks whole; what it sent is in no log.
func TestHostileOrigin(t *testing.T) {
	const ok, secret = "HTTP/1.1 200 OK\r\n", "s3cr3t"
	answers := map[string]string{
		"/http09":       "<html>" + secret + "</html>",
		"/garbage":      "\x00\x01\xff" + secret + "\r\n\r\n",
		"/nothing":      "",
		"/status":       "HTTP/1.1 2x0 " + secret + "\r\n\r\n",
		"/version":      "HTTP/x.y 200 OK\r\n\r\n",
		"/no-colon":     ok + "Set-Cookie session=" + secret + "\r\nContent-Length: 0\r\n\r\n",
		"/two-lengths":  ok + "Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
		"/length":       ok + "Content-Length: " + secret + "\r\n\r\nab",
		"/negative":     ok + "Content-Length: -1\r\n\r\nab",
		"/short":        ok + "Content-Type: text/html\r\nContent-Length: 100\r\n\r\nab",
		"/short-image":  ok + "Content-Type: image/png\r\nContent-Length: 100000\r\n\r\nab",
		"/coding":       ok + "Transfer-Encoding: " + secret + "\r\n\r\nab",
		"/chunk":        ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\nzz" + secret + "\r\n",
		"/chunk-cut":    ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n",
		"/chunk-huge":   ok + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffff0\r\nab\r\n",
		"/chunk-no-end": ok + "Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n",
		"/gzip":         ok + "Content-Type: text/html\r\nContent-Encoding: gzip\r\nContent-Length: 9\r\n\r\nnot gzip!",
		"/br":           ok + "Content-Type: text/html\r\nContent-Encoding: br\r\nContent-Length: 9\r\n\r\nnot br!!!",
		"/zstd":         ok + "Content-Type: text/html\r\nContent-Encoding: zstd\r\nContent-Length: 9\r\n\r\nnot zstd!",
		"/header":       ok + "X: ENDLESS" + strings.Repeat("x", 4<<10),
		"/headers":      ok + "ENDLESSX: x\r\n",
		"/line":         "ENDLESS" + strings.Repeat("x", 4<<10),
		"/hints":        "ENDLESSHTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n",
		"/continues":    "ENDLESSHTTP/1.1 100 Continue\r\n\r\n",
		"/switch":       "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + secret,
		"/trailers":     ok + "Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nENDLESSX: x\r\n",
		"/extension":    ok + "Content-Type: image/png\r\nTransfer-Encoding: chunked\r\n\r\n1;ENDLESSxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
		"/status-0":     "HTTP/1.1 000 X\r\n\r\n",
		"/status-99":    "HTTP/1.1 099 X\r\n\r\n",
		"/first-line":   ok + " Set-Cookie: session=" + secret + "\r\n\r\n",
	}
	address := garbage(t, answers)
	ca := newAuthority(t)
	for _, layout := range layouts {
		c := newCrossing(t, spec{layout: layout, ca: ca, more: "limits: {origin_timeout: 1s, origin_idle_timeout: 1s}\nlog: {level: debug}", sites: fmt.Sprintf(`
  - name: site
    hosts: {example.cn: http://example.com}
    origin: {connect: [%q]}
    tls: {cert: CERT, key: KEY}
`, address)})
		for path := range answers {
			for _, major := range []int{1, 2} {
				req := newRequest(t, "GET", "https://example.cn"+path, nil, "Accept-Encoding: gzip")
				res, err := c.client(t, major).Do(req)
				if err != nil {
					continue // cut
				}
				body, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err == nil && (res.StatusCode != 502 && res.StatusCode != 504 || !bytes.Contains(body, []byte("Request <code>"))) {
					t.Errorf("%s, HTTP %d, %s: %s %v %.200q", layout, major, path, res.Status, res.Header, body)
				}
				if bytes.Contains(body, []byte(secret)) && path != "/chunk" {
					t.Errorf("%s, HTTP %d, %s: told %q", layout, major, path, body)
				}
			}
		}
		nodes := map[string]*node{"edge": c.edge}
		for name, relay := range c.relays {
			nodes[name] = relay
		}
		for name, n := range nodes {
			for _, line := range append(n.stdoutLines(), n.stderrText()) {
				for _, bad := range []string{secret, "panic", "goroutine "} {
					if strings.Contains(line, bad) {
						t.Errorf("%s: %q in %.600s", name, bad, line)
					}
				}
				if len(line) > 4<<10 && !strings.Contains(line, "level=") {
					t.Errorf("%s: a record of %d bytes: %.300s", name, len(line), line)
				}
			}
		}
	}
}

// TestAnswerBeforeTheBody: an origin that answers at once and reads on does not
// make the edge touch a request that is over.
func TestAnswerBeforeTheBody(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				reader := bufio.NewReader(conn)
				if _, err := http.ReadRequest(reader); err != nil {
					return
				}
				time.Sleep(100 * time.Millisecond) // who sends the body waits for this origin now
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				time.Sleep(10 * time.Millisecond) // the answer is through
				_, _ = io.Copy(io.Discard, reader)
			})
		}
	})
	t.Cleanup(func() { ln.Close(); conns.Wait() })
	ca := newAuthority(t)
	for _, layout := range layouts {
		c := newCrossing(t, spec{layout: layout, ca: ca, sites: fmt.Sprintf(`
  - name: site
    hosts: {example.cn: http://example.com}
    origin: {connect: [%q]}
    tls: {cert: CERT, key: KEY}
`, ln.Addr())})
		for _, major := range []int{1, 2} {
			client := c.client(t, major)
			for range 5 {
				req := newRequest(t, "POST", "https://example.cn/", io.LimitReader(zeros{}, 64<<20))
				res, err := client.Do(req)
				if err != nil {
					continue // it was still sending
				}
				_, _ = io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
		}
		for _, n := range append([]*node{c.edge}, c.relays["relay-1"]) {
			if n != nil && n.ended() {
				t.Errorf("%s: the process is gone:\n%.2000s", layout, n.stderrText())
			}
		}
	}
}
