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

// down is an origin of several hosts, each of which is well or not. What it answers is
// good for a second.
type down struct {
	waits map[string]time.Duration // how long a host is silent, before it has failed; a negative time is that it refuses at once
	say   int                      // the status with which all answer, if not 0
	asked map[string]int           // of hosts
	now   map[string]int           // under way
	most  map[string]int           // of now
	mu    sync.Mutex               // guards them
}

func newDown() *down {
	return &down{waits: map[string]time.Duration{}, asked: map[string]int{}, now: map[string]int{}, most: map[string]int{}}
}

func (o *down) set(host string, wait time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.waits[host] = wait
}

// count is how often a host was asked since it was counted last.
func (o *down) count(host string) int {
	o.mu.Lock()
	defer o.mu.Unlock()
	n := o.asked[host]
	o.asked[host] = 0
	return n
}

func (o *down) RoundTrip(req *http.Request) (*http.Response, error) {
	o.mu.Lock()
	wait, say := o.waits[req.Host], o.say
	o.asked[req.Host]++
	o.now[req.Host]++
	o.most[req.Host] = max(o.most[req.Host], o.now[req.Host])
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		o.now[req.Host]--
		o.mu.Unlock()
	}()
	if wait != 0 {
		select {
		case <-time.After(max(wait, 0)):
			return nil, errors.New("no answer")
		case <-req.Context().Done():
			return nil, context.Cause(req.Context())
		}
	}
	select {
	case <-time.After(200 * time.Millisecond):
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	if say != 0 {
		return text(say, "an error"), nil
	}
	control := "Cache-Control: max-age=1"
	switch req.URL.Path {
	case "/strict":
		control += ", must-revalidate"
	case "/while":
		control += ", stale-while-revalidate=3600"
	}
	return text(200, time.Now().Format(time.TimeOnly), control, `Etag: "`+time.Now().Format(time.TimeOnly)+`"`), nil
}

// taken is what a visitor got, and how long it took.
type taken struct {
	took  time.Duration
	trace Trace
	body  string
	err   error
}

// take sends a request and gives what came of it.
func (r *rig) take(method, url string, lines ...string) (got taken) {
	req := request(method, "/", lines...)
	req.URL, _ = req.URL.Parse(url)
	req.Host = req.URL.Host
	begun := time.Now()
	res, err := r.RoundTrip(req.WithContext(WithTrace(r.t.Context(), &got.trace)))
	if got.took, got.err = time.Since(begun), err; err == nil {
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		got.body = string(body)
	}
	return got
}

const shop = "https://example.cn"

// hush has pages kept of an origin that is silent, or refuses, from then on.
func hush(t *testing.T, wait time.Duration, pages int, f func(r *rig, o *down)) {
	t.Helper()
	o := newDown()
	bubble(t, Policy{Site: "shop", StaleIfError: 24 * time.Hour}, o, func(r *rig) {
		for page := range pages {
			r.take("GET", fmt.Sprintf("%s/%d", shop, page))
		}
		time.Sleep(time.Minute)
		o.set("example.cn", wait)
		o.count("example.cn")
		f(r, o)
	})
}

// TestHeadInAnOutage shows that a HEAD, and a GET with no-store, learn of an origin that
// fails what others saw, and others what they see.
func TestHeadInAnOutage(t *testing.T) {
	for _, kind := range []struct {
		method string
		lines  []string
	}{{"HEAD", nil}, {"GET", []string{"Cache-Control: no-store"}}} {
		hush(t, 20*time.Second, 3, func(r *rig, o *down) {
			expect := func(what string, got taken, took time.Duration, result Result) {
				t.Helper()
				if got.took != took || got.trace.Result != result || got.err != nil {
					t.Errorf("%s %v: %s: %+v", kind.method, kind.lines, what, got)
				}
			}
			expect("the first", r.take(kind.method, shop+"/0", kind.lines...), 20*time.Second, Stale)
			expect("a GET then", r.take("GET", shop+"/0"), 0, Stale)
			expect("of another page", r.take("GET", shop+"/1"), 0, Stale)
			for range 10 {
				expect("and the next", r.take(kind.method, shop+"/0", kind.lines...), 0, Stale)
				expect("of another page", r.take(kind.method, shop+"/2", kind.lines...), 0, Stale)
			}
			if n := o.count("example.cn"); n != 1 {
				t.Errorf("%s: the origin was asked %d times", kind.method, n)
			}
			time.Sleep(retryAfter + time.Second)
			o.set("example.cn", 0)
			reload := []string{"Cache-Control: max-age=0"}
			if kind.lines != nil {
				reload[0] += ", no-store"
			}
			expect("who reloads", r.take(kind.method, shop+"/0", reload...), 200*time.Millisecond, Uncacheable)
			if got := r.take("GET", shop+"/1"); got.trace.Result != Miss {
				t.Errorf("%s: it is well again: %+v", kind.method, got)
			}
		})
	}
}

// TestHeadsWaitTogether shows that HEADs that wait for an origin that falls silent are
// given what there is when one of them has seen that.
func TestHeadsWaitTogether(t *testing.T) {
	hush(t, 20*time.Second, 10, func(r *rig, o *down) {
		begun := time.Now()
		var all sync.WaitGroup
		for i := range 10 {
			all.Go(func() {
				if got := r.take("HEAD", fmt.Sprintf("%s/%d", shop, i)); got.trace.Result != Stale || got.err != nil {
					t.Errorf("%+v", got)
				}
			})
			time.Sleep(time.Second)
		}
		all.Wait()
		if took := time.Since(begun); took != 20*time.Second {
			t.Errorf("the last has it after %v", took)
		}
	})
}

// TestOneTries shows that while an origin is in trouble one request tries it, and who
// may have something stale does not wait for that; and that it is over with the first
// success.
func TestOneTries(t *testing.T) {
	const pages = 20
	reload := "Cache-Control: no-cache"
	hush(t, 60*time.Second, pages, func(r *rig, o *down) {
		visits := func(what string, waiting int, lines ...string) {
			t.Helper()
			var all sync.WaitGroup
			var waited atomic.Int64
			for range 3 {
				for page := range pages {
					all.Go(func() {
						got := r.take("GET", fmt.Sprintf("%s/%d", shop, page), lines...)
						if got.trace.Result != Stale || got.err != nil {
							t.Errorf("%s: %+v", what, got)
						}
						if got.took > 0 {
							waited.Add(1)
						}
					})
				}
			}
			all.Wait()
			if n := int(waited.Load()); n != waiting {
				t.Errorf("%s: %d waited, not %d", what, n, waiting)
			}
		}
		begun := time.Now()
		go r.take("GET", shop+"/0")
		time.Sleep(30 * time.Second)
		visits("it is not known yet", 3*pages)
		if took := time.Since(begun); took != 60*time.Second {
			t.Errorf("they waited until %v after it fell silent", took)
		}
		o.count("example.cn")
		visits("it is known", 0)
		time.Sleep(retryAfter + time.Second)
		visits("one tries, in the background", 0)
		if n := o.count("example.cn"); n != 1 {
			t.Errorf("the origin was asked %d times", n)
		}
		visits("while it is tried", 0)
		time.Sleep(retryAfter + time.Second)
		visits("who reloads", 1, reload)
		if n := o.count("example.cn"); n < 1 || n > 2 {
			t.Errorf("the origin was asked %d times", n)
		}
		time.Sleep(troubleFor + 2*time.Minute)
		go r.take("GET", shop+"/0")
		time.Sleep(time.Second)
		visits("the first in a long time tries", 0)
		o.count("example.cn")
		time.Sleep(2 * time.Minute)
		for range 120 {
			visits("an outage", 0)
			time.Sleep(time.Second)
		}
		if n := o.count("example.cn"); n > 24 {
			t.Errorf("the origin was asked %d times in two minutes", n)
		}
		o.set("example.cn", 0)
		o.count("example.cn")
		for range retryAfter/time.Second + 2 {
			r.take("GET", shop+"/3")
			time.Sleep(time.Second)
		}
		for page := range pages {
			if got := r.take("GET", fmt.Sprintf("%s/%d", shop, page)); got.trace.Result == Stale || got.err != nil {
				t.Errorf("it is well: %+v", got)
			}
		}
	})
}

// TestTrouble shows whose trouble an error is: the origin's, or a page's alone.
func TestTrouble(t *testing.T) {
	for _, test := range []struct {
		what  string
		wait  time.Duration
		say   int
		whole bool
	}{
		{"it refuses", -1, 0, true}, {"it is silent", time.Second, 0, true}, {"502", 0, 502, true}, {"503", 0, 503, true}, {"504", 0, 504, true}, {"500", 0, 500, false},
	} {
		hush(t, test.wait, 3, func(r *rig, o *down) {
			o.say = test.say
			r.take("GET", shop+"/0")
			if got := r.take("GET", shop+"/0"); got.took != 0 || got.trace.Result != Stale {
				t.Errorf("%s: %+v", test.what, got)
			}
			if got := r.take("GET", shop+"/1"); got.took == 0 != test.whole || got.trace.Result != Stale {
				t.Errorf("%s: another page: %+v", test.what, got)
			}
		})
	}
	o := newDown()
	bubble(t, Policy{Site: "shop", StaleIfError: 24 * time.Hour}, o, func(r *rig) { // one page is slow, the others are not
		r.take("GET", shop+"/slow")
		r.take("GET", shop+"/0")
		time.Sleep(time.Minute)
		o.set("example.cn", 20*time.Second)
		go r.take("GET", shop+"/slow")
		time.Sleep(time.Second)
		o.set("example.cn", 0)
		r.take("GET", shop+"/0")
		time.Sleep(time.Minute)
		if got := r.take("GET", shop+"/0"); got.trace.Result == Stale {
			t.Errorf("one page was slow: another: %+v", got)
		}
		if got := r.take("GET", shop+"/slow"); got.trace.Result != Stale {
			t.Errorf("one page was slow: %+v", got)
		}
	})
}

// TestSpared shows that what was to be given on an error is what there is by then: not
// what was purged, or is too old for it, while the origin was waited for.
func TestSpared(t *testing.T) {
	for _, method := range []string{"GET", "HEAD"} {
		hush(t, 20*time.Second, 1, func(r *rig, o *down) {
			got := make(chan taken, 2)
			go func() { got <- r.take(method, shop+"/0") }()
			time.Sleep(time.Second)
			r.Cache.Purge(Match{URL: shop + "/0"}, false)
			if got := <-got; got.err == nil {
				t.Errorf("%s: it was purged: %+v", method, got)
			}
		})
		hush(t, 20*time.Second, 1, func(r *rig, o *down) {
			time.Sleep(24*time.Hour - time.Minute - 10*time.Second) // ten seconds less than is allowed
			if got := r.take(method, shop+"/0"); got.err == nil {
				t.Errorf("%s: it was too old by then: %+v", method, got)
			}
		})
	}
}

// TestSilentStarvesNobody shows that an origin that is silent, with many pages to be
// asked for in the background, does not keep those of others from that.
func TestSilentStarvesNobody(t *testing.T) {
	const pages = 200
	o := newDown()
	bubble(t, Policy{Site: "shop", StaleWhileRevalidate: 24 * time.Hour}, o, func(r *rig) {
		for page := range pages {
			r.take("GET", fmt.Sprintf("https://silent.cn/%d", page))
			r.take("GET", fmt.Sprintf("https://silent2.cn/%d", page))
		}
		r.take("GET", shop+"/0")
		time.Sleep(time.Minute)
		o.set("silent.cn", 60*time.Second)
		o.set("silent2.cn", 60*time.Second)
		for round := range 20 { // before it is known, and then
			for page := range pages {
				r.take("GET", fmt.Sprintf("https://silent.cn/%d", page))
				r.take("GET", fmt.Sprintf("https://silent2.cn/%d", page))
			}
			synctest.Wait()
			if got := r.take("GET", shop+"/0"); got.took != 0 || got.trace.Result != Stale {
				t.Errorf("%d: %+v", round, got)
			}
			time.Sleep(300 * time.Millisecond)
			if got := r.take("GET", shop+"/0"); got.trace.Result != Hit {
				t.Errorf("%d: the page of the one that is well is not fetched: %+v", round, got)
			}
			time.Sleep(9700 * time.Millisecond)
		}
		if n := o.count("silent.cn") - pages; n > 64+200/5 {
			t.Errorf("the silent one was asked %d times", n)
		}
		if most := o.most["silent.cn"] + o.most["silent2.cn"]; most > 64 {
			t.Errorf("the silent ones were asked %d times at a time", most)
		}
	})
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
