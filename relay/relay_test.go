package relay_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"causeway/cert"
	"causeway/config"
	"causeway/hop"
	"causeway/outcome"
	"causeway/relay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// origin is a TLS origin with a certificate for example.com and its subdomains.
type origin struct {
	*httptest.Server
	ca string
}

func newOrigin(t *testing.T, handler http.HandlerFunc) *origin {
	t.Helper()
	dir := t.TempDir()
	authority, err := cert.OpenAuthority(dir, "test origin")
	if err != nil {
		t.Fatal(err)
	}
	if err := authority.Issue(dir, "origin", []string{"example.com", "*.example.com"}); err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "origin.pem"), filepath.Join(dir, "origin.key"))
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(handler)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.EnableHTTP2 = true
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	return &origin{server, authority.CertFile()}
}

func (o *origin) address() string { return o.Listener.Addr().String() }

// newRelay makes a relay for one site whose origin.* keys are given.
func newRelay(t *testing.T, originKeys, more string) *relay.Server {
	t.Helper()
	text := fmt.Sprintf(`
listen: {https: "127.0.0.1:0"}
sites:
  - name: shop
    hosts: {example.cn: https://example.com, "*.example.cn": https://*.example.com}
    origin: {%s}
    tls: {cert: example.cn.pem, key: example.cn.key}
    routes:
      - {path: /stay*, stay: cn, origin: "http://127.0.0.9:1"}
%s`, originKeys, more)
	cfg, err := config.Parse("causeway.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	server, err := relay.New(cfg, relay.Options{Sink: outcome.Sinks{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Close)
	return server
}

func (o *origin) keys() string {
	return fmt.Sprintf("connect: [%q], tls: {ca: %q}", o.address(), o.ca)
}

func request(t *testing.T, method, url string, body io.Reader) *http.Request {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

func fetch(t *testing.T, r http.RoundTripper, req *http.Request) (*http.Response, string) {
	t.Helper()
	res, err := r.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res, string(body)
}

// The origin sees its own names, the client the public ones.
func TestNamesBothWays(t *testing.T) {
	var saw []string
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		saw = []string{r.Host, r.TLS.ServerName, r.RequestURI, r.Header.Get("Origin"), r.Header.Get("Referer")}
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Location", "https://login.example.com/in")
		fmt.Fprint(w, "<a href='https://a.example.com/'>")
	})
	r := newRelay(t, o.keys(), "")
	req := request(t, "GET", "https://a.example.cn/x%2Fy?return=https%3A%2F%2Fexample.cn%2F", nil)
	req.Header.Set("Origin", "https://example.cn")
	req.Header.Set("Referer", "https://example.cn/from")
	res, body := fetch(t, r, req)
	want := []string{"a.example.com", "a.example.com", "/x%2Fy?return=https%3A%2F%2Fexample.com%2F", "https://example.com", "https://example.com/from"}
	if !slices.Equal(saw, want) {
		t.Errorf("the origin saw %q, want %q", saw, want)
	}
	if body != "<a href='https://a.example.cn/'>" || res.Header.Get("Location") != "https://login.example.cn/in" {
		t.Errorf("the client got %q, %v", body, res.Header)
	}
}

// Failures have the kind that says where to look.
func TestFailureKinds(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/hang":
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		case "/drop":
			panic(http.ErrAbortHandler)
		case "/half":
			_, _ = io.WriteString(w, "<html>half")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		case "/stop":
			_, _ = io.WriteString(w, "<html>some")
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
		case "/false-gzip":
			w.Header().Set("Content-Type", "text/html")
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = io.WriteString(w, strings.Repeat("this is not gzip ", 10000))
		}
	})
	other := newOrigin(t, func(http.ResponseWriter, *http.Request) {})
	refused, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := refused.Addr().String()
	refused.Close()
	short := "limits: {origin_timeout: 200ms, origin_idle_timeout: 200ms, connect_timeout: 2s}"
	for _, c := range []struct {
		what, keys, url string
		kind            outcome.Kind
	}{
		{"another authority", fmt.Sprintf("connect: [%q], tls: {ca: %q}", o.address(), other.ca), "https://example.cn/", outcome.OriginTLS},
		{"another name", o.keys(), "https://a.b.example.cn/", outcome.OriginTLS},
		{"nobody listens", fmt.Sprintf("connect: [%q]", closed), "https://example.cn/", outcome.OriginDial},
		{"no such name", `connect: ["no-such-name.invalid:443"]`, "https://example.cn/", outcome.OriginName},
		{"no answer", o.keys(), "https://example.cn/hang", outcome.OriginSlow},
		{"dropped", o.keys(), "https://example.cn/drop", outcome.OriginCut},
		{"half a body", o.keys(), "https://example.cn/half", outcome.OriginCut},
		{"a body that stops", o.keys(), "https://example.cn/stop", outcome.OriginSlow},
		{"false gzip", o.keys(), "https://example.cn/false-gzip", outcome.Unprocessed},
		{"a host that is not ours", o.keys(), "https://example.org/", outcome.HostUnknown},
		{"a route that stays", o.keys(), "https://example.cn/stay/1", outcome.Stays},
	} {
		t.Run(c.what, func(t *testing.T) {
			r := newRelay(t, c.keys, short)
			req := request(t, "GET", c.url, nil)
			req.Header.Set("Accept-Encoding", "gzip")
			res, err := r.RoundTrip(req)
			if err == nil {
				_, err = io.Copy(io.Discard, res.Body)
				res.Body.Close()
			}
			if got := outcome.KindOf(err); got != c.kind {
				t.Errorf("got kind %q (%v), want %q", got, err, c.kind)
			}
		})
	}
}

// An address that fails is left out; the other serves at once.
func TestDeadAddressIsLeftOut(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("Connection", "close") })
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var knocks atomic.Int32
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := dead.Accept()
			if err != nil {
				return
			}
			knocks.Add(1)
			conn.Close() // the handshake fails
		}
	}()
	defer func() { dead.Close(); <-done }()
	r := newRelay(t, fmt.Sprintf("connect: [%q, %q], tls: {ca: %q}", dead.Addr().String(), o.address(), o.ca), "")
	for range 10 {
		res, _ := fetch(t, r, request(t, "GET", "https://example.cn/", nil))
		if res.StatusCode != 200 {
			t.Fatalf("got %s", res.Status)
		}
		r.Close() // the next request dials again
	}
	if n := knocks.Load(); n != 1 {
		t.Errorf("the dead address was tried %d times in 10 dials, want once", n)
	}
}

// Requests take the addresses of origin.connect by turns, also where one
// connection could carry them all.
func TestAddressesByTurns(t *testing.T) {
	var served [2]atomic.Int32
	first := newOrigin(t, func(_ http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("came with %s", r.Proto)
		}
		served[0].Add(1)
	})
	second := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served[1].Add(1) }))
	second.TLS, second.EnableHTTP2 = first.TLS.Clone(), true
	second.StartTLS()
	defer second.Close()
	r := newRelay(t, fmt.Sprintf("connect: [%q, %q], tls: {ca: %q}", first.address(), second.Listener.Addr(), first.ca), "")
	for range 20 {
		fetch(t, r, request(t, "GET", "https://example.cn/", nil))
	}
	if a, b := served[0].Load(), served[1].Load(); a != 10 || b != 10 {
		t.Errorf("served %d and %d", a, b)
	}
}

// A part of a text that is rewritten has wrong offsets: the whole is fetched.
// A part of anything else passes.
func TestRanges(t *testing.T) {
	page := strings.Repeat("<a href='https://example.com/'>", 40)
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		kind := "text/html"
		if r.URL.Path == "/image" {
			kind = "image/png"
		}
		w.Header().Set("Content-Type", kind)
		http.ServeContent(w, r, "", time.Time{}, strings.NewReader(page))
	})
	r := newRelay(t, o.keys(), "")
	for _, c := range []struct {
		path   string
		status int
		body   string
	}{
		{"/page", 200, strings.ReplaceAll(page, "example.com", "example.cn")},
		{"/image", 206, page[:100]},
	} {
		req := request(t, "GET", "https://example.cn"+c.path, nil)
		req.Header.Set("Range", "bytes=0-99")
		res, body := fetch(t, r, req)
		if res.StatusCode != c.status || body != c.body {
			t.Errorf("%s: got %s, %d bytes", c.path, res.Status, len(body))
		}
	}
}

// A 101 is joined with the origin's connection, half-close included.
func TestUpgrade(t *testing.T) {
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		if hop.UpgradeOf(r.Header) != "chat" || r.Host != "example.com" {
			t.Errorf("the origin saw %v", r.Header)
		}
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: chat\r\nLink: <https://example.com/a.css>\r\n\r\n")
		all, err := io.ReadAll(buffered) // until the other end's half-close
		if err != nil {
			t.Errorf("origin read: %v", err)
		}
		_, _ = conn.Write(bytes.ToUpper(all))
	})
	r := newRelay(t, o.keys(), "")
	req := request(t, "GET", "https://example.cn/live", nil)
	req.Header.Set("Connection", "Upgrade")
	req.Header.Set("Upgrade", "chat")
	res, err := r.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if res.StatusCode != 101 || res.Header.Get("Link") != "<https://example.cn/a.css>" {
		t.Fatalf("got %s %v", res.Status, res.Header)
	}
	stream := res.Body.(io.ReadWriteCloser)
	if _, err := io.WriteString(stream, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := stream.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(stream); err != nil || string(got) != "HELLO" {
		t.Errorf("got %q, %v", got, err)
	}
}

// When the client leaves, the origin's request ends.
func TestClientGone(t *testing.T) {
	gone := make(chan struct{})
	o := newOrigin(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
		close(gone)
	})
	r := newRelay(t, o.keys(), "")
	ctx, cancel := context.WithCancel(t.Context())
	res, err := r.RoundTrip(request(t, "GET", "https://example.cn/", nil).WithContext(ctx))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	_, err = io.ReadAll(res.Body)
	res.Body.Close()
	if outcome.KindOf(err) != outcome.ClientGone || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	<-gone
}

// A reload that does not touch an origin keeps its connections.
func TestSwapKeepsConnections(t *testing.T) {
	var clients sync.Map // the addresses that connections came from
	o := newOrigin(t, func(_ http.ResponseWriter, r *http.Request) { clients.Store(r.RemoteAddr, true) })
	text := fmt.Appendf(nil, `
listen: {http: "127.0.0.1:0"}
sites:
  - {name: shop, hosts: {example.cn: https://example.com}, origin: {%s}, http: serve}
`, o.keys())
	load := func() *config.Config {
		cfg, err := config.Parse("causeway.yaml", text)
		if err != nil {
			t.Fatal(err)
		}
		return cfg
	}
	r, err := relay.New(load(), relay.Options{Sink: outcome.Sinks{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	fetch(t, r, request(t, "GET", "https://example.cn/", nil))
	if err := r.Swap(load()); err != nil {
		t.Fatal(err)
	}
	fetch(t, r, request(t, "GET", "https://example.cn/", nil))
	opened := 0
	clients.Range(func(any, any) bool { opened++; return true })
	if opened != 1 {
		t.Errorf("%d connections, want the same one", opened)
	}
}
