package main

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"causeway/admin"
)

// looks are what a node says at each look; an empty one is a node that is gone.
func looks(all ...admin.Links) func() (admin.Links, error) {
	return func() (admin.Links, error) {
		now := all[0]
		if len(all) > 1 {
			all = all[1:]
		}
		if now.Node == "" {
			return now, errors.New("links: is the node running?")
		}
		return now, nil
	}
}

func atEdge(second int, sent uint64) admin.Links {
	return admin.Links{Node: "shanghai-1", Time: time.Unix(int64(second), 0), Paths: []admin.Path{
		{Relay: "virginia-1", Via: "10.1.0.5:7443", Prefer: 1, State: "up", Requests: 1200, Failures: 2, Retries: 1,
			SentBytes: sent, ReceivedBytes: 50 * sent, Segments: 1000, Retransmits: 12,
			Connections: []admin.Connection{
				{Congestion: "bbr", RTTMS: 201.4, Streams: 2}, {Congestion: "bbr", RTTMS: 230.6}, {Streams: 1},
			}},
		{Relay: "virginia-1", Via: "203.0.113.7:7443", Prefer: 2, State: "down", LatencyMS: 250, Why: "dial relay virginia-1:\nrefused"},
	}}
}

func TestLinksTable(t *testing.T) {
	relay := admin.Links{Node: "virginia-1", Time: time.Unix(9, 0), Paths: []admin.Path{
		{Edge: "shanghai-1", State: "up", Requests: 7, Connections: []admin.Connection{{Congestion: "cubic", RTTMS: .24}}},
		{Edge: "shanghai-2", State: "down", Why: "it has no connection now"},
	}}
	restarted := atEdge(20, 10)
	for _, c := range []struct {
		what        string
		before, now admin.Links
		want        string
	}{
		{"an edge", atEdge(10, 1000), atEdge(12, 251_000), `
RELAY       VIA               PREFER  STATE  CONNS  RTT         RESENT      STREAMS  SENT        RECEIVED     REQUESTS  FAILED  RETRIED
virginia-1  10.1.0.5:7443     1       up     3      201–231 ms  12 (1.2 %)  3        1.0 Mbit/s  50.0 Mbit/s  1200      2       1
virginia-1  203.0.113.7:7443  2       down   0      -           -           0        0 bit/s     0 bit/s      0         0       0
virginia-1 via 203.0.113.7:7443: down: dial relay virginia-1: | refused
`},
		{"an edge that was restarted", atEdge(10, 1000), restarted, `
RELAY       VIA               PREFER  STATE  CONNS  RTT         RESENT      STREAMS  SENT     RECEIVED  REQUESTS  FAILED  RETRIED
virginia-1  10.1.0.5:7443     1       up     3      201–231 ms  12 (1.2 %)  3        -        -         1200      2       1
virginia-1  203.0.113.7:7443  2       down   0      -           -           0        0 bit/s  0 bit/s   0         0       0
virginia-1 via 203.0.113.7:7443: down: dial relay virginia-1: | refused
`},
		{"a relay, seen once", relay, relay, `
EDGE        STATE  CONNS  RTT     RESENT  STREAMS  SENT  RECEIVED  REQUESTS
shanghai-1  up     1      0.2 ms  -       0        -     -         7
shanghai-2  down   0      -       -       0        -     -         0
shanghai-2: down: it has no connection now
`},
		{"a relay that nobody dialled", admin.Links{}, admin.Links{Node: "virginia-1"}, `
this node has no links: no edge has dialled it yet
`},
		{"one process", admin.Links{}, admin.Links{}, `
this node has no links: it is edge and relay in one
`},
	} {
		if got := "\n" + linksTable(c.before, c.now); got != c.want {
			t.Errorf("%s: got%s", c.what, got)
		}
	}
}

// On a terminal the table is drawn over the one before, also while the node is
// restarted.
func TestWatchLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		var out strings.Builder
		if err := watchLinks(ctx, &out, looks(atEdge(0, 0), atEdge(1, 125_000), admin.Links{}, atEdge(3, 375_000))); err != nil {
			t.Fatal(err)
		}
		frames := strings.Split(out.String(), "\x1b[H")
		if len(frames) != 5 || frames[0] != "" {
			t.Fatalf("%d frames:\n%q", len(frames), frames)
		}
		for i, says := range []string{" -         1200 ", " 1.0 Mbit/s ", "is the node running?", " 1.0 Mbit/s "} {
			frame := frames[i+1]
			if !strings.Contains(frame, says) || !strings.Contains(frame, "virginia-1") || !strings.HasSuffix(frame, "\x1b[J") {
				t.Errorf("frame %d: %q", i+1, frame)
			}
			for line := range strings.Lines(strings.TrimSuffix(frame, "\x1b[J")) {
				if !strings.HasSuffix(line, "\x1b[K\n") {
					t.Errorf("frame %d leaves what was there before: %q", i+1, line)
				}
			}
		}
	})
}

// One look a second as a line of JSON, until it is over or the node is.
func TestPrintLinks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
		defer cancel()
		var out strings.Builder
		if err := printLinks(ctx, &out, looks(atEdge(0, 0)), true); err != nil || strings.Count(out.String(), "\n") != 3 {
			t.Errorf("%v: %s", err, &out)
		}
		if err := printLinks(t.Context(), &out, looks(atEdge(0, 0), admin.Links{}), true); err == nil {
			t.Error("it goes on without a node")
		}
	})
}
