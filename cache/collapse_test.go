package cache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// slowOrigin gives answers whose bodies the test writes.
type slowOrigin struct {
	asked  atomic.Int32
	left   atomic.Int32 // requests that ended before their header
	bodies chan *io.PipeWriter
	header func() *http.Response
	wait   time.Duration // before the header
}

func (o *slowOrigin) RoundTrip(req *http.Request) (*http.Response, error) {
	o.asked.Add(1)
	select {
	case <-time.After(o.wait):
	case <-req.Context().Done():
		o.left.Add(1)
		return nil, context.Cause(req.Context())
	}
	res := o.header()
	r, w := io.Pipe()
	stop := context.AfterFunc(req.Context(), func() { w.CloseWithError(context.Cause(req.Context())) })
	res.Body, res.ContentLength = &pipeBody{r, stop}, -1
	o.bodies <- w
	return res, nil
}

type pipeBody struct {
	*io.PipeReader
	stop func() bool
}

func (b *pipeBody) Close() error { b.stop(); return b.PipeReader.Close() }

func newSlow(lines ...string) *slowOrigin {
	return &slowOrigin{wait: time.Second, header: func() *http.Response { return text(200, "", lines...) }}
}

// reader is a client that reads.
type reader struct {
	res   *http.Response
	err   error
	body  []byte
	cut   error
	trace Trace
}

// begin sends so many requests at once; done waits for them, with their bodies.
func (r *rig) begin(n int, req *http.Request, pace func(i int) time.Duration) (all []*reader, done func()) {
	var wg sync.WaitGroup
	for i := range n {
		c := &reader{}
		all = append(all, c)
		wg.Go(func() {
			c.res, c.err = r.RoundTrip(req.Clone(WithTrace(req.Context(), &c.trace)))
			if c.err != nil {
				return
			}
			defer c.res.Body.Close()
			buffer := make([]byte, 1000)
			for c.cut == nil {
				var k int
				k, c.cut = c.res.Body.Read(buffer)
				c.body = append(c.body, buffer[:k]...)
				if pace != nil {
					time.Sleep(pace(i))
				}
			}
			if c.cut == io.EOF {
				c.cut = nil
			}
		})
	}
	return all, wg.Wait
}

func bytesOf(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i / 7 * 13)
	}
	return b
}

// writeBody writes all of b in pieces, and ends the body with err.
func writeBody(w *io.PipeWriter, b []byte, err error) {
	for len(b) > 0 {
		n := min(len(b), 1+rand.IntN(9000))
		_, _ = w.Write(b[:n])
		b = b[n:]
	}
	_ = w.CloseWithError(err)
}

// bubble runs a test in a synctest bubble; the cache is closed in it.
func bubble(t *testing.T, policy Policy, origin http.RoundTripper, f func(r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		if o, ok := origin.(*slowOrigin); ok {
			o.bodies = make(chan *io.PipeWriter, 1000) // of the bubble
		}
		r := newRig(t, policy, origin.RoundTrip)
		defer r.Cache.Close()
		f(r)
	})
}

// TestCollapse shows that one fetch serves all who ask meanwhile, each at its own
// pace.
func TestCollapse(t *testing.T) {
	o := newSlow("Cache-Control: max-age=60", "Set-Cookie2: x", "Causeway-Relay: r")
	bubble(t, Policy{}, o, func(r *rig) {
		all, done := r.begin(20, request("GET", "/a"), func(i int) time.Duration { return time.Duration(i) * time.Millisecond })
		want := bytesOf(100_000)
		writeBody(<-o.bodies, want, nil)
		done()
		firsts := 0
		for i, c := range all {
			if c.err != nil || c.cut != nil || !bytes.Equal(c.body, want) {
				t.Errorf("%d: %v %v, %d bytes", i, c.err, c.cut, len(c.body))
			}
			switch {
			case c.trace.Result == Miss && c.res.Header.Get("Causeway-Relay") == "r":
				firsts++
			case c.trace.Result != Collapsed || c.res.Header.Get("Causeway-Relay") != "" || c.res.Header.Get("Set-Cookie2") != "":
				t.Errorf("%d: %+v %v", i, c.trace, c.res.Header)
			case !strings.Contains(c.res.Header.Get("Cache-Status"), "collapsed"):
				t.Errorf("%d: %v", i, c.res.Header)
			}
		}
		if firsts != 1 || o.asked.Load() != 1 {
			t.Errorf("%d fetched, the origin was asked %d times", firsts, o.asked.Load())
		}
		if _, body, trace := r.get("/a"); body != string(want) || trace.Result != Hit {
			t.Errorf("then %+v", trace)
		}
	})
}

// TestCollapseStreams shows that who waits gets the bytes as they come.
func TestCollapseStreams(t *testing.T) {
	o := newSlow("Cache-Control: max-age=60")
	bubble(t, Policy{}, o, func(r *rig) {
		var all [2]*http.Response
		for i := range all {
			res, err := r.RoundTrip(request("GET", "/a"))
			if err != nil {
				t.Fatal(err)
			}
			all[i] = res
		}
		w := <-o.bodies
		for _, part := range []string{"one", "two"} {
			_, _ = io.WriteString(w, part)
			for _, res := range all {
				buffer := make([]byte, 3)
				if _, err := io.ReadFull(res.Body, buffer); err != nil || string(buffer) != part {
					t.Fatalf("%q %v", buffer, err)
				}
			}
		}
		w.Close()
		for _, res := range all {
			res.Body.Close()
		}
	})
}

// TestUncacheableReleases shows that who waits for what is not for it goes on at
// once, and who comes later does not wait.
func TestUncacheableReleases(t *testing.T) {
	o := newSlow("Cache-Control: private")
	bubble(t, Policy{}, o, func(r *rig) {
		begun := time.Now()
		all, done := r.begin(5, request("GET", "/a"), nil)
		first := <-o.bodies // it does not end: nobody waits for it
		for range 4 {
			(<-o.bodies).Close()
		}
		synctest.Wait()
		if took := time.Since(begun); took != 2*time.Second || o.asked.Load() != 5 {
			t.Errorf("after %v, asked %d times", took, o.asked.Load())
		}
		later, doneLater := r.begin(3, request("GET", "/a"), nil)
		for range 3 {
			(<-o.bodies).Close()
		}
		doneLater()
		if took := time.Since(begun); took != 3*time.Second {
			t.Errorf("those that came later waited: %v", took)
		}
		first.Close()
		done()
		for _, c := range append(later, all...) {
			if c.err != nil || c.trace.Result != Uncacheable {
				t.Errorf("%v %+v", c.err, c.trace)
			}
		}
	})
}

// TestFailedOnce shows that a fetch that failed is tried once more, by one.
func TestFailedOnce(t *testing.T) {
	var asked atomic.Int32
	broken := errors.New("broken")
	origin := originFunc(func(*http.Request) (*http.Response, error) {
		n := asked.Add(1)
		time.Sleep(time.Second)
		if n == 1 {
			return nil, broken
		}
		return text(200, "hello", "Cache-Control: max-age=60"), nil
	})
	bubble(t, Policy{}, origin, func(r *rig) {
		all, done := r.begin(10, request("GET", "/a"), nil)
		done()
		failed := 0
		for _, c := range all {
			if c.err == broken {
				failed++
			} else if c.err != nil || string(c.body) != "hello" {
				t.Errorf("%v %q", c.err, c.body)
			}
		}
		if failed != 1 || asked.Load() != 2 {
			t.Errorf("%d failed, asked %d times", failed, asked.Load())
		}
	})
	asked.Store(-1000)
	always := originFunc(func(*http.Request) (*http.Response, error) {
		asked.Add(1)
		time.Sleep(time.Second)
		return nil, broken
	})
	bubble(t, Policy{}, always, func(r *rig) {
		all, done := r.begin(10, request("GET", "/a"), nil)
		done()
		for _, c := range all {
			if c.err != broken {
				t.Errorf("%v", c.err)
			}
		}
		if n := asked.Load() + 1000; n != 2 {
			t.Errorf("asked %d times", n)
		}
	})
}

// TestLeaving shows that a fetch outlives the client that began it, and ends when
// nobody is left and it will not be kept.
func TestLeaving(t *testing.T) {
	o := newSlow("Cache-Control: max-age=60")
	bubble(t, Policy{}, o, func(r *rig) {
		ctx, leave := context.WithCancel(context.Background())
		gone, doneGone := r.begin(1, request("GET", "/a").WithContext(ctx), nil)
		synctest.Wait()
		all, done := r.begin(3, request("GET", "/a"), nil)
		synctest.Wait()
		leave()
		doneGone()
		if gone[0].err != context.Canceled {
			t.Errorf("the one that left: %v", gone[0].err)
		}
		writeBody(<-o.bodies, bytesOf(5000), nil)
		done()
		for _, c := range all {
			if c.err != nil || len(c.body) != 5000 || c.trace.Result != Collapsed {
				t.Errorf("%v %d %+v", c.err, len(c.body), c.trace)
			}
		}
	})
	o = newSlow("Cache-Control: max-age=60")
	bubble(t, Policy{}, o, func(r *rig) { // alone: before the header the fetch ends, after it it goes on
		ctx, leave := context.WithCancel(context.Background())
		_, done := r.begin(1, request("GET", "/early").WithContext(ctx), nil)
		synctest.Wait()
		leave()
		done()
		synctest.Wait()
		if o.left.Load() != 1 {
			t.Errorf("%d fetches ended before the answer began", o.left.Load())
		}
		ctx, leave = context.WithCancel(context.Background())
		_, done = r.begin(1, request("GET", "/late").WithContext(ctx), nil)
		synctest.Wait()
		time.Sleep(2 * time.Second)
		leave()
		done()
		writeBody(<-o.bodies, bytesOf(5000), nil)
		synctest.Wait()
		if _, body, trace := r.get("/late"); trace.Result != Hit || len(body) != 5000 {
			t.Errorf("%+v", trace)
		}
	})
	o = newSlow("Cache-Control: private")
	bubble(t, Policy{}, o, func(r *rig) {
		ctx, leave := context.WithCancel(context.Background())
		all, done := r.begin(1, request("GET", "/a").WithContext(ctx), nil)
		w := <-o.bodies
		_, _ = w.Write(bytesOf(10))
		synctest.Wait()
		leave()
		done()
		if _, err := w.Write([]byte("more")); err == nil || all[0].cut != context.Canceled {
			t.Errorf("the fetch goes on: %v, %v", err, all[0].cut)
		}
	})
}

// TestCut shows that a body that breaks off does so for all, with the same error
// at the same place, and is not kept.
func TestCut(t *testing.T) {
	cut := fmt.Errorf("the link: %w", io.ErrNoProgress)
	o := newSlow("Cache-Control: max-age=60")
	bubble(t, Policy{}, o, func(r *rig) {
		all, done := r.begin(5, request("GET", "/a"), func(i int) time.Duration { return time.Duration(i) * time.Second })
		writeBody(<-o.bodies, bytesOf(20_000), cut)
		done()
		for i, c := range all {
			if c.cut != cut || !bytes.Equal(c.body, bytesOf(20_000)) {
				t.Errorf("%d: %v after %d bytes", i, c.cut, len(c.body))
			}
		}
		if len(r.store.objects) != 0 {
			t.Error("it was kept")
		}
	})
}

// TestTooLarge shows that a body that turns out too large reaches all who began to
// read it, with a bounded memory, and is not kept.
func TestTooLarge(t *testing.T) {
	for _, why := range []string{"too large", "full", "broken"} {
		o := newSlow("Cache-Control: max-age=60")
		bubble(t, Policy{}, o, func(r *rig) {
			if why == "full" {
				r.store.room = 200_000
			}
			r.store.broken = why == "broken"
			const size = 3 << 20 // MostBytes is 1 << 20
			want := bytesOf(size)
			all, done := r.begin(4, request("GET", "/a"), func(i int) time.Duration { return time.Duration(i) * time.Millisecond })
			w := <-o.bodies
			writeBody(w, want, nil)
			done()
			for i, c := range all {
				if c.err != nil || c.cut != nil || !bytes.Equal(c.body, want) {
					t.Errorf("%s: %d: %v %v, %d bytes", why, i, c.err, c.cut, len(c.body))
				}
			}
			if len(r.store.objects) != 0 || o.asked.Load() != 1 {
				t.Errorf("%s: kept %d, asked %d times", why, len(r.store.objects), o.asked.Load())
			}
		})
	}
}

// TestTooLargeHoldsBack shows that the slowest reader of such a body holds it back,
// and that one that leaves does not.
func TestTooLargeHoldsBack(t *testing.T) {
	o := newSlow("Cache-Control: max-age=60")
	bubble(t, Policy{}, o, func(r *rig) {
		slow, err := r.RoundTrip(request("GET", "/a"))
		if err != nil {
			t.Fatal(err)
		}
		fast, done := r.begin(1, request("GET", "/a"), nil)
		synctest.Wait() // it has joined
		w := <-o.bodies
		var wrote atomic.Int64
		go func() {
			for range 3 << 10 {
				n, _ := w.Write(make([]byte, 1<<10))
				wrote.Add(int64(n))
			}
			w.Close()
		}()
		synctest.Wait()
		if n := wrote.Load(); n > 1<<20+ringSize+64<<10 {
			t.Errorf("%d bytes came, though nobody reads", n)
		}
		slow.Body.Close()
		done()
		if len(fast[0].body) != 3<<20 || fast[0].cut != nil {
			t.Errorf("%d bytes, %v", len(fast[0].body), fast[0].cut)
		}
	})
	o = newSlow("Cache-Control: max-age=60")
	bubble(t, Policy{}, o, func(r *rig) { // all leave: it ends
		res, err := r.RoundTrip(request("GET", "/a"))
		if err != nil {
			t.Fatal(err)
		}
		w := <-o.bodies
		ended := make(chan error)
		go func() {
			for {
				if _, err := w.Write(make([]byte, 1<<10)); err != nil {
					ended <- err
					return
				}
			}
		}()
		synctest.Wait()
		res.Body.Close()
		<-ended
	})
}

// TestTooLargeIsRemembered shows that who asks for what turned out too large is not
// held back by others any more, until it is kept.
func TestTooLargeIsRemembered(t *testing.T) {
	o := newSlow("Cache-Control: max-age=60")
	bubble(t, Policy{}, o, func(r *rig) {
		large, small := bytesOf(3<<20), bytesOf(1<<10)
		_, done := r.begin(1, request("GET", "/a"), nil)
		writeBody(<-o.bodies, large, nil)
		done()
		for range 2 {
			slow, err := r.RoundTrip(request("GET", "/a")) // and does not read
			if err != nil {
				t.Fatal(err)
			}
			go writeBody(<-o.bodies, large, nil)
			all, done := r.begin(1, request("GET", "/a"), nil)
			select {
			case w := <-o.bodies:
				writeBody(w, large, nil)
			case <-time.After(time.Minute):
				t.Error("it shares what is too large")
			}
			slow.Body.Close()
			done()
			if len(all[0].body) != len(large) || all[0].cut != nil {
				t.Errorf("%d bytes, %v", len(all[0].body), all[0].cut)
			}
		}
		_, done = r.begin(1, request("GET", "/a"), nil)
		writeBody(<-o.bodies, small, nil)
		done()
		r.idle()
		if _, _, trace := r.get("/a"); trace.Result != Hit {
			t.Errorf("what fits now is not kept: %+v", trace)
		}
	})
}

// TestVaryReleases shows that who waits for another's variant gets its own.
func TestVaryReleases(t *testing.T) {
	var asked atomic.Int32
	origin := originFunc(func(req *http.Request) (*http.Response, error) {
		asked.Add(1)
		time.Sleep(time.Second)
		return text(200, req.Header.Get("Accept-Language"), "Cache-Control: max-age=60", "Vary: Accept-Language"), nil
	})
	bubble(t, Policy{}, origin, func(r *rig) {
		begun := time.Now()
		var all []*reader
		var dones []func()
		languages := []string{"zh", "en", "fr", "de"}
		for _, l := range languages {
			some, done := r.begin(5, request("GET", "/a", "Accept-Language: "+l), nil)
			all, dones = append(all, some...), append(dones, done)
		}
		for _, done := range dones {
			done()
		}
		for i, c := range all {
			if string(c.body) != languages[i/5] {
				t.Errorf("%s: got %q, %v", languages[i/5], c.body, c.err)
			}
		}
		if asked.Load() != 4 || time.Since(begun) != 2*time.Second {
			t.Errorf("asked %d times, in %v", asked.Load(), time.Since(begun))
		}
	})
}

// TestRefreshOnce shows that what is stale is fetched by one request, and given to
// all meanwhile.
func TestRefreshOnce(t *testing.T) {
	var asked atomic.Int32
	origin := originFunc(func(*http.Request) (*http.Response, error) {
		n := asked.Add(1)
		time.Sleep(time.Second)
		return text(200, fmt.Sprint(n), "Cache-Control: max-age=10, stale-while-revalidate=60"), nil
	})
	bubble(t, Policy{}, origin, func(r *rig) {
		r.get("/a")
		time.Sleep(20 * time.Second)
		all, done := r.begin(50, request("GET", "/a"), nil)
		done()
		for _, c := range all {
			if string(c.body) != "1" || c.trace.Result != Stale {
				t.Errorf("%q %+v", c.body, c.trace)
			}
		}
		time.Sleep(2 * time.Second)
		if _, body, _ := r.get("/a"); body != "2" || asked.Load() != 2 {
			t.Errorf("%q, asked %d times", body, asked.Load())
		}
	})
}

// TestRetire shows that a cache that is retired finishes what it fetches, as long
// as its time lasts, and lets what comes meanwhile pass by.
func TestRetire(t *testing.T) {
	for _, inTime := range []bool{true, false} {
		o := newSlow("Cache-Control: max-age=60")
		bubble(t, Policy{}, o, func(r *rig) {
			all, done := r.begin(2, request("GET", "/a"), nil)
			w := <-o.bodies
			_, _ = w.Write([]byte("begun, "))
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			retired := make(chan time.Duration)
			begun := time.Now()
			go func() { r.Cache.Retire(ctx); retired <- time.Since(begun) }()
			synctest.Wait()
			_, passed := r.begin(1, request("GET", "/a"), nil)
			_ = (<-o.bodies).Close()
			passed()
			took := time.Minute
			if inTime {
				took = time.Since(begun)
				writeBody(w, []byte("done"), nil)
			}
			done()
			if got := <-retired; got != took {
				t.Errorf("in time %v: it took %v, not %v", inTime, got, took)
			}
			for i, c := range all {
				if (c.cut == nil) != inTime || inTime && string(c.body) != "begun, done" {
					t.Errorf("in time %v: %d: %q %v", inTime, i, c.body, c.cut)
				}
			}
			if o.asked.Load() != 2 {
				t.Errorf("asked %d times", o.asked.Load())
			}
		})
	}
}

// hooked is a store that calls hook, once, after it found nothing for the n-th time.
type hooked struct {
	Store
	n    atomic.Int32
	hook func()
}

func (s *hooked) Find(key Key) []*Object {
	found := s.Store.Find(key)
	if len(found) == 0 && s.n.Add(-1) == 0 {
		s.hook()
	}
	return found
}

// TestEndsBetween has a fetch end after another request found nothing, and before it
// looked whether there is a fetch to wait for: it is given what was kept.
func TestEndsBetween(t *testing.T) {
	var asked atomic.Int32
	answered := make(chan struct{})
	store := &hooked{Store: newMapStore()}
	c := New(Options{Store: store})
	defer c.Close()
	policy := Policy{}
	r := &rig{&Transport{Cache: c, Policy: func(*http.Request) *Policy { return &policy }, Next: originFunc(func(req *http.Request) (*http.Response, error) {
		asked.Add(1)
		<-answered
		return text(200, "tea", "Cache-Control: max-age=60"), nil
	})}, t, nil}
	first := make(chan Trace)
	store.n.Store(2)
	store.hook = func() {
		close(answered)
		<-first
		r.idle()
	}
	go func() {
		_, _, trace := r.get("/a")
		first <- trace
	}()
	for asked.Load() == 0 {
		runtime.Gosched()
	}
	if _, body, trace := r.get("/a"); body != "tea" || trace.Result != Hit || asked.Load() != 1 {
		t.Errorf("%q, %+v, asked %d times", body, trace, asked.Load())
	}
}

// sluggish is a store that takes its time to keep.
type sluggish struct{ Store }

func (s sluggish) Keep(meta *Meta, draft Draft) *Object {
	time.Sleep(time.Second)
	return s.Store.Keep(meta, draft)
}

// TestAloneIsKept shows that what was fetched for one request alone, as such answers
// were not kept before, is found by who comes when that has read it.
func TestAloneIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		asked := 0
		c := New(Options{Store: sluggish{newMapStore()}})
		defer c.Close()
		policy := Policy{}
		r := &rig{&Transport{Cache: c, Policy: func(*http.Request) *Policy { return &policy }, Next: originFunc(func(*http.Request) (*http.Response, error) {
			if asked++; asked == 1 {
				return text(200, "tea", "Cache-Control: private"), nil
			}
			return text(200, "tea", "Cache-Control: max-age=60"), nil
		})}, t, nil}
		r.get("/a")
		r.get("/a")
		if _, _, trace := r.get("/a"); trace.Result != Hit || asked != 2 {
			t.Errorf("%+v, asked %d times", trace, asked)
		}
	})
}
