package daemon_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"causeway/cert"
)

// crossing3 is a file without nodes, with HTTP/3, and what the origin was asked.
type crossing3 struct {
	*node
	https string
	roots *x509.CertPool
	seen  chan *http.Request
	hold  chan struct{} // /hold answers when something comes
	text  func(h3 bool, limits string) string
}

func newCrossing3(t *testing.T, limits string) *crossing3 {
	t.Helper()
	c := &crossing3{roots: x509.NewCertPool(), seen: make(chan *http.Request, 100), hold: make(chan struct{})}
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		c.seen <- r
		w.Header().Set("Content-Type", "text/plain")
		switch r.URL.Path {
		case "/hold":
			w.WriteHeader(http.StatusOK)
			_ = http.NewResponseController(w).Flush()
			<-c.hold
		case "/long":
			_, _ = w.Write(bytes.Repeat([]byte("0123456789abcdef"), 1<<18))
			return
		case "/early":
			w.Header().Set("Link", "</a.css>; rel=preload")
			w.WriteHeader(http.StatusEarlyHints)
		}
		fmt.Fprintf(w, "%s %d %s", r.Method, len(body), r.Trailer.Get("Sum"))
	}))
	t.Cleanup(origin.Close)
	dir := t.TempDir()
	authority, err := cert.OpenAuthority(dir, "test")
	if err != nil {
		t.Fatal(err)
	}
	for name, hosts := range map[string][]string{"shop": {"example.cn", "*.example.cn"}, "other": {"other.cn"}} {
		if err := authority.Issue(dir, name, hosts); err != nil {
			t.Fatal(err)
		}
	}
	pem, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	c.roots.AppendCertsFromPEM(pem)
	addresses := freeAddresses(t, 3)
	plain, admin := addresses[1], addresses[2]
	c.https = addresses[0]
	c.text = func(h3 bool, limits string) string {
		return fmt.Sprintf(`listen: {http: %q, https: %q, h3: %v, admin: %q}
limits: {%s}
cache: off
sites:
  - {name: shop, hosts: {example.cn: %q}, tls: {cert: shop.pem, key: shop.key}, http: serve}
  - {name: other, hosts: {other.cn: "http://127.0.0.1:1"}, tls: {cert: other.pem, key: other.key}}
`, plain, c.https, h3, admin, limits, origin.URL)
	}
	file := filepath.Join(dir, "causeway.yaml")
	write(t, file, c.text(true, limits))
	c.node = start(t, file, "")
	return c
}

// freeAddresses are different ones, that nobody listened on a moment ago.
func freeAddresses(t *testing.T, n int) (list []string) {
	t.Helper()
	for range n {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		list = append(list, ln.Addr().String())
	}
	return list
}

// client3 is a client that speaks HTTP/3 alone, on connections of its own.
func (c *crossing3) client3(t *testing.T) *http.Client { return c.patient3(t, 5*time.Second) }

// patient3 is one that waits so long for an answer to its hello.
func (c *crossing3) patient3(t *testing.T, patience time.Duration) *http.Client {
	t.Helper()
	transport := &http3.Transport{
		TLSClientConfig: &tls.Config{RootCAs: c.roots},
		QUICConfig:      &quic.Config{HandshakeIdleTimeout: patience},
		Dial: func(ctx context.Context, _ string, settings *tls.Config, config *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, c.https, settings, config)
		},
	}
	t.Cleanup(func() { transport.Close() })
	return &http.Client{Transport: transport}
}

// client2 is one of TCP.
func (c *crossing3) client2(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: c.roots}, ForceAttemptHTTP2: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "tcp", c.https)
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// ask is a request and the whole answer.
func ask(client *http.Client, method, url string, body io.Reader) (*http.Response, string, error) {
	r, err := http.NewRequest(method, url, body)
	if err != nil {
		return nil, "", err
	}
	return do(client, r)
}

// do is client.Do, and reads the answer.
func do(client *http.Client, r *http.Request) (*http.Response, string, error) {
	answer, err := client.Do(r)
	if err != nil {
		return nil, "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	return answer, string(text), err
}

func mustAsk(t *testing.T, client *http.Client, method, url string, body io.Reader) (*http.Response, string) {
	t.Helper()
	answer, text, err := ask(client, method, url, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return answer, text
}

// TestH3 holds that requests over HTTP/3 are as any others.
func TestH3(t *testing.T) {
	c := newCrossing3(t, "body_bytes: 1MiB, header_bytes: 8KiB")
	client := c.client3(t)

	answer, text := mustAsk(t, client, "GET", "https://example.cn/", nil)
	if answer.Proto != "HTTP/3.0" || answer.StatusCode != 200 || text != "GET 0 " {
		t.Errorf("%s %d %q", answer.Proto, answer.StatusCode, text)
	}
	if got := answer.Header.Get("Alt-Svc"); got != `h3=":443"; ma=3600` {
		t.Errorf("Alt-Svc %q", got)
	}
	if r := <-c.seen; len(r.TransferEncoding) > 0 || r.ContentLength != 0 {
		t.Errorf("a GET came to the origin with a body: %v, %d", r.TransferEncoding, r.ContentLength)
	}
	until(t, "the access log has it", func() bool {
		log := c.access.String()
		return strings.Contains(log, `"proto":"HTTP/3.0"`) && strings.Contains(log, `"scheme":"https"`) && strings.Contains(log, `"client":"127.0.0.1"`)
	})

	for _, test := range []struct {
		method string
		body   io.Reader
		want   string
	}{
		{"POST", strings.NewReader("four"), "POST 4 "},
		{"POST", io.MultiReader(strings.NewReader("se"), strings.NewReader("ven..")), "POST 7 "}, // without a length
		{"POST", nil, "POST 0 "},
		{"DELETE", nil, "DELETE 0 "},
		{"DELETE", io.MultiReader(strings.NewReader("five.")), "DELETE 5 "},
		{"PUT", bytes.NewReader(make([]byte, 1<<20)), "PUT 1048576 "},
		{"HEAD", nil, ""},
	} {
		if answer, text := mustAsk(t, client, test.method, "https://example.cn/x", test.body); text != test.want || answer.StatusCode != 200 {
			t.Errorf("%s: %d %q, want %q", test.method, answer.StatusCode, text, test.want)
		}
		<-c.seen
	}
	if _, text := mustAsk(t, client, "GET", "https://example.cn/long", nil); len(text) != 4<<20 {
		t.Errorf("%d bytes", len(text))
	}
	mustAsk(t, client, "GET", "https://example.cn/early", nil)

	r, _ := http.NewRequest("POST", "https://example.cn/", io.MultiReader(strings.NewReader("body")))
	r.Trailer = http.Header{"Sum": nil}
	r.Body = trailed{r.Body, r.Trailer}
	if _, text, err := do(client, r); err != nil || text != "POST 4 42" {
		t.Errorf("trailers: %q, %v", text, err)
	}

	if answer, _ := mustAsk(t, client, "POST", "https://example.cn/", bytes.NewReader(make([]byte, 1<<20+1))); answer.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("too long a body: %d", answer.StatusCode)
	}
	r, _ = http.NewRequest("GET", "https://example.cn/", nil)
	r.Header.Set("X-Large", strings.Repeat("x", 9<<10))
	if answer, _, err := do(client, r); err != nil || answer.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("too long a header: %v, %v", answer, err)
	}
	r, _ = http.NewRequest("CONNECT", "https://example.cn/", nil)
	if answer, _, err := do(client, r); err == nil && answer.StatusCode < 400 {
		t.Errorf("CONNECT: %d", answer.StatusCode)
	}
	// Another site's name on a connection that was not made for it.
	r, _ = http.NewRequest("GET", "https://example.cn/", nil)
	r.Host = "other.cn"
	if answer, _, err := do(client, r); err != nil || answer.StatusCode != http.StatusMisdirectedRequest || answer.Header.Get("Alt-Svc") != "" {
		t.Errorf("another site: %v, %v", answer, err)
	}
	if _, _, err := ask(client, "GET", "https://unknown.cn/", nil); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("a name of no site: %v", err)
	}

	// Where it is announced.
	if answer, _ := mustAsk(t, c.client2(t), "GET", "https://example.cn/", nil); answer.ProtoMajor != 2 || answer.Header.Get("Alt-Svc") != `h3=":443"; ma=3600` {
		t.Errorf("over TCP: %s %v", answer.Proto, answer.Header)
	}
	plain := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "tcp", plainOf(c))
	}}}
	if answer, _, err := ask(plain, "GET", "http://example.cn/", nil); err != nil {
		t.Error(err)
	} else if answer.StatusCode != 200 || answer.Header.Get("Alt-Svc") != "" {
		t.Errorf("over plain HTTP: %d %v", answer.StatusCode, answer.Header)
	}
}

// plainOf is the address of plain HTTP.
func plainOf(c *crossing3) string {
	_, rest, _ := strings.Cut(c.text(true, ""), `http: "`)
	address, _, _ := strings.Cut(rest, `"`)
	return address
}

// trailed sets a trailer when the body is read.
type trailed struct {
	io.ReadCloser
	trailer http.Header
}

func (b trailed) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF {
		b.trailer["Sum"] = []string{"42"}
	}
	return n, err
}

// TestH3Reload holds that a reload loses neither the socket nor a connection, and
// what turning HTTP/3 on and off does.
func TestH3Reload(t *testing.T) {
	c := newCrossing3(t, "")
	client := c.client3(t)
	mustAsk(t, client, "GET", "https://example.cn/", nil)
	held := make(chan string, 1)
	go func() {
		_, text, err := ask(client, "GET", "https://example.cn/hold", nil)
		held <- fmt.Sprint(text, err)
	}()
	for r := range c.seen {
		if r.URL.Path == "/hold" {
			break
		}
	}
	for i, limits := range []string{"header_bytes: 8KiB", "", "idle_timeout: 2s"} {
		write(t, c.file, c.text(true, limits))
		if err := c.Reload(); err != nil {
			t.Fatal(err)
		}
		mustAsk(t, client, "GET", "https://example.cn/", nil)       // the connection of before
		mustAsk(t, c.client3(t), "GET", "https://example.cn/", nil) // a new one
		large, _ := http.NewRequest("GET", "https://example.cn/", nil)
		large.Header.Set("X-Large", strings.Repeat("x", 9<<10))
		answer, _, err := do(c.client3(t), large)
		if want := map[bool]int{true: 431, false: 200}[i == 0]; err != nil || answer.StatusCode != want {
			t.Errorf("with %q: %v, %v", limits, answer, err)
		}
	}
	write(t, c.file, c.text(false, ""))
	if err := c.Reload(); err != nil {
		t.Fatal(err)
	}
	if answer, _ := mustAsk(t, c.client2(t), "GET", "https://example.cn/", nil); answer.Header.Get("Alt-Svc") != "" {
		t.Errorf("off, and announced: %v", answer.Header)
	}
	if _, _, err := ask(c.patient3(t, 300*time.Millisecond), "GET", "https://example.cn/", nil); err == nil {
		t.Error("off, and served")
	}
	c.hold <- struct{}{} // the request under way ends well
	if got := <-held; got != "GET 0 <nil>" {
		t.Errorf("held: %s", got)
	}
	client.CloseIdleConnections()
	write(t, c.file, c.text(true, ""))
	for { // the old socket closes when its connections have ended
		err := c.Reload()
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), "listen for h3: ") {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	mustAsk(t, c.client3(t), "GET", "https://example.cn/", nil)
}

// TestH3Drain holds that requests end when the node stops, and idle connections
// do not hold it up.
func TestH3Drain(t *testing.T) {
	c := newCrossing3(t, "drain_timeout: 1m")
	client, idle := c.client3(t), c.client3(t)
	mustAsk(t, idle, "GET", "https://example.cn/", nil)
	held := make(chan string, 1)
	go func() {
		_, text, err := ask(client, "GET", "https://example.cn/hold", nil)
		held <- fmt.Sprint(text, err)
	}()
	for r := range c.seen {
		if r.URL.Path == "/hold" {
			break
		}
	}
	stopped := make(chan error, 1)
	go func() { stopped <- c.stop() }()
	for { // until nothing new is taken
		if _, _, err := ask(c.patient3(t, 300*time.Millisecond), "GET", "https://example.cn/", nil); err != nil {
			break
		}
		<-c.seen
	}
	c.hold <- struct{}{}
	if got := <-held; got != "GET 0 <nil>" {
		t.Errorf("held: %s", got)
	}
	begun := time.Now()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if took := time.Since(begun); took > 30*time.Second { // of the minute that it may take
		t.Errorf("idle connections held the node up for %v", took)
	}
}

// TestH3DrainHasALimit holds that a request that does not end is cut.
func TestH3DrainHasALimit(t *testing.T) {
	c := newCrossing3(t, "drain_timeout: 100ms")
	held := make(chan error, 1)
	client := c.client3(t)
	go func() {
		_, _, err := ask(client, "GET", "https://example.cn/hold", nil)
		held <- err
	}()
	<-c.seen
	if err := c.stop(); err != nil {
		t.Error(err)
	}
	if err := <-held; err == nil {
		t.Error("the request ended well")
	}
	c.hold <- struct{}{}
}

// TestH3Limits holds the limits that are HTTP/3's own to keep.
func TestH3Limits(t *testing.T) {
	c := newCrossing3(t, "connections: 2, idle_timeout: 300ms, header_timeout: 2s, body_timeout: 200ms")
	dial := func() (*quic.Conn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return quic.DialAddr(ctx, c.https, &tls.Config{RootCAs: c.roots, ServerName: "example.cn", NextProtos: []string{"h3"}}, &quic.Config{KeepAlivePeriod: 50 * time.Millisecond})
	}
	ended := func(conn *quic.Conn) { <-conn.Context().Done() } // the test's timeout ends this

	one, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	two, err := dial()
	if err != nil {
		t.Fatal(err)
	}
	if three, err := dial(); err == nil {
		three.CloseWithError(0, "")
		t.Error("three connections where two may be")
	}
	ended(one) // idle, though it sends packets
	stalled, err := two.OpenStreamSync(t.Context())
	if err == nil { // a header that does not come: HEADERS, 1000 bytes, and three of them
		_, _ = stalled.Write([]byte{0x01, 0x43, 0xe8, 0, 0, 0xd1})
	}
	ended(two)
	if _, _, err := ask(c.client3(t), "GET", "https://example.cn/", nil); err != nil {
		t.Errorf("places are not given back: %v", err)
	}

	slow, in := io.Pipe()
	defer in.Close()
	go func() { _, _ = in.Write([]byte("a")) }()
	answer, _, err := ask(c.client3(t), "POST", "https://example.cn/", slow)
	if err != nil || answer.StatusCode != http.StatusRequestTimeout {
		t.Errorf("a slow body: %v, %v", answer, err)
	}
	until(t, "the access log says that the client was slow", func() bool { return strings.Contains(c.access.String(), "client_slow") })
}

// TestH3Flood holds that packets that are none, and handshakes that go nowhere,
// do not keep visitors out.
func TestH3Flood(t *testing.T) {
	c := newCrossing3(t, "connections: 300, header_timeout: 1s")
	socket, err := net.Dial("udp", c.https)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	packet := make([]byte, 1200)
	for i := range 5000 {
		_, _ = rand.Read(packet)
		switch i % 3 {
		case 0: // a long header of version 1 and type Initial, rubbish behind it
			copy(packet, []byte{0xc3, 0, 0, 0, 1, 8})
			packet[14], packet[15] = 0, 0
			copy(packet[16:], []byte{0x44, 0x90})
		case 1: // a version that nobody knows
			copy(packet, []byte{0xc0, 0x1a, 0x2a, 0x3a, 0x4a, 8})
		}
		size := 1200
		if i%3 != 0 {
			size -= i % 7 * 100
		}
		_, _ = socket.Write(packet[:size])
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			if _, _, err := ask(c.client3(t), "GET", "https://example.cn/", nil); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// TestH3NoEarlyData holds that a request that could be played again is not taken.
func TestH3NoEarlyData(t *testing.T) {
	c := newCrossing3(t, "")
	sessions := tls.NewLRUClientSessionCache(1)
	for i := range 2 {
		conn, err := quic.DialAddrEarly(t.Context(), c.https, &tls.Config{RootCAs: c.roots, ServerName: "example.cn", NextProtos: []string{"h3"}, ClientSessionCache: sessions}, nil)
		if err != nil {
			t.Fatal(err)
		}
		<-conn.HandshakeComplete()
		client := (&http3.Transport{}).NewClientConn(conn)
		r, _ := http.NewRequestWithContext(t.Context(), "GET", "https://example.cn/", nil)
		answer, err := client.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		answer.Body.Close()
		state := conn.ConnectionState()
		if state.Used0RTT || state.TLS.DidResume != (i == 1) {
			t.Errorf("connection %d: 0-RTT %v, resumed %v", i, state.Used0RTT, state.TLS.DidResume)
		}
		_ = conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
	}
}

// TestH3Busy holds that a UDP port that another has is an error that says so.
func TestH3Busy(t *testing.T) {
	c := newCrossing3(t, "")
	write(t, c.file, c.text(false, ""))
	if err := c.Reload(); err != nil {
		t.Fatal(err)
	}
	var socket net.PacketConn
	for {
		var err error
		if socket, err = net.ListenPacket("udp", c.https); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	defer socket.Close()
	write(t, c.file, c.text(true, ""))
	if err := c.Reload(); err == nil || !strings.Contains(err.Error(), "listen for h3: listen udp "+c.https) {
		t.Errorf("%v", err)
	}
	if answer, _ := mustAsk(t, c.client2(t), "GET", "https://example.cn/", nil); answer.Header.Get("Alt-Svc") != "" {
		t.Errorf("announced: %v", answer.Header)
	}
}

// TestH3PassesNothing holds that a site that passes through stays with TCP, beside
// one that is served over HTTP/3.
func TestH3PassesNothing(t *testing.T) {
	p := newPassing(t, "", `
  - {name: other, hosts: {other.cn: "http://origin.invalid"}, tls: {cert: other.pem, key: other.key}}
`)
	write(t, p.files[0], strings.Replace(p.text, "listen: {https:", "listen: {h3: true, https:", 1))
	if err := p.edge.Reload(); err != nil {
		t.Fatal(err)
	}
	c := &crossing3{https: p.address, roots: p.roots}
	client := c.client3(t)
	if answer, _ := mustAsk(t, client, "GET", "https://other.cn/", nil); answer.ProtoMajor != 3 || answer.Header.Get("Alt-Svc") == "" {
		t.Errorf("the site that ends here: %s %v", answer.Proto, answer.Header)
	}
	if _, _, err := ask(client, "GET", "https://example.cn/", nil); err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("the site that passes through: %v", err)
	}
	r, _ := http.NewRequest("GET", "https://other.cn/", nil)
	r.Host = "example.cn"
	if answer, _, err := do(client, r); err != nil || answer.StatusCode != http.StatusMisdirectedRequest || answer.Header.Get("Alt-Svc") != "" {
		t.Errorf("its name on another's connection: %v, %v", answer, err)
	}
	for host, announced := range map[string]bool{"other.cn": true, "example.cn": false} {
		if answer, _ := mustAsk(t, p.client(t), "GET", "https://"+host+"/", nil); (answer.Header.Get("Alt-Svc") != "") != announced {
			t.Errorf("%s over TCP: %v", host, answer.Header)
		}
	}
}
