package daemon_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"causeway/cert"
)

// passing is a crossing whose edge has no key of the site that passes through.
type passing struct {
	edge, relay *node
	address     string // https of the edge
	linkAddress string // of the relay
	admin       string // of the edge
	roots       *x509.CertPool
	seen        chan *http.Request // what the origin was asked
	files       [2]string          // of the edge, of the relay
	text        string             // of both
}

// newPassing starts it. more is what sites there are besides shop.
func newPassing(t *testing.T, shop, more string) *passing {
	t.Helper()
	p := &passing{address: freeAddress(t), admin: freeAddress(t), roots: x509.NewCertPool(), seen: make(chan *http.Request, 100)}
	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.seen <- r
		if r.URL.Path == "/long" {
			_, _ = w.Write(bytes.Repeat([]byte("0123456789abcdef"), 1<<18))
			return
		}
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("Content-Type", "text/html")
		fmt.Fprintf(w, `<a href="http://%s/here">%s</a>`, r.Host, body)
	}))
	t.Cleanup(origin.Close)
	there, here := t.TempDir(), t.TempDir() // the relay's folder, and the edge's
	authority, err := cert.OpenAuthority(filepath.Join(there, "pki"), "test")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"edge-1", "relay-1"} {
		if err := authority.Issue(filepath.Join(there, "pki"), name, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := authority.Issue(there, "shop", []string{"example.cn", "*.example.cn"}); err != nil {
		t.Fatal(err)
	}
	if err := authority.Issue(here, "other", []string{"other.cn"}); err != nil {
		t.Fatal(err)
	}
	pem, err := os.ReadFile(filepath.Join(there, "pki", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	p.roots.AppendCertsFromPEM(pem)
	if err := os.Mkdir(filepath.Join(here, "pki"), 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"ca.pem", "edge-1.pem", "edge-1.key"} {
		data, err := os.ReadFile(filepath.Join(there, "pki", name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(here, "pki", name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	p.linkAddress = freeAddress(t)
	p.text = fmt.Sprintf(`
sites:
  - {name: shop, entry: passthrough, hosts: {example.cn: %q, "*.example.cn": "http://*.example.com"}, tls: {cert: shop.pem, key: shop.key}%s}
%spki: pki
nodes:
  - {name: edge-1, role: edge, region: cn, listen: {https: %q, admin: %q}}
  - {name: relay-1, role: relay, region: us, listen: {link: %q}, address: %q}
`, origin.URL, shop, more, p.address, p.admin, p.linkAddress, p.linkAddress)
	for i, dir := range []string{here, there} {
		p.files[i] = filepath.Join(dir, "causeway.yaml")
		write(t, p.files[i], p.text)
	}
	p.relay = start(t, p.files[1], "relay-1")
	p.edge = start(t, p.files[0], "edge-1")
	until(t, "the link is up", func() bool { return p.edge.Ready() == nil })
	return p
}

// client asks for hosts at the edge, from 127.0.0.9.
func (p *passing) client(t *testing.T, protocols ...string) *http.Client {
	transport := &http.Transport{
		ForceAttemptHTTP2: len(protocols) == 0 || protocols[0] == "h2",
		TLSClientConfig:   &tls.Config{RootCAs: p.roots, NextProtos: protocols},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 9)}}
			made, err := dialer.DialContext(ctx, "tcp", p.address)
			if err != nil {
				return nil, err
			}
			return politely{made.(*net.TCPConn)}, nil
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second}
}

// politely is a connection that reads what still comes before it is closed: a
// close_notify that nobody has read would make its close a reset.
type politely struct{ *net.TCPConn }

func (c politely) Close() error {
	_ = c.CloseWrite()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, _ = io.Copy(io.Discard, c.TCPConn)
	return c.TCPConn.Close()
}

// counted is causeway_passed_bytes_total of the edge, out to visitors of shop.
func (p *passing) counted() (n float64) {
	_, _ = fmt.Sscan(p.metric(`causeway_passed_bytes_total{direction="out",site="shop"}`), &n)
	return n
}

// metric is what the edge says of a series; "" when it says nothing.
func (p *passing) metric(series string) string {
	res, err := http.Get("http://" + p.admin + "/metrics")
	if err != nil {
		return ""
	}
	defer res.Body.Close()
	all, _ := io.ReadAll(res.Body)
	_, text, _ := strings.Cut(string(all), "\n"+series+" ")
	value, _, _ := strings.Cut(text, "\n")
	return value
}

// A site that passes through is served whole by its relay: the client sees its
// certificate, the page is rewritten, the origin and both logs hear of the client.
func TestPassThrough(t *testing.T) {
	p := newPassing(t, "", "")
	for _, protocol := range []string{"h2", "http/1.1"} {
		before := p.counted()
		client := p.client(t, protocol)
		for range 2 { // the second on the connection of the first
			res, err := client.Post("https://example.cn/in?q=1", "text/plain", strings.NewReader("see https://example.cn/there"))
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			asked := <-p.seen
			if err != nil || !strings.HasPrefix(string(body), `<a href="https://example.cn/here">`) {
				t.Errorf("%s: %s %s %v", protocol, res.Status, body, err)
			}
			if got := asked.Header.Get("X-Forwarded-For"); got != "127.0.0.9" || asked.Host == "example.cn" {
				t.Errorf("%s: the origin was asked by %q for %q", protocol, got, asked.Host)
			}
		}
		res, err := client.Get("https://example.cn/long")
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if n != 1<<22 || err != nil {
			t.Errorf("%s: %d bytes, %v", protocol, n, err)
		}
		<-p.seen
		until(t, "the bytes of a connection that is open are counted", func() bool { return p.counted() > before })
		client.CloseIdleConnections()
	}
	until(t, "the edge has told of both connections", func() bool { return strings.Count(p.edge.access.String(), `"msg":"connection"`) == 2 })
	for _, want := range []string{`"site":"shop"`, `"client":"127.0.0.9"`, `"name":"example.cn"`, `"relay":"relay-1"`, `"end":"done"`} {
		if strings.Count(p.edge.access.String(), want) != 2 {
			t.Errorf("the edge's lines lack %s:\n%s", want, p.edge.access)
		}
	}
	until(t, "the relay has told of all requests", func() bool { return strings.Count(p.relay.access.String(), `"client":"127.0.0.9"`) == 6 })
	if log := p.relay.access.String(); strings.Contains(log, `"client":"127.0.0.1"`) {
		t.Errorf("the relay's log:\n%s", log)
	}
}

// A name that no site has is refused with the alert that says so, and nothing of
// it crosses; so is a hello that is none.
func TestPassThroughRefuses(t *testing.T) {
	p := newPassing(t, "", "")
	for _, c := range []struct {
		name, alert, end string
	}{
		{"example.com", "unrecognized name", "name_unknown"},
		{"example.cn.evil.test", "unrecognized name", "name_unknown"},
		{"", "unrecognized name", "name_missing"},
	} {
		conn, err := tls.Dial("tcp", p.address, &tls.Config{ServerName: c.name, InsecureSkipVerify: true})
		if err == nil {
			conn.Close()
			t.Errorf("%q was let in", c.name)
			continue
		}
		if !strings.Contains(err.Error(), c.alert) {
			t.Errorf("%q: %v", c.name, err)
		}
		until(t, "the log says so", func() bool {
			line := p.edge.access.String()
			return strings.Contains(line, `"end":"`+c.end+`"`) && (c.name == "") != strings.Contains(line, fmt.Sprintf(`"name":%q`, c.name))
		})
	}
	conn, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: example.cn\r\n\r\n")
	if answer, _ := io.ReadAll(conn); !strings.Contains(string(answer), "400") {
		t.Errorf("plain HTTP on the port of https gets %q", answer)
	}
	until(t, "the log says so", func() bool { return strings.Contains(p.edge.access.String(), `"end":"not_tls"`) })
}

// A client is told at once that the relay has ended the connection, which is
// counted as open until then.
func TestPassThroughEnds(t *testing.T) {
	p := newPassing(t, "", "")
	const open = `causeway_passed_connections{site="shop"}`
	if n := p.metric(open); n != "0" {
		t.Errorf("before there is any: %q are open", n)
	}
	client, err := tls.Dial("tcp", p.address, &tls.Config{ServerName: "example.cn", InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if n := p.metric(open); n != "1" {
		t.Errorf("%q are open, want 1", n)
	}
	fmt.Fprint(client, "GET / HTTP/1.1\r\nHost: example.cn\r\nConnection: close\r\n\r\n")
	if answer, err := io.ReadAll(client); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 200") {
		t.Fatalf("%q, %v", answer, err)
	}
	socket := client.NetConn()
	_ = socket.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := socket.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the answer: %v", err)
	}
	client.Close()
	until(t, "none is open", func() bool { return p.metric(open) == "0" })
}

// What a relay said before it ended a connection comes whole, to a client too that is
// slow, and goes on speaking.
func TestPassThroughTail(t *testing.T) {
	p := newPassing(t, "", "")
	socket, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	_ = socket.(*net.TCPConn).SetReadBuffer(64 << 10)
	client := tls.Client(socket, &tls.Config{RootCAs: p.roots, ServerName: "example.cn", NextProtos: []string{"http/1.1"}})
	fmt.Fprint(client, "GET /long HTTP/1.1\r\nHost: example.cn\r\nConnection: close\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(client), nil)
	if err != nil {
		t.Fatal(err)
	}
	some, err := io.CopyN(io.Discard, res.Body, 3<<20)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(500 * time.Millisecond) // the rest is in the edge's socket, and the relay has ended
	for range 3 {
		if _, err := client.Write([]byte("more")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	rest, err := io.Copy(io.Discard, res.Body)
	if some+rest != 1<<22 || err != nil {
		t.Errorf("%d bytes of %d, %v", some+rest, 1<<22, err)
	}
}

// An answer that comes before all of a long request has is read, by a client too that
// sends all of that first.
func TestPassThroughEarlyAnswer(t *testing.T) {
	p := newPassing(t, "", "limits: {body_bytes: 1KiB}\n")
	client, err := tls.Dial("tcp", p.address, &tls.Config{RootCAs: p.roots, ServerName: "example.cn", NextProtos: []string{"http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	_ = client.SetDeadline(time.Now().Add(20 * time.Second))
	const size = 40 << 20 // more than all that holds some of it
	fmt.Fprintf(client, "POST / HTTP/1.1\r\nHost: example.cn\r\nContent-Length: %d\r\n\r\n", size)
	if _, err := client.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if res, err := http.ReadResponse(bufio.NewReader(client), nil); err != nil || res.StatusCode != http.StatusRequestEntityTooLarge {
		t.Errorf("%v, %v", res, err)
	}
}

// The default site takes what no site has the name of.
func TestPassThroughDefault(t *testing.T) {
	p := newPassing(t, ", default: true", "")
	for _, name := range []string{"", "elsewhere.cn"} {
		conn, err := tls.Dial("tcp", p.address, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err != nil { // the certificate is that of the site
			t.Errorf("%q: %v", name, err)
			continue
		}
		if conn.ConnectionState().PeerCertificates[0].VerifyHostname("example.cn") != nil {
			t.Errorf("%q gets another certificate", name)
		}
		conn.Close()
		until(t, "it crossed", func() bool {
			line := p.edge.access.String()
			return (name == "") != strings.Contains(line, fmt.Sprintf(`"name":%q`, name)) && strings.Contains(line, `"relay":"relay-1"`)
		})
	}
}

// toEnd reads an answer to its end: what is under way holds up the stop of a node.
func toEnd(res *http.Response) {
	_, _ = io.Copy(io.Discard, res.Body)
	res.Body.Close()
}

// A site that ends here and one that passes through share a listener; neither is
// served on a connection made for the other.
func TestPassThroughBesideTerminate(t *testing.T) {
	p := newPassing(t, "", `  - {name: other, hosts: {other.cn: "http://origin.invalid"}, tls: {cert: other.pem, key: other.key}}
`)
	client := p.client(t, "h2")
	if res, err := client.Get("https://example.cn/"); err != nil || res.StatusCode != 200 {
		t.Errorf("passed through: %v %v", res, err)
	} else {
		toEnd(res)
	}
	for _, c := range []struct{ name, host string }{
		{"example.cn", "other.cn"}, // at the relay
		{"other.cn", "example.cn"}, // at the edge
	} {
		conn, err := tls.Dial("tcp", p.address, &tls.Config{ServerName: c.name, InsecureSkipVerify: true})
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", c.host)
		answer, _ := io.ReadAll(conn)
		conn.Close()
		if !strings.HasPrefix(string(answer), "HTTP/1.1 421 ") {
			t.Errorf("%s on a connection for %s: %q", c.host, c.name, answer)
		}
	}
}

// No client can open a stream by itself, or say who it is.
func TestPassThroughTrustsNoClient(t *testing.T) {
	p := newPassing(t, "", "")
	req, err := http.NewRequest(http.MethodGet, "https://example.cn/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Causeway-Stream", "1")
	req.Header.Set("Causeway-Upgrade", "causeway-stream")
	req.Header.Set("X-Forwarded-For", "192.0.2.1")
	res, err := p.client(t, "http/1.1").Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	asked := <-p.seen
	if asked.Header.Get("X-Forwarded-For") != "127.0.0.9" {
		t.Errorf("the origin was told %q", asked.Header)
	}
	conn, err := tls.Dial("tcp", p.address, &tls.Config{ServerName: "example.cn", InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: example.cn\r\n\r\n")
	if answer, _ := io.ReadAll(conn); !strings.Contains(string(answer), "400") {
		t.Errorf("a PROXY header of a client: %q", answer)
	}
}

// Without a relay a client hears at once that nobody is there.
func TestPassThroughWithoutARelay(t *testing.T) {
	p := newPassing(t, "", "")
	p.relay.stop()
	_, err := tls.Dial("tcp", p.address, &tls.Config{ServerName: "example.cn", RootCAs: p.roots})
	if err == nil || !strings.Contains(err.Error(), "internal error") {
		t.Errorf("%v", err)
	}
	until(t, "the log says so", func() bool { return strings.Contains(p.edge.access.String(), `"end":"link_down"`) })
}

// A connection under way outlives a reload of both nodes, and new ones see the
// new file.
func TestPassThroughReload(t *testing.T) {
	p := newPassing(t, "", "")
	conn, err := tls.Dial("tcp", p.address, &tls.Config{ServerName: "example.cn", RootCAs: p.roots})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ask := func() error {
		fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: example.cn\r\n\r\n")
		res := make([]byte, 12)
		if _, err := io.ReadFull(conn, res); err != nil || string(res) != "HTTP/1.1 200" {
			return fmt.Errorf("%q %w", res, errors.Join(err))
		}
		_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = io.Copy(io.Discard, conn) // the rest
		return conn.SetReadDeadline(time.Time{})
	}
	if err := ask(); err != nil {
		t.Fatal(err)
	}
	for i, n := range []*node{p.edge, p.relay} {
		write(t, p.files[i], p.text+"limits: {header_timeout: 3s}\n")
		if err := n.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	if err := ask(); err != nil {
		t.Error(err)
	}
	if res, err := p.client(t).Get("https://example.cn/"); err != nil || res.StatusCode != 200 {
		t.Errorf("a new connection: %v %v", res, err)
	} else {
		toEnd(res)
	}
	elsewhere := freeAddress(t) // where the relay listens from now on
	for i, n := range []*node{p.relay, p.edge} {
		write(t, p.files[1-i], strings.ReplaceAll(p.text, p.linkAddress, elsewhere))
		if err := n.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the link is up again", func() bool { return p.edge.Ready() == nil })
	if res, err := p.client(t).Get("https://example.cn/"); err != nil || res.StatusCode != 200 {
		t.Errorf("over another address of the relay: %v %v", res, err)
	} else {
		toEnd(res)
	}
}

// What a site's tls asks of visitors holds where its TLS ends: at the relay of a
// site that passes through. A reload brings it.
func TestPassThroughFront(t *testing.T) {
	p := newPassing(t, "", "")
	there := filepath.Dir(p.files[1])
	clients, err := cert.OpenAuthority(filepath.Join(there, "clients"), "visitors")
	if err != nil {
		t.Fatal(err)
	}
	if err := clients.Issue(there, "li", []string{"li.example.cn"}); err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(p.text, "key: shop.key}", `key: shop.key, min: "1.3", clients: clients/ca.pem, hsts: {max_age: 1h}}`, 1)
	write(t, p.files[0], text)
	write(t, p.files[1], text)
	for _, n := range []*node{p.relay, p.edge} {
		if err := n.Reload(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := tls.Dial("tcp", p.address, &tls.Config{ServerName: "example.cn", RootCAs: p.roots, MaxVersion: tls.VersionTLS12}); err == nil || !strings.Contains(err.Error(), "protocol version") {
		t.Errorf("TLS 1.2: %v", err)
	}
	client := p.client(t, "h2")
	res, err := client.Get("https://example.cn/")
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusForbidden || res.ProtoMajor != 2 {
		t.Errorf("without a certificate: %s", res.Status)
	}
	known, err := tls.LoadX509KeyPair(filepath.Join(there, "li.pem"), filepath.Join(there, "li.key"))
	if err != nil {
		t.Fatal(err)
	}
	client = p.client(t, "h2")
	client.Transport.(*http.Transport).TLSClientConfig.Certificates = []tls.Certificate{known}
	if res, err = client.Get("https://example.cn/"); err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusOK || res.Header.Get("Strict-Transport-Security") != "max-age=3600" {
		t.Errorf("with a certificate: %s %v", res.Status, res.Header)
	}
	asked := <-p.seen
	if want := ":" + base64.StdEncoding.EncodeToString(known.Certificate[0]) + ":"; asked.Header.Get("Client-Cert") != want {
		t.Errorf("the origin was told of %q", asked.Header.Get("Client-Cert"))
	}
}
