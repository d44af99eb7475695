package cache

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// outage is an origin that is well, and not, in several ways. Each of its bodies has
// its checksum in its header.
type outage struct {
	way     atomic.Pointer[string]
	version atomic.Int64
	asked   atomic.Int64
}

func (o *outage) be(way string) { o.way.Store(&way) }

func sumOf(b []byte) string { return fmt.Sprint(crc32.ChecksumIEEE(b)) }

func (o *outage) RoundTrip(req *http.Request) (*http.Response, error) {
	o.asked.Add(1)
	version := o.version.Load()
	size := 1000 + int(crc32.ChecksumIEEE([]byte(req.URL.Path))%20_000)
	if req.URL.Path == "/1" {
		size += mostPromoted // it is sent from the disk
	}
	body := bytesOf(size)
	for i := range body {
		body[i] += byte(version)
	}
	if tag := fmt.Sprintf(`"%d"`, version); true {
		switch way := *o.way.Load(); way {
		case "refused":
			return nil, errors.New("refused")
		case "503", "500":
			res := text(500, "an error page", "X-Sum: "+sumOf([]byte("an error page")))
			if way == "503" {
				res.StatusCode = 503
			}
			return res, nil
		case "silent":
			select {
			case <-time.After(20 * time.Second):
				return nil, errors.New("no answer")
			case <-req.Context().Done():
				return nil, context.Cause(req.Context())
			}
		case "cut":
			res := text(200, "", "Cache-Control: max-age=30", "X-Sum: "+sumOf(body), "Etag: "+tag)
			n := rand.IntN(len(body))
			res.Body, res.ContentLength = io.NopCloser(io.MultiReader(byteReader(body[:n]), failing{errors.New("cut")})), int64(len(body))
			if rand.IntN(2) == 0 {
				res.ContentLength = -1
			}
			return res, nil
		}
		time.Sleep(200 * time.Millisecond)
		if req.Header.Get("If-None-Match") == tag {
			return text(304, "", "Cache-Control: max-age=30", "Etag: "+tag), nil
		}
		return text(200, string(body), "Cache-Control: max-age=30", "X-Sum: "+sumOf(body), "Etag: "+tag), nil
	}
	return nil, nil
}

func byteReader(b []byte) io.Reader { return &pieceReader{b} }

// pieceReader gives a few bytes at a time, and takes its time.
type pieceReader struct{ rest []byte }

func (r *pieceReader) Read(p []byte) (int, error) {
	if len(r.rest) == 0 {
		return 0, io.EOF
	}
	time.Sleep(time.Millisecond)
	n := copy(p, r.rest[:min(len(r.rest), 20_000)])
	r.rest = r.rest[n:]
	return n, nil
}

// TestOutage has visitors at a site whose origin is down for an hour, in several ways
// one after the other, with stale_if_error: each page that was kept is given, with the
// right checksum, nobody is told of an error, the origin is asked seldom, and when it
// is back its new pages come.
func TestOutage(t *testing.T) {
	const pages, visitors = 12, 12
	for _, disk := range []bool{false, true} {
		t.Run(fmt.Sprintf("disk %t", disk), func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				options := TiersOptions{Memory: 64 << 20}
				if disk {
					options = TiersOptions{Memory: 256 << 10, Disk: 64 << 20, Dir: dir} // most of it is on the disk
				}
				s := open(t, options)
				o := &outage{}
				o.be("well")
				policy := Policy{Site: "shop", StaleIfError: 24 * time.Hour}
				c := New(Options{Store: s, MostBytes: 1 << 20})
				defer c.Close()
				r := &Transport{Cache: c, Next: o, Policy: func(*http.Request) *Policy { return &policy }}
				ctx, stop := context.WithCancel(t.Context())
				var given, stale, old, waited, cut atomic.Int64
				var strict atomic.Bool // nothing may fail
				strict.Store(true)
				visit := func(page int) {
					var trace Trace
					begun := time.Now()
					res, err := r.RoundTrip(request("GET", fmt.Sprintf("/%d", page)).WithContext(WithTrace(ctx, &trace)))
					var body []byte
					if err == nil {
						body, err = io.ReadAll(res.Body)
						res.Body.Close()
					}
					switch {
					case ctx.Err() != nil:
						return
					case err != nil && !strict.Load():
						cut.Add(1)
						return // it was cut, and does not look whole
					case err != nil || res.StatusCode != 200:
						t.Errorf("after %v %s: %v %v, %+v", time.Since(begun), *o.way.Load(), res, err, trace)
						return
					case res.Header.Get("X-Sum") != sumOf(body):
						t.Errorf("%s: wrong bytes, %+v", *o.way.Load(), trace)
					}
					if given.Add(1); time.Since(begun) > time.Second {
						waited.Add(1)
					}
					if trace.Result == Stale {
						stale.Add(1)
					}
					if v := res.Header.Get("Etag"); v != fmt.Sprintf(`"%d"`, o.version.Load()) {
						old.Add(1)
					}
				}
				for page := range pages {
					visit(page)
				}
				var running sync.WaitGroup
				for range visitors {
					running.Go(func() {
						for ctx.Err() == nil {
							visit(rand.IntN(pages))
							select {
							case <-time.After(time.Second + time.Duration(rand.IntN(9000))*time.Millisecond):
							case <-ctx.Done():
							}
						}
					})
				}
				time.Sleep(10 * time.Minute)
				before, well := o.asked.Load(), given.Load()
				o.version.Add(1)
				for _, way := range []string{"refused", "503", "silent", "500", "refused", "silent"} { // an hour
					o.be(way)
					time.Sleep(10 * time.Minute)
				}
				t.Logf("an hour without the origin: %d pages given, each right, %d of them past their time, no error; %d had to wait for more than a second; the origin was asked %d times",
					given.Load()-well, stale.Load(), waited.Load(), o.asked.Load()-before)
				if most := int64(pages * 3600 / 5); o.asked.Load()-before > most {
					t.Errorf("the origin was asked %d times in an hour, more than %d", o.asked.Load()-before, most)
				}
				if waited.Load() > visitors { // who came first when it fell silent, if anybody
					t.Errorf("%d visitors waited for an origin that is down", waited.Load())
				}
				if stale.Load() < given.Load()/2 || c.Covered()["shop"] == 0 {
					t.Errorf("%d given, %d of them stale, %v covered", given.Load(), stale.Load(), c.Covered())
				}
				o.be("well")
				time.Sleep(2 * time.Minute)
				old.Store(0)
				stale.Store(0)
				time.Sleep(10 * time.Minute)
				if old.Load() > 0 || stale.Load() > 0 {
					t.Errorf("it is well, and %d were given old, %d stale", old.Load(), stale.Load())
				}
				strict.Store(false) // the line is cut, in the middle of bodies
				well = given.Load()
				for range 20 {
					o.version.Add(1)
					o.be("cut")
					time.Sleep(time.Minute)
					o.be("well")
					time.Sleep(time.Minute)
				}
				strict.Store(true)
				t.Logf("20 minutes of a line that cuts bodies, and 20 between: %d pages given, each right; %d cut, which look so", given.Load()-well, cut.Load())
				time.Sleep(time.Minute)
				old.Store(0)
				time.Sleep(5 * time.Minute)
				if old.Load() > 0 {
					t.Errorf("%d were given old after the line was back", old.Load())
				}
				stop()
				running.Wait()
				if given.Load() < 5_000 {
					t.Errorf("only %d were given", given.Load())
				}
				if stats := s.Stats(); stats.Corrupt > 0 || stats.DiskErrors > 0 {
					t.Errorf("%+v", stats)
				}
			})
		})
	}
}

// TestClockJumps sets the clock back and forth between two processes, as far as what
// was kept is concerned: something is given without asking only while it is fresh by
// the clock as it is, and never from a time that has not come yet; and after it was
// asked for all is as ever.
func TestClockJumps(t *testing.T) {
	const life = 60 * time.Second
	o := TiersOptions{Memory: 8 << 20, Disk: 64 << 20, Dir: t.TempDir()}
	s := open(t, o)
	asked, validated, given, jumps := 0, 0, 0, 0
	begin := func() *rig {
		c := New(Options{Store: s})
		policy := Policy{}
		return &rig{&Transport{Cache: c, Policy: func(*http.Request) *Policy { return &policy }, Next: originFunc(func(req *http.Request) (*http.Response, error) {
			asked++
			if req.Header.Get("If-None-Match") == `"1"` {
				validated++
				return text(304, "", "Cache-Control: max-age=60", `Etag: "1"`), nil
			}
			return text(200, "hello", "Cache-Control: max-age=60", `Etag: "1"`), nil
		})}, t, nil}
	}
	r := begin()
	r.get("/a")
	r.idle()
	for _, jump := range []time.Duration{30 * time.Second, -10 * time.Second, time.Hour, -time.Hour, -2 * time.Hour, 3 * time.Hour, 365 * 24 * time.Hour, -800 * 24 * time.Hour,
		-50 * 365 * 24 * time.Hour, 80 * 365 * 24 * time.Hour, 59 * time.Second, 61 * time.Second, -time.Second} {
		// A clock set forward by so much is as times that are so much earlier.
		kept := s.Find(r.keyOf("/a"))
		if len(kept) != 1 {
			t.Fatalf("%v: %d are kept", jump, len(kept))
		}
		meta := kept[0].Meta.with(kept[0].Meta.Header.Clone())
		shift := func(at time.Time) time.Time { return at.Round(0).Add(-jump) }
		meta.Requested, meta.Received, meta.Until = shift(meta.Requested), shift(meta.Received), shift(meta.Until)
		meta.Header.Set("Date", meta.Received.UTC().Format(http.TimeFormat))
		if s.Renew(kept[0], meta.settled()) == nil {
			t.Fatal("not renewed")
		}
		r.Cache.Close()
		s = reopen(t, s, o)
		r = begin()
		fresh := jump >= 0 && jump < life
		before := asked
		res, body, trace := r.get("/a")
		r.idle()
		given, jumps = given+2, jumps+1
		if body != "hello" || fresh != (asked == before) || fresh != (trace.Result == Hit) {
			t.Errorf("%v: asked %d times, %+v", jump, asked-before, trace)
		}
		if age := res.Header.Get("Age"); fresh && age == "" || len(age) > 2 {
			t.Errorf("%v: Age %q", jump, age)
		}
		before = asked
		if _, body, trace := r.get("/a"); body != "hello" || trace.Result != Hit || asked != before {
			t.Errorf("%v: the next one: asked %d times, %+v", jump, asked-before, trace)
		}
		if fresh { // as if it had just come
			s.Purge(Match{}, false)
			r.get("/a")
			r.idle()
		}
	}
	t.Logf("%d jumps: %d pages given, each right; the origin was asked %d times, %d of them with a validator", jumps, given, asked, validated)
	if validated == 0 {
		t.Error("nothing was validated")
	}
	r.Cache.Close()
}
