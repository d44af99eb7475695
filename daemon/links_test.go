package daemon

import (
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"causeway/link"
)

// The links' metrics, of an edge with two ways and of a relay.
func TestLinkMetrics(t *testing.T) {
	known := link.SocketInfo{Known: true, Congestion: "bbr", RTT: 200 * time.Millisecond, NotSent: 7, DeliveryRate: 6_250_000}
	private := link.PathState{
		Relay: "virginia-1", Via: "10.1.0.5:7443", Prefer: 1, State: link.StateUp, Latency: 210 * time.Millisecond,
		Requests: 9, Failures: 3, Retries: 2, Hedges: 1, Ejections: 4, Failovers: 5,
		Conns: []link.ConnState{
			{Slot: 0, Streams: 2, Info: known},
			{Slot: 3, Streams: 1, Info: known},
		},
		Totals: link.Totals{Connections: 6, Sent: 1000, Received: 2000, Segments: 50, Retransmits: 4, Lost: 3,
			WindowLimited: time.Second, BufferLimited: 500 * time.Millisecond, Known: true},
	}
	public := link.PathState{Relay: "virginia-1", Via: "203.0.113.7:7443", Prefer: 2, State: link.StateDown, Why: "dial: refused"}
	collector := &linkCollector{
		connections: func() map[string]int { return map[string]int{"virginia-1": 2} },
		paths: func() []link.PathState {
			return []link.PathState{private, public}
		},
		callers: func() []link.CallerState {
			return []link.CallerState{{Edge: "shanghai-1", Requests: 8, Conns: []link.ConnState{{Streams: 1}}, Totals: link.Totals{Connections: 1}}}
		},
	}
	const want = `
causeway_link_connections{relay="virginia-1"} 2
causeway_link_path_state{peer="virginia-1",state="up",via="10.1.0.5:7443"} 1
causeway_link_path_state{peer="virginia-1",state="down",via="10.1.0.5:7443"} 0
causeway_link_path_state{peer="virginia-1",state="down",via="203.0.113.7:7443"} 1
causeway_link_path_latency_seconds{peer="virginia-1",via="10.1.0.5:7443"} 0.21
causeway_link_path_requests_total{peer="virginia-1",via="10.1.0.5:7443"} 9
causeway_link_path_requests_total{peer="shanghai-1",via=""} 8
causeway_link_path_failures_total{peer="virginia-1",via="10.1.0.5:7443"} 3
causeway_link_path_retries_total{peer="virginia-1",via="10.1.0.5:7443"} 2
causeway_link_path_hedges_total{peer="virginia-1",via="10.1.0.5:7443"} 1
causeway_link_path_ejections_total{peer="virginia-1",via="10.1.0.5:7443"} 4
causeway_link_path_failovers_total{peer="virginia-1",via="10.1.0.5:7443"} 5
causeway_link_path_connections_opened_total{peer="virginia-1",via="10.1.0.5:7443"} 6
causeway_link_path_bytes_total{direction="sent",peer="virginia-1",via="10.1.0.5:7443"} 1000
causeway_link_path_bytes_total{direction="received",peer="virginia-1",via="10.1.0.5:7443"} 2000
causeway_link_path_segments_total{peer="virginia-1",via="10.1.0.5:7443"} 50
causeway_link_path_retransmits_total{peer="virginia-1",via="10.1.0.5:7443"} 4
causeway_link_path_lost_total{peer="virginia-1",via="10.1.0.5:7443"} 3
causeway_link_path_stalled_seconds_total{by="window",peer="virginia-1",via="10.1.0.5:7443"} 1
causeway_link_path_stalled_seconds_total{by="buffer",peer="virginia-1",via="10.1.0.5:7443"} 0.5
causeway_link_path_congestion_control{control="bbr",peer="virginia-1",via="10.1.0.5:7443"} 2
causeway_link_connection_rtt_seconds{peer="virginia-1",slot="3",via="10.1.0.5:7443"} 0.2
causeway_link_connection_streams{peer="virginia-1",slot="0",via="10.1.0.5:7443"} 2
causeway_link_connection_streams{peer="shanghai-1",slot="0",via=""} 1
causeway_link_connection_unsent_bytes{peer="virginia-1",slot="0",via="10.1.0.5:7443"} 7
causeway_link_connection_delivery_bytes_per_second{peer="virginia-1",slot="0",via="10.1.0.5:7443"} 6.25e+06
`
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(collector)
	w := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	got := w.Body.String()
	for line := range strings.Lines(strings.TrimPrefix(want, "\n")) {
		if !strings.Contains(got, line) {
			t.Errorf("there is no %s", line)
		}
	}
	for _, lie := range []string{`retransmits_total{peer="shanghai-1"`, `rtt_seconds{peer="shanghai-1"`, `retransmits_total{peer="virginia-1",via="203.`} {
		if strings.Contains(got, lie) {
			t.Errorf("nobody said this: %s", lie)
		}
	}
	if t.Failed() {
		t.Logf("%s", got)
	}
}
