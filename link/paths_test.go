package link_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"causeway/link"
	"causeway/outcome"
	"causeway/simnet"
)

// paths are several lines from one edge, each with a relay of its own at its end.
type paths struct {
	t       *testing.T
	pairs   []*pair
	members []link.Member
	group   *link.Group
	came    []*atomic.Int64 // requests at each relay
}

// newPaths makes a path for each member; handler answers for the relay of a
// number. One RTT is 200 ms.
func newPaths(t *testing.T, pki string, members []link.Member, handler func(relay int, w http.ResponseWriter, r *http.Request)) *paths {
	t.Helper()
	return newPathsOver(t, pki, func(int) time.Duration { return 200 * time.Millisecond }, members, handler)
}

// newPathsOver is newPaths over lines with these round trips.
func newPathsOver(t *testing.T, pki string, rtt func(path int) time.Duration, members []link.Member, handler func(relay int, w http.ResponseWriter, r *http.Request)) *paths {
	t.Helper()
	p := &paths{t: t}
	for i, m := range members {
		came := new(atomic.Int64)
		pair := newLine(t, pki, simnet.Line{RTT: rtt(i), Seed: uint64(i)})
		pair.relay = fmt.Sprintf("relay-%d", i+1)
		pair.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/healthz" { // TestCheck's own
				came.Add(1)
			}
			handler(i, w, r)
		}))
		pair.transport = pair.connect(pki, "edge-1")
		m.Transport = pair.transport
		p.pairs, p.members, p.came = append(p.pairs, pair), append(p.members, m), append(p.came, came)
	}
	p.group = link.NewGroup(p.members, 2*time.Second)
	for _, pair := range p.pairs {
		pair.warm()
	}
	return p
}

func (p *paths) close() {
	for _, pair := range p.pairs {
		pair.close()
	}
}

// states are the states of the paths.
func (p *paths) states() string {
	var list []string
	for _, s := range p.group.State() {
		list = append(list, s.State)
	}
	return strings.Join(list, " ")
}

// want wants the next n requests at the relays, so many at each.
func (p *paths) want(n int, at ...int64) {
	p.t.Helper()
	var before []int64
	for _, came := range p.came {
		before = append(before, came.Load())
	}
	for range n {
		if _, _, err := get(p.t, p.group, "/"); err != nil {
			p.t.Fatal(err)
		}
	}
	for i, came := range p.came {
		if got := came.Load() - before[i]; got != at[i] {
			p.t.Errorf("relay %d got %d of %d requests, want %d (%s)", i, got, n, at[i], p.states())
		}
	}
}

func hello(_ int, w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "hello") }

// The private line is cut without a word while requests are on it: what may be
// repeated goes on over the public one within two round trips and a second, a
// POST is sent once, and the private line is taken again when it has been well
// for a while.
func TestLineIsCut(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		var posts atomic.Int64
		p := newPaths(t, pki, []link.Member{{Prefer: 1}, {Prefer: 2}}, func(relay int, w http.ResponseWriter, r *http.Request) {
			if r.Method == http.MethodPost {
				posts.Add(1)
			}
			time.Sleep(100 * time.Millisecond)
			fmt.Fprint(w, relay)
		})
		defer p.close()
		p.want(5, 5, 0)

		var running sync.WaitGroup
		for range 20 {
			running.Go(func() {
				start := time.Now()
				_, body, err := get(t, p.group, "/")
				if took := time.Since(start); err != nil || body != "1" || took > 2*time.Second+200*time.Millisecond {
					t.Errorf("a GET took %v: %q %v", took, body, err)
				}
			})
		}
		running.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://example.cn/", strings.NewReader("a=1"))
			if err != nil {
				t.Error(err)
				return
			}
			if res, err := p.group.RoundTrip(req); err == nil {
				res.Body.Close()
				t.Error("a POST on a line that is cut has an answer")
			} else if kind := outcome.KindOf(err); kind != outcome.LinkCut {
				t.Errorf("a POST: %v", err)
			}
		})
		time.Sleep(50 * time.Millisecond) // they are on the line
		p.pairs[0].line.Cut(true)
		running.Wait()
		if n := posts.Load(); n > 1 {
			t.Errorf("the POST came %d times", n)
		}
		p.want(5, 0, 5)
		if states := p.states(); states != "down up" {
			t.Errorf("the paths are %s", states)
		}
		p.pairs[0].line.Cut(false)
		for p.states() == "down up" {
			time.Sleep(100 * time.Millisecond)
		}
		p.want(3, 0, 3) // it only just came back
		time.Sleep(15 * time.Second)
		p.want(5, 5, 0)
	})
}

// A dead connection is noticed within two round trips and a second, however long the
// line is; what is idempotent and has no body goes on, and what is not does not.
func TestSilenceIsNoticed(t *testing.T) {
	for _, rtt := range []time.Duration{2 * time.Millisecond, 50 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond} {
		inBubble(t, func(t *testing.T, pki string) {
			var posts atomic.Int64
			p := newPathsOver(t, pki, func(int) time.Duration { return rtt }, []link.Member{{Prefer: 1}, {Prefer: 2}}, func(relay int, w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					posts.Add(1)
				}
				fmt.Fprint(w, relay)
			})
			defer p.close()
			time.Sleep(10 * time.Second) // until round trips are known
			p.want(1, 1, 0)
			p.pairs[0].line.Cut(true)
			var running sync.WaitGroup
			for i, method := range []string{"GET", "DELETE", "PUT", "POST"} {
				running.Go(func() {
					time.Sleep(time.Duration(i) * 17 * time.Millisecond) // between the looks
					req, err := http.NewRequestWithContext(t.Context(), method, "https://example.cn/", nil)
					if err != nil {
						t.Error(err)
						return
					}
					start := time.Now()
					res, err := p.group.RoundTrip(req)
					took := time.Since(start)
					if err == nil {
						res.Body.Close()
					}
					if method == "POST" {
						if outcome.KindOf(err) != outcome.LinkCut {
							t.Errorf("a POST on a dead line: %v", err)
						}
					} else if err != nil || took > 3*rtt+time.Second {
						t.Errorf("round trip %v: a %s took %v: %v", rtt, method, took, err)
					}
				})
			}
			running.Wait()
			if n := posts.Load(); n > 0 {
				t.Errorf("the POST came %d times", n)
			}
		})
	}
}

// With one path alone nothing can go elsewhere: a request waits for the line to
// come back.
func TestOneLineIsCutForAMoment(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newPaths(t, pki, []link.Member{{}}, hello)
		defer p.close()
		time.AfterFunc(50*time.Millisecond, func() { p.pairs[0].line.Cut(true) })
		time.AfterFunc(4*time.Second, func() { p.pairs[0].line.Cut(false) })
		for range 2 {
			if _, body, err := get(t, p.group, "/"); err != nil || body != "hello" {
				t.Errorf("%q %v", body, err)
			}
		}
	})
}

// A line that falls silent has its connections given up, and new ones take as long as
// the line does. Those given up are there for who comes meanwhile, though they have
// delivered in a moment of the line's all that they were given.
func TestOneLineIsCutAndNobodyWaits(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newPaths(t, pki, []link.Member{{}}, hello)
		defer p.close()
		time.Sleep(10 * time.Second)
		p.pairs[0].line.Cut(true)
		for after, cut := range map[time.Duration]bool{2 * time.Second: false, 2250 * time.Millisecond: true, 7 * time.Second: false} {
			time.AfterFunc(after, func() { p.pairs[0].line.Cut(cut) })
		}
		ctx, cancel := context.WithTimeout(t.Context(), 1500*time.Millisecond)
		defer cancel()
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://example.cn/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.group.RoundTrip(req); err == nil {
			t.Fatal("an answer over a line that is cut")
		}
		time.Sleep(time.Second)
		if p.states() != "down" {
			t.Fatalf("the path is %s", p.states())
		}
		if _, body, err := get(t, p.group, "/"); err != nil || body != "hello" {
			t.Errorf("%q %v", body, err)
		}
	})
}

// An origin that takes its time is no reason to doubt the link.
func TestSlowOrigin(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newPaths(t, pki, []link.Member{{}, {}}, func(_ int, w http.ResponseWriter, r *http.Request) {
			time.Sleep(30 * time.Second)
		})
		defer p.close()
		if _, _, err := get(t, p.group, "/"); err != nil {
			t.Fatal(err)
		}
		if n := p.came[0].Load() + p.came[1].Load(); n != 1 || p.states() != "up up" {
			t.Errorf("%d requests, the paths are %s", n, p.states())
		}
	})
}

// Paths of one preference share the requests by weight, and by load where the
// weights are the same.
func TestShares(t *testing.T) {
	for _, first := range []time.Duration{200 * time.Millisecond, 180 * time.Millisecond, 300 * time.Millisecond} {
		inBubble(t, func(t *testing.T, pki string) {
			p := newPathsOver(t, pki, func(path int) time.Duration {
				if path == 0 {
					return first
				}
				return 200 * time.Millisecond
			}, []link.Member{{Weight: 9}, {Weight: 1}}, hello)
			defer p.close()
			const n = 1000
			for range n {
				if _, _, err := get(t, p.group, "/"); err != nil {
					t.Fatal(err)
				}
			}
			if share := float64(p.came[0].Load()) / n; math.Abs(share-0.9) > 0.05 {
				t.Errorf("the path of weight 9 of 10, over %v, got %v", first, share)
			}
		})
	}
	inBubble(t, func(t *testing.T, pki string) {
		p := newPaths(t, pki, []link.Member{{}, {}}, func(relay int, w http.ResponseWriter, r *http.Request) {
			if relay == 1 {
				time.Sleep(2 * time.Second)
			}
		})
		defer p.close()
		var running sync.WaitGroup
		for range 400 {
			running.Go(func() { _, _, _ = get(t, p.group, "/") })
			time.Sleep(10 * time.Millisecond)
		}
		running.Wait()
		if slow, fast := p.came[1].Load(), p.came[0].Load(); slow*4 > fast {
			t.Errorf("the slow relay got %d requests, the fast one %d", slow, fast)
		}
	})
}

// A relay that cuts every stream is ejected, asked again, and taken back little
// by little.
func TestEjection(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		var ill atomic.Bool
		ill.Store(true)
		p := newPaths(t, pki, []link.Member{{Prefer: 1}, {Prefer: 2}}, func(relay int, w http.ResponseWriter, r *http.Request) {
			if relay == 0 && ill.Load() {
				panic(http.ErrAbortHandler)
			}
		})
		defer p.close()
		for range 10 {
			if _, _, err := get(t, p.group, "/"); err != nil {
				t.Fatal(err)
			}
		}
		if n := p.came[0].Load(); n != 5 || p.states() != "ejected up" {
			t.Errorf("the ill relay got %d requests; %s", n, p.states())
		}
		ill.Store(false)
		time.Sleep(3500 * time.Millisecond) // it is back two to four seconds after its ejection, and settles for three
		if p.states() != "warming up" {
			t.Errorf("after its answers the paths are %s", p.states())
		}
		time.Sleep(15 * time.Second)
		p.want(5, 5, 0)
		if s := p.group.State()[0]; s.Ejections != 1 || s.Failures != 5 || s.State != link.StateUp {
			t.Errorf("%+v", s)
		}
	})
}

// A body that its client does not send to the end says nothing of the line.
func TestBrokenBodies(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newPaths(t, pki, []link.Member{{Prefer: 1}, {Prefer: 2}}, func(_ int, _ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
		})
		defer p.close()
		for _, broken := range []error{errors.New("invalid byte in chunk length"), outcome.Errorf(outcome.ClientSlow, "the body came too slowly")} {
			for range 10 {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://example.cn/", io.MultiReader(strings.NewReader("a part"), iotest.ErrReader(broken)))
				if err != nil {
					t.Fatal(err)
				}
				if res, err := p.group.RoundTrip(req); err == nil || !errors.Is(err, broken) || outcome.KindOf(err) == outcome.LinkCut {
					t.Errorf("%v, %v", res, err)
				}
			}
		}
		if s := p.group.State()[0]; s.Failures != 0 || s.Ejections != 0 || p.states() != "up up" {
			t.Errorf("%+v", s)
		}
		time.Sleep(time.Second) // the last of them come
		p.want(5, 5, 0)
	})
}

// A relay that cannot reach an origin is not asked for it while another can; the
// requests of other sites go on over it.
func TestOriginOutOfReach(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newPaths(t, pki, []link.Member{{Prefer: 1}, {Prefer: 2}}, func(relay int, w http.ResponseWriter, r *http.Request) {
			if relay == 0 && r.Host == "example.cn" {
				link.WriteError(w, outcome.Errorf(outcome.OriginDial, "dial origin: refused"))
			}
		})
		defer p.close()
		p.want(5, 1, 5)
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://other.cn/", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := p.group.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if n := p.came[0].Load(); n != 2 {
			t.Errorf("relay 0 got %d requests, want 2", n)
		}
		time.Sleep(3 * time.Second) // it is tried again after a while
		p.want(2, 1, 2)
	})
}

// Checks of an origin keep requests from a relay over which it is not well, and
// those of other sites go on.
func TestCheck(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		var ill atomic.Bool
		p := newPaths(t, pki, []link.Member{{Prefer: 1}, {Prefer: 2}}, func(relay int, w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/healthz" && relay == 0 && ill.Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		})
		defer p.close()
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		check := link.Check{Site: "shop", Host: "example.cn", Path: "/healthz", Every: 10 * time.Second, Timeout: 5 * time.Second}
		running.Go(func() {
			p.group.Check(ctx, []link.Check{check}, func(host string) string { return map[string]string{"example.cn": "shop"}[host] })
		})
		defer running.Wait()
		defer stop()
		time.Sleep(time.Minute)
		p.want(2, 2, 0)
		ill.Store(true)
		time.Sleep(30 * time.Second)
		p.want(2, 0, 2)
		if why := p.group.Unwell()["relay-1"]["shop"]; !strings.Contains(why, "503") {
			t.Errorf("why: %q", why)
		}
		ill.Store(false)
		time.Sleep(20 * time.Second)
		p.want(2, 2, 0)
	})
}

// Where no relay can reach the origin, each is asked once.
func TestOriginDown(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newPaths(t, pki, []link.Member{{}, {}}, func(_ int, w http.ResponseWriter, _ *http.Request) {
			link.WriteError(w, outcome.Errorf(outcome.OriginDial, "dial origin: refused"))
		})
		defer p.close()
		if _, _, err := get(t, p.group, "/"); outcome.KindOf(err) != outcome.OriginDial {
			t.Error(err)
		}
		if a, b := p.came[0].Load(), p.came[1].Load(); a != 1 || b != 1 {
			t.Errorf("%d and %d requests", a, b)
		}
	})
}

// A draining relay gets no more requests while another is there, and all of
// them when none is.
func TestDrain(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newPaths(t, pki, []link.Member{{Prefer: 1}, {Prefer: 2}}, hello)
		defer p.close()
		var draining atomic.Bool
		server := p.pairs[0].servers[0]
		server.Handler = link.Draining(server.Handler, draining.Load)
		draining.Store(true)
		p.want(3, 1, 2) // the first answer says so
		if p.states() != "draining up" {
			t.Error(p.states())
		}
		p.pairs[1].line.Cut(true)
		time.Sleep(20 * time.Second) // its pings end the connections
		p.want(2, 2, 0)
		p.pairs[1].line.Cut(false)
		time.Sleep(20 * time.Second)
		p.want(2, 0, 2)
		draining.Store(false)
		time.Sleep(10 * time.Second) // a probe hears it
		p.want(2, 2, 0)

		p.pairs[1].line.Cut(true)
		time.Sleep(20 * time.Second)
		p.pairs[1].line.Cut(false)
		for p.states() != "up warming" {
			time.Sleep(10 * time.Millisecond)
		}
		draining.Store(true)
		p.want(3, 1, 2) // one that just came back is better than one that is about to go
	})
}

// What fails is sent again within a budget: relays that cut everything are not
// asked four times as much.
func TestRetryBudget(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newPaths(t, pki, []link.Member{{}}, func(int, http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
		defer p.close()
		const n = 5000
		for range n {
			if _, _, err := get(t, p.group, "/"); outcome.KindOf(err) != outcome.LinkCut {
				t.Fatal(err)
			}
		}
		seconds := 0.2 * float64(p.came[0].Load())
		if most := n + int64(500+0.2*n+10*seconds); p.came[0].Load() > most {
			t.Errorf("%d requests for %d, at most %d", p.came[0].Load(), n, most)
		}
	})
}

// A slow answer is overtaken by the same over the other path.
func TestHedge(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		var stuck atomic.Bool
		var given atomic.Int64
		p := newPaths(t, pki, []link.Member{{Prefer: 1, Hedge: true}, {Prefer: 2}}, func(relay int, w http.ResponseWriter, r *http.Request) {
			if relay == 0 && stuck.Load() {
				<-r.Context().Done()
				given.Add(1)
				return
			}
			fmt.Fprint(w, relay)
		})
		defer p.close()
		p.want(40, 40, 0)
		stuck.Store(true)
		start := time.Now()
		if _, body, err := get(t, p.group, "/"); err != nil || body != "1" || time.Since(start) > 700*time.Millisecond {
			t.Errorf("%q %v after %v", body, err, time.Since(start))
		}
		time.Sleep(time.Second)
		if given.Load() != 1 {
			t.Error("the slow one was not given up")
		}
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://example.cn/", strings.NewReader("a"))
		if err != nil {
			t.Fatal(err)
		}
		before := p.came[1].Load()
		if _, err := p.group.RoundTrip(req); outcome.KindOf(err) != outcome.LinkSlow || p.came[1].Load() != before {
			t.Errorf("a POST is hedged: %v", err)
		}
		if s := p.group.State()[1]; s.Hedges != 1 {
			t.Errorf("%d hedges", s.Hedges)
		}
	})
}

// Short answers are kept off the connections that carry long ones, for which
// more connections are opened, and closed again.
func TestBulkIsKeptApart(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		release := make(chan struct{})
		p := newLine(t, pki, simnet.Line{RTT: 20 * time.Millisecond})
		defer p.close()
		addresses := make(map[string]int) // long bodies by connection
		var mu sync.Mutex
		var mixed atomic.Int64
		p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/short" {
				mu.Lock()
				defer mu.Unlock()
				if addresses[r.RemoteAddr] > 0 {
					mixed.Add(1)
				}
				return
			}
			mu.Lock()
			addresses[r.RemoteAddr]++
			mu.Unlock()
			_, _ = w.Write(bytes.Repeat([]byte("x"), 300<<10))
			_ = http.NewResponseController(w).Flush()
			<-release
		}))
		p.most = 12
		p.transport = p.connect(pki, "edge-1")
		p.warm()
		var long sync.WaitGroup
		for range 10 {
			long.Go(func() { _, _, _ = get(t, p.transport, "/long") })
			time.Sleep(time.Second)
			for range 10 {
				if _, _, err := get(t, p.transport, "/short"); err != nil {
					t.Fatal(err)
				}
			}
		}
		if n := mixed.Load(); n > 0 {
			t.Errorf("%d short answers waited behind long ones", n)
		}
		if up := p.transport.Up(); up != 12 { // as many as may be; 13 would leave the short ones their three
			t.Errorf("%d connections for 10 long bodies", up)
		}
		close(release)
		long.Wait()
		time.Sleep(2 * time.Minute)
		if up := p.transport.Up(); up != 3 {
			t.Errorf("%d connections are left", up)
		}
	})
}

// A long body takes none of the connections that short answers have.
func TestBulkTakesNoConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		release := make(chan struct{})
		p := newLine(t, pki, simnet.Line{RTT: 20 * time.Millisecond})
		defer p.close()
		p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write(bytes.Repeat([]byte("x"), 300<<10))
			_ = http.NewResponseController(w).Flush()
			<-release
		}))
		p.most = 12
		p.transport = p.connect(pki, "edge-1")
		p.warm()
		var long sync.WaitGroup
		for n := range 3 {
			long.Go(func() { _, _, _ = get(t, p.transport, "/long") })
			time.Sleep(time.Second)
			if up := p.transport.Up(); up != 3+n+1 {
				t.Errorf("%d connections for %d long bodies", up, n+1)
			}
		}
		close(release)
		long.Wait()
	})
}

// A new connection lets the kernels measure a long line, and not a short one.
func TestConnectionsGetAcquainted(t *testing.T) {
	for _, c := range []struct {
		rtt  time.Duration
		more bool
	}{{200 * time.Millisecond, true}, {2 * time.Millisecond, false}} {
		inBubble(t, func(t *testing.T, pki string) {
			p := newLine(t, pki, simnet.Line{RTT: c.rtt})
			defer p.close()
			p.serve(http.NotFoundHandler())
			p.transport = p.connect(pki, "edge-1")
			p.warm()
			group := link.NewGroup([]link.Member{{Prefer: 1, Weight: 1, Transport: p.transport}}, time.Second)
			before := group.State()[0].Totals
			time.Sleep(10*c.rtt + 100*time.Millisecond)
			after := group.State()[0].Totals
			sent, received := (after.Sent-before.Sent)/3, (after.Received-before.Received)/3
			t.Logf("%v: each connection sent %d bytes and received %d", c.rtt, sent, received)
			if (sent > 300) != c.more || (received > 300) != c.more || sent+received > 3000 {
				t.Errorf("%v: each new connection sent %d bytes and received %d", c.rtt, sent, received)
			}
		})
	}
}

// A connection is replaced when it is old, and its requests go on.
func TestConnectionsAge(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newLine(t, pki, simnet.Line{RTT: 20 * time.Millisecond})
		defer p.close()
		from := make(map[string]bool)
		release := make(chan struct{})
		p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			from[r.RemoteAddr] = true
			if r.URL.Path == "/long" {
				for {
					select {
					case <-release:
						_, _ = io.WriteString(w, "whole")
						return
					case <-time.After(10 * time.Second):
						_, _ = io.WriteString(w, ".")
						_ = http.NewResponseController(w).Flush()
					}
				}
			}
		}))
		p.transport = p.connect(pki, "edge-1")
		p.warm()
		got := make(chan string)
		go func() {
			_, body, err := get(t, p.transport, "/long")
			got <- fmt.Sprint(strings.TrimLeft(body, "."), err)
		}()
		time.Sleep(13 * time.Hour)
		for range 100 {
			if p.transport.Up() != 3 {
				t.Fatalf("%d connections are up", p.transport.Up())
			}
			if _, _, err := get(t, p.transport, "/"); err != nil {
				t.Fatal(err)
			}
		}
		if len(from) < 2 {
			t.Error("the connections of yesterday are in use")
		}
		close(release)
		if body := <-got; body != "whole<nil>" {
			t.Errorf("the long answer: %s", body)
		}
	})
}

// Visitors who do not take their downloads hold up nobody else on the connection.
func TestStalledDownloads(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newLine(t, pki, simnet.Line{RTT: 20 * time.Millisecond})
		defer p.close()
		p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/download" {
				_, _ = w.Write(make([]byte, 16<<20))
			}
			fmt.Fprint(w, "short")
		}))
		p.transport = p.connectTo(pki, "edge-1", "relay-1", 1)
		for p.transport.Up() < 1 {
			time.Sleep(10 * time.Millisecond)
		}
		for range 6 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://example.cn/download", nil)
			if err != nil {
				t.Fatal(err)
			}
			res, err := p.transport.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
		}
		time.Sleep(5 * time.Second)
		start := time.Now()
		if _, body, err := get(t, p.transport, "/short"); err != nil || body != "short" || time.Since(start) > time.Second {
			t.Errorf("a short answer took %v: %q %v", time.Since(start), body, err)
		}
	})
}

// An answer has so much under way as its edge allows: a window each round trip.
func TestBodyWindow(t *testing.T) {
	const length = 4 << 20
	for window, most := range map[int]time.Duration{0: 10, 128 << 10: length/(128<<10) + 10} { // 0 is 4 MiB, and ten round trips are TCP's
		inBubble(t, func(t *testing.T, pki string) {
			const rtt = 200 * time.Millisecond
			p := newLine(t, pki, simnet.Line{RTT: rtt})
			defer p.close()
			p.window = window
			p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = w.Write(make([]byte, length)) }))
			p.transport = p.connect(pki, "edge-1")
			p.warm()
			start := time.Now()
			if _, body, err := get(t, p.transport, "/"); err != nil || len(body) != length {
				t.Fatal(len(body), err)
			}
			if took := time.Since(start); took > most*rtt || took < (most-10)*rtt {
				t.Errorf("window %d: %d bytes took %v, and not %v to %v", window, length, took, (most-10)*rtt, most*rtt)
			}
		})
	}
}

// A request that may still send holds little at the edge while it does not: a raw
// stream or a WebSocket is one for hours.
func TestWaitingBodies(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newPair(t, pki, simnet.Line{RTT: 20 * time.Millisecond}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
		defer p.close()
		p.warm()
		const bodies = 200
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		var running sync.WaitGroup
		var ends []*io.PipeWriter
		for range bodies {
			body, end := io.Pipe()
			ends = append(ends, end)
			running.Go(func() {
				req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://example.cn/", body)
				if err != nil {
					t.Error(err)
					return
				}
				res, err := p.transport.RoundTrip(req)
				if err != nil {
					t.Error(err)
					return
				}
				res.Body.Close()
			})
		}
		time.Sleep(time.Second)
		runtime.GC()
		runtime.ReadMemStats(&after)
		for _, end := range ends {
			end.Close()
		}
		running.Wait()
		if each := (int64(after.HeapAlloc) - int64(before.HeapAlloc)) / bodies; each > 128<<10 {
			t.Errorf("each holds %d bytes, at both ends", each)
		}
	})
}
