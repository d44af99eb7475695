package hop

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// atHand is a body that is in memory or in a file.
type atHand struct {
	io.Reader
	bytes []byte
	file  *os.File
}

func (b atHand) Bytes() []byte  { return b.bytes }
func (b atHand) File() *os.File { return b.file }
func (b atHand) Close() error {
	if b.file != nil {
		return b.file.Close()
	}
	return nil
}

// noRead fails a body that should not have been read.
type noRead struct{}

func (noRead) Read([]byte) (int, error) { return 0, errors.New("read") }

// A body that is at hand is sent from where it is; one in a file only where the
// kernel can, and a file that is shorter than it should be ends the connection.
func TestBodyAtHand(t *testing.T) {
	text := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	name := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(name, append([]byte("head"), text...), 0o600); err != nil {
		t.Fatal(err)
	}
	type result struct {
		wrote int
		err   error
	}
	done := make(chan result, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		size, _ := strconv.Atoi(r.URL.Query().Get("size"))
		body := atHand{Reader: noRead{}, bytes: text[:min(size, len(text))]}
		if r.URL.Path != "/memory" {
			f, err := os.Open(name)
			if err != nil {
				t.Error(err)
			}
			if _, err := f.Seek(4, io.SeekStart); err != nil {
				t.Error(err)
			}
			body = atHand{Reader: noRead{}, file: f}
			if r.TLS != nil {
				body.Reader = io.LimitReader(f, int64(size))
			}
		}
		clock := NewSendClock(w, time.Minute)
		defer clock.Stop()
		wrote := 0
		err := Answer(w, r, &http.Response{StatusCode: 200, Header: http.Header{"Content-Length": {strconv.Itoa(size)}, "Content-Type": {"text/plain"}}, ContentLength: int64(size), Body: body},
			Options{Clock: clock, Wrote: func(n int) { wrote += n }})
		done <- result{wrote, err}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	})
	for _, kind := range []string{"http", "ahead", "https", "h2"} {
		server := httptest.NewUnstartedServer(handler)
		switch kind {
		case "http":
			server.Start()
		case "ahead":
			ahead := &Ahead{Answer: func(*Asked) bool { return false }}
			server.Listener, server.Config.ConnState = ahead.Listen(server.Listener), ahead.State
			server.Start()
		default:
			server.Listener, server.Config.ConnContext, server.EnableHTTP2 = Bursts(server.Listener), BurstContext, kind == "h2"
			server.StartTLS()
		}
		for _, path := range []string{"/memory", "/file"} {
			for _, size := range []int{1, 511, 513, 40 << 10, passSize, passSize + 1, 1 << 20} {
				res, err := server.Client().Get(server.URL + path + "?size=" + strconv.Itoa(size))
				if err != nil {
					t.Fatal(err)
				}
				got, err := io.ReadAll(res.Body)
				res.Body.Close()
				if answered := <-done; err != nil || answered.err != nil || !bytes.Equal(got, text[:size]) || answered.wrote != size {
					t.Errorf("%s%s: %d of %d bytes, %d noted, %v, %v", kind, path, len(got), size, answered.wrote, err, answered.err)
				}
			}
		}
		if kind == "http" || kind == "ahead" {
			res, err := server.Client().Get(server.URL + "/file?size=" + strconv.Itoa(2<<20))
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			res.Body.Close()
			if failed := (*CopyError)(nil); !errors.As((<-done).err, &failed) || failed.FromClient || err == nil || len(got) > len(text) {
				t.Errorf("%s: a file that is too short: %d bytes, %v, %v", kind, len(got), err, failed)
			}
		}
		server.Close()
	}
}
