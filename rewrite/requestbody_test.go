package rewrite

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// bodyCase is one body of testdata/requests.
type bodyCase struct {
	where    string
	m        *Map
	header   http.Header
	in, want string
}

// bodyCases reads testdata/requests/*.txt (testdata/README).
func bodyCases(t testing.TB) (cases []bodyCase) {
	t.Helper()
	files, err := filepath.Glob("testdata/requests/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no tables: %v", err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for i, part := range strings.Split(strings.TrimSpace(string(data)), "\n---\n") {
			cases = append(cases, parseBodyCase(t, fmt.Sprintf("%s, part %d", file, i+1), part))
		}
	}
	return cases
}

func parseBodyCase(t testing.TB, where, part string) bodyCase {
	t.Helper()
	c := bodyCase{where: where, m: parseMap(t, "https://example.cn https://example.com\nhttps://login.example.cn https://login.example.com"), header: http.Header{}}
	head, rest, _ := strings.Cut(part, "\n\n")
	given, want, ok := strings.Cut(rest, "\n\n=>")
	if !ok {
		t.Fatalf("%s: no =>", where)
	}
	for line := range strings.SplitSeq(head, "\n") {
		name, value, _ := strings.Cut(line, ": ")
		switch {
		case strings.HasPrefix(line, "#"):
		case name == "Rules":
			c.m = c.m.WithRules(parseRules(t, value))
		default:
			c.header.Set(name, value)
		}
	}
	if strings.HasPrefix(c.header.Get("Content-Type"), "multipart/") {
		given, want = strings.ReplaceAll(given, "\n", "\r\n"), strings.ReplaceAll(want, "\n", "\r\n")
	}
	if c.in, c.want = given, strings.TrimLeft(want, "\r\n"); c.want == " the same" {
		c.want = given
	}
	return c
}

func parseRules(t testing.TB, text string) Rules {
	t.Helper()
	if kind, ok := strings.CutPrefix(text, "type "); ok {
		return Rules{Types: []string{kind}}
	}
	rules, ok := map[string]Rules{"bare": {Bare: true}, "untouched": {Untouched: true}}[text]
	if !ok {
		t.Fatalf("rules %q", text)
	}
	return rules
}

// upload is a request with a body, of known length when that is not negative. It has a GetBody, as
// the relay's has.
func upload(h http.Header, length int64, body func() io.Reader) *http.Request {
	r := httptest.NewRequest("POST", "https://example.com/", nil)
	r.Header = h.Clone()
	r.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(body()), nil }
	r.Body, _ = r.GetBody()
	if r.ContentLength = length; length >= 0 {
		r.Header.Set("Content-Length", fmt.Sprint(length))
	}
	return r
}

// sent is what the origin gets, and again when it is sent again.
func sent(t *testing.T, r *http.Request) string {
	t.Helper()
	fresh, err := r.GetBody()
	if err != nil {
		t.Fatal(err)
	}
	first, err := io.ReadAll(fresh)
	if err != nil {
		t.Fatal(err)
	}
	if fresh, err = r.GetBody(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(fresh)
	if err != nil || string(got) != string(first) {
		t.Errorf("sent again: %q, %v, and not %q", got, err, first)
	}
	return string(got)
}

func TestRequestTables(t *testing.T) {
	for _, c := range bodyCases(t) {
		t.Run(c.where, func(t *testing.T) {
			whole := upload(c.header, int64(len(c.in)), func() io.Reader { return strings.NewReader(c.in) })
			c.m.Request(whole)
			if got := sent(t, whole); got != c.want || whole.ContentLength != int64(len(got)) || whole.Header.Get("Content-Length") != fmt.Sprint(len(got)) {
				t.Errorf("\n got %d %q\nwant %q", whole.ContentLength, got, c.want)
			}
			streamed := upload(c.header, -1, func() io.Reader { return iotest.OneByteReader(strings.NewReader(c.in)) })
			c.m.Request(streamed)
			if got := sent(t, streamed); got != c.want || streamed.ContentLength != -1 {
				t.Errorf("streamed\n got %q\nwant %q", got, c.want)
			}
		})
	}
}

// TestLongBodies: what is over Rules.BodyBytes has no length any more, unless it is an upload.
func TestLongBodies(t *testing.T) {
	m := parseMap(t, fuzzMaps[0]).WithRules(Rules{BodyBytes: 400})
	long := strings.Repeat("x", 500)
	field := func(name, value string) string {
		return "\r\n--b\r\nContent-Disposition: form-data; name=" + name + "\r\n\r\n" + value
	}
	const url, mapped = "https://example.cn/", "https://example.com/"
	for _, c := range []struct {
		name, kind, in, want string
		chunked              bool
	}{
		{"text", "application/json", long + url, long + mapped, true},
		{"text without a name", "application/json", long, long, true},
		{"binary", "image/png", long + url, long + url, false},
		{"file at the end", "multipart/form-data; boundary=b", field("a", url) + field("f; filename=x", long+url) + "\r\n--b--", field("a", mapped) + field("f; filename=x", long+url) + "\r\n--b--", false},
		{"field behind the file", "multipart/form-data; boundary=b", field("f; filename=x", long) + field("a", url) + "\r\n--b--", field("f; filename=x", long) + field("a", url) + "\r\n--b--", false},
		{"boundary across", "multipart/form-data; boundary=b", field("a", url) + field("f; filename=x", long[:400-2*len(field("", ""))-len(url)-len("af; filename=x")-5]+"\r\n--bold") + "\r\n--b--", field("a", mapped) + field("f; filename=x", long[:400-2*len(field("", ""))-len(url)-len("af; filename=x")-5]+"\r\n--bold") + "\r\n--b--", false},
		{"long field", "multipart/form-data; boundary=b", field("a", long+url) + field("f; filename=x", url) + "\r\n--b--", field("a", long+mapped) + field("f; filename=x", url) + "\r\n--b--", true},
		{"short file, long field", "multipart/form-data; boundary=b", field("f; filename=x", url) + field("a", long+url), field("f; filename=x", url) + field("a", long+mapped), true},
	} {
		r := upload(http.Header{"Content-Type": {c.kind}, "Content-Digest": {"sha-256=:x:"}}, int64(len(c.in)), func() io.Reader { return strings.NewReader(c.in) })
		m.Request(r)
		got, err := io.ReadAll(r.Body)
		if err != nil || string(got) != c.want || (r.ContentLength < 0) != c.chunked || r.ContentLength >= 0 && r.ContentLength != int64(len(got)) {
			t.Errorf("%s: length %d, %v\n got %q\nwant %q", c.name, r.ContentLength, err, got, c.want)
		}
		if kept := r.Header.Get("Content-Digest") != ""; kept != (!c.chunked && c.in == c.want) {
			t.Errorf("%s: Content-Digest kept %v", c.name, kept)
		}
	}
}

// TestSendAgain: an upload that is longer than what is kept is sent again only while nothing more
// was read, and the attempt before reads nothing then.
func TestSendAgain(t *testing.T) {
	m := parseMap(t, fuzzMaps[0]).WithRules(Rules{BodyBytes: 100})
	in := "--b\r\nContent-Disposition: form-data; name=f; filename=x\r\n\r\n" + strings.Repeat("x", 1000)
	r := upload(http.Header{"Content-Type": {"multipart/form-data; boundary=b"}}, int64(len(in)), func() io.Reader { return strings.NewReader(in) })
	m.Request(r)
	first := r.Body
	if _, err := io.ReadFull(first, make([]byte, 100)); err != nil {
		t.Fatal(err)
	}
	second, err := r.GetBody()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := first.Read(make([]byte, 100)); err == nil {
		t.Errorf("the attempt before read %d bytes more", n)
	}
	if got, err := io.ReadAll(second); string(got) != in || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := r.GetBody(); err == nil || err.Error() != "send the body again: over 100 bytes were sent already" {
		t.Errorf("sent again: %v", err)
	}
}

// TestBrokenBodies: an error of the client's body comes out when the body is sent, and nothing of
// the body before it.
func TestBrokenBodies(t *testing.T) {
	m := parseMap(t, fuzzMaps[0]).WithRules(Rules{BodyBytes: 100})
	broken := errors.New("client left")
	for _, c := range []struct {
		name, kind string
		length     int64
		in         io.Reader
		want       error
	}{
		{"whole", "text/plain", 60, io.MultiReader(strings.NewReader("https://example.cn/"), iotest.ErrReader(broken)), broken},
		{"short", "text/plain", 60, strings.NewReader("https://example.cn/"), io.ErrUnexpectedEOF},
		{"long form", "multipart/form-data; boundary=b", 600, io.MultiReader(strings.NewReader("--b\r\n"), iotest.ErrReader(broken)), broken},
		{"short form", "multipart/form-data; boundary=b", 600, strings.NewReader("--b\r\n"), io.ErrUnexpectedEOF},
	} {
		r := upload(http.Header{"Content-Type": {c.kind}}, c.length, func() io.Reader { return c.in })
		m.Request(r)
		if got, err := io.ReadAll(r.Body); !errors.Is(err, c.want) || len(got) > 0 || r.ContentLength != c.length {
			t.Errorf("%s: %q, %v", c.name, got, err)
		}
	}
	r := upload(http.Header{"Content-Type": {"text/plain"}}, 10, func() io.Reader { return strings.NewReader("eleven byte") })
	m.Request(r)
	if _, err := io.ReadAll(r.Body); err == nil || err.Error() != "request body is longer than its Content-Length, 10" {
		t.Errorf("too long: %v", err)
	}
	r = upload(http.Header{"Content-Type": {"text/plain"}}, -1, func() io.Reader {
		return io.MultiReader(strings.NewReader("https://example.cn/ http"), iotest.ErrReader(broken))
	})
	m.Request(r)
	if got, err := io.ReadAll(r.Body); !errors.Is(err, broken) || string(got) != "https://example.com/ " {
		t.Errorf("streamed: %q, %v", got, err)
	}
}

// TestStreamedAtOnce: what is certain of a streamed body goes on before more of it comes.
func TestStreamedAtOnce(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	in, client := io.Pipe()
	r := httptest.NewRequest("POST", "https://example.com/", in)
	r.Header.Set("Content-Type", "application/x-ndjson")
	r.ContentLength = -1
	m.Request(r)
	buf := make([]byte, 100)
	for range 3 {
		go io.WriteString(client, `{"a":"https://example.cn/"}`+"\n")
		if n, err := r.Body.Read(buf); err != nil || string(buf[:n]) != `{"a":"https://example.com/"}`+"\n" {
			t.Fatalf("%q, %v", buf[:n], err)
		}
	}
	closed := make(chan error)
	go func() { closed <- r.Body.Close() }() // while it is read, by net/http's transport
	if n, err := r.Body.Read(buf); err == nil {
		t.Errorf("read %q of a closed body", buf[:n])
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	if _, err := r.Body.Read(buf); !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("after the end: %v", err)
	}
}

func TestRequestDigests(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	sum := sha256.Sum256([]byte("https://example.com/"))
	anew := "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
	for _, c := range []struct{ body, name, value, want string }{
		{"https://example.cn/", "Content-Digest", "sha-256=:x:, unixsum=:y:", anew},
		{"https://example.cn/", "Repr-Digest", "md5=:x:", ""},
		{"https://example.cn/", "Digest", "SHA-256=x", ""},
		{"https://example.cn/", "Content-Md5", "x", ""},
		{"https://other.cn/", "Content-Digest", "sha-256=:x:, unixsum=:y:", "sha-256=:x:, unixsum=:y:"},
		{"https://other.cn/", "Content-Md5", "x", "x"},
	} {
		r := upload(http.Header{"Content-Type": {"text/plain"}, c.name: {c.value}}, int64(len(c.body)), func() io.Reader { return strings.NewReader(c.body) })
		r.Trailer = http.Header{"Digest": {"x"}, "Server-Timing": {"y"}}
		m.Request(r)
		if got := r.Header.Get(c.name); got != c.want {
			t.Errorf("%s of %s: %q, want %q", c.name, c.body, got, c.want)
		}
		if changed := r.Trailer.Get("Digest") == ""; changed != (c.body == "https://example.cn/") || r.Trailer.Get("Server-Timing") != "y" {
			t.Errorf("%s: trailer %v", c.body, r.Trailer)
		}
	}
	r := upload(http.Header{"Content-Type": {"text/plain"}, "Content-Digest": {"SHA-512=:x:"}}, 19, func() io.Reader { return strings.NewReader("https://example.cn/") })
	m.Request(r)
	if got := r.Header.Get("Content-Digest"); !strings.HasPrefix(got, "sha-512=:") || len(got) != len("sha-512=::")+88 {
		t.Errorf("got %q", got)
	}
}

// TestHostileForms: what never ends keeps no memory.
func TestHostileForms(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	for name, text := range map[string]string{
		"header":     "--b\r\n" + strings.Repeat("A: b\r\n", 100_000),
		"padding":    "--b" + strings.Repeat(" ", 100_000),
		"hyphens":    strings.Repeat("-", 100_000),
		"boundaries": strings.Repeat("\r\n--b", 100_000),
		"returns":    strings.Repeat("\r", 100_000),
		"parts":      strings.Repeat("--b\r\n\r\n\r\n", 50_000),
	} {
		f := newForm(m, "b")
		var out []byte
		for rest := text; rest != ""; {
			n := min(len(rest), 1000)
			out = f.Append(out, []byte(rest[:n]), n == len(rest))
			if rest = rest[n:]; len(f.rest) > maxPartHead+1000 {
				t.Fatalf("%s: %d bytes held", name, len(f.rest))
			}
		}
		if string(out) != text {
			t.Errorf("%s changed", name)
		}
	}
}

// partOf is one part as package mime/multipart sees it.
type partOf struct {
	header  string
	kind    partKind
	content string
}

type partKind int

const (
	aField  partKind = iota
	aFile            // it has a filename
	aRiddle          // "filename" is in its disposition, but not as a parameter that the package knows
)

func kindOf(p *multipart.Part) partKind {
	switch {
	case p.FileName() != "":
		return aFile
	case strings.Contains(strings.ToLower(p.Header.Get("Content-Disposition")), "filename"):
		return aRiddle
	}
	return aField
}

// partsOf is what that package makes of a form, ok if it is whole.
func partsOf(text string) (parts []partOf, ok bool) {
	r := multipart.NewReader(strings.NewReader(text), "b")
	for {
		p, err := r.NextRawPart()
		if err != nil {
			return parts, err == io.EOF
		}
		content, err := io.ReadAll(p)
		if err != nil {
			return parts, false
		}
		parts = append(parts, partOf{fmt.Sprint(p.Header), kindOf(p), string(content)})
	}
}

// formPieces are what fuzzed forms are made of: byte i of the input is piece i.
var formPieces = []string{
	"\r\n--b\r\n", "--b\r\n", "\r\n--b--", "\r\n", "\r\n\r\n", "\r", "\n", "--b", "-", "b", " ", "\t", "--b \t\r\n", "\r\n--bc",
	"Content-Disposition: form-data; name=a\r\n\r\n", "Content-Disposition: form-data; name=a; filename=x\r\n\r\n", "Content-Type: application/json\r\n",
	"Content-Type: image/png\r\n", "Content-Type: text/plain; charset=utf-16\r\n", "\r\n--b\r\nContent-Disposition: form-data; name=a\r\n\r\n",
	"\r\n--b\r\nContent-Disposition: form-data; name=f; filename=x\r\n\r\n", "https://example.cn/", "//example.cn", "https:", "//exam", "ple.cn", "x", "中", "\x00",
}

// FuzzForm: however a form is cut, it comes out the same; and every part is what it was, but for
// the URLs in fields.
func FuzzForm(f *testing.F) {
	for _, c := range bodyCases(f) {
		f.Add([]byte(c.in), uint64(1), false)
	}
	f.Add([]byte{1, 14, 21, 0, 15, 21, 2}, uint64(2), true)
	m := parseMap(f, fuzzMaps[0])
	f.Fuzz(func(t *testing.T, input []byte, seed uint64, composed bool) {
		text := string(input)
		if composed {
			var b strings.Builder
			for _, c := range input[:min(len(input), 200)] {
				b.WriteString(formPieces[int(c)%len(formPieces)])
			}
			text = b.String()
		}
		checkForm(t, m, text, seed)
	})
}

func TestRandomForms(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	rng := rand.New(rand.NewPCG(8, 8))
	changed := 0
	for range 20_000 {
		text := "--b\r\n" + formPieces[14+rng.IntN(6)]
		for range rng.IntN(20) {
			text += formPieces[rng.IntN(len(formPieces))]
		}
		changed += checkForm(t, m, text, rng.Uint64())
	}
	if changed < 1000 {
		t.Errorf("only %d forms had a URL to exchange", changed)
	}
}

// checkForm holds the properties of one form, and gives 1 when it changed.
func checkForm(t *testing.T, m *Map, text string, seed uint64) (changed int) {
	t.Helper()
	want := string(newForm(m, "b").Append(nil, []byte(text), true))
	rng := rand.New(rand.NewPCG(seed, 1))
	form, src, out := newForm(m, "b"), []byte(text), []byte(nil)
	for longest := 1 + rng.IntN(40); ; {
		n := min(len(src), 1+rng.IntN(longest))
		out = form.Append(out, bytes.Clone(src[:n]), n == len(src))
		if src = src[n:]; len(src) == 0 {
			break
		}
	}
	if string(out) != want {
		t.Fatalf("in chunks\ntext %q\n got %q\nwant %q", text, out, want)
	}
	if want != text {
		changed = 1
	}
	before, ok := partsOf(text)
	if !ok {
		return changed
	}
	after, ok := partsOf(want)
	same := func(a, b partOf) bool {
		if a.content != b.content && a.kind != aFile {
			a.content = m.ToOrigin().String(a.content)
		}
		return a == b
	}
	if !ok || !slices.EqualFunc(before, after, same) {
		t.Fatalf("text %q\nbefore %+v\n after %+v", text, before, after)
	}
	return changed
}

// TestNoBody: a request without a body stays as it is, at no cost.
func TestNoBody(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	r := httptest.NewRequest("GET", "https://example.com/", nil)
	r.Header.Set("Content-Type", "application/json")
	for _, body := range []io.ReadCloser{nil, http.NoBody} {
		r.Body = body
		if n := testing.AllocsPerRun(10, func() { m.Request(r) }); n != 0 || r.Body != body {
			t.Errorf("%v allocations, body %v", n, r.Body)
		}
	}
}

// BenchmarkRequestBody is a body through Request: a form, an API call, an upload.
func BenchmarkRequestBody(b *testing.B) {
	m := parseMap(b, fuzzMaps[0])
	file := strings.Repeat("\x00\xff\r\n0123456789abcdef", 50_000)
	for _, c := range []struct{ name, kind, body string }{
		{"none", "", ""},
		{"form", "application/x-www-form-urlencoded", strings.Repeat("a=b&", 50) + "back=https%3A%2F%2Fexample.cn%2F"},
		{"json", "application/json", string(page(40<<10, 4, []string{"example.cn"}))},
		{"upload", "multipart/form-data; boundary=b", "--b\r\nContent-Disposition: form-data; name=f; filename=x\r\n\r\n" + file + "\r\n--b--\r\n"},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.SetBytes(int64(len(c.body)))
			b.ReportAllocs()
			r := &http.Request{Method: "POST"}
			h := http.Header{"Content-Type": {c.kind}}
			for b.Loop() {
				r.Header, r.Body, r.ContentLength = h, io.NopCloser(strings.NewReader(c.body)), int64(len(c.body))
				if c.body == "" {
					r.Body = nil
				}
				m.Request(r)
				if r.Body != nil {
					io.Copy(io.Discard, r.Body)
				}
			}
		})
	}
}
