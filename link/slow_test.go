package link_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"causeway/hop"
	"causeway/link"
	"causeway/outcome"
	"causeway/simnet"
)

// patient is how long the edge of newPair waits for its relay.
var patient = link.Waits{Answer: 40 * time.Second, Idle: 20 * time.Second, Stream: 10 * time.Minute}

// slowly is a request body of so many pieces with pauses between them.
type slowly struct {
	pieces, size int
	pause        time.Duration
}

func (s *slowly) Read(p []byte) (int, error) {
	time.Sleep(s.pause)
	if s.pieces == 0 {
		return 0, io.EOF
	}
	s.pieces--
	return copy(p, strings.Repeat("x", s.size)), nil
}

// A relay that takes a request and is silent ends it, however the request
// looks and wherever the relay stops. It hears that the request is over.
func TestSilentRelay(t *testing.T) {
	for name, c := range map[string]struct {
		method, upgrade string
		body            io.Reader
		answer          func(w http.ResponseWriter, r *http.Request) // and then nothing
		after           time.Duration                                // when the edge gives up
		got             string
	}{
		"no header":                  {method: "GET", after: 40 * time.Second},
		"no header for a form":       {method: "POST", body: strings.NewReader("a=1"), after: 40 * time.Second},
		"no header after an upload":  {method: "PUT", body: &slowly{pieces: 10, size: 100, pause: 30 * time.Second}, after: (11*30 + 40) * time.Second, answer: readAll},
		"a body that it never reads": {method: "PUT", body: &slowly{pieces: 6400, size: 16 << 10}, after: 40 * time.Second},
		"no answer to an upgrade":    {method: "GET", upgrade: "websocket", after: 40 * time.Second},
		"no header but hints": {method: "GET", after: 40 * time.Second, answer: func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
		}},
		"no body":     {method: "GET", after: 20 * time.Second, answer: say("")},
		"half a body": {method: "GET", after: 20 * time.Second, got: "half", answer: say("half")},
		"half a body of an event stream": {method: "GET", after: 10 * time.Minute, got: "data: 1", answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
			say("data: 1")(w, r)
		}},
		"half a body for a form": {method: "POST", body: strings.NewReader("a=1"), after: 20 * time.Second, got: "half", answer: say("half")},
		"half of why it failed": {method: "GET", after: 20 * time.Second, answer: func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set(hop.Prefix+"Error", string(outcome.LinkSlow))
			say("because")(w, r)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, pki string) {
				canceled := make(chan struct{})
				p := newPair(t, pki, simnet.Line{}, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if c.answer != nil {
						c.answer(w, r)
					}
					<-r.Context().Done()
					close(canceled)
				}))
				defer p.close()
				p.warm()
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				req, err := http.NewRequestWithContext(ctx, c.method, "https://example.cn/", c.body)
				if err != nil {
					t.Fatal(err)
				}
				if c.upgrade != "" {
					req.Header.Set("Connection", "Upgrade")
					req.Header.Set("Upgrade", c.upgrade)
				}
				begun := time.Now()
				group := link.NewGroup([]link.Member{{Prefer: 1, Transport: p.transport}}, time.Second)
				res, err := group.RoundTrip(req)
				var got []byte
				if err == nil {
					got, err = io.ReadAll(res.Body)
					res.Body.Close()
				}
				took := time.Since(begun).Round(time.Second)
				if outcome.KindOf(err) != outcome.LinkSlow || !strings.Contains(err.Error(), "relay-1") || string(got) != c.got || took != c.after {
					t.Errorf("%q, %v after %v, want %q, %v after %v", got, err, took, c.got, outcome.LinkSlow, c.after)
				}
				synctest.Wait()
				select {
				case <-canceled:
				default:
					t.Error("the relay does not know that the request is over")
				}
			})
		})
	}
}

func readAll(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }

func say(text string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
	}
}

// A relay that goes on, however slowly, is waited for; so is a client.
func TestSlowRelay(t *testing.T) {
	for name, c := range map[string]struct {
		body   io.Reader
		answer func(w http.ResponseWriter, r *http.Request)
	}{
		"an answer in pieces": {nil, func(w http.ResponseWriter, r *http.Request) {
			for range 100 {
				time.Sleep(19 * time.Second)
				say("x")(w, r)
			}
		}},
		"a header at the last moment": {nil, func(w http.ResponseWriter, r *http.Request) {
			time.Sleep(39 * time.Second)
			say("x")(w, r)
			time.Sleep(19 * time.Second)
		}},
		"a client that sends for an hour": {&slowly{pieces: 100, size: 10, pause: time.Minute}, readAll},
		"an origin that reads slowly": {&slowly{pieces: 16, size: 1 << 20}, func(w http.ResponseWriter, r *http.Request) {
			for {
				time.Sleep(10 * time.Second)
				if _, err := io.CopyN(io.Discard, r.Body, 1<<20); err != nil {
					return
				}
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, pki string) {
				p := newPair(t, pki, simnet.Line{}, http.HandlerFunc(c.answer))
				defer p.close()
				p.warm()
				req, err := http.NewRequestWithContext(t.Context(), "POST", "https://example.cn/", c.body)
				if err != nil {
					t.Fatal(err)
				}
				res, err := p.transport.RoundTrip(req)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				if _, err := io.Copy(io.Discard, res.Body); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// What a relay says late is not asked for again.
func TestSilentRelayIsAskedOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, pki string) {
		var asked atomic.Int32
		p := newPair(t, pki, simnet.Line{}, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			asked.Add(1)
			<-r.Context().Done()
		}))
		defer p.close()
		p.warm()
		group := link.NewGroup([]link.Member{{Prefer: 1, Transport: p.transport}}, time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		req, _ := http.NewRequestWithContext(ctx, "GET", "https://example.cn/", nil)
		if _, err := group.RoundTrip(req); errors.Is(err, context.DeadlineExceeded) || asked.Load() != 1 {
			t.Errorf("asked %d times, %v", asked.Load(), err)
		}
		if p.transport.Up() != 3 {
			t.Errorf("%d connections are left", p.transport.Up())
		}
	})
}
