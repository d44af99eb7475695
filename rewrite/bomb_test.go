package rewrite

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/gzip"
)

// bomb is so many zeros in a coding, as small as it gets, behind some text.
func bomb(t *testing.T, coding, lead string, megabytes int) []byte {
	t.Helper()
	var out bytes.Buffer
	var e io.WriteCloser = closers[coding](&out)
	if coding == "gzip" {
		e, _ = gzip.NewWriterLevel(&out, 9)
	}
	_, _ = io.WriteString(e, lead)
	zeros := make([]byte, 1<<20)
	for range megabytes {
		_, _ = e.Write(zeros)
	}
	if err := e.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestBombGivesNothing: what is a bomb from its beginning on fails before a byte of it is given, so
// that the client is told.
func TestBombGivesNothing(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	for i, c := range []struct {
		name, coding, fields, accept, lead string
		known                              bool
		size                               int // of one read
	}{
		{name: "gzip", coding: "gzip"},
		{name: "gzip, closed again", coding: "gzip", accept: "gzip"},
		{name: "gzip for br", coding: "gzip", accept: "br"},
		{name: "br", coding: "br", accept: "br"},
		{name: "zstd", coding: "zstd", accept: "zstd"},
		{name: "deflate", coding: "raw", accept: "gzip"},
		{name: "with its length", coding: "br", known: true},
		{name: "with its length", coding: "gzip", known: true},
		{name: "in small pieces", coding: "gzip", size: 100},
		{name: "in small pieces", coding: "br", size: 10},
		{name: "behind a page's head", coding: "gzip", lead: "<!doctype html><html><head><title>Tea</title>"},
		{name: "a page that is waited for", coding: "zstd", fields: "Content-Security-Policy: script-src 'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"},
	} {
		if raceEnabled && i > 1 {
			break // each takes seconds
		}
		coded := bomb(t, c.coding, c.lead, 65)
		var src io.Reader = bytes.NewReader(coded)
		if c.size > 0 {
			src = &pieces{coded, c.size}
		}
		length := int64(-1)
		if c.known {
			length = int64(len(coded))
		}
		lines := []string{"Content-Type: text/html", "Content-Encoding: " + tag(c.coding)}
		if c.fields != "" {
			lines = append(lines, c.fields)
		}
		res := answer(src, length, lines...)
		m.Response(res, Options{AcceptEncoding: c.accept})
		n, err := io.Copy(io.Discard, res.Body)
		if n > 0 || !errors.Is(err, ErrRatio) {
			t.Errorf("%s, %s, %d bytes: gave %d, %v", c.name, c.coding, len(coded), n, err)
		}
		if h, ok := res.Body.(interface{ Holding() bool }); !ok || !h.Holding() {
			t.Errorf("%s, %s: the header may go out before the failure is heard of", c.name, c.coding)
		}
		res.Body.Close()
	}
}

// TestNoBomb: text that grows as a bomb does and ends, or goes on as text, comes whole.
func TestNoBomb(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	rest, _ := sampleText(200_000)
	for name, in := range map[string]string{
		"zeros":               strings.Repeat("\x00", 3<<20),
		"zeros, and a page":   strings.Repeat("\x00", 3<<20) + rest,
		"a page, and zeros":   rest + strings.Repeat("\x00", 3<<20),
		"one URL, again":      strings.Repeat(`"https://example.com/"`, 100_000),
		"a page":              rest,
		"64 KiB":              strings.Repeat(" ", 64<<10),
		"under 64 MB of text": strings.Repeat(" ", maxFreeText),
	} {
		want := m.ToPublic().String(in)
		for coding := range closers {
			coded := closeIn(coding, in)
			half := io.MultiReader(strings.NewReader(coded[:len(coded)/2]), strings.NewReader(coded[len(coded)/2:]))
			for i, src := range []io.Reader{strings.NewReader(coded), &pieces{[]byte(coded), 50}, strings.NewReader(coded), half} {
				length := int64(-1)
				if i > 1 { // what is short is read ahead
					length = int64(len(coded))
				}
				res := answer(src, length, "Content-Type: text/plain", "Content-Encoding: "+tag(coding))
				m.Response(res, Options{})
				got, err := io.ReadAll(res.Body)
				if err != nil || string(got) != want {
					t.Errorf("%s, %s: %d bytes of %d, %v", name, coding, len(got), len(want), err)
				}
				res.Body.Close()
			}
			if raceEnabled {
				break
			}
		}
	}
}

// TestSuspiciousIsWaitedFor: what may be a bomb and stops coming is given after maxLook; an event,
// and what is no such text, at once. Closing it ends everything.
func TestSuspiciousIsWaitedFor(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	page, _ := sampleText(20_000)
	for _, c := range []struct {
		name, kind, text string
		want             time.Duration
	}{
		{"suspicious", "text/html", strings.Repeat("\n", 100_000), maxLook},
		{"an event", eventStream, "data: " + strings.Repeat("x", 100_000) + "\n\n", 0},
		{"a page", "text/html", page, 0},
		{"a few words", "text/html", "https://example.com/ and so on", 0},
	} {
		for _, coding := range []string{"gzip", "br"} { // zstd's decoders hold channels, and are pooled
			synctest.Test(t, func(t *testing.T) {
				var coded bytes.Buffer
				e := closers[coding](&coded)
				_, _ = io.WriteString(e, c.text)
				_ = e.Flush()
				r, w := io.Pipe()
				go func() { _, _ = w.Write(coded.Bytes()) }()
				res := answer(r, -1, "Content-Type: "+c.kind, "Content-Encoding: "+coding)
				res.Body = r
				begun := time.Now()
				m.Response(res, Options{})
				var first [10]byte
				n, err := res.Body.Read(first[:])
				if took := time.Since(begun); n == 0 || err != nil || took != c.want {
					t.Errorf("%s, %s: %d bytes, %v after %v, want %v", c.name, coding, n, err, took, c.want)
				}
				res.Body.Close()
			})
		}
	}
}

// TestSuspiciousGoesOn: what was waited for in vain goes on when more comes.
func TestSuspiciousGoesOn(t *testing.T) {
	m := parseMap(t, fuzzMaps[0])
	for _, coding := range []string{"gzip", "br"} {
		synctest.Test(t, func(t *testing.T) {
			r, w := io.Pipe()
			go func() {
				e := closers[coding](w)
				for _, text := range []string{strings.Repeat("\n", 100_000), "https://example.com/", strings.Repeat(" ", 100_000)} {
					_, _ = io.WriteString(e, text)
					_ = e.Flush()
					time.Sleep(3 * maxLook)
				}
				_ = e.Close()
				_ = w.Close()
			}()
			res := answer(r, -1, "Content-Type: text/html", "Content-Encoding: "+coding)
			res.Body = r
			m.Response(res, Options{AcceptEncoding: coding})
			got, err := openFrom(coding, res.Body)
			if want := strings.Repeat("\n", 100_000) + "https://example.cn/" + strings.Repeat(" ", 100_000); got != want || err != nil {
				t.Errorf("%s: %d bytes, %v", coding, len(got), err)
			}
			res.Body.Close()
		})
	}
}

// TestBombsAreNotSought: an ordinary page in a coding takes no memory for that: 13 to 16
// allocations, as without.
func TestBombsAreNotSought(t *testing.T) {
	if raceEnabled {
		t.Skip("pools lose what they hold under the race detector")
	}
	m := parseMap(t, fuzzMaps[0])
	page, _ := sampleText(75_000)
	for _, coding := range []string{"gzip", "br", "zstd"} {
		coded := closeIn(coding, page)
		ask := func() {
			res := &http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/html"}, "Content-Encoding": {coding}},
				ContentLength: -1, Body: io.NopCloser(strings.NewReader(coded))}
			m.Response(res, Options{})
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Fatal(err)
			}
			res.Body.Close()
		}
		if n := testing.AllocsPerRun(20, ask); n > 20 {
			t.Errorf("%s: %v allocations", coding, n)
		}
	}
}
