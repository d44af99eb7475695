package daemon

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"causeway/admin"
	"causeway/link"
)

// What the links say of themselves goes two ways: to whoever asks the admin
// address (Links), and to Prometheus (linkCollector). Both look when they are
// asked.

// Links is the state of the node's links: at an edge the ways to its relays, at
// a relay the edges that dialled it.
func (d *Daemon) Links() admin.Links {
	links := admin.Links{Node: d.options.Node, Time: time.Now(), Paths: []admin.Path{}}
	paths := d.group.Load().State()
	bills := d.bills(links.Time, paths)
	for i, path := range paths {
		said := admin.Path{
			Relay: path.Relay, Via: path.Via, Prefer: path.Prefer, Weight: path.Weight, State: path.State, Why: path.Why,
			LatencyMS: admin.Milliseconds(path.Latency), InFlight: path.InFlight,
			Requests: path.Requests, Failures: path.Failures, Retries: path.Retries, Hedges: path.Hedges,
			Ejections: path.Ejections, Failovers: path.Failovers, Bill: &bills[i],
		}
		sayTotals(&said, path.Totals, path.Conns)
		links.Paths = append(links.Paths, said)
	}
	for _, caller := range d.callers.State() {
		said := admin.Path{Edge: caller.Edge, State: link.StateUp, InFlight: caller.InFlight, Requests: caller.Requests}
		if len(caller.Conns) == 0 {
			said.State, said.Why = link.StateDown, "it has no connection now: edges dial, so look there"
		}
		sayTotals(&said, caller.Totals, caller.Conns)
		links.Paths = append(links.Paths, said)
	}
	return links
}

// sayTotals adds what both ends have.
func sayTotals(said *admin.Path, totals link.Totals, conns []link.ConnState) {
	said.Opened, said.SentBytes, said.ReceivedBytes = totals.Connections, totals.Sent, totals.Received
	said.Segments, said.Retransmits, said.Lost = totals.Segments, totals.Retransmits, totals.Lost
	said.WindowLimitedMS = admin.Milliseconds(totals.WindowLimited)
	said.BufferLimitedMS = admin.Milliseconds(totals.BufferLimited)
	said.Connections = make([]admin.Connection, 0, len(conns))
	for _, conn := range conns {
		said.Connections = append(said.Connections, admin.Connection{
			Slot: conn.Slot, Local: conn.Local, Remote: conn.Remote, Since: conn.Since, Streams: conn.Streams, Bulk: conn.Bulk,
			SentBytes: conn.Sent, ReceivedBytes: conn.Received,
			PacedBytesPerSec: conn.Paced, Congestion: conn.Info.Congestion,
			RTTMS: admin.Milliseconds(conn.Info.RTT), MinRTTMS: admin.Milliseconds(conn.Info.MinRTT),
			Segments: conn.Info.Segments, Retransmits: conn.Info.Retransmits, Lost: conn.Info.Lost,
			WindowSegments: conn.Info.Cwnd, UnansweredSegments: conn.Info.Unacked, UnsentBytes: conn.Info.NotSent,
			DeliveryBytesPerSec: conn.Info.DeliveryRate,
			WindowLimitedMS:     admin.Milliseconds(conn.Info.WindowLimited), BufferLimitedMS: admin.Milliseconds(conn.Info.BufferLimited),
		})
	}
}

// linkCollector gives the links' metrics when asked. Labels come from the file,
// but for slot, which is below the most connections that a path may have.
type linkCollector struct {
	connections func() map[string]int
	paths       func() []link.PathState
	callers     func() []link.CallerState
}

// linkDesc describes a metric of a path, whose labels are the other node, the
// address dialled (at a relay "": edges dial it), and more.
func linkDesc(name, help string, more ...string) *prometheus.Desc {
	return prometheus.NewDesc("causeway_link_"+name, help, append([]string{"peer", "via"}, more...), nil)
}

var (
	linkUp = prometheus.NewDesc("causeway_link_connections", "Open connections to a relay.", []string{"relay"}, nil)

	pathState       = linkDesc("path_state", "1 for the state that the path is in, 0 for the others.", "state")
	pathLatency     = linkDesc("path_latency_seconds", "Round trip to the relay and back over HTTP/2, smoothed.")
	pathRequests    = linkDesc("path_requests_total", "Requests that went over the path, each try; at a relay those that came.")
	pathFailures    = linkDesc("path_failures_total", "Those that the path failed.")
	pathRetries     = linkDesc("path_retries_total", "Those that another connection or path had failed before.")
	pathHedges      = linkDesc("path_hedges_total", "Those that went beside a slow one.")
	pathEjections   = linkDesc("path_ejections_total", "Times that failures took the path out of the choice.")
	pathFailovers   = linkDesc("path_failovers_total", "Requests that went over a path of a greater prefer in place of this one.")
	pathOpened      = linkDesc("path_connections_opened_total", "Connections that were opened.")
	pathBytes       = linkDesc("path_bytes_total", "Bytes of TLS records.", "direction")
	pathSegments    = linkDesc("path_segments_total", "Segments of data that were sent, by TCP_INFO.")
	pathRetransmits = linkDesc("path_retransmits_total", "Segments that were sent again.")
	pathLost        = linkDesc("path_lost_total", "Segments that were sent again and had been lost.")
	pathStalled     = linkDesc("path_stalled_seconds_total", "Seconds that sending was held up, by the peer's window or the socket's buffer.", "by")
	pathCongestion  = linkDesc("path_congestion_control", "Open connections by their congestion control.", "control")

	connRTT      = linkDesc("connection_rtt_seconds", "Round trip as TCP measures it.", "slot")
	connStreams  = linkDesc("connection_streams", "Requests on the connection.", "slot")
	connUnsent   = linkDesc("connection_unsent_bytes", "Bytes that were written and not sent yet.", "slot")
	connDelivery = linkDesc("connection_delivery_bytes_per_second", "Rate at which data arrived, as lately measured.", "slot")
)

// Describe sends every description that Collect may use.
func (c *linkCollector) Describe(descs chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		linkUp, pathState, pathLatency, pathRequests, pathFailures, pathRetries, pathHedges, pathEjections, pathFailovers, pathOpened,
		pathBytes, pathSegments, pathRetransmits, pathLost, pathStalled, pathCongestion, connRTT, connStreams, connUnsent, connDelivery,
	} {
		descs <- desc
	}
}

// Collect looks at the links.
func (c *linkCollector) Collect(out chan<- prometheus.Metric) {
	for relay, up := range c.connections() {
		out <- prometheus.MustNewConstMetric(linkUp, prometheus.GaugeValue, float64(up), relay)
	}
	for _, path := range c.paths() {
		p := pathMetrics{out, []string{path.Relay, path.Via}}
		for _, state := range link.States {
			is := 0.0
			if state == path.State {
				is = 1
			}
			p.gauge(pathState, is, state)
		}
		if path.Latency > 0 {
			p.gauge(pathLatency, path.Latency.Seconds())
		}
		p.counter(pathRequests, float64(path.Requests))
		p.counter(pathFailures, float64(path.Failures))
		p.counter(pathRetries, float64(path.Retries))
		p.counter(pathHedges, float64(path.Hedges))
		p.counter(pathEjections, float64(path.Ejections))
		p.counter(pathFailovers, float64(path.Failovers))
		p.collect(path.Totals, path.Conns)
	}
	for _, caller := range c.callers() {
		p := pathMetrics{out, []string{caller.Edge, ""}}
		p.counter(pathRequests, float64(caller.Requests))
		p.collect(caller.Totals, caller.Conns)
	}
}

// pathMetrics sends the metrics of one path.
type pathMetrics struct {
	out    chan<- prometheus.Metric
	labels []string // peer and via
}

func (p pathMetrics) gauge(desc *prometheus.Desc, value float64, more ...string) {
	p.out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, p.with(more)...)
}

func (p pathMetrics) counter(desc *prometheus.Desc, value float64, more ...string) {
	p.out <- prometheus.MustNewConstMetric(desc, prometheus.CounterValue, value, p.with(more)...)
}

func (p pathMetrics) with(more []string) []string { return append(p.labels[:2:2], more...) }

// collect sends what both ends have. What only the kernel knows is left out
// where it does not say: a 0 would be a lie.
func (p pathMetrics) collect(totals link.Totals, conns []link.ConnState) {
	p.counter(pathOpened, float64(totals.Connections))
	p.counter(pathBytes, float64(totals.Sent), "sent")
	p.counter(pathBytes, float64(totals.Received), "received")
	if totals.Known {
		p.counter(pathSegments, float64(totals.Segments))
		p.counter(pathRetransmits, float64(totals.Retransmits))
		p.counter(pathLost, float64(totals.Lost))
		p.counter(pathStalled, totals.WindowLimited.Seconds(), "window")
		p.counter(pathStalled, totals.BufferLimited.Seconds(), "buffer")
	}
	controls := map[string]int{}
	for _, conn := range conns {
		slot := strconv.Itoa(conn.Slot)
		p.gauge(connStreams, float64(conn.Streams), slot)
		if !conn.Info.Known {
			continue
		}
		controls[conn.Info.Congestion]++
		p.gauge(connRTT, conn.Info.RTT.Seconds(), slot)
		p.gauge(connUnsent, float64(conn.Info.NotSent), slot)
		p.gauge(connDelivery, float64(conn.Info.DeliveryRate), slot)
	}
	for control, connections := range controls {
		p.gauge(pathCongestion, float64(connections), control)
	}
}
