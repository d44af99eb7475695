package outcome

import (
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics counts records for Prometheus. Labels come from the file and from
// fixed tables only, never from a client, so their number is bounded.
type Metrics struct {
	requests *prometheus.CounterVec
	failures *prometheus.CounterVec
	in, out  *prometheus.CounterVec
	link     *prometheus.CounterVec

	cached, cachedBytes, missed *prometheus.CounterVec // at an edge with a cache

	answered *prometheus.HistogramVec
	total    *prometheus.HistogramVec

	passed, passedBytes *prometheus.CounterVec // of sites that pass through

	connections *prometheus.CounterVec // of forwards, as are the next two
	forwarded   *prometheus.CounterVec
	dialled     *prometheus.HistogramVec

	mu   sync.RWMutex // guards seen
	seen map[seriesKey]*series
}

// seriesKey is what tells the series of one record from those of another.
type seriesKey struct {
	role, site, relay, via, method string
	status                         int
	cache, tier, why               string
}

// series are those that every record counts in: looking them up together costs
// a third of looking up each.
type series struct {
	requests, in, out prometheus.Counter
	linkIn, linkOut   prometheus.Counter // nil when no relay took the request
	cache, cacheOut   prometheus.Counter // nil where there is no cache
	missed            prometheus.Counter // nil for a hit
	answered, total   prometheus.Observer
}

// NewMetrics registers the request metrics with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	// 5 ms is a hit beside the client; 10 s is two lost packets on a bad line.
	buckets := []float64{.005, .01, .025, .05, .1, .2, .3, .5, .75, 1, 2, 5, 10, 30}
	m := &Metrics{
		seen: make(map[seriesKey]*series),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_requests_total", Help: "Requests ended, by site, role, method and status."},
			[]string{"role", "site", "method", "status"}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_request_failures_total", Help: "Requests that failed, by site, role and kind of failure."},
			[]string{"role", "site", "kind"}),
		in: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_request_body_bytes_total", Help: "Request body bytes received."},
			[]string{"role", "site"}),
		out: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_response_body_bytes_total", Help: "Response body bytes sent, as sent (compressed)."},
			[]string{"role", "site"}),
		link: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_link_body_bytes_total", Help: "Body bytes that crossed the link to and from a relay, as they crossed (compressed)."},
			[]string{"relay", "via", "site", "direction"}),
		cached: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_cache_requests_total", Help: "Requests ended, by what the cache did with them, and the tier of what was kept."},
			[]string{"site", "result", "tier"}),
		cachedBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_cache_body_bytes_total", Help: "Response body bytes sent to clients, by what the cache did with the request, and the tier of what was kept."},
			[]string{"site", "result", "tier"}),
		missed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_cache_misses_total", Help: "Requests that the cache could not answer by itself, by why."},
			[]string{"site", "why"}),
		answered: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "causeway_request_header_seconds", Help: "Seconds until the answer's header was in.", Buckets: buckets},
			[]string{"role", "site"}),
		total: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "causeway_request_seconds", Help: "Seconds until the last byte was handed on.", Buckets: buckets},
			[]string{"role", "site"}),
		passed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_passed_connections_total", Help: "Connections of sites that pass through that ended, by how."},
			[]string{"site", "end"}),
		passedBytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_passed_bytes_total", Help: "Bytes of connections of sites that pass through, as they move, in from clients and out to them."},
			[]string{"site", "direction"}),
		connections: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_forward_connections_total", Help: "Forwarded connections that ended, and connections that were refused, by how."},
			[]string{"forward", "end"}),
		forwarded: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "causeway_forward_bytes_total", Help: "Bytes of forwarded connections, as they move, in from clients and out to them."},
			[]string{"forward", "direction"}),
		dialled: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "causeway_forward_dial_seconds", Help: "Seconds that connecting to a target took, all tries together.", Buckets: buckets},
			[]string{"forward"}),
	}
	reg.MustRegister(m.passed, m.passedBytes, m.connections, m.forwarded, m.dialled)
	reg.MustRegister(m.cached, m.cachedBytes, m.missed)
	reg.MustRegister(m.requests, m.failures, m.in, m.out, m.link, m.answered, m.total)
	return m
}

// Emit counts rec.
func (m *Metrics) Emit(rec *Record) {
	of := m.seriesOf(rec)
	of.requests.Inc()
	of.in.Add(float64(rec.BytesIn))
	of.out.Add(float64(rec.BytesOut))
	if of.linkIn != nil {
		of.linkIn.Add(float64(rec.LinkIn))
		if of.cache == nil { // else EmitFetch counts: what is fetched need not be for one request
			of.linkOut.Add(float64(rec.LinkOut))
		}
	}
	if of.cache != nil {
		of.cache.Inc()
		of.cacheOut.Add(float64(rec.BytesOut))
	}
	if of.missed != nil {
		of.missed.Inc()
	}
	if rec.Answered > 0 {
		of.answered.Observe(rec.Answered.Seconds())
	}
	of.total.Observe(rec.Total.Seconds())
	if rec.Kind != OK {
		m.failures.WithLabelValues(rec.Role, rec.Site, kindLabel(rec.Kind)).Inc()
	}
}

// EmitFetch counts body bytes that an edge's cache fetched from a relay, for a
// request or to be kept.
func (m *Metrics) EmitFetch(site, relay, via string, bytes int64) {
	m.link.WithLabelValues(relay, via, site, "from").Add(float64(bytes))
}

// seriesOf finds or makes the series of rec. Their number is that of the
// labels, which is bounded.
func (m *Metrics) seriesOf(rec *Record) *series {
	key := seriesKey{rec.Role, rec.Site, rec.Relay, rec.Via, methodLabel(rec.Method), rec.Status, rec.Cache, rec.CacheTier, rec.CacheWhy}
	m.mu.RLock()
	of := m.seen[key]
	m.mu.RUnlock()
	if of != nil {
		return of
	}
	of = &series{
		requests: m.requests.WithLabelValues(key.role, key.site, key.method, strconv.Itoa(key.status)),
		in:       m.in.WithLabelValues(key.role, key.site),
		out:      m.out.WithLabelValues(key.role, key.site),
		answered: m.answered.WithLabelValues(key.role, key.site),
		total:    m.total.WithLabelValues(key.role, key.site),
	}
	if key.relay != "" {
		of.linkIn, of.linkOut = m.link.WithLabelValues(key.relay, key.via, key.site, "to"), m.link.WithLabelValues(key.relay, key.via, key.site, "from")
	}
	if key.cache != NoCache && key.cache != "" {
		of.cache, of.cacheOut = m.cached.WithLabelValues(key.site, key.cache, key.tier), m.cachedBytes.WithLabelValues(key.site, key.cache, key.tier)
		if key.why != "" {
			of.missed = m.missed.WithLabelValues(key.site, key.why)
		}
	}
	m.mu.Lock()
	m.seen[key] = of
	m.mu.Unlock()
	return of
}

// kindLabel keeps a peer on the link from inventing labels: a kind that is not
// in the table, of a newer node perhaps, is "other".
func kindLabel(kind Kind) string {
	if _, known := Table[kind]; known {
		return string(kind)
	}
	return "other"
}

// methodLabel keeps a client from inventing labels: the methods of RFC 9110
// §9.3 and PATCH (RFC 5789), everything else is "other".
func methodLabel(method string) string {
	switch method {
	case "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH":
		return method
	}
	return "other"
}
