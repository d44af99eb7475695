package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// dialTLS opens a raw TLS connection to the edge for a server name.
func (c *crossing) dialTLS(t testing.TB, name string, protocols ...string) (*tls.Conn, error) {
	t.Helper()
	settings := c.tls(t)
	settings.ServerName, settings.NextProtos = name, protocols
	plain, err := net.DialTimeout("tcp", c.https, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { plain.Close() })
	_ = plain.SetDeadline(time.Now().Add(patience))
	conn := tls.Client(plain, settings)
	return conn, conn.Handshake()
}

// TestTLS: versions, names and protocols of the edge's own handshake.
func TestTLS(t *testing.T) {
	ca := newAuthority(t)
	c := newCrossing(t, spec{ca: ca, layout: oneProcess, sites: siteOf(newOrigin(t, ca, text("text/html", page))) + `
  - name: other
    hosts: {other.example.cn: https://other.example.org}
    tls: {cert: CERT, key: KEY}
`})
	for _, protocol := range []string{"h2", "http/1.1"} {
		conn, err := c.dialTLS(t, "example.cn", protocol)
		if err != nil || conn.ConnectionState().NegotiatedProtocol != protocol {
			t.Errorf("ALPN %s: %v, %s", protocol, err, conn.ConnectionState().NegotiatedProtocol)
		}
	}
	if conn, err := c.dialTLS(t, "example.cn"); err != nil || conn.ConnectionState().NegotiatedProtocol != "" {
		t.Errorf("a client without ALPN: %v", err)
	}

	if _, err := c.dialTLS(t, "example.com"); fmt.Sprint(err) != "remote error: tls: unrecognized name" {
		t.Errorf("an unknown server name: %v", err)
	}
	plain, err := net.Dial("tcp", c.https)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	old := tls.Client(plain, &tls.Config{RootCAs: ca.pool(t), ServerName: "example.cn", MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11})
	if err := old.Handshake(); fmt.Sprint(err) != "remote error: tls: protocol version not supported" {
		t.Errorf("TLS 1.1: %v", err)
	}

	for host, status := range map[string]int{"example.cn": 200, "EXAMPLE.cn.": 200, "a.example.cn": 200, "example.cn:443": 200,
		"other.example.cn": 421, "example.com": 421, "": 400, "127.0.0.1": 421, "example.cn:8443": 421} {
		for _, major := range []int{1, 2} {
			req := newRequest(t, http.MethodGet, "https://example.cn/", nil)
			if req.Host = host; host == "" {
				continue // net/http would fill it in; see the raw probes
			}
			if a := do(t, c.client(t, major), req); a.StatusCode != status {
				t.Errorf("HTTP %d, connection for example.cn, host %q: %s, want %d", major, host, a.Status, status)
			}
		}
	}
}

// TestPlainHTTP redirects, and keeps path, query and method.
func TestPlainHTTP(t *testing.T) {
	ca := newAuthority(t)
	c := newCrossing(t, spec{ca: ca, layout: oneProcess, sites: siteOf(newOrigin(t, ca, http.HandlerFunc(mirror)))})
	client := c.client(t, 1)
	for method, status := range map[string]int{"GET": 301, "HEAD": 301, "POST": 308} {
		a := do(t, client, newRequest(t, method, "http://a.example.cn/x%2Fy?q=%20&r", nil))
		if a.StatusCode != status || a.Header.Get("Location") != "https://a.example.cn/x%2Fy?q=%20&r" {
			t.Errorf("%s: %s to %s", method, a.Status, a.Header.Get("Location"))
		}
	}
	if a := do(t, client, newRequest(t, "GET", "http://example.org/", nil)); a.StatusCode != 421 {
		t.Errorf("a foreign host: %s", a.Status)
	}
}

// TestLimits: what takes too long or too much is refused.
func TestLimits(t *testing.T) {
	ca := newAuthority(t)
	c := newCrossing(t, spec{ca: ca, layout: oneProcess, sites: siteOf(newOrigin(t, ca, http.HandlerFunc(mirror))),
		more: "limits: {header_bytes: 8KiB, header_timeout: 300ms, idle_timeout: 300ms, body_timeout: 300ms, body_bytes: 1000}"})

	for _, major := range []int{1, 2} {
		client := c.client(t, major)
		if a := get(t, client, "https://example.cn/", "X-Large: "+strings.Repeat("x", 4<<10)); a.StatusCode != 200 {
			t.Errorf("HTTP %d, a header within the limit: %s", major, a.Status)
		}
		large := newRequest(t, "GET", "https://example.cn/", nil, "X-Large: "+strings.Repeat("x", 32<<10))
		if major == 2 { // the edge has said its limit, and the client keeps to it
			if _, err := client.Do(large); err == nil || !strings.Contains(err.Error(), "larger than peer's advertised limit") {
				t.Errorf("HTTP 2, a header over the limit: %v", err)
			}
		} else if a := do(t, client, large); a.StatusCode != 431 {
			t.Errorf("HTTP 1, a header over the limit: %s", a.Status)
		}
		for _, body := range []io.Reader{strings.NewReader(strings.Repeat("x", 1001)), struct{ io.Reader }{strings.NewReader(strings.Repeat("x", 1001))}} {
			if a := do(t, client, newRequest(t, "POST", "https://example.cn/", body)); a.StatusCode != 413 {
				t.Errorf("HTTP %d, a body over the limit: %s", major, a.Status)
			}
		}
		body, send := io.Pipe()
		go func() { _, _ = send.Write([]byte("begun")) }()
		if a := do(t, client, newRequest(t, "POST", "https://example.cn/slow", body)); a.StatusCode != 408 {
			t.Errorf("HTTP %d, a body that stops: %s %s %+v", major, a.Status, a.body, c.edge.record(t, "/slow"))
		}
		send.Close()
	}

	for name, sent := range map[string]string{
		"nothing":       "",
		"half a header": "GET / HTTP/1.1\r\nHost: example.cn\r\nX-Slow: ",
		"idle":          "GET / HTTP/1.1\r\nHost: example.cn\r\n\r\n",
	} {
		conn, err := c.dialTLS(t, "example.cn", "http/1.1")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(conn, sent); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn) // ends because the edge closes
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		wantAnswer := name == "idle"
		if got := strings.HasPrefix(string(answer), "HTTP/1.1 200 "); got != wantAnswer {
			t.Errorf("%s: answered %q", name, answer)
		}
	}
}

// TestErrorPage: what a visitor is told when the origin fails names the request
// and nothing of the inside.
func TestErrorPage(t *testing.T) {
	hang := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	for _, layout := range layouts {
		t.Run(string(layout), func(t *testing.T) {
			ca, stranger := newAuthority(t), newAuthority(t)
			// Refuses connections, is silent, speaks another protocol, has a
			// certificate of another authority.
			dead, silent, strange, untrusted := freeAddress(t), newOrigin(t, ca, hang), notHTTP(t), newOrigin(t, stranger, hang)
			c := newCrossing(t, spec{layout: layout, ca: ca, more: "limits: {origin_timeout: 300ms}", sites: fmt.Sprintf(`
  - name: site
    hosts:
      dead.example.cn: {to: https://dead.example.com, connect: [%q]}
      silent.example.cn: {to: https://silent.example.com, connect: [%q]}
      strange.example.cn: {to: http://strange.example.com, connect: [%q]}
      untrusted.example.cn: {to: https://untrusted.example.com, connect: [%q]}
    origin: {tls: {ca: CA}}
    tls: {cert: CERT, key: KEY}
    headers: {request_id: true}
`, dead, silent, strange, untrusted)})
			for _, major := range []int{1, 2} {
				for host, want := range map[string]struct {
					status int
					kind   string
				}{"dead": {502, "origin_dial"}, "silent": {504, "origin_slow"}, "strange": {502, "origin_bad"}, "untrusted": {502, "origin_tls"}} {
					path := fmt.Sprint("/", host, major)
					a := get(t, c.client(t, major), "https://"+host+".example.cn"+path)
					r := c.edge.record(t, path)
					if a.StatusCode != want.status || r.Status != want.status || r.Kind != want.kind || r.Err == "" {
						t.Errorf("%s: %s, record %+v", host, a.Status, r)
					}
					body := string(a.body)
					if !strings.Contains(body, r.ID) || !strings.HasPrefix(a.Header.Get("Content-Type"), "text/html") || a.Header.Get("Cache-Control") != "no-store" {
						t.Errorf("%s: the page does not name the request %s:\n%s\n%v", host, r.ID, body, a.Header)
					}
					for _, inside := range []string{"example.com", "127.0.0.1", "relay", "edge-1", "dial", "origin", "goroutine", want.kind} {
						if strings.Contains(strings.ToLower(body), inside) {
							t.Errorf("%s: the page names %s:\n%s", host, inside, body)
						}
					}
				}
			}
		})
	}
}

// notHTTP listens and answers every connection with something else.
func notHTTP(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = bufio.NewReader(conn).ReadString('\n')
			_, _ = io.WriteString(conn, "220 mail.example.com ESMTP\r\n")
			conn.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String()
}
