package rewrite

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

// Whatever goes into an encoder, however cut, comes out of a decoder; after a flush all of it,
// before more is asked for.
func TestEncoderToDecoder(t *testing.T) {
	text := string(page(300<<10, 3, []string{"example.com"}))
	asked := errors.New("asked for more than there was")
	for _, coding := range codings {
		for _, piece := range []int{1000, 16 << 10, 100 << 10, len(text)} {
			var line, got bytes.Buffer
			var ended error = asked
			e := NewEncoder(coding, &line)
			o := NewDecoder(coding, io.NopCloser(readerFunc(func(p []byte) (int, error) {
				if line.Len() == 0 {
					return 0, ended
				}
				return line.Read(p)
			})))
			buf := make([]byte, 10<<10)
			for done := 0; done < len(text); {
				n := min(piece, len(text)-done)
				_, _ = io.WriteString(e, text[done:done+n])
				_ = e.Flush()
				for done += n; got.Len() < done; {
					n, err := o.Read(buf)
					if err != nil {
						t.Fatalf("%s in pieces of %d: %v at %d of %d", coding, piece, err, got.Len(), done)
					}
					got.Write(buf[:n])
				}
			}
			_ = e.Close()
			e.Free()
			coded := o.Coded() + int64(line.Len())
			ended = io.EOF
			if rest, err := io.ReadAll(o); err != nil || got.String()+string(rest) != text || o.Coded() != coded {
				t.Fatalf("%s in pieces of %d: %v, %d bytes of %d", coding, piece, err, got.Len()+len(rest), len(text))
			}
			o.Close()
		}
	}
	if n := inCodings.Load(); n != 0 {
		t.Errorf("%d encoders are said to be in use", n)
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// A body that was cut is not whole; one that grows beyond all measure is ours, and opened.
func TestOpenedEnds(t *testing.T) {
	cut := errors.New("the stream was reset")
	zeros := strings.Repeat("\x00", maxFreeText+1<<20)
	for _, coding := range []string{"br", "zstd", "gzip"} {
		whole := closeIn(coding, strings.Repeat("text ", 1000))
		for _, src := range []io.Reader{
			strings.NewReader(whole[:len(whole)/2]),
			io.MultiReader(strings.NewReader(whole), iotest.ErrReader(cut)),
			io.MultiReader(strings.NewReader(whole[:10]), iotest.ErrReader(cut)),
		} {
			if _, err := io.ReadAll(NewDecoder(coding, io.NopCloser(src))); err == nil {
				t.Errorf("%s: a cut body is whole", coding)
			}
		}
		if n, err := io.Copy(io.Discard, NewDecoder(coding, io.NopCloser(strings.NewReader(closeIn(coding, zeros))))); err != nil || n != int64(len(zeros)) {
			t.Errorf("%s: %d bytes, %v", coding, n, err)
		}
		o := NewDecoder(coding, io.NopCloser(strings.NewReader(whole)))
		o.Close()
		if _, err := o.Read(make([]byte, 10)); !errors.Is(err, http.ErrBodyReadAfterClose) {
			t.Errorf("%s: read after close: %v", coding, err)
		}
	}
}

// A body that is closed as it is read opens to what it was, fails as it failed, and leaves no encoder
// behind, whoever ends it.
func TestClosed(t *testing.T) {
	text := string(page(100<<10, 3, []string{"example.com"}))
	c := NewClosed("zstd", io.NopCloser(iotest.OneByteReader(strings.NewReader(text))))
	coded, err := io.ReadAll(c)
	if err != nil || c.Coded() != int64(len(coded)) || len(coded) > len(text)/3 {
		t.Errorf("%d bytes, counted %d, %v", len(coded), c.Coded(), err)
	}
	if got, err := openFrom("zstd", bytes.NewReader(coded)); err != nil || got != text {
		t.Errorf("opened: %d bytes, %v", len(got), err)
	}
	cut := errors.New("the client left")
	if _, err := io.ReadAll(NewClosed("zstd", io.NopCloser(io.MultiReader(strings.NewReader(text), iotest.ErrReader(cut))))); !errors.Is(err, cut) {
		t.Errorf("the client's error became %v", err)
	}
	read, write := io.Pipe()
	c = NewClosed("zstd", read)
	var reader sync.WaitGroup
	reader.Go(func() { _, _ = io.ReadAll(c) })
	_, _ = io.WriteString(write, text[:1000])
	c.Close()
	reader.Wait()
	if n := inCodings.Load(); n != 0 {
		t.Errorf("%d encoders are said to be in use", n)
	}
}

// br as long as there are cores for it, then zstd; what the other node can't open is not chosen.
func TestCrossingCoding(t *testing.T) {
	for accept, want := range map[string]string{"br, zstd": "br", "zstd": "zstd", "br": "br", "gzip": "", "": ""} {
		if got := CrossingCoding(accept); got != want {
			t.Errorf("%q: %q, want %q", accept, got, want)
		}
	}
	var done []func()
	for range 1000 {
		done = append(done, atWork())
	}
	defer func() {
		for _, f := range done {
			f()
		}
	}()
	for accept, want := range map[string]string{"br, zstd": "zstd", "zstd": "zstd", "br": "br"} {
		if got := CrossingCoding(accept); got != want {
			t.Errorf("all cores busy, %q: %q, want %q", accept, got, want)
		}
	}
}

func TestCompressible(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	for _, c := range []struct {
		kind, field, value string
		want               bool
	}{
		{"text/html; charset=utf-8", "", "", true},
		{"application/wasm", "", "", true},
		{"font/ttf", "", "", true},
		{"application/problem+json", "", "", true},
		{"application/octet-stream", "", "", false},
		{"font/woff2", "", "", false},
		{"image/png", "", "", false},
		{"text/event-stream", "", "", false},
		{"", "", "", false},
		{"text/css", "Content-Encoding", "gzip", false},
		{"text/css", "Content-Encoding", "aes128gcm", false},
		{"text/css", "Content-Range", "bytes 0-9/100", false},
		{"text/css", "Cache-Control", "public, no-transform", false},
	} {
		h := http.Header{"Content-Type": {c.kind}}
		if c.field != "" {
			h.Set(c.field, c.value)
		}
		if got := m.Compressible(h); got != c.want {
			t.Errorf("%v: %v", h, got)
		}
	}
}

// An answer for another node has the header that the client gets, with the coding that is best for
// the way where the client takes it, and leaves without it.
func TestUncoded(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	text := strings.Repeat("<a href=\"https://example.com/\">", 100)
	for _, c := range []struct{ came, accept, fields, told string }{
		{"", "gzip, deflate, br, zstd", "", "br"},
		{"gzip", "gzip, deflate, br, zstd", "", "br"},
		{"", "gzip", "", "gzip"},
		{"", "br;q=0.1, gzip", "", "gzip"},
		{"", "", "", ""},
	} {
		res := &http.Response{StatusCode: 200, ContentLength: -1, Header: http.Header{"Content-Type": {"text/html"}}, Body: io.NopCloser(strings.NewReader(closeIn(c.came, text)))}
		if c.came != "" {
			res.Header.Set("Content-Encoding", c.came)
		}
		m.Response(res, Options{AcceptEncoding: c.accept, Uncoded: true})
		told := res.Body.(interface{ Uncoded() string }).Uncoded()
		body, err := io.ReadAll(res.Body)
		if err != nil || told != c.told || res.Header.Get("Content-Encoding") != c.told || !strings.Contains(string(body), "https://example.cn/") {
			t.Errorf("%+v: %q, %q, %v, %.100q", c, told, res.Header, err, body)
		}
	}
	events := &http.Response{StatusCode: 200, ContentLength: -1, Header: http.Header{"Content-Type": {eventStream}, "Content-Encoding": {"gzip"}}, Body: io.NopCloser(strings.NewReader(closeIn("gzip", "data: 1\n\n")))}
	m.Response(events, Options{AcceptEncoding: "gzip, br", Uncoded: true})
	body, err := io.ReadAll(events.Body)
	if opened, err2 := openFrom("gzip", bytes.NewReader(body)); err != nil || err2 != nil || opened != "data: 1\n\n" {
		t.Errorf("an event stream: %q, %v, %v", opened, err, err2)
	}
}
