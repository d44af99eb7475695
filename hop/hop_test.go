package hop_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"causeway/hop"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestRemoveHopByHop(t *testing.T) {
	h := http.Header{
		"Connection": {"close, X-One", "x-two"}, "X-One": {"1"}, "X-Two": {"2"}, "X-Three": {"3"},
		"Keep-Alive": {"timeout=5"}, "Te": {"trailers"}, "Transfer-Encoding": {"chunked"}, "Upgrade": {"h2c"},
		"Proxy-Connection": {"close"}, "Proxy-Authenticate": {"Basic"}, "Proxy-Authorization": {"x"}, "Trailer": {"A"},
	}
	hop.RemoveHopByHop(h)
	if got := slices.Collect(maps.Keys(h)); !slices.Equal(got, []string{"X-Three"}) {
		t.Errorf("left %v", got)
	}
}

func TestUpgradeOf(t *testing.T) {
	for _, c := range []struct{ connection, upgrade, want string }{
		{"Upgrade", "websocket", "websocket"},
		{"keep-alive, upgrade", "websocket", "websocket"},
		{"keep-alive", "websocket", ""}, // Upgrade that Connection does not name is not ours to act on
		{"Upgrade", "", ""},
	} {
		h := http.Header{"Connection": {c.connection}, "Upgrade": {c.upgrade}}
		if got := hop.UpgradeOf(h); got != c.want {
			t.Errorf("%+v: got %q", c, got)
		}
	}
}

func TestLegs(t *testing.T) {
	h := http.Header{}
	hop.SetLegs(h, 1500*time.Microsecond, 2*time.Second)
	if connect, origin := hop.TakeLegs(h); connect != 1500*time.Microsecond || origin != 2*time.Second || len(h) != 0 {
		t.Errorf("got %v, %v, left %v", connect, origin, h)
	}
	h.Set(hop.Prefix+"Legs", "garbage")
	if connect, origin := hop.TakeLegs(h); connect != 0 || origin != 0 {
		t.Errorf("garbage gave %v, %v", connect, origin)
	}
}

// FuzzTargetURL holds that whatever net/http takes as a request target is sent
// on byte for byte, and that it never becomes another host.
func FuzzTargetURL(f *testing.F) {
	for _, target := range []string{"/", "/a%2Fb?c=%2f", "//evil.example/x", "/a|b\"<>", "/?", "/a?b?c", "http://example.cn/x", "http://example.cn", "http://example.cn?q", "/:80/", "/a:b@c", "*", "/\xff\xfe", "/%zz", "///", "/?//"} {
		f.Add(target)
	}
	f.Fuzz(func(t *testing.T, target string) {
		req, err := http.ReadRequest(bufio.NewReader(strings.NewReader("GET " + target + " HTTP/1.1\r\nHost: example.cn\r\n\r\n")))
		if err != nil || req.RequestURI != target {
			return
		}
		got := hop.TargetURL(req.RequestURI, req.URL, "https", "example.com")
		if got.Host != "example.com" || got.Scheme != "https" {
			t.Fatalf("%q leads to %s", target, got)
		}
		if want, ok := strings.CutPrefix(target, "/"); ok && !strings.HasPrefix(want, "/") && got.RequestURI() != target {
			t.Fatalf("%q is sent on as %q", target, got.RequestURI())
		}
		// What the next server reads must be the same.
		line := got.RequestURI()
		if _, err := url.ParseRequestURI(line); err != nil {
			t.Fatalf("%q is sent on as %q: %v", target, line, err)
		}
		if strings.ContainsAny(line, " \r\n") {
			t.Fatalf("%q is sent on as %q", target, line)
		}
	})
}

// through serves responses made by answer through hop.Answer, and gives the
// URL.
func through(t *testing.T, answer func(r *http.Request) *http.Response) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := hop.Answer(w, r, answer(r), hop.Options{WriteTimeout: 10 * time.Second, StreamTimeout: 10 * time.Second}); err != nil {
			panic(http.ErrAbortHandler)
		}
	}))
	t.Cleanup(server.Close)
	return server
}

func response(status int, header http.Header, length int64, body io.Reader) *http.Response {
	return &http.Response{StatusCode: status, Header: header, ContentLength: length, Body: io.NopCloser(body)}
}

func get(t *testing.T, url string) (*http.Response, string, error) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DisableCompression: true}}
	res, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res, string(body), err
}

func TestAnswerPassesHeaderBodyTrailers(t *testing.T) {
	server := through(t, func(*http.Request) *http.Response {
		res := response(203, http.Header{"X-Kept": {"a", "b"}, "Connection": {"X-Gone"}, "X-Gone": {"1"}, "Keep-Alive": {"9"}}, -1, strings.NewReader("body"))
		res.Trailer = http.Header{"X-Sum": {"42"}}
		return res
	})
	res, body, err := get(t, server.URL)
	if err != nil || body != "body" || res.StatusCode != 203 {
		t.Fatalf("%v %q %v", res.Status, body, err)
	}
	if !slices.Equal(res.Header["X-Kept"], []string{"a", "b"}) || res.Header.Get("X-Gone") != "" || res.Header.Get("Keep-Alive") != "" {
		t.Errorf("header %v", res.Header)
	}
	if _, guessed := res.Header["Content-Type"]; guessed {
		t.Error("a Content-Type was made up")
	}
	if res.Trailer.Get("X-Sum") != "42" {
		t.Errorf("trailer %v", res.Trailer)
	}
}

// broken gives some bytes and then fails.
type broken struct{ some io.Reader }

func (b broken) Read(p []byte) (int, error) {
	n, err := b.some.Read(p)
	if err == io.EOF {
		err = errors.New("the origin broke")
	}
	return n, err
}

// A body that breaks off never looks whole, whatever its framing.
func TestAnswerNeverHidesACut(t *testing.T) {
	for _, length := range []int64{-1, 1 << 20} {
		server := through(t, func(*http.Request) *http.Response {
			header := http.Header{}
			if length > 0 {
				header.Set("Content-Length", fmt.Sprint(length))
			}
			return response(200, header, length, broken{strings.NewReader(strings.Repeat("half", 1<<16))})
		})
		if _, body, err := get(t, server.URL); err == nil {
			t.Errorf("length %d: %d bytes came as whole", length, len(body))
		}
	}
}

// What the origin sends is with the client before the origin sends more.
func TestAnswerFlushesAsItComes(t *testing.T) {
	const long = 64 << 10
	for _, length := range []int64{-1, long} {
		read, write := io.Pipe()
		server := through(t, func(*http.Request) *http.Response {
			header := http.Header{}
			if length > 0 {
				header.Set("Content-Length", fmt.Sprint(length))
			}
			return response(200, header, length, read)
		})
		res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get(server.URL)
		if err == nil {
			part := make([]byte, 4)
			for _, word := range []string{"one.", "two."} {
				go io.WriteString(write, word)
				if _, err := io.ReadFull(res.Body, part); err != nil || string(part) != word {
					t.Errorf("length %d: got %q, %v", length, part, err)
				}
			}
			res.Body.Close()
			read.Close()
		} else {
			t.Error(err)
		}
	}
}

// After a 101 bytes flow both ways, those that came with the request first, and
// the client's end is passed on.
func TestAnswerUpgrade(t *testing.T) {
	here, there := net.Pipe()
	origin := &halfCloser{Conn: here, closed: make(chan struct{})}
	server := through(t, func(*http.Request) *http.Response {
		return &http.Response{StatusCode: 101, Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"echo"}}, Body: origin}
	})
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly")
	reader := bufio.NewReader(conn)
	res, err := http.ReadResponse(reader, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != "echo" || res.Header.Get("Connection") != "Upgrade" {
		t.Fatalf("%v %v", res, err)
	}
	expect := func(r io.Reader, want string) {
		t.Helper()
		got := make([]byte, len(want))
		if _, err := io.ReadFull(r, got); err != nil || string(got) != want {
			t.Fatalf("got %q, %v, want %q", got, err, want)
		}
	}
	expect(there, "early")
	go io.WriteString(there, "from the origin")
	expect(reader, "from the origin")
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	<-origin.closed // the half-close arrived; the other way still works
	go func() { io.WriteString(there, "last words"); there.Close() }()
	expect(reader, "last words")
	if _, err := reader.ReadByte(); err != io.EOF {
		t.Errorf("after the end: %v", err)
	}
}

// halfCloser is a pipe that notes its half-close.
type halfCloser struct {
	net.Conn
	closed chan struct{}
}

func (h *halfCloser) CloseWrite() error { close(h.closed); return nil }

// heldBody is looked at for a while, and then of no use.
type heldBody struct{ held atomic.Bool }

func (b *heldBody) Holding() bool { return b.held.Load() }

func (b *heldBody) Read([]byte) (int, error) {
	b.held.Store(true)
	defer b.held.Store(false)
	time.Sleep(100 * time.Millisecond) // many times the patience
	return 0, errors.New("a bomb")
}

func (b *heldBody) Close() error { return nil }

// A body that is looked at keeps the header back, so that its failure can be
// told.
func TestAnswerHoldsTheHeader(t *testing.T) {
	w := httptest.NewRecorder()
	res := &http.Response{StatusCode: 200, Header: http.Header{"Etag": {`"a"`}}, ContentLength: -1, Body: &heldBody{}}
	err := hop.Answer(w, httptest.NewRequest("GET", "/", nil), res, hop.Options{})
	var failed *hop.CopyError
	if !errors.As(err, &failed) || !failed.Unsent || w.Flushed || len(w.Header()) != 0 {
		t.Errorf("%v, header %v", err, w.Header())
	}
}

// A short body that breaks off before its header went out leaves the writer as
// new, also when a part of it had come.
func TestShortBodyBreaks(t *testing.T) {
	w := httptest.NewRecorder()
	res := response(200, http.Header{"X-Some": {"1"}}, 100, broken{strings.NewReader("half")})
	err := hop.Answer(w, httptest.NewRequest(http.MethodGet, "/", nil), res, hop.Options{})
	var failed *hop.CopyError
	if !errors.As(err, &failed) || !failed.Unsent || w.Body.Len() > 0 || len(w.Header()) != 0 {
		t.Errorf("%v, body %q, header %v", err, w.Body, w.Header())
	}
}
