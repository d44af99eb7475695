package cache

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// bulk is an origin with one body, that comes as fast as it is read. Parts of it
// are given where it has a tag.
type bulk struct {
	body  []byte
	tag   string
	known bool // the length, from the beginning
	asked atomic.Int32
	parts atomic.Int32
}

func (b *bulk) RoundTrip(req *http.Request) (*http.Response, error) {
	b.asked.Add(1)
	time.Sleep(time.Second)
	res := text(200, string(b.body), "Cache-Control: max-age=60")
	if b.tag != "" {
		res.Header.Set("Etag", b.tag)
	}
	if r := readRange(req.Header["Range"]); r != nil && strong(b.tag) && rangeHolds(req.Header, b.tag, time.Time{}, time.Time{}) {
		b.parts.Add(1)
		if from, to, ok := r.of(int64(len(b.body))); ok {
			res.StatusCode = 206
			res.Header.Set("Content-Range", contentRange(from, to, int64(len(b.body))))
			res.Body, res.ContentLength = io.NopCloser(bytes.NewReader(b.body[from:to])), to-from
		}
	}
	if !b.known {
		res.ContentLength = -1
	}
	return res, nil
}

// TestLeftBehind shows that who shares a fetch of something too large with one who
// reads slowly waits for him no longer than patience in all; and that the slow one
// gets it whole nevertheless, where a part of it can be asked for, or else is cut.
func TestLeftBehind(t *testing.T) {
	for _, test := range []struct {
		what string
		tag  string
		slow time.Duration // for 1000 bytes
		cut  error
		asks int32
	}{
		{"a strong tag", `"1"`, 100 * time.Millisecond, nil, 2},
		{"no tag", "", 100 * time.Millisecond, errBehind, 1},
		{"a weak tag", `W/"1"`, 100 * time.Millisecond, errBehind, 1},
		{"slow, but not so slow", "", time.Millisecond, nil, 1},
	} {
		t.Run(test.what, func(t *testing.T) {
			o := &bulk{body: bytesOf(3 << 20), tag: test.tag}
			bubble(t, Policy{}, o, func(r *rig) {
				begun := time.Now()
				var fast time.Duration
				all, done := r.begin(3, request("GET", "/a"), func(i int) time.Duration {
					if i == 0 {
						return test.slow
					}
					if took := time.Since(begun); i == 2 && took > fast {
						fast = took
					}
					return 0
				})
				done()
				for i, c := range all {
					switch {
					case i == 0 && test.cut != nil:
						if !errors.Is(c.cut, test.cut) || len(c.body) == len(o.body) || !bytes.HasPrefix(o.body, c.body) {
							t.Errorf("the slow one: %v, %d bytes", c.cut, len(c.body))
						}
					case c.err != nil || c.cut != nil || !bytes.Equal(c.body, o.body):
						t.Errorf("%d: %v %v, %d bytes", i, c.err, c.cut, len(c.body))
					}
				}
				if n := o.asked.Load(); n != test.asks {
					t.Errorf("the origin was asked %d times", n)
				}
				if most := patience + 2*time.Second; fast > most {
					t.Errorf("the fast ones took %v", fast)
				}
			})
		})
	}
}

// two gives two answers of one fetch.
func (r *rig) two(target string) (a, b *http.Response) {
	r.t.Helper()
	came := make(chan *http.Response)
	for range 2 {
		go func() {
			res, err := r.RoundTrip(request("GET", target))
			if err != nil {
				r.t.Error(err)
			}
			came <- res
		}()
	}
	a, b = <-came, <-came
	if a == nil || b == nil {
		r.t.FailNow()
	}
	return a, b
}

// TestLeftBehindAlone shows that who is left behind gets the rest also when all
// others have left, and that who reads slowly and alone is not hurried.
func TestLeftBehindAlone(t *testing.T) {
	o := &bulk{body: bytesOf(3 << 20), tag: `"1"`}
	bubble(t, Policy{}, o, func(r *rig) {
		slow, fast := r.two("/a")
		if _, err := io.CopyN(io.Discard, fast.Body, 2<<20); err != nil {
			t.Fatal(err)
		}
		fast.Body.Close()
		got, err := io.ReadAll(slow.Body)
		if err != nil || !bytes.Equal(got, o.body) {
			t.Errorf("%v, %d bytes", err, len(got))
		}
		slow.Body.Close()
		if o.parts.Load() != 1 {
			t.Errorf("%d parts were asked for", o.parts.Load())
		}

		o.asked.Store(0)
		all, done := r.begin(1, request("GET", "/b"), func(int) time.Duration { return 100 * time.Millisecond })
		done()
		if c := all[0]; c.err != nil || c.cut != nil || !bytes.Equal(c.body, o.body) || o.asked.Load() != 1 {
			t.Errorf("alone: %v %v, %d bytes, asked %d times", c.err, c.cut, len(c.body), o.asked.Load())
		}
	})
}

// TestLeftBehindLeaves shows that nothing is left of one who leaves while he fetches
// the rest.
func TestLeftBehindLeaves(t *testing.T) {
	o := &bulk{body: bytesOf(3 << 20), tag: `"1"`}
	bubble(t, Policy{}, o, func(r *rig) {
		slow, fast := r.two("/a")
		if _, err := io.Copy(io.Discard, fast.Body); err != nil {
			t.Fatal(err)
		}
		fast.Body.Close()
		left := make(chan struct{})
		go func() {
			defer close(left)
			_, _ = io.Copy(io.Discard, slow.Body)
		}()
		time.Sleep(500 * time.Millisecond) // it waits for the header of the rest
		slow.Body.Close()
		<-left
		synctest.Wait()
		if _, err := slow.Body.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
			t.Error(err)
		}
	})
}
