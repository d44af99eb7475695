package link_test

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"causeway/conn"
	"causeway/hop"
	"causeway/link"
	"causeway/outcome"
	"causeway/simnet"
)

// opening is what a raw stream of a client begins with: who that is, and what it said.
func opening(t *testing.T, client, said string) []byte {
	t.Helper()
	header := conn.ProxyHeader{
		Source:      net.TCPAddrFromAddrPort(netip.MustParseAddrPort(client)),
		Destination: net.TCPAddrFromAddrPort(netip.MustParseAddrPort("198.51.100.1:443")),
	}
	first, err := header.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	return append(first, said...)
}

// answers serves the streams that come: each is told what it said, in capitals.
func answers(streams *link.Streams) {
	for {
		c, err := streams.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			said := make([]byte, 1000)
			for {
				n, err := c.Read(said)
				if err != nil {
					return
				}
				_, _ = c.Write([]byte(strings.ToUpper(string(said[:n]))))
			}
		}()
	}
}

// newStreams is a pair whose relay takes streams.
func newStreams(t *testing.T, pki string, rtt time.Duration) (*pair, *link.Streams) {
	streams := link.NewStreams()
	p := newLine(t, pki, simnet.Line{RTT: rtt})
	p.serve(streams.Handler(http.NotFoundHandler(), 1<<20, p.logger))
	p.transport = p.connect(pki, "edge-1")
	return p, streams
}

// A stream costs one round trip, to its first answer, once its connection has had one: then
// it costs one more.
func TestStreamsCostNoRoundTrip(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p, streams := newStreams(t, pki, 200*time.Millisecond)
		defer p.close()
		defer streams.Close()
		go answers(streams)
		p.warm()
		for n := range 9 {
			start := time.Now()
			stream, relay, err := link.OpenStream(t.Context(), p.transport, "example.cn", opening(t, "192.0.2.1:1000", "hello"))
			if err != nil || relay != "relay-1" {
				t.Fatalf("over %q: %v", relay, err)
			}
			took := time.Since(start)
			if want := 200 * time.Millisecond; n < 3 && took != 2*want || n >= 3 && took != want { // of three connections
				t.Errorf("stream %d took %v", n, took)
			}
			for _, word := range []string{"HELLO", "AGAIN"} {
				got := make([]byte, 5)
				if _, err := io.ReadFull(stream, got); err != nil || string(got) != word {
					t.Errorf("%q, %v", got, err)
				}
				if _, err := stream.Write([]byte("again")); err != nil {
					t.Error(err)
				}
			}
			defer stream.Close()
		}
	})
}

// A stream whose client has gone before anybody accepted it is let go; the next
// one is served, and says who its client is.
func TestStreamThatNobodyAccepts(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p, streams := newStreams(t, pki, 20*time.Millisecond)
		defer p.close()
		p.warm()
		ctx, cancel := context.WithCancel(t.Context())
		given := make(chan error)
		go func() {
			_, _, err := link.OpenStream(ctx, p.transport, "example.cn", opening(t, "192.0.2.1:1000", ""))
			given <- err
		}()
		time.Sleep(time.Second)
		cancel()
		if err := <-given; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		time.Sleep(time.Second)
		synctest.Wait()
		go func() {
			stream, _, err := link.OpenStream(t.Context(), p.transport, "example.cn", opening(t, "192.0.2.2:1000", ""))
			if err == nil {
				stream.Close()
			}
			given <- err
		}()
		time.Sleep(time.Second)
		accepted, err := streams.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer accepted.Close()
		if from := accepted.RemoteAddr().String(); from != "192.0.2.2:1000" {
			t.Errorf("accepted is the stream of %s", from)
		}
		if _, err := accepted.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if err := <-given; err != nil {
			t.Error(err)
		}
	})
}

// A relay that ends a stream before it said anything, or says nothing, is not the one: the
// failure says so, and has its kind.
func TestStreamsThatAreNotTaken(t *testing.T) {
	for name, c := range map[string]struct {
		does func(c net.Conn)
		kind outcome.Kind
		says string
	}{
		"closed": {func(c net.Conn) { c.Close() }, outcome.LinkCut, "ended the stream"},
		"silent": {func(net.Conn) {}, outcome.LinkCut, "said nothing for 5s"},
	} {
		inBubble(t, func(t *testing.T, pki string) {
			p, streams := newStreams(t, pki, 20*time.Millisecond)
			defer p.close()
			defer streams.Close()
			go func() {
				for {
					taken, err := streams.Accept()
					if err != nil {
						return
					}
					c.does(taken)
				}
			}()
			p.warm()
			_, _, err := link.OpenStream(t.Context(), p.transport, "example.cn", opening(t, "192.0.2.1:1000", "hello"))
			if outcome.KindOf(err) != c.kind || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// streamPaths are paths of two relays that take streams.
func streamPaths(t *testing.T, pki string) (*paths, [2]*link.Streams) {
	streams := [2]*link.Streams{link.NewStreams(), link.NewStreams()}
	p := newPaths(t, pki, []link.Member{{Prefer: 1}, {Prefer: 2}}, func(relay int, w http.ResponseWriter, r *http.Request) {
		streams[relay].Handler(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}), 1<<20, slog.New(slog.DiscardHandler)).ServeHTTP(w, r)
	})
	return p, streams
}

// Where a relay does not take a stream, stops, or its line falls silent before it has said
// anything, another one gets it, with what the client said.
func TestStreamsGoElsewhere(t *testing.T) {
	for name, fails := range map[string]func(p *paths, first *link.Streams){
		"it ends them": func(_ *paths, first *link.Streams) {
			go func() {
				for {
					c, err := first.Accept()
					if err != nil {
						return
					}
					c.Close()
				}
			}()
		},
		"it stops":           func(_ *paths, first *link.Streams) { first.Close() },
		"the line is silent": func(p *paths, _ *link.Streams) { p.pairs[0].line.Cut(true) },
		"the line breaks":    func(p *paths, _ *link.Streams) { p.pairs[0].servers[0].Close() },
	} {
		inBubble(t, func(t *testing.T, pki string) {
			p, streams := streamPaths(t, pki)
			defer p.close()
			defer streams[0].Close()
			defer streams[1].Close()
			go answers(streams[1])
			time.Sleep(10 * time.Second) // until round trips are known
			fails(p, streams[0])
			var running sync.WaitGroup
			for range 5 {
				running.Go(func() {
					start := time.Now()
					stream, relay, err := link.OpenStream(t.Context(), p.group, "example.cn", opening(t, "192.0.2.1:1000", "hello"))
					if took := time.Since(start); err != nil || relay != "relay-2" || took > 3*time.Second {
						t.Errorf("%s: by %q after %v: %v", name, relay, took, err)
						return
					}
					defer stream.Close()
					got := make([]byte, 5)
					if _, err := io.ReadFull(stream, got); err != nil || string(got) != "HELLO" {
						t.Errorf("%s: %q, %v", name, got, err)
					}
				})
			}
			running.Wait()
		})
	}
}

// A stream under way breaks off with its line: that is no end.
func TestStreamsBreak(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p, streams := newStreams(t, pki, 20*time.Millisecond)
		defer p.close()
		defer streams.Close()
		go answers(streams)
		p.warm()
		stream, _, err := link.OpenStream(t.Context(), p.transport, "example.cn", opening(t, "192.0.2.1:1000", "hello"))
		if err != nil {
			t.Fatal(err)
		}
		defer stream.Close()
		p.line.Cut(true)
		if got, err := io.ReadAll(stream); string(got) != "HELLO" || err == nil {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := stream.Write([]byte("x")); err == nil {
			t.Error("it takes more")
		}
	})
}

// Streams count as what is on a connection: a path with many is not taken for an idle one,
// they keep a connection that is old or drains open, and one that has only had some is free
// to go.
func TestStreamsCount(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p, streams := newStreams(t, pki, 20*time.Millisecond)
		defer p.close()
		defer streams.Close()
		go answers(streams)
		p.warm()
		group := link.NewGroup([]link.Member{{Transport: p.transport}}, time.Second)
		var open []net.Conn
		for range 30 {
			stream, _, err := link.OpenStream(t.Context(), group, "example.cn", opening(t, "192.0.2.1:1000", "hello"))
			if err != nil {
				t.Fatal(err)
			}
			open = append(open, stream)
		}
		state := group.State()[0]
		if state.InFlight != 30 || len(state.Conns) != 3 {
			t.Errorf("%d in flight over %d connections", state.InFlight, len(state.Conns))
		}
		for _, c := range state.Conns {
			if c.Streams != 10 {
				t.Errorf("%d streams on one of them", c.Streams)
			}
		}
		time.Sleep(13 * time.Hour) // the connections are old
		if conns := group.State()[0].Conns; len(conns) != 6 {
			t.Errorf("%d connections", len(conns))
		}
		for _, stream := range open {
			got := make([]byte, 10)
			if _, err := stream.Write([]byte("still")); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(stream, got); err != nil || string(got) != "HELLOSTILL" {
				t.Errorf("%q, %v", got, err)
			}
			stream.Close()
		}
		time.Sleep(10 * time.Second)
		if state := group.State()[0]; state.InFlight != 0 || len(state.Conns) != 3 {
			t.Errorf("%d in flight over %d connections", state.InFlight, len(state.Conns))
		}
	})
}

// A node that breaks the protocol of streams is told of, at either end, and the next stream
// has a new tunnel.
func TestStreamsOfAnotherTongue(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		var tongues atomic.Int32
		streams := link.NewStreams()
		defer streams.Close()
		go answers(streams)
		p := newLine(t, pki, simnet.Line{RTT: 20 * time.Millisecond})
		defer p.close()
		handler := streams.Handler(http.NotFoundHandler(), 1<<20, p.logger)
		p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if tongues.Add(1) > 1 {
				handler.ServeHTTP(w, r)
				return
			}
			far, ok := hop.TunnelEnd(w, r)
			if !ok {
				t.Error("no tunnel")
				return
			}
			_, _ = io.WriteString(far, "SSH-2.0-OpenSSH_9.2\r\n")
			_, _ = io.Copy(io.Discard, far)
		}))
		p.transport = p.connectTo(pki, "edge-1", "relay-1", 1)
		time.Sleep(time.Second)
		group := link.NewGroup([]link.Member{{Transport: p.transport}}, time.Second)
		stream, _, err := link.OpenStream(t.Context(), group, "example.cn", opening(t, "192.0.2.1:1000", "hello"))
		if err != nil {
			t.Fatal(err)
		}
		stream.Close()
		synctest.Wait()
		if log := p.log.String(); !strings.Contains(log, "relay broke the protocol of streams") {
			t.Errorf("the log: %s", log)
		}
	})
}

// A relay that knows nothing of streams is told from one that is not there.
func TestNoStreamsThere(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p := newPair(t, pki, simnet.Line{RTT: 20 * time.Millisecond}, http.NotFoundHandler())
		defer p.close()
		p.warm()
		group := link.NewGroup([]link.Member{{Transport: p.transport}}, time.Second)
		for range 10 {
			if _, _, err := link.OpenStream(t.Context(), group, "example.cn", opening(t, "192.0.2.1:1000", "hello")); outcome.KindOf(err) != outcome.LinkDown {
				t.Error(err)
			}
		}
		if state := group.State()[0]; state.State != link.StateUp { // other sites go on by it
			t.Errorf("the path is %s: %s", state.State, state.Why)
		}
		_, _, err := link.OpenStream(t.Context(), p.transport, "example.cn", opening(t, "192.0.2.1:1000", "hello"))
		if err == nil || !strings.Contains(err.Error(), "404 Not Found; is it of this version, and has it the file?") {
			t.Error(err)
		}
		time.Sleep(time.Second)
		if state := link.NewGroup([]link.Member{{Transport: p.transport}}, time.Second).State()[0]; state.InFlight != 0 {
			t.Errorf("%d are in flight", state.InFlight)
		}
	})
}

// Streams cross a path whose requests are hedged; they are not.
func TestStreamsAreNotHedged(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		p, streams := newStreams(t, pki, 20*time.Millisecond)
		defer p.close()
		defer streams.Close()
		go answers(streams)
		p.warm()
		group := link.NewGroup([]link.Member{{Hedge: true, Transport: p.transport}}, time.Second)
		for n := range 40 { // more than it takes to know how long they take
			stream, _, err := link.OpenStream(t.Context(), group, "example.cn", opening(t, "192.0.2.1:1000", "hello"))
			if err != nil {
				t.Fatalf("stream %d: %v", n, err)
			}
			stream.Close()
		}
	})
}

// A relay that stops lets streams end, does not wait for tunnels without any, and what is
// asked meanwhile goes elsewhere.
func TestStreamsWhileARelayStops(t *testing.T) {
	for name, busy := range map[string]bool{"idle tunnels": false, "streams": true} {
		inBubble(t, func(t *testing.T, pki string) {
			p, streams := streamPaths(t, pki)
			defer p.close()
			for i := range streams {
				defer streams[i].Close()
				go answers(streams[i])
			}
			var running sync.WaitGroup
			for range 6 {
				stream, _, err := link.OpenStream(t.Context(), p.group, "example.cn", opening(t, "192.0.2.1:1000", "hello"))
				if err != nil {
					t.Fatal(err)
				}
				running.Go(func() {
					defer stream.Close()
					got := make([]byte, 5)
					for n := 0; n < 10 && busy; n++ {
						if _, err := io.ReadFull(stream, got); err != nil {
							t.Errorf("%s: %v", name, err)
						}
						_, _ = io.WriteString(stream, "again")
						time.Sleep(time.Second)
					}
				})
			}
			time.Sleep(time.Second)
			start := time.Now()
			running.Go(func() {
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				defer cancel()
				if err := p.pairs[0].servers[0].Shutdown(ctx); err != nil || !busy && time.Since(start) > 3*time.Second {
					t.Errorf("%s: it stopped after %v: %v", name, time.Since(start), err)
				}
			})
			time.Sleep(500 * time.Millisecond)
			for range 5 {
				asked := time.Now()
				if _, _, err := get(t, p.group, "/"); err != nil || time.Since(asked) > time.Second {
					t.Errorf("%s: a request: after %v: %v", name, time.Since(asked), err)
				}
			}
			running.Wait()
		})
	}
}

// A tunnel that ends on a connection that takes no more requests breaks no answer of it.
func TestTunnelEndsBesideAnAnswer(t *testing.T) {
	pause := 3 * time.Second
	test := func(t *testing.T, pki string) {
		p := newLine(t, pki, simnet.Line{RTT: 20 * time.Millisecond})
		defer p.close()
		p.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, ok := hop.TunnelEnd(w, r); ok {
				time.Sleep(pause)
				return
			}
			_, _ = io.WriteString(w, "a long ")
			_ = http.NewResponseController(w).Flush()
			time.Sleep(5 * time.Second)
			_, _ = io.WriteString(w, "answer")
		}))
		p.transport = p.connectTo(pki, "edge-1", "relay-1", 1)
		time.Sleep(time.Second)
		var running sync.WaitGroup
		running.Go(func() {
			if _, _, err := link.OpenStream(t.Context(), p.transport, "example.cn", opening(t, "192.0.2.1:1000", "hello")); err == nil {
				t.Error("a stream is open")
			}
		})
		time.Sleep(time.Second)
		running.Go(func() {
			if _, body, err := get(t, p.transport, "/"); body != "a long answer" || err != nil {
				t.Errorf("%q %v", body, err)
			}
		})
		time.Sleep(time.Second / 2)
		running.Go(func() { _ = p.servers[0].Shutdown(t.Context()) })
		running.Wait()
	}
	for range 60 { // it is a matter of who comes first
		inBubble(t, test)
		pause += 7 * time.Millisecond
	}
}
