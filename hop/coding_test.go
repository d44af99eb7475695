package hop_test

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"causeway/hop"
)

// keeping is an encoder that keeps what it gets until it must give it.
type keeping struct {
	dst   io.Writer
	kept  bytes.Buffer
	freed *int
}

func (k *keeping) Write(p []byte) (int, error) { return k.kept.Write(p) }

func (k *keeping) Flush() error {
	_, err := k.dst.Write([]byte(strings.ToUpper(k.kept.String())))
	k.kept.Reset()
	return err
}

func (k *keeping) Close() error {
	k.kept.WriteString("!")
	return k.Flush()
}

func (k *keeping) Free() { *k.freed++ }

// What an encoder keeps goes out when the body pauses, in the middle of a
// buffer and right behind a full one, and the rest at its end; it is let go of
// once, also when the body breaks.
func TestAnswerEncodes(t *testing.T) {
	for _, size := range []int{10, 60_000} {
		for _, broken := range []bool{false, true} {
			freed, sent := 0, 0
			read, write := io.Pipe()
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				res := &http.Response{StatusCode: 200, Header: http.Header{"Content-Length": {"7"}}, Body: read, ContentLength: -1}
				if err := hop.Answer(w, r, res, hop.Options{
					Wrote: func(n int) { sent += n },
					Encode: func(h http.Header, _ int, dst io.Writer) hop.Encoder {
						delete(h, "Content-Length")
						return &keeping{dst: dst, freed: &freed}
					},
				}); err != nil {
					panic(http.ErrAbortHandler)
				}
			}))
			go func() { _, _ = io.WriteString(write, "a") }()
			res, err := http.Get(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(res.Body, make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.WriteString(write, strings.Repeat("a", size)) }()
			first := make([]byte, size)
			if _, err := io.ReadFull(res.Body, first); err != nil || strings.Trim(string(first), "A") != "" {
				t.Fatalf("%d bytes before the pause: %.20q, %v", size, first, err)
			}
			if broken {
				write.CloseWithError(io.ErrUnexpectedEOF)
			} else {
				write.Close()
			}
			rest, err := io.ReadAll(res.Body)
			if broken == (err == nil) || !broken && string(rest) != "!" {
				t.Errorf("%d bytes, broken %v: ended with %q, %v", size, broken, rest, err)
			}
			res.Body.Close()
			server.Close()
			if freed != 1 || sent != 1+size+len(rest) {
				t.Errorf("%d bytes, broken %v: let go of %d times, %d bytes sent", size, broken, freed, sent)
			}
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

// The fields of a coding are read as they were set, and leave nothing.
func TestCoding(t *testing.T) {
	for _, length := range []int64{-1, 0, 4711} {
		h := http.Header{}
		hop.SetCoding(h, "br", length)
		if coding, n := hop.TakeCoding(h); coding != "br" || n != length || len(h) != 0 {
			t.Errorf("length %d: %q, %d, left %v", length, coding, n, h)
		}
	}
	h := http.Header{hop.Prefix + "Length": {"-5"}}
	if coding, n := hop.TakeCoding(h); coding != "" || n != -1 || len(h) != 0 {
		t.Errorf("%q, %d, left %v", coding, n, h)
	}
}

// What is left out of the forwarding fields is made anew, and what an older node
// sends stays.
func TestForwardedAnew(t *testing.T) {
	full, lean := http.Header{}, http.Header{}
	hop.SetForwarded(full, "2001:db8::1", "example.cn:8443", "https")
	hop.SetForwarded(lean, "2001:db8::1", "example.cn:8443", "https")
	hop.LeanForwarded(lean)
	if len(lean) != 2 {
		t.Errorf("left is %v", lean)
	}
	hop.RestoreForwarded(lean, "example.cn:8443")
	for name := range full {
		if lean.Get(name) != full.Get(name) {
			t.Errorf("%s: %q, was %q", name, lean.Get(name), full.Get(name))
		}
	}
	full.Set("Forwarded", "for=192.0.2.1")
	hop.RestoreForwarded(full, "example.cn")
	if got := full.Get("Forwarded"); got != "for=192.0.2.1" {
		t.Errorf("became %q", got)
	}
}
