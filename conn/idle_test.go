package conn

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// What is idle for long, and is no socket, does not give an empty Read back before
// there is something to read, or the end: then nothing need be kept ready for it. This
// is net/http's and net's way of doing it, and promised nowhere.
func TestIdle(t *testing.T) {
	pair := func(t *testing.T) (here, there net.Conn) {
		here, there = net.Pipe()
		t.Cleanup(func() { here.Close(); there.Close() })
		return here, there
	}
	for name, open := range map[string]func(t *testing.T) (io.Reader, io.WriteCloser){
		"pipe": func(t *testing.T) (io.Reader, io.WriteCloser) { here, there := pair(t); return here, there },
		"response over HTTP/2": func(t *testing.T) (io.Reader, io.WriteCloser) {
			_, answer, body, out := tunnelPair(t)
			_ = body
			return answer, out
		},
		"request over HTTP/2": func(t *testing.T) (io.Reader, io.WriteCloser) {
			in, _, body, _ := tunnelPair(t)
			return body, in
		},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := open(t)
			type read struct {
				n   int
				err error
			}
			came := make(chan read, 1)
			wait := func() {
				go func() {
					n, err := from.Read(nil)
					came <- read{n, err}
				}()
				select {
				case r := <-came:
					t.Errorf("an empty Read gives %d, %v back, and nothing has come", r.n, r.err)
				case <-time.After(30 * time.Millisecond):
				}
			}
			for _, said := range []string{"one", "and another"} {
				wait()
				sent := make(chan error, 1)
				go func() {
					_, err := io.WriteString(to, said)
					sent <- err
				}()
				if r := <-came; r.n != 0 || r.err != nil {
					t.Fatalf("an empty Read: %d, %v", r.n, r.err)
				}
				got := make([]byte, len(said))
				if _, err := io.ReadFull(from, got); err != nil || string(got) != said {
					t.Fatalf("after it: %q %v", got, err)
				}
				if err := <-sent; err != nil {
					t.Fatal(err)
				}
			}
			wait()
			to.Close()
			if r := <-came; r.n != 0 || r.err != io.EOF {
				t.Errorf("at the end: %d, %v", r.n, r.err)
			}
		})
	}
}

// tunnelPair is a request and its response over HTTP/2, both of which go on: what the
// client writes to in comes out of body, and what the server writes to out of answer.
func tunnelPair(t *testing.T) (in io.WriteCloser, answer io.Reader, body io.Reader, out io.WriteCloser) {
	t.Helper()
	bodies, outs, done := make(chan io.Reader, 1), make(chan http.ResponseWriter, 1), make(chan struct{})
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_ = http.NewResponseController(w).Flush()
		bodies <- r.Body
		outs <- w
		<-done
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	read, write := io.Pipe()
	req, err := http.NewRequest(http.MethodPost, server.URL, read)
	if err != nil {
		t.Fatal(err)
	}
	res, err := server.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	if res.ProtoMajor != 2 {
		t.Fatalf("over %s", res.Proto)
	}
	end := flushed{<-outs, done}
	t.Cleanup(func() {
		write.Close()
		end.Close()
		res.Body.Close()
		server.Close()
	})
	return write, res.Body, <-bodies, end
}

// flushed is a response whose handler Close ends.
type flushed struct {
	http.ResponseWriter
	done chan struct{}
}

func (f flushed) Write(p []byte) (int, error) {
	n, err := f.ResponseWriter.Write(p)
	return n, errors.Join(err, http.NewResponseController(f.ResponseWriter).Flush())
}

func (f flushed) Close() error {
	select {
	case <-f.done:
	default:
		close(f.done)
	}
	return nil
}

// Copy copies whatever the pieces and the kind, and ends with the first failure.
func TestCopy(t *testing.T) {
	long := bytes.Repeat([]byte("0123456789"), 50_000)
	for name, open := range kinds {
		t.Run(name, func(t *testing.T) {
			from, far := open(t)
			go func() {
				for i, size := 0, 1; i < len(long); i, size = i+size, size*2 {
					_, _ = far.Write(long[i:min(len(long), i+size)])
				}
				_ = far.CloseWrite()
			}()
			var got bytes.Buffer
			if n, err := Copy(&got, from); err != nil || n != int64(len(long)) || !bytes.Equal(got.Bytes(), long) {
				t.Errorf("%d bytes of %d, %v", n, len(long), err)
			}
		})
	}
	failed := errors.New("failed")
	if n, err := Copy(failing{failed}, bytes.NewReader(long)); n != 1 || err != failed {
		t.Errorf("a writer that fails: %d, %v", n, err)
	}
	if n, err := Copy(io.Discard, io.MultiReader(bytes.NewReader(long), failing{failed})); n != int64(len(long)) || err != failed {
		t.Errorf("a reader that fails: %d, %v", n, err)
	}
}

// failing takes one byte, and gives none.
type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 1, f.err }
func (f failing) Read(p []byte) (int, error) {
	return 0, f.err
}
