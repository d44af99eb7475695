package rewrite

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/flate"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// closers write each coding with the libraries' own encoders. "raw" is deflate without zlib.
var closers = map[string]func(io.Writer) encoder{
	"gzip":    func(w io.Writer) encoder { return gzip.NewWriter(w) },
	"deflate": func(w io.Writer) encoder { return zlib.NewWriter(w) },
	"raw": func(w io.Writer) encoder {
		e, _ := flate.NewWriter(w, 5)
		return e
	},
	"br": func(w io.Writer) encoder { return brotli.NewWriterLevel(w, 3) },
	"zstd": func(w io.Writer) encoder {
		e, _ := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		return e
	},
}

// closeIn is text in a coding.
func closeIn(coding, text string) string {
	if coding == "" {
		return text
	}
	var b bytes.Buffer
	e := closers[coding](&b)
	io.WriteString(e, text)
	e.Close()
	return b.String()
}

// openFrom reads a coding to its end.
func openFrom(coding string, r io.Reader) (string, error) {
	var err error
	switch coding {
	case "gzip":
		r, err = gzip.NewReader(r)
	case "deflate":
		r, err = zlib.NewReader(r)
	case "br":
		r = brotli.NewReader(r)
	case "zstd":
		var d *zstd.Decoder
		d, err = zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow))
		r = d
	}
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(r)
	return string(text), err
}

// answer is a 200 with "Name: value" lines.
func answer(body io.Reader, length int64, lines ...string) *http.Response {
	h := http.Header{}
	for _, line := range lines {
		name, value, _ := strings.Cut(line, ": ")
		h.Add(name, value)
	}
	if length >= 0 {
		h.Set("Content-Length", strconv.FormatInt(length, 10))
	}
	req, _ := http.NewRequest("GET", "https://example.com/", nil)
	return &http.Response{StatusCode: 200, Header: h, Body: io.NopCloser(body), ContentLength: length, Request: req}
}

// tag is the coding's name in Content-Encoding.
func tag(coding string) string {
	if coding == "raw" {
		return "deflate"
	}
	return coding
}

func sampleText(size int) (in, want string) {
	in = string(page(size, 5, []string{"example.com"}))
	return in, strings.ReplaceAll(in, "https://example.com/", "https://example.cn/")
}

func TestBodyInEveryCoding(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	for _, size := range []int{0, 1, 100, 5000, 300_000} {
		in, _ := sampleText(size)
		in = in[:size]
		want := m.ToPublic().String(in)
		for _, came := range []string{"", "gzip", "deflate", "raw", "br", "zstd"} {
			coded := closeIn(came, in)
			for _, accept := range []string{"", "gzip", "deflate", "br", "zstd", "gzip, br;q=0.9", "gzip;q=0, *"} {
				for _, known := range []bool{true, false} {
					name := fmt.Sprintf("%d bytes of %q for %q, length known %v", size, came, accept, known)
					length := int64(-1)
					if known {
						length = int64(len(coded))
					}
					lines := []string{"Content-Type: text/html"}
					if came != "" {
						lines = append(lines, "Content-Encoding: "+tag(came))
					}
					res := answer(strings.NewReader(coded), length, lines...)
					m.Response(res, Options{AcceptEncoding: accept})
					var raw bytes.Buffer
					if _, err := io.Copy(&raw, res.Body); err != nil {
						t.Fatalf("%s: %v", name, err)
					}
					res.Body.Close()
					if res.ContentLength >= 0 && (res.ContentLength != int64(raw.Len()) || res.Header.Get("Content-Length") != strconv.Itoa(raw.Len())) {
						t.Fatalf("%s: Content-Length %d, %d bytes", name, res.ContentLength, raw.Len())
					}
					if small := known && len(coded) <= aheadSize; small != (res.ContentLength >= 0) {
						t.Fatalf("%s: Content-Length %d", name, res.ContentLength)
					}
					coding := res.Header.Get("Content-Encoding")
					if coding != "" && quality(accept, coding) == 0 {
						t.Fatalf("%s: coding %s", name, coding)
					}
					if came != "" && size > 0 && quality(accept, tag(came)) > 0 && coding != tag(came) {
						t.Fatalf("%s: coding %s", name, coding)
					}
					got, err := openFrom(coding, &raw)
					if err != nil || got != want {
						t.Fatalf("%s: %v\n got %d bytes %.200q\nwant %d bytes %.200q", name, err, len(got), got, len(want), want)
					}
				}
			}
		}
	}
}

func TestCodingOnCoding(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	in, want := sampleText(100_000)
	coded := closeIn("br", closeIn("gzip", in))
	res := answer(strings.NewReader(coded), -1, "Content-Type: text/html", "Content-Encoding: gzip, br")
	m.Response(res, Options{AcceptEncoding: "gzip"})
	if got, err := openFrom(res.Header.Get("Content-Encoding"), res.Body); err != nil || got != want {
		t.Errorf("%v, %.100q", err, got)
	}
	res.Body.Close()
}

// TestBrokenBody: what is cut short or false ends with an error, never as if it were whole.
func TestBrokenBody(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	in, _ := sampleText(50_000)
	check := func(name, coding, coded string, known bool, end error) {
		t.Helper()
		body := io.MultiReader(strings.NewReader(coded), iotest.ErrReader(end))
		length := int64(-1)
		if known {
			length = int64(len(coded))
		}
		res := answer(body, length, "Content-Type: text/html", "Content-Encoding: "+tag(coding))
		m.Response(res, Options{AcceptEncoding: "gzip, br, zstd, deflate"})
		_, err := io.Copy(io.Discard, res.Body)
		if err == nil {
			t.Errorf("%s: no error", name)
		}
		if end != io.EOF && !errors.Is(err, end) {
			t.Errorf("%s: error %v", name, err)
		}
		res.Body.Close()
	}
	gone := errors.New("origin gone")
	for coding := range closers {
		coded := closeIn(coding, in)
		for _, n := range []int{1, 2, 5, 9, 20, len(coded) / 2, len(coded) - 9, len(coded) - 1} {
			for _, known := range []bool{true, false} {
				check(fmt.Sprintf("%s cut at %d of %d", coding, n, len(coded)), coding, coded[:n], known, io.EOF)
			}
			check(fmt.Sprintf("%s lost at %d of %d", coding, n, len(coded)), coding, coded[:n], false, gone)
		}
		check(coding+" of nonsense", coding, strings.Repeat("nonsense ", 1000), false, io.EOF)
		check(coding+" lost at the end", coding, coded, false, gone)
	}
	check("identity lost", "", in, false, gone)
}

func TestRatio(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	for _, coding := range []string{"gzip", "zstd"} {
		var bomb bytes.Buffer
		e := closers[coding](&bomb)
		if coding == "gzip" {
			e, _ = gzip.NewWriterLevel(&bomb, 9)
		}
		zeros := make([]byte, 1<<20)
		for range 80 {
			e.Write(zeros)
		}
		e.Close()
		res := answer(bytes.NewReader(bomb.Bytes()), -1, "Content-Type: text/html", "Content-Encoding: "+coding)
		m.Response(res, Options{})
		n, err := io.Copy(io.Discard, res.Body)
		if ratio := 80 << 20 / bomb.Len(); ratio > maxRatio && (!errors.Is(err, ErrRatio) || n > maxFreeText+chunkSize) {
			t.Errorf("%s, 1:%d: %d bytes, %v", coding, ratio, n, err)
		}
		res.Body.Close()
	}
}

// TestEvents: every event is read as soon as the origin has flushed it, whatever the codings.
func TestEvents(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	for _, came := range []string{"", "gzip", "deflate", "raw", "br", "zstd"} {
		for _, accept := range []string{"", "gzip", "deflate", "br", "zstd"} {
			for _, kind := range []string{eventStream, "text/plain"} {
				t.Run(fmt.Sprintf("%s from %q for %q", kind, came, accept), func(t *testing.T) {
					events(t, m, kind, came, accept)
				})
			}
		}
	}
}

// steps is an origin body that gives one piece a Read and blocks, that is fails, when asked for more
// than what has been sent.
type steps struct {
	t      *testing.T
	pieces bytes.Buffer
	done   bool
}

func (s *steps) Read(p []byte) (int, error) {
	if s.pieces.Len() == 0 && !s.done {
		s.t.Error("the body waits for the origin although it has something to give")
		return 0, errors.New("waits")
	}
	return s.pieces.Read(p)
}

func events(t *testing.T, m *Map, kind, came, accept string) {
	origin := &steps{t: t}
	var e encoder
	if came != "" {
		e = closers[came](&origin.pieces)
	}
	send := func(text string) {
		if e == nil {
			origin.pieces.WriteString(text)
			return
		}
		io.WriteString(e, text)
		e.Flush()
	}
	res := answer(origin, -1, "Content-Type: "+kind)
	if came != "" {
		res.Header.Set("Content-Encoding", tag(came))
	}
	m.Response(res, Options{AcceptEncoding: accept})
	var got, want bytes.Buffer
	coding := res.Header.Get("Content-Encoding")
	buf := make([]byte, 64<<10)
	for i := range 20 {
		data := strings.Repeat("x", i*i*7)
		send(fmt.Sprintf("data: https://example.com/%d %s\n\n", i, data))
		fmt.Fprintf(&want, "data: https://example.cn/%d %s\n\n", i, data)
		for origin.pieces.Len() > 0 || opened(coding, got.Bytes()) < want.Len() {
			n, err := res.Body.Read(buf)
			got.Write(buf[:n])
			if err != nil {
				t.Fatalf("event %d: %v", i, err)
			}
		}
	}
	if e != nil {
		e.Close()
	}
	origin.done = true
	rest, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	got.Write(rest)
	if text, err := openFrom(coding, &got); err != nil || text != want.String() {
		t.Errorf("%v\n got %q\nwant %q", err, text, want.String())
	}
	res.Body.Close()
}

// opened is how many bytes of text can be had from the start of a coded body.
func opened(coding string, start []byte) int {
	text, _ := openFrom(coding, bytes.NewReader(start))
	return len(text)
}

// TestBrotliFlush: any blocks and flushes make a stream that the ported decoder reads.
func TestBrotliFlush(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	in, _ := sampleText(400_000)
	w := newBrotliWriter()
	for range 40 {
		var out bytes.Buffer
		w.Reset(&out)
		rest := in[:rng.IntN(len(in))]
		whole := rest
		most := []int{3, 200, 70_000, 200_000}[rng.IntN(4)]
		for n := 0; len(rest) > 0 && n < 200; n++ {
			k := min(len(rest), rng.IntN(most))
			io.WriteString(w, rest[:k])
			rest = rest[k:]
			if rng.IntN(3) == 0 {
				w.Flush()
				if got := opened("br", out.Bytes()); got != len(whole)-len(rest) {
					t.Fatalf("%d bytes can be read after %d", got, len(whole)-len(rest))
				}
			}
		}
		io.WriteString(w, rest)
		w.Close()
		if got, err := openFrom("br", &out); err != nil || got != whole {
			t.Fatalf("%v after %d of %d bytes", err, len(got), len(whole))
		}
	}
}

func FuzzBody(f *testing.F) {
	m := parseMap(f, fuzzMaps[0])
	for i, coding := range []string{"", "gzip", "deflate", "raw", "br", "zstd"} {
		f.Add([]byte(closeIn(coding, "see https://example.com/ and https:\\/\\/example.com")), byte(i), byte(7), uint16(9999))
	}
	names := []string{"", "gzip", "deflate", "br", "zstd"}
	f.Fuzz(func(t *testing.T, data []byte, kinds, piece byte, cutAt uint16) {
		came, accept := names[int(kinds)%5], names[int(kinds)/5%5]
		// as it is: anything may come, nothing may break
		run := func(data []byte, piece int) (string, error) {
			res := answer(&pieces{data, piece}, -1, "Content-Type: text/plain", "Content-Encoding: "+came)
			m.Response(res, Options{AcceptEncoding: accept})
			defer res.Body.Close()
			raw, err := io.ReadAll(res.Body)
			if err != nil {
				return "", err
			}
			return openFrom(res.Header.Get("Content-Encoding"), bytes.NewReader(raw))
		}
		run(data, 1+int(piece))
		// as text: the same in any coding, and never whole when cut
		want := m.ToPublic().String(string(data))
		if wideOf(data[:min(len(data), wideLead)], http.Header{}) != nil {
			return // in UTF-16 it is another text
		}
		coded := []byte(closeIn(came, string(data)))
		if got, err := run(coded, 1+int(piece)); err != nil || got != want {
			t.Fatalf("%q for %q: %v, got %q, want %q", came, accept, err, got, want)
		}
		if n := int(cutAt) % len(append(coded, 0)); came != "" && 0 < n && n < len(coded) {
			if _, err := run(coded[:n], 1+int(piece)); err == nil {
				t.Fatalf("%q cut at %d of %d passed", came, n, len(coded))
			}
		}
	})
}

// pieces gives a few bytes a Read.
type pieces struct {
	data []byte
	size int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.data) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.data[:min(len(p.data), p.size)])
	p.data = p.data[n:]
	return n, nil
}

// A coding inside another that opens to no end of nothing is a bomb too: no
// text comes of it that could be counted.
func TestNestedBomb(t *testing.T) {
	if raceEnabled {
		t.Skip("half a gigabyte through the race detector: make test runs it without too")
	}
	var empty bytes.Buffer
	z := gzip.NewWriter(&empty)
	z.Close()
	var bomb bytes.Buffer
	b := brotli.NewWriterLevel(&bomb, 5)
	for range 8 * maxFreeText / empty.Len() {
		_, _ = b.Write(empty.Bytes())
	}
	b.Close()
	res := &http.Response{StatusCode: 200, ContentLength: -1, Body: io.NopCloser(&bomb),
		Header: http.Header{"Content-Type": {"text/html"}, "Content-Encoding": {"gzip, br"}}}
	m, err := NewMap([]Pair{{Base{"https", "example.cn", ""}, Base{"https", "example.com", ""}}})
	if err != nil {
		t.Fatal(err)
	}
	m.Response(res, Options{})
	if n, err := io.Copy(io.Discard, res.Body); !errors.Is(err, ErrRatio) {
		t.Errorf("%d bytes, %v", n, err)
	}
	res.Body.Close()
}

// TestUntypedInPieces: a body without a type is known for text though the beginning of its coding
// comes alone.
func TestUntypedInPieces(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	in, want := sampleText(5000)
	for coding := range closers {
		for _, n := range []int{1, 2, 10} {
			coded := closeIn(coding, in)
			src := io.MultiReader(strings.NewReader(coded[:n]), strings.NewReader(coded[n:]))
			res := answer(src, -1, "Content-Encoding: "+tag(coding))
			m.Response(res, Options{})
			if got, err := io.ReadAll(res.Body); err != nil || string(got) != want {
				t.Errorf("%s, %d bytes first: %v, %d bytes", coding, n, err, len(got))
			}
		}
	}
}

// TestReadsOfAnySize: however the text comes, and however much is asked for at a time, it is the same.
func TestReadsOfAnySize(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	rng := rand.New(rand.NewPCG(3, 8))
	parts := []string{strings.Repeat("x", 500), "https://example.com/", "<script ", "<p>", "<", "src=a.js>", "https:/", "/example.com", strings.Repeat("text ", 3000)}
	for range 300 {
		var text []byte
		for len(text) < 3*chunkSize {
			text = append(text, parts[rng.IntN(len(parts))]...)
			for n := rng.IntN(3) * rng.IntN(chunkSize); n > 0; n -= 5 {
				text = append(text, "much "...)
			}
		}
		want := m.ToPublic().String(string(text))
		most := []int{passRoom, chunkSize, 4 * chunkSize}[rng.IntN(3)]
		res := answer(&pieces{text, 1 + rng.IntN(2*chunkSize)}, -1, "Content-Type: text/html")
		m.Response(res, Options{})
		var got []byte
		for room := make([]byte, most); ; {
			n, err := res.Body.Read(room)
			if got = append(got, room[:n]...); err == io.EOF {
				break
			} else if err != nil {
				t.Fatal(err)
			}
		}
		if res.Body.Close(); string(got) != want {
			t.Fatalf("%d bytes at a time: got %d, want %d", most, len(got), len(want))
		}
	}
}
