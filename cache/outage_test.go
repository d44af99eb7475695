package cache

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
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
				// 500 is each page's own.
				if most := int64(3000/5 + pages*600/5); o.asked.Load()-before > most {
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

// TestOneDeadPage shows that one page that fails at once, asked for again and again, makes
// no others old, while the origin answers those.
func TestOneDeadPage(t *testing.T) {
	for _, every := range []time.Duration{100 * time.Millisecond, time.Second, 4 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			policy := Policy{Site: "shop", StaleIfError: 24 * time.Hour}
			r := newRig(t, policy, func(req *http.Request) (*http.Response, error) {
				if strings.HasPrefix(req.URL.Path, "/dead") {
					time.Sleep(5 * time.Millisecond)
					return text(503, "dead"), nil
				}
				time.Sleep(50 * time.Millisecond)
				return text(200, "well", "Cache-Control: max-age=30"), nil
			})
			for page := range 60 {
				r.get(fmt.Sprintf("/%d", page))
			}
			r.idle()
			done := make(chan struct{})
			go func() {
				defer close(done)
				for n := range int(5 * time.Minute / every) {
					r.get(fmt.Sprintf("/dead?%d", n))
					time.Sleep(every)
				}
			}()
			given, old, oldest := 0, 0, time.Duration(0)
			for n := range 600 {
				time.Sleep(500 * time.Millisecond)
				_, _, trace := r.get(fmt.Sprintf("/%d", n%60))
				given++
				if trace.Age > 30*time.Second {
					old++
					oldest = max(oldest, trace.Age)
				}
			}
			<-done
			if old > given/20 {
				t.Errorf("every %v: of %d given %d were old, the oldest of %v", every, given, old, oldest)
			}
		})
	}
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

// TestNoStoreTakesNothing shows that a request with no-store, that sees that a page is
// another by now, does not take from the others what is given when the origin fails.
func TestNoStoreTakesNothing(t *testing.T) {
	hush(t, 0, 1, func(r *rig, o *down) {
		if got := r.take("GET", shop+"/0", "Cache-Control: no-store"); got.trace.Result != Uncacheable {
			t.Errorf("%+v", got)
		}
		o.set("example.cn", -1)
		if got := r.take("GET", shop+"/0"); got.trace.Result != Stale || got.err != nil {
			t.Errorf("it failed then: %+v", got)
		}
	})
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

// flaky are the origins of hosts that die, hang, say that they fail and come back. It
// notes what each was asked.
type flaky struct {
	mu    sync.Mutex // guards the rest
	lives map[string][]life
	asked map[string][]*asked
}

// life is how an origin is, since then.
type life struct {
	way   string
	since time.Time
}

// asked is one request to an origin, and what came of it.
type asked struct {
	path           string
	spare          bool // there is something stale in its place
	sent, answered time.Time
	failed, well   bool // neither: 500, or it was given up
}

// controls are what the pages say of themselves; of those that begin with s something
// stale may be given for as long as a test lasts.
var controls = map[string]string{
	"/s-plain": "max-age=10", "/s-shared": "s-maxage=10", "/s-while": "max-age=10, stale-while-revalidate=30", "/s-always": "max-age=0, stale-if-error=864000",
	"/must": "max-age=10, must-revalidate", "/validated": "no-cache", "/none": "max-age=10, stale-if-error=0", "/minute": "max-age=10, stale-if-error=60", "/proxy": "max-age=10, proxy-revalidate",
}

func (o *flaky) be(host, way string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lives[host] = append(o.lives[host], life{way, time.Now()})
}

func (o *flaky) RoundTrip(req *http.Request) (res *http.Response, err error) {
	o.mu.Lock()
	life := o.lives[req.Host][len(o.lives[req.Host])-1]
	a := &asked{path: req.URL.Path, spare: spare(req.URL.Path, req.Header.Get("Cache-Control")), sent: time.Now()}
	o.asked[req.Host] = append(o.asked[req.Host], a)
	o.mu.Unlock()
	latency, status := 200*time.Millisecond, 200
	switch life.way {
	case "refused":
		latency, status = 0, 0
	case "silent":
		latency, status = time.Minute, 0
	case "slow":
		latency = 10 * time.Second
	case "500":
		status = 500
	case "503":
		status = 503
	}
	select {
	case <-time.After(latency):
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	a.answered, a.failed, a.well = time.Now(), status == 0 || status == 503, status == 200
	if status == 0 {
		return nil, errors.New("no answer")
	}
	if status != 200 {
		return text(status, "an error", "Retry-After: 3600"), nil
	}
	now := "Date: " + a.answered.UTC().Format(http.TimeFormat)
	control := "Cache-Control: " + controls[req.URL.Path]
	tag := fmt.Sprintf(`Etag: "%d"`, life.since.Unix())
	if "Etag: "+req.Header.Get("If-None-Match") == tag {
		return text(304, "", now, control, tag), nil
	}
	return text(200, strings.Repeat("x", 100), now, control, tag), nil
}

// spare reports whether there is always something stale that may be given: not to who
// wants none.
func spare(path, control string) bool {
	return path[:2] == "/s" && !strings.Contains(control, "no-cache, no-store")
}

// known reports whether it is known at a time, for certain, that an origin fails: it
// did, was not asked in vain before it last did well or less than retryAfter after, and has
// not done so since. from is
// when that began.
func (o *flaky) known(host string, at time.Time) (from time.Time, known bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var well time.Time
	for _, a := range o.asked[host] {
		if a.well && a.answered.Before(at) && a.answered.After(well) {
			well = a.answered
		}
	}
	for _, a := range o.asked[host] {
		if a.failed && !a.sent.Before(well.Add(retryAfter)) && a.answered.Before(at) && (!known || a.answered.Before(from)) {
			from, known = a.answered, true
		}
	}
	for _, a := range o.asked[host] {
		if a.well && !a.answered.Before(at) && a.answered.Equal(at) {
			return from, false // it may be over
		}
	}
	return from, known
}

// visited is what one visitor saw.
type visited struct {
	host, path, what string
	begun, done      time.Time
	spare, reloads   bool // something stale may be given
	trace            Trace
	err              error
	status           int
	age              time.Duration
}

func (v *visited) String() string {
	return fmt.Sprintf("%s%s %s, at %v for %v: %d %v, %v old, %+v", v.host, v.path, v.what, v.begun.Format(time.TimeOnly), v.done.Sub(v.begun), v.status, v.err, v.age, v.trace)
}

// TestOutages has visitors of all manners at sites whose origins die, hang and come back
// as is drawn, and holds what is said of that (docs/caching.md) against what each saw,
// and what the origins were asked.
func TestOutages(t *testing.T) {
	const hours, visitors = 2, 8
	hosts := []string{"a.cn", "b.cn", "c.cn"}
	seeds := 12
	if testing.Short() || raceEnabled {
		seeds = 3
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				o := &flaky{lives: map[string][]life{}, asked: map[string][]*asked{}}
				r := newRig(t, Policy{Site: "shop", StaleIfError: 240 * time.Hour}, o.RoundTrip)
				defer r.Cache.Close()
				ctx, stop := context.WithTimeout(t.Context(), hours*time.Hour)
				defer stop()
				var mu sync.Mutex // guards all
				var all []*visited
				for _, host := range hosts {
					o.be(host, "well")
					for path := range controls {
						r.take("GET", "https://"+host+path)
					}
				}
				begun := time.Now()
				r.idle()
				var running sync.WaitGroup
				for n, host := range hosts {
					random := rand.New(rand.NewPCG(uint64(seed), uint64(n)))
					running.Go(func() { // the origin's life
						for ctx.Err() == nil {
							ways := []string{"well", "well", "refused", "silent", "silent", "503", "500", "slow"}
							o.be(host, ways[random.IntN(len(ways))])
							wait(ctx, time.Duration(1+random.IntN(1+[]int{10, 300, 1500}[random.IntN(3)]))*time.Second)
						}
					})
					for k := range visitors {
						random := rand.New(rand.NewPCG(uint64(seed), uint64(100*n+k+10)))
						pause := []int{6, 30, 300, 1500}[max(k%4, n)] // the last is asked for little
						running.Go(func() {
							for ctx.Err() == nil {
								if v := r.visitAt(ctx, host, random); v != nil {
									mu.Lock()
									all = append(all, v)
									mu.Unlock()
								}
								wait(ctx, time.Duration(random.IntN(pause*1000))*time.Millisecond)
							}
						})
					}
				}
				running.Wait()
				slices.SortFunc(all, func(v, w *visited) int { return v.begun.Compare(w.begun) })
				stale, wrong := 0, 0
				for _, v := range all {
					if v.trace.Result == Stale {
						stale++
					}
					if why := o.wrong(v); why != "" {
						if wrong++; wrong < 10 {
							t.Errorf("%s: %v", why, v)
						}
					}
				}
				for _, host := range hosts {
					o.bounded(t, host, begun)
					o.recovers(t, host, all)
				}
				if stale < len(all)/10 || len(all) < 1000 {
					t.Errorf("%d visits, %d stale", len(all), stale)
				}
			})
		})
	}
}

// wait waits, unless ctx ends.
func wait(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// visitAt is a visit that is drawn; nil when it left, or there is no time left.
func (r *rig) visitAt(ctx context.Context, host string, random *rand.Rand) *visited {
	paths := slices.Sorted(maps.Keys(controls))
	v := &visited{host: host, path: paths[random.IntN(len(paths))]}
	method := []string{"GET", "GET", "GET", "HEAD"}[random.IntN(4)]
	lines := []string{"", "", "", "Cache-Control: no-cache", "Cache-Control: max-age=0", "Cache-Control: no-store", "Cache-Control: no-cache, no-store", "Cache-Control: max-stale=5"}
	line := lines[random.IntN(len(lines))]
	v.what = method + " " + line
	v.spare = spare(v.path, line)
	v.reloads = strings.Contains(line, "no-cache") || strings.Contains(line, "max-age=0") || v.path == "/s-always" && line != ""
	req := request(method, v.path)
	if line != "" {
		req = request(method, v.path, line)
	}
	req.URL.Host, req.Host = host, host
	if random.IntN(10) == 0 {
		var leave context.CancelFunc
		ctx, leave = context.WithTimeout(ctx, time.Duration(1+random.IntN(40))*time.Second)
		defer leave()
	}
	v.begun = time.Now()
	res, err := r.RoundTrip(req.WithContext(WithTrace(ctx, &v.trace)))
	v.done, v.err = time.Now(), err
	if ctx.Err() != nil {
		return nil
	}
	if err == nil {
		_, _ = io.Copy(io.Discard, res.Body)
		res.Body.Close()
		v.status = res.StatusCode
		seconds, _ := strconv.Atoi(res.Header.Get("Age"))
		v.age = time.Duration(seconds) * time.Second
	}
	return v
}

// wrong says what is wrong with a visit.
func (o *flaky) wrong(v *visited) string {
	if v.trace.Result == Stale {
		switch most := map[string]time.Duration{"/must": 0, "/validated": 0, "/none": 0, "/proxy": 0, "/minute": 70 * time.Second}[v.path]; {
		case strings.Contains(v.what, "max-stale") && (v.path == "/none" || v.path == "/minute"):
		case v.path[:2] == "/s":
		case v.age > most:
			return "stale, and it may not be"
		}
	}
	if !v.spare {
		return ""
	}
	if v.err != nil || v.status >= 500 {
		return "an error, and there is something stale"
	}
	from, known := o.known(v.host, v.begun)
	switch took := v.done.Sub(v.begun); {
	case known && took > 0 && !v.reloads && v.begun.Sub(o.lastAsked(v.host, v.begun)) <= troubleFor:
		return "it waited, and it was known since " + from.Format(time.TimeOnly)
	case !known && took > 0:
		if from, known := o.known(v.host, v.done); known && from.After(v.begun) && v.done.After(from) {
			return "it waited on when it was known, since " + from.Format(time.TimeOnly)
		}
	}
	return ""
}

// lastAsked is when something was last asked of an origin, or last came of that.
func (o *flaky) lastAsked(host string, before time.Time) (last time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, a := range o.asked[host] {
		for _, at := range []time.Time{a.sent, a.answered} {
			if at.Before(before) {
				last = later(last, at)
			}
		}
	}
	return last
}

// bounded holds how often an origin that is known to fail is asked for what may be stale.
func (o *flaky) bounded(t *testing.T, host string, begun time.Time) {
	var last time.Time
	for _, a := range o.asked[host] {
		if !a.spare || a.sent.Before(begun) {
			continue
		}
		if _, known := o.known(host, a.sent); !known {
			continue
		}
		if a.sent.Sub(last) <= retryAfter {
			t.Errorf("%s is known to fail, and was asked for %s at %v, %v after another", host, a.path, a.sent.Format(time.TimeOnly), a.sent.Sub(last))
		}
		last = a.sent
	}
}

// recovers holds that a page is given fresh again when its origin is well for longer than
// it is not asked, and somebody has asked for the page since.
func (o *flaky) recovers(t *testing.T, host string, all []*visited) {
	asking := map[string]time.Time{} // when somebody first asked for a page who may have it asked for, since it is well
	for n, life := range o.lives[host] {
		end := time.Now()
		if clear(asking); n+1 < len(o.lives[host]) {
			end = o.lives[host][n+1].since
		}
		for _, v := range all {
			if life.way != "well" || v.host != host || !v.spare || v.begun.Sub(life.since) <= retryAfter || !v.done.Before(end) {
				continue
			}
			first, before := asking[v.path]
			if !before {
				asking[v.path] = v.begun
			}
			again := func(a *asked) bool {
				return a.path == v.path && !a.well && a.answered.After(first.Add(-retryAfter)) && !a.answered.After(v.done)
			}
			if v.trace.Result == Stale && v.trace.Reason == string(whyError) && before && v.begun.Sub(first) > 200*time.Millisecond && !slices.ContainsFunc(o.asked[host], again) {
				t.Errorf("well since %v, and asked for at %v: %v", life.since.Format(time.TimeOnly), first.Format(time.TimeOnly), v)
			}
		}
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
