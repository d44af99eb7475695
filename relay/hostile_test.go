package relay

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"

	"causeway/config"
	"causeway/outcome"
)

// scripted is an origin that answers each request with bytes.
type scripted struct {
	net.Listener
	mu     sync.Mutex // guards the rest
	asked  []string   // the request lines
	opened int        // connections
	open   int        // those that are open
}

func newScripted(t *testing.T, answer string) *scripted {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &scripted{Listener: ln}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			s.count(1)
			conns.Go(func() { defer s.count(-1); defer conn.Close(); s.serve(conn, answer) })
		}
	})
	t.Cleanup(func() { ln.Close(); conns.Wait() })
	return s
}

func (s *scripted) count(change int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened += max(change, 0)
	s.open += change
}

func (s *scripted) serve(conn net.Conn, answer string) {
	reader := bufio.NewReader(conn)
	for {
		req, err := http.ReadRequest(reader)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.asked = append(s.asked, req.Method+" "+req.RequestURI)
		s.mu.Unlock()
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return
		}
		if _, err := io.WriteString(conn, answer); err != nil {
			return
		}
	}
}

// relayTo is a relay for example.cn and what is below it.
func relayTo(t *testing.T, address string) *Server {
	t.Helper()
	cfg, err := config.Parse("causeway.yaml", fmt.Appendf(nil, `
listen: {http: "127.0.0.1:0"}
sites:
  - name: shop
    hosts: {example.cn: "http://example.com", "*.example.cn": "http://*.example.com"}
    origin: {connect: [%q]}
    http: serve
    routes: [{path: /inside*, origin: "http://%s"}]
limits: {origin_timeout: 20s}`, address, address))
	if err != nil {
		t.Fatal(err)
	}
	s, err := New(cfg, Options{Sink: outcome.Sinks{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// ask makes one round trip and reads the answer.
func ask(t *testing.T, s *Server, method, url string, body io.Reader, fields ...string) (*http.Response, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	req.GetBody = nil
	for _, field := range fields {
		name, value, _ := strings.Cut(field, ": ")
		req.Header.Set(name, value)
	}
	res, err := s.RoundTrip(req)
	if err != nil {
		return nil, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	return res, string(text), err
}

// A part that nobody may ask for is no reason to send a POST again.
func TestPostIsSentOnce(t *testing.T) {
	origin := newScripted(t, "HTTP/1.1 206 Partial Content\r\nContent-Type: text/html\r\nContent-Range: bytes 0-1/9\r\nContent-Length: 2\r\n\r\nok")
	s := relayTo(t, origin.Addr().String())
	for _, body := range []io.Reader{nil, strings.NewReader("a=1")} {
		_, _, _ = ask(t, s, "POST", "http://example.cn/pay", body, "Range: bytes=0-1")
	}
	origin.mu.Lock()
	defer origin.mu.Unlock()
	if len(origin.asked) != 2 {
		t.Errorf("the origin saw %q, want two requests", origin.asked)
	}
}

// A part of a text has the origin's names and offsets: it never passes. Other
// parts do, and texts that an API counts in a unit of its own are rewritten.
func TestParts(t *testing.T) {
	const page = `<a href="http://example.com/">` // 30 bytes
	part := func(kind, contentRange, body string) string {
		return fmt.Sprintf("HTTP/1.1 206 Partial Content\r\nContent-Type: %s\r\nContent-Range: %s\r\nContent-Length: %d\r\n\r\n%s", kind, contentRange, len(body), body)
	}
	parts := func(kind string) string {
		one := "\r\n--cut\r\nContent-Type: " + kind + "\r\nContent-Range: bytes 0-29/90\r\n\r\n" + page
		return one + one + "\r\n--cut--\r\n"
	}
	multipart := func(kind, body string) string { return part(kind, "", body) }
	const rewritten = `<a href="http://example.cn/">`
	for name, c := range map[string]struct {
		method, ranges, answer string
		kind                   outcome.Kind
		body                   string
		asked                  int
	}{
		"nobody asked":              {"GET", "", part("text/html", "bytes 0-29/90", page), outcome.OriginBad, "", 1},
		"asked, and again":          {"GET", "bytes=0-29", part("text/html", "bytes 0-29/90", page), outcome.OriginBad, "", 2},
		"asked, and does not say":   {"GET", "bytes=0-29", part("text/html", "", page), outcome.OK, rewritten, 2},
		"POST":                      {"POST", "bytes=0-29", part("text/html", "bytes 0-29/90", page), outcome.OriginBad, "", 1},
		"HEAD":                      {"HEAD", "bytes=0-29", part("text/html", "bytes 0-29/90", ""), outcome.OriginBad, "", 2},
		"no type":                   {"GET", "", part("", "bytes 0-29/90", page), outcome.OriginBad, "", 1},
		"an image":                  {"GET", "bytes=0-29", part("image/png", "bytes 0-29/90", page), outcome.OK, page, 1},
		"an image, unasked":         {"GET", "", part("image/png", "bytes 0-29/90", page), outcome.OK, page, 1},
		"of another unit":           {"GET", "items=0-1", part("application/json", "items 0-1/9", page), outcome.OK, rewritten, 1},
		"of no unit, unasked":       {"GET", "", part("application/json", "0-1/9", page), outcome.OK, rewritten, 1},
		"does not say, unasked":     {"GET", "", part("text/html", "", page), outcome.OK, rewritten, 1},
		"several":                   {"GET", "bytes=0-29,60-89", multipart("multipart/byteranges; boundary=cut", parts("text/html")), outcome.OriginBad, "", 2},
		"several, unasked":          {"GET", "", multipart("multipart/byteranges; boundary=cut", parts("text/html")), outcome.OriginBad, "", 1},
		"several of an image":       {"GET", "bytes=0-29,60-89", multipart(`Multipart/ByteRanges; boundary="cut"`, parts("image/png")), outcome.OK, parts("image/png"), 1},
		"several of nobody knows":   {"GET", "bytes=0-29,60-89", multipart("multipart/byteranges", parts("image/png")), outcome.OriginBad, "", 2},
		"several, with a long head": {"GET", "", multipart("multipart/byteranges; boundary=cut", "--cut\r\nX: "+strings.Repeat("x", 100<<10)), outcome.OriginBad, "", 1},
	} {
		origin := newScripted(t, c.answer)
		s := relayTo(t, origin.Addr().String())
		var fields []string
		if c.ranges != "" {
			fields = append(fields, "Range: "+c.ranges)
		}
		res, body, err := ask(t, s, c.method, "http://example.cn/", nil, fields...)
		if outcome.KindOf(err) != c.kind || body != c.body || (err == nil && res.StatusCode != 206) {
			t.Errorf("%s: %.200q, %v, want %.200q, kind %q", name, body, err, c.body, c.kind)
		}
		origin.mu.Lock()
		if len(origin.asked) != c.asked {
			t.Errorf("%s: the origin saw %q, want %d", name, origin.asked, c.asked)
		}
		origin.mu.Unlock()
	}
}

// An origin switches to what was asked for, or not at all.
func TestSwitchUnasked(t *testing.T) {
	for _, c := range []struct {
		asked, switched string
		kind            outcome.Kind
	}{
		{"", "websocket", outcome.OriginBad},
		{"", "", outcome.OriginBad},
		{"websocket", "h2c", outcome.OriginBad},
		{"websocket", "", outcome.OriginBad},
		{"websocket", "WebSocket", outcome.OK},
		{"chat, websocket", "chat", outcome.OK},
	} {
		answer := "HTTP/1.1 101 Switching Protocols\r\n"
		if c.switched != "" {
			answer += "Connection: Upgrade\r\nUpgrade: " + c.switched + "\r\n"
		}
		s := relayTo(t, newScripted(t, answer+"\r\n").Addr().String())
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://example.cn/live", nil)
		if err != nil {
			t.Fatal(err)
		}
		if c.asked != "" {
			req.Header.Set("Connection", "Upgrade")
			req.Header.Set("Upgrade", c.asked)
		}
		res, err := s.RoundTrip(req)
		if err == nil {
			res.Body.Close()
		}
		if outcome.KindOf(err) != c.kind {
			t.Errorf("asked for %q, switched to %q: %v, want kind %q", c.asked, c.switched, err, c.kind)
		}
	}
}

// failing is a client's body that does not come to its end.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// What a client does wrong is not held against the origin's address.
func TestClientsFaultIsNotTheOrigins(t *testing.T) {
	origin := newScripted(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	s := relayTo(t, origin.Addr().String())
	for _, kind := range []outcome.Kind{outcome.BodyTooBig, outcome.ClientSlow, outcome.BadRequest, outcome.ClientGone} {
		_, _, err := ask(t, s, "POST", "http://example.cn/", failing{outcome.Errorf(kind, "read: %w", errors.New("cause"))})
		if outcome.KindOf(err) != kind {
			t.Errorf("got %v, want kind %q", err, kind)
		}
	}
	for _, o := range s.state.Load().sites {
		o.dialer.mu.Lock()
		defer o.dialer.mu.Unlock()
		if len(o.dialer.ejected) > 0 {
			t.Errorf("left out: %v", o.dialer.ejected)
		}
	}
}

// However a client spells a public host, the address of a route's origin
// stays inside.
func TestRouteOriginStaysInside(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "http://"+address+"/next")
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, "<a href='http://%s/next'>", address)
	})}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(ln) }()
	defer func() { server.Close(); <-done }()
	s := relayTo(t, address)
	for _, host := range []string{"example.cn", "EXAMPLE.cn", "example.cn.", "example.cn:80", "a.example.cn", "A.example.cn:80"} {
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://example.cn/inside", nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = host
		res, err := s.RoundTrip(req)
		if err != nil {
			t.Fatal(host, err)
		}
		body, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || strings.Contains(string(body)+res.Header.Get("Location"), address) {
			t.Errorf("host %q: Location %q, body %q, %v", host, res.Header.Get("Location"), body, err)
		}
	}
}

// Names below a wildcard are chosen by clients: they do not fill a relay with
// idle connections.
func TestIdleConnectionsAreBounded(t *testing.T) {
	origin := newScripted(t, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	s := relayTo(t, origin.Addr().String())
	for i := range 3 * mostOpen / 2 {
		if _, _, err := ask(t, s, "GET", fmt.Sprintf("http://n%d.example.cn/", i), nil); err != nil {
			t.Fatal(err)
		}
	}
	origin.mu.Lock()
	defer origin.mu.Unlock()
	if origin.open > mostOpen+100 {
		t.Errorf("%d connections of %d are open", origin.open, origin.opened)
	}
}
