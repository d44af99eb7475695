package rewrite

import (
	"io"
	"net/http"
	"net/textproto"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// TestAnswers runs testdata/answers.txt: what the origin answers, what the client gets.
func TestAnswers(t *testing.T) {
	data, err := os.ReadFile("testdata/answers.txt")
	if err != nil {
		t.Fatal(err)
	}
	m := parseMap(t, "https://example.cn https://example.com")
	text := strings.ReplaceAll(string(data), "VERSION", m.Version())
	for i, part := range strings.Split(text, "\n---\n") {
		question, rest, _ := strings.Cut(strings.TrimSpace(part)+"\n\n", "\n\n")
		given, want, ok := strings.Cut(rest, "\n\n=>\n\n")
		if !ok {
			t.Fatalf("part %d: no =>", i)
		}
		if got := ask(t, m, question, given); got != strings.TrimSpace(want) {
			t.Errorf("part %d: %s\n--- got\n%s\n--- want\n%s", i, question, got, strings.TrimSpace(want))
		}
	}
}

// ask sends a question through Request, and the answer given back through Response.
func ask(t *testing.T, m *Map, question, given string) string {
	t.Helper()
	lines := strings.Split(question, "\n")
	for len(lines) > 0 && strings.HasPrefix(lines[0], "#") {
		lines = lines[1:]
	}
	method, target, _ := strings.Cut(lines[0], " ")
	req, err := http.NewRequest(method, "https://example.com"+target, nil)
	if err != nil {
		t.Fatal(err)
	}
	addFields(req.Header, lines[1:])
	m.Request(req)
	var out strings.Builder
	writeFields(&out, req.Header, "If-None-Match", "If-Modified-Since", "If-Match", "If-Unmodified-Since", "If-Range", "Range")

	head, body, _ := strings.Cut(given, "\n\n")
	body = strings.TrimSpace(body)
	lines = strings.Split(head, "\n")
	status, err := strconv.Atoi(lines[0])
	if err != nil {
		t.Fatal(err)
	}
	res := answer(strings.NewReader(body), -1)
	res.StatusCode, res.Request = status, req
	if method == "HEAD" || status == 204 || status == 304 {
		res.Body = http.NoBody
	}
	addFields(res.Header, lines[1:])
	if n, err := strconv.ParseInt(res.Header.Get("Content-Length"), 10, 64); err == nil {
		res.ContentLength = n
	}
	m.Response(res, Options{AcceptEncoding: req.Header.Get("Accept-Encoding")})
	out.WriteString(strconv.Itoa(status) + "\n")
	writeFields(&out, res.Header)
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	if coding := res.Header.Get("Content-Encoding"); len(got) > 0 && !isCoding(coding) {
		out.WriteString("\n" + string(got))
	}
	return strings.TrimSpace(out.String())
}

func addFields(h http.Header, lines []string) {
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
}

func writeFields(out *strings.Builder, h http.Header, only ...string) {
	var lines []string
	for name, values := range h {
		for _, value := range values {
			if len(only) == 0 || slices.Contains(only, name) {
				lines = append(lines, textproto.CanonicalMIMEHeaderKey(name)+": "+value+"\n")
			}
		}
	}
	slices.Sort(lines)
	out.WriteString(strings.Join(lines, ""))
}

func TestCodings(t *testing.T) {
	for accept, want := range map[string]string{
		"": "", "identity": "", "gzip, deflate, br, zstd": "zstd, br, gzip, deflate", "GZIP;q=1.0, br;q=0": "gzip",
		"*": "zstd, br, gzip, deflate", "*;q=0, x-gzip": "gzip", "br;q=x": "", "br;q=2": "", "compress": "",
	} {
		if got := Codings(accept); got != want {
			t.Errorf("Codings(%q) = %q, want %q", accept, got, want)
		}
	}
}

func TestChooseCoding(t *testing.T) {
	for _, c := range []struct {
		accept, came, kind string
		size               int64
		want               string
	}{
		{"gzip, br, zstd", "", "text/html", -1, "zstd"},
		{"gzip, br", "", "text/html", 5000, "br"},
		{"gzip, br;q=0.5", "", "text/html", -1, "gzip"},
		{"gzip, br, zstd", "gzip", "text/html", 10, "gzip"},
		{"gzip, br, zstd", "", "text/html", 511, ""},
		{"gzip, br, zstd", "", eventStream, -1, ""},
		{"gzip, br", "zstd", eventStream, -1, "br"},
		{"gzip;q=0.5, identity", "", "text/html", -1, ""},
		{"", "gzip", "text/html", -1, ""},
	} {
		var came []string
		if c.came != "" {
			came = []string{c.came}
		}
		if got := chooseCoding(c.accept, came, c.kind, c.size); got != c.want {
			t.Errorf("%+v: got %q", c, got)
		}
	}
}

func TestRewritable(t *testing.T) {
	for fields, want := range map[string]bool{
		"Content-Type: text/html; charset=GBK": true, "Content-Type: Application/LD+JSON": true, "Content-Type: image/svg+xml": true,
		"Content-Type: application/manifest+json": true, "Content-Type: text/event-stream": true, "X: y": true,
		"Content-Type: application/grpc+json": false, "Content-Type: application/connect+json": false,
		"Content-Type: image/png": false, "Content-Type: application/octet-stream": false, "Content-Type: multipart/byteranges; boundary=x": false,
		"Content-Type: application/pdf": false, "Content-Type: text/html\nContent-Encoding: compress": false,
		"Content-Type: text/html\nContent-Encoding: identity, gzip": true, "Content-Type: application/vnd.openxmlformats-officedocument.wordprocessingml.document": false,
	} {
		h := http.Header{}
		addFields(h, strings.Split(fields, "\n"))
		if got := parseMap(t, fuzzMaps[0]).Rewritable(h); got != want {
			t.Errorf("Rewritable(%q) = %v", fields, got)
		}
	}
}

// TestSeveralTypes: browsers take the last one that is well-formed, and a charset of its kind before
// it (Fetch, the examples of "extract a MIME type").
func TestSeveralTypes(t *testing.T) {
	for _, c := range []struct {
		lines         []string
		kind, charset string
	}{
		{[]string{"text/plain;charset=gbk, text/html"}, "text/html", ""},
		{[]string{"text/html;charset=gbk;a=b, text/html;x=y"}, "text/html", "gbk"},
		{[]string{"text/html;charset=gbk;a=b", "text/html;x=y"}, "text/html", "gbk"},
		{[]string{"text/html;charset=gbk", "x/x", "text/html;x=y"}, "text/html", ""},
		{[]string{"text/html", "cannot-parse"}, "text/html", ""},
		{[]string{"text/html", "*/*"}, "text/html", ""},
		{[]string{"text/html", ""}, "text/html", ""},
		{[]string{"image/png", "text/html; charset=UTF-16LE"}, "text/html", "utf-16le"},
		{[]string{"text/html", "image/png"}, "image/png", ""},
		{[]string{`text/html; a="x,image/png"`}, "text/html", ""},
		{[]string{"cannot, parse"}, "", ""},
		{nil, "", ""},
	} {
		h := http.Header{"Content-Type": c.lines}
		if kind, named := mediaType(h), charset(h); kind != c.kind || named != c.charset {
			t.Errorf("%q: %q, charset %q, want %q, %q", c.lines, kind, named, c.kind, c.charset)
		}
		if got, want := parseMap(t, fuzzMaps[0]).Rewritable(h), c.kind != "image/png"; got != want {
			t.Errorf("%q: rewritable is %v", c.lines, got)
		}
	}
}

// TestBareKinds: where strings are written in quotes, for a site that asks for it.
func TestBareKinds(t *testing.T) {
	plain := parseMap(t, fuzzMaps[0])
	bare := plain.WithRules(Rules{Bare: true})
	for kind, want := range map[string]bool{
		"application/json": true, "application/ld+json": true, "text/html": true, "text/javascript": true, "application/javascript": true,
		"text/css": false, "text/plain": false, "application/xml": false,
	} {
		if got := string(bare.replacerFor(bare.ToPublic(), kind).Append(nil, []byte(`"example.com"`))) == `"example.cn"`; got != want {
			t.Errorf("%s: %v", kind, got)
		}
		if got := string(plain.replacerFor(plain.ToPublic(), kind).Append(nil, []byte(`"example.com"`))); got != `"example.com"` {
			t.Errorf("%s without the rule: %s", kind, got)
		}
	}
}

func TestRuledTypes(t *testing.T) {
	m := parseMap(t, fuzzMaps[0]).WithRules(Rules{Types: []string{"application/x-shop", "-text/csv", "-application/json"}})
	for kind, want := range map[string]bool{
		"application/x-shop": true, "Application/X-Shop; a=b": true, "text/csv": false, "application/json; charset=utf-8": false,
		"text/html": true, "application/ld+json": true, "application/x-other": false,
	} {
		if got := m.Rewritable(http.Header{"Content-Type": {kind}}); got != want {
			t.Errorf("%s: %v", kind, got)
		}
	}
	if m.WithRules(Rules{Untouched: true}).Rewritable(http.Header{"Content-Type": {"text/html"}}) {
		t.Error("untouched text is rewritable")
	}
}

// TestTrailerDigests: digests speak of the origin's bytes wherever they stand; other trailers pass.
func TestTrailerDigests(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	res := answer(strings.NewReader("https://example.com/"), 20, "Content-Type: text/plain")
	res.Trailer = http.Header{"Content-Digest": {"x"}, "Server-Timing": {"a"}}
	m.Response(res, Options{})
	if _, err := io.ReadAll(res.Body); err != nil {
		t.Fatal(err)
	}
	if len(res.Trailer) != 1 || res.Trailer.Get("Server-Timing") != "a" {
		t.Errorf("trailer %v", res.Trailer)
	}
}

// TestCloseWhileReading: a server may close a body that another goroutine reads.
func TestCloseWhileReading(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	for range 20 {
		in, out := io.Pipe()
		res := answer(in, -1, "Content-Type: text/html")
		res.Body = in
		m.Response(res, Options{AcceptEncoding: "gzip"})
		done := make(chan error)
		go func() {
			_, err := io.Copy(io.Discard, res.Body)
			done <- err
		}()
		out.Write([]byte(strings.Repeat("https://example.com/ ", 1000)))
		res.Body.Close()
		res.Body.Close()
		if err := <-done; err == nil {
			t.Error("a closed body ended as if it were whole")
		}
		if n, err := res.Body.Read(make([]byte, 10)); n != 0 || err == nil {
			t.Errorf("read after close gave %d, %v", n, err)
		}
	}
}

// TestTrailers: the fields behind a mapped body are mapped like those before it.
func TestTrailers(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	res := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/plain"}}, ContentLength: -1,
		Body: io.NopCloser(strings.NewReader("https://example.com/")), Trailer: http.Header{"Link": {"<https://example.com/next>"}, "Digest": {"x"}}}
	m.Response(res, Options{})
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "https://example.cn/" {
		t.Errorf("%s, %v", body, err)
	}
	if res.Trailer.Get("Link") != "<https://example.cn/next>" || res.Trailer.Get("Digest") != "" {
		t.Errorf("trailers %q", res.Trailer)
	}
}
