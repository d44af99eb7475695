package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// arrivals are the requests that an origin saw.
type arrivals struct {
	mu   sync.Mutex // guards list
	list []string   // "METHOD target: body"
}

func (a *arrivals) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	a.mu.Lock()
	a.list = append(a.list, fmt.Sprintf("%s %s %s: %s %v", r.Method, r.Host, r.RequestURI, body, err))
	a.mu.Unlock()
	mirror(w, r)
}

// take gives what arrived since the last take.
func (a *arrivals) take() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() { a.list = nil }()
	return a.list
}

// canary listens where no request may ever come.
func canary(t *testing.T) (address string, touched func() bool) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	count := 0
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			conn.Close()
			mu.Lock()
			count++
			mu.Unlock()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	return ln.Addr().String(), func() bool { mu.Lock(); defer mu.Unlock(); return count > 0 }
}

// probed is a crossing to an HTTP/1.1 origin that notes what arrives.
func probed(t *testing.T) (*crossing, *arrivals) {
	t.Helper()
	ca, seen := newAuthority(t), &arrivals{}
	c := newCrossing(t, spec{layout: edgeAndRelay, ca: ca, more: "limits: {header_timeout: 200ms, body_timeout: 200ms, idle_timeout: 100ms}", sites: fmt.Sprintf(`
  - name: site
    hosts: {example.cn: https://h1.example.com}
    origin: {connect: [%q], tls: {ca: CA}}
    tls: {cert: CERT, key: KEY}
  - name: plain
    hosts: {plain.example.cn: https://plain.example.com}
    origin: {connect: [%[1]q], tls: {ca: CA}}
    http: serve
`, newOrigin(t, ca, seen))})
	return c, seen
}

// send writes bytes to the edge and gives its answers: so many, or all until it
// closes the connection.
func send(t *testing.T, conn net.Conn, sent string, most int) (statuses []int, bodies []string) {
	t.Helper()
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(conn, sent); err != nil {
		t.Fatal(err)
	}
	reader := bufio.NewReader(conn)
	for len(statuses) < most {
		if _, err := reader.Peek(1); err != nil {
			break
		}
		method, _, _ := strings.Cut(sent, " ")
		res, err := http.ReadResponse(reader, &http.Request{Method: method})
		if err != nil {
			t.Errorf("an answer that is none to %q: %v", sent, err)
			break
		}
		body, _ := io.ReadAll(res.Body)
		statuses, bodies = append(statuses, res.StatusCode), append(bodies, string(body))
	}
	return statuses, bodies
}

// TestNoOpenProxy sends the requests that find open proxies. None may reach
// what is not in the file.
func TestNoOpenProxy(t *testing.T) {
	c, seen := probed(t)
	elsewhere, touched := canary(t)
	for _, probe := range []struct {
		sent   string // without the empty line at the end; CANARY is elsewhere
		status int    // of the first answer; 0 for any refusal
		target string // what the origin sees; "" when nothing may reach it
	}{
		{"GET http://CANARY/ HTTP/1.1\r\nHost: NAME", 421, ""},
		{"GET http://CANARY/ HTTP/1.1\r\nHost: CANARY", 421, ""},
		{"GET http://CANARY/ HTTP/1.0", 421, ""},
		{"GET ftp://NAME/ HTTP/1.1\r\nHost: NAME", 0, "/"},
		{"GET http://NAME/own HTTP/1.1\r\nHost: CANARY", 200, "/own"}, // RFC 9112 §3.2.2: the target wins
		{"GET http://NAME@CANARY/ HTTP/1.1\r\nHost: NAME", 0, ""},
		{"GET http://NAME:80@CANARY/ HTTP/1.1\r\nHost: NAME", 0, ""},
		{"GET http://CANARY#NAME/ HTTP/1.1\r\nHost: NAME", 0, ""},
		{"GET http:CANARY/ HTTP/1.1\r\nHost: NAME", 400, ""},
		{"GET @CANARY/ HTTP/1.1\r\nHost: NAME", 0, ""},
		{"GET :80@CANARY/ HTTP/1.1\r\nHost: NAME", 0, ""},
		{"GET CANARY HTTP/1.1\r\nHost: NAME", 0, ""},
		{"GET \\\\CANARY/ HTTP/1.1\r\nHost: NAME", 0, ""},
		{"GET //CANARY/ HTTP/1.1\r\nHost: NAME", 200, "//CANARY/"},
		{"GET /http://CANARY/ HTTP/1.1\r\nHost: NAME", 200, "/http://CANARY/"},
		{"GET /\\CANARY/..//x HTTP/1.1\r\nHost: NAME", 200, "/\\CANARY/..//x"},
		{"CONNECT CANARY HTTP/1.1\r\nHost: CANARY", 405, ""},
		{"CONNECT CANARY HTTP/1.1\r\nHost: NAME", 405, ""},
		{"CONNECT NAME:443 HTTP/1.1\r\nHost: NAME", 405, ""},
		{"CONNECT / HTTP/1.1\r\nHost: NAME", 405, ""},
		{"TRACE http://CANARY/ HTTP/1.1\r\nHost: NAME", 421, ""},
		{"GET / HTTP/1.1\r\nHost: CANARY", 421, ""},
		{"GET / HTTP/1.1\r\nHost: h1.example.com", 421, ""}, // the origin's own name is none of ours
		{"GET / HTTP/1.1\r\nHost: NAME\r\nHost: CANARY", 400, ""},
		{"GET / HTTP/1.1\r\nHost: CANARY\r\nHost: NAME", 400, ""},
		{"GET / HTTP/1.1", 400, ""},
		{"GET / HTTP/1.1\r\nHost:", 421, ""},
		{"GET / HTTP/1.0", 421, ""},
		{"GET / HTTP/1.1\r\nHost: NAME:80@CANARY", 0, ""},
		{"GET / HTTP/1.1\r\nHost: NAME@CANARY", 0, ""},
		{"GET / HTTP/1.1\r\nHost: CANARY@NAME", 0, ""},
		{"GET / HTTP/1.1\r\nHost: NAME, CANARY", 0, ""},
		{"GET / HTTP/1.1\r\nHost: NAME CANARY", 0, ""},
		{"GET / HTTP/1.1\r\nHost: NAME/CANARY", 0, ""},
		{"GET / HTTP/1.1\r\nHost: CANARY#NAME", 0, ""},
		{"GET / HTTP/1.1\r\nHost: CANARY?NAME", 0, ""},
		{"GET / HTTP/1.1\r\nHost: xNAME", 421, ""},
		{"GET / HTTP/1.1\r\nHost: NAME.evil.example", 421, ""},
		{"GET / HTTP/1.1\r\nHost: [::1]", 421, ""},
		{"GET / HTTP/1.1\r\nHost: [NAME]", 0, ""},
		{"GET / HTTP/1.1\r\n Host: NAME", 400, ""},
		{"GET / HTTP/1.1\r\nHost : NAME", 400, ""},
		{"GET / HTTP/1.1\r\nX-Forwarded-Host: NAME\r\nHost: CANARY", 421, ""},
		{"GET /fields HTTP/1.1\r\nHost: NAME\r\nX-Forwarded-Host: CANARY\r\nForwarded: host=CANARY\r\nX-Original-Url: http://CANARY/\r\nX-Rewrite-Url: http://CANARY/\r\nProxy: http://CANARY/\r\nDestination: http://CANARY/", 200, "/fields"},
		{"OPTIONS * HTTP/1.1\r\nHost: CANARY", 0, ""},
		{"PRI * HTTP/2.0", 0, ""},
		{"GET / HTTP/9.9\r\nHost: NAME", 0, ""},
		{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 0, ""},
	} {
		for _, listener := range []struct{ address, name string }{{c.https, "example.cn"}, {c.http, "plain.example.cn"}} {
			sent := strings.NewReplacer("CANARY", elsewhere, "NAME", listener.name).Replace(probe.sent)
			var conn net.Conn
			var err error
			if listener.address == c.https {
				conn, err = c.dialTLS(t, listener.name, "http/1.1")
			} else {
				conn, err = net.Dial("tcp", listener.address)
			}
			if err != nil {
				t.Fatal(err)
			}
			statuses, bodies := send(t, conn, sent+"\r\n\r\n", 1)
			if probe.status != 0 && !slices.Equal(statuses, []int{probe.status}) {
				t.Errorf("%q: %v, want %d", sent, statuses, probe.status)
			}
			arrived := seen.take()
			switch {
			case probe.target == "" && len(arrived) > 0:
				t.Errorf("%q: the origin saw %q", sent, arrived)
			case probe.target == "" && slices.Contains(statuses, 200) && bodies[0] != "":
				t.Errorf("%q: answered with %q", sent, bodies)
			case probe.target != "" && probe.status == 200:
				var s seenRequest
				if err := json.Unmarshal([]byte(bodies[0]), &s); err != nil {
					t.Errorf("%q: %v in %q", sent, err, bodies[0])
				} else if want := strings.ReplaceAll(probe.target, "CANARY", elsewhere); s.Target != want || !strings.HasSuffix(s.Host, ".example.com") {
					t.Errorf("%q: the origin saw %s at %s, want %s", sent, s.Target, s.Host, want)
				}
			}
		}
	}
	if touched() {
		t.Error("a request went elsewhere")
	}
}

type seenRequest = seen

// TestNoSmuggling sends requests whose end one server may see elsewhere than
// another. Whatever the edge takes for one request is one to the origin.
func TestNoSmuggling(t *testing.T) {
	c, seen := probed(t)
	hidden := "GET /hidden HTTP/1.1\r\nHost: h1.example.com\r\nX: "
	for name, probe := range map[string]string{
		"CL.TE":                       "Content-Length: LEN\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
		"TE.CL":                       "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + hidden + strings.Repeat("x", 0x5c-len(hidden)) + "\r\n0\r\n\r\n",
		"TE.TE":                       "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\nContent-Length: LEN\r\n\r\n0\r\n\r\n" + hidden,
		"TE list":                     "Transfer-Encoding: chunked, identity\r\nContent-Length: LEN\r\n\r\n0\r\n\r\n" + hidden,
		"TE gzip, chunked":            "Transfer-Encoding: gzip, chunked\r\nContent-Length: LEN\r\n\r\n0\r\n\r\n" + hidden,
		"TE xchunked":                 "Transfer-Encoding: xchunked\r\nContent-Length: LEN\r\n\r\n0\r\n\r\n" + hidden,
		"TE space":                    "Transfer-Encoding : chunked\r\nContent-Length: LEN\r\n\r\n0\r\n\r\n" + hidden,
		"TE tab":                      "Transfer-Encoding:\tchunked\r\nContent-Length: LEN\r\n\r\n0\r\n\r\n" + hidden,
		"TE vertical tab":             "Transfer-Encoding: \x0bchunked\r\nContent-Length: LEN\r\n\r\n0\r\n\r\n" + hidden,
		"TE folded":                   "Transfer-Encoding:\r\n chunked\r\nContent-Length: LEN\r\n\r\n0\r\n\r\n" + hidden,
		"TE quoted":                   "Transfer-Encoding: \"chunked\"\r\nContent-Length: LEN\r\n\r\n0\r\n\r\n" + hidden,
		"TE in capitals":              "TRANSFER-ENCODING: CHUNKED\r\nContent-Length: LEN\r\n\r\n0\r\n\r\n" + hidden,
		"TE in another's value":       "X: x\nTransfer-Encoding: chunked\r\nContent-Length: LEN\r\n\r\n0\r\n\r\n" + hidden,
		"TE behind a bare CR":         "X: x\rTransfer-Encoding: chunked\r\nContent-Length: LEN\r\n\r\n0\r\n\r\n" + hidden,
		"TE named by Connection":      "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\nContent-Length: LEN\r\n\r\n0\r\n\r\n" + hidden,
		"CL named by Connection":      "Connection: Content-Length\r\nContent-Length: LEN\r\n\r\n" + hidden,
		"two lengths":                 "Content-Length: 0\r\nContent-Length: LEN\r\n\r\n" + hidden,
		"two lengths, turned":         "Content-Length: LEN\r\nContent-Length: 0\r\n\r\n" + hidden,
		"length list":                 "Content-Length: 0, LEN\r\n\r\n" + hidden,
		"length with a sign":          "Content-Length: +LEN\r\n\r\n" + hidden,
		"length in hexadecimal":       "Content-Length: 0x10\r\n\r\n" + hidden,
		"length negative":             "Content-Length: -1\r\n\r\n" + hidden,
		"length with a space":         "Content-Length : LEN\r\n\r\n" + hidden,
		"length overflows":            "Content-Length: 18446744073709551616\r\n\r\n" + hidden,
		"chunk size overflows":        "Transfer-Encoding: chunked\r\n\r\n10000000000000000\r\n" + hidden,
		"chunk size in hexadecimal":   "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + hidden,
		"chunk size with a sign":      "Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n" + hidden,
		"chunk extension with LF":     "Transfer-Encoding: chunked\r\n\r\n0;x\n\r\n\r\n" + hidden,
		"chunk without its CRLF":      "Transfer-Encoding: chunked\r\n\r\n1\r\nxx\r\n0\r\n\r\n" + hidden,
		"chunks end with bare LF":     "Transfer-Encoding: chunked\n\n0\n\n" + hidden,
		"trailers that frame":         "Transfer-Encoding: chunked\r\nTrailer: Content-Length\r\n\r\n0\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n" + hidden,
		"HTTP/1.0 and TE":             "VERSION 1.0\r\nTransfer-Encoding: chunked\r\nContent-Length: LEN\r\n\r\n0\r\n\r\n" + hidden,
		"upgrade that is none":        "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: LEN\r\n\r\n" + hidden,
		"upgrade to clear HTTP/2":     "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: LEN\r\n\r\n" + hidden,
		"expectation and hidden body": "Expect: 100-continue\r\nContent-Length: LEN\r\n\r\n" + hidden,
		"NUL in a field":              "X: a\x00b\r\nContent-Length: LEN\r\n\r\n" + hidden,
	} {
		probe = strings.ReplaceAll(probe, "LEN", fmt.Sprint(len(hidden)))
		version := "1.1"
		if rest, ok := strings.CutPrefix(probe, "VERSION 1.0\r\n"); ok {
			version, probe = "1.0", rest
		}
		conn, err := c.dialTLS(t, "example.cn", "http/1.1")
		if err != nil {
			t.Fatal(err)
		}
		before := len(c.edge.records(t))
		sent := "POST /seen HTTP/" + version + "\r\nHost: example.cn\r\n" + probe + "end\r\n\r\n"
		statuses, _ := send(t, conn, sent, 9)
		arrived := seen.take()
		c.accountFor(t, before, arrived, fmt.Sprintf("%s, answers %v", name, statuses))
		for _, request := range arrived {
			if strings.HasPrefix(request, "GET h1.example.com /hidden") {
				t.Errorf("%s: the origin saw the hidden request: %q (answers %v)", name, arrived, statuses)
			}
		}
		c.nextVisitor(t, seen, fmt.Sprint("/next", before))
	}
}

// accountFor waits until the edge has a record of each request that arrived at
// the origin, after the first before records: it took as many for requests.
func (c *crossing) accountFor(t *testing.T, before int, arrived []string, name string) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s: records of %q", name, arrived), func() bool {
		taken := 0
		for _, r := range c.edge.records(t)[before:] {
			if r.Site == "site" {
				taken++
			}
		}
		return taken >= len(arrived)
	})
}

// nextVisitor of the same warm connections must not be disturbed by the last.
func (c *crossing) nextVisitor(t *testing.T, seen *arrivals, path string) {
	t.Helper()
	if got := get(t, c.client(t, 1), "https://example.cn"+path).seen(t); got.Method != "GET" || got.Target != path || got.Host != "h1.example.com" {
		t.Fatalf("the next visitor's request became %s %s at %s", got.Method, got.Target, got.Host)
	}
	c.edge.record(t, path)
	seen.take()
}

// TestNoSmugglingOverHTTP2 sends frames that would become something else in
// HTTP/1.1.
func TestNoSmugglingOverHTTP2(t *testing.T) {
	c, seen := probed(t)
	for name, probe := range map[string]struct {
		fields []string // name, value, name, value …
		body   string
	}{
		"length shorter than the body": {[]string{"content-length", "0"}, "GET /hidden HTTP/1.1\r\n\r\n"},
		"length longer than the body":  {[]string{"content-length", "100"}, "short"},
		"two lengths":                  {[]string{"content-length", "5", "content-length", "0"}, "short"},
		"transfer-encoding":            {[]string{"transfer-encoding", "chunked"}, "0\r\n\r\nGET /hidden HTTP/1.1\r\n\r\n"},
		"connection":                   {[]string{"connection", "transfer-encoding"}, ""},
		"CRLF in a value":              {[]string{"x", "a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /hidden HTTP/1.1"}, ""},
		"LF in a value":                {[]string{"x", "a\nHost: evil.example"}, ""},
		"CRLF in a name":               {[]string{"x: y\r\nhidden", "1"}, ""},
		"colon in a name":              {[]string{"transfer-encoding: chunked", "1"}, "0\r\n\r\n"},
		"capitals in a name":           {[]string{"Transfer-Encoding", "chunked"}, "0\r\n\r\n"},
		"CRLF in the path":             {[]string{":path", "/ HTTP/1.1\r\nHost: evil.example\r\n\r\nGET /hidden"}, ""},
		"space in the path":            {[]string{":path", "/ HTTP/1.1 /hidden"}, ""},
		"no slash in the path":         {[]string{":path", "@evil.example/"}, ""},
		"absolute path":                {[]string{":path", "http://evil.example/hidden"}, ""},
		"CRLF in the method":           {[]string{":method", "GET / HTTP/1.1\r\nX: y\r\n\r\nGET"}, ""},
		"space in the method":          {[]string{":method", "GET /hidden"}, ""},
		"CRLF in the scheme":           {[]string{":scheme", "https\r\nX: y"}, ""},
		"path in the scheme":           {[]string{":scheme", "https://evil.example/?"}, ""},
		"foreign authority":            {[]string{":authority", "evil.example"}, ""},
		"authority and host":           {[]string{"host", "evil.example"}, ""},
		"userinfo in the authority":    {[]string{":authority", "example.cn@evil.example"}, ""},
		"CONNECT":                      {[]string{":method", "CONNECT"}, ""},
	} {
		before := len(c.edge.records(t))
		status := sendFrames(t, c, probe.fields, probe.body)
		arrived := seen.take()
		c.accountFor(t, before, arrived, fmt.Sprintf("%s, answer %q", name, status))
		for _, request := range arrived {
			if strings.Contains(request, "evil") || strings.Contains(request, " /hidden") {
				t.Errorf("%s: the origin saw %q", name, request)
			}
		}
		c.nextVisitor(t, seen, fmt.Sprint("/next", before))
	}
}

// sendFrames sends one HTTP/2 request field by field, whatever they hold, and
// gives the status, or how it was refused.
func sendFrames(t *testing.T, c *crossing, fields []string, body string) string {
	t.Helper()
	conn, err := c.dialTLS(t, "example.cn", "h2")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	pseudo := [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "example.cn"}, {":path", "/seen"}}
	var rest [][2]string
	for i := 0; i < len(fields); i += 2 {
		at := slices.IndexFunc(pseudo, func(f [2]string) bool { return f[0] == fields[i] })
		if at >= 0 {
			pseudo[at][1] = fields[i+1]
		} else {
			rest = append(rest, [2]string{fields[i], fields[i+1]})
		}
	}
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range append(pseudo, rest...) {
		_ = encoder.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]}) // a buffer takes everything
	}
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_ = framer.WriteSettings()
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: body == ""})
	if body != "" {
		_ = framer.WriteData(1, true, []byte(body))
	}
	status := ""
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return status + " " + err.Error()
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			status += f.PseudoValue("status")
			if f.StreamEnded() {
				return status
			}
		case *http2.DataFrame:
			if f.StreamEnded() {
				return status
			}
		case *http2.RSTStreamFrame:
			return status + " reset " + f.ErrCode.String()
		case *http2.GoAwayFrame:
			return status + " goaway " + f.ErrCode.String()
		}
	}
}
