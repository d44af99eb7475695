package cache

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// countedCodings count what is put into a coding, and hold it up.
type countedCodings struct {
	gzipOnly
	encoders atomic.Int32
	hold     chan struct{}
}

func (c *countedCodings) Encode(coding string, dst io.Writer) Encoder {
	c.encoders.Add(1)
	<-c.hold
	return c.gzipOnly.Encode(coding, dst)
}

// TestFormsOnce shows that a form is made once, by one, and that a hit of it costs
// no coding.
func TestFormsOnce(t *testing.T) {
	page := strings.Repeat("<p>", 1000)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Policy{}, func(*http.Request) (*http.Response, error) {
			return text(200, page, "Cache-Control: max-age=60", "Content-Type: text/html"), nil
		})
		defer r.Cache.Close()
		codings := &countedCodings{hold: make(chan struct{})}
		r.Cache.options.Codings = codings
		r.get("/a")
		r.get("/b")
		synctest.Wait()
		for range 10 { // it takes the one that came meanwhile
			for _, target := range []string{"/a", "/b"} {
				if res, body, trace := r.get(target, "Accept-Encoding: br"); body != page || trace.Result != Hit || res.Header.Get("Content-Encoding") != "" {
					t.Errorf("%q %+v %v", body[:10], trace, res.Header)
				}
			}
		}
		synctest.Wait()
		if n := codings.encoders.Load(); n != 1 { // MostForms is 1
			t.Errorf("%d are made", n)
		}
		close(codings.hold)
		synctest.Wait()
		for range 10 {
			if res, body, _ := r.get("/a", "Accept-Encoding: br"); body != "br<"+page+">" || res.Header.Get("Content-Encoding") != "br" {
				t.Errorf("%q", body[:10])
			}
		}
		if n := codings.encoders.Load(); n != 2 { // of /a and /b
			t.Errorf("%d were made", n)
		}
	})
}

// TestFormsStream shows that a body that is put into another coding as it comes is
// given as it comes.
func TestFormsStream(t *testing.T) {
	o := newSlow("Cache-Control: max-age=60", "Content-Encoding: br")
	bubble(t, Policy{}, o, func(r *rig) {
		r.Cache.options.Codings = passing{}
		res, err := r.RoundTrip(request("GET", "/a", "Accept-Encoding: gzip"))
		if err != nil || res.Header.Get("Content-Encoding") != "gzip" || res.ContentLength != -1 {
			t.Fatal(err, res)
		}
		w := <-o.bodies
		for _, part := range []string{"one", "two"} {
			_, _ = io.WriteString(w, part)
			buffer := make([]byte, 3)
			if _, err := io.ReadFull(res.Body, buffer); err != nil || string(buffer) != part {
				t.Fatalf("%q %v", buffer, err)
			}
		}
		_ = w.CloseWithError(errFull)
		if _, err := res.Body.Read(make([]byte, 1)); err != errFull {
			t.Errorf("%v", err)
		}
		res.Body.Close()
	})
}

// passing are codings that change nothing.
type passing struct{}

type passingEncoder struct{ io.Writer }

func (passingEncoder) Flush() error { return nil }
func (passingEncoder) Close() error { return nil }
func (passingEncoder) Free()        {}

func (passing) Encode(_ string, dst io.Writer) Encoder            { return passingEncoder{dst} }
func (passing) Decode(_ string, body io.ReadCloser) io.ReadCloser { return body }

// TestBodies shows that a kept body is the same by every way it is read.
func TestBodies(t *testing.T) {
	want := bytesOf(100_000)
	name := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(name, append([]byte("head"), want...), 0o600); err != nil {
		t.Fatal(err)
	}
	readers := map[string]func() Reader{
		"memory": func() Reader { return bytesBody(want) },
		"file": func() Reader {
			f, err := os.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			return inFileReader{f, 4}
		},
		"other": func() Reader { return struct{ Reader }{bytesBody(want)} },
	}
	for kind, open := range readers {
		for _, span := range [][2]int64{{0, 100_000}, {10, 99_000}, {5, 5}} {
			part := want[span[0]:span[1]]
			for way, read := range map[string]func(*keptBody) []byte{
				"Read":     func(b *keptBody) []byte { all, _ := io.ReadAll(struct{ io.Reader }{b}); return all },
				"WriteTo":  func(b *keptBody) []byte { var to plain; _, _ = b.WriteTo(&to); return to.b },
				"ReadFrom": func(b *keptBody) []byte { var to bytes.Buffer; _, _ = b.WriteTo(&to); return to.Bytes() },
				"both": func(b *keptBody) []byte {
					begin := make([]byte, 3)
					n, _ := b.Read(begin)
					to := bytes.NewBuffer(begin[:n])
					_, _ = b.WriteTo(to)
					return to.Bytes()
				},
			} {
				b := &keptBody{reader: open(), at: span[0], to: span[1]}
				if got := read(b); !bytes.Equal(got, part) {
					t.Errorf("%s by %s, %v: %d bytes", kind, way, span, len(got))
				}
				b.Close()
				if n, err := b.Read(make([]byte, 1)); n != 0 || err == nil {
					t.Errorf("%s was read after it was closed", kind)
				}
			}
		}
	}
	short := &keptBody{reader: bytesBody(want), to: 200_000}
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{short}); err != io.ErrUnexpectedEOF {
		t.Errorf("a body that is shorter than it was: %v", err)
	}
}

type plain struct{ b []byte }

func (p *plain) Write(b []byte) (int, error) { p.b = append(p.b, b...); return len(b), nil }

// inFileReader is a Reader of a file with something before the body.
type inFileReader struct {
	f      *os.File
	offset int64
}

func (r inFileReader) File() (*os.File, int64, int64) { return r.f, r.offset, 100_000 }
func (r inFileReader) Close() error                   { return r.f.Close() }
func (r inFileReader) ReadAt(p []byte, off int64) (int, error) {
	return r.f.ReadAt(p, r.offset+off)
}

// TestClosed shows that requests pass by a cache that is closed, and that closing
// ends what is fetched.
func TestClosed(t *testing.T) {
	o := newSlow("Cache-Control: max-age=60")
	bubble(t, Policy{}, o, func(r *rig) {
		all, done := r.begin(2, request("GET", "/a"), nil)
		time.Sleep(2 * time.Second)
		r.Cache.Close()
		done()
		for _, c := range all {
			if c.cut == nil {
				t.Errorf("%+v, %q", c.trace, c.body)
			}
		}
		<-o.bodies
		later, done := r.begin(1, request("GET", "/a"), nil)
		(<-o.bodies).Close()
		done()
		if later[0].err != nil || later[0].trace.Result != Bypass {
			t.Errorf("%v %+v", later[0].err, later[0].trace)
		}
	})
}

// bombs are codings whose bodies open to more than is kept.
type bombs struct {
	gzipOnly
	size   int64         // of an opened one
	turns  chan struct{} // one for each read of it; nil is as many as are wanted
	opened atomic.Int32
	read   atomic.Int64
}

func (b *bombs) Decode(_ string, body io.ReadCloser) io.ReadCloser {
	b.opened.Add(1)
	return struct {
		io.Reader
		io.Closer
	}{io.LimitReader(bomb{b}, b.size), body}
}

type bomb struct{ *bombs }

func (b bomb) Read(p []byte) (int, error) {
	if b.turns != nil {
		<-b.turns
	}
	clear(p)
	b.read.Add(int64(len(p)))
	return len(p), nil
}

// TestBombIsOpenedOnce shows that a form that turns out larger than is kept is not
// made again for each who would take it: it is opened for him alone, as he reads.
func TestBombIsOpenedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bombs{size: 2 << 20}
		r := newRig(t, Policy{}, func(*http.Request) (*http.Response, error) {
			return text(200, strings.Repeat("gzip", 300), "Cache-Control: max-age=60", "Content-Encoding: gzip", "Content-Type: text/plain"), nil
		})
		defer r.Cache.Close()
		r.Cache.options.Codings = b
		r.get("/a", "Accept-Encoding: gzip")
		synctest.Wait()
		for range 5 {
			if res, body, trace := r.get("/a"); trace.Result != Hit || res.Header.Get("Content-Encoding") != "" || len(body) != 2<<20 {
				t.Errorf("%+v %v, %d bytes", trace, res.Header, len(body))
			}
			synctest.Wait()
		}
		if n := b.opened.Load(); n != 5+1 {
			t.Errorf("opened %d times", n)
		}
	})
}

// TestBombIsBounded shows that what is too long out of its coding is opened no further
// to make a form of it, however much may be kept, and once for all forms.
func TestBombIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bombs{size: 4 * mostCoded}
		r := newRig(t, Policy{}, func(*http.Request) (*http.Response, error) {
			return text(200, strings.Repeat("gzip", 300), "Cache-Control: max-age=60", "Content-Encoding: gzip", "Content-Type: text/plain"), nil
		})
		defer r.Cache.Close()
		r.Cache.SetMostBytes(1 << 40)
		r.Cache.options.Codings = b
		r.get("/a", "Accept-Encoding: gzip")
		for range 3 {
			for _, coding := range []string{"br", "zstd", "identity"} {
				if res, _, trace := r.do(request("HEAD", "/a", "Accept-Encoding: "+coding)); trace.Result != Hit || res.Header.Get("Content-Encoding") != "" {
					t.Errorf("%+v %v", trace, res.Header)
				}
				synctest.Wait()
			}
		}
		if n, most := b.read.Load(), int64(mostSmall+mostCoded+2*64<<10); n > most {
			t.Errorf("%d bytes were opened, of %d", n, most)
		}
		if n := b.opened.Load(); n != 2 { // as a small one, and as a large one
			t.Errorf("opened %d times", n)
		}
		if n := len(r.store.Find(r.keyOf("/a"))[0].Forms); n != 1 {
			t.Errorf("%d forms", n)
		}
	})
}

// TestFormsGiveWay shows that forms of what is small are made while one of what is
// large is, by the same maker, also where that is only seen when it is opened; and that
// it is made in the end.
func TestFormsGiveWay(t *testing.T) {
	for _, came := range []int{2 << 20, 2 << 10} {
		synctest.Test(t, func(t *testing.T) {
			page := strings.Repeat("<p>", 1000)
			b := &bombs{size: 4 << 20, turns: make(chan struct{})}
			r := newRig(t, Policy{}, func(req *http.Request) (*http.Response, error) {
				if req.URL.Path == "/large" {
					return text(200, strings.Repeat("x", came), "Cache-Control: max-age=60", "Content-Encoding: gzip", "Content-Type: text/plain"), nil
				}
				return text(200, page, "Cache-Control: max-age=60", "Content-Type: text/html"), nil
			})
			defer r.Cache.Close()
			r.Cache.SetMostBytes(16 << 20)
			r.Cache.options.Codings = b
			coded := func(target, coding string) bool {
				res, _, trace := r.do(request("HEAD", target, "Accept-Encoding: "+coding))
				synctest.Wait()
				return trace.Result == Hit && res.Header.Get("Content-Encoding") == coding
			}
			small := []string{"/1", "/2", "/3"}
			for _, target := range append(small, "/large") {
				r.get(target, "Accept-Encoding: gzip")
			}
			if coded("/large", "br") { // it is begun
				t.Error("made already")
			}
			for _, target := range small {
				if coded(target, "gzip") {
					t.Errorf("%s is made", target)
				}
			}
			if came < mostSmall { // it is read so far before it is known
				for range mostSmall>>14 + 1 {
					b.turns <- struct{}{}
				}
			}
			for range small {
				b.turns <- struct{}{}
			}
			synctest.Wait()
			for _, target := range small {
				if !coded(target, "gzip") {
					t.Errorf("%s waits for what is large", target)
				}
			}
			if coded("/large", "br") {
				t.Error("what is large is made")
			}
			close(b.turns)
			synctest.Wait()
			if !coded("/large", "br") {
				t.Error("what is large is not made in the end")
			}
		})
	}
}

// TestHitIsNotCoded shows that no hit is put into a coding as it is given: neither
// while its form is made, nor where none is.
func TestHitIsNotCoded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		long := "br<" + strings.Repeat("x", mostCoded) + ">"
		r := newRig(t, Policy{}, func(req *http.Request) (*http.Response, error) {
			body := "br<hello>"
			if req.URL.Path == "/long" {
				body = long
			}
			return text(200, body, "Cache-Control: max-age=60", "Content-Encoding: br", "Content-Type: text/plain"), nil
		})
		defer r.Cache.Close()
		r.Cache.SetMostBytes(1 << 30)
		codings := &countedCodings{hold: make(chan struct{})}
		r.Cache.options.Codings = codings
		for _, target := range []string{"/a", "/b", "/long"} {
			r.get(target, "Accept-Encoding: br")
		}
		synctest.Wait()
		for range 3 {
			for _, target := range []string{"/a", "/b", "/long"} {
				if res, body, trace := r.get(target, "Accept-Encoding: gzip"); trace.Result != Hit || res.Header.Get("Content-Encoding") != "" || !strings.HasPrefix(body, "hello") && !strings.HasPrefix(body, "xxx") {
					t.Errorf("%s: %.10q %+v %v", target, body, trace, res.Header)
				}
			}
		}
		synctest.Wait()
		if n := codings.encoders.Load(); n != 1 { // MostForms is 1
			t.Errorf("%d bodies were put into a coding", n)
		}
		close(codings.hold)
	})
}

// TestFormsWait shows that forms that can't be made at once are made later, each once,
// one at a time, and that what is not kept any more by then has none.
func TestFormsWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		page := strings.Repeat("<p>", 1000)
		r := newRig(t, Policy{}, func(*http.Request) (*http.Response, error) {
			return text(200, page, "Cache-Control: max-age=60", "Content-Type: text/html"), nil
		})
		defer r.Cache.Close()
		codings := &countedCodings{hold: make(chan struct{})}
		r.Cache.options.Codings = codings
		for range 3 {
			for i := range 50 {
				r.get(fmt.Sprintf("/%d", i), "Accept-Encoding: gzip")
			}
		}
		synctest.Wait()
		if n := codings.encoders.Load(); n != 1 {
			t.Errorf("%d are made at once", n)
		}
		r.Cache.Purge(Match{URL: "https://example.cn/49"}, false)
		close(codings.hold)
		synctest.Wait()
		if n := codings.encoders.Load(); n != 49 {
			t.Errorf("%d were made", n)
		}
		for i := range 49 {
			if res, _, trace := r.get(fmt.Sprintf("/%d", i), "Accept-Encoding: gzip"); trace.Result != Hit || res.Header.Get("Content-Encoding") != "gzip" {
				t.Errorf("/%d: %+v %v", i, trace, res.Header)
			}
		}
	})
}

// TestFormsWaitBounded shows that no more wait than may.
func TestFormsWaitBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Policy{}, func(*http.Request) (*http.Response, error) {
			return text(200, strings.Repeat("<p>", 1000), "Cache-Control: max-age=60", "Content-Type: text/html"), nil
		})
		defer r.Cache.Close()
		codings := &countedCodings{hold: make(chan struct{})}
		r.Cache.options.Codings = codings
		r.get("/a")
		o := r.store.Find(r.keyOf("/a"))[0]
		r.Cache.form(o, "gzip", 1<<20)
		synctest.Wait() // it is made
		for i := range mostWishes + 100 {
			other := *o.Meta
			other.ID = fmt.Sprint(i)
			r.Cache.form(&Object{Meta: &other, Forms: o.Forms}, "gzip", 1<<20)
		}
		r.Cache.flights.Lock()
		if n := len(r.Cache.wishes); n != mostWishes || n+1 != len(r.Cache.making) {
			t.Errorf("%d wait, %d are named", n, len(r.Cache.making))
		}
		r.Cache.flights.Unlock()
		close(codings.hold)
		synctest.Wait()
		if n := len(r.Cache.wishes) + len(r.Cache.making); n != 0 {
			t.Errorf("%d are left", n)
		}
	})
}

// TestFormsEnd shows that a cache that ends makes none of those that wait.
func TestFormsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Policy{}, func(*http.Request) (*http.Response, error) {
			return text(200, strings.Repeat("<p>", 1000), "Cache-Control: max-age=60", "Content-Type: text/html"), nil
		})
		codings := &countedCodings{hold: make(chan struct{})}
		r.Cache.options.Codings = codings
		for range 2 {
			for i := range 10 {
				r.get(fmt.Sprintf("/%d", i), "Accept-Encoding: gzip")
			}
		}
		synctest.Wait()
		time.AfterFunc(time.Second, func() { close(codings.hold) })
		r.Cache.Close()
		if n := codings.encoders.Load(); n != 1 {
			t.Errorf("%d were made", n)
		}
	})
}

// TestFormsOfShared shows that who shares a fetch has the form that he would rather
// have made when it is kept, and that whose request it is has not.
func TestFormsOfShared(t *testing.T) {
	page := strings.Repeat("<p>", 1000)
	for sharers, want := range map[int]string{0: "", 1: "gzip", 3: "gzip"} {
		o := newSlow("Cache-Control: max-age=60", "Content-Type: text/html")
		bubble(t, Policy{}, o, func(r *rig) {
			_, first := r.begin(1, request("GET", "/a", "Accept-Encoding: br"), nil)
			synctest.Wait()
			all, done := r.begin(sharers, request("GET", "/a", "Accept-Encoding: gzip"), nil)
			w := <-o.bodies
			_, _ = io.WriteString(w, page)
			synctest.Wait()
			w.Close()
			first()
			done()
			synctest.Wait()
			for _, c := range all {
				if c.trace.Result != Collapsed || string(c.body) != page {
					t.Errorf("%+v %.10q", c.trace, c.body)
				}
			}
			if res, _, trace := r.get("/a", "Accept-Encoding: gzip"); trace.Result != Hit || res.Header.Get("Content-Encoding") != want {
				t.Errorf("%d share: %+v %v", sharers, trace, res.Header)
			}
		})
	}
}

// TestFormsOfHead shows that a HEAD has a form made as a GET does.
func TestFormsOfHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Policy{}, func(*http.Request) (*http.Response, error) {
			return text(200, strings.Repeat("<p>", 1000), "Cache-Control: max-age=60", "Content-Type: text/html"), nil
		})
		defer r.Cache.Close()
		r.get("/a")
		for _, want := range []string{"", "gzip"} {
			synctest.Wait()
			if res, _, trace := r.do(request("HEAD", "/a", "Accept-Encoding: gzip")); trace.Result != Hit || res.Header.Get("Content-Encoding") != want {
				t.Errorf("%+v %v", trace, res.Header)
			}
		}
	})
}

// TestFormsAreBounded shows that no form is kept that is larger than a body of its
// site or route may be.
func TestFormsAreBounded(t *testing.T) {
	for most, want := range map[int64]string{0: "", 2 << 10: "gzip"} {
		synctest.Test(t, func(t *testing.T) {
			b := &bombs{size: 2 << 20}
			r := newRig(t, Policy{MostBytes: most}, func(*http.Request) (*http.Response, error) {
				return text(200, strings.Repeat("gzip", 300), "Cache-Control: max-age=60", "Content-Encoding: gzip", "Content-Type: text/plain"), nil
			})
			defer r.Cache.Close()
			r.Cache.SetMostBytes(4 << 20)
			r.Cache.options.Codings = b
			r.get("/a", "Accept-Encoding: gzip")
			synctest.Wait()
			r.get("/a") // opened as he reads, and in the background
			synctest.Wait()
			found := r.store.Find(r.keyOf("/a"))
			if forms := len(found[0].Forms); (forms == 1) != (want == "gzip") {
				t.Errorf("at most %d bytes: %d forms", most, forms)
			}
		})
	}
}

// TestVaryOfAForm shows that a coded form is given with Vary: Accept-Encoding also where
// the type of the answer, which has none made of it, says so no more since it was
// validated.
func TestVaryOfAForm(t *testing.T) {
	page := strings.Repeat("<p>", 1000)
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Policy{}, func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("If-None-Match") != "" {
				return text(304, "", "Cache-Control: max-age=60", "Content-Type: image/png"), nil
			}
			return text(200, page, "Cache-Control: max-age=1", "Content-Type: text/html", `Etag: "1"`), nil
		})
		defer r.Cache.Close()
		r.get("/a")
		synctest.Wait()
		r.get("/a", "Accept-Encoding: br") // has the form made
		synctest.Wait()
		time.Sleep(2 * time.Second)
		for _, want := range []Result{Revalidated, Hit} {
			res, _, trace := r.get("/a", "Accept-Encoding: br")
			if trace.Result != want || res.Header.Get("Content-Encoding") != "br" || res.Header.Get("Content-Type") != "image/png" || res.Header.Get("Vary") != "Accept-Encoding" {
				t.Errorf("%+v %v", trace, res.Header)
			}
			synctest.Wait()
		}
	})
}
